"""Quantised checkpoints: whether they can be loaded here, and as floating point where transformers can make them so."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer, AutoQuantizationConfig

from isogloss.errors import ModelError

__all__ = ["dequantizing", "quantisation_of", "quantisation_text", "require_loader", "use_one_dtype"]


def quantisation_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """Return how a checkpoint is quantised, from its configuration or that of its text part; None where it is not.

    Empty where the configuration says so without saying how, which transformers takes for quantised, and fails.
    """
    parts = (config, config.get_text_config(decoder=True))
    found = [getattr(part, "quantization_config", None) for part in parts]
    return next(filter(None, found), found[0])


def quantisation_text(stored: dict[str, Any]) -> str:
    """Name the method of a checkpoint's ``quantization_config``, and its bits where it states them."""
    method, bits = str(stored.get("quant_method")), stored.get("bits") or stored.get("w_bit")
    bits = 4 if stored.get("load_in_4bit") else 8 if stored.get("load_in_8bit") else bits
    return f"{method}, {bits} bits" if bits else method


def require_loader(stored: dict[str, Any], name: str, *, dequantize: bool) -> None:
    """Refuse a quantised checkpoint that this machine cannot load, before any weight is fetched or read.

    Raises:
        ModelError: transformers does not know its method, or misses a package or a device for it, which it names.
    """
    if not stored or not AutoHfQuantizer.supports_quant_method(stored):
        known = ", ".join(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))
        raise ModelError(f"{name!r} is quantised by {stored.get('quant_method')!r}; transformers knows {known}")
    try:
        config = dequantizing(stored) if dequantize else AutoQuantizationConfig.from_dict(stored)
        AutoHfQuantizer.from_config(config, pre_quantized=True).validate_environment(device_map=None, weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # each method's own check raises what it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{name!r} is quantised ({quantisation_text(stored)}) and cannot be loaded here: {reason}"
        ) from error


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


def use_one_dtype(model: PreTrainedModel, dtype: str) -> None:
    """Give a dequantised model's parameters the dtype that was asked for, ``auto`` being the configuration's.

    transformers 5.23 leaves what was not quantised as it is stored, and dequantises to the dtype of the scales: with
    embeddings in bfloat16 and scales in float32 the first product fails. What a family keeps in float32, stays.
    """
    text = model.config.get_text_config()
    wanted = getattr(torch, dtype) if dtype != "auto" else text.dtype or model.dtype
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}  # noqa: SLF001 - no other name
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta and kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(wanted)
