"""Reads a checkpoint, and holds the loaded model with its routers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from isogloss.backends.configuration import generation_settings
from isogloss.backends.engine_model import EngineModel
from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.backends.huggingface.classes import ModelClass, class_of
from isogloss.backends.huggingface.devices import AUTO, Device, input_device, offload_folder, require_accelerate
from isogloss.backends.huggingface.discovery import Router, find_routers, refuse_known
from isogloss.backends.huggingface.quantisation import dequantizing, quantisation_of, require_loader, use_one_dtype
from isogloss.backends.huggingface.weights import hash_weights
from isogloss.backends.reading import Checkpoint, find_checkpoint, reading, require_embedded
from isogloss.errors import ModelError
from isogloss.organism.threads import torch_threads
from isogloss.routing import Fingerprint

__all__ = ["LoadedModel", "computing", "fingerprint_of", "read_checkpoint", "unwrapped"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_EXPECTED = "give a hub id, a folder with config.json, weights and tokenizer, or 'organism'"


class LoadedModel(EngineModel):
    """The state of a model that transformers runs in this process: what the functions of this package take.

    Attributes:
        model: in evaluation mode.
        router_modules: one per routed layer, by layer.
    """

    backend = "huggingface"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        threads: int | None = None,
        revision: str | None = None,
    ) -> None:
        """Find the routers of a model that is already loaded.

        Args:
            model: a causal or multimodal language model of transformers, perhaps with adapters of PEFT or compiled; it
                is put into evaluation mode.
            tokenizer: its tokenizer.
            name: under which it appears in files.
            threads: on which torch computes while a method runs; None for as many as the process has.
            revision: commit of the hub's repository; None for a folder.

        Raises:
            ModelError: the family is unknown, or the routers are not what its row says.
        """
        core = unwrapped(model)
        self.model, self._own_threads = model.eval(), threads
        self.router_modules = find_routers(core)
        specs = [router.spec for router in self.router_modules]
        super().__init__(name, tokenizer, model.config, self.router_modules[0].family, specs, revision=revision)

    @property
    def core(self) -> PreTrainedModel:
        """The class of transformers itself, inside what PEFT or `torch.compile` put around it."""
        return unwrapped(self.model)

    @property
    def decoder(self) -> torch.nn.Module:
        """The model without its language-model head, which routing does not need."""
        core: Any = self.core
        decoder: torch.nn.Module = core.base_model if core.base_model is not core else core.get_decoder()
        return decoder

    @property
    def device(self) -> torch.device:
        """Where input ids go."""
        return input_device(self.model)

    @property
    def dtype(self) -> str:
        """Of the weights, such as ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def threads(self) -> int | None:
        """On how many threads a processor runs it; None on other devices."""
        return (self._own_threads or torch.get_num_threads()) if self.device.type == "cpu" else None

    @property
    def hidden_size(self) -> int:
        """Width of the decoder stack's hidden states, which routers read."""
        size: int = self.config.get_text_config().hidden_size
        return size

    @property
    def router_parameters(self) -> dict[int, str]:
        """Decoder layer to the full name of its router's weight, as in the checkpoint that transformers writes."""
        names = {module: name for name, module in self.core.named_modules()}
        return {each.spec.layer: f"{names[each.module]}.{each.weight_name}" for each in self.router_modules}

    @property
    def extra_rows(self) -> dict[int, int]:
        """Decoder layer to the number of rows of its router's weight after those of the routed experts."""
        return {each.spec.layer: each.weight_shape[0] - each.spec.n_experts for each in self.router_modules}

    @property
    def fingerprint(self) -> Fingerprint:
        """What a plan or Run must agree with."""
        return fingerprint_of(self.router_modules)

    @property
    def weights_sha256(self) -> str | None:
        """Hash of values sampled from every tensor that the model holds now; see `hash_weights`."""
        return hash_weights(self.model)

    def generation_settings(self) -> dict[str, Any]:
        """Return the model's settings for generation that differ from the defaults of transformers."""
        return generation_settings(self.model.generation_config)

    def require_evaluation_mode(self) -> None:
        """Refuse training mode: dropout and jitter draw at random, which is no property of the model.

        Raises:
            ModelError: a part of the model is in training mode.
        """
        name = next((name for name, module in self.model.named_modules() if module.training), None)
        if name is not None:
            raise ModelError(
                f"{name or 'the model'} is in training mode, in which jitter and dropout change routing at random; "
                "expected evaluation mode: call model.eval()"
            )

    def require_own_routers(self) -> None:
        """Refuse a model that was changed after its routers were found, as by an adapter on them.

        Raises:
            ModelError: a router is no longer where it was.
        """
        modules = set(self.core.modules())
        for router in self.router_modules:
            if router.block not in modules or all(child is not router.module for child in router.block.children()):
                raise ModelError(
                    f"the router of layer {router.spec.layer} was replaced after the model was wrapped, perhaps by an "
                    "adapter on it; merge the adapter into the weights (merge_and_unload in PEFT) and wrap the model "
                    "again"
                )

    def own_threads(self) -> AbstractContextManager[None]:
        """Let torch compute on the model's own number of threads inside."""
        return torch_threads(self._own_threads)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute on the model's own number of threads, without gradients.

        Raises:
            ModelError: the model is in training mode or has other routers than at first, or ``torch.autocast`` is on.
        """
        self.require_own_routers()
        self.require_evaluation_mode()
        if torch.is_autocast_enabled(self.device.type):
            raise ModelError(
                "torch.autocast is on, which rounds what is measured; leave its context, or load the model in the "
                "dtype that is wanted"
            )
        with self.own_threads(), torch.inference_mode():
            yield


def fingerprint_of(routers: Sequence[Router]) -> Fingerprint:
    """Return the fingerprint of the routers of one model, by layer."""
    first = routers[0]
    return router_fingerprint(
        first.family.model_type,
        [router.spec.layer for router in routers],
        n_experts=first.spec.n_experts,
        top_k=first.spec.top_k,
        contents=(router_bytes(router.weight(), router.linear_bias(), router.selection_bias()) for router in routers),
    )


def unwrapped(model: Any) -> PreTrainedModel:  # noqa: ANN401 - whatever a user hands over
    """Return the class of transformers inside wrappers.

    Raises:
        ModelError: there is none.
    """
    if isinstance(model, PreTrainedModel):
        return model
    if isinstance(model, LoadedModel):
        return model.core
    if hasattr(model, "_orig_mod"):  # of torch.compile
        return unwrapped(model._orig_mod)  # noqa: SLF001 - torch has no other name for it
    if hasattr(model, "get_base_model"):  # of PEFT
        return unwrapped(model.get_base_model())
    raise ModelError(
        f"{type(model).__name__} is no model of transformers; give the model itself (inside DataParallel or the like: "
        "its .module)"
    )


def computing(
    function: Callable[Concatenate[LoadedModel, _Parameters], _Result],
) -> Callable[Concatenate[LoadedModel, _Parameters], _Result]:
    """Let a function compute on the model's own number of threads, without gradients."""

    @wraps(function)
    def run(loaded: LoadedModel, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with loaded._computing():  # noqa: SLF001 - of this module
            return function(loaded, *args, **kwargs)

    return run


def read_checkpoint(
    name: str, *, dtype: str, device: Device | None, dequantize: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Checkpoint]:
    """Load a model and its tokenizer from a folder or the hub; see `isogloss.backends.huggingface.model.load_model`."""
    with reading(name, expected=_EXPECTED):
        place = find_checkpoint(name)
        tokenizer = place.tokenizer()
        model = _load(place, dtype, device or ("cuda" if torch.cuda.is_available() else "cpu"), dequantize=dequantize)
    embeddings: Any = model.get_input_embeddings()
    require_embedded(tokenizer, len(embeddings.weight), name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return model, tokenizer, place


def _load(place: Checkpoint, dtype: str, device: Device, *, dequantize: bool) -> PreTrainedModel:
    """Load all weights onto the device, or devices, asked for."""
    name, config = place.source, place.config()
    refuse_known(config)
    chosen = class_of(config)
    options: dict[str, Any] = {"dtype": dtype, **place.options}
    stored = quantisation_of(config)
    if stored is not None:
        require_loader(stored, name, dequantize=dequantize)
    if stored and dequantize:
        options["quantization_config"] = dequantizing(stored)
    elif stored and isinstance(device, str) and device != AUTO:
        device = {"": device}  # quantised weights are made on their device and cannot be moved afterwards
    if isinstance(device, str) and device != AUTO:
        model = _read(name, chosen, options)
        return _move(model, device)
    require_accelerate(f"loading {name!r} quantised" if stored else f"device {device!r}")
    with offload_folder() as (folder, keep_with):
        options |= {"device_map": device if isinstance(device, str) else dict(device), "offload_folder": folder}
        model = _read(name, chosen, options)
        keep_with(model)
    return model


def _read(name: str, chosen: ModelClass, options: dict[str, Any]) -> PreTrainedModel:
    loading: Any = chosen.auto.from_pretrained(name, config=chosen.config, output_loading_info=True, **options)
    model: PreTrainedModel = loading[0]
    if missing := sorted(loading[1]["missing_keys"]):
        raise ModelError(
            f"model {name!r} lacks {len(missing)} weights, {missing[0]} first; transformers would draw them at random: "
            "fetch the checkpoint again"
        )
    if "quantization_config" in options:
        use_one_dtype(model, options["dtype"])
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
