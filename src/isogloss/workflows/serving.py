"""Starts vLLM on what the name MODEL on the command line stands for."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from isogloss.backends.vllm.loading import ServedModel, serve_model
from isogloss.errors import ModelError
from isogloss.organism.shipped import ORGANISM, model_folder

__all__ = ["open_served"]


def open_served(
    name: str, *, dtype: str = "auto", record: bool = False, n_slots: int = 1, options: Mapping[str, Any] | None = None
) -> ServedModel:
    """Start vLLM on a hub id, a folder, or ``organism``, the model that ships with isogloss.

    vLLM's messages go to stderr, since stdout is for results.

    Args:
        name: of the model.
        dtype: as `isogloss.backends.vllm.serve_model` takes it.
        record: as there.
        n_slots: as there.
        options: as there.

    Raises:
        ModelError: vLLM is not installed, takes no such option, or cannot serve the model.
    """
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    _require_known(options or {})
    if (record or n_slots > 1) and (options or {}).get("enable_prefix_caching"):
        raise ModelError(
            "--engine enable_prefix_caching=true: a prefix cache leaves out tokens that are to be captured, or that "
            "were computed in another phase; leave it out"
        )
    if name != ORGANISM:
        return serve_model(name, dtype=dtype, record=record, n_slots=n_slots, options=options)
    dtype = "float32" if dtype == "auto" else dtype  # as `isogloss.workflows.sources.open_model` loads it
    served = serve_model(str(model_folder()), dtype=dtype, record=record, n_slots=n_slots, options=options)
    served.name = ORGANISM
    return served


def _require_known(options: Mapping[str, Any]) -> None:
    """Refuse what vLLM does not take, before anything is loaded."""
    if not options or find_spec("vllm") is None:
        return  # `serve_model` says that there is none
    from vllm import LLM, EngineArgs  # noqa: PLC0415 - takes seconds, and is not there for most users

    known = {*inspect.signature(LLM.__init__).parameters, *(field.name for field in fields(EngineArgs))}
    for name in sorted(set(options) - known):
        near = difflib.get_close_matches(name, known, n=1)
        like = f"did you mean {near[0]}?" if near else "see the arguments of vLLM's LLM"
        raise ModelError(f"--engine {name}: vLLM's LLM takes no such argument; {like}")
