"""A multimodal checkpoint, saved by its own class, is read, captured, steered and baked by its text part alone."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import warnings

import pytest
import torch
from adapters import change_weights, random_adapter
from configs import randomise, tiny_config
from models import FAMILIES, ITEM_IDS, TEXTS, each_family, text_type, tiny, tokenizer
from peft import PeftModel
from transformers import AutoModelForMultimodalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from isogloss.backends.bake import bake
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.chat_template import TemplateDate, fill_template
from isogloss.backends.families import REFUSED
from isogloss.backends.huggingface import HuggingFaceModel, load_model, steer
from isogloss.backends.huggingface.router_outputs import READERS
from isogloss.errors import CorpusError, ModelError
from isogloss.steering import Intervention, Plan

MULTIMODAL = tuple(name for name in FAMILIES if name != text_type(name))
RENAMED = ("ernie4_5_vl_moe",)  # its files hold the routers turned round
QUICK = ("qwen3_vl_moe", "llama4", "qwen3_omni_moe")


@functools.cache
def whole(model_type):
    """The model of the class that writes such checkpoints, towers and all that speaks included."""
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        config = tiny_config(model_type)
        if hasattr(config, "talker_config"):
            config.talker_config.spatial_merge_size = 2  # published checkpoints name it
        model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
        return randomise(model).eval()


def reader(model_type):
    """That part of the whole which reads texts and answers."""
    model = whole(model_type)
    return getattr(model, "thinker", model)


def saved(model_type, folder):
    """A checkpoint of the whole model, as it would be published."""
    with contextlib.redirect_stderr(io.StringIO()):
        whole(model_type).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def loaded(folder):
    """A checkpoint on the processor."""
    with contextlib.redirect_stderr(io.StringIO()):
        return load_model(str(folder), dtype="float32", device="cpu")


def ids_of(text):
    """Token ids ``[1, length]``."""
    return tokenizer()(text, return_tensors="pt")["input_ids"]


@torch.inference_mode()
def logits(model):
    """Logits of every text, at all positions."""
    return torch.cat([model(input_ids=ids_of(text)).logits for text in TEXTS], dim=1)


@each_family(MULTIMODAL, quick=QUICK)
def test_a_saved_checkpoint_is_read_as_its_class_computes(tmp_path, family):
    """Logits are those of the model that was saved; routers lie in the text decoder, layer by layer."""
    model = loaded(saved(family, tmp_path))
    torch.testing.assert_close(logits(model.model), logits(reader(family)), rtol=0, atol=1e-5)
    decoder = reader(family).get_decoder()
    layers = getattr(decoder, "model", decoder).layers
    for router in model.router_modules:
        own = layers[router.spec.layer].get_submodule(router.family.path).get_parameter(router.weight_name)
        assert torch.equal(own, router.weight())
    assert model.fingerprint.model_type == text_type(family)


@each_family(MULTIMODAL, quick=QUICK)
def test_the_text_decoder_alone_computes_the_same(family):
    """Built from the text configuration alone, with the same weights, it has the hidden states and routing of all."""
    model = tiny(family)
    decoder = model.core.get_decoder()
    alone = type(decoder)(model.config.get_text_config()).eval()
    alone.load_state_dict(decoder.state_dict())
    captured, seen = model.capture(TEXTS, ITEM_IDS, options=CaptureOptions(token_scope="all")), []
    for router in model.router_modules:
        path = next(name for name, module in decoder.named_modules() if module is router.module)
        module = alone.get_submodule(path)
        module.register_forward_hook(lambda _module, _args, output, router=router: seen.append((router, output)))
    for item, text in enumerate(TEXTS):
        seen.clear()
        with torch.inference_mode():
            ours = model.core(input_ids=ids_of(text), output_hidden_states=True).hidden_states[-1]
            theirs = alone(input_ids=ids_of(text), output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        for layer, (router, output) in enumerate(seen):
            chosen = READERS[router.family.returns](output, router.spec.top_k).expert_ids.flatten()
            counts = torch.bincount(chosen, minlength=router.spec.n_experts)
            assert captured.selections[item, layer].tolist() == counts.tolist()
        assert len(seen) == len(model.router_modules)


@each_family(MULTIMODAL, quick=QUICK)
def test_no_tower_runs(family):
    """Of a text, nothing outside of the text decoder and the head computes anything, steered or not."""
    model = tiny(family)
    core = model.core
    decoder = {*core.get_decoder().modules(), core.get_output_embeddings(), core.get_input_embeddings()}
    around = {module for module in core.modules() if decoder & set(module.modules())}
    ran = []
    for name, module in core.named_modules():
        if module not in around | decoder and [*module.parameters()]:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    layer = model.router_modules[-1].spec.layer
    with steer(model, Plan(model.fingerprint, (Intervention("force", layer, (5,)),))):
        model.capture(TEXTS, ITEM_IDS)
        model.answer(TEXTS, max_new_tokens=2)
        model.log_likelihoods([(text, " and") for text in TEXTS])
    assert ran == []


def test_an_adapter_of_the_multimodal_class_is_written_for_the_text_class(tmp_path):
    """Where transformers has both, PEFT loads what is baked onto that class which loads MODEL."""
    folder, out = saved("llama4", tmp_path / "model"), tmp_path / "out"
    adapter = random_adapter(HuggingFaceModel(whole("llama4"), tokenizer=tokenizer(), name="whole"))
    text = loaded(folder)
    assert not {each.parameter for each in adapter.routers} & {*text.router_parameters.values()}
    bake(str(folder), adapter, out, form="peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # called by PEFT
        adapted = logits(PeftModel.from_pretrained(loaded(folder).model, out))
    change_weights(text, adapter)
    torch.testing.assert_close(adapted, logits(text.model), rtol=0, atol=2e-5)


@each_family(MULTIMODAL, quick=QUICK)
def test_an_adapter_is_baked_into_the_stored_names(tmp_path, family):
    """The whole checkpoint is kept, router weights of the text decoder alone are changed, and it computes W + B A."""
    folder, out = saved(family, tmp_path / "model"), tmp_path / "out"
    original = loaded(folder)
    adapter = random_adapter(original)
    base = logits(original.model)
    if family in RENAMED:
        with pytest.raises(ModelError, match="stored in another way than transformers names it"):
            bake(str(folder), adapter, out, loading={"device": "cpu", "dtype": "float32"})
        return
    with contextlib.redirect_stderr(io.StringIO()):
        result = bake(str(folder), adapter, out, loading={"device": "cpu", "dtype": "float32"})
    change_weights(original, adapter)
    expected = logits(original.model)
    assert (expected - base).abs().max() > 0.1
    torch.testing.assert_close(logits(loaded(out).model), expected, rtol=0, atol=2e-5)
    assert result.n_layers == len(original.router_modules)
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("model_type", sorted(name for name in REFUSED if name in CONFIG_MAPPING))
def test_what_is_refused_is_refused_by_its_configuration(tmp_path, model_type):
    """The reason is said before a weight is looked for: the folder holds none."""
    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=REFUSED[model_type].partition(";")[0]):
        loaded(tmp_path)


@pytest.mark.parametrize("ask", ["capture", "answer", "likelihood", "change", "route_tokens", "read first"])
def test_a_placeholder_in_a_text_is_refused(ask):
    """In the place of that token the model would read an image: no text alone has it, whoever asks."""
    model = tiny("qwen3_vl_moe")
    texts = ["The river is wide."]
    placeholder = model.tokenizer.encode(texts[0], add_special_tokens=False)[-1]
    force = Plan(model.fingerprint, (Intervention("force", model.routers[-1].layer, (5,)),))
    asked = {
        "capture": lambda: model.capture(texts, ["item-7"]),
        "answer": lambda: model.answer(texts, max_new_tokens=1),
        "likelihood": lambda: model.log_likelihoods([("A", texts[0])]),
        "change": lambda: model.change(force, texts),
        "route_tokens": lambda: model.route_tokens(texts[0]),
        "read first": lambda: model.counted_ids(texts, ["item-7"], CaptureOptions()),
    }[ask]
    asked()
    model.config.image_token_id = placeholder
    name = "item item-7" if ask in ("capture", "read first") else "a text"
    with pytest.raises(CorpusError, match=rf"{name} holds .* in whose place the model reads an image"):
        asked()


def test_the_template_of_a_processor_is_used(tmp_path):
    """Where the tokenizer has none; and a template that wants a message in parts gets it so."""
    saved("qwen3_vl_moe", tmp_path)
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    assert loaded(tmp_path).tokenizer.chat_template is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    model = loaded(tmp_path)
    assert model.tokenizer.chat_template == template
    filled = fill_template(model.tokenizer, [{"role": "user", "content": "Yes."}], TemplateDate(), to_continue=True)
    assert filled == "<user>Yes."
    plain = tokenizer()("Yes.", add_special_tokens=False)["input_ids"]
    captured = model.capture(["Yes."], ["item"], options=CaptureOptions("user", chat=True))
    assert captured.tokens.tolist() == [len(plain)]
