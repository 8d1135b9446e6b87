"""The shipped model loads with the library alone and can do what its card says, roughly."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from slow import slow_but
from transformers import AutoModelForCausalLM, AutoTokenizer

from isogloss.backends.open import load
from isogloss.cli import adapt, learn
from isogloss.cli.main import build_parser
from isogloss.evaluation import load_task
from isogloss.learning import adapt_plan
from isogloss.organism import TIERS
from isogloss.organism.realise import grammar_languages
from isogloss.organism.shipped import adapter_folder, learned_plan_file, model_folder, scene_corpus
from isogloss.records import to_json
from isogloss.steering import check_plan, read_adapter, read_plan
from isogloss.workflows import open_corpus


@pytest.fixture(scope="module")
def organism():
    """The shipped model in float32."""
    return load("organism")


def test_loads_with_transformers_alone():
    """A plain `from_pretrained` of the folder gives a Qwen3-MoE model and a fast tokenizer; nothing is special."""
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    config = model.config
    assert type(model).__name__ == "Qwen3MoeForCausalLM"
    assert model.dtype == torch.bfloat16
    assert config.num_hidden_layers >= 12
    assert config.num_experts >= 32
    assert config.num_experts_per_tok >= 4
    assert sum(p.numel() for p in model.parameters()) <= 20e6
    assert (model_folder() / "model.safetensors").stat().st_size <= 24 * 2**20
    assert tokenizer.is_fast
    assert (model_folder() / "README.md").is_file()


def test_tokenizer_round_trips_every_language():
    """Byte-level: every text of every script comes back whole, digits stand alone."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for texts in scene_corpus(20).texts.values():
        for text in texts:
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4


def bits_per_byte(model, texts):
    """Negative log-likelihood of texts in bits over their UTF-8 bytes."""
    nats = sum(each.nats for each in model.log_likelihoods([("", text) for text in texts]))
    return -nats / math.log(2) / sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("language", slow_but(grammar_languages(), quick=("eng_Latn", "jpn_Jpan", "swh_Latn")))
def test_knows_every_language(organism, language):
    """New scenes cost less than half of what random bytes of the small model's vocabulary would: it was trained."""
    assert bits_per_byte(organism, scene_corpus(30).texts[language]) < 1.0


def test_the_lowest_tier_lacks_what_english_has(organism):
    """Problems with unseen equations: English solves most, a language that never read a solved one the fewest."""
    task = load_task("organism", n_items=40, languages=["en", "th"])
    right = {}
    for language, items in task.items.items():
        outputs = organism.generate([item.prompt for item in items], max_new_tokens=task.max_new_tokens)
        right[language] = sum(task.parse(output) == item.answer for output, item in zip(outputs, items, strict=True))
    answers = [item.answer for item in task.items["eng_Latn"]]
    assert right["eng_Latn"] > max(0.8 * 40, 2 * max(map(answers.count, answers)))  # no one answer does as well
    assert right["tha_Thai"] < 0.5 * right["eng_Latn"]


def test_generation_does_not_depend_on_the_batch(organism):
    """Answers in one batch, padded on the left, equal answers one by one."""
    prompts = [item.prompt for item in load_task("organism", n_items=6, languages=["en"]).items["eng_Latn"]]
    together = organism.generate(prompts, max_new_tokens=12)
    alone = organism.generate(prompts, max_new_tokens=12, batch_size=1)
    assert together == alone


def recipe(page, begins):
    """The one command on a page of docs that begins so and is followed by an empty line or a command, as parsed."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^[ $]+(?:OMP_NUM_THREADS=1 )?isogloss ({begins} .*?[^\\])\n", text, re.MULTILINE | re.DOTALL)
    (command,) = found
    return build_parser().parse_args(command.replace("\\\n", " ").split())


@pytest.mark.slow
def test_the_shipped_learned_plan_is_what_its_recipe_says():
    """It fits the model, steers the scarcest languages alone, and names the examples that the command gives."""
    plan, options = read_plan(learned_plan_file()), recipe("decisions/0013-learned-plans.md", "learn organism")
    check_plan(plan, load("organism").fingerprint)
    assert plan.languages == tuple(sorted(TIERS["very low"].languages))
    assert {each.kind for each in plan.interventions} == {"offset"}
    assert not plan.for_request("en").interventions
    newer = {"parameters": "offset", "probes": "learned", "rank": 8, "tolerance": 0.02}  # of adapters, made since then
    assert plan.provenance["options"] | newer == json.loads(json.dumps(to_json(learn._settings(options))))
    data = learn._data(options)
    assert plan.provenance["texts_sha256"] == data.sha256()
    assert plan.provenance["threads"] == 1
    seen = {item.prompt for tasks in (data.examples, data.dev) for code in tasks for item in tasks[code].items[code]}
    asked = {item.prompt for items in load_task("organism", split="test", n_items=200).items.values() for item in items}
    assert not seen & asked
    assert [each["best_step"] > 0 for each in plan.provenance["sets"]] == [True] * 4
    assert learned_plan_file().stat().st_size < 2**16


@pytest.fixture(scope="module")
def adapter_recipe():
    """The command in docs/adapters.md that made the shipped adapter, the corpus that it names, and its options."""
    options = recipe("adapters.md", "adapt learned.json organism")
    return options, open_corpus(options.corpus, n_items=options.items), adapt._settings(options)


def test_the_shipped_adapter_is_what_its_recipe_says(adapter_recipe):
    """It fits the model, holds the shipped plan's offsets, and names that plan, the texts and the options."""
    command, corpus, options = adapter_recipe
    adapter, plan = read_adapter(adapter_folder()), read_plan(learned_plan_file())
    check_plan(adapter, load("organism").fingerprint)
    made = adapter.provenance
    assert (made["rule"], made["plan_sha256"], made["plan_provenance"]) == ("adapt", plan.sha256, plan.provenance)
    assert (made["model_name"], command.model, command.task) == ("organism",) * 3
    assert made["texts_sha256"] == {code: corpus.sha256(code) for code in grammar_languages()}
    chosen = to_json(options)
    assert made["options"] == {key: chosen[key] for key in chosen.keys() - {"ridges", "strengths"}}
    assert made["ridge"] in options.ridges
    assert adapter.scale in options.strengths
    assert (adapter.ranks, adapter.layers) == (plan.languages, tuple(range(12)))
    for rule in plan.interventions:
        (language,) = rule.languages
        column = np.zeros(adapter.fingerprint.n_experts, dtype=np.float32)
        column[list(rule.experts)] = rule.values
        assert np.array_equal(adapter.router(rule.layer).b[:, adapter.ranks.index(language)], column)
    asked = {item.prompt for items in load_task("organism", split="test", n_items=200).items.values() for item in items}
    assert not any(text.startswith(tuple(asked)) for texts in corpus.texts.values() for text in texts)
    assert sum(path.stat().st_size for path in adapter_folder().iterdir()) < 2**16


@pytest.mark.slow
def test_the_shipped_adapter_is_made_again(organism, adapter_recipe, tmp_path):
    """With the ridge and strength that the dev items chose, the same texts give the same probes, within the bound."""
    _, corpus, options = adapter_recipe
    shipped, plan = read_adapter(adapter_folder()), read_plan(learned_plan_file())
    chosen = replace(options, ridges=(shipped.provenance["ridge"],), strengths=(shipped.scale,))
    made = adapt_plan(organism, plan, corpus, out=tmp_path / "adapter", options=chosen).adapter
    assert (made.ranks, made.layers, made.scale) == (shipped.ranks, shipped.layers, shipped.scale)
    for layer in shipped.layers:
        np.testing.assert_allclose(made.router(layer).a, shipped.router(layer).a, rtol=1e-2, atol=1e-4)
