"""What a running engine counts; the engine itself is tested by `make test-vllm`."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogloss.backends.vllm.plugin.layer import LayerSteering, Observation, bind
from isogloss.backends.vllm.plugin.settings import read_serving_settings
from isogloss.backends.vllm.plugin.usage import Counted, Usage, of_all_stages
from isogloss.errors import ModelError, PlanError

N_EXPERTS, TOP_K, MAX_TOKENS, LAYERS = 8, 2, 48, (1, 3)


class Router:
    """vLLM's, which here is handed the chosen experts in place of logits."""

    def _compute_routing(self, _hidden_states, ids, _indices_type, **_):
        return None, ids


def usage_of(n_apart=3):
    """A usage, and by layer the way to run a step."""
    layers, routers = {}, {}
    for layer in LAYERS:
        layers[layer] = LayerSteering(N_EXPERTS, kinds=(), n_slots=1, token_slots=None)
        routers[layer] = Router()
        bind(SimpleNamespace(router=routers[layer]), layers[layer])
    usage = Usage(layers, n_apart=n_apart, max_tokens=MAX_TOKENS, device=torch.device("cpu"))
    return usage, {layer: router._compute_routing for layer, router in routers.items()}


def request_of(language=None):
    """A request as a runner keeps it."""
    return SimpleNamespace(language=language)


def begin(usage, *parts):
    """Begin a step of (request, where its tokens are generated, first position, number of tokens)."""
    requests, starts, first, n_tokens = zip(*parts, strict=True)
    kinds = [Counted(None, "ab12", request.language) for request in requests]
    usage.begin(requests, kinds, np.array(starts), first=np.array(first), n_tokens=np.array(n_tokens))


def draw_ids(random, n_tokens):
    """Distinct experts for each token, by layer."""
    scores = random.random((len(LAYERS), n_tokens, N_EXPERTS))
    return torch.from_numpy(scores.argsort(-1)[..., :TOP_K].astype(np.int32))


def flat(answer):
    """Counts as {(language, phase): (tokens, selections)}."""
    return {(each["language"], each["phase"]): (each["tokens"], each["selections"]) for each in answer["counts"]}


@given(seed=st.integers(0, 2**32 - 1))
def test_counts_are_those_of_each_token_once(seed):
    """However texts are cut into steps, mixed, padded and pushed out of memory, and whatever else runs in between."""
    random = np.random.default_rng(seed)
    usage, run = usage_of()
    n = int(random.integers(1, 6))
    languages = [random.choice([None, "swh_Latn", "deu_Latn", "hin_Deva"]) for _ in range(n)]
    requests = [request_of(language) for language in languages]
    lengths, starts = random.integers(1, 9, n), random.integers(0, 9, n)
    chosen = [draw_ids(random, length) for length in lengths]
    done, order = [0] * n, []
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        if random.random() < 0.2:
            done[int(random.integers(n))] = 0  # its memory was taken: it runs from the start, or from what is cached
        parts = [int(random.integers(0, min(4, length - at) + 1)) for at, length in zip(done, lengths, strict=True)]
        if not (running := [index for index in range(n) if parts[index]]):
            continue
        begin(usage, *((requests[index], starts[index], done[index], parts[index]) for index in running))
        order += [languages[index] for index in running]
        step = torch.cat([chosen[i][:, done[i] : done[i] + parts[i]] for i in running], dim=1)
        step = torch.cat([step, draw_ids(random, int(random.integers(0, 5)))], dim=1)  # the size of a graph
        for layer, ids in zip(LAYERS, step, strict=True):
            run[layer](None, ids, None)
        usage.end()
        for layer, ids in zip(LAYERS, draw_ids(random, 8), strict=True):  # a dummy run, or the probe of a plan
            run[layer](None, ids, None)
        done = [at + part for at, part in zip(done, parts, strict=True)]
    apart = list(dict.fromkeys(order))[:3]
    expected = {}
    for language, start, ids in zip(languages, starts, chosen, strict=True):
        name = language if language in apart else "other"
        for position in range(ids.shape[1]):
            key = name, "generation" if position >= start else "prompt"
            tokens, counters = expected.setdefault(key, [0, [Counter() for _ in LAYERS]])
            expected[key][0] = tokens + 1
            for counter, layer in zip(counters, ids[:, position].tolist(), strict=True):
                counter.update(layer)
    answer = usage.read()
    assert answer["layers"] == list(LAYERS)
    assert flat(answer) == {
        key: (tokens, [[counter[expert] for expert in range(N_EXPERTS)] for counter in counters])
        for key, (tokens, counters) in expected.items()
    }
    assert usage.read(*[True]) == answer
    assert usage.read(*[False])["counts"] == []
    with pytest.raises(PlanError, match="takes one argument"):
        usage.read("all")


def test_memory_is_that_of_the_rows_however_many_languages_come():
    """Bytes: 8 x layers x experts x (2 phases x (n_apart + 1) + 1), and 8 for each token of a step."""
    usage, run = usage_of()

    def bytes_held():
        buffers = {buffer.data_ptr(): buffer for each in usage.layers.values() for buffer in each.buffers()}
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())

    ones = 8 * len(LAYERS)
    assert bytes_held() == 8 * len(LAYERS) * N_EXPERTS * (2 * (3 + 1) + 1) + 8 * MAX_TOKENS + ones
    before = bytes_held()
    for number in range(50):
        begin(usage, (request_of(f"x{number:02}_Latn"), 1, 0, 1))
        for layer in LAYERS:
            run[layer](None, torch.tensor([[0, 1]]), None)
        usage.end()
    assert bytes_held() == before
    assert {language: tokens for (language, _), (tokens, _) in flat(usage.read()).items()} == {
        "other": 47,
        "x00_Latn": 1,
        "x01_Latn": 1,
        "x02_Latn": 1,
    }


def test_each_plan_has_counts_of_its_own():
    """A running request whose plan is replaced is computed anew, and counts anew; one whose plan stays does not."""
    usage, run = usage_of()
    requests = [request_of("swh_Latn"), request_of("swh_Latn")]

    def step(kinds, first, n_tokens):
        numbers = np.array([first] * 2), np.array([n_tokens] * 2)
        usage.begin(requests, kinds, np.array([9, 9]), first=numbers[0], n_tokens=numbers[1])
        for layer in LAYERS:
            run[layer](None, torch.tensor([[0, 1]] * 2 * n_tokens), None)
        usage.end()

    before, after, other = (Counted(*plan, "swh_Latn") for plan in (("a", "ab"), ("a", "cd"), (None, "ef")))
    step([before, other], 0, 3)
    step([after, other], 0, 3)  # all are computed anew
    step([after, other], 3, 2)
    found = {(each["plan"], each["plan_sha256"]): each["tokens"] for each in usage.read()["counts"]}
    assert found == {("a", "ab"): 3, ("a", "cd"): 5, (None, "ef"): 5}


def probe_of(run, *, lost=()):
    """Run all layers on random tokens, as the probe of an engine does; the kernels of some choose for themselves."""

    def probe():
        seen = {layer: Observation() for layer in LAYERS}
        for layer, ids in zip(LAYERS, draw_ids(np.random.default_rng(0), 20), strict=True):
            if layer not in lost:
                run[layer](None, ids, None)
            seen[layer].chosen = ids
        return seen

    return probe


def test_counting_is_proven_at_start():
    """A layer that does not count what it chooses, or counts what is no routed expert, is refused; nothing is left."""
    usage, run = usage_of()
    usage.prove(probe_of(run))
    assert usage.read()["counts"] == []
    assert not any(each.counts[: usage.n_rows * N_EXPERTS].any() for each in usage.layers.values())
    with pytest.raises(ModelError, match=r"layer 3 chose 40 experts .* counted 0 of them"):
        usage.prove(probe_of(run, lost=(3,)))

    def shared():
        seen = {layer: Observation() for layer in LAYERS}
        for layer in LAYERS:
            seen[layer].chosen = torch.tensor([[0, 1, N_EXPERTS]])
            run[layer](None, seen[layer].chosen, None)
        return seen

    with pytest.raises(ModelError, match=r"counted 2 of them.*no routed experts"):
        usage.prove(shared)


def test_stages_of_a_pipeline_are_put_together():
    """Each has its layers; those that share a stage count the same."""
    records = [
        [{"language": None, "tokens": 2, "selections": [[1, 3]]}],
        [{"language": None, "tokens": 2, "selections": [[4, 0]]}],
    ]
    results = [{"layers": [2], "counts": records[1]}, {"layers": [1], "counts": records[0]}] * 2
    joined = of_all_stages(results)
    assert joined == {"layers": [1, 2], "counts": [{"language": None, "tokens": 2, "selections": [[1, 3], [4, 0]]}]}


def test_the_environment_says_how_many_are_told_apart():
    """Alone, too: an engine without a plan can count; a graph that counts is another graph."""
    settings = read_serving_settings({"ISOGLOSS_USAGE": "16"})
    assert (settings.usage, settings.plans, settings.kinds, settings.n_slots) == (16, {}, (), 1)
    assert read_serving_settings({"ISOGLOSS_USAGE": "0"}).usage == 0
    assert settings.summary != read_serving_settings({"ISOGLOSS_USAGE": "15"}).summary
    for text in ("", "-1", "1025", "all", "²"):
        with pytest.raises(PlanError, match=r"ISOGLOSS_USAGE is .*from 1 to 1024"):
            read_serving_settings({"ISOGLOSS_USAGE": text})
