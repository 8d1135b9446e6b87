"""A `Model` that transformers runs in this process."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.answers import answer_ids
from isogloss.backends.huggingface.capture import run_portion
from isogloss.backends.huggingface.change import measure_change
from isogloss.backends.huggingface.checks import (
    LogitsObserver,
    describe_family,
    largest_reach,
    try_capture,
    try_padding,
    write_watched,
)
from isogloss.backends.huggingface.devices import Device
from isogloss.backends.huggingface.estimate import estimate_capture, weight_bytes
from isogloss.backends.huggingface.likelihood import measure_likelihoods
from isogloss.backends.huggingface.loading import LoadedModel, read_checkpoint
from isogloss.backends.huggingface.padded_batches import reader_of
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.router_inputs import (
    probe_values,
    second_moments,
    share_obeying,
)
from isogloss.backends.huggingface.steer import steer
from isogloss.backends.huggingface.token_routing import route_texts, route_tokens
from isogloss.backends.huggingface.weights import bytes_by_dtype
from isogloss.backends.profiles import PortionRunner

__all__ = ["HuggingFaceModel", "load_model"]


class HuggingFaceModel(LoadedModel):
    """A model that transformers has loaded; its methods are the functions of this package."""

    prove = prove_routers
    steer = steer
    joint_log_likelihoods = measure_likelihoods
    change = measure_change
    route_tokens = route_tokens
    route_texts = route_texts
    second_moments = second_moments
    probe_values = probe_values
    share_obeying = share_obeying
    _reader = reader_of
    largest_reach = largest_reach
    _try_routers = describe_family
    _try_capture = try_capture
    _try_padding = try_padding
    _answer_ids = answer_ids
    _write = write_watched
    _estimate_capture = estimate_capture

    @property
    def held_bytes(self) -> dict[tuple[str, str], int]:
        """Bytes of weights in memory by part, ``experts`` or ``others``, and dtype."""
        return bytes_by_dtype(self.model)

    @property
    def summary(self) -> str:
        """Dtype, device, and size of the weights."""
        n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{self.dtype} on {self.device}, {n_parameters:,} parameters, "
            f"{weight_bytes(self) / 2**30:.3g} GiB of weights"
        )

    @property
    def _engine_version(self) -> str:
        return f"transformers {transformers.__version__}, torch {torch.__version__}"

    @property
    def _device_type(self) -> str:
        return self.device.type

    def _kernels(self) -> dict[str, Any]:
        return {name: str(getattr(self.config, f"_{name}_implementation", None)) for name in ("attn", "experts")}

    def _observer(self) -> LogitsObserver:
        return LogitsObserver(self)

    def _portion_runner(self, options: CaptureOptions) -> PortionRunner:
        return partial(run_portion, self, options=options)


def load_model(
    source: str,
    *,
    dtype: str = "auto",
    device: Device | None = None,
    dequantize: bool = False,
    name: str | None = None,
    threads: int | None = None,
) -> HuggingFaceModel:
    """Load a checkpoint from a folder or the hub.

    Args:
        source: hub id, with or without ``@REVISION``, or local folder.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: such as ``cpu`` or ``cuda:0``; by default a GPU where there is one. ``auto`` spreads the model over all
            GPUs, then memory, then disk (below the folder for temporary files); a mapping places modules by name.
        dequantize: turn quantised weights into floating point; weights that are stored so already stay as they are.
        name: under which it appears in files; None for the hub id or the folder's name.
        threads: on which torch computes while a method runs; None for as many as the process has.

    Raises:
        ModelError: the checkpoint cannot be found, read, placed or dequantised, or is no supported Mixture-of-Experts
            model.
    """
    model, tokenizer, place = read_checkpoint(source, dtype=dtype, device=device, dequantize=dequantize)
    return HuggingFaceModel(model, tokenizer, name=name or place.source, threads=threads, revision=place.revision)
