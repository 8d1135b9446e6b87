"""Opens a model by name: the one place that names a concrete backend.

To add one, write a class that is a `isogloss.backends.model.Model`, and add a row to ``_BACKENDS``.
"""
# ruff: noqa: PLC0415 - backends are imported when one is asked for: they take seconds, and may not be installed

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from isogloss.errors import ModelError

if TYPE_CHECKING:
    from isogloss.backends.model import Model
    from isogloss.backends.preview import Preview

__all__ = [
    "BACKENDS",
    "checks_of",
    "folder_of",
    "import_backend",
    "load",
    "preview",
    "refuse_unsupported",
    "threads_of",
]


@dataclass(frozen=True)
class _Backend:
    """How a backend is reached.

    Attributes:
        module: that of its `Model`.
        loader: the function there that loads a hub id or a folder.
        checks: those of `isogloss doctor` that it has, in order.
        refused: name of what it cannot do -> what to do instead, as `refuse_unsupported` prints it.
    """

    module: str
    loader: str
    checks: tuple[str, ...]
    refused: Mapping[str, str]


_BACKENDS = {
    "huggingface": _Backend(
        "isogloss.backends.huggingface.model",
        "load_model",
        ("routers", "capture", "padding", "generation", "steering", "estimate"),
        {"engine": "--engine has no meaning for --backend huggingface; only vLLM takes it: give --backend vllm"},
    ),
    "vllm": _Backend(
        "isogloss.backends.vllm.model",
        "serve_any_plan",
        ("routers", "capture", "generation", "steering"),
        {
            "device": "--device has no meaning for --backend vllm; give --engine tensor_parallel_size=N",
            "dequantize": "--dequantize has no meaning for --backend vllm; leave it out",
            "hidden_states": "hidden states are captured by --backend huggingface alone: vLLM hands the plugin the "
            "logits of its routers, not what they read; leave --hidden-states out",
            "gradients": "a plan is learned by gradients, which --backend vllm does not give: learn with --backend "
            "huggingface, and serve the plan by either",
            "router_inputs": "an adapter is fitted on what routers read, which --backend vllm does not give: make it "
            "with --backend huggingface, and serve it by either",
            "adapter": "a router adapter is not steered by --backend vllm: write what vLLM serves with `isogloss bake "
            "MODEL --adapter ADAPTER --as vllm`, or give --backend huggingface",
            "against": "--against compares two versions of a model by the experts and next tokens of single tokens, of "
            "which --backend vllm gives no probabilities and no order: give --backend huggingface",
            "corpus": "--corpus: how long a capture takes is not estimated for --backend vllm; leave it out",
        },
    ),
}

_ENGINE_OURS = {
    "model": "name it as the model",
    "tokenizer": "texts are read by the model's own",
    "revision": "name the model as MODEL@REVISION",
    "dtype": "it is an option of its own, such as --dtype",
    "tokenizer_revision": "it is that of the model",
    "worker_extension_cls": "isogloss needs it for its own",
    "trust_remote_code": "it would run code of the checkpoint, which isogloss never does",
}
"""Arguments of vLLM that isogloss sets, and what to do instead, wherever they are written."""

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

    The organism computes in float32 by default: faster on a processor than the bfloat16 that it is stored in
    to be small. Its methods run on one thread, since its products are too small to share: waiting threads that sleep
    make them slower, and threads that spin stall on a busy machine.

    Args:
        name: hub id, perhaps with ``@`` and a branch, tag or commit; folder; or ``organism``, the model that ships with
            isogloss.
        backend: ``huggingface``, transformers in this process, or ``vllm``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: huggingface: such as ``cpu`` or ``cuda:0``; by default a GPU where there is one. ``auto`` spreads the
            model over all GPUs, then memory, then disk.
        dequantize: huggingface: turn quantised weights into floating point.
        engine: vllm: arguments of vLLM's ``LLM``, such as ``tensor_parallel_size``.

    Raises:
        ModelError: the model cannot be loaded or is not supported, the backend is unknown or not installed, or an
            option has no meaning for it.
    """
    refuse_unsupported(backend, device=device, dequantize=dequantize, engine=engine)
    given = {"device": device, "dequantize": dequantize, "engine": engine}
    options: dict[str, Any] = {"dtype": dtype} | {option: value for option, value in given.items() if value}
    if (folder := folder_of(name)) != name:
        options |= {"dtype": "float32" if dtype == "auto" else dtype, "name": name, "threads": threads_of(name)}
    from isogloss.progress import stage

    stage(f"load {name}")
    loader: Callable[..., Model] = getattr(import_module(_BACKENDS[backend].module), _BACKENDS[backend].loader)
    return loader(folder, **options)


def preview(name: str, *, dequantize: bool = False) -> Preview:
    """Read what a model's files say before any weight is read; arguments and errors as of `load`, on transformers."""
    from isogloss.backends.huggingface.preview import preview_checkpoint

    return preview_checkpoint(folder_of(name), dequantize=dequantize)


def folder_of(name: str) -> str:
    """Return the folder of ``organism``, the model that ships with isogloss; any other name as it is."""
    from isogloss.organism import ORGANISM, model_folder

    return str(model_folder()) if name == ORGANISM else name


def threads_of(name: str) -> int | None:
    """Return the number of threads that a model's methods run on: 1 for ``organism``; None for the process's own."""
    return 1 if folder_of(name) != name else None


def refuse_unsupported(backend: str, **asked: object) -> None:
    """Refuse what a backend cannot do, before anything is loaded.

    Args:
        backend: ``huggingface``, transformers in this process, or ``vllm``.
        **asked: what is asked for, by name: ``device``, ``dequantize``, ``engine``, ``hidden_states``, ``gradients``,
            ``router_inputs``, ``adapter`` (to steer by it), ``against`` (to compare with another version of the
            model), or ``corpus`` (to estimate its capture). What is False, None or empty is not asked for.

    Raises:
        ModelError: it cannot, or isogloss itself sets an argument of ``engine``; the message names the alternative.
    """
    if backend not in _BACKENDS:
        raise ModelError(f"there is no backend {backend!r}; choose {' or '.join(BACKENDS)}")
    engine = asked.get("engine")
    for name in engine if isinstance(engine, Mapping) else ():
        if name in _ENGINE_OURS:
            raise ModelError(f"{name} is no argument to give to vLLM; {_ENGINE_OURS[name]}: leave it out of engine")
    for name, value in asked.items():
        if value and (instead := _BACKENDS[backend].refused.get(name)):
            raise ModelError(instead)


def import_backend(backend: str) -> None:
    """Import a backend, which takes seconds, so that the time of loading a model can be measured apart."""
    import_module(_BACKENDS[backend].module)


def checks_of(backend: str, *, with_plan: bool) -> tuple[str, ...]:
    """Name the checks of `isogloss doctor` that a backend has, in order; a plan replaces the trial of our own plans."""
    checks = _BACKENDS[backend].checks
    return tuple("plan" if with_plan and name == "steering" else name for name in checks)
