"""Models that were compiled before the plan came: graphs that know nothing of it must not run on under it."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from kinds import everywhere, forced
from models import TEXTS, tiny
from transformers import CompileConfig

from isogloss.steering import Intervention

WAYS = {
    "model.compile": lambda model: model.compile(backend="eager"),
    "decoder layers": lambda model: [layer.compile(backend="eager") for layer in model.model.layers],
}


pytestmark = pytest.mark.slow


def acts_each_time(loaded):
    """A plan of edits that would show if they were done twice, as forcing would not."""
    edits = Intervention("select", 0, (5, 0), values=(0.4, -0.3)), Intervention("offset", 0, (2,), values=(0.5,))
    return everywhere(loaded, *edits)


@pytest.fixture(autouse=True)
def _fresh_graphs():
    """Graphs of other tests do not count towards the most that torch keeps."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("family", "way", "make"),
    [
        ("olmoe", "model.compile", forced),
        ("gpt_oss", "decoder layers", forced),
        *((family, "decoder layers", acts_each_time) for family in ("olmoe", "deepseek_v3", "lfm2_moe")),
    ],
)
def test_a_plan_acts_on_a_model_compiled_before_it(family, way, make):
    """The steered graph computes what the steered model does; after the plan, the old one is in force again."""
    plain, compiled = tiny(family), tiny(family)
    ids = plain.tokenizer(TEXTS[1], return_tensors="pt")
    WAYS[way](compiled.model)
    with torch.no_grad():
        before = compiled.model(**ids).logits
        with compiled.steer(make(compiled)):
            steered = compiled.model(**ids).logits
        with plain.steer(make(plain)):
            expected = plain.model(**ids).logits
        after = compiled.model(**ids).logits
    torch.testing.assert_close(steered, expected, atol=2e-5, rtol=1e-4)
    assert (steered - before).abs().max() > 1e-2
    assert torch.equal(after, before)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", ["compiled", "plan"])
def test_a_plan_acts_on_graphs_of_inductor(first):
    """With torch's default backend, one layer compiled, whichever came first; afterwards the model is unsteered."""
    plain, compiled = tiny("olmoe"), tiny("olmoe")
    ids = plain.tokenizer(TEXTS[1], return_tensors="pt")
    layer = compiled.model.model.layers[-1]
    if first == "compiled":
        layer.compile()
    with torch.no_grad():
        before = compiled.model(**ids).logits
        with compiled.steer(forced(compiled)):
            if first == "plan":
                layer.compile()
            steered = compiled.model(**ids).logits
        with plain.steer(forced(plain)):
            expected = plain.model(**ids).logits
        after = compiled.model(**ids).logits
    torch.testing.assert_close(steered, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-4)
    assert (steered - before).abs().max() > 1e-2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_plan_acts_where_generation_compiles_by_itself(monkeypatch):
    """With a static cache transformers compiles the forward of every token, on a GPU without being asked."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "0")  # as transformers sets it before it compiles
    plain, compiled = tiny("olmoe"), tiny("olmoe")
    ids = plain.tokenizer(TEXTS[0], return_tensors="pt")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True  # on a processor it must be asked for
    static = {"cache_implementation": "static", "compile_config": config}
    before = compiled.model.generate(**ids, **options, **static)
    with compiled.steer(forced(compiled, phase="generation")):
        steered = compiled.model.generate(**ids, **options, **static)
    with plain.steer(forced(plain, phase="generation")):
        expected = plain.model.generate(**ids, **options)
    assert torch.equal(steered, expected)
    assert not torch.equal(steered, before)
    assert torch.equal(compiled.model.generate(**ids, **options, **static), before)
