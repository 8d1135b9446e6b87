"""Settings of a study: written and read back by their class."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isogloss.errors import IsoglossError, PlanError, RunError
from isogloss.files import read_json, write_json
from isogloss.resuming import claim_folder
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan, write_plan
from isogloss.workflows import Ablation, Study, Sweep, ablate, run_study, run_sweep
from isogloss.workflows.sweep.settings import CandidateGrid

STUDY = Study(languages=("en", "sw"), layers=(1, 2), threshold=0.2)
SWEEP = Sweep(task="mgsm", grid=CandidateGrid(layers=("0-1", "all"), tops=(3,)))


@pytest.mark.parametrize("settings", [STUDY, SWEEP, Study()], ids=["study", "sweep", "defaults"])
def test_settings_come_back_as_they_were(tmp_path, settings):
    """Every field is in the file, and a folder is reopened with equal settings."""
    for _ in range(2):
        claim_folder(tmp_path / "work", "settings.json", settings)
    path = tmp_path / "work" / "settings.json"
    assert type(settings).read(path) == settings
    assert read_json(path).keys() == vars(settings).keys()


def test_other_settings_are_refused_by_name(tmp_path):
    """The message names what differs."""
    claim_folder(tmp_path / "study", "study.json", STUDY)
    with pytest.raises(RunError, match=r"other settings \(languages: .*; layers: .*; threshold: 0.2 and 0.3\)"):
        claim_folder(tmp_path / "study", "study.json", Study())


def test_a_folder_that_is_given_away_names_no_folder_of_the_machine(tmp_path):
    """Absolute paths are written by their last names; a file of an older version, with whole ones, is gone on with."""
    given = replace(STUDY, model=str(tmp_path / "model"), corpus=f"tsv:{tmp_path / 'texts.tsv'}", task="org/data set")
    given = replace(given, learned="hf://me/plan", arms=("plan=other:hf://me/other@main/plan.json",))
    path = tmp_path / "study.json"
    for _ in range(2):
        claim_folder(tmp_path, path.name, given.portable(path))
        stored = read_json(path)
        assert (stored["model"], stored["corpus"], stored["task"]) == ("model", "tsv:texts.tsv", "org/data set")
        assert (stored["learned"], stored["arms"]) == (given.learned, list(given.arms))
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        write_json(path, given.to_json())
    with pytest.raises(RunError, match="threshold: "):
        claim_folder(tmp_path, path.name, replace(given, threshold=0.9).portable(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"threshold": "high"}, "threshold: "), ({"colour": 1}, "colour: unknown field"), ({"kind": "boost"}, "kind: ")],
)
def test_a_damaged_study_is_refused_by_field(tmp_path, change, message):
    """The file and the field are named."""
    claim_folder(tmp_path / "study", "study.json", STUDY)
    path = tmp_path / "study" / "study.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(RunError, match=rf"study\.json: {message}"):
        claim_folder(tmp_path / "study", "study.json", STUDY)


@pytest.mark.parametrize(
    ("kind", "text", "missing"),
    [
        (Study, "threshold = 0.2", "model"),
        (Study, 'model = ""', "model"),
        (Sweep, "", "model and grid"),
        (Sweep, 'model = "organism"', "grid"),
        (Sweep, 'model = "organism"\n[grid]', "grid"),
    ],
)
def test_a_file_states_what_decides_the_result(tmp_path, kind, text, missing):
    """No study of another model than its writer meant, and no thousands of evaluations from an empty file."""
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(RunError, match=f"it does not state {missing};"):
        kind.read_toml(path)


def test_a_learned_plan_of_another_model_is_refused_before_anything_is_captured(tmp_path):
    """In one line; so is a file that is none."""
    plan = Plan(Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12"), (Intervention("ban", 0, (1,)),))
    write_plan(plan, tmp_path / "other.json")
    for file, match in (("other.json", "was made for another model"), ("none.json", "no such file")):
        with pytest.raises(PlanError, match=match):
            run_study(Study(learned=str(tmp_path / file)), tmp_path / file.removesuffix(".json"))
        assert not list((tmp_path / file.removesuffix(".json")).rglob("manifest.json"))


@pytest.mark.parametrize("kind", [Study, Ablation, Sweep])
def test_a_question_that_is_too_long_is_refused_before_anything_is_captured(tmp_path, kind):
    """By its task and item, in studies with a plan or with bands, ablations and sweeps."""
    (tmp_path / "task").mkdir()
    for code in ("eng_Latn", "deu_Latn"):
        (tmp_path / "task" / f"{code}.tsv").write_text(f"{'A cup and ' * 1500} a cup?\t1501\n" * 6)
    places = {"languages": ("en", "de"), "corpus_items": 2}
    task = str(tmp_path / "task")
    settings = {
        Study: lambda: [
            Study(task=task, layers=(1, 2), **places),
            Study(task=task, steer=False, rule="share", top=4, bands={"late": (8, 9)}, n_controls=10, **places),
        ],
        Ablation: lambda: [Ablation(tasks=(task,), task="", task_corpus="", top=4, **places)],
        Sweep: lambda: [Sweep(task=task, grid=CandidateGrid(layers=("0-1",), tops=(3,)), **places)],
    }[kind]()
    run = {Study: run_study, Ablation: ablate, Sweep: run_sweep}[kind]
    for number, each in enumerate(settings):
        with pytest.raises(RunError, match=r"item '\d+': a text of \d+ tokens"):
            run(each, tmp_path / str(number))
        assert not (tmp_path / str(number) / "run").exists()


@pytest.mark.parametrize("wrong", [{"corpus": "nowhere"}, {"task": "nothing"}, {"model": "no/where"}])
def test_a_study_that_is_refused_leaves_its_folder_free(tmp_path, monkeypatch, wrong):
    """No folder is claimed by settings whose texts, task or model there are not; other settings may follow."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(IsoglossError, match="no"):
        run_study(replace(Study(), **wrong), tmp_path / "out")
    assert not (tmp_path / "out").exists()
