"""Tiny models of every supported family, loaded as a user loads them, and a tokenizer for them."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from pathlib import Path

import torch
from configs import moe_model_types, tiny_model
from packaging.version import Version
from transformers import AutoModelForCausalLM
from transformers import __version__ as transformers_version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from isogloss.backends.families import FAMILIES as ROWS
from isogloss.backends.families import REFUSED
from isogloss.backends.huggingface import LoadedModel
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


def supported(model_type):
    """Whether this version of transformers has the routers that the family's row describes."""
    row = ROWS[CONFIG_MAPPING[model_type]().get_text_config().model_type]
    return Version(transformers_version) >= Version(row.since)


FAMILIES = tuple(name for name in moe_model_types() if name not in REFUSED and supported(name))


def tiny(model_type, *, dtype=torch.float32, seed=0):
    """A model of the real class; its first or second layer is dense where the family allows it.

    In 16 bits it is loaded from a checkpoint, since some families then keep their routers in float32.
    """
    if dtype == torch.float32:
        model = tiny_model(model_type, seed=seed)
    else:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model = AutoModelForCausalLM.from_pretrained(checkpoint(model_type, seed), dtype=dtype)
    return LoadedModel(model, tokenizer(), name=f"tiny-{model_type}")


_folders = tempfile.TemporaryDirectory(prefix="isogloss-tiny-")


@functools.cache
def checkpoint(model_type, seed=0):
    """A folder with the float32 model and its tokenizer."""
    folder = Path(_folders.name) / f"{model_type}-{seed}"
    with contextlib.redirect_stderr(io.StringIO()):
        tiny_model(model_type, seed=seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def choose_the_worst(loaded, layer):
    """Break a router: it returns the experts with the lowest logits, with the weights of the best."""
    router = loaded.routers[layer].module
    forward = router.forward

    def worst(hidden):
        logits, weights, _ = forward(hidden)
        return logits, weights, (-logits).topk(2).indices

    router.forward = worst
