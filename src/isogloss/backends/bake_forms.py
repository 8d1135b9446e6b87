"""The forms that `isogloss.backends.bake` writes: by themselves, since help names them, and loads nothing."""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["FORMS"]

FORMS = MappingProxyType({"checkpoint": None, "peft": "PEFT", "vllm": "vLLM", "gguf-lora": "llama.cpp", "gguf": None})
"""Form -> what loads it beside the model; None for a whole model."""
