"""Results show themselves: one line as text, and in a notebook a small table without a way out of its cells."""

from __future__ import annotations

import pytest

from isogloss.analysis import ExpertRow, ExpertTable
from isogloss.corpora import Corpus
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan
from known_answers.simulation import simulate_run
from known_answers.worlds import SimulatedLanguage, SimulatedWorld

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def results(tmp_path):
    """One of each: a corpus, a Run, a table of experts, a plan; and what their line must hold."""
    world = SimulatedWorld(languages=(SimulatedLanguage("eng_Latn"), SimulatedLanguage("deu_Latn")), n_items=30)
    rules = (
        Intervention("offset", 3, (1, 4), values=(0.5, -0.5), languages=("sw",), phase="generation"),
        Intervention("ban", 5, (0,)),
    )
    experts = tuple(ExpertRow(layer, 2, 0.5, 0.4, 0.6) for layer in range(14))
    return {
        "2 languages, 1 items": Corpus(HOSTILE, {"eng_Latn": (HOSTILE,), "deu_Latn": ("b",)}, ("x",), "CC0", "here"),
        "2 languages, 30 items": simulate_run(world, tmp_path / "run"),
        "14 experts in 14 layers; 0.5 expected by chance": ExpertTable("delta", {}, experts, 0.5),
        "ban, offset; 3 experts in 2 layers, 3 to 5, rules for swh_Latn": Plan(
            Fingerprint("qwen3_moe", (3, 5), 8, 2, "ab12"), rules
        ),
    }


def test_one_line_says_what_it_is(results):
    """The text is one line, and names type, size and what decides."""
    for line, result in results.items():
        assert line in repr(result)
        assert repr(result).startswith(type(result).__name__)
        assert "\n" not in repr(result)


def test_tables_are_tidy(results):
    """One row per observation; every array of the result is in it."""
    corpus, run, experts, plan = (result.to_frame() for result in results.values())
    assert corpus.to_dict("list") == {"item": ["x"] * 2, "language": ["deu_Latn", "eng_Latn"], "text": ["b", HOSTILE]}
    assert run["n_items"].tolist() == [30, 30]
    assert (run["n_tokens"] >= 30).all()
    assert experts["layer"].tolist() == list(range(14))
    assert plan.loc[plan["kind"] == "offset", "value"].tolist() == [0.5, -0.5]
    assert plan.loc[plan["kind"] == "offset", "languages"].tolist() == ["swh_Latn"] * 2


def test_a_notebook_shows_a_small_table(results):
    """At most a dozen rows, and nothing that a text holds becomes markup."""
    for result in results.values():
        page = result._repr_html_()
        assert page.count("<tr") <= 13
        assert "<script" not in page


def test_a_small_table_has_no_cells_of_nothing(results):
    """A column without a value is left out, a cell without one is empty, and numbers have four digits."""
    _, _, experts, plan = (result._repr_html_() for result in results.values())
    assert "<th>weight</th>" not in experts
    assert "<td>0.4</td>" in experts
    assert "<td>3</td>" in experts
    assert "<th>value</th>" in plan
    for page in (experts, plan):
        assert not any(f"<td>{nothing}</td>" in page for nothing in ("None", "NaN", "nan"))
    assert "2 more rows" in results["14 experts in 14 layers; 0.5 expected by chance"]._repr_html_()
