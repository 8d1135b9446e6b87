"""Opens a model by name: the one place that names a concrete backend.

To add one, write a class that is a `isogloss.backends.model.Model`, and add a row to ``_BACKENDS``.
"""
# ruff: noqa: PLC0415 - backends are imported when one is asked for: they take seconds, and may not be installed

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from isogloss.errors import ModelError

if TYPE_CHECKING:
    from isogloss.backends.model import Model

__all__ = ["BACKENDS", "checks_of", "import_backend", "load", "refuse_unsupported"]


@dataclass(frozen=True)
class _Options:
    """How a model is loaded; see `load`.

    Attributes:
        name: under which the model appears in files; None for its own.
        threads: on which a processor runs it; None for as many as the process has.
    """

    dtype: str
    device: str | None
    dequantize: bool
    engine: Mapping[str, Any]
    name: str | None = None
    threads: int | None = None


class _Opener(Protocol):
    def __call__(self, source: str, options: _Options) -> Model:
        """Load a hub id or a folder."""


@dataclass(frozen=True)
class _Backend:
    """How a backend is reached.

    Attributes:
        module: that of its `Model`.
        open: loads a model.
        checks: those of `isogloss doctor` that it has, in order.
        refused: name of what it cannot do -> what to do instead, as `refuse_unsupported` says it.
    """

    module: str
    open: _Opener
    checks: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


def _open_huggingface(source: str, options: _Options) -> Model:
    from isogloss.backends.huggingface.loading import load_model
    from isogloss.backends.huggingface.model import HuggingFaceModel

    loaded = load_model(source, dtype=options.dtype, device=options.device, dequantize=options.dequantize)
    return HuggingFaceModel(loaded, name=options.name, threads=options.threads)


def _open_vllm(source: str, options: _Options) -> Model:
    from isogloss.backends.vllm.loading import MODEL_SLOTS, serve_model
    from isogloss.backends.vllm.model import VLLMModel

    served = serve_model(source, dtype=options.dtype, record=True, n_slots=MODEL_SLOTS, options=options.engine)
    return VLLMModel(served, name=options.name)


_BACKENDS = {
    "huggingface": _Backend(
        "isogloss.backends.huggingface.model",
        _open_huggingface,
        ("routers", "capture", "padding", "steering", "estimate"),
        {"engine": "--engine has no meaning for --backend huggingface; only vLLM takes it: give --backend vllm"},
    ),
    "vllm": _Backend(
        "isogloss.backends.vllm.model",
        _open_vllm,
        ("routers", "capture", "steering"),
        {
            "device": "--device has no meaning for --backend vllm; give --engine tensor_parallel_size=N",
            "dequantize": "--dequantize has no meaning for --backend vllm; leave it out",
            "hidden_states": "hidden states are captured by --backend huggingface alone: vLLM hands the plugin the "
            "logits of its routers, not what they read; leave --hidden-states out",
            "corpus": "--corpus: how long a capture takes is not estimated for --backend vllm; leave it out",
        },
    ),
}

BACKENDS = tuple(_BACKENDS)
"""Names of what can run a model, the default first."""


def load(
    name: str,
    *,
    backend: str = BACKENDS[0],
    dtype: str = "auto",
    device: str | None = None,
    dequantize: bool = False,
    engine: Mapping[str, Any] | None = None,
) -> Model:
    """Load a model so that it can be captured, steered by any plan, and evaluated.

    The organism computes in float32 unless told otherwise: faster on a processor than the bfloat16 that it is stored in
    to be small. Its methods run on one thread, since its products are too small to share: waiting threads that sleep
    make them slower, and threads that spin stall on a busy machine.

    Args:
        name: hub id, folder, or ``organism``, the model that ships with isogloss.
        backend: one of `BACKENDS`.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: huggingface: such as ``cpu`` or ``cuda:0``; by default a GPU where there is one. ``auto`` spreads the
            model over all GPUs, then memory, then disk.
        dequantize: huggingface: turn quantised weights into floating point.
        engine: vllm: arguments of vLLM's ``LLM``, such as ``tensor_parallel_size``.

    Raises:
        ModelError: the model cannot be loaded or is not supported, the backend is unknown or not installed, or an
            option has no meaning for it.
    """
    from isogloss.organism.shipped import ORGANISM, model_folder

    refuse_unsupported(backend, device=device, dequantize=dequantize, engine=engine)
    opener, engine = _BACKENDS[backend].open, engine or {}
    if name != ORGANISM:
        return opener(name, _Options(dtype, device, dequantize, engine))
    dtype = "float32" if dtype == "auto" else dtype
    return opener(str(model_folder()), _Options(dtype, device, dequantize, engine, name=ORGANISM, threads=1))


def refuse_unsupported(backend: str, **asked: object) -> None:
    """Refuse what a backend cannot do, before anything is loaded.

    Args:
        backend: one of `BACKENDS`.
        **asked: what is asked for, by name: ``device``, ``dequantize``, ``engine``, ``hidden_states``, or ``corpus``
            (to estimate its capture). What is False, None or empty is not asked for.

    Raises:
        ModelError: says what to do instead.
    """
    if backend not in _BACKENDS:
        raise ModelError(f"there is no backend {backend!r}; choose {' or '.join(BACKENDS)}")
    for name, value in asked.items():
        if value and (instead := _BACKENDS[backend].refused.get(name)):
            raise ModelError(instead)


def import_backend(backend: str) -> None:
    """Import a backend, which takes seconds, so that the time of loading a model can be measured apart."""
    import_module(_BACKENDS[backend].module)


def checks_of(backend: str, *, with_plan: bool) -> tuple[str, ...]:
    """Name the checks of `isogloss doctor` that a backend has, in order; a plan to try stands in for our own trial."""
    checks = _BACKENDS[backend].checks
    return tuple("plan" if with_plan and name == "steering" else name for name in checks)
