"""Plans that decide who is chosen and leave the weights alone: in vLLM as in transformers, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import checkpoint, prompts
from engines import served_answers
from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import Intervention, Plan
from oracle import expected_answers, require_equal, transformers_answers

N_NEW = 6
TOLERANCE = 5e-5  # as of the other kinds
LANGUAGES = (None, "sw", "de", "swh_Latn", "fr", "deu_Latn")
CONSTANTS = {
    "qwen3_moe": 0.2,
    "gpt_oss": 0.9,
    "deepseek_v3": 0.4,
}  # scores; logits; scores, which groups are compared by


def plan_for(loaded, constant):
    """Rules for all, for a language, and for a phase."""
    rules = [
        rule
        for layer in loaded.fingerprint.layers
        for rule in (
            Intervention("select", layer, (1, 6), values=(constant, -constant)),
            Intervention("select", layer, (3,), values=(2 * constant,), languages=("sw",)),
            Intervention("select", layer, (5,), values=(constant,), phase="generation"),
            Intervention("offset", layer, (2,), values=(0.7,), languages=("de",)),
        )
    ]
    return Plan(loaded.fingerprint, tuple(rules), {})


@pytest.mark.parametrize("family", CONSTANTS)
def test_select_equals_transformers(engines, family, monkeypatch, record_property):
    """Tokens and log-probabilities of a mixed batch, by language and phase; without the plan, all is as before."""
    from plans import hand  # noqa: PLC0415 - beside its use

    monkeypatch.setenv("ISOGLOSS_KINDS", "all" if family == "deepseek_v3" else "all,select")
    loaded = load_model(str(checkpoint(family)), dtype="float32")
    llm = engines.get(family, "eager", max_num_batched_tokens=2048)
    plan = plan_for(loaded, CONSTANTS[family])
    plain = served_answers(llm, prompts(), LANGUAGES, N_NEW)
    (status,) = hand(llm, plan)
    assert status.get("plan_sha256") == plan.sha256, status
    served = served_answers(llm, prompts(), LANGUAGES, N_NEW)
    expected = expected_answers(loaded, plan, prompts(), LANGUAGES, N_NEW)
    record_property("largest_difference", require_equal(served, expected, TOLERANCE))
    assert all(not np.allclose(a, b, atol=1e-3) for a, b in zip(plain.log_probs, served.log_probs, strict=True))
    hand(llm, None)
    for before, after in zip(plain.log_probs, served_answers(llm, prompts(), LANGUAGES, N_NEW).log_probs, strict=True):
        np.testing.assert_array_equal(before, after)
    with steer(loaded, Plan(loaded.fingerprint, (), {})):
        require_equal(plain, transformers_answers(loaded, prompts(), N_NEW), TOLERANCE)


def test_an_engine_that_was_not_started_for_it_refuses(engines, monkeypatch):
    """One line that says how to start it; the plan before stays."""
    from plans import hand  # noqa: PLC0415 - beside its use

    monkeypatch.setenv("ISOGLOSS_KINDS", "all")
    loaded = load_model(str(checkpoint("qwen3_moe")), dtype="float32")
    llm = engines.get("qwen3_moe", "eager")
    (status,) = hand(llm, plan_for(loaded, 0.2))
    assert "selects in layers" in status["error"]
    assert "ISOGLOSS_KINDS=all,select" in status["error"]


def test_routers_with_a_function_of_their_own_are_refused(engines, monkeypatch):
    """Phi-3.5-MoE chooses two in turn by code of its own, which has no place for what is added."""
    monkeypatch.setenv("ISOGLOSS_KINDS", "all,select")
    with pytest.raises(Exception, match="brings a routing function of its own"):
        engines.get("phimoe", "eager", max_num_batched_tokens=2048)
