"""One analysis of a Run: parts that agree with the functions behind them, tidy tables, and the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isogloss.analysis import (
    Analysis,
    AnalysisRequest,
    ShareRule,
    analyze_curves,
    analyze_run,
    default_bands,
    divergence,
    experts_among_languages,
)
from isogloss.analysis.divergence import read_distributions
from isogloss.analysis.pairs import pairwise_divergence
from isogloss.analysis.resources import COLUMNS
from isogloss.analysis.tables import tidy_tables
from isogloss.cli import analyze, main
from isogloss.errors import LanguageError, RunError
from isogloss.reports.sentences import describe_run
from isogloss.runs import import_counts_json, open_run
from isogloss.statistics import Estimate, Resampling
from isogloss.workflows.analysis import write_analysis
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import PlantedExpert, SimulatedLanguage, SimulatedWorld

FAST = Resampling(n_resamples=100, n_permutations=20)
CODES = ("eng_Latn", "deu_Latn", "nld_Latn", "fra_Latn", "spa_Latn", "ben_Beng", "hin_Deva")
FAMILIES = (None, "germanic", "germanic", "romance", "romance", "indic", "indic")
WORLD = SimulatedWorld(
    languages=tuple(
        SimulatedLanguage(code, distance=0.0 if place == 0 else 0.8 + 0.1 * place, family=family)
        for place, (code, family) in enumerate(zip(CODES, FAMILIES, strict=True))
    ),
    n_items=30,
    planted=(PlantedExpert(4, 3, task=0.9), PlantedExpert(6, 2, task=0.9)),
)
ACCURACY = {code: 0.9 - 0.05 * place for place, code in enumerate(CODES)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A Run of simulated texts in seven languages, and one of task texts in the pivot."""
    folder = tmp_path_factory.mktemp("runs")
    return simulate_run(WORLD, folder / "generic"), simulate_task_run(WORLD, folder / "task")


@pytest.fixture(scope="module")
def found(runs):
    """Everything that can be asked of those Runs."""
    run, task = runs
    return analyze_run(run, AnalysisRequest(accuracy=ACCURACY, resource=ACCURACY, task=task, resampling=FAST))


def test_parts_are_those_of_the_functions_behind_them(runs, found):
    """Divergence and pairs are the numbers that the analysis room gives; bands are the layers around the middle."""
    run, _ = runs
    alone = analyze_curves(run, resampling=FAST)
    assert found.divergence == alone.divergence
    np.testing.assert_array_equal(found.layer_pairs.values, pairwise_divergence(run).values)
    middle = alone.middle_layers
    assert found.bands == {
        "early": (0, middle.start - 1),
        "middle": (middle.start, middle.end),
        "late": (middle.end + 1, 11),
    }
    assert found.bands["middle"] == WORLD.middle
    assert found.to_json()["divergence"] == alone.to_json()["divergence"]


def test_everything_is_computed_or_refused_by_name(found):
    """Simulated texts allow every part but those that need real options of capture."""
    as_json = found.to_json()
    assert as_json["refused"] == {}
    for part in ("pairs", "structure", "resources", "domain", "overlap"):
        assert as_json[part], part
    assert as_json["controls"] == {"distinct": None, "hidden": None, "phases": {}}
    json.dumps(as_json, allow_nan=False)


def test_bands_average_the_layers_inside(found):
    """A band's value is the plain mean over its layers."""
    means = found.by_band(found.divergence)["ben_Beng"]
    curve = [point.value for point in found.divergence["ben_Beng"]]
    for band, (first, last) in found.bands.items():
        assert means[band] == pytest.approx(np.mean(curve[first : last + 1]))
    as_json = found.to_json()["pairs"]["bands"]["middle"]
    np.testing.assert_allclose(as_json, found.layer_pairs.band(*found.bands["middle"]))


def test_means_over_bands_have_intervals_over_items(runs, found):
    """Each item's divergence is averaged over the layers, and the items are resampled."""
    run, _ = runs
    pivot, other = (2 * read_distributions(run, code, "profile").halves for code in (CODES[0], "ben_Beng"))
    values = divergence(pivot, other)
    for band, (first, last) in found.bands.items():
        mean = found.divergence_by_band["ben_Beng"][band]
        drawn = FAST.draw(len(values)) @ values[:, first : last + 1].mean(axis=1) / len(values)
        expected = [values[:, first : last + 1].mean(), *np.quantile(drawn, [0.025, 0.975])]
        assert [mean.value, mean.low, mean.high] == pytest.approx(expected)
        assert mean.n == len(values)


def test_every_value_lies_in_its_interval(tmp_path):
    """Of few items and many experts near the cut, too: counts of experts, their loads, and statistics of rules."""
    run = simulate_run(replace(WORLD, n_items=5, strength=0.0, seed=1), tmp_path / "few")
    found = analyze_run(run, AnalysisRequest(resampling=FAST))
    rule = ShareRule("exclusive", CODES, ("ben_Beng",), 4, 0.2)
    rows = [getattr(row, name) for row in found.resources.rows for name in COLUMNS]
    rows += [Estimate(row.statistic, row.low, row.high, 5) for row in experts_among_languages(run, rule).experts]
    assert len(rows) > 140
    assert all(row.low <= row.value <= row.high for row in rows if row.has_interval)


def test_every_number_that_is_printed_has_its_interval(found, capsys, monkeypatch):
    """In sentences and tables; how many items are behind stands with them."""
    sentences = describe_run(found)
    for start in ("In the middle layers", "80 % of a language's"):
        sentence = next(each for each in sentences if each.startswith(start))
        assert len(re.findall(r"\d\.\d+ \[\d+\.\d+, \d+\.\d+\]", sentence)) == 2
        assert sentence.endswith(", n = 30 items.")
    monkeypatch.setenv("COLUMNS", "200")
    analyze._show(found)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(CODES)]
    assert len(rows) == len(CODES) - 1 + 3 * len(CODES)
    assert all(line.count("[") == 3 for line in rows)
    assert sum("n = 30 items" in line for line in lines) == 5


def test_bands_without_a_middle_are_thirds(found):
    """Where no middle was found, layers are divided evenly."""
    thirds = {"first third": (0, 3), "second third": (4, 7), "last third": (8, 11)}
    no_u = replace(found.middle_layers, is_u_shape=False)
    assert default_bands(replace(found, middle_layers=None)) == thirds
    assert default_bands(replace(found, middle_layers=no_u)) == thirds


def test_layers_that_are_no_middle_are_steered_by_nobody(found):
    """A rule or a plan that takes the middle is refused with the reason, and the text of the object names none."""
    no_u = replace(found, middle_layers=replace(found.middle_layers, is_u_shape=False, p_value=0.3, rise=0.0))
    with pytest.raises(
        RunError,
        match=r"no middle layers: layers in random order are as steep too often \(p = 0.300, above 0.05\); set",
    ):
        _ = no_u.middle
    assert "middle" in repr(found)
    assert "middle" not in repr(no_u)


def test_planted_families_are_seen_in_the_tree(runs):
    """Outside the middle, where languages have voices, relatives are clustered together."""
    run, _ = runs
    bands = {"outer": (9, 11), "inner": (4, 7)}
    trees = {name: band.tree for name, band in analyze_run(run, AnalysisRequest(bands=bands)).structure.bands.items()}
    order = trees["outer"].languages
    places = {code: order.index(code) for code in CODES}
    for first, second in (("deu_Latn", "nld_Latn"), ("fra_Latn", "spa_Latn"), ("ben_Beng", "hin_Deva")):
        assert abs(places[first] - places[second]) == 1


def test_accuracy_is_correlated_in_every_band(found):
    """More distant languages were given lower accuracy, so the correlation is negative and n counts languages."""
    outer = found.accuracy["late"]
    assert outer.pearson.value < -0.5
    assert outer.pearson.n == len(CODES) - 1
    assert set(found.related) == {"accuracy", "resource"}
    load = found.related["resource"]["late"]["coverage"]
    assert load.pearson.n == len(CODES)
    assert load == found.related["accuracy"]["late"]["coverage"]


def test_tables_hold_every_number_once(found):
    """Rows, columns and values of the tables are those of the analysis."""
    tables = tidy_tables(found)
    curves = tables["curves"].set_index(["measure", "language", "layer"])
    assert curves.index.is_unique
    point = found.divergence["fra_Latn"][5]
    assert tuple(curves.loc[("divergence", "fra_Latn", 5)]) == (point.value, point.low, point.high, point.n)
    pairs = tables["pairs"].set_index(["layer", "language", "other"])["divergence"]
    n = len(CODES)
    assert len(pairs) == 12 * n * (n - 1) // 2
    names = found.layer_pairs.languages
    assert pairs[(7, names[1], names[4])] == found.layer_pairs.values[7, 1, 4]  # noqa: PD011 - no table
    middle = tables["middle"].set_index("language")
    assert tuple(middle.loc["", ["start", "end"]]) == WORLD.middle
    assert set(middle.index) == {"", *CODES[1:]}
    assert len(tables["resources"]) == n * 3 * 6
    tests = tables["references"]
    assert set(tests["reference"]) == set(found.structure.bands["middle"].tests)
    assert tables["matches"].groupby(["reference", "controls"])["is_best"].sum().eq(1).all()
    assert set(tables["domain"]["measure"]) == {"raw", "floor", "excess"}
    assert len(tables["overlap"]) == len(found.overlap.points)
    with_accuracy = tables["correlations"].query("`with` == 'accuracy' and measure == 'divergence'")
    assert len(with_accuracy) == 2 * (12 + 3)


def test_tables_survive_parquet(runs, found, tmp_path):
    """What is written is read, column by column, and the JSON is that of --json."""
    paths = write_analysis(found, runs[0], tmp_path / "deep" / "tables")
    assert {path.stem for path in paths} == {"analysis", "findings", *tidy_tables(found)}
    for name, table in tidy_tables(found).items():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "deep" / "tables" / f"{name}.parquet"), table)
    assert json.loads(paths[0].read_text("utf-8")) == found.to_json()


def test_sentences_name_the_planted_truth(found):
    """The middle, the task's rise there and the number of languages are said."""
    text = "\n".join(describe_run(found))
    assert "layers 3-8" in text
    assert "more in the middle layers than in the others: by" in text
    assert f"n = {len(CODES) - 1} languages" in text
    assert "80 % of a language's expert selections in the middle layers (3-8)" in text


def test_several_pivots_are_named(runs):
    """Curves and sentences are of the divergence from both; neither has a curve."""
    found = analyze_run(runs[0], AnalysisRequest(pivot=("eng_Latn", "deu_Latn"), resampling=FAST))
    assert set(found.divergence) == set(CODES[2:])
    assert any(text.startswith("Divergence from English and German is lower") for text in describe_run(found))


def test_several_pivots_refuse_task_texts(runs):
    """Task texts are in one language, so two pivots are an error."""
    run, task = runs
    with pytest.raises(LanguageError, match="name one pivot"):
        analyze_run(run, AnalysisRequest(pivot=("eng_Latn", "deu_Latn"), task=task))


def test_a_band_without_layers_is_refused(runs):
    """Layers that the model does not have are named."""
    with pytest.raises(RunError, match="no routed layer"):
        analyze_run(runs[0], AnalysisRequest(bands={"far": (40, 50)}))


def test_pooled_counts_give_what_they_can(shared_data, tmp_path):
    """Published counts: pairs, tree and Mantel tests; what needs items or tokens is refused by name."""
    counts = import_counts_json(shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm", tmp_path / "counts")
    found = analyze_run(counts)
    assert set(found.to_json()["refused"]) == {"consistency", "shuffled", "intervals", "token_overlap"}
    assert found.structure.bands["middle"].tests["genealogical"].plain.correlation.n == 8
    assert found.resources.rows[0].consistency is None
    with pytest.raises(LanguageError, match="3 languages have divergence and accuracy"):
        analyze_run(counts, AnalysisRequest(accuracy={"ben_Beng": 0.8, "fra_Latn": 0.9, "zho_Hans": 0.9}))


def test_command_prints_and_writes(runs, tmp_path, capsys):
    """Sentences come first, then the languages; files are named on stdout, and --json has the same numbers."""
    run, task = runs
    accuracy = tmp_path / "accuracy.csv"
    accuracy.write_text("language,accuracy\n" + "".join(f"{code},{value}\n" for code, value in ACCURACY.items()))
    options = [
        "--accuracy",
        str(accuracy),
        "--task",
        str(task.path),
        "--band",
        "middle=3-8",
        "-o",
        str(tmp_path / "out"),
    ]
    assert main(["analyze", str(run.path), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Divergence from English is lower in the middle layers")
    assert any(line.startswith("ben_Beng") for line in lines)
    assert lines[-1].endswith("overlap.parquet")
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "How simulated routes 7 languages" in page
    assert lines[0] in page
    capsys.readouterr()
    assert main(["analyze", str(run.path), *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "analysis.json").read_text("utf-8"))
    assert printed["bands"] == {"middle": [3, 8]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--band", "middle"], "expected NAME=A-B"),
        (["--band", "middle=9-3"], "not a range of layers"),
        (["--pivot", "eng_Latn,,"], "empty part"),
    ],
)
def test_command_refuses_bad_options(runs, options, message, capsys):
    """Wrong bands and pivots are exit code 2 with what was expected."""
    with pytest.raises(SystemExit) as stop:
        main(["analyze", str(runs[0].path), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_command_refuses_bad_files(runs, tmp_path, capsys):
    """A missing accuracy file, one that is no table, and a folder that cannot be made are one line each."""
    bad = tmp_path / "bad.json"
    bad.write_text("[1, 2")
    for options in (["--accuracy", str(tmp_path / "none.csv")], ["--accuracy", str(bad)], ["-o", str(bad / "x")]):
        assert main(["analyze", str(runs[0].path), *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("isogloss: ")
        assert error.count("\n") == 1


def test_opened_run_gives_the_same(runs, found):
    """Nothing depends on the Run object that wrote the files."""
    again = analyze_run(open_run(runs[0].path), AnalysisRequest(resampling=FAST))
    assert again.divergence == found.divergence


@pytest.mark.parametrize(
    ("plain", "partial", "said"),
    [
        (0.01, 0.01, "Routing follows genealogy in the middle layers (3-8): Mantel r"),
        (0.01, 0.01, "; also after controlling for "),
        (0.01, 0.5, "; no evidence of it after controlling for "),
        (0.5, 0.01, "No evidence that routing follows any of these in the middle layers (3-8): genealogy (Mantel r"),
    ],
)
def test_genealogy_is_said_as_it_fell(found, plain, partial, said):
    """Both adjusted p-values decide the words."""
    band = found.structure.bands["middle"]
    test = band.tests["genealogical"]
    above = Estimate(0.5, 0.2, 0.8, 8)
    changed = replace(
        test,
        plain=replace(test.plain, correlation=above),
        p_adjusted=plain,
        partial=replace(test.partial, correlation=above),
        partial_p_adjusted=partial,
    )
    bands = {"middle": replace(band, tests={**band.tests, "genealogical": changed})}
    text = "\n".join(describe_run(replace(found, structure=replace(found.structure, bands=bands))))
    assert said in text


def test_what_is_written_is_read_back(runs, found, tmp_path):
    """The class that wrote analysis.json reads it: every number is there again, NaN as NaN."""
    write_analysis(found, runs[0], tmp_path)
    again = Analysis.read(tmp_path / "analysis.json")
    assert again.to_json() == found.to_json()
    assert again.divergence == found.divergence
    assert again.structure.bands["late"].tree.newick() == found.structure.bands["late"].tree.newick()
    assert again.middle == found.middle
    assert repr(again) == repr(found) == "Analysis(6 languages against eng_Latn, 12 layers, middle 3-8)"


def test_damaged_analysis_is_named_with_file_and_field(runs, found, tmp_path):
    """The message has the file and the path of the field that is wrong."""
    write_analysis(found, runs[0], tmp_path)
    raw = json.loads((tmp_path / "analysis.json").read_text("utf-8"))
    raw["resources"]["rows"][2]["exclusive"]["n"] = "many"
    (tmp_path / "analysis.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(RunError, match=r"analysis\.json.*resources\.rows\.2\.exclusive\.n"):
        Analysis.read(tmp_path / "analysis.json")


def test_a_measure_is_a_frame(found):
    """Tables and measures have names; another name is refused with those that there are."""
    frame = found.to_frame("divergence")
    assert list(frame.columns) == ["language", "layer", "value", "low", "high", "n"]
    assert len(frame) == 6 * 12
    assert set(found.to_frame("pairs").columns) == {"layer", "language", "other", "divergence"}
    with pytest.raises(RunError, match=r"no table 'hidden_cka'; it has curves, middle, .* divergence"):
        found.to_frame("hidden_cka")


def test_nothing_follows_beside_an_interval_that_holds_zero(found):
    """A small p alone is no evidence: the interval has to lie on one side of zero, too."""
    band = found.structure.bands["middle"]
    test = band.tests["genealogical"]
    held = replace(test, plain=replace(test.plain, correlation=Estimate(0.5, -0.1, 0.8, 8)), p_adjusted=0.001)
    bands = {"middle": replace(band, tests={"genealogical": held})}
    text = "\n".join(describe_run(replace(found, structure=replace(found.structure, bands=bands))))
    assert "follows genealogy" not in text
    assert "No evidence that routing follows any of these in the middle layers (3-8): genealogy" in text
