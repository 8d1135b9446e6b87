"""Runs from the traffic of a server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import run

from isogloss.errors import RunError
from isogloss.routing import Fingerprint
from isogloss.runs import import_usage_json, open_run
from isogloss.runs.served_usage import ServedUsage
from isogloss.steering import read_plan

MODEL = Fingerprint("qwen3_moe", (1, 3), 4, 2, "ab12")


def counts(language, phase="prompt", *, selections=((3, 3, 0, 0), (1, 2, 2, 1)), plan=(None, None)):
    """Of three tokens."""
    rows = [list(row) for row in selections]
    named = {"plan": plan[0], "plan_sha256": plan[1]}
    return {**named, "language": language, "phase": phase, "tokens": 3, "selections": rows}


def usage_of(*records, **changes):
    """What a server answers."""
    known = {"schema_version": 1, "model": "tiny", "fingerprint": MODEL.to_json(), "n_apart": 2, "layers": [1, 3]}
    return known | {"counts": list(records)} | changes


def write(tmp_path, usage):
    """Its file."""
    path = tmp_path / "usage.json"
    path.write_text(json.dumps(usage))
    return path


EXAMPLE = usage_of(
    counts("swh_Latn"),
    counts("swh_Latn", "generation", selections=((0, 0, 3, 3), (3, 3, 0, 0))),
    counts("deu_Latn"),
    counts("other"),
    counts(None),
    counts(None, "generation"),
)


def test_a_run_has_the_counts_of_stated_languages(tmp_path):
    """Of both phases, or of one; what is left out is said; plans can be made for its model."""
    made = import_usage_json(write(tmp_path, EXAMPLE), tmp_path / "run")
    assert made.languages == ("deu_Latn", "swh_Latn")
    assert made.load("sw").selections.tolist() == [[[3, 3, 3, 3], [4, 5, 2, 1]]]
    assert made.load("sw").tokens.tolist() == [6]
    np.testing.assert_allclose(made.load("sw").profiles[0], np.array([[3, 3, 3, 3], [4, 5, 2, 1]]) / 12, rtol=1e-6)
    manifest = open_run(tmp_path / "run").manifest
    assert (manifest.model, manifest.fingerprint, manifest.plan_sha256) == ("tiny", MODEL, None)
    assert [(each.layer, each.top_k) for each in manifest.routers] == [(1, 2), (3, 2)]
    notes = " ".join(manifest.notes)
    assert "left out: 6 tokens of requests that stated no language" in notes
    assert "left out: 3 tokens of requests of plans and languages that were not told apart" in notes
    written = import_usage_json(tmp_path / "usage.json", tmp_path / "written", phase="generation")
    assert written.languages == ("swh_Latn",)
    assert written.manifest.phase == "generation"
    assert written.load("sw").selections.tolist() == [[[0, 0, 3, 3], [3, 3, 0, 0]]]
    assert "together" not in " ".join(written.manifest.notes)


def test_experts_of_the_traffic_become_a_plan(tmp_path, capsys):
    """By the commands; what another format does not tell apart cannot be asked of it."""
    path, run_folder = write(tmp_path, EXAMPLE), tmp_path / "run"
    chosen = ["--format", "usage-json", "--plan", "unsteered", "--phase", "prompt"]
    assert run("import", path, *chosen, "-o", run_folder) == 0
    assert run("analyze", run_folder, "--pivot", "de") == 0
    found = ["--rule", "specificity", "--languages", "de,sw", "--target", "sw", "--top", "2"]
    assert run("plan", run_folder, *found, "--kind", "ban", "-o", tmp_path / "plan.json") == 0
    assert read_plan(tmp_path / "plan.json").fingerprint == MODEL
    capsys.readouterr()
    assert run("import", path, "--phase", "prompt", "-o", tmp_path / "other") == 2
    assert "--phase and --plan are for usage-json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("a", "ab" * 32),
        ("cdc", "cd" * 32),
        ("none", "01" * 32),
        ("unsteered", None),
        (None, ...),
        ("b", ...),
        ("x", ...),
    ],
)
def test_a_run_is_of_one_plan(tmp_path, plan, expected):
    """By its name, the start of its hash, or `unsteered`, which no plan is named; where several fit, they are said."""
    plans = [("a", "ab" * 32), ("b", "cd" * 32), ("b", "ef" * 32), ("none", "01" * 32), (None, None)]
    path = write(tmp_path, usage_of(*(counts("swh_Latn", plan=each) for each in plans), counts("other")))
    if expected is ...:
        names = r"a \(abababababab\), b \(cdcdcdcdcdcd\), b \(efefefefefef\), none \(010101010101\), unsteered;"
        with pytest.raises(RunError, match=f"under {names}"):
            import_usage_json(path, tmp_path / "run", plan=plan)
        return
    made = import_usage_json(path, tmp_path / "run", plan=plan)
    assert (made.manifest.plan_sha256, made.load("sw").tokens.tolist()) == (expected, [3])


def test_all_that_ran_without_a_plan_is_one(tmp_path):
    """Whether requests asked for no plan or there was none for requests without a name."""
    plans = [("unsteered", None), (None, None), ("a", "ab" * 32)]
    path = write(tmp_path, usage_of(*(counts("swh_Latn", plan=each) for each in plans)))
    with pytest.raises(RunError, match=r"under a \(abababababab\), unsteered; expected one of them by --plan"):
        import_usage_json(path, tmp_path / "run")
    made = import_usage_json(path, tmp_path / "run", plan="unsteered")
    assert (made.manifest.plan_sha256, made.load("sw").tokens.tolist()) == (None, [6])


def test_what_is_read_is_written_as_it_was(tmp_path):
    """Field by field."""
    assert ServedUsage.read(write(tmp_path, EXAMPLE)).to_json()["counts"] == EXAMPLE["counts"]


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ({"error": "this engine counts\nno experts"}, "no counts, but a refusal .* 'this engine counts.nno experts'; "),
        ({"error": {"message": "no key"}}, "a refusal of the server: .*no key.*Authorization: Bearer"),
        ({"detail": "Not Found"}, r"'Not Found'; .* --middleware isogloss\.backends\.vllm\.plugin\.plans\.Plans"),
        ({"model": "tiny"}, "schema_version: missing"),
        (usage_of(counts("swh_Latn"), schema_version=2), "schema_version 2; expected 1"),
        (usage_of(counts("swh_Latn"), layers=[1]), r"layers \[1\] of \[1, 3\]: one stage of a pipeline"),
        (usage_of(counts("swh_Latn"), counts("swh_Latn")), "there twice"),
        (usage_of(counts("Swahili")), "counts of Swahili .*a full code"),
        (
            usage_of(counts("swh_Latn", selections=((3, 3, 0, 0), (1, 2, 2, 2)))),
            "layer 3 has 7 choices; expected 2 for",
        ),
        (
            usage_of(counts("swh_Latn", selections=((4, 2, 0, 0), (1, 2, 2, 1)))),
            "layer 1: expected 4 numbers from 0 to 3",
        ),
        (usage_of(counts("swh_Latn", selections=((3, 3, 0), (1, 2, 2, 1)))), "layer 1: expected 4 numbers"),
        (usage_of(counts("swh_Latn", selections=((3, 3, 0, 0),))), "has 1 layers; expected 2"),
        (
            usage_of(counts("swh_Latn", selections=()), layers=[], fingerprint=MODEL.to_json() | {"layers": []}),
            "is of no model",
        ),
        (usage_of(counts("swh_Latn"), fingerprint=MODEL.to_json() | {"top_k": 0}), "is of no model"),
        (
            usage_of(counts("swh_Latn"), layers=[-1, 3], fingerprint=MODEL.to_json() | {"layers": [-1, 3]}),
            "is of no model",
        ),
        (usage_of({**counts("swh_Latn"), "tokens": 0}), "tokens is 0; expected a whole number from 1"),
        (usage_of({**counts("swh_Latn"), "tokens": 3.5}), "tokens"),
        (usage_of(counts(None), counts("other")), "6 tokens, none of a request that stated its language"),
        (usage_of(), "0 tokens, none"),
    ],
)
def test_what_does_not_add_up_is_refused(tmp_path, usage, message):
    """By name, and nothing is written."""
    with pytest.raises(RunError, match=message):
        import_usage_json(write(tmp_path, usage), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_tokens_than_a_run_holds_are_refused(tmp_path):
    """Counts of a server have 64 bits, those of a Run 32."""
    many = {**counts("swh_Latn", selections=((2**31, 2**31, 0, 0),) * 2), "tokens": 2**31}
    with pytest.raises(
        RunError, match="tokens of swh_Latn is 2147483648; expected a whole number from 1 to 2147483647"
    ):
        import_usage_json(write(tmp_path, usage_of(many)), tmp_path / "run")
