"""A sweep chooses on dev, confirms on test what it has already written down, and survives being killed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import KilledError, kill_at
from written import contents, rows_of

from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.cli import main
from isogloss.cli import sweep as sweep_command
from isogloss.cli.sweep import show_sweep
from isogloss.errors import RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.guard import Guard
from isogloss.reports.metrics import Metric
from isogloss.statistics import Estimate
from isogloss.steering import Plan, with_strength
from isogloss.workflows.sweep import run as sweeping
from isogloss.workflows.sweep.results import DevFile, MeasuredCandidate, SeenBefore, SweepResult
from isogloss.workflows.sweep.run import run_sweep
from isogloss.workflows.sweep.select import choose_winner, front, gain_of, measure, rank
from isogloss.workflows.sweep.settings import CandidateGrid, Sweep, candidates, resolve_layers
from known_answers.planted import LEXICON, PIVOT, planted_corpora, planted_problems
from known_answers.planted_model import PLANTED_EXPERT, PLANTED_LAYER, planted_model

OTHERS = [code for code in LEXICON if code != PIVOT]
GRID = CandidateGrid(thresholds=(0.3, 0.4, 0.99), strengths=(0.05, 0.5), layers=("0-1", "2-3", "0-3"))
SMALL = ("eng_Latn", "deu_Latn", "swh_Latn")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The planted case as files: a model, task texts, generic texts, and problems."""
    folder = tmp_path_factory.mktemp("world")
    planted_model(folder / "model")
    for name, corpus in zip(("sums", "texts"), planted_corpora(), strict=True):
        (folder / name).mkdir()
        for code, texts in corpus.texts.items():
            (folder / name / f"{code}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    (folder / "problems").mkdir()
    for code, rows in planted_problems().items():
        lines = "".join(f"{prompt}\t{answer}\n" for _, prompt, answer in rows)
        (folder / "problems" / f"{code}.tsv").write_text(lines, encoding="utf-8")
    return folder


def planted_sweep(world, **settings):
    """A sweep over the planted case."""
    places = {"model": "model", "corpus": "texts", "task_corpus": "sums", "task": "problems"}
    return Sweep(**{name: str(world / place) for name, place in places.items()}, **settings)


def small_sweep(world, **grid):
    """A sweep over two plans in three languages."""
    grid = {"thresholds": (0.4,), "strengths": (0.3, 0.5), "layers": ("2-3",)} | grid
    return planted_sweep(world, eval_languages=SMALL, corpus_items=20, n_controls=1, grid=CandidateGrid(**grid))


def read(path):
    """A file of JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def planted(world, tmp_path_factory):
    """Folder and result of the whole sweep over the planted case."""
    out = tmp_path_factory.mktemp("planted") / "out"
    return out, run_sweep(planted_sweep(world, grid=GRID), out)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A finished small sweep."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run_sweep(small_sweep(world), out)
    return out


def test_the_winner_holds_the_planted_expert_and_gains_on_test(planted):
    """Of thresholds, strengths and layers the choice falls on the planted expert; test confirms it with p < 0.01."""
    out, result = planted
    winner = next(row for row in result.candidates if row.name == result.winner)
    plan = read(out / "winner.json")["plan"]
    steered = {(each["layer"], expert) for each in plan["interventions"] for expert in each["experts"]}
    assert (PLANTED_LAYER, PLANTED_EXPERT) in steered
    assert winner.strength == 0.5
    test = result.test
    assert set(test.per_language) == set(OTHERS)
    assert all(row.p_adjusted < 0.01 for row in test.per_language.values())
    assert test.gain.low > 0.1
    assert test.over_controls.low > 0.1
    assert test.guard.verdict != "fail"
    assert len(test.controls) == 3
    assert all(control.gain.low <= 0 <= control.gain.high for control in test.controls.values())
    assert test.seen_before == SeenBefore(0, 0)


def test_every_candidate_is_accounted_for(planted):
    """Those without experts are counted, plans that do the same are evaluated once and have the same results."""
    out, result = planted
    assert len(result.candidates) == 3 * 2 * 3
    assert sum(result.counts.values()) == 18
    by_status = {row.name: row.status for row in result.candidates}
    assert result.counts["no expert"] == sum(status == "no expert" for status in by_status.values()) > 0
    arms = {row.name: row.arm for row in result.candidates if row.arm}
    assert len(set(arms.values())) == result.n_plans < len(arms)
    assert {path.name for path in (out / "dev").iterdir() if path.is_dir()} == {"baseline", *arms.values()}
    by_arm = {}
    for row in result.dev:
        by_arm.setdefault(row.arm, []).append((row.gain, row.cost, row.guard, row.front))
    assert all(entry == entries[0] for entries in by_arm.values() for entry in entries)
    assert len(result.dev) == len(arms)


def test_dev_and_test_share_no_item(planted, world):
    """Each evaluation has its own split of the task, and no prompt stands in both."""
    out, _ = planted
    for split in ("dev", "test"):
        assert read(out / split / "settings.json")["split"] == split
        expected = [item.item_id for item in load_task(str(world / "problems"), split=split).items[PIVOT]]
        assert [row["item"] for row in rows_of(out / split / "baseline" / "eng_Latn.jsonl")] == expected
    prompts = [{row["prompt_sha256"] for row in rows_of(out / split / "plan" / "eng_Latn.jsonl")} for split in
               ("dev", "test")]  # fmt: skip
    assert not prompts[0] & prompts[1]


def test_gains_are_those_of_the_lines(planted):
    """Gain is the mean over languages but the pivot, cost what the pivot loses; dev and test stand side by side."""
    out, result = planted
    for row in [result.dev[0], result.dev[-1]]:
        means = {
            arm: {
                code: np.mean([line["value"] for line in rows_of(out / "dev" / arm / f"{code}.jsonl")])
                for code in LEXICON
            }
            for arm in ("baseline", row.arm)
        }
        gains = {code: means[row.arm][code] - means["baseline"][code] for code in LEXICON}
        assert row.gain.value == pytest.approx(np.mean([gains[code] for code in OTHERS]))
        assert row.gain.low <= row.gain.value <= row.gain.high
        assert row.cost.value == pytest.approx(-gains[PIVOT])
        assert row.guard.change == pytest.approx(gains[PIVOT])
    curse = result.winners_curse
    chosen = next(row for row in result.dev if row.name == result.winner)
    assert curse.dev == chosen.gain
    assert curse.test == result.test.gain
    assert curse.shrinkage == pytest.approx(curse.dev.value - curse.test.value)


def test_the_test_split_is_loaded_after_the_winner_is_written(world, tmp_path, monkeypatch):
    """And what was written then is what is there at the end; the baseline is answered once for all candidates."""
    loaded, answered = [], []

    def load(source, *, split, **options):
        path = tmp_path / "out" / "winner.json"
        loaded.append((split, path.read_bytes() if path.is_file() else None))
        return load_task(source, split=split, **options)

    answer = HuggingFaceModel.answer

    def count(self, prompts, **options):
        answered.append(len(prompts))
        return answer(self, prompts, **options)

    monkeypatch.setattr(sweeping, "load_task", load)
    monkeypatch.setattr(HuggingFaceModel, "answer", count)
    result = run_sweep(small_sweep(world), tmp_path / "out")
    assert loaded[0] == ("dev", None)
    tested = [written for split, written in loaded if split == "test"]
    assert tested == [(tmp_path / "out" / "winner.json").read_bytes()]
    n_dev, n_test = (len(rows_of(tmp_path / "out" / split / "plan" / "eng_Latn.jsonl")) for split in ("dev", "test"))
    assert result.n_plans == 2
    assert sum(answered) == len(SMALL) * (n_dev * (1 + 2) + n_test * (1 + 1 + 1))


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(world, finished, tmp_path, monkeypatch):
    """Each restart dies a little later: in captures, between and inside candidates, around the winner, in the test."""
    out, result = tmp_path / "killed", SweepResult.read(finished / "sweep.json")
    stages, kills = set(), 0
    while not (out / "sweep.json").is_file():
        with monkeypatch.context() as patch:
            kill_at(patch, 3 + 5 * (kills % 9))
            try:
                assert run_sweep(small_sweep(world), out) == result
            except KilledError:
                kills += 1
        present = [name for name in ("run", "candidates.json", "dev", "dev.json", "winner.json", "test")
                   if (out / name).exists()]  # fmt: skip
        stages.add(present[-1] if present else "nothing")
        assert kills < 60
    assert {"run", "dev", "test"} <= stages
    assert contents(out) == contents(finished)


@pytest.mark.slow
def test_killed_as_each_file_of_its_own_is_put_in_place(world, finished, tmp_path, monkeypatch):
    """Just before, the step is done again, the same; just after, the sweep goes on: with the winner, to the test."""
    out, result = tmp_path / "killed", SweepResult.read(finished / "sweep.json")
    replace = os.replace
    for name in ("settings.json", "candidates.json", "dev.json", "winner.json", "sweep.json"):
        for before in (True, False):

            def dying(source, target, *, last=out / name, early=before):
                if Path(target) != last or not early:
                    replace(source, target)
                if Path(target) == last:
                    raise KilledError

            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", dying)
                with pytest.raises(KilledError):
                    run_sweep(small_sweep(world), out)
            assert (out / name).is_file() != before
            assert (out / "test").exists() == (name == "sweep.json")
    assert run_sweep(small_sweep(world), out) == result
    assert contents(out) == contents(finished)


def test_a_written_winner_is_never_changed(world, finished, tmp_path):
    """Whatever dev says, the plan in the file goes to the test."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "sweep.json").unlink()
    shutil.rmtree(out / "test")
    for path in (out / "plans").glob("random-*.json"):
        path.unlink()
    ranked = read(out / "dev.json")["ranked"]
    plan = read(out / "plans" / f"{ranked[1]['arm']}.json")
    sha256 = read(out / "candidates.json")["plans"][ranked[1]["arm"]]
    fixed = {"winner": ranked[1]["name"], "reason": "by hand", "candidate": ranked[1], "plan": plan}
    (out / "winner.json").write_text(json.dumps(fixed | {"plan_sha256": sha256}))
    before = contents(out)
    result = run_sweep(small_sweep(world), out)
    assert result.winner == ranked[1]["name"]
    assert {name: contents(out)[name] for name in before} == before
    assert read(out / "test" / "settings.json")["arms"]["plan"] == sha256
    (out / "sweep.json").unlink()
    (out / "winner.json").write_text(json.dumps(fixed | {"plan_sha256": "0" * 64}))
    with pytest.raises(RunError, match="hash of its plan is not the one that it states"):
        run_sweep(small_sweep(world), out)


def test_a_winner_that_changes_nothing_on_test_is_said_to_be_untested(world, finished, tmp_path, capsys):
    """An evaluation refuses such a plan; the sweep keeps what it found, and says why there is no test."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "sweep.json").unlink()
    shutil.rmtree(out / "test")
    fixed = read(out / "winner.json")
    weak = with_strength(Plan.from_json(fixed["plan"]), 1e-6)
    (out / "winner.json").write_text(json.dumps(fixed | {"plan": weak.to_json(), "plan_sha256": weak.sha256}))
    result = run_sweep(small_sweep(world), out)
    assert result.test is result.winners_curse is None
    assert "changes no chosen expert" in result.untested
    assert not (out / "test").exists()
    show_sweep(result, as_json=False)
    assert "could not be tested: its plan changes no chosen expert" in capsys.readouterr().out


def test_other_settings_need_another_folder(world, finished):
    """A finished sweep is read, not run; with another grid it is refused and left alone."""
    before = contents(finished)
    assert run_sweep(small_sweep(world), finished) == SweepResult.read(finished / "sweep.json")
    with pytest.raises(RunError, match=r"other settings \(grid"):
        run_sweep(small_sweep(world, strengths=(0.1,)), finished)
    assert contents(finished) == before


def test_without_a_gain_there_is_no_winner_and_no_test(world, tmp_path, monkeypatch):
    """Suppressing the planted expert gains nothing; a threshold that nothing passes makes no plan."""
    splits = []

    def load(source, *, split, **options):
        splits.append(split)
        return load_task(source, split=split, **options)

    monkeypatch.setattr(sweeping, "load_task", load)
    lost = run_sweep(small_sweep(world, strengths=(-0.5,)), tmp_path / "lost")
    assert lost.winner is lost.test is lost.winners_curse is None
    assert "none of 1 candidates gains anything" in lost.reason
    nothing = run_sweep(small_sweep(world, thresholds=(1.0,)), tmp_path / "nothing")
    assert nothing.counts == {"no expert": 2}
    assert nothing.winner is None
    assert "no candidate made a plan" in nothing.reason
    assert set(splits) == {"dev"}
    assert not (tmp_path / "lost" / "test").exists()


def test_a_task_whose_splits_are_one_is_refused(world, tmp_path, monkeypatch):
    """A gain on the items that were chosen on is no confirmation."""
    monkeypatch.setattr(
        sweeping, "load_task", lambda source, **options: load_task(source, **options | {"split": "dev"})
    )
    with pytest.raises(RunError, match="all test items also occur in dev"):
        run_sweep(small_sweep(world), tmp_path / "out")
    assert not (tmp_path / "out" / "test").exists()


@pytest.mark.slow
def test_the_other_rules_and_kinds(world, tmp_path):
    """Contrast and share make plans too; what does not fit is refused with its reason, candidate by candidate."""
    grid = {"rules": ("contrast", "share"), "tops": (2,), "kinds": ("ban", "adaptive"), "layers": ("2-3", "0-1")}
    result = run_sweep(small_sweep(world, **grid, strengths=(0.5,)), tmp_path / "out")
    status = {(row.rule, row.kind, row.layers): row for row in result.candidates}
    assert status["contrast", "ban", "2-3"].status == "plan"
    assert status["share", "ban", "2-3"].status == "plan"
    # All languages choose the planted layer's common experts at every token: promoting them changes no choice.
    assert status["share", "adaptive", "2-3"].status == "no effect"
    refused = status["contrast", "adaptive", "2-3"]
    assert refused.status == "refused"
    assert "have no weight" in refused.reason


def row(gain, cost=0.0, *, verdict="pass", strength=0.5, n_experts=3, name="c"):
    """A measured candidate."""
    gained, lost = (Estimate(value, math.nan, math.nan, 30) for value in (gain, cost))
    return MeasuredCandidate(
        name=name,
        rule="delta",
        threshold=0.3,
        top=None,
        kind="soft",
        strength=strength,
        layers="all",
        range=(0, 3),
        n_experts=n_experts,
        gain=gained,
        gain_these_languages=gained,
        cost=lost,
        guard=Guard(verdict, 0.0, math.nan, math.nan, 0.01, 0.95, 30),
    )


def test_a_candidate_that_harms_the_pivot_never_wins():
    """However much it gains; an undecided guard is allowed, and the reason says so."""
    rows = [row(0.5, verdict="fail", name="a"), row(0.2, verdict="undecided", name="b"), row(0.1, name="c")]
    winner, reason = choose_winner(rows)
    assert winner.name == "b"
    assert "guard undecided: 30 items" in reason
    assert "1 that gain were refused by the pivot guard" in reason
    assert choose_winner(rows[::2])[0].name == "c"
    none, reason = choose_winner(rows[:1])
    assert none is None
    assert "cost the pivot more than the margin" in reason
    assert choose_winner([row(0.0), row(-0.1)])[0] is None
    assert choose_winner([row(1e-17)])[0] is None
    assert choose_winner([])[0] is None


def test_ties_go_to_the_smaller_strength_then_to_fewer_experts():
    """Sums that differ by rounding are ties; a kind without strength comes after those with one."""
    equal = [
        row(0.3, strength=None, n_experts=1, name="a"),
        row(0.1 + 0.2, strength=0.5, n_experts=5, name="b"),
        row(0.3, strength=-0.25, n_experts=9, name="c"),
        row(0.3, strength=0.25, n_experts=2, name="d"),
        row(0.3, strength=0.25, n_experts=2, name="e"),
    ]
    assert [each.name for each in rank(equal)] == ["d", "e", "c", "b", "a"]
    assert choose_winner(equal)[0].name == "d"


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12))
def test_the_front_is_what_a_walk_from_the_greatest_gain_keeps(points):
    """Sorted by gain, a point is kept where it costs less than all that gain more, and no more than its equals."""
    found = front([row(gain / 10, cost / 10) for gain, cost in points])
    expected, cheapest = set(), None
    for gain in sorted({gain for gain, _ in points}, reverse=True):
        least = min(cost for other, cost in points if other == gain)
        if cheapest is None or least < cheapest:
            expected.add((gain, least))
            cheapest = least
    assert [point for point, on in zip(points, found, strict=True) if on] == [p for p in points if p in expected]


def test_gains_of_scores_that_are_better_when_lower(tmp_path):
    """Fewer bits are a gain, and more bits in the pivot a cost."""
    scores = {"baseline": {"eng_Latn": [1.0, 2.0], "deu_Latn": [3.0, 5.0], "swh_Latn": [4.0, 4.0]},
              "plan": {"eng_Latn": [1.5, 2.1], "deu_Latn": [2.0, 4.5], "swh_Latn": [3.5, 4.2]}}  # fmt: skip
    for arm, by_language in scores.items():
        (tmp_path / arm).mkdir()
        for code, values in by_language.items():
            same = {"prompt_sha256": "0", "parsed": None, "expected": "", "correct": None}
            rows = [{"item": str(index), **same, "value": value} for index, value in enumerate(values)]
            text = "".join(json.dumps(each) + "\n" for each in rows)
            (tmp_path / arm / f"{code}.jsonl").write_text(text)
    lower, comparison = measure(tmp_path, "plan", pivot="eng_Latn", better="lower")
    assert lower.gain.value == pytest.approx((0.75 + 0.15) / 2)
    assert lower.cost.value == pytest.approx(0.3)
    assert lower.gain.low <= lower.gain.value <= lower.gain.high
    assert set(comparison.per_language) == {"deu_Latn", "swh_Latn"}
    higher, _ = measure(tmp_path, "plan", pivot="eng_Latn", better="higher")
    assert higher.gain.value == pytest.approx(-lower.gain.value)
    assert higher.cost.value == pytest.approx(-0.3)
    difference = comparison.overall.difference
    assert gain_of(difference, "higher") == difference
    assert gain_of(gain_of(difference, "lower"), "lower") == difference


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3-8", (3, 8)), ("all", (0, 11)), ("middle", (4, 8)), ("early", (0, 3)), ("late", (9, 11)),
     ("middle+3", (7, 11)), ("middle-2", (2, 6)), ("middle+4", None), ("middle-5", None)],
)  # fmt: skip
def test_layer_ranges(text, expected):
    """By number, by the bands around the middle, or the middle moved, as long as it stays inside the model."""
    bands = {"early": (0, 3), "middle": (4, 8), "late": (9, 11)}
    found, reason = resolve_layers(text, range(12), bands)
    assert found == expected
    assert bool(reason) == (expected is None)


def test_layers_that_are_not_there():
    """A middle that starts with the model has nothing before it; without a middle the names mean nothing."""
    assert resolve_layers("early", range(12), {"middle": (0, 8), "late": (9, 11)})[0] is None
    with pytest.raises(RunError, match="write A-B instead"):
        resolve_layers("late", range(12), {})


def test_no_point_of_the_grid_stands_twice():
    """Kinds without strength and rules without top are not repeated for them, nor are repeated values."""
    grid = CandidateGrid(
        rules=("delta", "share"), thresholds=(0.1, 0.1), tops=(5, 9), kinds=("soft", "ban"), layers=("all",)
    )
    found = [replace(each, name="") for each in candidates(grid)]
    assert len(set(found)) == len(found) == 4 + 2 * 4
    assert {each.top for each in candidates(grid) if each.rule == "delta"} == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "colour: "),
        ("threshold = 0.3", "threshold: "),
        ("[grid]\ncolours = [1]", "grid.colours: "),
        ("[grid]\nthresholds = 0.3", "grid.thresholds: "),
        ("[grid]\nthresholds = [1.5]", "between 0 and 1"),
        ("[grid]\nthresholds = []", "grid.thresholds is empty"),
        ("[grid]\nkinds = []", "grid.kinds is empty"),
        ("[grid]\nkinds = ['boost']", "grid.kinds.0: "),
        ("[grid]\nrules = ['share']", "grid.tops is empty"),
        ("[grid]\ntops = [0]", "at least 1"),
        ("[grid]\nlayers = ['9-3']", "'9-3'"),
        ("[grid]\nlayers = ['early+1']", "'early+1'"),
        ("[grid]\nstrengths = [3.0]", "grid.strengths: "),
        ("n_controls = 0", "n_controls is 0"),
        ("dev_items = -1", "dev_items is -1"),
        ("eval_languages = ['de', 'sw']", "expected eng_Latn and at least one more"),
        ("eval_languages = ['en']", "expected eng_Latn and at least one more"),
        ("task_corpus = ''\nmodel = 'organism'\n[grid]\nlayers = ['all']", "task_corpus is empty"),
        ("colour", "cannot read sweep"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, capsys, text, message):
    """Exit code 2, one message, nothing half-written."""
    (tmp_path / "sweep.toml").write_text(text)
    assert main(["sweep", str(tmp_path / "sweep.toml"), "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_on_the_organism(tmp_path, capsys):
    """From a file, with the middle that the analysis finds; dev asks for other equations than test."""
    settings = """
        model = "organism"
        languages = ["en", "de", "es"]
        eval_languages = ["en", "sw"]
        corpus_items = 12
        task_items = 2
        n_controls = 1
        [grid]
        thresholds = [0.05, 0.9]
        strengths = [0.5]
        layers = ["middle", "middle+9"]
    """
    path, out = tmp_path / "sweep.toml", tmp_path / "out"
    path.write_text(settings)
    assert main(["sweep", str(path), "-o", str(out), "--json"]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out)
    assert "4 candidates in the grid: at most 5 evaluations on dev, then 3 on test\n" in streams.err
    assert (
        "2 evaluations on dev (one without a plan, one for each distinct plan) of 4 items in 2 languages" in streams.err
    )
    assert "8 answers\n" in streams.err
    assert result == read(out / "sweep.json")
    assert [row["range"] == result["bands"]["middle"] for row in result["candidates"]] == [True, True, False, False]
    assert result["counts"] == {"no expert": 1, "plan": 1, "refused": 2}
    assert main(["sweep", str(path), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "4 candidates, 1 distinct plans evaluated; 1 found no expert; 2 could not be made" in printed
    assert ("No winner: " in printed) == (result["winner"] is None)
    sides = [load_task("organism", split=split, n_items=50) for split in ("dev", "test")]
    asked = [{item.prompt for item in side.items["eng_Latn"]} for side in sides]
    assert not asked[0] & asked[1]
    assert Sweep.read_toml(path).grid.layers == ("middle", "middle+9")


def test_a_strength_of_offsets_has_its_unit(finished):
    """Logits for the constant of an offset; λ has none."""
    (row, *_) = DevFile.read(finished / "dev.json").ranked
    offset = replace(row, kind="offset", strength=0.5)
    assert sweep_command._row(offset, Metric.named("accuracy"), None)[6] == "+0.5 logits"
    assert sweep_command._row(row, Metric.named("accuracy"), None)[6] == str(row.strength)


def test_the_table_names_winner_front_and_curse(planted, world, capsys, tmp_path):
    """For people: candidates ranked, dev and test side by side, controls, and what became of the rest."""
    out, result = planted
    places = {"model": "model", "corpus": "texts", "task_corpus": "sums", "task": "problems"}
    text = "\n".join(f"{name} = {json.dumps(str(world / place))}" for name, place in places.items())
    grid = "[grid]\nthresholds = [0.3, 0.4, 0.99]\nstrengths = [0.05, 0.5]\nlayers = ['0-1', '2-3', '0-3']\n"
    (tmp_path / "sweep.toml").write_text(f"{text}\n{grid}")
    assert main(["sweep", str(tmp_path / "sweep.toml"), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    first = printed.splitlines()[1]
    assert first.startswith("→")
    assert result.winner in first
    assert first.rstrip().endswith("*")
    assert f"18 candidates, {result.n_plans} distinct plans evaluated" in printed
    header = printed.splitlines()[0]
    assert "gain on dev, points" in header
    assert "cost of the pivot, points" in header
    gain = f"{100 * result.dev[0].gain.value:+.1f}"
    assert f" {gain} [" in first
    assert f"{gain} points [" in printed
    assert re.search(r"on test \(n = \d+ languages\)", printed)
    assert "on dev, " in printed
    assert "the gain is confirmed; evidence of a change in deu_Latn, fra_Latn, spa_Latn, swh_Latn (Holm)" in printed
    assert "random-2" in printed
