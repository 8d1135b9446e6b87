"""The change of divergence between two Runs of the same texts: per item, with an interval that pairing makes narrow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from run_examples import LANGUAGES, LAYERS, MANIFEST, digest, routing, write

from isogloss.analysis import DivergenceChange, divergence, divergence_change
from isogloss.errors import LanguageError, RunError
from isogloss.records import read_typed, write_typed
from isogloss.runs import RunWriter

PIVOT = "eng_Latn"


@pytest.fixture
def runs(tmp_path):
    """Two Runs of the same texts by models of other weights."""
    return write(tmp_path / "before"), write(tmp_path / "after", seed=100)


def per_item(run, code):
    """Divergence of every item in every layer."""
    return divergence(run.load(code).profiles, run.load(PIVOT).profiles)


def test_the_change_is_the_mean_difference_of_items(runs):
    """By language, and over all of them."""
    found = divergence_change(*runs)
    assert found.layers == LAYERS
    assert set(found.change) == set(LANGUAGES) - {PIVOT}
    differences = {code: per_item(runs[1], code) - per_item(runs[0], code) for code in found.change}
    for code, expected in differences.items():
        np.testing.assert_allclose([each.value for each in found.change[code]], expected.mean(0), rtol=1e-9)
        for place, each in enumerate(found.change[code]):
            assert each.value == pytest.approx(found.after[code][place].value - found.before[code][place].value)
            assert each.low <= each.value <= each.high
    together = np.mean(list(differences.values()), axis=(0, 1))
    np.testing.assert_allclose([each.value for each in found.mean_change], together, rtol=1e-9)


def test_a_run_has_not_changed_from_itself(runs):
    """And the other way round every change has the other sign."""
    assert all(each.value == each.low == each.high == 0 for each in divergence_change(runs[0], runs[0]).mean_change)
    there, back = divergence_change(*runs), divergence_change(*runs[::-1])
    for one, other in zip(there.mean_change, back.mean_change, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_pairing_makes_the_interval_narrow(tmp_path):
    """Where every item changes alike, the interval is a point, however much items differ."""
    before = write(tmp_path / "before")
    writer = RunWriter(tmp_path / "after", MANIFEST)
    for code in LANGUAGES:
        drawn = routing(LANGUAGES.index(code))
        pivot = routing(LANGUAGES.index(PIVOT)).profiles
        profiles = drawn.profiles.copy()
        profiles[:, 0] = pivot[:, 0]
        writer.write(code, replace(drawn, profiles=profiles), digest(code))
    found = divergence_change(before, writer.finish(), languages=["swh_Latn"])
    first, second = found.change["swh_Latn"]
    assert first.low < first.high < 0
    assert (second.value, second.low, second.high) == (0, 0, 0)


def test_the_result_is_read_back_and_is_a_table(runs, tmp_path):
    """By its own class; one row per language, layer and measure."""
    found = divergence_change(*runs)
    rows = found.to_frame().set_index(["measure", "language", "layer"])
    assert len(rows) == len(LAYERS) * (3 * len(found.change) + 1)
    assert rows.loc[("change", "swh_Latn", 3), "low"] == found.change["swh_Latn"][1].low
    assert rows.loc[("change", "mean", 1), "value"] == found.mean_change[0].value
    write_typed(tmp_path / "change.json", found)
    assert read_typed(tmp_path / "change.json", DivergenceChange) == found


def test_runs_that_differ_otherwise_are_refused(runs, tmp_path):
    """Other texts, items, layers, or tokens counted; and languages that one of them lacks."""
    other = RunWriter(tmp_path / "texts", MANIFEST)
    for code in LANGUAGES:
        other.write(code, routing(0), "f" * 64)
    with pytest.raises(RunError, match="texts with sha256"):
        divergence_change(runs[0], other.finish())
    for name, changed, says in (
        ("items", {"item_ids": ("1", "2", "3")}, "item_ids"),
        ("tokens", {"token_scope": "all"}, "token_scope"),
        ("first", {"first_tokens": 3}, "first_tokens"),
        ("chat", {"chat_template_sha256": "a" * 64}, "chat_template_sha256"),
        ("phase", {"phase": "generation"}, "phase"),
        ("written", {"phase": "generation", "new_tokens": 4}, "new_tokens"),
        ("layers", {"routers": tuple(replace(each, layer=each.layer + 1) for each in MANIFEST.routers)}, "layers"),
    ):
        manifest = replace(MANIFEST, **changed)
        if name == "layers":
            manifest = replace(manifest, fingerprint=None)
        with pytest.raises(RunError, match=says):
            divergence_change(runs[0], write(tmp_path / name, manifest=manifest))
    with pytest.raises(LanguageError, match="tel_Telu"):
        divergence_change(*runs, languages=["tel_Telu"])
    with pytest.raises(LanguageError, match="pivot"):
        divergence_change(*runs, pivot="tel_Telu")
