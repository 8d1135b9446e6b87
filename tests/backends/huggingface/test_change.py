"""What a plan changes: chosen experts and next-token distributions, against a plain computation text by text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from kinds import plan_of
from models import FEW, TEXTS, each_family, tiny

from isogloss.backends.huggingface import measure_change, steer
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import CorpusError
from isogloss.steering import Intervention

STRONG = Intervention("ban", 2, (0, 1, 2))


def naive(loaded, plan, ids):
    """Divergence at each position, summed over the vocabulary in double precision."""
    with torch.no_grad():
        plain = loaded.model(torch.tensor([ids])).logits[0].double().softmax(-1).numpy()
        with steer(loaded, plan):
            steered = loaded.model(torch.tensor([ids])).logits[0].double().softmax(-1).numpy()
    return (plain * np.log(plain / steered)).sum(-1)


@torch.no_grad()
def shares_changed(loaded, plan, texts, **options):
    """Share of tokens whose set of experts differs, of texts run alone; of two phases the larger, by layer."""
    ids = [loaded.tokenizer(text, return_tensors="pt", **options)["input_ids"] for text in texts]

    def choices(phase="prompt"):
        seen = [[] for _ in loaded.router_modules]
        with watch_routers(loaded, lambda index, output: seen[index].append(output.expert_ids.sort(-1).values)):
            for each in ids:
                with mark_generated(loaded, torch.full_like(each, phase == "generation", dtype=torch.bool)):
                    loaded.decoder(input_ids=each, use_cache=False)
        return [torch.cat(parts) for parts in seen]

    plain, largest = choices(), dict.fromkeys((router.spec.layer for router in loaded.router_modules), 0.0)
    for phase in plan.phases or ("prompt",):
        with steer(loaded, plan):
            steered = choices(phase)
        for layer, before, after in zip(largest, plain, steered, strict=True):
            largest[layer] = max(largest[layer], (before != after).any(-1).double().mean().item())
    return largest


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe", "mixtral"])
def test_divergence_is_that_of_each_text_alone(family):
    """Per text and per token equal to a plain forward of that text; so are the choices."""
    loaded = tiny(family)
    plan = plan_of(loaded, STRONG)
    found = measure_change(loaded, plan, TEXTS)
    parts = [naive(loaded, plan, loaded.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert found.kl_per_item == pytest.approx([part.mean() for part in parts], rel=1e-3)
    assert found.kl.value == pytest.approx(np.concatenate(parts).mean(), rel=1e-3)
    assert found.n_tokens == sum(map(len, parts))
    assert found.kl.value > 1e-5
    assert found.changed == pytest.approx(shares_changed(loaded, plan, TEXTS))
    assert found.changed[2] > 0.2


@each_family(quick=FEW)
def test_an_empty_plan_changes_exactly_nothing(family):
    """Not even the last bit of a distribution."""
    loaded = tiny(family)
    found = measure_change(loaded, plan_of(loaded), TEXTS)
    assert (found.kl.value, found.kl.low, found.kl.high) == (0.0, 0.0, 0.0)
    assert not any(found.kl_per_item)
    assert not any(found.changed.values())
    assert found.other_tokens == 0


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_batches_and_padding_do_not_matter(batch_tokens):
    """Texts alone, in twos, or all together give the same numbers, in the order given."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    found = measure_change(loaded, plan, TEXTS, batch_tokens=batch_tokens)
    alone = [measure_change(loaded, plan, [text]).kl.value for text in TEXTS]
    assert found.kl_per_item == pytest.approx(alone, rel=1e-3)


def test_long_texts_are_compared_in_portions(monkeypatch):
    """Portions of positions give what the whole gives."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    whole = measure_change(loaded, plan, TEXTS)
    monkeypatch.setattr("isogloss.backends.huggingface.change._CHUNK", 3)
    assert measure_change(loaded, plan, TEXTS).kl_per_item == pytest.approx(whole.kl_per_item, rel=1e-5)


def test_impossible_tokens_do_not_spoil_the_divergence():
    """A vocabulary entry whose logit is minus infinity adds nothing."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    handle = loaded.model.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: torch.cat([torch.full_like(logits[..., :1], -torch.inf), logits[..., 1:]], -1)
    )
    found = measure_change(loaded, plan, TEXTS)
    handle.remove()
    assert np.isfinite(found.kl_per_item).all()
    assert found.kl.value == pytest.approx(measure_change(loaded, plan, TEXTS).kl.value, rel=0.05)


def test_the_interval_resamples_texts():
    """Texts that differ leave doubt, equal texts none, and one text has no interval."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    found = measure_change(loaded, plan, TEXTS)
    assert found.kl.low < found.kl.value < found.kl.high
    assert found.kl.n == len(TEXTS)
    same = measure_change(loaded, plan, [TEXTS[0]] * 4).kl
    assert same.high - same.low < 1e-6 * same.value
    alone = measure_change(loaded, plan, TEXTS[:1])
    assert alone.kl.to_json()["low"] is None
    assert list(alone.changed) == [router.spec.layer for router in loaded.router_modules]


def test_the_interval_is_of_the_mean_over_tokens():
    """Long texts weigh as much as their tokens do, in every resample; drawn here text by text."""
    loaded = tiny("olmoe")
    found = measure_change(loaded, plan_of(loaded, STRONG), TEXTS)
    n_tokens = np.array([len(loaded.tokenizer(text)["input_ids"]) for text in TEXTS])
    drawn = np.random.default_rng(0).integers(0, len(TEXTS), (20_000, len(TEXTS)))
    means = (np.array(found.kl_per_item) * n_tokens)[drawn].sum(1) / n_tokens[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.kl.low, found.kl.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_bfloat16_distributions_are_compared_in_float32():
    """Within a few per cent of the double-precision divergence of the same bfloat16 logits."""
    loaded = tiny("olmoe", dtype=torch.bfloat16)
    plan = plan_of(loaded, STRONG)
    found = measure_change(loaded, plan, TEXTS, batch_tokens=1)
    parts = [naive(loaded, plan, loaded.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert found.kl_per_item == pytest.approx([part.mean() for part in parts], rel=1e-3)


@pytest.mark.parametrize("texts", [[], ["a", ""]])
def test_nothing_to_measure_is_an_error(texts):
    """No texts, and empty ones, are refused."""
    loaded = tiny("olmoe")
    with pytest.raises(CorpusError, match="a text has no token"):
        measure_change(loaded, plan_of(loaded), texts, add_special_tokens=False)


def by_phase(loaded):
    """Rules of either phase, in all layers."""
    rules = [Intervention("ban", router.spec.layer, (0, 1, 2), phase="generation") for router in loaded.router_modules]
    rules += [Intervention("force", router.spec.layer, (6,), phase="prompt") for router in loaded.router_modules]
    return plan_of(loaded, *rules)


def test_a_phase_is_measured_on_texts_read_in_it():
    """A plan for the generation changes what the same plan for both phases does; so does one for the prompt."""
    loaded = tiny("olmoe")
    expected = measure_change(loaded, plan_of(loaded, STRONG), TEXTS)
    for phase in ("generation", "prompt"):
        found = measure_change(loaded, plan_of(loaded, dataclasses.replace(STRONG, phase=phase)), TEXTS)
        assert found == expected
    assert expected.kl.value > 0


def test_of_two_phases_the_larger_change_counts():
    """Choices are those of each text alone, and the divergence is the larger one of the two phases alone."""
    loaded = tiny("olmoe")
    plan = by_phase(loaded)
    found = measure_change(loaded, plan, TEXTS)
    alone = []
    for phase in ("prompt", "generation"):
        rules = [dataclasses.replace(each, phase="both") for each in plan.interventions if each.phase == phase]
        alone.append(measure_change(loaded, plan_of(loaded, *rules), TEXTS))
    assert alone[0].kl.value != alone[1].kl.value
    largest = max(alone, key=lambda effect: effect.kl.value)
    assert found.kl == largest.kl
    assert found.kl_per_item == largest.kl_per_item
    assert found.changed == {k: max(each.changed[k] for each in alone) for k in found.changed}
    assert found.other_tokens == max(each.other_tokens for each in alone)
    assert found.changed == pytest.approx(shares_changed(loaded, plan, TEXTS))


def test_prompts_of_a_chat_template_get_no_second_beginning():
    """Without special tokens, what is measured are the tokens of the text alone; chosen experts too."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, STRONG)
    ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    found = measure_change(loaded, plan, TEXTS, add_special_tokens=False)
    assert found.kl_per_item == pytest.approx([naive(loaded, plan, each).mean() for each in ids], rel=1e-3)
    assert found.n_tokens == sum(map(len, ids)) < measure_change(loaded, plan, TEXTS).n_tokens
    assert found.changed == pytest.approx(shares_changed(loaded, plan, TEXTS, add_special_tokens=False))
    assert found.changed != pytest.approx(measure_change(loaded, plan, TEXTS).changed)
