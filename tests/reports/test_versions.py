"""Two versions of a model, as text and on the page: what stands first, what is left out, how small numbers look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_versions import model_version

from isogloss.evaluation.versions import (
    LAYER_MEASURES,
    MEASURES,
    VersionComparison,
    compare_versions,
)
from isogloss.reports import describe_versions, difference_rows
from isogloss.reports.figures import Table
from isogloss.reports.versions import versions_section
from isogloss.statistics import Resampling

RESAMPLING = Resampling(n_resamples=99)
REST = ["sets, %", "first expert, %", "divergence", "next token, %", "KL, nats"]


def comparison(shares, *, stored=4, n_items=12, resampling=RESAMPLING):
    """Two versions in which a language's choices change in about this share of the tokens of a text, in two layers."""
    generator = np.random.default_rng(0)
    values = {
        code: {
            measure: generator.uniform(0.5, 1.5, (n_items, 2) if measure in LAYER_MEASURES else n_items) * share
            for measure in MEASURES
        }
        for code, share in shares.items()
    }
    tokens = {code: np.full(n_items, 10) for code in shares}
    languages, overall = compare_versions(values, tokens, resampling=resampling)
    version = model_version(("experts", "bfloat16", stored, 4))
    return VersionComparison(
        version, version, "c", "content", n_items, (0, 1), 8, 2, languages, overall, resampling=resampling
    )


def tables(result):
    """The tables of the section by title."""
    return {block.title: block for block in versions_section(result).blocks if isinstance(block, Table)}


def test_what_is_tested_stands_first():
    """Changed choices, how they compare with the other languages, and whether that is chance; then the rest."""
    result = comparison({"eng_Latn": 0.1, "swh_Latn": 0.3})
    tested = ["choices, %", "choices − others', points", "p (Holm)"]
    rows = difference_rows(result)
    assert list(rows) == ["", "eng_Latn", "swh_Latn"]
    assert all(list(cells) == [*tested, *REST] for cells in rows.values())
    assert rows[""]["p (Holm)"] == "–"
    assert rows["swh_Latn"]["p (Holm)"] == "< 0.001"
    table = tables(result)["What changes, by language"]
    assert list(table.header) == ["language", *tested, *REST]
    assert [row[0] for row in table.rows] == ["Mean over languages", "English (eng_Latn)", "Swahili (swh_Latn)"]
    assert "Holm" in table.caption


def test_one_language_is_compared_with_no_other():
    """No column of dashes, no mean over one language, and no word about a test that was not made."""
    result = comparison({"swh_Latn": 0.3})
    ((code, cells),) = difference_rows(result).items()
    assert (code, list(cells)) == ("swh_Latn", ["choices, %", *REST])
    table = tables(result)["What changes, by language"]
    assert list(table.header) == ["language", "choices, %", *REST]
    section = versions_section(result)
    text = " ".join([*describe_versions(result), *section.paragraphs, *(block.caption for block in section.blocks)])
    for word in ("Holm", "others'", "over languages", "1 language"):
        assert word not in text


@pytest.mark.parametrize(("stored", "shown"), [(None, False), (4, True)])
def test_sizes_of_files_are_listed_where_they_are_known(stored, shown):
    """Not of pickles, whose column would hold dashes alone."""
    header = tables(comparison({"swh_Latn": 0.3}, stored=stored))["What the weights take"].header
    assert ("in files, MB" in header) is shown


def test_small_shares_are_written_with_a_power_of_ten():
    """In sentences and tables, as small numbers are elsewhere."""
    result = comparison({"eng_Latn": 2e-7, "swh_Latn": 3e-7})
    result = replace(result, first=replace(result.first, repeated=1e-8))
    shown = [*describe_versions(result), *(cell for row in difference_rows(result).values() for cell in row.values())]
    assert not [text for text in shown if "e-0" in text or "e−0" in text]
    assert sum("×10⁻⁵" in text for text in shown) > 8
    assert any("m in bfloat16 1×10⁻⁶ %; m in bfloat16 0 %" in text for text in shown)


def test_intervals_are_said_as_they_were_drawn():
    """The level of the resampling; of one item there are none."""
    result = comparison({"eng_Latn": 0.1, "swh_Latn": 0.3}, resampling=Resampling(n_resamples=99, level=0.9))
    section = versions_section(result)
    assert all("90 % bootstrap" in block.caption for block in section.blocks if block.title.startswith("What changes"))
    assert all("95 %" not in block.caption for block in section.blocks)
    alone = versions_section(comparison({"eng_Latn": 0.1, "swh_Latn": 0.3}, n_items=1))
    assert all("bootstrap" not in block.caption for block in alone.blocks)
