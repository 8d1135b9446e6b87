"""Loads a checkpoint and finds its routers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from isogloss.backends.configuration import config_sha256, revision_of
from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.backends.huggingface.devices import AUTO, Device, input_device, offload_folder, require_accelerate
from isogloss.backends.huggingface.discovery import family_of, find_routers
from isogloss.backends.huggingface.quantisation import dequantizing, quantisation_of
from isogloss.errors import ModelError
from isogloss.routing import Fingerprint

__all__ = ["LoadedModel", "load_model"]

_EXPECTED = "give a hub id, a folder with config.json, weights and tokenizer, or 'organism'"


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
            ModelError: the family is unknown, or the routers are not what its row says.
        """
        self.name, self.tokenizer = name, tokenizer
        self.model = model.eval()
        self.family = family_of(model)
        self.routers = find_routers(model, self.family)

    @property
    def decoder(self) -> torch.nn.Module:
        """The model without its language-model head, which routing does not need."""
        model: Any = self.model
        decoder: torch.nn.Module = model.base_model if model.base_model is not model else model.get_decoder()
        return decoder

    @property
    def device(self) -> torch.device:
        """Where input ids go."""
        return input_device(self.model)

    @property
    def revision(self) -> str | None:
        """The hub commit, where the checkpoint came from the hub."""
        return revision_of(self.model.config)

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, apart from what depends on where and how it was loaded."""
        return config_sha256(self.model.config)

    @property
    def dtype(self) -> str:
        """Of the weights, such as ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    def fingerprint(self) -> Fingerprint:
        """Return what a plan or Run must agree with."""
        first = self.routers[0].spec
        return router_fingerprint(
            self.family.model_type,
            [router.spec.layer for router in self.routers],
            n_experts=first.n_experts,
            top_k=first.top_k,
            contents=(router_bytes(router.weight(), router.linear_bias()) for router in self.routers),
        )


def load_model(
    name: str, *, dtype: str = "auto", device: Device | None = None, dequantize: bool = False
) -> LoadedModel:
    """Load a checkpoint from a folder or the hub.

    Args:
        name: hub id or local folder.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: such as ``cpu`` or ``cuda:0``; by default a GPU where there is one. ``auto`` spreads the model over all
            GPUs, then memory, then disk (below the folder for temporary files); a mapping places modules by name.
        dequantize: turn quantised weights into floating point; weights that are stored so already stay as they are.

    Raises:
        ModelError: the checkpoint cannot be found, read, placed or dequantised, or is no supported Mixture-of-Experts
            model.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ModelError(f"cannot load model {name!r}: the folder holds no config.json; {_EXPECTED}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = _load(name, dtype, device or ("cuda" if torch.cuda.is_available() else "cpu"), dequantize=dequantize)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        where = "the folder exists" if Path(name).exists() else "no such folder, and the hub did not give it"
        raise ModelError(
            f"cannot load model {name!r} ({where}): {str(error).strip().splitlines()[0]}; {_EXPECTED}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return LoadedModel(model, tokenizer, name=Path(name).resolve().name if Path(name).is_dir() else name)


def _load(name: str, dtype: str, device: Device, *, dequantize: bool) -> PreTrainedModel:
    """Load the weights, all of them, to where they shall be."""
    stored = quantisation_of(AutoConfig.from_pretrained(name))
    options: dict[str, Any] = {"dtype": dtype}
    if stored and dequantize:
        options["quantization_config"] = dequantizing(stored)
    elif stored and isinstance(device, str) and device != AUTO:
        device = {"": device}  # quantised weights are made on their device and cannot be moved afterwards
    if isinstance(device, str) and device != AUTO:
        return _move(_read(name, options), device)
    require_accelerate(f"loading {name!r} quantised" if stored else f"device {device!r}")
    with offload_folder() as (folder, keep_with):
        options |= {"device_map": device if isinstance(device, str) else dict(device), "offload_folder": folder}
        model = _read(name, options)
        keep_with(model)
    return model


def _read(name: str, options: dict[str, Any]) -> PreTrainedModel:
    found: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
    model: PreTrainedModel = found[0]
    if missing := sorted(found[1]["missing_keys"]):
        raise ModelError(
            f"model {name!r} lacks {len(missing)} weights, {missing[0]} first; transformers would draw them at random: "
            "fetch the checkpoint again"
        )
    return model


def _move(model: PreTrainedModel, device: str) -> PreTrainedModel:
    module: torch.nn.Module = model
    try:
        module.to(torch.device(device))
    except (AssertionError, RuntimeError) as error:
        raise ModelError(
            f"the model cannot be put on {device!r}: {str(error).strip().splitlines()[0]}; expected a device with room "
            "for it, such as cpu or cuda:0, or 'auto' to spread it over all"
        ) from error
    return model
