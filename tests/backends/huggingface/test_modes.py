"""A plan acts on every forward of the model while it is in force and on none after, or the call or the end raises."""

from __future__ import annotations

import contextlib
import functools
import threading

import numpy as np
import peft
import pytest
import torch
from deadline import PATIENCE
from kinds import forced
from models import ITEM_IDS, TEXTS, tiny
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, StoppingCriteriaList, TextIteratorStreamer

from isogloss.backends.huggingface import HuggingFaceModel, steer
from isogloss.backends.huggingface.steered_stack import SteeredStack
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Intervention, Plan

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks for it


def ids_of(loaded):
    """One text."""
    return loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]


def adapted(loaded):
    """The model inside PEFT's wrapper, with adapters that change nothing yet."""
    return peft.get_peft_model(loaded.model, peft.LoraConfig(target_modules=["q_proj"]))


def test_a_plan_is_not_left_while_a_thread_generates():
    """A chat that returns its streamer while the thread still writes would go on unsteered."""
    loaded, left = tiny("olmoe"), threading.Event()
    streamer = TextIteratorStreamer(loaded.tokenizer, timeout=PATIENCE)
    until_left = StoppingCriteriaList([lambda ids, _: torch.full(ids.shape[:1], left.is_set())])
    options = {"max_new_tokens": 400, "do_sample": False, "eos_token_id": None, "streamer": streamer}
    threads = []

    def write(generate):
        with contextlib.suppress(ModelError):  # the plan may end within a forward, which is noticed there, too
            generate(ids_of(loaded), stopping_criteria=until_left, **options)

    def chat():
        with steer(loaded, forced(loaded)):
            threads.append(threading.Thread(target=write, args=[loaded.model.generate]))
            threads[0].start()
            next(streamer)

    with pytest.raises(ModelError, match="another thread was running the model"):
        chat()
    left.set()
    threads[0].join()


class Waiting:
    """A processor of logits at whose third step a thread waits, between two of its forwards."""

    def __init__(self):
        self.between, self.go_on, self.steps = threading.Event(), threading.Event(), 0

    def __call__(self, _ids, scores):
        """Leave the scores as they are."""
        self.steps += 1
        if self.steps == 3:
            self.between.set()
            assert self.go_on.wait(PATIENCE)
        return scores

    def thread(self, generate, loaded):
        """A thread that writes six tokens."""
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "logits_processor": [self]}
        return threading.Thread(target=lambda: generate(input_ids=ids_of(loaded), **options))


@pytest.mark.parametrize("bound", ["model.generate", "generate", "wrapper"])
def test_a_plan_is_not_left_between_two_forwards_of_a_thread(bound):
    """Also where the thread generates by a function that was bound before the plan came, which knows nothing of it."""
    loaded, waiting = tiny("olmoe"), Waiting()
    outer = adapted(loaded).eval() if bound == "wrapper" else loaded.model
    bound_before = outer.generate

    def generate(**options):
        return (loaded.model.generate if bound == "model.generate" else bound_before)(**options)

    thread = waiting.thread(generate, loaded)

    def leave():
        with steer(loaded, forced(loaded)):
            thread.start()
            assert waiting.between.wait(PATIENCE)

    with pytest.raises(ModelError, match="another thread was running the model"):
        leave()
    waiting.go_on.set()
    thread.join()
    assert waiting.steps == 6


@pytest.mark.parametrize("moment", ["ends", "begins"])
def test_a_thread_that_ends_or_begins_while_the_plan_is_left_is_noticed(moment, monkeypatch):
    """One look before the model has its own forwards back, and one after it."""
    loaded, waiting = tiny("olmoe"), Waiting()
    thread, check = waiting.thread(loaded.model.generate, loaded), SteeredStack.require_left

    def late(stack):
        if moment == "begins":
            thread.start()
            assert waiting.between.wait(PATIENCE)
        else:
            waiting.go_on.set()
            thread.join()
        check(stack)

    def leave():
        with steer(loaded, forced(loaded)):
            loaded.model(ids_of(loaded))
            if moment == "ends":
                thread.start()
                assert waiting.between.wait(PATIENCE)

    monkeypatch.setattr(SteeredStack, "require_left", late)
    with pytest.raises(ModelError, match="another thread was running the model"):
        leave()
    waiting.go_on.set()
    thread.join()
    assert waiting.steps == 6


def test_layers_that_are_computed_again_know_no_phases():
    """A backward pass runs a layer by itself: a plan for both phases acts there, one with a condition is refused."""
    loaded = tiny("olmoe")
    for layer in loaded.decoder.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    embedded = loaded.model.get_input_embeddings()(ids_of(loaded)).detach().requires_grad_()

    def gradient(plan):
        embedded.grad = None
        with steer(loaded, plan):
            loaded.model(inputs_embeds=embedded).logits.square().sum().backward()
        return embedded.grad

    recomputed = gradient(forced(loaded))
    for layer in loaded.decoder.layers:
        del layer.forward
    torch.testing.assert_close(recomputed, gradient(forced(loaded)))
    for layer in loaded.decoder.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    with pytest.raises(ModelError, match="computed again in a backward pass"):
        gradient(forced(loaded, phase="prompt"))


def test_a_plan_under_which_nothing_ran_is_no_success():
    """Whoever runs another copy of the model, or nothing, hears of it when the plan is left."""
    loaded, other = tiny("olmoe"), tiny("olmoe")

    def run():
        with steer(loaded, forced(loaded)), torch.no_grad():
            other.model(ids_of(other))

    with pytest.raises(ModelError, match="no router of the plan ran"):
        run()
    with steer(loaded, Plan(loaded.fingerprint, (), {"test": "test"})):
        pass


def test_two_wrappers_of_one_model_hold_one_plan():
    """A second plan is refused though it came through PEFT's wrapper, and the fingerprints are equal."""
    loaded = tiny("qwen3_moe")
    outer = HuggingFaceModel(adapted(loaded), loaded.tokenizer, name="outer")
    assert outer.fingerprint == loaded.fingerprint
    with (
        pytest.raises(PlanError, match="another plan is active"),
        steer(loaded, forced(loaded)),
        steer(outer, forced(outer)),
    ):
        pass


def test_a_wrapped_model_is_captured_and_steered_as_the_model_inside():
    """Capture and logits through PEFT's wrapper, with adapters that change nothing, are the plain model's."""
    loaded = tiny("qwen3_moe")
    plain, ids = loaded.capture(TEXTS, ITEM_IDS), ids_of(loaded)
    with steer(loaded, forced(loaded)), torch.no_grad():
        expected = loaded.model(ids).logits
    outer = HuggingFaceModel(adapted(loaded), loaded.tokenizer, name="outer")
    np.testing.assert_array_equal(outer.capture(TEXTS, ITEM_IDS).profiles, plain.profiles)
    with steer(outer, forced(outer)), torch.no_grad():
        assert torch.equal(outer.model(ids).logits, expected)


def test_an_adapter_on_a_router_after_wrapping_is_refused():
    """The routers found at first are no longer those that run."""
    loaded = tiny("qwen3_moe")
    plan = forced(loaded)
    peft.inject_adapter_in_model(peft.LoraConfig(target_parameters=["gate.weight"], r=2), loaded.model).eval()
    with pytest.raises(ModelError, match="replaced after the model was wrapped"), steer(loaded, plan):
        pass
    with pytest.raises(ModelError, match="replaced after the model was wrapped"):
        loaded.capture(TEXTS, ITEM_IDS)


def test_training_mode_is_refused_everywhere():
    """Dropout makes greedy answers random; a model put into training mode under a plan is noticed too."""
    loaded = tiny("qwen3_moe")
    plan, ids = forced(loaded), ids_of(loaded)
    with steer(loaded, plan), torch.no_grad():
        loaded.model(ids)
        loaded.model.train()
        with pytest.raises(ModelError, match="in training mode"):
            loaded.model(ids)
    for call in (
        lambda: loaded.capture(TEXTS, ITEM_IDS),
        lambda: loaded.generate(TEXTS, max_new_tokens=2),
        lambda: loaded.log_likelihoods([(TEXTS[0], TEXTS[1])]),
        lambda: loaded.prove(TEXTS[0]),
        lambda: loaded.change(plan, TEXTS),
    ):
        with pytest.raises(ModelError, match="in training mode"):
            call()
    with pytest.raises(ModelError, match="in training mode"), steer(loaded, plan):
        pass


def test_autocast_is_refused_where_it_would_round_and_steered_right_elsewhere():
    """A capture refuses; the user's own forward is steered, up to what bfloat16 rounds."""
    loaded = tiny("olmoe")
    plan, ids = forced(loaded), ids_of(loaded)
    with torch.no_grad():
        plain = loaded.model(ids).logits
        with steer(loaded, plan):
            expected = loaded.model(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            with steer(loaded, plan):
                steered = loaded.model(ids).logits.float()
            with pytest.raises(ModelError, match="autocast is on"):
                loaded.capture(TEXTS, ITEM_IDS)
    assert (steered - expected).abs().max() < (plain - expected).abs().max() / 5


def test_backward_passes_work_after_inference_under_the_same_plan():
    """What a plan keeps on the device is no tensor of inference mode."""
    loaded = tiny("olmoe")
    embedded = loaded.model.get_input_embeddings()(ids_of(loaded)).detach().requires_grad_()
    offsets = tuple(Intervention("offset", router.layer, (1,), values=(2.0,)) for router in loaded.routers)
    with steer(loaded, Plan(loaded.fingerprint, offsets, {"test": "test"})):
        loaded.generate(TEXTS, max_new_tokens=2)
        loaded.model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.isfinite().all()
    assert embedded.grad.abs().max() > 0


def test_models_that_hold_no_weights_or_are_no_model_are_refused():
    """DataParallel and the meta device get one line."""
    loaded = tiny("olmoe")
    with pytest.raises(ModelError, match=r"DataParallel is no model of transformers; .* \.module"):
        HuggingFaceModel(torch.nn.DataParallel(loaded.model), loaded.tokenizer, name="parallel")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(loaded.config)
    with pytest.raises(ModelError, match="no weights"):
        HuggingFaceModel(empty, loaded.tokenizer, name="empty").fingerprint  # noqa: B018 - is computed
