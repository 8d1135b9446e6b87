"""What a plan changes: chosen experts and next-token distributions, against a plain computation text by text."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from models import TEXTS, each_family, tiny

from isogloss.backends.huggingface import measure_effect, steer
from isogloss.backends.huggingface.change import measure_plan_effect
from isogloss.errors import CorpusError
from isogloss.steering import Intervention, Plan

STRONG = Intervention("ban", 2, (0, 1, 2))
ANSWERS = tuple(f" {text}" for text in reversed(TEXTS))


def plan_of(loaded, *interventions):
    """A plan for this model."""
    return Plan(fingerprint=loaded.fingerprint(), interventions=interventions, provenance={"test": "test"})


def naive(loaded, plan, ids, start):
    """Divergence at each position from ``start``, summed over the vocabulary in double precision."""
    with torch.no_grad():
        plain = loaded.model(torch.tensor([ids])).logits[0].double().softmax(-1).numpy()
        with steer(loaded, plan):
            steered = loaded.model(torch.tensor([ids])).logits[0].double().softmax(-1).numpy()
    return (plain * np.log(plain / steered)).sum(-1)[start:]


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe", "mixtral"])
def test_divergence_is_that_of_each_text_alone(family):
    """Per text and per token equal to a plain forward of that text; choices are those of `measure_effect`."""
    loaded = tiny(family)
    plan = plan_of(loaded, STRONG)
    found = measure_plan_effect(loaded, plan, TEXTS)
    parts = [naive(loaded, plan, loaded.tokenizer(text)["input_ids"], 0) for text in TEXTS]
    assert found.kl_per_item == pytest.approx([part.mean() for part in parts], rel=1e-3)
    assert found.kl.value == pytest.approx(np.concatenate(parts).mean(), rel=1e-3)
    assert found.n_tokens == sum(map(len, parts))
    assert found.kl.value > 1e-5
    shares = {layer: share.value for layer, share in found.changed.items()}
    assert shares == pytest.approx(measure_effect(loaded, plan, TEXTS).changed)
    assert shares[2] > 0.2


@each_family()
def test_an_empty_plan_changes_exactly_nothing(family):
    """Not even the last bit of a distribution."""
    loaded = tiny(family)
    found = measure_plan_effect(loaded, plan_of(loaded), TEXTS)
    assert (found.kl.value, found.kl.low, found.kl.high) == (0.0, 0.0, 0.0)
    assert not any(found.kl_per_item)
    assert not any(share.value for share in found.changed.values())


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_batches_and_padding_do_not_matter(batch_tokens):
    """Texts alone, in twos, or all together give the same numbers, in the order given."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    found = measure_plan_effect(loaded, plan, TEXTS, batch_tokens=batch_tokens)
    alone = [measure_plan_effect(loaded, plan, [text]).kl.value for text in TEXTS]
    assert found.kl_per_item == pytest.approx(alone, rel=1e-3)


def test_with_continuations_only_what_predicts_them_is_measured():
    """From the last token of the prompt to the last but one of the continuation."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    found = measure_plan_effect(loaded, plan, TEXTS, continuations=ANSWERS)
    parts = []
    for prompt, answer in zip(TEXTS, ANSWERS, strict=True):
        first = loaded.tokenizer(prompt)["input_ids"]
        second = loaded.tokenizer(answer, add_special_tokens=False)["input_ids"]
        parts.append(naive(loaded, plan, first + second, len(first) - 1)[: len(second)])
    assert found.kl_per_item == pytest.approx([part.mean() for part in parts], rel=1e-3)
    assert found.n_tokens == sum(map(len, parts))


def test_long_texts_are_compared_in_portions(monkeypatch):
    """Portions of positions give what the whole gives."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    whole = measure_plan_effect(loaded, plan, TEXTS)
    monkeypatch.setattr("isogloss.backends.huggingface.change._CHUNK", 3)
    assert measure_plan_effect(loaded, plan, TEXTS).kl_per_item == pytest.approx(whole.kl_per_item, rel=1e-5)


def test_impossible_tokens_do_not_spoil_the_divergence():
    """A vocabulary entry whose logit is minus infinity adds nothing."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    handle = loaded.model.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: torch.cat([torch.full_like(logits[..., :1], -torch.inf), logits[..., 1:]], -1)
    )
    found = measure_plan_effect(loaded, plan, TEXTS)
    handle.remove()
    assert np.isfinite(found.kl_per_item).all()
    assert found.kl.value == pytest.approx(measure_plan_effect(loaded, plan, TEXTS).kl.value, rel=0.05)


def test_the_interval_resamples_texts():
    """Texts that differ leave doubt, equal texts none, and one text has no interval; all survives JSON."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    found = measure_plan_effect(loaded, plan, TEXTS)
    assert found.kl.low < found.kl.value < found.kl.high
    assert found.kl.n == len(TEXTS)
    same = measure_plan_effect(loaded, plan, [TEXTS[0]] * 4).kl
    assert same.high - same.low < 1e-6 * same.value
    raw = json.loads(json.dumps(measure_plan_effect(loaded, plan, TEXTS[:1]).to_json(), allow_nan=False))
    assert raw["kl"]["low"] is None
    assert set(raw["changed"]) == {str(router.spec.layer) for router in loaded.routers}


def test_the_interval_is_of_the_mean_over_tokens():
    """Long texts weigh as much as their tokens do, in every resample; drawn here text by text."""
    loaded = tiny("olmoe")
    found = measure_plan_effect(loaded, plan_of(loaded, STRONG), TEXTS)
    n_tokens = np.array([len(loaded.tokenizer(text)["input_ids"]) for text in TEXTS])
    drawn = np.random.default_rng(0).integers(0, len(TEXTS), (20_000, len(TEXTS)))
    means = (np.array(found.kl_per_item) * n_tokens)[drawn].sum(1) / n_tokens[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.kl.low, found.kl.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_bfloat16_distributions_are_compared_in_float32():
    """Within a few per cent of the double-precision divergence of the same bfloat16 logits."""
    loaded = tiny("olmoe", dtype=torch.bfloat16)
    plan = plan_of(loaded, STRONG)
    found = measure_plan_effect(loaded, plan, TEXTS, batch_tokens=1)
    parts = [naive(loaded, plan, loaded.tokenizer(text)["input_ids"], 0) for text in TEXTS]
    assert found.kl_per_item == pytest.approx([part.mean() for part in parts], rel=1e-3)


@pytest.mark.parametrize(
    ("prompts", "continuations", "message"),
    [
        ([], None, "found 0 prompts"),
        (["a"], ["b", "c"], "1 prompts and 2 continuations"),
        (["a", "b"], ["c", ""], "item 1 has no token"),
    ],
)
def test_nothing_to_measure_is_an_error(prompts, continuations, message):
    """No prompts, continuations that do not pair up, and empty ones are refused."""
    loaded = tiny("olmoe")
    with pytest.raises(CorpusError, match=message):
        measure_plan_effect(loaded, plan_of(loaded), prompts, continuations=continuations)


def by_phase(loaded):
    """Rules of either phase, in all layers."""
    rules = [Intervention("ban", router.spec.layer, (0, 1, 2), phase="generation") for router in loaded.routers]
    rules += [Intervention("force", router.spec.layer, (6,), phase="prompt") for router in loaded.routers]
    return plan_of(loaded, *rules)


def test_a_phase_is_measured_on_texts_read_in_it():
    """A plan for the generation changes what the same plan for both phases does; so does one for the prompt."""
    loaded = tiny("olmoe")
    expected = measure_plan_effect(loaded, plan_of(loaded, STRONG), TEXTS)
    for phase in ("generation", "prompt"):
        found = measure_plan_effect(loaded, plan_of(loaded, dataclasses.replace(STRONG, phase=phase)), TEXTS)
        assert found == expected
    assert expected.kl.value > 0


def test_of_two_phases_the_larger_change_counts():
    """Choices are those of `measure_effect`, and the divergence is the larger one of the two phases alone."""
    loaded = tiny("olmoe")
    plan = by_phase(loaded)
    found = measure_plan_effect(loaded, plan, TEXTS)
    alone = []
    for phase in ("prompt", "generation"):
        rules = [dataclasses.replace(each, phase="both") for each in plan.interventions if each.phase == phase]
        alone.append(measure_plan_effect(loaded, plan_of(loaded, *rules), TEXTS))
    assert alone[0].kl.value != alone[1].kl.value
    largest = max(alone, key=lambda effect: effect.kl.value)
    assert found.kl == largest.kl
    assert found.kl_per_item == largest.kl_per_item
    assert found.changed == {k: max((each.changed[k] for each in alone), key=lambda s: s.value) for k in found.changed}
    shares = {layer: share.value for layer, share in found.changed.items()}
    assert shares == pytest.approx(measure_effect(loaded, plan, TEXTS).changed)


def forced_logits(loaded, ids, answer):
    """Logits ``[len(answer), vocabulary]`` of the model's own ``generate``, made to write a given answer by a cache."""
    whole = [*ids, *answer]
    output = loaded.model.generate(
        torch.tensor([ids]),
        max_new_tokens=len(answer),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda _row, read: [whole[len(read)]],
        return_dict_in_generate=True,
        output_logits=True,
    )
    return torch.cat(output.logits).double()


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
def test_a_continuation_is_read_as_what_the_model_wrote(family):
    """The divergence equals that of real decoding of the same answers with and without a plan for both phases."""
    loaded = tiny(family)
    plan = by_phase(loaded)
    found = measure_plan_effect(loaded, plan, TEXTS[:3], continuations=ANSWERS[:3])
    for item, (prompt, answer) in enumerate(zip(TEXTS[:3], ANSWERS[:3], strict=True)):
        ids = loaded.tokenizer(prompt)["input_ids"]
        written = loaded.tokenizer(answer, add_special_tokens=False)["input_ids"]
        plain = forced_logits(loaded, ids, written).log_softmax(-1)
        with steer(loaded, plan):
            steered = forced_logits(loaded, ids, written).log_softmax(-1)
        expected = (plain.exp() * (plain - steered)).sum(-1).mean().item()
        assert found.kl_per_item[item] == pytest.approx(expected, rel=1e-3)
        assert expected > 1e-5


def test_prompts_of_a_chat_template_get_no_second_beginning():
    """Without special tokens, what is measured are the tokens of the text alone; chosen experts too."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    found = measure_plan_effect(loaded, plan, TEXTS, add_special_tokens=False)
    assert found.kl_per_item == pytest.approx([naive(loaded, plan, each, 0).mean() for each in ids], rel=1e-3)
    assert found.n_tokens == sum(map(len, ids)) < measure_plan_effect(loaded, plan, TEXTS).n_tokens
    changed = measure_effect(loaded, plan, TEXTS, add_special_tokens=False).changed
    assert changed == pytest.approx({layer: share.value for layer, share in found.changed.items()})
    assert changed != pytest.approx(measure_effect(loaded, plan, TEXTS).changed)
