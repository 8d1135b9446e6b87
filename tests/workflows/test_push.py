"""What is shared on the hub is what is read back from it, with a card whose numbers are those that were measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
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
from isogloss.workflows.push import prepare_push


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
    assert "example/model" in hub.files["datasets/me/run"]["README.md"].decode()


@pytest.mark.parametrize("force", [False, True])
def test_a_repository_of_something_else_is_left_alone(hub, plan, capsys, force):
    """Unless one insists."""
    assert run("push", plan, "me/other", *(["--force"] if force else []), "--quiet") == (0 if force else 2)
    assert (hub.files["models/me/other"]["README.md"] == b"# Mine") is not force
    assert ("holds something else (README.md, model.bin)" in capsys.readouterr().err) is not force


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


def test_what_cannot_be_shared_is_refused(tmp_path, plan, monkeypatch):
    """A name that is none, no plan, an unfinished Run, and a hub that does not answer; one line each."""
    with pytest.raises(RunError, match="expected OWNER/NAME"):
        prepare_push(plan, "../plan")
    with pytest.raises(PlanError, match="no such file or folder"):
        prepare_push(tmp_path / "none", "me/plan")
    write(tmp_path / "run", LANGUAGES[:2], replace(MANIFEST, status="partial"))
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"partial"'), encoding="utf-8")
    with pytest.raises(RunError, match="is unfinished"):
        prepare_push(tmp_path / "run", "me/run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=True)
    assert run("push", plan, "me/plan") == 2
