"""The forms that `isogloss.backends.bake` writes, and where: apart, since help names them, and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from isogloss.steering import Kind

__all__ = ["FORMS", "PARTS", "Part"]

FORMS = MappingProxyType({"checkpoint": None, "peft": "PEFT", "vllm": "vLLM", "gguf-lora": "llama.cpp", "gguf": None})
"""Form -> what loads it beside the model; None for a whole model."""

Part: TypeAlias = Literal["weight", "logit bias", "selection bias"]
"""Of a router: what its input is multiplied with, what is added to that, and what is added to the scores it ranks."""

PARTS: Mapping[Kind, Part] = MappingProxyType({"offset": "logit bias", "select": "selection bias"})
"""Kind of intervention -> the part of a router that can hold it."""
