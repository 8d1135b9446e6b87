"""What is shared on the hub is what is read back from it, with a card whose numbers are those that were measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import run
from hub_server import serving
from huggingface_hub import constants
from report_samples import arms_evaluation
from run_examples import LANGUAGES, MANIFEST, write

from isogloss.errors import PlanError, RunError
from isogloss.evaluation import SUMMARY
from isogloss.languages import display_name
from isogloss.organism import adapter_folder, learned_plan_file
from isogloss.records import write_typed
from isogloss.reports.metrics import Metric
from isogloss.runs import open_run
from isogloss.steering import read_plan, read_steering, write_plan
from isogloss.workflows.push import prepare_push, push


@pytest.fixture
def plan(tmp_path):
    """The file of the plan that ships with the package, under a name of the user's own."""
    path = tmp_path / "mine.json"
    shutil.copy(learned_plan_file(), path)
    return path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub, but for a repository of something else."""
    with serving(monkeypatch, tmp_path, {"models/me/other": {"README.md": b"# Mine", "model.bin": b"x"}}) as server:
        yield server


def test_a_plan_comes_back(hub, plan, capsys):
    """In one commit, with its card; the address that is printed reads the same plan. A second push replaces it."""
    for _ in range(2):
        assert run("push", plan, "me/plan", "--quiet") == 0
    url, address = capsys.readouterr().out.splitlines()[-2:]
    assert url.startswith(constants.ENDPOINT)
    assert address == "read it as hf://me/plan"
    assert set(hub.files["models/me/plan"]) == {"plan.json", "README.md"}
    assert sum("/commit/" in request for request in hub.requests) == 2
    assert read_steering("hf://me/plan") == read_plan(plan)
    card = hub.files["models/me/plan"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: isogloss\n")
    assert 'language: ["ben", "swh", "tel", "tha"]' in card
    assert "--plan hf://me/plan" in card
    assert read_plan(plan).fingerprint.router_sha256 in card
    assert "No evaluation is given." in card


def test_an_adapter_and_a_run_come_back(hub, tmp_path):
    """As a model and as a data set."""
    assert run("push", adapter_folder(), "me/adapter", "--quiet") == 0
    assert read_steering("hf://me/adapter").sha256 == read_steering(adapter_folder()).sha256
    write(tmp_path / "run", LANGUAGES[:2])
    assert run("push", tmp_path / "run", "me/run", "--quiet") == 0
    assert open_run("hf://datasets/me/run").manifest == open_run(tmp_path / "run").manifest
    assert run("report", "hf://datasets/me/run", "-o", tmp_path / "page.html", "--quiet") == 0
    assert "example/model" in hub.files["datasets/me/run"]["README.md"].decode()


@pytest.mark.parametrize("force", [False, True])
def test_a_repository_of_something_else_is_left_alone(hub, plan, capsys, force):
    """Unless one insists."""
    assert run("push", plan, "me/other", *(["--force"] if force else []), "--quiet") == (0 if force else 2)
    assert (hub.files["models/me/other"]["README.md"] == b"# Mine") is not force
    assert ("holds something else (README.md, model.bin)" in capsys.readouterr().err) is not force


def test_what_an_earlier_upload_left_does_not_take_the_place_of_this_one(hub, plan, tmp_path):
    """A plan where an adapter is now, an adapter where a plan is, a language of a Run; files of others stay."""
    assert run("push", plan, "me/it", "--quiet") == 0
    hub.files["models/me/it"]["notes.json"] = b"{}"
    assert run("push", adapter_folder(), "me/it", "--quiet") == 0
    assert read_steering("hf://me/it").sha256 == read_steering(adapter_folder()).sha256
    assert "notes.json" in hub.files["models/me/it"]
    assert run("push", plan, "me/it", "--quiet") == 0
    assert set(hub.files["models/me/it"]) == {"plan.json", "README.md", "notes.json"}
    for name, languages in (("more", LANGUAGES[:3]), ("fewer", LANGUAGES[:2])):
        write(tmp_path / name, languages)
        assert run("push", tmp_path / name, "me/run", "--quiet") == 0
    assert open_run("hf://datasets/me/run").languages == tuple(sorted(LANGUAGES[:2]))


def test_an_adapter_of_another_tool_is_not_removed(hub, plan):
    """Where one insists on a plan beside it."""
    hub.files["models/me/other"]["adapter_config.json"] = b"{}"
    for _ in range(2):
        assert run("push", plan, "me/other", "--force", "--quiet") == 0
    assert "adapter_config.json" in hub.files["models/me/other"]


@pytest.mark.parametrize(
    ("call", "status", "is_known"),
    [("preupload/", 403, True), ("commit/", 403, True), ("commit/", 501, False), ("commit/", 200, False)],
)
def test_what_became_of_the_files_is_said_as_far_as_it_is_known(hub, plan, monkeypatch, call, status, is_known):
    """A refusal is one; an error of the hub, or an answer that cannot be read, may come after the commit."""
    answer, content = hub.write, [] if status == 200 else {}
    monkeypatch.setattr(hub, "write", lambda path, body: (status, content) if call in path else answer(path, body))
    said = "nothing was uploaded" if is_known else "it is not known whether the files were uploaded"
    with pytest.raises(PlanError, match=said):
        push(prepare_push(plan, "me/plan"))


def test_nothing_is_asked_of_the_hub_for_a_card_alone(hub, plan, capsys):
    """--dry-run."""
    assert run("push", plan, "me/plan", "--dry-run") == 0
    assert "files: plan.json, README.md" in capsys.readouterr().out
    assert not hub.requests


def test_the_card_states_what_was_measured(plan, tmp_path, monkeypatch):
    """Gain and interval of the arm that is this plan, and what the pivot pays; an evaluation of others is refused."""
    summary = arms_evaluation()
    write_typed(tmp_path / SUMMARY, summary)
    arms = {"baseline": None, "plan": read_plan(plan).sha256}
    monkeypatch.setattr("isogloss.reports.card.read_settings", lambda _folder: SimpleNamespace(arms=arms))
    card = prepare_push(plan, "me/plan", evaluation=tmp_path).card
    metric = Metric.of(summary)
    assert metric.change_text(summary.overall.difference) in card
    assert metric.value_text(summary.overall.steered) in card
    for code in summary.per_language:
        assert f"| {display_name(code)} | {summary.n[code]} |" in card
    arms["plan"] = "0" * 64
    with pytest.raises(RunError, match="none of them this plan"):
        prepare_push(plan, "me/plan", evaluation=tmp_path)


def test_a_name_in_provenance_does_not_act_in_a_card(tmp_path, plan):
    """Neither as Markdown nor as HTML nor as YAML."""
    evil = "`</code><script>alert(1)</script>\n---\nlicense: x"
    shared = replace(read_plan(plan), provenance={"rule": evil, "model_name": evil})
    write_plan(shared, tmp_path / "evil.json")
    card = prepare_push(tmp_path / "evil.json", "me/plan").card
    assert "<script" not in card
    assert "\nlicense" not in card
    assert card.count("\n---\n") == 1


def test_what_cannot_be_shared_is_refused(tmp_path, plan, capsys, monkeypatch):
    """A name that is none, no plan, an unfinished Run, and a hub that does not answer; one line each."""
    with pytest.raises(RunError, match="expected OWNER/NAME"):
        prepare_push(plan, "../plan")
    with pytest.raises(PlanError, match="no such file or folder"):
        prepare_push(tmp_path / "none", "me/plan")
    with pytest.raises(RunError, match="is on the hub already"):
        prepare_push(Path("hf://me/plan"), "me/plan")
    write(tmp_path / "run", LANGUAGES[:2], replace(MANIFEST, status="partial"))
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"partial"'), encoding="utf-8")
    with pytest.raises(RunError, match="is unfinished"):
        prepare_push(tmp_path / "run", "me/run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=True)
    assert run("push", plan, "me/plan") == 2
    assert capsys.readouterr().err == "isogloss: cannot push to me/plan: HF_HUB_OFFLINE is set\n"
