"""Which class of transformers loads a checkpoint: a causal language model, or a multimodal one that holds it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

__all__ = ["ModelClass", "class_of"]

_MAPPINGS: tuple[tuple[Any, Any], ...] = (
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING),
)


class ModelClass(NamedTuple):
    """What reads or builds a model that takes texts.

    Attributes:
        auto: class of transformers that has ``from_pretrained`` and ``from_config``.
        config: of the checkpoint, or of that part of it which is loaded.
    """

    auto: Any
    config: PretrainedConfig


def class_of(config: PretrainedConfig) -> ModelClass:
    """Choose the class: a causal language model where there is one, else a multimodal model.

    Where transformers has both, the first loads the text part of a multimodal checkpoint alone. A model that is several
    models without a forward pass of its own, such as one that listens and one that speaks, is loaded as that part which
    reads texts.
    """
    for auto, mapping in _MAPPINGS:
        if type(config) not in mapping:
            continue
        if mapping[type(config)].forward is not torch.nn.Module.forward:
            return ModelClass(auto, config)
        parts: list[Any] = [getattr(config, name, None) for name in config.sub_configs]
        part = next(part for part in parts if type(part) in mapping)
        if (stored := getattr(config, "quantization_config", None)) is not None:
            part.quantization_config = stored
        return ModelClass(auto, part)
    return ModelClass(AutoModelForCausalLM, config)  # which says what it expects
