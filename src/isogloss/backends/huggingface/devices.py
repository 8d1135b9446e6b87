"""Models that are spread over several devices: placed by accelerate, fetched where offloaded, refused where misread."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_accelerate_available

from isogloss.errors import ModelError

__all__ = ["AUTO", "Device", "fetched", "input_device", "offload_folder", "refuse_unfetched", "require_accelerate"]

AUTO = "auto"

Device: TypeAlias = str | Mapping[str, str | int]
"""One device; ``auto``: all GPUs, then memory, then disk; or a device for every module by name, as accelerate takes."""


def require_accelerate(why: str) -> None:
    """Refuse what only accelerate can do where it is not installed.

    Raises:
        ModelError: names the extra that brings it.
    """
    if not is_accelerate_available():
        raise ModelError(
            f"{why} needs the package accelerate, which is not installed: pip install 'isogloss[multi-gpu]'"
        )


@contextmanager
def offload_folder() -> Iterator[tuple[str, Callable[[PreTrainedModel], object]]]:
    """Make a folder below the one for temporary files, for weights that fit nowhere else.

    Yields:
        The folder, and a function that hands it to a model, with which it goes; without a model it goes at the end.
    """
    folder = tempfile.mkdtemp(prefix="isogloss-offload-")
    kept: list[object] = []

    def keep_with(model: PreTrainedModel) -> None:
        kept.append(weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True))

    try:
        yield folder, keep_with
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where input ids go: that of the embeddings, or where they are brought to from an offload."""
    embeddings: Any = model.get_input_embeddings()
    runs_on = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
    return torch.device(embeddings.weight.device if runs_on is None else runs_on)


def fetched(module: torch.nn.Module) -> AbstractContextManager[None]:
    """Bring a module's own tensors to where they can be read, where accelerate has offloaded them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device  # noqa: PLC0415 - there whenever something is offloaded

    context: AbstractContextManager[None] = align_module_device(module)
    return context


def refuse_unfetched(model: PreTrainedModel) -> AbstractContextManager[object]:
    """Refuse forwards that compute with a weight that is still offloaded.

    Weights are fetched when their own module is called. Some families read those of a module that they do not call;
    on a processor torch then returns whatever the memory holds, without an error.
    """
    return _RefuseMeta() if any(parameter.is_meta for parameter in model.parameters()) else nullcontext()


class _RefuseMeta(TorchFunctionMode):
    """Refuses any function of both real tensors and ones without data."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's signature
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        if len({tensor.is_meta for tensor in tensors}) > 1:
            raise _unfetched(next(tensor for tensor in tensors if tensor.is_meta))
        try:
            return func(*args, **kwargs)
        except NotImplementedError as error:
            if any(tensor.is_meta for tensor in tensors):
                raise _unfetched(tensors[0]) from error
            raise


def _tensors(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (part for part in value if isinstance(part, torch.Tensor))


def _unfetched(tensor: torch.Tensor) -> ModelError:
    return ModelError(
        f"a weight of shape {list(tensor.shape)} is offloaded and used without being fetched, since this family reads "
        "it past the module that holds it; expected weights on a GPU or all in memory: load the model in 16 bits, on "
        "more GPUs, or with --device cpu"
    )
