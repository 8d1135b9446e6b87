"""A running engine counts exactly the experts that transformers chooses for the same tokens, each token once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from checkpoints import checkpoint, prompts
from engines import ask, begin_answer, end_answer, served_answers, vllm_answers
from isogloss.backends.huggingface import load_model, steer
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.steering import Plan
from plans import hand, make_plan

N_NEW, FAMILY = 8, "qwen3_moe"
LANGUAGES = ("swh_Latn", None, "deu_Latn", "sw", "fra_Latn", None)


def expected_counts(loaded, plan, texts, languages):
    """Count what transformers chooses for texts in these languages, under one plan; see `counts_under`."""
    codes = [{"sw": "swh_Latn"}.get(language, language) for language in languages]
    return counts_under(loaded, [plan] * len(codes), texts, languages, [(None, code) for code in codes])


@torch.inference_mode()
def counts_under(loaded, plans, texts, languages, kinds):
    """Count what transformers chooses for each token that an engine runs, which is each but the last that it writes.

    Args:
        loaded: the model.
        plans: that it is steered by, one for each text; None for none.
        texts: pairs of prompt and what was written after it, token ids.
        languages: of the texts.
        kinds: (name of the plan, full code) of each text; the first three that come are told apart, as `engines` asks.

    Returns:
        {(name, language, phase): [n_layers, n_experts]}
    """
    apart = list(dict.fromkeys(kinds))[:3]
    model = loaded.fingerprint
    counts = defaultdict(lambda: np.zeros((len(model.layers), model.n_experts), dtype=np.int64))
    for plan, (prompt, written), language, kind in zip(plans, texts, languages, kinds, strict=True):
        row = kind if kind in apart else (None, "other")
        ids = torch.tensor([[*prompt, *written[:-1]]])
        generated = torch.arange(ids.shape[1]) >= len(prompt)

        def add(index, output, row=row, generated=generated):
            for phase, tokens in (("prompt", ~generated), ("generation", generated)):
                chosen = output.expert_ids[tokens].flatten().numpy()
                if len(chosen):
                    counts[*row, phase][index] += np.bincount(chosen, minlength=model.n_experts)

        steered = Plan(model, (), {}) if plan is None else plan.for_request(language)
        with steer(loaded, steered), mark_generated(loaded, generated[None]), watch_routers(loaded, add):
            loaded.model(input_ids=ids, use_cache=False)
    return {key: array.tolist() for key, array in counts.items()}


def read(llm, *, reset=False):
    """What the engine has counted, as {(plan, language, phase): [n_layers, n_experts]}; each sum is checked."""
    (answer,) = llm.collective_rpc("isogloss_usage", args=(reset,))
    top_k = answer["fingerprint"]["top_k"]
    for each in answer["counts"]:
        assert [sum(row) for row in each["selections"]] == [top_k * each["tokens"]] * len(answer["layers"])
    return {(each["plan"], each["language"], each["phase"]): each["selections"] for each in answer["counts"]}


@pytest.mark.parametrize("name", [None, "by language", "by phase", "together"])
def test_counts_are_those_of_transformers(engine, loaded, name):
    """By language and phase, in one mixed batch, under a plan and without; the plan's proof is not counted."""
    plan = None if name is None else make_plan(loaded.fingerprint, name)
    hand(engine, plan)
    read(engine, reset=True)
    assert read(engine) == {}
    answers = served_answers(engine, prompts(), LANGUAGES, N_NEW)
    texts = list(zip(prompts(), answers.tokens, strict=True))
    expected = expected_counts(loaded, plan, texts, LANGUAGES)
    assert read(engine) == expected
    assert {language for _, language, _ in expected} == {"swh_Latn", None, "deu_Latn", "other"}
    hand(engine, None)
    assert read(engine) == expected


def test_plans_of_one_batch_are_counted_apart(engines, reference):
    """By the name that a request gives; the same language under two plans is counted twice."""
    llm = engines.get(FAMILY, "eager")
    named, nameless = make_plan(reference.fingerprint, "by language"), make_plan(reference.fingerprint, "ban")
    hand(llm, nameless)
    hand(llm, named, "a")
    read(llm, reset=True)
    asked = (("a", "swh_Latn"), (None, "swh_Latn"), ("unsteered", None), ("a", "swh_Latn"), ("a", None), (None, None))
    each = [
        {"extra_args": {f"isogloss_{name}": value for name, value in (("plan", plan), ("language", code)) if value}}
        for plan, code in asked
    ]
    answers = vllm_answers(llm, prompts(), N_NEW, each=each)
    plans = [{"a": named, None: nameless}.get(plan) for plan, _ in asked]
    texts = list(zip(prompts(), answers.tokens, strict=True))
    expected = counts_under(reference, plans, texts, [code for _, code in asked], asked)
    (answer,) = llm.collective_rpc("isogloss_usage")
    hashes = {each["plan"]: each["plan_sha256"] for each in answer["counts"] if each["language"] != "other"}
    assert hashes == {"a": named.sha256, None: nameless.sha256, "unsteered": None}
    assert read(llm) == expected
    hand(llm, None, "a")
    hand(llm, None)


@pytest.fixture(scope="module")
def reference():
    """The checkpoint as transformers loads it."""
    return load_model(str(checkpoint(FAMILY)), dtype="float32")


def test_nothing_is_counted_before_the_first_request(engines, reference, monkeypatch):
    """Neither the runs that measure memory and warm up nor the proof at start; in an engine that can count alone."""
    engines.free()
    for name in ("ISOGLOSS_KINDS", "ISOGLOSS_SLOTS"):
        monkeypatch.delenv(name)
    llm = engines.get(FAMILY, "compiled", seed=2)
    usage = llm.llm_engine.model_executor.driver_worker.worker.isogloss.usage
    assert read(llm) == {}
    for steering in usage.layers.values():
        assert not steering.counts[: usage.n_rows * usage.n_experts].any()
        assert steering.counts[usage.n_rows * usage.n_experts :].any()  # that they ran is seen where nobody reads
    answers = served_answers(llm, prompts(), LANGUAGES, N_NEW)
    texts = list(zip(prompts(), answers.tokens, strict=True))
    assert read(llm) == expected_counts(reference, None, texts, LANGUAGES)
    engines.free()


def test_tokens_that_run_again_count_once(engines, reference):
    """Prompts in chunks, and a cache so small that requests are pushed out and run again from the start."""
    llm = engines.get(FAMILY, "eager", max_num_batched_tokens=16, block_size=32, num_gpu_blocks_override=9)
    read(llm, reset=True)
    n_new = 40
    asked, languages = prompts()[:5], LANGUAGES[:5]
    ran = []
    worker = llm.llm_engine.model_executor.driver_worker.worker
    usage = worker.isogloss.usage
    begin = usage.begin
    usage.begin = lambda *args, **options: (ran.append(int(options["n_tokens"].sum())), begin(*args, **options))
    try:
        answers = served_answers(llm, asked, languages, n_new)
    finally:
        usage.begin = begin
    texts = list(zip(asked, answers.tokens, strict=True))
    assert sum(ran) > sum(len(prompt) + n_new - 1 for prompt in asked)  # some were run again
    assert read(llm) == expected_counts(reference, None, texts, languages)


def test_tokens_from_the_prefix_cache_are_not_counted(engines, reference):
    """They are not run: a prompt that is asked twice counts once, but for its last block."""
    llm = engines.get(FAMILY, "eager", enable_prefix_caching=True, block_size=32)
    read(llm, reset=True)
    prompt = max(prompts(), key=len)
    cached = [ask(llm, prompt, 1)[1] for _ in range(2)]
    assert cached[1] > 0
    (selections,) = read(llm).values()
    assert sum(selections[0]) == reference.fingerprint.top_k * (2 * len(prompt) - cached[1])


def test_requests_that_run_on_under_another_plan_count_under_it(engines, reference):
    """The text that was read and written before is computed anew, and counted with what comes."""
    llm = engines.get(FAMILY, "eager", enable_prefix_caching=True, block_size=32)
    plan, prompt = make_plan(reference.fingerprint, "ban"), prompts()[0]
    hand(llm, None)
    begin_answer(llm, prompt, 12, n_first=4)
    hand(llm, plan)
    read(llm, reset=True)
    written = end_answer(llm)
    assert read(llm) == expected_counts(reference, plan, [(prompt, written)], [None])
    hand(llm, None)
