"""A device that is not the processor, for machines without a GPU: it computes there, and counts what goes to and fro.

Tensors on it hold one of the processor. Functions of tensors on two devices fail as they do on a GPU, and every copy
between the two, and every value that the host must wait for, is counted.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from contextlib import contextmanager

import torch
from models import tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from isogloss.backends.huggingface import HuggingFaceModel

_NAME = "standin"
_READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select", "bincount"}
"""Operations whose result the host must know before it goes on, so that a GPU has to finish first."""


@functools.cache
def _device():
    """Tell torch of the device, which this process then has for good: not where this file is only imported."""
    _setup_privateuseone_for_python_backend(_NAME)
    getattr(torch, _NAME).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    return torch.device(_NAME, 0)


class _Held(torch.Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_device(),
        )

    def __init__(self, held):
        self.held = held.detach()

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of `on_other_device`")


class Traffic(TorchDispatchMode):
    """Runs the device, and counts by name of the operation.

    Attributes:
        to_device: copies from the host.
        to_host: copies to the host, and reads that it waits for.
    """

    def __init__(self):
        super().__init__()
        self.to_device, self.to_host = Counter(), Counter()

    def counted(self, function):
        """Return (copies to the device, copies and reads to the host) while a function runs."""
        before = self.to_device.total(), self.to_host.total()
        function()
        return self.to_device.total() - before[0], self.to_host.total() - before[1]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        inside = [isinstance(each, _Held) for each in tensors]
        name, target = func.overloadpacket._qualified_op_name.split("::")[1], kwargs.get("device")
        there = target is not None and torch.device(target).type == _NAME
        if not any(inside) and not there:
            return func(*args, **kwargs)
        self._count(func, name, tensors, there=there, target=target)
        if there:
            kwargs["device"] = torch.device("cpu")
        if name == "histc":  # of integers, which a processor cannot count
            args = (_Held(args[0].held.float()), *args[1:])
        output = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if name == "_to_copy" and target is not None and not there:
            return output
        own = {id(each.held): each for each in tensors if isinstance(each, _Held)}  # what in-place operations return
        return tree_map(lambda each: _placed(each, own), output)

    def _count(self, func, name, tensors, *, there, target):
        inside = [isinstance(each, _Held) for each in tensors]
        if name == "_to_copy":
            self.to_device[name] += there and not inside[0]
            self.to_host[name] += target is not None and not there
        elif name == "copy_":
            self.to_device[name] += inside[0] and not inside[1]
            self.to_host[name] += inside[1] and not inside[0]
        elif name in ("index", "index_put_", "index_put"):
            self.to_host["index by a mask"] += any(each.dtype == torch.bool for each in tensors[1:])
            self.to_device["index of the host"] += not all(inside)
        elif not all(held or each.ndim == 0 for held, each in zip(inside, tensors, strict=True)):
            raise RuntimeError(f"{func} of tensors on two devices: {[(each.device, each.shape) for each in tensors]}")
        else:
            self.to_host[name] += name in _READS


def _held(value):
    return value.held if isinstance(value, _Held) else value


def _placed(value, own):
    if not isinstance(value, torch.Tensor):
        return value
    return own.get(id(value)) if id(value) in own else _Held(value)


def _tensor(data, *, device=None, **options):
    """Stand in for `torch.tensor`, which makes tensors of numbers in C++, where no mode can see it."""
    made = _plain_tensor(data, **options)
    return made if device is None else made.to(device)


_plain_tensor = torch.tensor


@contextmanager
def on_other_device(loaded, monkeypatch):
    """Yield (the same model on the device, its traffic); all that runs on it runs inside."""
    # Tensors of the device cannot be views of weights in inference mode, which differs in nothing else.
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
    monkeypatch.setattr(torch, "tensor", _tensor)
    model = copy.deepcopy(loaded.model)
    with Traffic() as traffic:
        for module in model.modules():
            for name, weight in list(module._parameters.items()):
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(_Held(weight.data), requires_grad=False)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = _Held(buffer)
        yield HuggingFaceModel(model, tokenizer(), name=loaded.name), traffic
