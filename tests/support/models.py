"""Tiny models of every supported family, loaded as a user loads them, and a tokenizer for them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import tempfile
from pathlib import Path

import torch
from configs import moe_model_types, tiny_config, tiny_model
from packaging.version import Version
from slow import slow_but
from transformers import AutoConfig
from transformers import __version__ as transformers_version

from isogloss.backends.families import FAMILIES as ROWS
from isogloss.backends.families import REFUSED
from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.backends.huggingface.classes import class_of
from isogloss.organism.tokenizer import train_tokenizer

TEXTS = (
    "The river is wide.",
    "Anna gives the blue cup to Omar, and Omar carries it to the market in the morning.",
    "Три кошки спят в саду.",
    "図書館で本を読みます。",
    "Yes.",
    "When the rain stopped, the children ran out of the school and counted the snails on the wall.",
)
ITEM_IDS = tuple(f"item-{index}" for index in range(len(TEXTS)))


@functools.cache
def tokenizer():
    """A byte-level tokenizer of 400 tokens."""
    return train_tokenizer(TEXTS * 20, vocab_size=400)


@functools.cache
def text_type(model_type):
    """The model type of a family's text configuration, which a multimodal class holds inside."""
    return tiny_config(model_type).get_text_config().model_type


@functools.cache
def row_for(model_type):
    """The row that describes a family: that of its text configuration."""
    return ROWS[text_type(model_type)]


FAMILIES = tuple(
    name
    for name in moe_model_types()
    if name not in REFUSED and Version(transformers_version) >= Version(row_for(name).since)
)

# What a row says beyond names: families that agree in all of it have one kind of router.
_NAMES = ("model_type", "router_class", "example", "path", "weight", "since", "note")
# The well-known family of its kind, or the one with most beside the rule (laguna caps its logits).
_PREFERRED = ("olmoe", "mixtral", "deepseek_v3", "gpt_oss", "laguna")


def kind_of_router(model_type):
    """How a family's routers choose and return: every field of its row that is no name, and a bias by its presence."""
    fields = dataclasses.asdict(row_for(model_type))
    kind = {name: value for name, value in fields.items() if name not in _NAMES}
    return tuple(bool(value) if name == "selection_bias" else value for name, value in kind.items())


# Text models before those that also see: their routers are the same, and they are smaller.
_TEXT_FIRST = sorted(FAMILIES, key=lambda name: text_type(name) != name)
_BEST_LAST = (*reversed(_TEXT_FIRST), *(name for name in _PREFERRED if name in FAMILIES))
REPRESENTATIVES = frozenset({kind_of_router(name): name for name in _BEST_LAST}.values())


# Plain attention, compressed keys and values, attention that minds left padding, Mamba, sliding windows.
FEW = ("olmoe", "deepseek_v3", "deepseek_v4", "jamba", "gemma4")

OTHER_KERNELS = (
    "inkling_mm_model",
    "inkling_text",
)
"""Families whose convolutions torch computes by another kernel where a gradient is asked for."""


def each_family(names=FAMILIES, *, quick=REPRESENTATIVES):
    """Run a test for families: all of them in `make test-all`.

    Args:
        names: model types that the test is for.
        quick: those of `make test`: one of every kind of router, or `FEW` where the router is not what is tested.

    Returns:
        The decorator.
    """
    import pytest  # noqa: PLC0415 - bench/gpu.py takes the models, and needs no pytest

    return pytest.mark.parametrize("family", slow_but(names, quick))


def tiny(model_type, *, dtype=torch.float32, seed=0):
    """A model of the real class; its first or second layer is dense where the family allows it.

    In 16 bits it is loaded from a checkpoint, since some families then keep their routers in float32.
    """
    return HuggingFaceModel(copy.deepcopy(_untouched(model_type, dtype, seed)), tokenizer(), name=f"tiny-{model_type}")


@functools.cache
def _untouched(model_type, dtype, seed):
    """The model that `tiny` copies."""
    if dtype == torch.float32:
        return tiny_model(model_type, seed=seed)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        auto, config = class_of(AutoConfig.from_pretrained(checkpoint(model_type, seed)))
        return auto.from_pretrained(checkpoint(model_type, seed), config=config, dtype=dtype)


_folders = tempfile.TemporaryDirectory(prefix="isogloss-tiny-")


@functools.cache
def checkpoint(model_type, seed=0):
    """A folder with the float32 model and its tokenizer."""
    folder = Path(_folders.name) / f"{model_type}-{seed}"
    with contextlib.redirect_stderr(io.StringIO()):
        tiny_model(model_type, seed=seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def hooked_logits(loaded, ids):
    """Product of what each router reads, by a hook of torch, and its own weight: ``[n_layers, n_tokens, n_experts]``.

    The oracle of a capture, for families whose router module holds the weight itself.
    """
    found = []

    def keep(router, inputs):
        hidden = inputs[0].reshape(-1, inputs[0].shape[-1])
        found.append(torch.nn.functional.linear(hidden, router.weight, getattr(router, "bias", None)))

    handles = [router.module.register_forward_pre_hook(keep) for router in loaded.router_modules]
    with torch.no_grad():
        loaded.model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack(found)


def bypass_router(loaded, layer):
    """Let a block of an olmoe model choose experts without calling its router module."""
    block, router = loaded.model.model.layers[layer].mlp, loaded.router_modules[layer].module

    def fused(hidden):
        _, weights, ids = router.forward(hidden.view(-1, 32))
        return block.experts(hidden.view(-1, 32), ids, weights).view(hidden.shape)

    block.forward = fused


def choose_the_worst(loaded, layer):
    """Break a router: it returns the experts with the lowest logits, with the weights of the best."""
    router = loaded.router_modules[layer].module
    forward = router.forward

    def worst(hidden):
        logits, weights, _ = forward(hidden)
        return logits, weights, (-logits).topk(2).indices

    router.forward = worst


def generate(loaded, prompts, **options):
    """Answer prompts greedily, in batches."""
    return loaded.generate(prompts, **options)
