"""Distances between languages by other accounts: known facts, coverage, what happens without the data."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace

import numpy as np
import pytest
from run_examples import ITEMS, MANIFEST, digest, routing

from isogloss.analysis import reference_distances, token_overlap_distance
from isogloss.analysis import references as module
from isogloss.errors import LanguageError, RunError
from isogloss.languages import FLORES_200
from isogloss.runs import RunWriter

ALL = sorted(FLORES_200)
HAS_DATA = any(importlib.metadata.distributions(name="lang2vec"))
needs_data = pytest.mark.skipif(not HAS_DATA, reason="pip install isogloss[languages]")


@pytest.fixture(scope="module")
def distances():
    """All reference distances between the languages of FLORES-200."""
    return reference_distances(ALL)


def between(distance, one, other):
    """Distance of two languages by code."""
    return float(distance.values[distance.languages.index(one), distance.languages.index(other)])


@needs_data
def test_coverage_of_flores(distances):
    """How many of the 204 varieties each reference knows; predictions of features know all."""
    known = {name: len(ALL) - len(distance.unknown) for name, distance in distances.items()}
    assert known == {
        "genealogical": 204,
        "typological": 76,
        "syntax": 136,
        "phonology": 83,
        "inventory": 145,
        "geographic": 204,
        "script": 204,
    }
    imputed = reference_distances(ALL, ["typological", "syntax"], imputed=True)
    assert not imputed["typological"].unknown
    assert not imputed["syntax"].unknown


@needs_data
@pytest.mark.parametrize("name", module.REFERENCE_NAMES)
def test_every_reference_is_a_distance(distances, name):
    """Symmetric, between 0 and 1, zero on the diagonal, NaN in full rows of the unknown and nowhere else."""
    distance = distances[name]
    known = np.array([code not in distance.unknown for code in distance.languages])
    assert distance.languages == tuple(ALL)
    inside = distance.values[np.ix_(known, known)]
    assert (inside == inside.T).all()
    assert (np.diag(inside) == 0).all()
    assert inside.min() == 0
    assert 0.6 < inside.max() <= 1
    assert np.isnan(distance.values[~known]).all()
    assert np.isnan(distance.values[:, ~known]).all()


@needs_data
def test_genealogy_knows_what_every_linguist_knows(distances):
    """Relatives are near, strangers at 1; Basque is related to none; two scripts are one language."""
    tree = distances["genealogical"]
    assert between(tree, "deu_Latn", "nld_Latn") < between(tree, "deu_Latn", "eng_Latn") < 0.7
    assert between(tree, "deu_Latn", "eng_Latn") < between(tree, "deu_Latn", "rus_Cyrl") < 1
    assert between(tree, "por_Latn", "spa_Latn") < between(tree, "por_Latn", "fra_Latn")
    assert between(tree, "eng_Latn", "jpn_Jpan") == 1
    assert between(tree, "fin_Latn", "est_Latn") < between(tree, "fin_Latn", "hun_Latn") < 1
    assert between(tree, "hin_Deva", "urd_Arab") < 0.3
    assert between(tree, "zho_Hans", "yue_Hant") < between(tree, "zho_Hans", "bod_Tibt") < 1
    assert np.delete(tree.values[ALL.index("eus_Latn")], ALL.index("eus_Latn")) == pytest.approx(1)
    assert between(tree, "ace_Arab", "ace_Latn") == 0
    assert between(tree, "lvs_Latn", "lit_Latn") < 0.6


@needs_data
def test_genealogy_is_the_angle_between_ancestors(distances):
    """English has nine ancestors in the tree and German six, of which four are shared."""
    expected = 2 / np.pi * np.arccos(4 / np.sqrt(9 * 6))
    assert between(distances["genealogical"], "eng_Latn", "deu_Latn") == pytest.approx(expected, abs=1e-6)


@needs_data
def test_places_are_where_the_languages_are(distances):
    """Great circles agree with the map to within 100 km: points for English, German and Japanese in Glottolog."""
    half = 20_015.0

    def arc(one, other):
        (a, b), (c, d) = np.radians(one), np.radians(other)
        return np.arccos(np.sin(a) * np.sin(c) + np.cos(a) * np.cos(c) * np.cos(b - d)) / np.pi

    english, german, japanese = (53.0, -1.0), (48.65, 12.47), (35.0, 135.0)
    place = distances["geographic"]
    for one, other, expected in (
        ("eng_Latn", "deu_Latn", arc(english, german)),
        ("eng_Latn", "jpn_Jpan", arc(english, japanese)),
    ):
        assert abs(between(place, one, other) - expected) * half < 100


@needs_data
def test_typology_knows_word_order(distances):
    """Japanese is nearer to Korean than to English in syntax, English nearer to French than to Japanese."""
    syntax = distances["syntax"]
    assert between(syntax, "jpn_Jpan", "kor_Hang") < between(syntax, "jpn_Jpan", "eng_Latn")
    assert between(syntax, "eng_Latn", "fra_Latn") < between(syntax, "eng_Latn", "jpn_Jpan")
    parts = [between(distances[name], "eng_Latn", "jpn_Jpan") for name in ("syntax", "phonology", "inventory")]
    assert between(distances["typological"], "eng_Latn", "jpn_Jpan") == pytest.approx(np.mean(parts))


@needs_data
def test_known_languages_share_enough_observations():
    """The threshold of knowledge leaves no pair with fewer than 20 observed features in common in any part."""
    rows, data, features = module._table("feature_averages.npz")
    for part, prefix in (("syntax", "S_"), ("phonology", "P_"), ("inventory", "INV_")):
        distance = reference_distances(ALL, [part])[part]
        codes = [code[:3] for code in ALL if code not in distance.unknown]
        columns = np.char.startswith(features, prefix)
        seen = [data[rows[module._IN_FEATURES.get(code, code)]][columns] >= 0 for code in codes]
        shared = np.array(seen).astype(int) @ np.array(seen).T.astype(int)
        assert shared.min() >= 20


@needs_data
def test_each_mapped_code_needs_its_mapping():
    """The tables stay small: an own row is empty in the tree, or less than half as observed as the macrolanguage."""
    rows, tree, _ = module._table("family_features.npz")
    for code, listed in module._IN_TREE.items():
        assert code == "zho" or tree[rows[code]].sum() == 0
        assert tree[rows[listed]].sum() > tree[rows[code]].sum()
    rows, features, _ = module._table("feature_averages.npz")
    for code, listed in module._IN_FEATURES.items():
        assert (features[rows[code]] >= 0).sum() < 0.9 * (features[rows[listed]] >= 0).sum()


def missing(name):
    """Stand in for the search for a package that is not installed."""
    raise importlib.metadata.PackageNotFoundError(name)


def test_script_needs_no_data(monkeypatch):
    """Without the extra, script works and everything else says what to install."""
    module._table.cache_clear()
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    found = reference_distances(["rus_Cyrl", "ukr_Cyrl", "eng_Latn", "zho_Hans", "zho_Hant"], ["script"])["script"]
    assert found.values[0].tolist() == [0, 0, 1, 1, 1]
    assert found.values[3, 4] == 1
    for name in ("genealogical", "typological", "syntax", "geographic"):
        with pytest.raises(LanguageError, match=r"pip install 'isogloss\[languages\]'"):
            reference_distances(["eng_Latn", "deu_Latn"], [name])


@needs_data
def test_a_code_that_uriel_lacks_is_unknown_and_not_an_error():
    """A language outside the source is named and has NaN; the others keep their distances."""
    found = reference_distances(["eng_Latn", "deu_Latn", "cnr_Latn"])
    for name in ("genealogical", "geographic", "syntax"):
        assert found[name].unknown == ("cnr_Latn",)
        assert np.isfinite(found[name].values[0, 1])
    raw = found["genealogical"].to_json()
    assert raw["values"][2] == [None, None, None]
    assert json.dumps(raw, allow_nan=False)


def test_wrong_names_and_doubles_are_named():
    """A distance that does not exist, and a language given under two spellings."""
    with pytest.raises(ValueError, match="no reference distance genetic; expected some of genealogical"):
        reference_distances(["en", "de"], ["genetic"])
    with pytest.raises(LanguageError, match="given twice"):
        reference_distances(["en", "eng_Latn"], ["script"])


def with_vocabulary(path, words):
    """Write a Run whose languages counted these tokens: language to {id: count}."""
    writer = RunWriter(path, MANIFEST)
    for place, (language, counted) in enumerate(words.items()):
        one = routing(place)
        total = int(one.tokens.sum())
        share = total // sum(counted.values())
        counts = np.array([counted[key] * share for key in sorted(counted)], dtype=np.int32)
        counts[-1] += total - counts.sum()
        ids = np.array(sorted(counted), dtype=np.int32)
        writer.write(language, replace(one, vocabulary=ids, vocabulary_counts=counts), digest(language))
    return writer.finish()


def test_token_overlap_is_total_variation(tmp_path):
    """Half the summed difference of relative frequencies; 1 without a shared token, 0 for equal texts."""
    run = with_vocabulary(
        tmp_path / "run",
        {
            "deu_Latn": {1: 1, 5: 2, 7: 1},
            "eng_Latn": {1: 1, 5: 1, 9: 1},
            "swh_Latn": {7: 1, 9: 1},
            "zho_Hans": {2: 1, 70: 1},
        },
    )
    found = token_overlap_distance(run)
    shares = np.zeros((4, 71))
    for row, language in enumerate(run.languages):
        one = run.load(language)
        shares[row, one.vocabulary] = one.vocabulary_counts / one.vocabulary_counts.sum()
    expected = abs(shares[:, None] - shares[None]).sum(axis=-1) / 2
    assert found == pytest.approx(expected)
    assert 0 < found[0, 1] < 1
    assert found[0, 3] == 1
    assert np.diag(found).tolist() == [0, 0, 0, 0]
    assert token_overlap_distance(run, ["eng_Latn", "deu_Latn"]) == pytest.approx(expected[:2, :2])


def test_token_overlap_is_refused_where_tokens_are_unknown(tmp_path):
    """Imported counts, and Runs captured without vocabularies, say what to do."""
    writer = RunWriter(tmp_path / "bare", MANIFEST)
    writer.write("eng_Latn", routing(1), digest("eng_Latn"))
    with pytest.raises(RunError, match="has no vocabulary"):
        token_overlap_distance(writer.finish())
    assert ITEMS == 3
    pooled = replace(MANIFEST, granularity="pooled", item_ids=("all",))
    run = RunWriter(tmp_path / "pooled", pooled).finish()
    with pytest.raises(RunError, match="imported counts do not say which tokens were counted"):
        token_overlap_distance(run)
