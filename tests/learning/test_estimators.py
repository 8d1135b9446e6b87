"""What is advised where an estimator cannot move a router is what works there."""

from __future__ import annotations

import re

import pytest
import torch
from configs import class_of, randomise, tiny_config
from models import TEXTS, tokenizer

from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.corpora import Corpus
from isogloss.errors import ModelError
from isogloss.learning import LearnOptions, gather_data, learn_plan
from isogloss.learning.estimators import refuse_unmoved
from isogloss.routing import RouterSpec

ONE = {"top_k": 1, "renormalise": True}
ONE_OF_ALL = {"top_k": 1, "scoring": "topk_softmax"}  # jetmoe, whose routers do not return weights


@pytest.mark.parametrize(
    ("family", "spec", "kind", "estimator", "advice"),
    [
        ("mixtral", ONE, "offset", "gradient", "use --estimator straight-through or search, or --objective alignment"),
        ("mixtral", ONE, "low-rank", "gradient", "use --estimator straight-through, or --objective alignment"),
        ("mixtral", ONE, "router", "gradient", "use --estimator straight-through, or --objective alignment"),
        ("mixtral", ONE, "router", "search", "use --estimator straight-through, or learn --parameters offset"),
        (
            "jetmoe",
            ONE_OF_ALL,
            "router",
            "gradient",
            "have no gradient; use --objective alignment with --estimator gradient$",
        ),
        ("jetmoe", ONE_OF_ALL, "router", "straight-through", "use --objective alignment with --estimator gradient$"),
        ("jetmoe", {"top_k": 2, "scoring": "topk_softmax"}, "router", "straight-through", "use --estimator gradient$"),
        ("deepseek_v3", {"scoring": "sigmoid", "top_k": 2}, "offset", "straight-through", "gradient or search$"),
    ],
)
def test_the_advice_is_an_estimator_that_is_not_refused(family, spec, kind, estimator, advice):
    """Neither for adapters nor for plans does one refusal lead to another."""
    router = RouterSpec(0, 8, **spec)
    with pytest.raises(ModelError, match=advice) as error:
        refuse_unmoved(LearnOptions(parameters=kind, estimator=estimator), router, family)
    text = str(error.value).rpartition("; use ")[2]
    named = re.match(r"--estimator ([a-z -]+)", text)
    for name in named[1].split(" or ") if named else ():
        refuse_unmoved(LearnOptions(parameters=kind, estimator=name), router, family)
    if "--objective alignment" in text:
        refuse_unmoved(LearnOptions(parameters=kind, objective="alignment"), router, family)


@pytest.mark.parametrize("kind", ["low-rank", "router"])
def test_straight_through_moves_the_routers_of_one_chosen_expert(kind, examples, tmp_path):
    """By the gradient of the answers nothing would move there, which is refused."""
    auto, config = class_of(tiny_config("mixtral"))
    config.num_experts_per_tok = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomise(auto.from_config(config, dtype=torch.float32)).eval()
    loaded = HuggingFaceModel(model, tokenizer(), name="tiny-one")
    assert loaded.routers[0].top_k == 1
    texts = {"eng_Latn": TEXTS}
    generic = Corpus("generic", texts, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")
    data = gather_data(None, examples=examples, languages=["sw", "de"], generic=generic, protect=None)
    common = {"parameters": kind, "steps": 2, "dev_every": 2, "tolerance": 100.0}
    with pytest.raises(ModelError, match="use --estimator straight-through"):
        learn_plan(loaded, data, out=tmp_path / "no", options=LearnOptions(**common))
    options = LearnOptions(**common, estimator="straight-through", learning_rate=0.05)
    (ended,) = learn_plan(loaded, data, out=tmp_path / "out", options=options).sets
    assert ended.without_gradient < ended.n_experts
