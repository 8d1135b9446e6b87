"""Trees of languages, and what routing is tested against, on planted families."""

from __future__ import annotations

import io
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, dendrogram, is_valid_linkage, linkage
from scipy.spatial.distance import squareform

from isogloss.analysis import PairwiseDivergence, language_structure, language_tree
from isogloss.errors import LanguageError, RunError
from isogloss.languages import FLORES_200
from isogloss.statistics import Resampling

CODES = tuple(sorted(FLORES_200))
FAMILIES = np.repeat(np.arange(4), 5)


def noise(generator, n, size=1.0):
    """Symmetric noise, at least 0, with a zero diagonal."""
    values = generator.random((n, n)) * size
    return np.triu(values, 1) + np.triu(values, 1).T


def planted(seed, size=0.2):
    """Distances within and between four families of five languages in random order."""
    generator = np.random.default_rng(seed)
    families = generator.permutation(FAMILIES)
    return families, 1.0 * (families[:, None] != families) + noise(generator, 20, size)


@pytest.mark.parametrize("seed", range(5))
def test_planted_families_are_neighbours_in_the_tree(seed):
    """Leaves of a family lie side by side, the cut finds the families, and the tree is a good picture."""
    families, distances = planted(seed)
    tree = language_tree(distances, CODES[:20])
    of = dict(zip(CODES, families.tolist(), strict=False))
    runs = [of[code] for code in tree.languages]
    assert 1 + sum(a != b for a, b in itertools.pairwise(runs)) == 4
    assert [len({of[code] for code in group}) for group in tree.clusters(4)] == [1, 1, 1, 1]
    assert tree.cophenetic > 0.95


def test_the_tree_is_that_of_scipy():
    """Heights, cophenetic correlation and a valid linkage over the leaves in order."""
    _, distances = planted(9, size=2.0)
    np.fill_diagonal(distances, 0)
    tree = language_tree(distances, CODES[:20], method="complete")
    reference = linkage(squareform(distances), "complete")
    assert tree.linkage[:, 2] == pytest.approx(reference[:, 2])
    assert tree.cophenetic == pytest.approx(cophenet(reference, squareform(distances))[0])
    assert is_valid_linkage(tree.linkage)
    assert dendrogram(tree.linkage, no_plot=True)["leaves"] == list(range(20))
    order = [CODES.index(code) for code in tree.languages]
    joined = squareform(cophenet(tree.linkage))
    assert joined == pytest.approx(squareform(cophenet(reference))[np.ix_(order, order)])


def orders(tree, node):
    """All orders of the leaves below a node that turning branches allows, by a loop."""
    n = len(tree.languages)
    if node < n:
        return [(node,)]
    left, right = (orders(tree, int(child)) for child in tree.linkage[node - n, :2])
    return [one + other for a, b in ((left, right), (right, left)) for one in a for other in b]


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_in_the_tree_are_as_close_as_it_allows(seed):
    """No turning of branches brings the leaves closer, against all of them (scipy's own ordering fails this)."""
    distances = noise(np.random.default_rng(seed), 7)
    tree = language_tree(distances, CODES[:7])
    order = [CODES.index(code) for code in tree.languages]
    inside = distances[np.ix_(order, order)]
    lengths = [inside[list(one[:-1]), list(one[1:])].sum() for one in orders(tree, 12)]
    assert np.diag(inside, 1).sum() == pytest.approx(min(lengths))
    assert len(lengths) == 64


def newick_distances(text):
    """Read a Newick tree: distance along the branches between any two leaves."""
    source = io.StringIO(text)

    def node():
        char = source.read(1)
        if char == "(":
            leaves = node()
            while (char := source.read(1)) == ",":
                leaves = [leaves, node()]
            assert char == ")"
            pair = [dict(leaves[0]), dict(leaves[1])]
            for a in pair[0]:
                for b in pair[1]:
                    found[frozenset((a, b))] = pair[0][a] + pair[1][b]
            here = {**pair[0], **pair[1]}
        else:
            assert char == "'"
            here = {"".join(iter(lambda: source.read(1), "'")): 0.0}
        place = source.tell()
        if source.read(1) != ":":
            source.seek(place)
            return here
        digits = ""
        while (char := source.read(1)) not in ",)":
            digits += char
        source.seek(source.tell() - 1)
        return {leaf: depth + float(digits) for leaf, depth in here.items()}

    found = {}
    node()
    assert source.read() == ";"
    return found


def test_newick_branches_add_up_to_the_heights():
    """Any reader of the format gets the cophenetic distances back."""
    _, distances = planted(4)
    tree = language_tree(distances, CODES[:20])
    joined, found = squareform(cophenet(tree.linkage)), newick_distances(tree.newick())
    assert len(found) == 190
    for i, one in enumerate(tree.languages):
        for j, other in enumerate(tree.languages[:i]):
            assert found[frozenset((one, other))] == pytest.approx(joined[i, j], rel=1e-4)


def test_clusters_are_as_many_as_asked():
    """From all in one to each alone; every language once; ties make no difference."""
    tree = language_tree(np.ones((6, 6)), CODES[:6])
    for k in range(1, 7):
        groups = tree.clusters(k)
        assert len(groups) == k
        assert sum(groups, ()) == tree.languages
    assert np.isnan(tree.cophenetic)
    assert tree.to_json()["cophenetic"] is None
    with pytest.raises(ValueError, match="k is 7; a tree of 6 languages has 1 to 6 clusters"):
        tree.clusters(7)


def test_what_makes_no_tree_is_refused():
    """Too few languages, asymmetry, NaN, negative distances, methods that need a space."""
    with pytest.raises(LanguageError, match="2 languages and 2 rows"):
        language_tree(np.ones((2, 2)), CODES[:2])
    with pytest.raises(LanguageError, match="3 languages and 4 rows"):
        language_tree(np.ones((4, 4)), CODES[:3])
    for wrong in (np.arange(9.0).reshape(3, 3), np.full((3, 3), np.nan), -np.ones((3, 3))):
        with pytest.raises(ValueError, match=r"symmetric|NaN|least distance -1"):
            language_tree(wrong, CODES[:3])
    with pytest.raises(ValueError, match="method 'ward'"):
        language_tree(np.ones((3, 3)), CODES[:3], method="ward")


def study(seed=0, n_layers=9, peak=4):
    """Twenty languages; genealogy in the middle layers only, tokens everywhere, place nowhere."""
    generator = np.random.default_rng(seed)
    families, genealogy = planted(seed, size=0.3)
    tokens = noise(generator, 20)
    weights = np.maximum(0, 1 - abs(np.arange(n_layers) - peak) / 2)
    values = np.stack([0.4 * w * genealogy + tokens + noise(generator, 20, 0.4) for w in weights])
    references = {"genealogical": genealogy, "geographic": noise(generator, 20), "token_overlap": tokens}
    return (
        SimpleNamespace(languages=CODES[:20], layers=tuple(range(2, 2 + n_layers)), values=values),
        references,
        families,
    )


def test_planted_structure_is_found_where_it_was_planted():
    """The best layer is the planted one; the middle band agrees with genealogy beyond tokens; place agrees nowhere."""
    distances, references, _ = study()
    found = language_structure(distances, references, resampling=Resampling(n_permutations=999))
    assert (found.matches["genealogical"].layer, found.partial_matches["genealogical"].layer) == (6, 6)
    assert found.partial_matches["genealogical"].p_adjusted <= 0.01
    assert list(found.bands) == ["first third", "second third", "last third"]
    assert [(band.first, band.last) for band in found.bands.values()] == [(2, 4), (5, 7), (8, 10)]
    middle = found.bands["second third"].tests["genealogical"]
    assert middle.partial.controls == ("token_overlap",)
    assert middle.partial_p_adjusted <= 0.01
    assert middle.partial.correlation.value > middle.plain.correlation.value > 0.3
    assert found.matches["geographic"].p_value > 0.05
    assert found.bands["last third"].tests["genealogical"].partial.p_value > 0.05
    assert found.bands["second third"].tests["token_overlap"].partial is None
    assert found.refused == {}


def test_tests_of_a_band_are_those_of_its_mean_distance():
    """The tree and the correlation are of the mean over the band's layers, by decoder layer and not by position."""
    distances, references, _ = study()
    found = language_structure(distances, references, bands={"two": (3, 4)}).bands["two"]
    mean = distances.values[1:3].mean(axis=0)
    rows = np.triu_indices(20, 1)
    expected = np.corrcoef(mean[rows], references["geographic"][rows])[0, 1]
    assert found.tests["geographic"].plain.correlation.value == pytest.approx(expected)
    assert found.tree.newick() == language_tree(mean, CODES[:20]).newick()


def test_p_values_are_adjusted_over_references():
    """Holm by hand: the least of three times three, the next of two times two, never falling."""
    distances, references, _ = study(seed=5)
    tests = language_structure(distances, references).bands["last third"].tests
    ranked = sorted(tests.values(), key=lambda test: test.plain.p_value)
    steps = np.maximum.accumulate([test.plain.p_value * factor for test, factor in zip(ranked, (3, 2, 1), strict=True)])
    assert [test.p_adjusted for test in ranked] == pytest.approx(np.minimum(steps, 1))


def test_unknown_languages_are_left_out_by_name():
    """A language that a reference does not know takes no part in its test, and n says so; other tests keep it."""
    distances, references, _ = study()
    references["geographic"][3] = references["geographic"][:, 3] = np.nan
    references["geographic"][7, 8] = references["geographic"][8, 7] = np.nan
    tests = language_structure(distances, references).bands["second third"].tests
    assert tests["geographic"].left_out == (CODES[3], CODES[7])
    assert tests["geographic"].plain.correlation.n == 18
    assert tests["geographic"].partial.correlation.n == 18
    assert tests["genealogical"].plain.correlation.n == 20
    kept = [i for i in range(20) if i not in (3, 7)]
    window = np.ix_(kept, kept)
    mean = distances.values[3:6].mean(axis=0)[window][np.triu_indices(18, 1)]
    expected = np.corrcoef(mean, references["geographic"][window][np.triu_indices(18, 1)])[0, 1]
    assert tests["geographic"].plain.correlation.value == pytest.approx(expected)


def test_tests_without_enough_to_go_on_are_refused_by_name():
    """Four known languages, one script for all, a rival that determines the reference: named, not run."""
    distances, references, _ = study()
    few = references["geographic"].copy()
    few[4:] = few[:, 4:] = np.nan
    more = {**references, "geographic": few, "script": np.zeros((20, 20)), "copy": references["token_overlap"] * 2}
    found = language_structure(distances, more)
    assert set(found.refused) == {"geographic", "script", "copy, partial"}
    assert found.refused["geographic"].startswith("4 of 20 languages are known; at least 5")
    assert "determined by token_overlap, script" in found.refused["copy, partial"]
    assert set(found.matches) == {"genealogical", "token_overlap", "copy"}
    assert found.bands["first third"].tests["copy"].partial is None


def test_results_are_json():
    """Everything becomes JSON without NaN, tree and Newick text included."""
    distances, references, _ = study()
    raw = json.loads(json.dumps(language_structure(distances, references).to_json(), allow_nan=False))
    assert raw["rivals"] == ["token_overlap"]
    assert set(raw["bands"]["first third"]["tests"]["geographic"]) == {
        *("plain", "p_adjusted", "partial", "partial_p_adjusted", "left_out")
    }
    assert len(raw["matches"]["geographic"]["correlations"]) == 9
    assert raw["bands"]["last third"]["tree"]["newick"].endswith(";")


def test_one_layer_is_a_band_of_its_own():
    """A model with two routed layers has two bands, as an analysis names them."""
    distances, references, _ = study(n_layers=2)
    assert list(language_structure(distances, references).bands) == ["first third", "second third"]


def test_a_layer_without_differences_is_passed_over():
    """A layer where all languages route alike has no correlation and is never the best."""
    distances, references, _ = study()
    distances.values[0] = 0.5
    match = language_structure(distances, references).matches["token_overlap"]
    assert np.isnan(match.correlations[0])
    assert np.isnan(match.p_values[0])
    assert match.to_json()["p_values"][0] is None
    assert match.p_value == 0.001


def test_pairwise_divergence_is_taken_as_it_is():
    """The result of `pairwise_divergence` fits without conversion."""
    distances, references, _ = study()
    pairwise = PairwiseDivergence(distances.languages, distances.layers, distances.values, "items", "profile", 4)
    assert language_structure(pairwise, references).layers == distances.layers


def test_wrong_bands_and_rivals_are_named():
    """A band outside the model, a rival that is no reference, a reference of other languages."""
    distances, references, _ = study()
    with pytest.raises(RunError, match="no routed layer lies in 40-47; this run has layers 2-10"):
        language_structure(distances, references, bands={"far": (40, 47)})
    with pytest.raises(ValueError, match="rivals"):
        language_structure(distances, references, rivals=["script"])
    with pytest.raises(ValueError, match=r"references \['place'\] are not of the 20 languages"):
        language_structure(distances, {"place": np.ones((5, 5))})
