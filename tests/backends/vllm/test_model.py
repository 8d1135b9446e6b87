"""What an evaluation asks of vLLM, and what it makes of the replies; a small transformers model stands in for it."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch
from models import TEXTS, checkpoint, tiny

from isogloss.backends.engine_model import EngineModel
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.backends.model import Sampling
from isogloss.backends.vllm.model import VLLMModel
from isogloss.backends.vllm.plugin.requests import ITEM, START
from isogloss.errors import CorpusError, ModelError, RunError
from isogloss.steering import Intervention, Plan

LIMIT = 200
PAIRS = [(TEXTS[0], " The river is deep."), (TEXTS[2], " 図書館"), (TEXTS[0], " No."), (TEXTS[5], " Then they went.")]


@dataclasses.dataclass
class Params:
    """Stands for vLLM's `SamplingParams`: every field that is used."""

    temperature: float
    max_tokens: int
    prompt_logprobs: int | None = None
    detokenize: bool = True
    extra_args: dict | None = None
    ignore_eos: bool = False
    stop_token_ids: list | None = None
    repetition_penalty: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list | None = None
    skip_special_tokens: bool = True


class Served(VLLMModel):
    """A served model without vLLM: forwards of a tiny model, and a note of all that was asked."""

    dtype = "float32"
    fingerprint = None

    def __init__(self, device="cuda", max_num_batched_tokens=64):
        self.loaded = loaded = tiny("olmoe")
        EngineModel.__init__(self, "tiny", loaded.tokenizer, loaded.config, loaded.family, loaded.routers)
        self.fingerprint = loaded.fingerprint
        model = SimpleNamespace(model=str(checkpoint("olmoe")), max_model_len=LIMIT, logprobs_mode="raw_logprobs")
        scheduler = SimpleNamespace(max_num_batched_tokens=max_num_batched_tokens)
        config = SimpleNamespace(device_config=SimpleNamespace(device_type=device), scheduler_config=scheduler)
        llm_engine = SimpleNamespace(vllm_config=config)
        self.engine = SimpleNamespace(generate=self.respond, model_config=model, llm_engine=llm_engine)
        self.asked, self.plan, self.recorded = [], None, None
        self.reason = lambda _how: None

    @torch.inference_mode()
    def respond(self, prompts, params, *, use_tqdm):
        """Read every prompt; the answer is the likeliest next token, then the end."""
        assert not use_tqdm
        self.asked.append((prompts, params))
        return [self._read(prompt["prompt_token_ids"], how) for prompt, how in zip(prompts, params, strict=True)]

    def _read(self, ids, how):
        choices = []

        def keep(_index, output):
            choices.append(output.expert_ids)

        with watch_routers(self.loaded, keep):
            scores = self.loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        if self.recorded is not None:
            item, chosen = how.extra_args[ITEM], torch.stack(choices)
            if self.plan is not None:
                chosen = chosen.flip(-1)  # the same sets
            if self.plan is not None and how.extra_args[START] == 0:
                chosen = (chosen + (torch.arange(len(ids)) < 3)[None, :, None]) % 8
            self.recorded["sampled"][item, :, : len(ids)] = chosen
        logprobs = [
            None,
            *(
                {each: SimpleNamespace(logprob=row[each].item()) for each in (int(row.argmax()), token)}
                for row, token in zip(scores, ids[1:], strict=False)
            ),
        ]
        new = [int(scores[-1].argmax()), self.tokenizer.eos_token_id]
        return SimpleNamespace(
            prompt_logprobs=logprobs, outputs=[SimpleNamespace(token_ids=new, stop_reason=self.reason(how))]
        )

    @contextmanager
    def recording(self, items):
        """Record choices alone."""
        most = max(len(item["sampled"]) for item in items)
        assert [item["counted"] for item in items] == [item["sampled"] for item in items]
        self.recorded = {"sampled": torch.full((len(items), len(self.routers), most, 2), -1)}
        self.recorded |= dict.fromkeys(("profiles", "selections"))
        yield self.recorded
        self.recorded = None

    @contextmanager
    def steer(self, plan):
        """Under a plan, the first three tokens of what is generated choose other experts."""
        self.plan = plan
        yield
        self.plan = None


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    """A module with the one class that is asked for."""
    module = ModuleType("vllm")
    module.SamplingParams = Params
    monkeypatch.setitem(sys.modules, "vllm", module)


def answer(served, texts=TEXTS[:3], n_new=4, sampling=None):
    """Answer by the engine."""
    return served.answer(texts, max_new_tokens=n_new, add_special_tokens=True, sampling=sampling)


def test_likelihoods_are_those_of_transformers():
    """Each sum is over the same tokens; every request says where its continuation begins and is read greedily."""
    served = Served()
    found = served.log_likelihoods(PAIRS, add_special_tokens=True)
    expected = served.loaded.log_likelihoods(PAIRS)
    assert [each.n_tokens for each in found] == [each.n_tokens for each in expected]
    assert [each.nats for each in found] == pytest.approx([each.nats for each in expected], rel=1e-4)
    assert [each.greedy for each in found] == [each.greedy for each in expected]
    ((prompts, params),) = served.asked
    lengths = {each.n_tokens for each in expected}
    assert {
        len(p["prompt_token_ids"]) - how.extra_args[START] for p, how in zip(prompts, params, strict=True)
    } == lengths
    assert {(how.max_tokens, how.prompt_logprobs, how.temperature) for how in params} == {(1, 1, 0.0)}


def test_answers_are_decoded_without_special_tokens():
    """The new tokens alone; vLLM's own idea of an end is switched off for that of the checkpoint."""
    served = Served()
    found = answer(served)
    reference = served.loaded
    assert found == reference.answer(TEXTS[:3], max_new_tokens=1, add_special_tokens=True, sampling=None)
    ((_, params),) = served.asked
    ends = served.loaded.model.generation_config.eos_token_id
    for how in params:
        assert how.ignore_eos
        assert how.stop_token_ids == ([] if ends is None else [ends])
        assert (how.temperature, how.max_tokens, how.seed, how.repetition_penalty) == (0.0, 4, None, 1.0)


def test_a_stop_that_only_the_engine_sees_ends_nothing():
    """Stops reach the engine; where one is not in the answer as it is decoded here, that answer is written whole."""
    served = Served()
    served.reason = lambda how: "absent" if how.stop else None
    assert served.answer(TEXTS[:2], max_new_tokens=4, add_special_tokens=True, stop=("absent", "")) == answer(
        served, TEXTS[:2]
    )
    (_, first), *again = served.asked[:3]
    assert all((how.stop, how.skip_special_tokens, how.detokenize) == (["absent"], False, True) for how in first)
    assert [(len(prompts), params[0].stop) for prompts, params in again] == [(1, None)] * 2


def test_seeds_are_of_the_item():
    """One number per seed and key, whatever the company; all settings reach vLLM."""
    seeds = []
    for texts, keys, seed in ((TEXTS[:2], ["a", "b"], 0), (TEXTS[:1], ["b"], 0), (TEXTS[:1], ["b"], 1)):
        served = Served()
        answer(served, texts, sampling=(Sampling(0.7, 0.8, 20, seed), keys))
        ((_, params),) = served.asked
        assert all((how.temperature, how.top_p, how.top_k) == (0.7, 0.8, 20) for how in params)
        seeds.append([how.seed for how in params])
    assert seeds[0][1] == seeds[1][0]
    assert len({*seeds[0], *seeds[2]}) == 3
    served = Served()
    answer(served, TEXTS[:1], sampling=(Sampling(1.0), ["a"]))
    assert served.asked[0][1][0].top_k == 0


def test_on_a_processor_no_prompt_of_a_draw_is_divided():
    """Parts hold as many prompts as one step does; greedy answers and other devices need none."""
    lengths = [len(ids) for ids in tiny("olmoe").tokenizer(list(TEXTS))["input_ids"]]
    limit = max(lengths) + 5
    keys = [str(i) for i in range(len(TEXTS))]
    for device, sampling in (("cpu", None), ("cuda", (Sampling(1.0), keys)), ("cpu", (Sampling(1.0), keys))):
        served = Served(device, limit)
        together = answer(served, TEXTS, sampling=sampling)
        assert len(together) == len(TEXTS)
    sizes = [[len(each["prompt_token_ids"]) for each in prompts] for prompts, _ in served.asked]
    assert sum(sizes, []) == lengths  # noqa: RUF017 - short
    assert len(sizes) > 1
    assert all(sum(size) + len(size) <= limit for size in sizes)
    with pytest.raises(RunError, match=f"max_num_batched_tokens={max(lengths) + 1} or more"):
        answer(Served("cpu", max(lengths)), TEXTS, sampling=sampling)


@pytest.mark.parametrize("n_spare", [0, 1])
def test_the_last_token_of_the_context_is_vllms(n_spare):
    """A text that leaves room for one token is measured, a longer one refused by its number."""
    served = Served()
    served.engine.model_config.max_model_len = len(served.tokenizer(TEXTS[0] + " No.")["input_ids"]) + n_spare
    if n_spare:
        assert served.log_likelihoods(PAIRS[2:3], add_special_tokens=True)
        return
    with pytest.raises(RunError, match=f"give --engine max_model_len={served.engine.model_config.max_model_len + 1}"):
        served.log_likelihoods(PAIRS[2:3], add_special_tokens=True)


def test_other_numbers_than_log_probabilities_are_refused():
    """An engine that was told to return logits would give nonsense."""
    served = Served()
    served.engine.model_config.logprobs_mode = "raw_logits"
    with pytest.raises(ModelError, match="returns raw_logits; expected raw_logprobs"):
        served.log_likelihoods(PAIRS, add_special_tokens=True)


@pytest.mark.parametrize("phases", [("both",), ("prompt",), ("generation",), ("prompt", "generation")])
def test_change_counts_tokens_of_the_phase(phases):
    """Tokens whose sets differ, over all tokens; texts are read as the generation only for rules of it.

    Of two readings the larger counts.
    """
    served = Served()
    plan = Plan(served.fingerprint, tuple(Intervention("ban", 1, (0,), phase=phase) for phase in phases))
    found = served.change(plan, TEXTS[:3], add_special_tokens=True)
    n_tokens = sum(len(ids) for ids in served.tokenizer(list(TEXTS[:3]))["input_ids"])
    assert found.kl is None
    assert list(found.changed) == list(served.fingerprint.layers)
    changed = 9 / n_tokens if "generation" in phases else 0.0
    assert list(found.changed.values()) == pytest.approx([changed] * len(found.changed), abs=1e-12)
    with pytest.raises(CorpusError, match="a text has no token"):
        served.change(plan, ["Yes", ""], add_special_tokens=False)
