"""llama.cpp chooses by a plan of kind `select` in a file as transformers does steered, in every architecture tried."""

from __future__ import annotations

import numpy as np
import pytest
from gguf_files import gguf_tensors

from adapted import base, expected, largest, loaded
from checkpoints import prompts
from isogloss.backends.bake import bake
from isogloss.backends.huggingface import steer
from isogloss.steering import Intervention, Plan
from llama import TOLERANCE, gguf_of, log_probs, quantised

FAMILIES = ("deepseek_v3", "glm4_moe", "dots1", "ernie4_5_moe", "lfm2_moe", "minimax_m2", "afmoe")
"""deepseek_v3 with groups of experts; ernie4_5_moe by softmax, the rest by sigmoid."""

EFFECT = 0.1  # least of what a plan must change somewhere: an ignored one changes nothing


def plan_of(family):
    """Other numbers in every routed layer but the last, for half of the experts."""
    fingerprint = loaded(family).fingerprint
    rules = []
    for layer in fingerprint.layers[:-1]:
        drawn = np.random.default_rng((11, layer))
        experts = sorted(drawn.permutation(fingerprint.n_experts)[: fingerprint.n_experts // 2].tolist())
        values = (0.3 * drawn.normal(size=len(experts))).tolist()
        rules.append(Intervention("select", layer, experts, values=values))
    return Plan(fingerprint, tuple(rules))


def require_biases_alone(before, after, plan):
    """Only the selection biases of the plan's layers differ, each in the numbers that the plan names."""
    one, other = gguf_tensors(before), gguf_tensors(after)
    names = [f"blk.{rule.layer}.exp_probs_b.bias" for rule in plan.interventions]
    for rule, name in zip(plan.interventions, names, strict=True):
        changed = np.flatnonzero(one[name][1] != other[name][1])
        assert changed.tolist() == list(rule.experts)
    ours, theirs = (np.frombuffer(path.read_bytes(), np.uint8) for path in (before, after))
    inside = np.zeros(len(ours), dtype=bool)
    for name in names:
        start, array = one[name]
        inside[start : start + array.nbytes] = True
    assert not (ours != theirs)[~inside].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_select_in_a_file_acts(family, tmp_path, record_property):
    """Next-token distributions at every place are those of transformers under the plan, and far from the base's."""
    plan, path = plan_of(family), tmp_path / "plan.gguf"
    bake(str(gguf_of(family)), plan, path)
    require_biases_alone(gguf_of(family), path, plan)
    with steer(loaded(family), plan):
        steered = expected(loaded(family))
    found = {
        "base": largest(log_probs(gguf_of(family), prompts()), base(family)),
        "plan": largest(log_probs(path, prompts()), steered),
        "effect": largest(steered, base(family)),
    }
    record_property("largest", found)
    assert found["effect"] > EFFECT, found
    assert max(found["base"], found["plan"]) < TOLERANCE, found


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_a_quantised_file_is_changed_in_its_biases_alone(kind, tmp_path):
    """Quantised tensors stay as they are, and the file answers otherwise than before."""
    plan, path = plan_of("deepseek_v3"), tmp_path / "plan.gguf"
    bake(str(quantised("deepseek_v3", kind)), plan, path)
    require_biases_alone(quantised("deepseek_v3", kind), path, plan)
    before, after = (log_probs(each, prompts()) for each in (quantised("deepseek_v3", kind), path))
    assert largest(after, before) > EFFECT
