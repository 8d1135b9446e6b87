"""The checkpoints can show what a plan does: experts differ, every one is used, and biases count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kinds import plan_of

from checkpoints import FAMILIES, TEXTS, checkpoint, prompts
from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import Intervention
from oracle import TOLERANCE, transformers_answers

DENSE_FIRST = ("qwen3_moe", "glm4_moe", "deepseek_v3")


@pytest.fixture(params=FAMILIES)
def model(request):
    """A checkpoint as transformers loads it."""
    return load_model(str(checkpoint(request.param)), dtype="float32")


def captured(loaded):
    """Counts of chosen experts ``[n_texts, n_layers, n_experts]`` of the texts."""
    return loaded.capture(TEXTS, [str(index) for index in range(len(TEXTS))]).selections


def test_layers_are_numbered_in_the_whole_stack(model):
    """Families with dense layers begin with one."""
    dense_first = model.name.rpartition("-")[0] in DENSE_FIRST
    assert [router.spec.layer for router in model.router_modules] == list(range(4))[dense_first:]


def test_every_expert_is_used(model):
    """In every layer, each expert is chosen by some token of the texts."""
    assert captured(model).sum(0).min() > 0


def test_routing_shows_in_the_answers(model):
    """Banning the most chosen expert of any one layer moves log-probabilities far beyond rounding."""
    before = transformers_answers(model, prompts()[:1], 1)
    for router, counts in zip(model.routers, captured(model)[0], strict=True):
        ban = Intervention("ban", router.layer, (int(counts.argmax()),))
        with steer(model, plan_of(model, ban)):
            after = transformers_answers(model, prompts()[:1], 1)
        assert np.abs(after.log_probs[0][:-1] - before.log_probs[0][:-1]).max() > 1000 * TOLERANCE


@pytest.mark.parametrize("family", ["gpt_oss", "glm4_moe", "deepseek_v3"])
def test_biases_change_choices(family):
    """Without the bias of its logits or of its selection, a router would choose other experts."""
    loaded = load_model(str(checkpoint(family)), dtype="float32")
    before = captured(loaded)
    for router in loaded.router_modules:
        bias = router.module.bias if family == "gpt_oss" else router.module.e_score_correction_bias
        bias.data.zero_()
    assert (captured(loaded) != before).any()


def test_groups_are_those_of_the_published_model():
    """DeepSeek-V3 chooses among the experts of two groups of four."""
    specs = [router.spec for router in load_model(str(checkpoint("deepseek_v3")), dtype="float32").router_modules]
    assert {(spec.n_groups, spec.top_k, spec.n_experts) for spec in specs} == {(4, 2, 16)}


def test_oracle_reads_what_generate_computed(model):
    """Under a plan by phases, the one forward finds the written tokens as likely as they were while being written."""
    layers = [router.spec.layer for router in model.router_modules]
    bans = [Intervention("ban", layer, (0, 1, 2), phase="prompt") for layer in layers]
    forces = [Intervention("force", layer, (1, 2), phase="generation") for layer in layers]
    prompt, n_new = prompts()[0], 6
    unsteered = transformers_answers(model, [prompt], n_new)
    with steer(model, plan_of(model, *bans, *forces)):
        steered = transformers_answers(model, [prompt], n_new)
        written = model.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=n_new,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    logits = torch.cat(written.logits).log_softmax(-1)
    assert steered.tokens == [logits.argmax(-1).tolist()]
    np.testing.assert_allclose(steered.log_probs[0][-n_new:], logits.max(-1).values.numpy(), rtol=0, atol=TOLERANCE)
    assert np.abs(steered.log_probs[0] - unsteered.log_probs[0])[: len(prompt) - 1].max() > 1000 * TOLERANCE
