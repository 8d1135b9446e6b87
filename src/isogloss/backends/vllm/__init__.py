"""Runs models on vLLM, steered and recorded by the plugin of `isogloss.backends.vllm_plugin`."""

from __future__ import annotations

from isogloss.backends.vllm.loading import ServedModel, serve_model

__all__ = ["ServedModel", "serve_model"]
