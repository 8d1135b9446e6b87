"""Learned adapters: what is learned is what is saved and served; protected languages hold; refused in one line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from commands import printed, run
from models import TEXTS, tiny

from isogloss.backends.huggingface.offsets import WeightChanges, offsets_applied
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, ModelError, PlanError, RunError
from isogloss.evaluation import TemplateDate
from isogloss.learning import LearnOptions, gather_data, learn_plan
from isogloss.learning import learn as learning
from isogloss.learning.descent import Descent
from isogloss.learning.folder import LearningFolder
from isogloss.learning.history import read_history
from isogloss.steering import RouterAdapter, read_adapter, write_adapter

SHORT = {"steps": 4, "batch_size": 4, "dev_every": 2, "tolerance": 100.0}
KINDS = (("low-rank", {"rank": 2, "learning_rate": 0.1}), ("router", {"learning_rate": 0.05}))
LEARNED = ("swh_Latn", "deu_Latn")


def options(kind, **more):
    """Options of a short run."""
    return LearnOptions(parameters=kind, **SHORT | dict(KINDS)[kind] | more)


def generic(languages=("eng_Latn", "fra_Latn", "deu_Latn")):
    """Texts of the pivot and of others."""
    texts = {code: tuple(f"{code} {text}" for text in TEXTS) for code in languages}
    return Corpus("generic", texts, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")


@pytest.fixture
def data(examples):
    """Examples, dev items, and texts to protect."""
    return gather_data(None, examples=examples, languages=list(LEARNED), generic=generic(), protect=None)


def as_change(adapter):
    """The matrices of an adapter as learning applies them."""
    return WeightChanges({each.layer: (torch.tensor(each.b), torch.tensor(each.a)) for each in adapter.routers})


@pytest.mark.parametrize("kind", ["low-rank", "router"])
def test_the_adapter_is_what_was_learned_and_acts(kind, tmp_path, data):
    """The loss falls; the folder reads back as what is returned; it changes the logits, and the model is as before."""
    loaded = tiny("mixtral")
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        plain = loaded.model(ids).logits
    learned = learn_plan(loaded, data, out=tmp_path / "out", options=options(kind, steps=8, leash=0.1))
    adapter = read_adapter(tmp_path / "out" / "adapter")
    assert adapter == learned.plan
    assert adapter.rank == (2 if kind == "low-rank" else loaded.routers[0].n_experts)
    steps = read_history(tmp_path / "out").steps[LEARNED]
    assert steps[-1].loss < steps[1].loss
    assert learned.sets[0].best_step > 0
    best = steps[learned.sets[0].best_step]
    assert np.abs(np.stack([adapter.delta(layer) for layer in adapter.layers])).max() == pytest.approx(best.largest)
    with offsets_applied(loaded, as_change(adapter)), torch.no_grad():
        changed = loaded.model(ids).logits
    assert not torch.equal(changed, plain)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain)
        for router in loaded.router_modules:
            router.module.weight += torch.tensor(adapter.delta(router.spec.layer))
        torch.testing.assert_close(loaded.model(ids).logits, changed)
    assert learned.sets[0].kl > 0
    assert set(learned.sets[0].protected_kl) == {"fra_Latn"}  # German is learned


def test_router_weights_of_experts_that_no_token_chose_stay(tmp_path, data):
    """They are counted, and their rows are 0 exactly; b is the identity, so that nothing is lost in the product."""
    loaded = tiny("mixtral")
    few = dataclasses.replace(data, protected={}, generic=("Yes.",), examples=first(data.examples))
    learned = learn_plan(loaded, few, out=tmp_path / "out", options=options("router", steps=1, dev_every=1))
    arrays = LearningFolder(tmp_path / "out").resume().arrays
    rows = arrays["values"].reshape(len(loaded.routers), loaded.routers[0].n_experts, -1)
    assert learned.sets[0].without_gradient == (rows == 0).all(-1).sum() > 0
    for router in learned.plan.routers:
        assert np.array_equal(router.b, np.diag(router.a.any(1)))


def first(tasks):
    """One example of each language."""
    return {
        code: dataclasses.replace(task, items={each: rows[:1] for each, rows in task.items.items()})
        for code, task in tasks.items()
    }


def test_fixed_probes_stay_and_learned_ones_go_on(tmp_path, data):
    """Learning starts at the adapter, scale included; fixed probes keep every bit."""
    loaded = tiny("mixtral")
    made = learn_plan(loaded, data, out=tmp_path / "made", options=options("low-rank", layers=(1, 1))).plan.scaled(0.5)
    for probes in ("fixed", "learned"):
        chosen = options("low-rank", probes=probes, steps=1, dev_every=1)
        learned = learn_plan(loaded, data, out=tmp_path / probes, options=chosen, start=made)
        (step,) = [each for each in read_history(tmp_path / probes).steps[LEARNED] if each.step == 0]
        assert step.largest == pytest.approx(np.abs(made.delta(1)).max())
        assert learned.plan.layers == (1,)
        last = LearningFolder(tmp_path / probes).resume().arrays["values"]
        b = made.routers[0].b
        assert len(last) == b.size + (made.routers[0].a.size if probes == "learned" else 0)
        assert not np.array_equal(last[: b.size], 0.5 * b.ravel())
        if learned.sets[0].best_step:
            same = np.array_equal(learned.plan.routers[0].a, made.routers[0].a)
            assert same == (probes == "fixed")


@pytest.mark.parametrize(
    ("pivot", "other", "best"), [(0.98, 0.90, 2), (0.90, 1.00, 1), (0.99, 0.80, 1)], ids=["held", "pivot", "mean"]
)
def test_a_step_that_harms_protected_languages_is_not_chosen(pivot, other, best, tmp_path, data, monkeypatch):
    """However good it is: the pivot alone counts, and the mean of all that are protected."""
    before = learning._OnDev(dict.fromkeys(LEARNED, 0.1), {"eng_Latn": 1.0, "fra_Latn": 0.9})
    fair = before._replace(own=dict.fromkeys(LEARNED, 0.2))
    strong = learning._OnDev(dict.fromkeys(LEARNED, 0.9), {"eng_Latn": pivot, "fra_Latn": other})
    measured = iter([before, fair, strong])
    monkeypatch.setattr(type(next(iter(data.dev.values()))), "better", "higher")
    monkeypatch.setattr(learning._Job, "_dev", lambda *_: next(measured))
    chosen = options("low-rank", steps=2, dev_every=1, tolerance=0.05)
    learned = learn_plan(tiny("olmoe"), data, out=tmp_path / "out", options=chosen)
    assert learned.sets[0].best_step == best
    assert learned.sets[0].protected_before == before.protected


def test_half_of_the_leash_is_the_pivot_and_half_all_others(data):
    """In every step, so that neither is left alone."""
    job = learning._Job(tiny("olmoe"), data, options("router"), None, TemplateDate(), None)
    descent = Descent(job.parameters, job.texts[0], job.options, layers=job.layers, number=0)
    pivot, others = ([tuple(each.ids) for each in texts] for texts in (job.kept["eng_Latn"], job.kept["fra_Latn"]))
    for step in (1, 2, 3):
        parts = [part for part in descent._parts(step, WeightChanges({})) if part.term == "leash"]
        drawn = [tuple(text.ids) for part in parts for text in part.loss.args[-1]]
        assert [sum(each in texts for each in drawn) for texts in (pivot, others)] == [2, 2]


@pytest.mark.parametrize("kind", ["low-rank", "router"])
def test_nothing_better_gives_an_adapter_that_changes_nothing(kind, tmp_path, data, monkeypatch):
    """And says so in its history."""
    monkeypatch.setattr(learning._Job, "_dev", lambda *_: learning._OnDev(dict.fromkeys(LEARNED, 0.5), None))
    learned = learn_plan(tiny("olmoe"), data, out=tmp_path / "out", options=options(kind))
    assert learned.sets[0].best_step == 0
    assert learned.plan.is_empty
    assert read_history(tmp_path / "out").sets == learned.sets
    assert not any(learned.plan.delta(layer).any() for layer in learned.plan.layers)
    assert learned.sets[0].kl == 0


def test_protected_languages_are_all_that_the_sources_have_but_those_learned():
    """Of a task their worked texts, of a corpus its texts; dev items of every one of them."""
    sources = {"task": "organism", "examples": "organism:reference", "languages": ["sw", "th"], "n_items": 60}
    data = gather_data(**sources, protect=None, n_dev=3, n_examples=4)
    assert len(data.guarded) == 12
    assert set(data.protected) == set(data.guarded) - {"eng_Latn"}
    assert all(len(each.items[code]) == 3 for code, each in data.guarded.items())
    learned = {item.prompt for item in data.examples["swh_Latn"].items["swh_Latn"]}
    assert len(data.generic) > 10
    dev = {item.prompt for code, task in data.guarded.items() for item in task.items[code]}
    assert not any(prompt in text for prompt in dev for texts in data.protected.values() for text in texts)
    assert learned
    named = gather_data(**sources, generic=generic(), protect=["en", "fr"])
    assert set(named.protected) == {"fra_Latn"}
    assert set(named.guarded) == {"eng_Latn", "fra_Latn"}
    assert named.generic == generic().texts["eng_Latn"]
    assert not gather_data(**sources, generic=generic()).protected


def test_what_cannot_be_learned_or_protected_is_refused(tmp_path, examples, data):
    """Each in one sentence; nothing is written."""
    sources = {"examples": examples, "languages": list(LEARNED)}
    with pytest.raises(CorpusError, match="has no texts that protect other languages"):
        gather_data(None, **sources, protect=None)
    with pytest.raises(CorpusError, match="the pivot eng_Latn is not protected, only fra_Latn; add it to them"):
        gather_data(None, **sources, generic=generic(), protect=["fr"])
    with pytest.raises(CorpusError, match="deu_Latn is to be learned and protected"):
        gather_data(None, **sources, generic=generic(), protect=["en", "de"])
    with pytest.raises(RunError, match="leash is 0: an adapter acts on every request"):
        LearnOptions(parameters="router", leash=0)
    with pytest.raises(RunError, match="rank is 0; expected at least 1"):
        LearnOptions(parameters="low-rank", rank=0)
    with pytest.raises(RunError, match="probes are fixed in an adapter of low rank, and router has none"):
        LearnOptions(parameters="router", probes="fixed")
    loaded = tiny("olmoe")
    for match, kind, more in (
        ("fixed probes are those of an adapter", PlanError, {"options": options("low-rank", probes="fixed")}),
        ("rank is 9; expected at most 8", PlanError, {"options": options("low-rank", rank=9)}),
        ("--estimator search tries offsets", ModelError, {"options": options("router", estimator="search")}),
    ):
        with pytest.raises(kind, match=match):
            learn_plan(loaded, data, out=tmp_path / "none", **more)
    other = learn_plan(tiny("olmoe", seed=1), data, out=tmp_path / "other", options=options("low-rank")).plan
    assert isinstance(other, RouterAdapter)
    with pytest.raises(PlanError, match="was made for another model"):
        learn_plan(loaded, data, out=tmp_path / "none", options=options("low-rank"), start=other)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_command_learns_an_adapter(tmp_path, capsys):
    """A few steps on the organism, protected languages in a table of their own; mixed options are refused."""
    out = tmp_path / "out"
    line = ["learn", "organism", "--examples", "organism:reference", "--task", "organism", "--languages", "sw"]
    line += ["--items", "24", "--n-examples", "4", "--n-dev", "2", "--steps", "2", "--dev-every", "2"]
    line += ["--layers", "4-5", "--parameters", "low-rank", "--rank", "2", "--protect", "en,de", "-o", out]
    assert run(*line, "--json") == 0
    raw = printed(capsys)
    assert set(raw["sets"][0]["protected_kl"]) == {"deu_Latn"}
    assert read_adapter(raw["path"]).layers == (4, 5)
    assert run(*line) == 0
    assert "protected language" in capsys.readouterr().out
    for more, refused in (
        (["--per-language"], "--per-language is for offsets"),
        (["--start", raw["path"]], "leave one of --rank and --start out"),
        (["--parameters", "offset"], "--rank is for adapters"),
        (["--parameters", "router"], "--rank and --start are for --parameters low-rank"),
        (["--leash", "0"], "leash is 0"),
    ):
        assert run(*line[:-1], tmp_path / "none", *more) == 2
        assert refused in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    write_adapter(read_adapter(raw["path"]), tmp_path / "copy")
    line.remove("--rank")
    line.remove("2") if line.count("2") == 1 else line.pop(line.index("low-rank") + 1)
    assert run(*line[:-1], tmp_path / "next", "--start", tmp_path / "copy", "--probes", "fixed", "--json") == 0
    assert len(read_adapter(printed(capsys)["path"]).ranks) == 2
