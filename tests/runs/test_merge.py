"""Merging Runs is a union: order and grouping do not matter, and contradictions are refused."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_examples import LANGUAGES, MANIFEST, with_notes, write
from written import contents

from isogloss.errors import RunError
from isogloss.routing import RouterSpec
from isogloss.runs import header_differences, merge, open_run

parts = st.tuples(
    st.sets(st.sampled_from(LANGUAGES)),
    st.sets(st.sampled_from(["note a", "note b"])),
    st.booleans(),
)


@settings(max_examples=25)
@given(st.lists(parts, min_size=3, max_size=3), st.permutations(range(3)))
def test_is_associative_commutative_and_idempotent(tmp_path_factory, specifications, order):
    """Any order and any grouping of three Runs give the same bytes."""
    folder = tmp_path_factory.mktemp("merge")
    paths = [folder / name for name in "abc"]
    for path, (languages, notes, finish) in zip(paths, specifications, strict=True):
        write(path, sorted(languages), with_notes(*sorted(notes)), finish=finish)
    a, b, c = paths
    merge([a, b, c], folder / "all")
    merge([paths[index] for index in order], folder / "permuted")
    merge([merge([a, b], folder / "ab").path, c], folder / "left")
    merge([a, merge([b, c], folder / "bc").path], folder / "right")
    merge([folder / "all", folder / "all", a], folder / "again")
    expected = contents(folder / "all")
    for name in ("permuted", "left", "right", "again"):
        assert contents(folder / name) == expected, name
    assert expected.keys() == {"manifest.json"} | {f"{code}.safetensors" for part in specifications for code in part[0]}


def test_of_parts_equals_the_whole(tmp_path):
    """Languages captured on two machines merge to the Run that one machine would have made."""
    write(tmp_path / "whole")
    write(tmp_path / "one", LANGUAGES[:2])
    write(tmp_path / "two", LANGUAGES[2:])
    merged = merge([tmp_path / "two", tmp_path / "one"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert merged.languages == LANGUAGES
    assert merged.manifest.status == "complete"


def test_keeps_the_notes_of_all_sorted(tmp_path):
    """What readers must know of any part, they are told of the whole, once and in one order."""
    notes = [f"note {number}" for number in range(8)]
    write(tmp_path / "one", ["eng_Latn"], with_notes(*notes[3:]))
    write(tmp_path / "two", ["deu_Latn"], with_notes(*notes[:5]))
    assert merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged").manifest.notes == tuple(notes)


def test_of_a_partial_run_is_partial(tmp_path):
    """A merge does not claim that an unfinished capture finished."""
    write(tmp_path / "one", LANGUAGES[:2], finish=False)
    write(tmp_path / "two", LANGUAGES[2:])
    assert merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged").manifest.status == "partial"


def test_one_language_in_two_runs_must_agree(tmp_path):
    """The same routing twice is one; different routing of one language is refused."""
    write(tmp_path / "one", LANGUAGES[:2])
    write(tmp_path / "two", LANGUAGES[1:])
    assert merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged").languages == LANGUAGES
    write(tmp_path / "other", ["eng_Latn"], seed=1)
    with pytest.raises(RunError, match="eng_Latn differs between"):
        merge([tmp_path / "one", tmp_path / "other"], tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "other/model"),
        ("item_ids", ("1", "2", "3")),
        ("token_scope", "all"),
        ("dtype", "bfloat16"),
        ("backend", "vllm"),
        ("seed", 1),
        ("fingerprint", None),
        ("packages", {"torch": "2.7"}),
        ("plan_sha256", "e" * 64),
        ("routers", tuple(RouterSpec(layer, 6, 2) for layer in (2, 3))),
    ],
)
def test_refuses_other_headers(tmp_path, field, value):
    """Runs of another model, corpus or setting do not merge; the field is named."""
    write(tmp_path / "one", ["eng_Latn"])
    write(tmp_path / "two", ["deu_Latn"], replace(MANIFEST, **{field: value}))
    with pytest.raises(RunError, match=f"differ in {field} \\("):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")


def test_refuses_damage_nothing_and_other_outputs(tmp_path):
    """A damaged part, no part, and a folder with other languages or files are refused."""
    write(tmp_path / "one", ["eng_Latn"])
    write(tmp_path / "two", ["deu_Latn"])
    with pytest.raises(RunError, match="nothing to merge"):
        merge([], tmp_path / "merged")
    with pytest.raises(RunError, match="already has deu_Latn"):
        merge([tmp_path / "one"], tmp_path / "two")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(RunError, match=r"holds notes.txt and no manifest.json"):
        merge([tmp_path / "one"], tmp_path / "full")
    (tmp_path / "two" / "deu_Latn.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"deu_Latn.safetensors: damaged"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")


def test_resumes(tmp_path):
    """A merge that was interrupted continues in its folder and ends like one that was not."""
    write(tmp_path / "one", LANGUAGES[:2])
    write(tmp_path / "two", LANGUAGES[2:])
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    shutil.copytree(tmp_path / "one", tmp_path / "resumed")
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "resumed")
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    assert open_run(tmp_path / "one").languages == LANGUAGES[:2]


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        (
            "packages",
            [{**dict.fromkeys(("isogloss", "numpy", "tokenizers", "torch"), "1.0.0+a-long-on"), "zz": v} for v in "12"],
            r"packages \(zz: '1' and '2'\)",
        ),
        ("packages", [{"torch": "2"}, {"numpy": "1"}], r"packages \(torch: '2' and None; numpy: None and '1'\)"),
        ("item_ids", [(*map(str, range(40)), v) for v in "xy"], r"item_ids \(value 41: 'x' and 'y'\)"),
        ("item_ids", [("1", "2"), ("1", "2", "3")], r"item_ids \(2 and 3 values\)"),
        ("model", ["m" * 100 + v for v in "xy"], r"model \(from character 101: "),
    ],
)
def test_a_message_names_what_differs(field, values, message):
    """However long the values are, it shows where one is not the other."""
    one, other = (replace(MANIFEST, **{field: value}) for value in values)
    (difference,) = header_differences(one, other)
    assert re.match(message, difference)
    assert len(difference) < 250
