"""A Run on disk is whole, verified, and independent of how often its writing was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_examples import (
    LANGUAGES,
    MANIFEST,
    WITH_OPTIONS,
    digest,
    routing,
    routing_with_options,
    write,
)
from written import contents

from isogloss.errors import LanguageError, RunError
from isogloss.routing import RouterSpec
from isogloss.runs import Manifest, RunWriter, open_run


def test_round_trip_is_the_identity(tmp_path):
    """What was written is read, array by array, and the manifest says so."""
    write(tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.languages == LANGUAGES
    assert run.manifest.status == "complete"
    assert run.manifest.item_ids == ("1", "2", "düo")
    assert run.manifest.routers == MANIFEST.routers
    assert run.manifest.fingerprint == MANIFEST.fingerprint
    for seed, language in enumerate(LANGUAGES):
        written, read = routing(seed), run.load(language)
        assert read.arrays().keys() == written.arrays().keys()
        for name, array in written.arrays().items():
            np.testing.assert_array_equal(read.arrays()[name], array, strict=True)
        entry = run.manifest.languages[language]
        assert entry.tokens == written.tokens.sum()
        assert entry.corpus_sha256 == digest(language)


def test_load_accepts_short_codes(tmp_path):
    """A short code loads the language; an absent or unknown one says so."""
    run = write(tmp_path, ["eng_Latn"])
    np.testing.assert_array_equal(run.load("en").tokens, run.load("eng_Latn").tokens)
    with pytest.raises(RunError, match=r"no routing for deu_Latn; .* eng_Latn"):
        run.load("de")
    with pytest.raises(LanguageError):
        run.load("klingonish")


def test_equal_captures_are_equal_bytes(tmp_path):
    """Two captures in another order of languages, in another folder, differ in no byte."""
    write(tmp_path / "one")
    write(tmp_path / "two" / "deep", reversed(LANGUAGES))
    assert contents(tmp_path / "one") == contents(tmp_path / "two" / "deep")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", ["during a write", "before a rename", "after a rename"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, moment):
    """Killed at each write in turn, then resumed, a Run ends bit-identical and without leftovers."""
    write(tmp_path / "whole")
    calls = {"left": 0}

    def dies(function, *, after=False):
        def run(*arguments):
            result = function(*arguments) if after else None
            calls["left"] -= 1
            if calls["left"] == 0:
                raise Killed
            return result if after else function(*arguments)

        return run

    for number in range(1, 30):
        path = tmp_path / f"killed{number}"
        calls["left"] = number
        with monkeypatch.context() as patch:
            if moment == "during a write":
                patch.setattr(os, "fsync", dies(os.fsync))
            else:
                patch.setattr(Path, "replace", dies(Path.replace, after=moment == "after a rename"))
            try:
                write(path)
            except Killed:
                pass
            else:
                assert number > len(LANGUAGES) * 2
                break
        write(path)
        assert contents(path) == contents(tmp_path / "whole")
    else:
        pytest.fail("the writer never got through")


def test_a_partial_run_is_readable(tmp_path):
    """Languages already captured can be analysed before the capture has finished."""
    write(tmp_path, ["eng_Latn"], finish=False)
    run = open_run(tmp_path)
    assert run.manifest.status == "partial"
    assert run.load("eng_Latn").tokens.shape == (3,)


def test_a_complete_run_that_grows_is_partial_until_it_is_finished(tmp_path):
    """Adding a language to a complete Run takes its completeness back; only opening it does not."""
    write(tmp_path, ["eng_Latn"])
    RunWriter(tmp_path, MANIFEST)
    assert open_run(tmp_path).manifest.status == "complete"
    write(tmp_path, ["deu_Latn"], finish=False)
    assert open_run(tmp_path).manifest.status == "partial"
    assert write(tmp_path, []).manifest.status == "complete"


def test_a_missing_language_file_is_captured_again(tmp_path):
    """Deleting a file is how a user asks for that language again; the rest is kept."""
    write(tmp_path / "run")
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "swh_Latn.safetensors").unlink()
    writer = RunWriter(tmp_path / "run", MANIFEST)
    assert writer.done == set(LANGUAGES) - {"swh_Latn"}
    assert open_run(tmp_path / "run").manifest.status == "partial"
    write(tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_manifest_is_for_reading_and_comparing(tmp_path):
    """Keys are sorted, one value a line, UTF-8, no times, no paths, no NaN."""
    write(tmp_path)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    assert list(raw) == sorted(raw)
    assert '"düo"' in text
    assert text.endswith("}\n")
    assert max(map(len, text.splitlines())) < 120
    assert str(tmp_path) not in text
    assert "NaN" not in text


def test_no_number_that_json_lacks_is_written(tmp_path):
    """A scaling that is no number is refused, not written as bare NaN."""
    routers = tuple(replace(router, scaling=float("nan")) for router in MANIFEST.routers)
    with pytest.raises(RunError, match="finite"):
        RunWriter(tmp_path, replace(MANIFEST, routers=routers))


# --- damage -----------------------------------------------------------------------------------------------------------


@given(position=st.integers(0, 10**9), value=st.integers(1, 255))
def test_any_flipped_byte_is_noticed(tmp_path_factory, position, value):
    """Whichever byte of a language file changes, loading and resuming refuse."""
    path = tmp_path_factory.mktemp("run")
    write(path, ["eng_Latn"])
    file = path / "eng_Latn.safetensors"
    content = bytearray(file.read_bytes())
    content[position % len(content)] ^= value
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"eng_Latn.safetensors: damaged .*restore the file, or delete it"):
        open_run(path).load("eng_Latn")
    with pytest.raises(RunError, match="damaged"):
        RunWriter(path, MANIFEST)


@given(length=st.integers(0, 10**9))
def test_any_truncated_manifest_is_noticed(tmp_path_factory, length):
    """A manifest that lost its end is refused by name."""
    path = tmp_path_factory.mktemp("run")
    write(path, ["eng_Latn"])
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content[: length % (len(content) - 2)])
    with pytest.raises(RunError, match=r"manifest.json: is not valid JSON"):
        open_run(path)


def test_a_missing_file_is_named(tmp_path):
    """A language file that is gone is named with its path."""
    run = write(tmp_path)
    (tmp_path / "eng_Latn.safetensors").unlink()
    with pytest.raises(RunError, match=r"eng_Latn.safetensors: cannot be read"):
        run.load("eng_Latn")


CHANGES = {
    "schema": (lambda raw: raw.update(schema_version=2), r"schema_version 2, expected 1"),
    "schema true": (lambda raw: raw.update(schema_version=True), r"schema_version True, expected 1"),
    "schema gone": (lambda raw: raw.pop("schema_version"), r"schema_version None, expected 1"),
    "field gone": (lambda raw: raw.pop("dtype"), "dtype: missing"),
    "field new": (lambda raw: raw.update(colour="red"), "colour: unknown field"),
    "wrong type": (lambda raw: raw.update(seed="0"), "seed: Input should be a valid integer, found '0'"),
    "wrong choice": (
        lambda raw: raw.update(status="done"),
        "status: Input should be 'partial' or 'complete', found 'done'",
    ),
    "item ids": (lambda raw: raw.update(item_ids=[1, 2, 3]), r"item_ids\.0: Input should be a valid string, found 1"),
    "item ids twice": (lambda raw: raw.update(item_ids=["1", "1", "2"]), r"each once"),
    "no routers": (lambda raw: raw.update(routers=[]), r"at least one"),
    "router field": (lambda raw: raw["routers"][0].pop("top_k"), r"top_k"),
    "router layer": (
        lambda raw: raw["routers"][0].update(layer=1.0),
        r"routers\.0\.layer: Input should be a valid integer, found 1\.0",
    ),
    "router order": (lambda raw: raw["routers"].reverse(), r"ascending"),
    "experts differ": (lambda raw: raw["routers"][0].update(n_experts=7), r"different numbers of experts"),
    "fingerprint": (lambda raw: raw["fingerprint"].pop("layers"), r"layers"),
    "escape": (lambda raw: raw["languages"].update({"../x": raw["languages"]["eng_Latn"]}), r"language '../x'"),
    "hash": (lambda raw: raw["languages"]["eng_Latn"].update(file_sha256="0"), r"64 hexadecimal digits"),
    "entry": (lambda raw: raw["languages"]["eng_Latn"].pop("tokens"), r"tokens"),
    "pooled": (lambda raw: raw.update(granularity="pooled"), r"pooled over items, but 3 item ids"),
    "corpus": (lambda raw: raw.update(corpus={}), r"expected name, source and licence"),
    "phase": (
        lambda raw: raw.update(phase="decode"),
        "phase: Input should be 'prompt' or 'generation', found 'decode'",
    ),
    "new tokens": (lambda raw: raw.update(new_tokens=8), r"new_tokens is 8 in the prompt phase; expected none"),
    "no tokens": (lambda raw: raw.update(phase="generation", new_tokens=0), r"new_tokens is 0 .*; expected at least 1"),
    "short code": (lambda raw: raw.update(distinct_from="en"), r"distinct_from is 'en'; expected a full code"),
    "hidden size": (lambda raw: raw.update(hidden_size=0), r"hidden_size is 0; expected at least 1"),
    "hidden true": (
        lambda raw: raw.update(hidden_size=True),
        "hidden_size: Input should be a valid integer, found True",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_refuses_foreign_manifests(tmp_path, change):
    """Other versions, missing fields and wrong types are refused; the message names what is wrong."""
    write(tmp_path, ["eng_Latn"])
    path = tmp_path / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    alter, message = CHANGES[change]
    alter(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(RunError, match=message) as caught:
        open_run(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", '{"schema_version": NaN}', '{"a": 1, "a": 2}', "\ud800"])
def test_refuses_manifests_that_are_no_strict_json(tmp_path, text):
    """Bare NaN, a key twice, another encoding and other JSON are no manifest."""
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=r"manifest.json"):
        open_run(tmp_path)


def test_refuses_what_is_no_run(tmp_path):
    """An empty folder, a missing one and a file say how a Run is made."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(RunError, match=r"not a Run .*isogloss capture"):
            open_run(path)


def test_a_valid_hash_of_other_arrays_is_refused(tmp_path):
    """Arrays of another shape, or none, under a matching hash are refused on loading."""
    for number, manifest in enumerate([MANIFEST, replace(MANIFEST, item_ids=("1", "2", "3", "4"))]):
        path = tmp_path / str(number)
        write(path, ["eng_Latn"])
        file = path / "eng_Latn.safetensors"
        if number == 0:
            file.write_bytes(b"no tensors")
        entry = open_run(path).manifest.languages["eng_Latn"]
        entry = replace(entry, file_sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        (path / "manifest.json").write_bytes(replace(manifest, languages={"eng_Latn": entry}).encode())
        with pytest.raises(
            RunError, match="not the arrays of a Run" if number == 0 else r"expected float32 \(4, 2, 6\)"
        ):
            open_run(path).load("eng_Latn")


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["notes.txt", "eng_Latn.safetensors", ".hidden"])
def test_refuses_a_foreign_folder(tmp_path, content):
    """A folder that holds anything but a Run is left untouched."""
    (tmp_path / content).write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=f"holds {content} and no manifest.json"):
        RunWriter(tmp_path, MANIFEST)
    assert contents(tmp_path) == {content: b"mine"}


def test_refuses_a_file_in_the_way(tmp_path):
    """A file where the folder should be is refused."""
    (tmp_path / "run").touch()
    with pytest.raises(RunError, match="is a file"):
        RunWriter(tmp_path / "run", MANIFEST)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "other/model"),
        ("revision", None),
        ("config_sha256", "c" * 64),
        ("fingerprint", None),
        ("routers", tuple(RouterSpec(layer, 6, 1) for layer in (1, 3))),
        ("corpus", {"name": "other", "source": "test", "licence": "CC0-1.0"}),
        ("item_ids", ("1", "2", "3")),
        ("token_scope", "all"),
        ("backend", "vllm"),
        ("dtype", "bfloat16"),
        ("seed", 1),
        ("packages", {}),
        ("plan_sha256", "d" * 64),
        ("phase", "generation"),
        ("distinct_from", "eng_Latn"),
        ("hidden_size", 5),
        ("notes", ("new",)),
    ],
)
def test_resumes_only_an_equal_header(tmp_path, field, value):
    """A Run of anything else is not continued; the message names the field and both values."""
    write(tmp_path, ["eng_Latn"])
    before = contents(tmp_path)
    with pytest.raises(RunError, match=f"differs in {field} \\("):
        RunWriter(tmp_path, replace(MANIFEST, **{field: value}))
    assert contents(tmp_path) == before


def test_stale_temporary_files_are_ignored_and_removed(tmp_path):
    """Leftovers of a killed write disturb neither reading nor resuming, and do not stay."""
    write(tmp_path)
    before = contents(tmp_path)
    (tmp_path / ".eng_Latn.safetensors.tmp").write_bytes(b"half")
    assert open_run(tmp_path).load("eng_Latn").tokens.shape == (3,)
    RunWriter(tmp_path, MANIFEST)
    assert contents(tmp_path) == before


def test_refuses_a_language_twice_or_by_a_short_code(tmp_path):
    """Files are named by full codes, and nothing written is replaced."""
    writer = RunWriter(tmp_path, MANIFEST)
    writer.write("eng_Latn", routing(0), digest("eng_Latn"))
    with pytest.raises(RunError, match="already written"):
        writer.write("eng_Latn", routing(1), digest("eng_Latn"))
    with pytest.raises(RunError, match="expected its full code, deu_Latn"):
        writer.write("de", routing(0), digest("deu_Latn"))
    with pytest.raises(RunError, match="64 hexadecimal digits"):
        writer.write("deu_Latn", routing(0), "unknown")
    assert writer.done == {"eng_Latn"}
    assert "deu_Latn.safetensors" not in contents(tmp_path)


def set_at(name, value):
    """Return routing with one number replaced at the last index."""

    def alter(example):
        array = example.arrays()[name].copy()
        array[(-1,) * array.ndim] = value
        return replace(example, **{name: array})

    return alter


BROKEN = {
    "tokens: an item": set_at("tokens", 0),
    "selections: an expert chosen by fewer": set_at("selections", -1),
    "selections: not top_k": lambda r: replace(r, selections=r.selections[..., ::-1] * np.int32([1, 1, 1, 1, 1, 0])),
    "profiles: negative or not finite": set_at("profiles", np.nan),
    "profiles: not summing to 1": set_at("profiles", 1.5),
    "entropy: not finite": set_at("entropy", np.nan),
    "consistency: outside": set_at("consistency", 1.5),
    "profiles is float64": lambda r: replace(r, profiles=r.profiles.astype(np.float64)),
    r"tokens is int32 \(2,\)": lambda r: replace(r, tokens=r.tokens[:2]),
}


@pytest.mark.parametrize("law", BROKEN)
def test_refuses_routing_that_breaks_a_law(tmp_path, law):
    """Arrays that cannot be right are refused before anything is written."""
    writer = RunWriter(tmp_path, MANIFEST)
    with pytest.raises(RunError, match=f"eng_Latn: {law}"):
        writer.write("eng_Latn", BROKEN[law](routing(0)), digest("eng_Latn"))
    assert contents(tmp_path).keys() == {"manifest.json"}


# --- arrays that a Run need not have ----------------------------------------------------------------------------------


def write_with_options(path: Path, seed: int = 0):
    """Write one language with every array and return the Run and what was written."""
    writer, written = RunWriter(path, WITH_OPTIONS), routing_with_options(seed)
    writer.write("deu_Latn", written, digest("deu_Latn"))
    return writer.finish(), written


@given(seed=st.integers(0, 10**6))
def test_options_come_back_as_they_were(tmp_path_factory, seed):
    """Vocabulary, distinct profiles and hidden states are read as written, and so are their fields."""
    path = tmp_path_factory.mktemp("run") / "run"
    _, written = write_with_options(path, seed)
    run = open_run(path)
    found = run.manifest
    assert (found.phase, found.new_tokens, found.distinct_from, found.hidden_size) == ("generation", 8, "eng_Latn", 5)
    read = run.load("deu_Latn").arrays()
    assert read.keys() == written.arrays().keys()
    assert {"vocabulary", "vocabulary_counts", "distinct_profiles", "distinct_tokens", "hidden"} < read.keys()
    for name, array in written.arrays().items():
        np.testing.assert_array_equal(read[name], array, strict=True)


BROKEN_OPTIONS = {
    "vocabulary: not ascending": lambda r: replace(r, vocabulary=np.int32([3, 8, 5])),
    "vocabulary: not ascending at index": lambda r: replace(r, vocabulary=np.int32([3, 3, 8])),
    "vocabulary_counts: below 1": lambda r: replace(r, vocabulary_counts=r.vocabulary_counts * np.int32([1, 1, 0])),
    "vocabulary_counts: not the number": lambda r: replace(r, vocabulary_counts=r.vocabulary_counts + np.int32(1)),
    "distinct_tokens: below 0": set_at("distinct_tokens", -1),
    "distinct_tokens: below 0, or more": lambda r: replace(r, distinct_tokens=r.tokens + np.int32([0, 1, 0])),
    "distinct_profiles: negative": set_at("distinct_profiles", np.nan),
    "distinct_profiles: summing neither": set_at("distinct_profiles", 1),
    "distinct_profiles: summing neither to 1 nor": set_at("distinct_tokens", 1),
    "hidden: not finite": set_at("hidden", np.inf),
    "vocabulary_counts is missing": lambda r: replace(r, vocabulary_counts=None),
    r"vocabulary_counts is int32 \(0,\); expected int32 \(\)": lambda r: replace(
        r, vocabulary=None, vocabulary_counts=r.vocabulary_counts[:0]
    ),
    "distinct_profiles is missing": lambda r: replace(r, distinct_profiles=None),
    "distinct_tokens is missing": lambda r: replace(r, distinct_tokens=None),
    "hidden is missing": lambda r: replace(r, hidden=None),
    r"hidden is float32 \(3, 2, 4\)": lambda r: replace(r, hidden=r.hidden[..., :4]),
    r"vocabulary_counts is int32 \(2,\)": lambda r: replace(r, vocabulary_counts=r.vocabulary_counts[:2]),
    r"vocabulary is int64": lambda r: replace(r, vocabulary=r.vocabulary.astype(np.int64)),
}


@pytest.mark.parametrize("law", BROKEN_OPTIONS)
def test_refuses_options_that_break_a_law(tmp_path, law):
    """Arrays that contradict each other, or what the manifest says was asked for, never reach the disk."""
    writer = RunWriter(tmp_path, WITH_OPTIONS)
    with pytest.raises(RunError, match=f"deu_Latn: {law}"):
        writer.write("deu_Latn", BROKEN_OPTIONS[law](routing_with_options(0)), digest("deu_Latn"))
    assert contents(tmp_path).keys() == {"manifest.json"}


@pytest.mark.parametrize("name", ["distinct_profiles", "distinct_tokens", "hidden"])
def test_refuses_options_that_were_not_asked_for(tmp_path, name):
    """An array that the manifest does not announce is no part of the Run."""
    extra = replace(routing(0), **{name: routing_with_options(0).arrays()[name]})
    expected = (
        r"hidden is float32 \(3, 2, 5\); expected float32 \(3, 2, 0\)" if name == "hidden" else "is present, contrary"
    )
    with pytest.raises(RunError, match=expected):
        RunWriter(tmp_path, MANIFEST).write("deu_Latn", extra, digest("deu_Latn"))


def test_a_run_of_before_the_options_opens(tmp_path):
    """A manifest without the later fields is one of prompts, without distinct profiles and hidden states."""
    write(tmp_path, ["eng_Latn"])
    path = tmp_path / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    for name in ("phase", "new_tokens", "distinct_from", "hidden_size"):
        raw.pop(name)
    path.write_text(json.dumps(raw), encoding="utf-8")
    found = open_run(tmp_path)
    assert found.manifest == replace(MANIFEST, status="complete", languages=found.manifest.languages)
    assert found.load("eng_Latn").vocabulary is None
    assert RunWriter(tmp_path, MANIFEST).done == {"eng_Latn"}


def test_new_tokens_belong_to_the_header(tmp_path):
    """A generation capture of another length is not continued."""
    RunWriter(tmp_path, WITH_OPTIONS)
    with pytest.raises(RunError, match=r"differs in new_tokens \(8 and 9\)"):
        RunWriter(tmp_path, replace(WITH_OPTIONS, new_tokens=9))


@given(start=st.integers(-4, 4), stop=st.integers(-4, 4), step=st.sampled_from([None, 1, 2, -1]))
def test_some_items_are_those_of_the_whole(tmp_path_factory, start, stop, step):
    """`load_items` gives the same part of every array as `load` and a slice."""
    run, _ = write_with_options(tmp_path_factory.mktemp("run") / "run")
    whole = run.load("deu_Latn").arrays()
    for name in set(whole) - {"vocabulary", "vocabulary_counts"}:
        items = slice(start, stop, step)
        np.testing.assert_array_equal(run.load_items("de", name, items), whole[name][items], strict=True)
    for layers in (slice(0, 1), slice(1, 9), slice(None)):
        part = run.load_items("de", "selections", items, layers=layers)
        np.testing.assert_array_equal(part, whole["selections"][items, layers], strict=True)


def test_items_of_an_array_that_is_not_there_are_refused(tmp_path):
    """The message names the array and the command that would capture it; an absent language is named too."""
    run = write(tmp_path, ["eng_Latn"])
    with pytest.raises(RunError, match=r"eng_Latn.safetensors: has no hidden: .*isogloss capture"):
        run.load_items("eng_Latn", "hidden", slice(0, 1))
    with pytest.raises(RunError, match="no routing for deu_Latn"):
        run.load_items("de", "profiles", slice(0, 1))


@given(position=st.integers(0, 10**9), value=st.integers(1, 255))
def test_items_of_a_damaged_file_are_refused(tmp_path_factory, position, value):
    """The first part that is read verifies the whole file, whichever byte has changed."""
    path = tmp_path_factory.mktemp("run") / "run"
    write_with_options(path)
    file = path / "deu_Latn.safetensors"
    content = bytearray(file.read_bytes())
    content[position % len(content)] ^= value
    file.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        open_run(path).load_items("deu_Latn", "tokens", slice(0, 1))


@pytest.mark.parametrize("layout", ["strided", "fortran"])
def test_memory_layout_does_not_matter(tmp_path, layout):
    """Views and Fortran order are written as the numbers they show."""
    example = routing(1)
    if layout == "strided":
        arrays = {name: np.repeat(array, 2, axis=0)[::2] for name, array in example.arrays().items()}
    else:
        arrays = {name: np.asfortranarray(array) for name, array in example.arrays().items()}
    for path, value in (("plain", example), ("odd", replace(example, **arrays))):
        RunWriter(tmp_path / path, MANIFEST).write("eng_Latn", value, digest("eng_Latn"))
    assert contents(tmp_path / "plain") == contents(tmp_path / "odd")


def test_manifest_refuses_to_be_positional():
    """Its many fields are told apart by name only."""
    with pytest.raises(TypeError):
        Manifest("model", None)


def test_metrics_that_need_items_refuse_pooled_runs_by_name():
    """The message names the metric and the next command; one item is too few for what pairs or resamples items."""
    pooled = replace(MANIFEST, granularity="pooled", item_ids=("pooled",))
    MANIFEST.require_items("consistency")
    with pytest.raises(RunError, match=r"consistency needs one record per item.*isogloss capture"):
        pooled.require_items("consistency")
    assert MANIFEST.refusals("consistency", "intervals") == {}
    assert pooled.refusals("consistency", "intervals").keys() == {"consistency", "intervals"}
    assert replace(MANIFEST, item_ids=("1",)).refusals("consistency", "intervals") == {
        "intervals": "intervals: needs at least two items; this run has one"
    }
