"""A model that answers without computing anything."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from isogloss.backends.model import Change, Likelihood


class FakeTokenizer:
    """Has no chat template."""

    chat_template = None


class FakeEngine:
    """Answers by a hash of prompt and active plan, and keeps what it was asked."""

    name = "fake"
    context_length = None
    tokenizer = FakeTokenizer()

    def __init__(self, engine="huggingface", change=0.5):
        self.engine, self.share = engine, change
        self.active = None
        self.asked = []  # (hash of the plan or None, what was asked)
        self.probed = []
        self.captured = []  # (hash of the plan or None, texts, whether they are turns of a chat)

    def describe(self):
        nothing = {name: {} for name in ("kernels", "model", "generation_config")}
        names = dict.fromkeys(("model_name", "config_sha256", "tokenizer_sha256"), "fake")
        own = {"engine": self.engine, "engine_version": "1", "dtype": "float32", "device": "cpu", "revision": None}
        return {**own, **nothing, **names}

    @contextmanager
    def steer(self, plan):
        self.active = plan
        yield
        self.active = None

    def _hash(self, text):
        plan = self.active.sha256 if self.active else ""
        return int(hashlib.sha256(f"{plan}{text}".encode()).hexdigest(), 16)

    def _note(self, asked):
        self.asked.append((self.active.sha256 if self.active else None, asked))

    def answer(self, prompts, *, max_new_tokens, add_special_tokens, sampling):
        self._note((tuple(prompts), max_new_tokens, add_special_tokens, sampling and tuple(sampling[1])))
        return [f"= {self._hash(prompt) % 3}" if self._hash(prompt) % 5 else "" for prompt in prompts]

    def log_likelihoods(self, pairs, *, add_special_tokens):
        self._note((tuple(pairs), add_special_tokens))
        return [Likelihood(-1.0 - self._hash(pair) % 100 / 10, 3, greedy=False) for pair in pairs]

    def capture(self, texts, _item_ids, *, options):
        self.captured.append((self.active.sha256 if self.active else None, tuple(texts), options.chat))
        seeds = [self._hash(text) % 1000 for text in texts]
        profiles = np.stack([np.random.default_rng(seed).dirichlet(np.ones(8), size=2) for seed in seeds])
        return SimpleNamespace(profiles=profiles.astype(np.float32))

    def change(self, _plan, texts, *, add_special_tokens):
        self.probed.append((tuple(texts), add_special_tokens))
        return Change({0: self.share, 1: 0.0}, None)
