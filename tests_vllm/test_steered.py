"""Under a plan, vLLM answers as transformers does under the same plan; the engine takes one plan after the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from learned import LEARNED_LANGUAGES, learned_plan

from checkpoints import FAMILIES, prompts
from engines import MODES, served_answers
from isogloss.backends.huggingface import steer
from isogloss.steering import Plan, read_plan
from oracle import expected_answers, require_equal, transformers_answers
from plans import KIND_PLANS, hand, make_plan

N_NEW = 8
TOLERANCE = 5e-5  # of log-probabilities: edits in float32 add roundings of their own
LANGUAGES = (None, "sw", "de", "swh_Latn", "fr", "deu_Latn")


@pytest.mark.parametrize("name", KIND_PLANS)
def test_every_kind_equals_transformers(engine, loaded, name, record_property):
    """Tokens and log-probabilities of a mixed batch are those of transformers, and not those without a plan."""
    plan = make_plan(loaded.fingerprint, name)
    languages = LANGUAGES if plan.languages else (None,) * len(LANGUAGES)
    hand(engine, None)
    plain = served_answers(engine, prompts(), languages, N_NEW)
    (status,) = hand(engine, plan)
    assert status.get("plan_sha256") == plan.sha256, status
    served = served_answers(engine, prompts(), languages, N_NEW)
    expected = expected_answers(loaded, plan, prompts(), languages, N_NEW)
    record_property("largest_difference", require_equal(served, expected, TOLERANCE))
    assert any(not np.array_equal(a, b) for a, b in zip(plain.log_probs, served.log_probs, strict=True))
    hand(engine, None)
    afterwards = served_answers(engine, prompts(), languages, N_NEW)
    for before, after in zip(plain.log_probs, afterwards.log_probs, strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_empty_plan_changes_nothing(engine, loaded):
    """It is taken, and not a bit is different."""
    hand(engine, None)
    plain = served_answers(engine, prompts(), (None,) * len(LANGUAGES), N_NEW)
    empty = make_plan(loaded.fingerprint, "soft")
    empty = type(empty)(empty.fingerprint, (), {})
    (status,) = hand(engine, empty)
    assert status["plan_sha256"] == empty.sha256
    afterwards = served_answers(engine, prompts(), (None,) * len(LANGUAGES), N_NEW)
    for before, after in zip(plain.log_probs, afterwards.log_probs, strict=True):
        np.testing.assert_array_equal(before, after)
    hand(engine, None)


@pytest.mark.parametrize("served", [next(iter(itertools.product(FAMILIES, MODES)))], ids="-".join, indirect=True)
def test_a_learned_plan_equals_transformers(engine, loaded, tmp_path):
    """Each request of a mixed batch has the offsets learned for its language; the next learned plan replaces them."""
    languages = (*LEARNED_LANGUAGES, None, "fr")
    for shared in (False, True):
        plan = learned_plan(loaded, tmp_path / f"learned-{shared}", shared=shared)
        assert {each.kind for each in plan.interventions} == {"offset"}
        assert set(plan.languages) == (set() if shared else set(LEARNED_LANGUAGES))
        (status,) = hand(engine, read_plan(tmp_path / f"learned-{shared}" / "plan.json"))
        assert status.get("plan_sha256") == plan.sha256, status
        expected = expected_answers(loaded, plan, prompts(), languages, N_NEW)
        require_equal(served_answers(engine, prompts(), languages, N_NEW), expected, TOLERANCE)
        plain = expected_answers(loaded, Plan(loaded.fingerprint, (), {}), prompts(), languages, N_NEW)
        changed = [not np.allclose(*each, atol=1e-3) for each in zip(expected.log_probs, plain.log_probs, strict=True)]
        assert changed == [shared or language in LEARNED_LANGUAGES for language in languages]
    hand(engine, None)


@pytest.mark.parametrize("name", ["together", "by phase"])
def test_prompts_in_chunks(engines, name):
    """A prompt that takes several steps is steered in all of them, generated tokens beside it."""
    from checkpoints import checkpoint  # noqa: PLC0415 - beside its use
    from isogloss.backends.huggingface import load_model  # noqa: PLC0415 - as above

    loaded = load_model(str(checkpoint("qwen3_moe")), dtype="float32")
    llm = engines.get("qwen3_moe", "eager", max_num_batched_tokens=16)
    plan = make_plan(loaded.fingerprint, name)
    hand(llm, plan)
    served = served_answers(llm, prompts(), (None,) * len(LANGUAGES), N_NEW)
    with steer(loaded, plan):
        expected = transformers_answers(loaded, prompts(), N_NEW)
    require_equal(served, expected, TOLERANCE)
