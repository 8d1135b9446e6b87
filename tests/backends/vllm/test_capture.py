"""What a capture asks vLLM's workers to record, and makes of it; the workers' recorder runs here without vLLM."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from models import ITEM_IDS, TEXTS, hooked_logits, tiny

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.vllm.capture import run_served
from isogloss.backends.vllm.plugin.layer import LayerSteering
from isogloss.backends.vllm.plugin.record import Recorder
from isogloss.routing import route

SAMPLED = CaptureOptions(sampled_tokens=3)


class Served:
    """Hands prompts to the recorder as an engine does, in steps of five tokens, with the logits of transformers."""

    def __init__(self, loaded):
        self.loaded = loaded
        self.layers = {}
        for spec in loaded.routers:
            self.layers[spec.layer] = LayerSteering(spec.n_experts, kinds=(), n_slots=1, token_slots=None)
            self.layers[spec.layer].keep(64, spec.top_k, torch.device("cpu"))
        self.recorder = Recorder(self.layers, torch.device("cpu"))

    @contextmanager
    def recording(self, items):
        self.recorder.start(items)
        recorded = {}
        yield recorded
        recorded |= safetensors.torch.load(self.recorder.stop())

    def run(self, prompts, arguments):
        for ids, each in zip(prompts, arguments, strict=True):
            logits = hooked_logits(self.loaded, ids)
            for start in range(0, len(ids), 5):
                n = len(ids[start : start + 5])
                for steering, spec, values in zip(self.layers.values(), self.loaded.routers, logits, strict=True):
                    chosen = route(values[start : start + n].numpy(), spec).expert_ids
                    steering.logits[:n] = values[start : start + n]
                    steering.expert_ids[:n] = torch.from_numpy(chosen)
                self.recorder.begin([each["extra_args"]], np.array([start]), np.array([n]))
                self.recorder.end()


@pytest.mark.parametrize("options", [SAMPLED, replace(SAMPLED, token_scope="all", batch_tokens=40)])
def test_counts_by_token_are_those_of_transformers(options, monkeypatch):
    """And so is all else, whether or not they are asked for: the sample is taken from all counted tokens then."""
    loaded = tiny("olmoe")
    served = Served(loaded)
    for counted in (False, True):
        asked = replace(options, token_counts=counted)
        expected = loaded.capture(TEXTS, ITEM_IDS, options=asked)
        with monkeypatch.context() as patch:
            patch.setattr(
                type(loaded),
                "_portion_runner",
                lambda _, o: lambda texts: run_served(served, texts, token_counts=o.token_counts),
            )
            patch.setattr(type(loaded), "_computing", lambda _: nullcontext())
            found = loaded.capture(TEXTS, ITEM_IDS, options=asked)
        assert found.arrays().keys() == expected.arrays().keys()
        assert (found.token_counts is not None) == counted
        for name, array in expected.arrays().items():
            np.testing.assert_allclose(found.arrays()[name], array, atol=2e-5, rtol=0, err_msg=name)
