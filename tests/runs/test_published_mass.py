"""Imports of summed weights and of sets of experts: what they allow is right, and the rest is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isogloss.analysis import analyze_run, divergence, experts_among_languages, pairwise_divergence
from isogloss.analysis.shares import ShareRule
from isogloss.cli import main
from isogloss.errors import RunError
from isogloss.runs import import_expert_sets, import_mass_json, open_run


def mass(**changes):
    """Four layers of six experts in English, German and Swahili, and a task."""
    generator = np.random.default_rng(0)
    drawn = {
        name: {str(layer): (100 * generator.dirichlet(np.ones(6))).tolist() for layer in range(4)}
        for name in ("en", "de", "sw", "math")
    }
    return {"model": "big", "num_experts": 6, "top_k": 2, "layers": [0, 1, 2, 3], "mass": drawn} | changes


def test_mass_gives_divergence_and_entropy_of_its_shares(tmp_path):
    """Numbers are those of the weights divided by their sums; tasks are named, and imported one by one."""
    raw = mass()
    (tmp_path / "mass.json").write_text(json.dumps(raw))
    run = import_mass_json(tmp_path / "mass.json", tmp_path / "run")
    assert run.languages == ("deu_Latn", "eng_Latn", "swh_Latn")
    assert any("left out: math" in note for note in run.manifest.notes)
    found = analyze_run(open_run(tmp_path / "run"))
    en, de = (np.array(list(raw["mass"][code].values())) / 100 for code in ("en", "de"))
    assert [point.value for point in found.divergence["deu_Latn"]] == pytest.approx(divergence(en, de), abs=1e-6)
    entropy = -(de * np.log(de)).sum(axis=1)
    assert [point.value for point in found.entropy["deu_Latn"]] == pytest.approx(entropy, abs=1e-6)
    task = import_mass_json(tmp_path / "mass.json", tmp_path / "task", category="math")
    assert task.languages == ("eng_Latn",)


def test_what_needs_selections_or_items_is_refused_by_name(tmp_path):
    """Shares of selections, consistency, intervals: each is refused, and the analysis says so."""
    (tmp_path / "mass.json").write_text(json.dumps(mass()))
    run = import_mass_json(tmp_path / "mass.json", tmp_path / "run")
    found = analyze_run(run)
    assert found.quantity == "profile"
    assert {"resources", "consistency", "shuffled", "intervals"} <= found.refused.keys()
    assert "how often each expert was chosen" in found.refused["resources"]
    with pytest.raises(RunError, match="imported mass-json"):
        experts_among_languages(run, ShareRule("common", run.languages, top=2, threshold=0.5))


def test_sets_give_the_share_that_is_not_shared(tmp_path):
    """Divergence is that share in known units; entropy and a middle are refused."""
    sets = {"eng_Latn": [0, 1, 2, 8, 9], "deu_Latn": [0, 1, 3, 8, 10], "swh_Latn": [4, 5, 6, 11, 12]}
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    run = import_expert_sets(tmp_path / "sets.json", tmp_path / "run", n_experts=8)
    assert [router.top_k for router in run.manifest.routers] == [3, 2]
    values = pairwise_divergence(run).values
    rows = run.languages.index("eng_Latn"), run.languages.index("deu_Latn")
    for layer, (size, lacking) in enumerate(((3, 1 / 3), (2, 1 / 2))):
        assert values[layer][rows] == pytest.approx(lacking * np.log(2) / np.log(8 / size), abs=1e-6)
    found = analyze_run(run)
    assert found.entropy == {}
    assert {"entropy", "middle_layers", "resources", "consistency"} <= found.refused.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mass": {"math": {}}}, "no category is a language"),
        ({"top_k": 7}, "top_k up to num_experts"),
        ({"layers": [0, 0]}, "expected ascending layers"),
        ({"mass": {"en": {str(k): [1.0] * 5 for k in range(4)}}}, "en, layer 0: expected 6 numbers"),
        ({"mass": {"en": {str(k): [1.0 + k] * 6 for k in range(4)}}}, "layers sum to 6 to 24"),
    ],
)
def test_malformed_mass_is_refused_in_one_line(tmp_path, capsys, changes, message):
    """Exit code 2, and nothing is left."""
    (tmp_path / "mass.json").write_text(json.dumps(mass(**changes)))
    assert main(["import", str(tmp_path / "mass.json"), "--format", "mass-json", "-o", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"eng_Latn": [0, 0]}, "has an id twice"),
        ({"eng_Latn": [0, 1], "deu_Latn": [0]}, "the same sizes"),
        ({"eng_Latn": []}, "no list of expert ids"),
        ({"eng_Latn": ["a"]}, "expected a whole number"),
        ({"qqq_Latn": [1]}, "unknown"),
    ],
)
def test_malformed_sets_are_refused_in_one_line(tmp_path, capsys, sets, message):
    """Exit code 2, and nothing is left."""
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    command = ["import", str(tmp_path / "sets.json"), "--format", "expert-sets", "-o", str(tmp_path / "run")]
    assert main(command) == 2
    assert "needs --experts" in capsys.readouterr().err
    assert main([*command, "--experts", "4"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_published_mass_is_u_shaped_for_languages_alone(shared_data, tmp_path):
    """Command A+: five languages have a middle against English, and none of five tasks has."""
    path = shared_data / "routing" / "command_a_plus" / "atlas_mass.json"
    found = analyze_run(import_mass_json(path, tmp_path / "run"))
    assert found.has_middle
    assert len(found.middle_by_language) == 5
    assert all(middle.is_u_shape for middle in found.middle_by_language.values())
