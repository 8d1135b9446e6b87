"""Quantised checkpoints: their weights as floating point, where transformers can make them so on load."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PretrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoQuantizationConfig

from isogloss.errors import ModelError

__all__ = ["dequantizing", "quantisation_of"]


def quantisation_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """Return how a checkpoint is quantised, from its configuration or that of its text part; None where it is not."""
    parts = (config, config.get_text_config(decoder=True))
    return next((stored for part in parts if (stored := getattr(part, "quantization_config", None))), None)


def dequantizing(stored: dict[str, Any]) -> Any:  # noqa: ANN401 - the configurations share no public base class
    """Return a checkpoint's ``quantization_config`` with transformers' own switch for dequantising on load set.

    Raises:
        ModelError: its method has no such switch, or is unknown to this version of transformers.
    """
    method = stored.get("quant_method")
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING or not _has_switch(method):
        able = ", ".join(sorted(filter(_has_switch, AUTO_QUANTIZATION_CONFIG_MAPPING)))
        raise ModelError(
            f"transformers cannot dequantise a checkpoint of method {method!r} on load; expected one of {able}: load "
            "it without dequantising, or fetch a checkpoint in 16 bits"
        )
    switched = AutoQuantizationConfig.from_dict(stored)
    switched.dequantize = True
    return switched


def _has_switch(method: str) -> bool:
    return "dequantize" in inspect.signature(AUTO_QUANTIZATION_CONFIG_MAPPING[method]).parameters
