"""Permuted labels deal every record once, and sums by group are those of the records dealt to it."""

from __future__ import annotations

import numpy as np
import pytest
import run_examples

from isogloss.analysis import groups as module
from isogloss.analysis.experts import experts_among_languages
from isogloss.analysis.groups import ItemGroups, StoredSelections, language_groups
from isogloss.analysis.shares import ShareRule
from isogloss.analysis.specificity import SpecificityRule
from isogloss.runs import open_run
from isogloss.statistics import Resampling


@pytest.mark.parametrize("layers", [None, (2, 3)])
@pytest.mark.parametrize(
    "rule",
    [
        lambda layers: ShareRule("common", run_examples.LANGUAGES, (), 3, 0.9, layers),
        lambda layers: SpecificityRule("overlap", run_examples.LANGUAGES, threshold=0.01, layers=layers),
    ],
    ids=["share", "specificity"],
)
def test_what_is_read_by_layer_gives_what_is_held(monkeypatch, tmp_path, rule, layers):
    """The table is the same, and no language's selections are held whole while experts are judged."""
    run_examples.write(tmp_path, run_examples.LANGUAGES)
    resampling = Resampling(n_resamples=20, n_permutations=9)
    held = experts_among_languages(open_run(tmp_path), rule(layers), resampling=resampling)
    monkeypatch.setattr(module, "HELD", 0)
    run = open_run(tmp_path)
    groups = language_groups(run, run_examples.LANGUAGES)
    assert all(isinstance(each, StoredSelections) for each in groups.selections)
    read = []
    monkeypatch.setattr(StoredSelections, "__getitem__", counted(StoredSelections.__getitem__, read))
    assert experts_among_languages(run, rule(layers), resampling=resampling) == held
    assert held.n > 0
    kept = groups.within(layers)
    assert {int(key[1]) for key in read if not isinstance(key[1], slice)} == set(range(len(kept.decoder_layers)))
    for selections, language in zip(kept.selections, run_examples.LANGUAGES, strict=True):
        whole = run.load(language).selections[:, -len(kept.decoder_layers) :]
        assert np.shape(selections) == whole.shape
        np.testing.assert_array_equal(np.asarray(selections), whole)
        np.testing.assert_array_equal(selections[:, 0], whole[:, 0])


def counted(function, keys):
    """Note what a function is called with."""

    def run(self, key):
        keys.append(key)
        return function(self, key)

    return run


@pytest.mark.parametrize(("sizes", "parallel"), [((4, 4, 4), True), ((5, 3), False), ((2,) * 40, True)])
def test_relabelled_records_are_summed_by_their_group(monkeypatch, sizes, parallel):
    """Whatever the size of the blocks; parallel items give one record to each group, others keep the groups' sizes."""
    random = np.random.default_rng(0)
    selections = tuple(random.integers(0, 9, (size, 2, 6)) for size in sizes)
    each = ItemGroups(selections, tuple(np.ones(size) for size in sizes), (0, 1), parallel=parallel)
    resampling, results = Resampling(n_permutations=7), []
    for cached in (1, 10**9):
        monkeypatch.setattr(module, "_CACHED", cached)
        stacked = np.concatenate(selections)[:, 1]
        identity = np.eye(len(stacked))
        blocks = [(summed(identity), summed(stacked)) for summed in each.relabelled(resampling)]
        masks, sums = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        assert len(blocks) == (7 if cached == 1 else 1)
        results.append(masks)
        np.testing.assert_array_equal(masks.sum(axis=1), 1)
        np.testing.assert_array_equal(sums, masks @ stacked)
        if parallel:
            by_item = masks.reshape(7, len(sizes), len(sizes), -1).sum(axis=2)
            np.testing.assert_array_equal(by_item, 1)
        else:
            np.testing.assert_array_equal(masks.sum(axis=2), np.tile(sizes, (7, 1)))
    np.testing.assert_array_equal(*results)
    assert len({mask.tobytes() for mask in results[0]}) > 1
