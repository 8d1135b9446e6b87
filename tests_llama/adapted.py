"""What transformers answers without an adapter and with the weights changed, and the adapter's files for llama.cpp."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from adapters import change_weights, random_adapter

from checkpoints import checkpoint, prompts
from isogloss.backends.bake import bake
from isogloss.backends.huggingface import load_model
from llama import gguf_of, quantised

__all__ = ["adapter_of", "baked", "base", "changed", "expected", "largest", "loaded"]

_folders = tempfile.TemporaryDirectory(prefix="isogloss-adapters-")


@functools.cache
def loaded(family):
    """The model as transformers loads it; not to be changed."""
    with contextlib.redirect_stderr(io.StringIO()):
        return load_model(str(checkpoint(family, for_llama=True)), dtype="float32", device="cpu")


@torch.inference_mode()
def expected(model):
    """Log-probabilities of transformers, as `llama.log_probs`."""
    logits = [model.model(torch.tensor([prompt])).logits[0].double() for prompt in prompts()]
    return [each.log_softmax(-1).numpy() for each in logits]


@functools.cache
def base(family):
    """Of the model as it is."""
    return expected(loaded(family))


@functools.cache
def adapter_of(family):
    """An adapter in all routed layers but the last."""
    model = loaded(family)
    return random_adapter(model, layers=model.fingerprint.layers[:-1], size=0.2)


@functools.cache
def changed(family, factor=1.0):
    """Of the model whose weights are changed by the adapter times a factor."""
    with contextlib.redirect_stderr(io.StringIO()):
        model = load_model(str(checkpoint(family, for_llama=True)), dtype="float32", device="cpu")
    change_weights(model, adapter_of(family).scaled(factor))
    return expected(model)


@functools.cache
def baked(family, form, kind=None):
    """The file of an adapter, or of a model with it inside."""
    path = Path(_folders.name) / f"{family}-{form}-{kind}.gguf"
    bake(str(quantised(family, kind) if kind else gguf_of(family)), adapter_of(family), path, form=form)
    return path


def largest(ours, theirs):
    """Largest difference of any log-probability."""
    return max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True))
