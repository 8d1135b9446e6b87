"""Commands as a person types them: results, refusals, and what is left behind after a kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import printed, run
from safetensors.torch import load_file, save_file
from written import contents

from isogloss.cli import main
from isogloss.organism.shipped import model_folder
from isogloss.steering import read_plan

LANGUAGES = "eng_Latn,deu_Latn,jpn_Jpan"
SMALL = ["--languages", LANGUAGES, "--items", "12"]


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A Run of scenes and a Run of word problems, captured from the shipped model."""
    folder = tmp_path_factory.mktemp("captured")
    assert run("capture", "organism", "--corpus", "organism", *SMALL, "-o", folder / "run") == 0
    assert run("capture", "organism", "--corpus", "organism:problems", *SMALL, "-o", folder / "task") == 0
    return folder


def test_capture_to_evaluation(captured, tmp_path, capsys):
    """The whole way by single commands: analyse, find experts, plan, evaluate, report."""
    assert run("analyze", captured / "run", "--json") == 0
    analysis = printed(capsys)
    assert set(analysis["divergence"]) == {"deu_Latn", "jpn_Jpan"}
    assert len(analysis["divergence"]["deu_Latn"]) == analysis["n_layers"] == 12
    delta = ["--rule", "delta", "--base", captured / "run", "--threshold", "0.05"]
    assert run("experts", captured / "task", *delta, "--json") == 0
    found = printed(capsys)
    assert found["n"] == len(found["experts"]) > 0
    plan = tmp_path / "plan.json"
    soft = ["--kind", "soft", "--strength", "0.5"]
    assert run("plan", captured / "task", *delta, *soft, "-o", plan) == 0
    evaluation = ["evaluate", "organism", "--plan", plan, "--task", "organism", "--languages", "en,sw", "--items", "3"]
    capsys.readouterr()
    assert run(*evaluation, "-o", tmp_path / "eval", "--json") == 0
    summary = printed(capsys)
    assert set(summary["per_language"]) == {"eng_Latn", "swh_Latn"}
    assert set(summary["arms"]) == {"baseline", "plan", *(f"random-{seed}" for seed in range(5))}
    assert max(summary["changed_choices"]["plan"].values()) > 0
    before = contents(tmp_path / "eval")
    assert run(*evaluation, "-o", tmp_path / "eval") == 0
    assert contents(tmp_path / "eval") == before
    assert run(*evaluation, "--controls", "0", "-o", tmp_path / "eval") == 2
    assert "other settings (arms." in capsys.readouterr().err
    assert run(*evaluation, "-o", captured / "run") == 2
    assert run("plan", captured / "task", *delta, "--kind", "boost", "-o", tmp_path / "other.json") == 2
    assert "unknown kind of intervention 'boost'; expected one of soft" in capsys.readouterr().err
    assert not (tmp_path / "other.json").exists()
    for source in (captured / "run", tmp_path / "eval"):
        assert run("report", source, "-o", tmp_path / "report.html") == 0
        assert b"<script" in (tmp_path / "report.html").read_bytes()


def test_a_plan_of_rules_for_several_languages(captured, tmp_path, capsys):
    """Rules with conditions are made one by one and united; what contradicts is refused, and nothing is written."""

    def plan(*more, kind="ban", to="plan.json"):
        rule = ["--rule", "delta", "--base", captured / "run", "--threshold", "0.05", "--layers", "4-8"]
        return run("plan", captured / "task", *rule, "--kind", kind, *more, "-o", tmp_path / to)

    first = tmp_path / "plan.json"
    assert plan("--for-languages", "sw,de", "--phase", "generation") == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["layer", "kind", "strength", "experts", "phase", "languages"]
    assert table[1].split()[-3:] == ["generation", "deu_Latn", "swh_Latn"]
    assert plan("--for-languages", "fr", "--into", first, kind="force") == 0
    assert plan("--for-languages", "de", "--into", first, kind="ban") == 2
    assert "has experts" in capsys.readouterr().err
    assert plan("--into", tmp_path / "nowhere.json") == 2
    assert plan("--for-languages", "xx") == 2
    found = read_plan(first)
    assert found.languages == ("deu_Latn", "fra_Latn", "swh_Latn")
    assert [{each.kind for each in found.for_request(code).interventions} for code in ("sw", "fr", "en")] == [
        {"ban"},
        {"force"},
        set(),
    ]
    assert [part["provenance"]["rule"] for part in found.provenance["parts"]] == ["delta", "delta"]
    capsys.readouterr()
    assert plan(to="plain.json") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["layer", "kind", "strength", "experts"]


@pytest.mark.slow
def test_study_from_a_file(tmp_path, capsys):
    """A study file runs the whole way, its report can be written again, and other settings need another folder."""
    settings = """
        model = "organism"
        languages = ["en", "de", "es"]
        eval_languages = ["en", "de"]
        corpus_items = 12
        task_items = 3
        threshold = 0.05
        layers = [3, 8]
        kind = "ban"
        n_controls = 0
    """
    (tmp_path / "study.toml").write_text(settings)
    assert run("study", tmp_path / "study.toml", "-o", tmp_path / "out", "--json") == 0
    assert printed(capsys)["report"] == str(tmp_path / "out" / "report.html")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {edit["kind"] for edit in plan["interventions"]} == {"ban"}
    assert all(3 <= edit["layer"] <= 8 for edit in plan["interventions"])
    report = (tmp_path / "out" / "report.html").read_bytes()
    assert run("report", tmp_path / "out", "-o", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_bytes() == report
    (tmp_path / "study.toml").write_text(settings + "strength = 0.1\n")
    assert run("study", tmp_path / "study.toml", "-o", tmp_path / "out") == 2
    assert "other settings (strength: " in capsys.readouterr().err


def test_published_counts(shared_data, tmp_path, capsys):
    """The published Qwen3-30B-A3B counts give a U-shape and the published rule's 420 common experts."""
    counts = shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm"
    assert run("import", counts, "--format", "counts-json", "-o", tmp_path / "run") == 0
    capsys.readouterr()
    assert run("analyze", tmp_path / "run", "--pivot", "eng_Latn", "--json") == 0
    analysis = printed(capsys)
    middle = analysis["middle_layers"]
    for curve in analysis["divergence"].values():
        values = [point["value"] for point in curve]
        inside = values[middle["start"] : middle["end"] + 1]
        for outside in (values[: middle["start"]], values[middle["end"] + 1 :]):
            assert sum(inside) / len(inside) < sum(outside) / len(outside)
    share = ["--rule", "share", "--kind", "common", "--languages", "eng_Latn,zho_Hans", "--top", "20"]
    assert run("experts", tmp_path / "run", *share, "--threshold", "0.7", "--layers", "10-39", "--json") == 0
    found = printed(capsys)
    assert found["n"] == len(found["experts"]) == 420
    assert all(0 < row["weight"] < 0.7 for row in found["experts"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["organism", "flores200/dev"])
def test_killed_capture_ends_bit_identical(tmp_path, corpus, request):
    """SIGKILL at a random moment, then the same command again: every file equals the uninterrupted one's."""
    source = corpus if corpus == "organism" else str(request.getfixturevalue("shared_data") / corpus)
    command = [sys.executable, "-m", "isogloss", "capture", "organism", "--corpus", source, *SMALL, "-o", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(command, cwd=whole, env=environment, check=True, capture_output=True)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    process = subprocess.Popen(command, cwd=stopped, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    arrays = [stopped / "run" / f"{code}.safetensors" for code in LANGUAGES.split(",")]
    while process.poll() is None and not any(path.is_file() for path in arrays):
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    subprocess.run(command, cwd=stopped, env=environment, check=True, capture_output=True)
    assert contents(stopped) == contents(whole)
    expected = {"run/manifest.json", *(f"run/{code}.safetensors" for code in LANGUAGES.split(","))}
    assert set(contents(whole)) == expected


def bad(name, *arguments, message):
    """One wrong use and what its message must say; ``{}`` in arguments is the test's folder."""
    return pytest.param(arguments, message, id=name)


CAPTURE = ("capture", "organism", "-o", "{}/out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        bad("no-corpus", *CAPTURE, "--corpus", "{}/nowhere", message="no such corpus"),
        bad("misaligned", *CAPTURE, "--corpus", "{}/misaligned", message="deu_Latn.txt"),
        bad("empty-line", *CAPTURE, "--corpus", "{}/empty", message="eng_Latn.txt"),
        bad("encoding", *CAPTURE, "--corpus", "{}/latin1", message="UTF-8"),
        bad("duplicate", *CAPTURE, "--corpus", "{}/duplicate", message="eng_Latn"),
        bad("unknown-language", *CAPTURE, "--corpus", "{}/fine", "--languages", "xx", message="xx"),
        bad("absent-language", *CAPTURE, "--corpus", "{}/fine", "--languages", "sw", message="swh_Latn"),
        bad("organism-language", *CAPTURE, "--corpus", "organism", "--languages", "ko", message="kor_Hang"),
        bad("no-config", "capture", "{}/fine", "--corpus", "{}/fine", "-o", "{}/out", message="holds no config.json"),
        bad("a-file", "capture", "{}/junk.json", "--corpus", "{}/fine", "-o", "{}/out", message="it is a file"),
        bad("no-model", "capture", "{}/nowhere", "--corpus", "{}/fine", "-o", "{}/out", message="cannot read model"),
        bad("broken-plan", *CAPTURE, "--corpus", "{}/fine", "--plan", "{}/junk.json", message="not a JSON file"),
        bad("no-run", "analyze", "{}/nowhere", message="not a Run"),
        bad("import-nothing", "import", "{}/nowhere", "-o", "{}/out", message="nowhere"),
        bad("report-nothing", "report", "{}/fine", "-o", "{}/out", message="manifest.json"),
        bad("study-setting", "study", "{}/study.toml", "-o", "{}/out", message="colour: "),
        bad("evaluate-no-plan", "evaluate", "organism", "--plan", "{}/no.json", "--task", "organism", "-o", "{}/out",
            message="cannot read the plan"),
        bad("no-training", "organism", "card", "{}/fine", "-o", "{}/out", message="no finished training"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_readable_message(tmp_path, capsys, arguments, message):
    """Exit code 2, one message that names the culprit, no traceback, nothing half-written."""
    corpora = {
        "fine": {"eng_Latn.txt": b"one\ntwo\n", "deu_Latn.txt": b"eins\nzwei\n"},
        "misaligned": {"eng_Latn.txt": b"one\ntwo\n", "deu_Latn.txt": b"eins\n"},
        "empty": {"eng_Latn.txt": b"one\n\n", "deu_Latn.txt": b"eins\nzwei\n"},
        "latin1": {"eng_Latn.txt": "é\n".encode("latin-1")},
        "duplicate": {"eng_Latn.txt": b"one\n", "en.txt": b"one\n"},
    }
    for name, texts in corpora.items():
        (tmp_path / name).mkdir()
        for file, content in texts.items():
            (tmp_path / name / file).write_bytes(content)
    (tmp_path / "junk.json").write_text("{")
    (tmp_path / "study.toml").write_text("colour = 1\n")
    assert run(*(argument.format(tmp_path) for argument in arguments)) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert "Traceback" not in streams.err
    assert streams.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["experts", "RUN", "--rule", "delta", "--layers", "9-3"]])
def test_unparsable_arguments_exit_with_2(arguments, capsys):
    """Argparse's own refusals have the same exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def break_weights(folder):
    """Cut the weights' file short."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def lose_a_router(folder):
    """Leave one router's weight out."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.7.mlp.gate.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_the_shape(folder):
    """Claim half as many experts as there are."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_local_experts": 16, "num_experts": 16}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_weights, "cannot load model"),
        (lose_a_router, "lacks 1 weights, model.layers.7.mlp.gate.weight"),
        (change_the_shape, "cannot load model"),
    ],
)
def test_damaged_checkpoint_is_refused(tmp_path, capsys, damage, message):
    """A checkpoint that transformers cannot read, or would fill up with random numbers, is one readable message."""
    shutil.copytree(model_folder(), tmp_path / "model")
    damage(tmp_path / "model")
    command = ("capture", tmp_path / "model", "--corpus", "organism", *SMALL, "-o", tmp_path / "out")
    assert run(*command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_foreign_folder_is_not_written_into(tmp_path, capsys):
    """A capture into a folder with other files refuses and touches nothing."""
    (tmp_path / "note.txt").write_text("mine")
    assert run("capture", "organism", "--corpus", "organism", *SMALL, "-o", tmp_path) == 2
    assert contents(tmp_path) == {"note.txt": b"mine"}
    assert str(tmp_path) in capsys.readouterr().err


def test_help_needs_no_torch():
    """``isogloss --help`` and the analysis rooms load neither torch nor transformers."""
    code = (
        "import sys, isogloss, isogloss.cli, isogloss.analysis, isogloss.steering, isogloss.runs, isogloss.corpora,"
        " isogloss.reports; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
