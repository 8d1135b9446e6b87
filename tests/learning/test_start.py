"""Learning that goes on from an adapter: step 0 is that adapter, measured, guarded, kept where nothing is better."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from adapters import random_adapter
from killing import KilledError
from models import TEXTS, tiny
from written import contents

from isogloss.cli.learn import _show
from isogloss.corpora import Corpus
from isogloss.errors import PlanError, RunError
from isogloss.learning import Learned, LearnedSet, LearnOptions, gather_data, learn_plan
from isogloss.learning import learn as learning
from isogloss.learning.folder import LearningFolder
from isogloss.learning.history import read_history
from isogloss.reports.learning import describe_learning, learning_section
from isogloss.steering import RouterAdapter, read_adapter

LEARNED = ("swh_Latn", "deu_Latn")
OPTIONS = LearnOptions(
    parameters="low-rank", probes="fixed", steps=2, batch_size=4, dev_every=1, tolerance=0.05, learning_rate=0.1
)


@pytest.fixture
def data(examples):
    """Examples, dev items, and texts to protect."""
    texts = {code: tuple(f"{code} {text}" for text in TEXTS) for code in ("eng_Latn", "fra_Latn")}
    generic = Corpus("generic", texts, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")
    return gather_data(None, examples=examples, languages=list(LEARNED), generic=generic, protect=None)


def measure(monkeypatch, data, *values):
    """Let the dev items have these values, of the languages that are learned and of the pivot, one after the other."""
    measured = iter(
        [learning._OnDev(dict.fromkeys(LEARNED, own), {"eng_Latn": protected}) for own, protected in values]
    )
    monkeypatch.setattr(type(next(iter(data.dev.values()))), "better", "higher")
    monkeypatch.setattr(learning._Job, "_dev", lambda *_: next(measured))


@pytest.mark.parametrize(
    ("start", "steps", "best"),
    [
        ((0.6, 1.0), ((0.55, 1.0), (0.6, 1.0)), 0),
        ((0.6, 1.0), ((0.55, 1.0), (0.7, 1.0)), 2),
        ((0.4, 1.0), ((0.3, 1.0), (0.4, 1.0)), 0),
        ((0.6, 0.8), ((0.55, 1.0), (0.9, 0.8)), 1),
        ((0.6, 0.8), ((0.9, 0.8), (0.9, 0.9)), None),
    ],
    ids=["the start", "a later one", "below the unsteered model", "a harmful start", "all harm"],
)
def test_step_0_is_the_adapter_that_learning_starts_from(start, steps, best, tmp_path, data, monkeypatch):
    """It is kept where no step is better, unless it harms the protected languages as compared with the plain model."""
    loaded = tiny("olmoe")
    made = random_adapter(loaded)
    measure(monkeypatch, data, (0.5, 1.0), start, *steps)
    learned = learn_plan(loaded, data, out=tmp_path / "out", options=OPTIONS, start=made)
    (ended,) = learned.sets
    assert ended.best_step == best
    assert (ended.dev_before["swh_Latn"], ended.protected_before["eng_Latn"]) == (0.5, 1.0)
    assert (ended.dev_start["swh_Latn"], ended.protected_start["eng_Latn"]) == start
    chosen = (0.5, 1.0) if best is None else (start, *steps)[best]
    assert (ended.dev["swh_Latn"], ended.protected["eng_Latn"]) == chosen
    history = read_history(tmp_path / "out")
    assert history.sets == learned.sets
    assert history.steps[LEARNED][0].dev == dict.fromkeys(LEARNED, start[0])
    written = read_adapter(tmp_path / "out" / "adapter")
    assert written.is_empty == (best is None)
    assert (ended.kl > 0) == (best is not None)
    if best == 0:
        for layer in made.layers:
            ours, theirs = written.router(layer), made.router(layer)
            assert np.array_equal(ours.b, np.float32(made.scale) * theirs.b)
            assert np.array_equal(ours.a, theirs.a)


def test_step_0_is_measured_with_the_adapter_to_start_from(tmp_path, data):
    """What is written down is what the adapter does to the dev items, and the unsteered model beside it."""
    loaded = tiny("olmoe")
    made = random_adapter(loaded)
    (ended,) = learn_plan(loaded, data, out=tmp_path / "out", options=OPTIONS, start=made).sets
    job = learning._Job(loaded, data, OPTIONS, made, learning.kept_date(tmp_path / "out"), None)
    plain = job._dev(0, None)
    with loaded.steer(made):
        steered = job._dev(0, None)
    assert ended.dev_before == plain.own
    assert ended.dev_start == pytest.approx(steered.own)
    assert plain.own != steered.own


def test_learning_on_that_is_stopped_after_every_step_gives_the_same(tmp_path, data, monkeypatch):
    """The best numbers of the start are in the checkpoint."""
    made = random_adapter(tiny("olmoe"))
    learn_plan(tiny("olmoe"), data, out=tmp_path / "whole", options=OPTIONS, start=made)
    keep = LearningFolder.keep

    def stopping(folder, record, checkpoint):
        keep(folder, record, checkpoint)
        raise KilledError

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(LearningFolder, "keep", stopping)
            with pytest.raises(KilledError):
                learn_plan(tiny("olmoe"), data, out=tmp_path / "cut", options=OPTIONS, start=made)
    learn_plan(tiny("olmoe"), data, out=tmp_path / "cut", options=OPTIONS, start=made)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_folder_whose_start_was_never_measured_is_refused(tmp_path, data):
    """It was begun by a version that took the unsteered model for step 0; without a start nothing new is written."""
    out, made = tmp_path / "out", random_adapter(tiny("olmoe"))
    learn_plan(tiny("olmoe"), data, out=out, options=OPTIONS, start=made)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["options"].pop("step_0") == "start"
    (out / "settings.json").write_text(json.dumps(settings))
    before = contents(out)
    with pytest.raises(RunError, match=r"out was begun by a version that did not measure the adapter .*new folder"):
        learn_plan(tiny("olmoe"), data, out=out, options=OPTIONS, start=made)
    assert contents(out) == before
    learn_plan(tiny("olmoe"), data, out=tmp_path / "none", options=dataclasses.replace(OPTIONS, probes="learned"))
    assert not any(b"_start" in each or b"step_0" in each for each in written_by(tmp_path / "none"))


def written_by(folder):
    """What learning wrote, apart from the hash of a start, which always had a place."""
    return [path.read_bytes().replace(b"start_sha256", b"") for path in folder.rglob("*") if path.is_file()]


def test_a_start_that_is_not_gone_on_from_is_refused(tmp_path, data):
    """Layers of it that are left out, and parameters that have no place for it."""
    loaded = tiny("olmoe")
    made = random_adapter(loaded)
    first, *others = made.layers
    match = rf"layers {first} to {first} leave out layers? {others[0]}.* of the adapter to start from"
    chosen = dataclasses.replace(OPTIONS, layers=(first, first))
    with pytest.raises(PlanError, match=match):
        learn_plan(loaded, data, out=tmp_path / "out", options=chosen, start=made)
    for name in ("offset", "router"):
        with pytest.raises(RunError, match=f"an adapter to start from is for low-rank parameters, not {name}"):
            learn_plan(loaded, data, out=tmp_path / "out", options=LearnOptions(parameters=name), start=made)
    assert not (tmp_path / "out").exists()


def ended(best, *, dev, start=0.4):
    """How learning on from an adapter ended; the unsteered model has 0.5."""
    values = [dict.fromkeys(("swh_Latn",), value) for value in (0.5, dev, start)]
    kept = [{"eng_Latn": value} for value in (1.0, 0.99, 0.98)]
    return LearnedSet(("swh_Latn",), best, values[0], values[1], 0, 8, 0.1, kept[0], kept[1], None, values[2], kept[2])


@pytest.mark.parametrize(
    ("best", "dev", "said", "reported"),
    [
        (
            0,
            0.6,
            "No step did better on the dev items than the adapter that learning started from",
            "is kept as it was",
        ),
        (0, 0.4, "do worse with it than the unsteered model", "is kept as it was"),
        (3, 0.6, "evaluate the adapter on the test split", "to 60.0 % at step 3; the adapter to start from had 40.0 %"),
        (None, 0.5, "Neither the adapter to start from nor any step", "neither the adapter to start from nor any step"),
    ],
)
def test_what_was_measured_is_said(best, dev, said, reported, tmp_path, capsys):
    """The unsteered model, what learning started from, and what was chosen: in the table, the frame and the report."""
    loaded = tiny("olmoe")
    made = random_adapter(loaded, scale=0.0 if best is None else 1.0)
    learned = Learned(made, (ended(best, dev=dev, start=dev if best == 0 else 0.4),), "accuracy")
    _show(learned, SimpleNamespace(output=tmp_path, json=False, pivot="eng_Latn"))
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["language", "dev", "accuracy", "before", "start", "learned", "best", "step", "KL"]
    shown = "none" if best is None else str(best)
    assert lines[1].split()[1:5] == ["0.500", f"{learned.sets[0].dev_start['swh_Latn']:.3f}", f"{dev:.3f}", shown]
    (row,) = [line for line in lines if line.startswith("eng_Latn")]
    assert row.split()[1:4] == ["1.000", "0.980", "0.990"]
    assert said in out
    assert learned.to_frame()["start"].tolist() == [learned.sets[0].dev_start["swh_Latn"], 0.98]
    options = {"objective": "answers", "parameters": "low-rank", "step_0": "start"}
    history = SimpleNamespace(
        settings=SimpleNamespace(options=options, languages=("swh_Latn",), dev_metric="accuracy", start_sha256="ab12"),
        sets=learned.sets,
        steps={("swh_Latn",): (SimpleNamespace(step=0, loss=float("nan"), largest=0.1, dev={"swh_Latn": 0.4}),)},
    )
    assert reported in describe_learning(history)[0]
    section = learning_section(history)
    assert "under the adapter to start from (step 0)" in section.blocks[0].caption
    (table,) = (each for each in section.blocks if each.title == "Where learning ended")
    assert table.rows[0][1:4] == (
        "50.0",
        f"{100 * learned.sets[0].dev_start['swh_Latn']:.1f}",
        f"{100 * dev:.1f}",
    )
    assert isinstance(learned.plan, RouterAdapter)
