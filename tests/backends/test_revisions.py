"""The commit of a model on the hub is recorded and can be chosen; Runs and evaluations of two commits do not mix."""

from __future__ import annotations

import pytest
from hub_cache import COMMITS, add_snapshot, hub_cache
from models import checkpoint

from isogloss.analysis import ExpertTable
from isogloss.backends.bake.folder import checkpoint_folder
from isogloss.backends.open import load, preview
from isogloss.backends.reading import find_checkpoint, reading
from isogloss.corpora import Corpus, load_corpus
from isogloss.errors import IsoglossError, ModelError, RunError
from isogloss.evaluation import load_task
from isogloss.face import find_experts, steer
from isogloss.runs import merge
from isogloss.steering import conditional, read_plan, read_steering
from isogloss.workflows.capture import capture_corpus

TEXTS = {"eng_Latn": ("The river is wide.",), "deu_Latn": ("Der Fluss ist breit.",)}


def corpus(*languages):
    """Texts of some languages."""
    return Corpus("small", {code: TEXTS[code] for code in languages}, ("1",), "CC0-1.0", "test")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub with two commits of one model."""
    cache = hub_cache(monkeypatch, tmp_path / "hub")
    for ref in COMMITS:
        add_snapshot(cache, "me/moe", checkpoint("olmoe"), ref)
    return cache


@pytest.mark.parametrize(
    ("name", "commit"),
    [
        ("me/moe", COMMITS["main"]),
        ("me/moe@main", COMMITS["main"]),
        ("me/moe@v1", COMMITS["v1"]),
        (f"me/moe@{COMMITS['v1']}", COMMITS["v1"]),
    ],
)
@pytest.mark.usefixtures("cache")
def test_the_commit_that_was_loaded_is_known(name, commit):
    """Of the branch that the hub names first, or of the branch, tag or commit after the name."""
    model = load(name)
    assert (model.name, model.revision) == ("me/moe", commit)
    assert model.describe()["revision"] == commit


@pytest.mark.usefixtures("cache")
def test_what_is_not_there_is_one_line():
    """A revision or repository that the hub does not have."""
    for name in ("me/moe@v2", "me/none", "me/none@v1"):
        with pytest.raises(ModelError, match=f"cannot load model '{name}'") as caught:
            load(name)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_a_folder_has_no_revision(tmp_path, monkeypatch):
    """Though its name has an @ in it, given whole or from where it lies."""
    folder = tmp_path / "moe@v1"
    folder.symlink_to(checkpoint("olmoe"))
    monkeypatch.chdir(tmp_path)
    for name in (str(folder), "moe@v1"):
        assert find_checkpoint(name) == (name, None)
    assert load("moe@v1").revision is None
    assert load("organism").revision is None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("read", [find_checkpoint, checkpoint_folder, load, preview])
def test_a_revision_of_a_folder_is_refused(tmp_path, monkeypatch, read):
    """Though the hub has a repository of that name: which of the two is meant is not known, and neither is read."""
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "moe").symlink_to(checkpoint("olmoe"))
    monkeypatch.chdir(tmp_path)
    for name in ("me/moe@v1", "./me/moe@v1", f"{tmp_path}/me/moe@nowhere"):
        with pytest.raises(ModelError, match=rf"model '{name}': .*moe is a folder .* has no revision; .*leave @") as no:
            read(name)
        assert "\n" not in str(no.value)
    (tmp_path / "me" / "moe@v1").symlink_to(checkpoint("olmoe"))
    assert find_checkpoint("me/moe@v1") == ("me/moe@v1", None)


@pytest.mark.parametrize("read", [load_corpus, load_task, read_plan, read_steering])
def test_a_revision_of_another_path_is_refused(tmp_path, read):
    """A corpus, a task, a plan and an adapter are files or folders, which have no revisions either."""
    (tmp_path / "eng_Latn.txt").write_text("One.\n", encoding="utf-8")
    with pytest.raises(IsoglossError, match=f"{tmp_path.name}@v1"):
        read(f"{tmp_path}@v1")


@pytest.mark.usefixtures("cache")
def test_runs_of_two_commits_do_not_mix(tmp_path):
    """A capture is not resumed with another commit, nor are such Runs merged; the message names both commits."""
    capture_corpus(load("me/moe"), corpus("eng_Latn"), tmp_path / "a")
    capture_corpus(load("me/moe@v1"), corpus("deu_Latn"), tmp_path / "b")
    both = "|".join(f"{first}.*{second}" for first, second in (list(COMMITS.values()), list(COMMITS.values())[::-1]))
    with pytest.raises(RunError, match=rf"revision.*({both})"):
        capture_corpus(load("me/moe@v1"), corpus("eng_Latn"), tmp_path / "a")
    with pytest.raises(RunError, match=rf"revision.*({both})"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")


@pytest.mark.parametrize("ref", ["main", "v1"])
def test_an_adapter_on_the_hub_is_to_be_merged_first(tmp_path, monkeypatch, ref):
    """As an adapter in a folder is, by the same words."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    cache = hub_cache(monkeypatch, tmp_path / "hub")
    add_snapshot(cache, "me/lora", tmp_path / "adapter", ref)
    name = "me/lora" if ref == "main" else f"me/lora@{ref}"
    with pytest.raises(ModelError, match=r"me/lora.*LoRA adapter.*merge it first"), reading(name, expected=""):
        find_checkpoint(name)


@pytest.mark.usefixtures("cache")
def test_a_plan_of_another_commit_is_said(tmp_path, capsys):
    """Routers agree, so it is applied; a note names both commits, and there is none on the plan's own commit."""
    first, second = load("me/moe"), load("me/moe@v1")
    run = capture_corpus(first, corpus("eng_Latn", "deu_Latn"), tmp_path / "run")
    table = find_experts(run, rule="contrast", languages=["de"], top=3)
    assert ExpertTable.from_json(table.to_json(), "table").revision == COMMITS["main"]
    plan = table.plan("offset", strength=1.0)
    united_plan = conditional(plan, languages=["de"])
    capsys.readouterr()
    with steer(first, plan):
        assert not capsys.readouterr().err
        first.generate(["Anna"], max_new_tokens=1)
    with steer(second, plan):
        said = capsys.readouterr().err
        second.generate(["Anna"], max_new_tokens=1)
    assert said.count("\n") == 1
    assert all(commit in said for commit in COMMITS.values())
    capture_corpus(second, corpus("eng_Latn"), tmp_path / "steered", plan=united_plan)
    assert f"the plan was made on commit {COMMITS['main']}" in capsys.readouterr().err
