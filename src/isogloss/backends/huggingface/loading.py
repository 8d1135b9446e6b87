"""Loads a checkpoint and finds its routers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from isogloss.backends.families import FAMILIES, Family
from isogloss.errors import ModelError
from isogloss.routing import Fingerprint, RouterSpec

__all__ = ["LoadedModel", "Router", "load_model"]

# Of a configuration, what depends on where and how it was loaded and not on the model.
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


@dataclass(frozen=True)
class Router:
    """One router module and how it chooses."""

    module: torch.nn.Module
    spec: RouterSpec


class LoadedModel:
    """A causal language model with its tokenizer and its routers.

    Attributes:
        name: hub id, or the name of a local folder; never a path, so that manifests of several machines agree.
        model: in evaluation mode.
        tokenizer: pads on the left for generation; capture pads by itself.
        family: the row that describes its routers.
        routers: one per routed layer, by layer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
        """Find the routers of a model that is already loaded.

        Args:
            model: a transformers causal language model.
            tokenizer: its tokenizer.
            name: hub id or folder, for manifests.

        Raises:
            ModelError: the family is unknown, or the routers are not where its row says.
        """
        self.name, self.tokenizer = name, tokenizer
        self.model = model.eval()
        self.family = _family_of(model)
        self.routers = _find_routers(model, self.family)

    @property
    def revision(self) -> str | None:
        """The hub commit, where the checkpoint came from the hub."""
        return getattr(self.model.config, "_commit_hash", None)

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, apart from what depends on where and how it was loaded."""
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _VOLATILE}
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()

    def fingerprint(self) -> Fingerprint:
        """Return what a plan or Run must agree with."""
        digest = hashlib.sha256()
        for router in self.routers:
            weight: Any = router.module.weight
            digest.update(weight.detach().to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
        first = self.routers[0].spec
        layers = tuple(router.spec.layer for router in self.routers)
        model_type = self.family.model_type
        return Fingerprint(model_type, layers, first.n_experts, first.top_k, digest.hexdigest())


def load_model(name: str, *, dtype: str = "auto", device: str | None = None) -> LoadedModel:
    """Load a checkpoint from a folder or the hub.

    Args:
        name: hub id or local folder.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: such as ``cpu`` or ``cuda:0``; by default a GPU where there is one.

    Raises:
        ModelError: the checkpoint cannot be found or read, or is no supported Mixture-of-Experts model.
    """
    found: Any
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        found = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        where = "the folder exists" if Path(name).exists() else "no such folder, and the hub did not give it"
        raise ModelError(
            f"cannot load model {name!r} ({where}): {str(error).splitlines()[0]}; "
            "give a hub id, a folder with config.json, weights and tokenizer, or 'organism'"
        ) from error
    model, report = found
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"model {name!r} lacks {len(missing)} weights, {missing[0]} first; transformers would draw them at random: "
            "fetch the checkpoint again"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return LoadedModel(model, tokenizer, name=Path(name).resolve().name if Path(name).is_dir() else name)


def _family_of(model: PreTrainedModel) -> Family:
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise ModelError(f"model type {model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def _find_routers(model: PreTrainedModel, family: Family) -> tuple[Router, ...]:
    """Key every router by its decoder layer; dense layers have none."""
    found: list[Router] = []
    layers: Any = model.base_model.layers
    for layer, block in enumerate(layers):
        inside = [module for module in block.modules() if type(module).__name__ == family.router_class]
        if len(inside) > 1:
            raise ModelError(f"layer {layer} has {len(inside)} {family.router_class} modules; expected at most one")
        found += [Router(module, _spec_of(module, family, layer)) for module in inside]
    if not found:
        raise ModelError(f"no {family.router_class} in any layer: this {family.model_type} checkpoint is all dense")
    return tuple(found)


def _spec_of(module: Any, family: Family, layer: int) -> RouterSpec:  # noqa: ANN401 - attributes differ by family
    return RouterSpec(
        layer=layer,
        n_experts=module.weight.shape[0],
        top_k=module.top_k,
        scoring=family.scoring,
        renormalise=bool(getattr(module, family.renormalise)),
    )
