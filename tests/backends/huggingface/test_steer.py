"""Plans change what routers choose, exactly as the reference says, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from configs import randomise, tiny_config
from deadline import PATIENCE
from kinds import DTYPES, EVERY_KIND, LAST, LOGIT_KINDS, plan_of
from models import FAMILIES, FEW, ITEM_IDS, TEXTS, each_family, row_for, tiny, tokenizer
from slow import slow_but
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from transformers import AutoModelForCausalLM

from isogloss import routing
from isogloss.backends.huggingface import HuggingFaceModel, measure_change, steer, steered_router
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Intervention, apply_choice, apply_edit, compile_layer

LONG = " ".join(TEXTS)


_MOST_CHOSEN = {}


def most_chosen_first(loaded):
    """Experts of the last routed layer, the most chosen first; captured once from each untouched tiny model."""
    key = loaded.name, loaded.model.dtype
    if key not in _MOST_CHOSEN:
        counts = loaded.capture([LONG], ["long"]).selections[0, -1]
        _MOST_CHOSEN[key] = np.argsort(-counts, kind="stable")
    return _MOST_CHOSEN[key]


def in_last_layer(loaded, intervention):
    """The intervention moved to the last routed layer, which no routed one follows; expert 0 is the most chosen."""
    spec, most_chosen = loaded.router_modules[-1].spec, most_chosen_first(loaded)
    experts = tuple(int(most_chosen[expert]) for expert in intervention.experts)
    experts = experts[: spec.top_k] if intervention.kind == "force" else experts
    return dataclasses.replace(intervention, layer=spec.layer, experts=experts)


def observe(loaded, text=TEXTS[1]):
    """(output logits, what each router returned by layer) of a plain forward."""
    seen = {}

    def keep(index, output):
        seen[loaded.router_modules[index].spec.layer] = output

    with watch_routers(loaded, keep), torch.no_grad():
        output = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits
    return output, seen


def edited_logits(router, plain, edit, product):
    """The router's logits after the edit, by NumPy: from its product where one was seen, else from what it returned."""
    cap = getattr(router.module, "router_logit_softcapping", 0)
    factor = getattr(router.module, "output_multiplier", 1)
    logits = (plain.router_logits if product is None else product).float().numpy() / factor
    edited = apply_edit(cap * np.arctanh(logits / cap) if cap else logits, edit)
    return factor * (cap * np.tanh(edited / cap) if cap else edited)


def best_first(scores, expert_ids):
    """Ids of each token in the order of their scores; experts with equal scores may stand for each other."""
    order = np.argsort(-np.take_along_axis(scores, expert_ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(expert_ids, order, axis=1), order


@each_family()
@pytest.mark.parametrize("dtype", slow_but(DTYPES, quick=[torch.float32]))
def test_empty_plan_changes_no_bit(family, dtype):
    """An empty plan gives bit-identical logits and attaches nothing."""
    loaded = tiny(family, dtype=dtype)
    before, _ = observe(loaded)
    with steer(loaded, plan_of(loaded)):
        assert not any("forward" in vars(router.module) for router in loaded.router_modules)
        assert "forward" not in vars(loaded.decoder)
        inside, _ = observe(loaded)
    assert torch.equal(before, inside)


ROUNDED_SCORES = {
    "dbrx": "softmax of 16-bit logits",
    "deepseek_v4": "square root of softplus of 16-bit logits",
    "lfm2_moe": "sigmoid of 16-bit logits",
    "mistral3": "softmax of 16-bit logits",
    "mistral4": "softmax of 16-bit logits",
}
"""Families that round scores before they choose; steered, they score in float32, so that choices can differ."""


def is_rounded(family, dtype):
    """Whether scores are rounded before the choice where the logits are left in their dtype."""
    return dtype == torch.bfloat16 and family in ROUNDED_SCORES


@each_family()
@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_offsets_too_small_for_any_logit_change_no_bit_in_bfloat16(family, value):
    """Tokens whose logits keep their values keep their weights too, rounded as without a plan."""
    if value and family in ROUNDED_SCORES:
        pytest.skip(f"{family} chooses by the {ROUNDED_SCORES[family]}")
    loaded = tiny(family, dtype=torch.bfloat16)
    before, _ = observe(loaded, LONG)
    offsets = [Intervention("offset", r.spec.layer, (0, 1, 2), values=(value,) * 3) for r in loaded.router_modules]
    with steer(loaded, plan_of(loaded, *offsets)):
        inside, _ = observe(loaded, LONG)
    assert torch.equal(before, inside)


@each_family()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("intervention", slow_but(EVERY_KIND, quick=LOGIT_KINDS), ids=lambda i: i.kind)
def test_equals_editing_the_reference_router(family, dtype, intervention):
    """The steered choice and weights are the reference router's on edited logits, and differ from the unsteered."""
    loaded = tiny(family, dtype=dtype)
    router = loaded.router_modules[-1]
    layer, n_experts = router.spec.layer, router.spec.n_experts
    plan = plan_of(loaded, in_last_layer(loaded, intervention))
    products = []
    if loaded.family.returns == "probabilities":  # logits are known up to a constant, which one kind depends on
        router.module.proj.register_forward_hook(lambda _module, _inputs, output: products.append(output))
    plain, before = observe(loaded, LONG)
    with steer(loaded, plan):
        steered, after = observe(loaded, LONG)
    edit = compile_layer(plan, layer, n_experts)
    logits = edited_logits(router, before[layer], edit, products[0] if products else None)
    ranked = routing.choice_scores(logits, router.spec, router.selection_bias(), select=edit.select)
    scores = apply_choice(ranked, edit)
    ids, order = best_first(scores, after[layer].expert_ids.numpy())
    best = -np.sort(-scores, axis=1)[:, : router.spec.top_k]
    rounding = 2**-8 if is_rounded(family, dtype) and not edit.edits_logits else 1e-6
    np.testing.assert_allclose(np.take_along_axis(scores, ids, axis=1), best, rtol=rounding, atol=rounding)
    weights = np.take_along_axis(after[layer].combine_weights.float().numpy(), order, axis=1)
    expected = routing.combine_weights(logits, ids, router.spec, router.expert_scale())
    np.testing.assert_allclose(weights, expected, atol=1e-5 if dtype == torch.float32 else 1e-2)
    if intervention.kind in ("force", "suppress", "ban", "select"):  # the others may change weights alone
        assert (after[layer].expert_ids.sort().values != before[layer].expert_ids.sort().values).any()
    assert not torch.equal(plain, steered)


BIASED = tuple(name for name in FAMILIES if row_for(name).selection_bias)


def everywhere_selected(loaded, experts=(2, 5), values=(0.3, -0.2)):
    """A plan that selects in every routed layer."""
    layers = [router.spec.layer for router in loaded.router_modules]
    return plan_of(loaded, *(Intervention("select", layer, experts, values=values) for layer in layers))


@each_family(BIASED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_select_does_bit_for_bit_what_another_bias_does(family, dtype):
    """The independent answer: a model whose own bias tensors hold the sum; the biases at hand are random."""
    loaded, changed = tiny(family, dtype=dtype), tiny(family, dtype=dtype)
    plain, _ = observe(loaded, LONG)
    for router in changed.router_modules:
        assert router.held_bias.float().std() > 0.03
        router.held_bias.data = router.held_bias.data.float()  # 16 bits would round the sum
        router.held_bias.data.view(-1)[[2, 5]] += torch.tensor([0.3, -0.2]).to(router.held_bias.device)
    expected, theirs = observe(changed, LONG)
    with steer(loaded, everywhere_selected(loaded)):
        found, ours = observe(loaded, LONG)
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)
    for layer, output in ours.items():
        assert all(torch.equal(one, other) for one, other in zip(output, theirs[layer], strict=True))


@each_family()
def test_select_leaves_the_weights_alone(family):
    """In 16 bits too, bit by bit: a constant that changes no choice changes nothing, and no logit ever changes."""
    loaded = tiny(family, dtype=torch.bfloat16)
    before, plain = observe(loaded, LONG)
    with steer(loaded, everywhere_selected(loaded, values=(1e-30, 0.0))):
        inside, _ = observe(loaded, LONG)
    first = loaded.router_modules[0].spec.layer
    with steer(loaded, everywhere_selected(loaded)):
        _, after = observe(loaded, LONG)
    assert torch.equal(before, inside)
    assert torch.equal(after[first].router_logits, plain[first].router_logits)
    assert (after[first].expert_ids.sort().values != plain[first].expert_ids.sort().values).any()


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "phimoe", "olmoe", "dbrx"])
def test_a_choice_that_select_does_not_reach_is_an_error(family, monkeypatch):
    """One family for every place in which it acts: the sum, before groups, two maxima, one topk, outside the router."""
    loaded = tiny(family)
    for name in ("_SUMS", "_SCORES", "_MAX", "_TOPK"):
        monkeypatch.setattr(steered_router, name, ())
    with pytest.raises(ModelError, match=r"ran once; .* does not reach"), steer(loaded, everywhere_selected(loaded)):
        observe(loaded)


def require_forced_and_banned(loaded, forced, banned):
    """Captured under a plan for all layers that also selects the other way: all choose the one, none the others."""
    layers = [router.spec.layer for router in loaded.router_modules]
    against = {"experts": (forced, *banned), "values": (-5.0,) + (5.0,) * len(banned)}
    edits = [Intervention("select", n, **against) for n in layers]
    edits += [e for n in layers for e in (Intervention("force", n, (forced,)), Intervention("ban", n, banned))]
    with steer(loaded, plan_of(loaded, *edits)):
        captured = loaded.capture(TEXTS, ITEM_IDS)
    expected = captured.tokens[:, None].repeat(len(layers), 1)
    np.testing.assert_array_equal(captured.selections[:, :, forced], expected)
    assert captured.selections[:, :, list(banned)].sum() == 0
    np.testing.assert_array_equal(captured.selections.sum(-1), expected * loaded.fingerprint.top_k)  # no expert twice


@each_family()
@pytest.mark.parametrize("dtype", DTYPES)
def test_force_and_ban_hold_for_every_token(family, dtype):
    """Captured under the plan, a forced expert is chosen by every token and a banned one by none, in all its layers."""
    loaded = tiny(family, dtype=dtype)
    require_forced_and_banned(loaded, 5, (0, 3))


@each_family()
def test_force_and_ban_hold_against_bias_groups_and_saturation(family):
    """They hold where logits saturate, where the bias favours the banned and where all favour another group."""
    loaded = tiny(family)
    for router in loaded.router_modules:
        router.module.get_parameter(router.weight_name).data.mul_(30)
        if router.bias_name is not None:
            holder = router.module if hasattr(router.module, router.bias_name.split(".")[0]) else router.block
            bias = holder.get_submodule(router.bias_name.rpartition(".")[0])._parameters | dict(holder.named_buffers())
            bias[router.bias_name.rpartition(".")[2]].data.flatten()[:4] += 5.0
    require_forced_and_banned(loaded, 6, (0, 3))


@each_family()
@pytest.mark.parametrize("implementation", slow_but(["eager", "grouped_mm", "batched_mm"], quick=["batched_mm"]))
def test_steered_outputs_agree_between_expert_implementations(family, implementation):
    """How experts are multiplied does not change what a plan does."""
    loaded = tiny(family)
    plan = plan_of(loaded, in_last_layer(loaded, EVERY_KIND[0]))
    with steer(loaded, plan):
        expected, _ = observe(loaded)
        try:
            loaded.model.set_experts_implementation(implementation)
        except ValueError as error:
            pytest.skip(str(error))
        output, _ = observe(loaded)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


@each_family(quick=FEW)
def test_generation_is_steered_at_every_step(family):
    """Greedy generation under a plan equals greedy search by full steered forwards, and differs from unsteered."""
    loaded = tiny(family)
    plan = plan_of(loaded, *(Intervention("offset", r.spec.layer, (6,), values=(20.0,)) for r in loaded.router_modules))
    ids = loaded.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True, "attention_mask": torch.ones_like(ids)}
    plain = loaded.model.generate(ids, **options)
    with steer(loaded, plan), torch.no_grad():
        steered = loaded.model.generate(ids, **options)
        for step in range(8):
            full = loaded.model(ids).logits[:, -1]
            torch.testing.assert_close(steered.logits[step], full, atol=2e-3, rtol=1e-3)
            assert (steered.logits[step] - plain.logits[step]).abs().max() > 2e-2
            ids = torch.cat([ids, full.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(steered.sequences, ids)


@each_family()
def test_leaving_restores_every_bit(family):
    """After the context, also after an exception inside a forward, outputs are as before and no hook is left."""
    loaded = tiny(family)
    before, _ = observe(loaded)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = loaded.router_modules[-1].module.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), steer(loaded, plan_of(loaded, in_last_layer(loaded, EVERY_KIND[1]))):
        observe(loaded)
    handle.remove()
    after, _ = observe(loaded)
    assert torch.equal(before, after)
    for module in (loaded.decoder, *(router.module for router in loaded.router_modules)):
        assert "forward" not in vars(module)
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError])
@pytest.mark.parametrize("point", ["linear", "topk"])
def test_an_interrupt_inside_a_router_ends_its_edit(interrupt, point):
    """Whatever is raised between product and choice, later forwards are edited once, and none after the context."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, *(Intervention("force", r.spec.layer, (5,)) for r in loaded.router_modules))
    before, captured = observe(loaded)[0], loaded.capture(TEXTS, ITEM_IDS)
    with steer(loaded, plan):
        steered, _ = observe(loaded)

    class Interrupted(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func.__name__ == point and (point == "topk" or args[1].shape == loaded.router_modules[0].weight_shape):
                raise interrupt
            return func(*args, **(kwargs or {}))

    with steer(loaded, plan):
        with pytest.raises(interrupt), Interrupted(), torch.no_grad():
            loaded.model(**loaded.tokenizer(TEXTS[1], return_tensors="pt"))
        assert not _get_current_function_mode_stack()
        again, _ = observe(loaded)
    after = loaded.capture(TEXTS, ITEM_IDS)
    assert torch.equal(again, steered)
    assert torch.equal(observe(loaded)[0], before)
    np.testing.assert_array_equal(after.selections, captured.selections)
    np.testing.assert_array_equal(after.profiles, captured.profiles)


# An interrupt inside a finaliser of Python's own is only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_nothing_behind():
    """A real signal, at many moments of a steered forward, in whatever instruction it falls."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, *(Intervention("force", r.spec.layer, (5,)) for r in loaded.router_modules))
    before, _ = observe(loaded)
    former = signal.signal(signal.SIGALRM, signal.default_int_handler)
    n_interrupted = 0
    try:
        for microseconds in range(50, 4050, 50):
            with suppress(KeyboardInterrupt), steer(loaded, plan):
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                for _ in range(50):
                    observe(loaded)
            signal.setitimer(signal.ITIMER_REAL, 0)
            torch.set_grad_enabled(True)  # the interrupt may fall into the end of torch's own no_grad
            after, _ = observe(loaded)
            n_interrupted += 1
            assert not _get_current_function_mode_stack(), microseconds
            assert torch.equal(after, before), microseconds
            assert not [module for module in loaded.model.modules() if "forward" in vars(module)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert n_interrupted == 80


@pytest.mark.parametrize("left", [0, 1, 2])
def test_runs_that_an_interrupt_left_or_lost_are_no_later_fault(left):
    """Torch takes a mode off and puts it back around every function; an interrupt in between can lose it."""
    loaded = tiny("olmoe")
    plan = plan_of(loaded, Intervention("force", LAST, (5,)))
    before, _ = observe(loaded)
    plain = loaded.router_modules[-1].module.forward

    def interrupted(_hidden):
        run = _pop_mode()
        for _ in range(left):
            _push_mode(run)
        raise KeyboardInterrupt

    loaded.router_modules[-1].module.forward = interrupted
    with pytest.raises(KeyboardInterrupt), steer(loaded, plan):
        observe(loaded)
    assert not _get_current_function_mode_stack()
    loaded.router_modules[-1].module.forward = plain
    assert torch.equal(observe(loaded)[0], before)
    loaded.capture(TEXTS, ITEM_IDS)


@pytest.mark.parametrize("by_phase", [False, True])
def test_threads_are_steered_each_by_itself(by_phase):
    """Requests of many threads under one plan give what each gives alone, and afterwards what they give without it."""
    loaded = tiny("olmoe")
    phase = {"phase": "generation"} if by_phase else {}
    plan = plan_of(loaded, *(Intervention("force", r.spec.layer, (5,), **phase) for r in loaded.router_modules))

    def generate(index):
        ids = loaded.tokenizer(TEXTS[index % len(TEXTS)], return_tensors="pt")
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        return loaded.model.generate(**ids, **options).tolist()

    plain = [generate(index) for index in range(12)]
    with steer(loaded, plan):
        alone = [generate(index) for index in range(12)]
    with ThreadPoolExecutor(3) as pool:
        with steer(loaded, plan):
            together = list(pool.map(generate, range(12)))
        afterwards = list(pool.map(generate, range(12)))
    assert together == alone
    assert alone != plain
    assert afterwards == plain


def test_leaving_while_a_thread_still_runs_is_an_error():
    """What that thread computes would be steered in its first layers only."""
    loaded = tiny("olmoe")
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert go_on.wait(PATIENCE)

    handle = loaded.router_modules[0].module.register_forward_hook(wait)
    plan = plan_of(loaded, *(Intervention("force", r.spec.layer, (5,)) for r in loaded.router_modules))
    with ThreadPoolExecutor(1) as pool:
        requests = []

        def leave_early():
            with steer(loaded, plan):
                requests.append(pool.submit(observe, loaded))
                assert inside.wait(PATIENCE)

        with pytest.raises(ModelError, match="another thread was running the model"):
            leave_early()
        go_on.set()
        handle.remove()
        with pytest.raises(ModelError, match="ran 0 times in 1 forwards"):
            requests[0].result()


def test_capture_notices_a_function_mode_of_others():
    """A mode that sees every torch function may change what is captured; one that sets the device may not."""
    loaded = tiny("olmoe")
    expected = loaded.capture(TEXTS, ITEM_IDS)

    class Foreign(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Foreign(), pytest.raises(ModelError, match=r"function mode is active \(Foreign\).*leave its context"):
        loaded.capture(TEXTS, ITEM_IDS)
    with torch.device("cpu"):
        np.testing.assert_array_equal(loaded.capture(TEXTS, ITEM_IDS).selections, expected.selections)


def test_an_exception_in_the_router_ends_the_edit():
    """When a router's own forward raises, its edit does not leak into other linear products."""
    loaded = tiny("olmoe")
    module = loaded.router_modules[-1].module
    with steer(loaded, plan_of(loaded, EVERY_KIND[5])):
        with pytest.raises(RuntimeError):
            module(torch.zeros(3, 7))
        product = torch.nn.functional.linear(torch.zeros(1, 32), module.weight)
        loaded.decoder(torch.ones(1, 1, dtype=torch.long))
    assert torch.equal(product, torch.zeros(1, 8))


def test_plan_for_another_model_is_refused():
    """A plan made for other router weights is refused before anything is attached."""
    plan = plan_of(tiny("olmoe", seed=1), EVERY_KIND[0])
    loaded = tiny("olmoe", seed=2)
    with pytest.raises(PlanError, match="router_sha256"), steer(loaded, plan):
        pass


def test_fingerprint_does_not_depend_on_dtype():
    """The same checkpoint loaded in float32 and bfloat16 accepts the same plan."""
    first = tiny("olmoe", dtype=torch.bfloat16)
    again = tiny("olmoe", dtype=torch.bfloat16)
    again.model.to(torch.float32)
    assert first.fingerprint == again.fingerprint


def test_unreachable_logits_are_an_error():
    """A router that computes its logits by another product than F.linear makes steering fail loudly."""
    loaded = tiny("olmoe")
    module = loaded.router_modules[-1].module

    def other_road(hidden):
        logits = torch.matmul(hidden.reshape(-1, 32), module.weight.T)
        weights, ids = logits.softmax(-1).topk(2)
        return logits, weights, ids

    module.forward = other_road
    with (
        pytest.raises(ModelError, match="ran once; its logits were edited 0"),
        steer(loaded, plan_of(loaded, EVERY_KIND[0])),
    ):
        observe(loaded)


def test_one_group_of_all_experts_is_no_second_choice():
    """Many checkpoints have one group; scoring it by its two best looks like the choice of two, and is not edited."""
    config = tiny_config("glm4_moe")
    config.n_group = config.topk_group = 1
    model = randomise(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
    loaded = HuggingFaceModel(model, tokenizer(), name="one-group")
    assert loaded.router_modules[0].spec.n_groups == 1
    layer = loaded.router_modules[-1].spec.layer
    with steer(loaded, plan_of(loaded, Intervention("force", layer, (6,)), Intervention("ban", layer, (0, 1)))):
        captured = loaded.capture(TEXTS, ITEM_IDS)
    np.testing.assert_array_equal(captured.selections[:, -1, 6], captured.tokens)
    assert captured.selections[:, -1, :2].sum() == 0


def test_a_product_by_mm_is_edited_too():
    """Kolibri takes another road to its logits on a GPU: a matrix product of the transposed weight."""
    if "kolibri1" not in FAMILIES:
        pytest.skip("this version of transformers has no kolibri1")
    loaded = tiny("kolibri1")
    router = loaded.router_modules[-1]
    module, plan = router.module, plan_of(loaded, in_last_layer(loaded, EVERY_KIND[1]))

    def on_a_gpu(hidden):
        logits = torch.mm(hidden.reshape(-1, 32), module.weight.t())
        ids = torch.topk(logits + module.e_score_correction_bias, 2, dim=-1)[1]
        weights = logits.gather(1, ids).sigmoid()
        return logits, weights / weights.sum(-1, keepdim=True), ids

    with steer(loaded, plan):
        _, expected = observe(loaded)
    module.forward = on_a_gpu
    with steer(loaded, plan):
        _, on_gpu = observe(loaded)
    assert module.forward is on_a_gpu
    torch.testing.assert_close(on_gpu[router.spec.layer], expected[router.spec.layer])


def test_effect_is_measured_and_required():
    """The effect names the share of changed tokens by layer; a plan without any is refused."""
    loaded = tiny("olmoe")
    strong = plan_of(loaded, Intervention("ban", LAST, (0, 1, 2, 3)))
    effect = measure_change(loaded, strong, TEXTS)
    assert effect.changed[LAST] > 0.5
    assert all(effect.changed[layer] == 0 for layer in range(LAST))
    effect.require(strong)
    weak = plan_of(loaded, Intervention("offset", LAST, (0,), values=(1e-9,)))
    with pytest.raises(PlanError, match="changed no chosen expert"):
        measure_change(loaded, weak, TEXTS).require(weak)


def test_editing_what_the_router_returns_does_nothing():
    """Why steering works inside the router: an edit of its returned logits leaves the model's output as it was."""
    loaded = tiny("olmoe")
    before, _ = observe(loaded)
    handle = loaded.router_modules[-1].module.register_forward_hook(
        lambda _m, _i, out: (out[0] + 100 * torch.arange(8), *out[1:])
    )
    after, _ = observe(loaded)
    handle.remove()
    assert torch.equal(before, after)


def test_plan_of_an_unrouted_layer_is_refused():
    """Layer 1 of this model is dense: nothing can be steered there."""
    loaded = tiny("qwen3_moe")
    intervention = dataclasses.replace(EVERY_KIND[0], layer=1)
    with pytest.raises(PlanError, match="layer 1"), steer(loaded, plan_of(loaded, intervention)):
        pass
