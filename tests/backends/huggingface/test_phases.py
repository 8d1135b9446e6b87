"""Plans that edit prompt and generation differently, in every family."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import peft
import pytest
import torch
from kinds import DTYPES, EVERY_KIND, everywhere
from models import FEW, ITEM_IDS, TEXTS, each_family, generate, tiny
from slow import slow_but
from transformers import ContinuousBatchingConfig, GenerationConfig

from isogloss.backends.huggingface import HuggingFaceModel, measure_change, steer
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Intervention

N_NEW = 5


GENERATION_ONLY = (
    Intervention("force", 0, (6,), phase="generation"),
    Intervention("ban", 0, (0, 3), phase="generation"),
)
DIFFERENT = (*GENERATION_ONLY, Intervention("offset", 0, (1,), values=(20.0,), phase="prompt"))


def two_prompts(loaded):
    """Input ids ``[2, length]`` without padding."""
    ids = [loaded.tokenizer(TEXTS[index])["input_ids"] for index in (1, 5)]
    length = min(map(len, ids))
    return torch.tensor([row[:length] for row in ids])


def answer(loaded, ids, **options):
    """Generate greedily: sequences and the logits of every step."""
    options = {"max_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    options |= {"return_dict_in_generate": True, "output_logits": True, "attention_mask": torch.ones_like(ids)}
    output = loaded.model.generate(ids, **options)
    return output.sequences, torch.stack(output.logits, dim=1)


def tail_mask(ids, *starts):
    """True from the given position of each row on."""
    return torch.arange(ids.shape[1])[None] >= torch.tensor(starts)[:, None]


@torch.no_grad()
def read(loaded, ids, mask=None):
    """Logits of one forward without a cache, with some tokens marked as generated."""
    if mask is None:
        return loaded.model(ids, use_cache=False).logits
    with mark_generated(loaded, mask):
        return loaded.model(ids, use_cache=False).logits


@contextmanager
def choices_of(loaded):
    """Collect sorted expert ids ``[2, length, top_k]`` by routed layer, over all forwards inside."""
    seen = [[] for _ in loaded.router_modules]

    def keep(index, output):
        seen[index].append(output.expert_ids.sort(-1).values.view(2, -1, output.expert_ids.shape[-1]))

    found = []
    with watch_routers(loaded, keep):
        yield found
    found.extend(torch.cat(parts, dim=1) for parts in seen)


def same_choices(found, expected):
    """Whether two collections agree on all the tokens that both have read."""
    return all(torch.equal(a, b[:, : a.shape[1]]) for a, b in zip(found, expected, strict=True))


@each_family(quick=FEW)
def test_generating_equals_reading_the_same_text_with_a_mask(family):
    """Same experts and logits from a cache, token by token, as from one forward that marks the written tokens."""
    loaded = tiny(family)
    plan, ids = everywhere(loaded, *DIFFERENT), two_prompts(loaded)
    with steer(loaded, plan):
        with choices_of(loaded) as written:
            sequences, logits = answer(loaded, ids)
        mask = tail_mask(sequences, ids.shape[1], ids.shape[1])
        with choices_of(loaded) as marked:
            forced = read(loaded, sequences, mask)
        unmarked = read(loaded, sequences)
    torch.testing.assert_close(logits, forced[:, ids.shape[1] - 1 : -1], atol=2e-3, rtol=1e-3)
    assert same_choices(written, marked)
    assert not same_choices([part[:, ids.shape[1] :] for part in written], [part[:, :-1] for part in marked])
    assert (forced - unmarked)[:, ids.shape[1] :].abs().max() > 1e-2
    for part in written:
        assert (part[:, ids.shape[1] :] == 6).any(-1).all()
        assert not np.isin(part[:, ids.shape[1] :], (0, 3)).any()


@each_family(quick=FEW)
def test_a_generation_that_reads_all_tokens_again_is_steered_alike(family):
    """Without a cache, each step edits the tokens that were given and those that were written as with one."""
    loaded = tiny(family)
    plan, ids = everywhere(loaded, *DIFFERENT), two_prompts(loaded)
    with steer(loaded, plan):
        sequences, logits = answer(loaded, ids)
        again, uncached = answer(loaded, ids, use_cache=False)
    assert torch.equal(sequences, again)
    torch.testing.assert_close(logits, uncached, atol=2e-3, rtol=1e-3)


@each_family(quick=FEW)
def test_a_mask_has_a_row_of_its_own_for_every_text(family):
    """Rows of a batch with different starts are edited as each of them alone."""
    loaded = tiny(family)
    plan, ids = everywhere(loaded, *DIFFERENT), two_prompts(loaded)
    with steer(loaded, plan):
        together = read(loaded, ids, tail_mask(ids, 3, 9))
        alone = [read(loaded, ids[row : row + 1], tail_mask(ids, start)) for row, start in enumerate((3, 9))]
        swapped = read(loaded, ids, tail_mask(ids, 9, 3))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert (together - swapped).abs().max() > 1e-2


@each_family(quick=FEW)
@pytest.mark.parametrize("dtype", DTYPES)
def test_conditions_that_do_not_hold_change_no_bit(family, dtype):
    """A forward of given tokens is bit-identical under a plan for the generation, one of written under the opposite."""
    loaded = tiny(family, dtype=dtype)
    ids = two_prompts(loaded)
    plain = read(loaded, ids)
    with steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        assert torch.equal(read(loaded, ids), plain)
        assert not torch.equal(read(loaded, ids, torch.ones_like(ids, dtype=torch.bool)), plain)
    with steer(loaded, everywhere(loaded, Intervention("force", 0, (6,), phase="prompt"))):
        assert torch.equal(read(loaded, ids, torch.ones_like(ids, dtype=torch.bool)), plain)
        assert not torch.equal(read(loaded, ids), plain)


SELECT = EVERY_KIND[-1]
SPLIT = [("olmoe", each) for each in EVERY_KIND]
SPLIT += [(name, SELECT) for name in ("deepseek_v2", "deepseek_v3", "ernie4_5_moe", "phimoe", "zaya", "dbrx")]


@pytest.mark.parametrize("dtype", slow_but(DTYPES, quick=[torch.float32]))
@pytest.mark.parametrize(("family", "intervention"), SPLIT, ids=lambda each: getattr(each, "kind", each))
def test_an_intervention_split_into_its_phases_is_the_same(family, dtype, intervention):
    """Both phases at once, and one intervention for each, give bit-identical answers, token by token and in a text."""
    loaded = tiny(family, dtype=dtype)
    ids, raw = two_prompts(loaded), intervention.to_json()
    whole = everywhere(loaded, intervention)
    halves = everywhere(loaded, *(Intervention(**raw, phase=phase) for phase in ("prompt", "generation")))
    found = []
    for plan in (whole, halves):
        with steer(loaded, plan):
            found.append((*answer(loaded, ids), read(loaded, ids, tail_mask(ids, 3, 9)), read(loaded, ids)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][2], read(loaded, ids))


# What surrounds the law


def test_answers_of_our_own_generate_are_steered_in_their_phase():
    """A batch of prompts of different lengths is answered as each alone, under a plan for the generation."""
    loaded = tiny("qwen3_moe")
    plan = everywhere(loaded, *GENERATION_ONLY)
    plain = generate(loaded, TEXTS, max_new_tokens=6)
    with steer(loaded, plan):
        together = generate(loaded, TEXTS, max_new_tokens=6)
        alone = [generate(loaded, [text], max_new_tokens=6)[0] for text in TEXTS]
    assert together == alone
    assert together != plain


def test_captured_texts_are_prompts():
    """Capture under a plan for the generation sees the unsteered model."""
    loaded = tiny("olmoe")
    plain = loaded.capture(TEXTS, ITEM_IDS)
    with steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        steered = loaded.capture(TEXTS, ITEM_IDS)
    np.testing.assert_array_equal(plain.profiles, steered.profiles)


def test_the_model_is_as_before_also_after_an_error_in_generate():
    """Afterwards generate is the class's own, no hook is left, and later forwards read prompts again."""
    loaded = tiny("olmoe")
    ids, plan = two_prompts(loaded), everywhere(loaded, *GENERATION_ONLY)
    plain = read(loaded, ids)

    def interrupt(_module, _inputs, output):
        if output[0].shape[0] == 2:  # the second forward, of one token per row
            raise KeyboardInterrupt

    with steer(loaded, plan):
        handle = loaded.router_modules[0].module.register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            answer(loaded, ids)
        handle.remove()
        assert torch.equal(read(loaded, ids), plain)
    assert not vars(loaded.model).keys() & {"generate", "prepare_inputs_for_generation", "_prefill"}
    assert torch.equal(read(loaded, ids), plain)


def test_a_generate_of_the_callers_own_is_kept():
    """Who has replaced generate on the model finds the replacement there afterwards."""
    loaded = tiny("olmoe")
    own = loaded.model.generate = lambda *_, **__: "own"
    with steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        assert loaded.model.generate() == "own"
        read(loaded, two_prompts(loaded))
    assert loaded.model.generate is own


@pytest.mark.parametrize("name", ["prompt_lookup_num_tokens", "assistant_model"])
def test_ways_to_generate_that_mix_phases_are_refused(name):
    """Assisted decoding is refused."""
    loaded = tiny("qwen3_moe")
    value = tiny("qwen3_moe", seed=1).model if name == "assistant_model" else 4
    with pytest.raises(ModelError, match="without an assistant"), steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        answer(loaded, two_prompts(loaded)[:1], **{name: value})


def test_assistance_that_the_checkpoint_asks_for_is_refused():
    """The same where the model's own configuration looks proposals up in the prompt."""
    loaded = tiny("qwen3_moe")
    loaded.model.generation_config.prompt_lookup_num_tokens = 4
    with pytest.raises(ModelError, match="without an assistant"), steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        answer(loaded, two_prompts(loaded)[:1])


def by_hand(loaded, ids):
    """A loop of forwards with a cache, that nothing prepares."""
    output = loaded.model(ids, use_cache=True)
    tokens = [output.logits[:, -1:].argmax(-1)]
    for _ in range(N_NEW - 1):
        output = loaded.model(tokens[-1], past_key_values=output.past_key_values, use_cache=True)
        tokens.append(output.logits[:, -1:].argmax(-1))
    return torch.cat([ids, *tokens], dim=1)


def with_adapters(loaded, ids):
    """PEFT's own way to generate, with adapters that change nothing yet."""
    config = peft.LoraConfig(target_modules=["q_proj"])
    outer = HuggingFaceModel(peft.get_peft_model(loaded.model, config), loaded.tokenizer, name="adapted")
    with steer(outer, everywhere(outer, *DIFFERENT)):
        return answer(outer, ids)[0]


def steered_by_way(way, loaded, ids):
    """Generate under the plan on one of many ways."""
    bound = loaded.model.generate
    options = {"max_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    if way == "adapters":
        return with_adapters(loaded, ids)
    with steer(loaded, everywhere(loaded, *DIFFERENT)), torch.no_grad():
        if way == "by hand":
            return by_hand(loaded, ids)
        if way == "prefix cache":
            cache = loaded.model(ids[:, :3], use_cache=True).past_key_values
            return bound(ids, past_key_values=cache, **options)
        return bound(ids, **options, **WAYS[way])


WAYS = {"bound before": {}, "without a cache": {"use_cache": False}, "in chunks": {"prefill_chunk_size": 2}}
BEAMS = [{"num_beams": 3}, {"num_beams": 3, "use_cache": False}]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks for it
@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
@pytest.mark.parametrize("way", [*WAYS, "by hand", "prefix cache", "adapters"])
def test_every_way_to_generate_is_steered_alike(family, way):
    """What a forward is decides its phase, not the function that called it."""
    loaded = tiny(family)
    ids = two_prompts(loaded)
    plain, _ = answer(loaded, ids)
    with steer(loaded, everywhere(loaded, *DIFFERENT)):
        expected, _ = answer(loaded, ids)
    assert not torch.equal(expected, plain)
    assert torch.equal(steered_by_way(way, loaded, ids), expected)


def test_beams_are_steered_in_their_phase():
    """Beams are the same with a cache and without."""
    loaded = tiny("olmoe")
    ids = two_prompts(loaded)
    plain = [loaded.model.generate(ids, max_new_tokens=N_NEW, do_sample=False, **beams) for beams in BEAMS]
    with steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        steered = [loaded.model.generate(ids, max_new_tokens=N_NEW, do_sample=False, **beams) for beams in BEAMS]
    assert torch.equal(*steered)
    assert not torch.equal(steered[0], plain[0])


def test_forwards_that_may_be_of_either_phase_are_refused():
    """Several tokens after a cache may be given or written; a mask says which."""
    loaded = tiny("olmoe")
    ids = two_prompts(loaded)
    with steer(loaded, everywhere(loaded, *GENERATION_ONLY)), torch.no_grad():
        cache = loaded.model(ids, use_cache=True).past_key_values
        with pytest.raises(ModelError, match=r"reads 3 tokens after \d+ in its cache"):
            loaded.model(ids[:, :3], past_key_values=cache)
        with mark_generated(loaded, torch.ones(2, 3, dtype=torch.bool)):
            loaded.model(ids[:, :3], past_key_values=cache)


def test_batches_of_continuous_requests_are_refused_and_never_unsteered():
    """Requests are answered in a thread that keeps its errors: leaving the plan raises the reason."""
    loaded = tiny("qwen3_moe")
    ids = loaded.tokenizer(TEXTS[1])["input_ids"]
    config = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=2, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)  # else a cache of all memory

    def asked(plan):
        with steer(loaded, plan):
            loaded.model.generate_batch([ids], config, small)

    with pytest.raises(ModelError, match=r"another thread failed .*continuous batching"):
        asked(everywhere(loaded, *GENERATION_ONLY))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3, dtype=torch.bool), r"has shape \[2, 3\], a forward reads"),
        (torch.ones(2, 3), r"torch.float32 of shape \[2, 3\]; expected bool"),
        (torch.ones(3, dtype=torch.bool), r"of shape \[3\]; expected bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    """A mask must be of bools and have the shape of the input ids."""
    loaded = tiny("olmoe")
    with pytest.raises(ModelError, match=message), steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        read(loaded, two_prompts(loaded), mask)


def test_a_router_that_sees_other_tokens_than_the_mask_is_refused():
    """Phases are told apart only where the router has a row for every token; no mask outlives its plan."""
    loaded = tiny("olmoe")
    ids, plan = two_prompts(loaded), everywhere(loaded, *GENERATION_ONLY)
    module, hidden = loaded.router_modules[0].module, torch.ones(3, 32)
    plain = module(hidden)

    seen = []
    loaded.decoder.layers[0].register_forward_pre_hook(lambda *_: seen.append(module(hidden)[0]))
    with pytest.raises(ModelError, match=f"sees 3 tokens of a forward of {ids.numel()}"), steer(loaded, plan):
        read(loaded, ids, tail_mask(ids, 3, 9))
    with steer(loaded, plan):
        read(loaded, ids)
    assert torch.equal(seen[-1], plain[0])


def test_a_router_that_runs_by_itself_has_no_phase():
    """Outside of a forward of the model nothing says what its tokens are."""
    loaded = tiny("olmoe")
    plan = everywhere(loaded, *GENERATION_ONLY)
    with pytest.raises(ModelError, match="outside of a forward of the whole model"), steer(loaded, plan):
        loaded.router_modules[0].module(torch.ones(3, 32))


def test_a_mask_without_a_plan_or_conditions_changes_nothing():
    """Scoring may mark its tokens whatever arm is being scored, also where the plan begins inside."""
    loaded = tiny("olmoe")
    ids = two_prompts(loaded)
    mask, plan = tail_mask(ids, 3, 9), everywhere(loaded, Intervention("force", 0, (6,)))
    assert torch.equal(read(loaded, ids, mask), read(loaded, ids))
    with steer(loaded, plan):
        assert torch.equal(read(loaded, ids, mask), read(loaded, ids))
    with steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        expected = read(loaded, ids, mask)
    with mark_generated(loaded, mask), steer(loaded, everywhere(loaded, *GENERATION_ONLY)):
        assert torch.equal(read(loaded, ids), expected)


def test_plans_are_not_nested():
    """A second plan inside the first is refused; after it, the next one is not."""
    loaded = tiny("olmoe")
    plan = everywhere(loaded, *GENERATION_ONLY)
    with pytest.raises(PlanError, match="another plan is active"), steer(loaded, plan), steer(loaded, plan):
        pass
    with steer(loaded, plan):
        read(loaded, two_prompts(loaded))


def test_plans_with_languages_are_applied_by_request():
    """The model refuses the conditional plan; what it chooses for a request acts, or changes no bit."""
    loaded = tiny("olmoe")
    ids = two_prompts(loaded)
    plan = everywhere(loaded, Intervention("force", 0, (6,), languages=("sw",)))
    plain = read(loaded, ids)
    with pytest.raises(PlanError, match="for_request"), steer(loaded, plan):
        pass
    with steer(loaded, plan.for_request("de")):
        assert torch.equal(read(loaded, ids), plain)
    with steer(loaded, plan.for_request("swh_Latn")):
        assert not torch.equal(read(loaded, ids), plain)


def test_the_effect_of_a_plan_for_the_generation_is_measured_on_generated_tokens():
    """Probe texts are read in the phase that the plan edits, so that its effect is not missed."""
    loaded = tiny("olmoe")
    plan = everywhere(loaded, *GENERATION_ONLY)
    effect = measure_change(loaded, plan, TEXTS)
    effect.require(plan)
    both = everywhere(loaded, *(Intervention(each.kind, 0, each.experts) for each in GENERATION_ONLY))
    assert effect == measure_change(loaded, both, TEXTS)
