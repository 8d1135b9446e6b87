"""The page of findings: its sections say what the analysis behind them says."""

from __future__ import annotations

import pytest

from isogloss.analysis import AnalysisRequest, analyze_run
from isogloss.statistics import Resampling
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import SimulatedLanguage, SimulatedWorld

CODES = ("eng_Latn", "deu_Latn", "fra_Latn", "ben_Beng", "hin_Deva", "tha_Thai")
ACCURACY = dict(zip(CODES, (0.9, 0.8, 0.85, 0.5, 0.55, 0.4), strict=True))


@pytest.fixture
def page(document_script):
    """The script that writes the page."""
    return document_script("findings")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An analysis of simulated routing with everything but real options of capture."""
    folder = tmp_path_factory.mktemp("runs")
    languages = tuple(SimulatedLanguage(code, distance=float(place)) for place, code in enumerate(CODES))
    world = SimulatedWorld(languages=languages, n_items=20)
    run, task = simulate_run(world, folder / "generic"), simulate_task_run(world, folder / "task")
    request = AnalysisRequest(accuracy=ACCURACY, task=task, resampling=Resampling(n_resamples=50, n_permutations=20))
    return analyze_run(run, request)


def cells(table: str) -> list[list[str]]:
    """Rows of the tables in a text, without their heads."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows[2:] if set(row) != {"---"}]


def test_counts_compare_with_the_published_middle(page, shared_data, tmp_path):
    """Published counts give edges, tests and refusals; sharing of layers is counted from both ranges."""
    text = "\n".join(page.counts_section(page.Work(shared_data, tmp_path)))
    assert "Published: layers 7-34" in text
    assert "| all languages | 4-41 | 0.74 | True |" in text  # 28 of the 38 layers of either range
    assert "The 15 published Belebele accuracies of this model: 3 languages have" in text
    assert "English and Chinese share 420 experts in layers 10-39" in text  # as arXiv 2601.14050 steers
    for refused in ("consistency", "shuffled", "intervals", "token_overlap"):
        assert f"* {refused}: " in text
    assert str(tmp_path) not in text


def test_divergence_is_that_of_the_analysis(page, found):
    """Groups are means over their languages, and own languages are listed one by one."""
    rows = {row[0]: row[1:] for row in cells(page.divergence_table(found, CODES[:4]))}
    means = found.by_band(found.divergence)
    assert rows["Bengali"] == [f"{value:.3f}" for value in means["ben_Beng"].values()]
    others = [sum(means[code][band] for code in CODES[4:]) / 2 for band in found.bands]
    assert rows["*other languages, other scripts* (n = 2)"] == [f"{value:.3f}" for value in others]
    assert "Hindi" not in rows


def test_references_list_every_test(page, found):
    """One row per band and distance, and the best layer of each distance."""
    text = page.references(found)
    rows = cells(text)
    assert len(rows) == sum(len(band.tests) for band in found.structure.bands.values())
    for name, match in found.structure.matches.items():
        assert f"{name}: layer {match.layer} (p = {match.p_value:.3f})" in text


def test_correlations_state_n(page, found):
    """Every row has its number of languages: the pivot counts for its experts, not for its divergence."""
    rows = cells(page.correlations(found))
    assert {row[2] for row in rows if row[0].startswith("divergence")} == {str(len(CODES) - 1)}
    assert {row[2] for row in rows if row[0].startswith("coverage")} == {str(len(CODES))}
