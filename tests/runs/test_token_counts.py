"""Counts of choices by token are read as written, and none that contradict the rest of a Run get to the disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_examples import EXPERTS, LAYERS, MANIFEST, digest, routing
from token_runs import draw_items, routing_of, write_counted
from written import contents

from isogloss.errors import RunError
from isogloss.runs import RunWriter, merge, open_run

COUNTED = replace(MANIFEST, token_counts=True, item_ids=tuple(map(str, range(12))))


@given(seed=st.integers(0, 10**6))
def test_counts_come_back_as_they_were(tmp_path_factory, seed):
    """Array by array, and by expert as a loop over the tokens counts them."""
    items = draw_items(seed)
    path = tmp_path_factory.mktemp("run") / "run"
    write_counted(path, {"deu_Latn": items})
    read, written = open_run(path).load("deu_Latn"), routing_of(items, {})
    for name, array in written.arrays().items():
        np.testing.assert_array_equal(read.arrays()[name], array, strict=True)
    for layer in range(len(LAYERS)):
        for expert in range(EXPERTS):
            expected = dict.fromkeys(read.vocabulary.tolist(), 0)
            for item in items:
                for token, layers in item:
                    expected[token] += expert in layers[layer]
            assert read.token_counts.of_expert(layer, expert).tolist() == list(expected.values())
    assert read.token_counts.texts() == [f"t{token}".encode() for token in read.vocabulary]


def test_runs_with_counts_merge(tmp_path):
    """In any order, byte for byte."""
    languages = {code: draw_items(seed) for seed, code in enumerate(("deu_Latn", "eng_Latn"))}
    write_counted(tmp_path / "whole", languages)
    for code, items in languages.items():
        write_counted(tmp_path / code, {code: items})
    for name, order in (("one", ["deu_Latn", "eng_Latn"]), ("two", ["eng_Latn", "deu_Latn"])):
        merge([tmp_path / code for code in order], tmp_path / name)
        assert contents(tmp_path / name) == contents(tmp_path / "whole")


def changed(name, change):
    """Routing one of whose arrays of counts is changed."""

    def make(written):
        array = getattr(written.token_counts, name).copy()
        return replace(written, token_counts=replace(written.token_counts, **{name: change(array)}))

    return make


def at(place, value):
    """Add to one number of an array."""

    def change(array):
        array.ravel()[place] += value
        return array

    return change


def one_more(written):
    """A choice of the first token that nobody made in place of one that somebody did."""
    counts = written.token_counts.choice_counts.copy()
    counts[:2] += np.int32([1, -1])
    return replace(written, token_counts=replace(written.token_counts, choice_counts=counts))


def without_types(written):
    """No token at all, in any array that has one entry for each."""
    names = ("token_ends", "token_items", "token_squares")
    none = {name: getattr(written.token_counts, name)[:0] for name in names}
    counts = replace(written.token_counts, **none, choice_ends=written.token_counts.choice_ends[:, :0])
    empty = np.empty(0, dtype=np.int32)
    return replace(written, vocabulary=empty, vocabulary_counts=empty, token_counts=counts)


BROKEN = {
    "token_ends: not ascending": changed("token_ends", at(1, -9)),
    "token_ends: not up to the end": changed("token_ends", at(-1, -1)),
    "choice_ends: not ascending": changed("choice_ends", at(0, -9)),
    "choice_ends: not up to the end": changed("choice_ends", at(-1, -1)),
    "choice_experts: no expert of the layer": changed("choice_experts", at(0, EXPERTS)),
    "token_items: below 1": changed("token_items", at(0, 99)),
    "token_squares: not those": changed("token_squares", at(0, 10**6)),
    "token_squares: not those of so many": changed("token_squares", at(0, -(10**6))),
    "choice_experts: not ascending": changed("choice_experts", lambda array: array * np.uint16(0)),
    "choice_counts: not top_k": changed("choice_counts", at(0, 1)),
    "choice_counts: not the selections": one_more,
    "choice_counts is missing": lambda written: replace(written, token_counts=None),
    "vocabulary is missing": lambda written: replace(without_types(written), vocabulary=None, vocabulary_counts=None),
    "vocabulary_counts: not the number": without_types,
    r"vocabulary is int32 \(\); expected int32 \(1,\)": lambda written: replace(
        without_types(written), vocabulary=np.array(3, dtype=np.int32), vocabulary_counts=np.array(3, dtype=np.int32)
    ),
    r"token_bytes is uint8 \(\); expected uint8 \(1,\)": changed("token_bytes", lambda _: np.array(7, dtype=np.uint8)),
    r"choice_experts is uint16 \(\); expected uint16 \(1,\)": changed(
        "choice_experts", lambda _: np.array(0, dtype=np.uint16)
    ),
    r"choice_ends is int64 \(2, 8\); expected int64 \(2, 9\)": changed("choice_ends", lambda array: array[:, :-1]),
    "choice_counts is int64": changed("choice_counts", lambda array: array.astype(np.int64)),
}


@pytest.mark.parametrize("law", BROKEN)
def test_refuses_counts_that_break_a_law(tmp_path, law):
    """They agree with the selections, the vocabulary and each other."""
    with pytest.raises(RunError, match=f"deu_Latn: {law}"):
        RunWriter(tmp_path, COUNTED).write("deu_Latn", BROKEN[law](routing_of(draw_items(0), {})), digest("deu_Latn"))
    assert contents(tmp_path).keys() == {"manifest.json"}


def test_counts_that_were_not_asked_for_are_refused(tmp_path):
    """What the manifest does not announce is no part of the Run; a Run of before it announces none."""
    with pytest.raises(RunError, match="choice_counts is present, contrary to the manifest"):
        RunWriter(tmp_path, replace(COUNTED, token_counts=False)).write(
            "deu_Latn", routing_of(draw_items(0), {}), digest("deu_Latn")
        )
    with pytest.raises(RunError, match="choice_counts is missing"):
        RunWriter(tmp_path / "other", replace(MANIFEST, token_counts=True)).write(
            "deu_Latn",
            replace(routing(0), vocabulary=np.int32([1]), vocabulary_counts=np.int32([1])),
            digest("deu_Latn"),
        )
