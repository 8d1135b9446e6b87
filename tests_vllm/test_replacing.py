"""What an engine refuses, and what its caches keep, when plans are replaced while it runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from checkpoints import checkpoint, prompts
from engines import ask, begin_answer, end_answer, vllm_answers
from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import Intervention, Plan
from oracle import require_equal, transformers_answers
from plans import hand, make_plan

FAMILY = "qwen3_moe"
CACHED = {"enable_prefix_caching": True, "block_size": 32}
TOLERANCE = 5e-5


@pytest.fixture
def loaded():
    """The checkpoint as transformers loads it."""
    return load_model(str(checkpoint(FAMILY)), dtype="float32")


def long_prompt():
    """The longest prompt, longer than two blocks of the cache."""
    prompt = max(prompts(), key=len)
    assert len(prompt) > 2 * CACHED["block_size"]
    return prompt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda plan: dataclasses.replace(plan.fingerprint, router_sha256="0" * 64, float16_sha256=None),
            "made for another model",
        ),
        (lambda plan: dataclasses.replace(plan.fingerprint, n_experts=99), "made for another model"),
    ],
)
def test_plans_of_other_models_are_refused(engines, loaded, change, message):
    """The refusal names what differs, and the plan before goes on."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    good = make_plan(loaded.fingerprint, "ban")
    hand(llm, good)
    other = Plan(change(good), good.interventions, {})
    (answer,) = hand(llm, other)
    assert message in answer["error"]
    (status,) = llm.collective_rpc("isogloss_status")
    assert status["plan_sha256"] == good.sha256
    with steer(loaded, good):
        require_equal(vllm_answers(llm, prompts(), 4), transformers_answers(loaded, prompts(), 4), TOLERANCE)


def test_plans_without_effect_are_refused(engines, loaded):
    """An offset that moves no choice is an error, and the plan before goes on."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    good = make_plan(loaded.fingerprint, "force")
    hand(llm, good)
    idle = Plan(good.fingerprint, (Intervention("offset", 1, (5,), values=(1e-9,)),), {})
    (answer,) = hand(llm, idle)
    assert "changed no chosen expert" in answer["error"]
    with steer(loaded, good):
        require_equal(vllm_answers(llm, prompts(), 4), transformers_answers(loaded, prompts(), 4), TOLERANCE)


def test_no_text_that_is_no_plan(engines):
    """Neither JSON of another kind nor a path that is not there."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    for source, message in (('{"a": 1}', "schema_version"), ("nowhere.json", "cannot read the plan"), ("{", "JSON")):
        (answer,) = llm.collective_rpc("isogloss_load_plan", args=(source,))
        assert message in answer["error"]


def test_no_cache_outlives_its_plan(engines, loaded):
    """The prefix cache serves a repeated prompt, and is empty after the plan is replaced."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    prompt = long_prompt()
    for name in ("ban", "soft", None):
        plan = None if name is None else make_plan(loaded.fingerprint, name)
        hand(llm, plan)
        first, cached = ask(llm, prompt, 8)
        assert cached == 0
        again, cached = ask(llm, prompt, 8)
        assert cached > 0
        with steer(loaded, plan or Plan(loaded.fingerprint, (), {})):
            expected = transformers_answers(loaded, [prompt], 8).tokens[0]
        assert first == again == expected


def test_languages_share_no_cache(engines, loaded):
    """The same prompt in two languages is computed twice, under the rules of each."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    plan = make_plan(loaded.fingerprint, "by language")
    hand(llm, plan)
    prompt = long_prompt()
    for language in ("sw", "de", "swh_Latn", None):
        extra = None if language is None else {"isogloss_language": language}
        answer, cached = ask(llm, prompt, 8, extra=extra)
        assert (cached > 0) == (language == "swh_Latn")  # the same language as sw
        with steer(loaded, plan.for_request(language)):
            assert answer == transformers_answers(loaded, [prompt], 8).tokens[0]


def test_phases_and_a_prefix_cache_do_not_go_together(engines, loaded):
    """What was generated under one edit would be handed to prompts under another."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    (answer,) = hand(llm, make_plan(loaded.fingerprint, "by phase"))
    assert "--no-enable-prefix-caching" in answer["error"]


def test_running_requests_go_on_under_the_new_plan(engines, loaded):
    """A request that is half answered is computed anew: what it writes from then on is as if it had read it all so."""
    llm = engines.get(FAMILY, "eager", **CACHED)
    plan = make_plan(loaded.fingerprint, "ban")
    hand(llm, None)
    prompt = long_prompt()
    n_before = len(begin_answer(llm, prompt, 12, n_first=4))
    hand(llm, plan)
    written = end_answer(llm)
    with steer(loaded, plan):
        expected = transformers_answers(loaded, [prompt + written[:n_before]], 12 - n_before).tokens[0]
    assert written[n_before:] == expected
    assert not np.array_equal(expected, transformers_answers(loaded, [prompt], 12).tokens[0][n_before:])
