"""Several plans in one engine: each request is answered under the plan that it names, whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import checkpoint, prompts
from engines import ask, vllm_answers
from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import Intervention, Plan, write_plan
from oracle import Answers, require_equal, transformers_answers
from plans import hand, make_plan

FAMILY, N_NEW, TOLERANCE = "qwen3_moe", 8, 5e-5
ASKED = [
    {},
    {"isogloss_plan": "soft"},
    {"isogloss_plan": "rules"},
    {"isogloss_plan": "rules", "isogloss_language": "sw"},
    {"isogloss_plan": "unsteered"},
    {"isogloss_plan": "soft", "isogloss_language": "de"},
]
"""Of a mixed batch, by prompt: no name, names, unsteered; languages with rules of their own and without."""


@pytest.fixture(scope="module")
def loaded():
    """The checkpoint as transformers loads it."""
    return load_model(str(checkpoint(FAMILY)), dtype="float32")


@pytest.fixture
def plans(loaded):
    """By name, "" of requests that name none."""
    names = {"": "ban", "soft": "soft", "rules": "by language"}
    return {name: make_plan(loaded.fingerprint, kind) for name, kind in names.items()}


@pytest.fixture
def llm(engines, plans, tmp_path_factory, monkeypatch):
    """One engine, which has started with the plans and has their rows and kinds; with a prefix cache."""
    folder = tmp_path_factory.mktemp("plans")
    for name in ("ISOGLOSS_KINDS", "ISOGLOSS_SLOTS"):
        monkeypatch.delenv(name)
    for name, plan in plans.items():
        write_plan(plan, folder / f"{name}.json")
    monkeypatch.setenv("ISOGLOSS_PLAN", str(folder / ".json"))
    monkeypatch.setenv("ISOGLOSS_PLANS", ",".join(f"{name}={folder}/{name}.json" for name in plans if name))
    engine = engines.get(FAMILY, "eager", enable_prefix_caching=True, block_size=32, max_num_seqs=7)
    for name, plan in plans.items():  # as a test before may have left them
        load(engine, plan, name)
    return engine


def load(llm, plan, *name):
    """Replace a plan, None for none; return what the worker says."""
    (status,) = hand(llm, plan, *name)
    return status


def expected_answers(loaded, plans, asked, n_new=N_NEW):
    """What transformers answers to each prompt under its plan alone."""
    tokens, log_probs = [], []
    for prompt, each in zip(prompts(), asked, strict=True):
        plan = plans.get(each.get("isogloss_plan", ""), Plan(loaded.fingerprint, (), {}))
        with steer(loaded, plan.for_request(each.get("isogloss_language"))):
            answers = transformers_answers(loaded, [prompt], n_new)
        tokens, log_probs = tokens + answers.tokens, log_probs + answers.log_probs
    return Answers(tokens, log_probs)


def served_answers(llm, asked, n_new=N_NEW):
    """What the engine answers to all prompts in one batch."""
    return vllm_answers(llm, prompts(), n_new, each=[{"extra_args": each or None} for each in asked])


def test_a_mixed_batch_is_answered_by_each_plan_alone(llm, loaded, plans):
    """Tokens and log-probabilities; any two plans answer the same prompt differently."""
    (status,) = llm.collective_rpc("isogloss_status")
    assert (status["plan_sha256"], status["n_slots"]) == (plans[""].sha256, 5)
    assert {name: each["plan_sha256"] for name, each in status["plans"].items()} == {
        name: plan.sha256 for name, plan in plans.items() if name
    }
    assert set(status["plans"]["rules"]["changed"]) == {"other languages", "deu_Latn", "swh_Latn"}
    answers = []
    for shift in range(len(ASKED)):  # each prompt under each plan, each in another place of the batch
        asked = ASKED[shift:] + ASKED[:shift]
        served = served_answers(llm, asked)
        require_equal(served, expected_answers(loaded, plans, asked), TOLERANCE)
        answers.append(served.log_probs[-1])
    alike = [[np.array_equal(a, b) for b in answers] for a in answers]
    assert sum(map(sum, alike)) == len(ASKED) + 2  # soft has no rules for German: two are alike


def test_plans_are_replaced_one_by_one_while_others_are_served(llm, loaded, plans):
    """A request of another plan goes on as if nothing had happened; one of the same goes on under the new plan."""
    from vllm import SamplingParams  # noqa: PLC0415 - vLLM reads the environment when it is imported
    from vllm.exceptions import VLLMValidationError  # noqa: PLC0415 - as above

    prompt, running, n_new = prompts()[0], llm.llm_engine, 12
    names = ("soft", "rules", "unsteered")
    for name in names:
        sampling = SamplingParams(temperature=0, max_tokens=n_new, ignore_eos=True, extra_args={"isogloss_plan": name})
        running.add_request(name, {"prompt_token_ids": prompt}, sampling)
    written = {}

    def step():
        for output in running.step():
            written[output.request_id.split("-")[0]] = list(output.outputs[0].token_ids)

    while len(written.get("soft", ())) < 4:
        step()
    n_before = len(written["soft"])
    other = make_plan(loaded.fingerprint, "ban")
    assert load(llm, other, "soft")["plans"]["soft"]["plan_sha256"] == other.sha256
    refused = load(llm, None, "rules")
    assert (refused["n_running"], "rules still run" in refused["error"]) == (1, True)
    with pytest.raises(VLLMValidationError, match="expected soft, unsteered"):
        llm.generate([{"prompt_token_ids": prompt}], SamplingParams(extra_args={"isogloss_plan": "rules"}))
    while running.has_unfinished_requests():
        step()
    nothing = Plan(loaded.fingerprint, (), {})
    for name, plan in (("rules", plans["rules"].for_request(None)), ("unsteered", nothing)):
        with steer(loaded, plan):
            assert written[name] == transformers_answers(loaded, [prompt], n_new).tokens[0]
    with steer(loaded, other):
        expected = transformers_answers(loaded, [prompt + written["soft"][:n_before]], n_new - n_before)
    assert written["soft"][n_before:] == expected.tokens[0]
    assert set(load(llm, None, "rules")["plans"]) == {"soft"}


def test_what_is_refused_leaves_all_plans_as_they_were(llm, loaded, plans):
    """For another model, without effect, with more rows than there are; by a bad name, or one that does not exist."""
    idle = Plan(loaded.fingerprint, (Intervention("offset", 1, (5,), values=(1e-9,)),), {})
    idle_soft = Plan(loaded.fingerprint, (Intervention("soft", 1, (5,), strength=1e-9),), {})
    nothing = Plan(loaded.fingerprint, (), {})
    for plan, name, message in (
        (idle, "soft", "started for soft, force, ban"),
        (idle_soft, "soft", r"changed no chosen expert of 256 random tokens (plan soft, all)"),
        (nothing, "soft", "no interventions"),
        (plans["rules"], "more", "distinguish 8 combinations"),
        (plans["soft"], "a/b", "cannot be the name"),
        (None, "more", "there is no plan named more"),
    ):
        assert message in load(llm, plan, name)["error"]
    require_equal(served_answers(llm, ASKED), expected_answers(loaded, plans, ASKED), TOLERANCE)


def test_plans_share_no_cache(llm, loaded, plans):
    """The same prompt under each plan is computed anew, whatever salt a client sends; under the same, it is not."""
    prompt = max(prompts(), key=len)
    load(llm, plans[""])  # the cache is empty
    asked = [*({"isogloss_plan": name} for name in ("soft", "rules", "unsteered")), {}]
    asked.append({"isogloss_plan": "rules", "isogloss_language": "sw"})
    seen = set()
    for salt in (None, "soft:|", "soft:", ":|", "rules:swh_Latn|", "unsteered:|"):
        for extra in (*asked, *asked):
            answer, cached = ask(llm, prompt, N_NEW, extra=extra, salt=salt)
            key = (salt, str(extra))
            assert (cached > 0) == (key in seen), key
            seen.add(key)
            plan = plans.get(extra.get("isogloss_plan", ""), Plan(loaded.fingerprint, (), {}))
            with steer(loaded, plan.for_request(extra.get("isogloss_language"))):
                assert answer == transformers_answers(loaded, [prompt], N_NEW).tokens[0]
