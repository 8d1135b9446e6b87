"""Every recipe runs from end to end on a tiny model of its class, with local files of the published layouts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import published_layouts as layouts
import pytest
from chat_templates import CHATML, DATED, TRIMMED
from models import checkpoint

from isogloss.cli import main
from isogloss.errors import RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.tasks.choices import MEDICAL_SUBJECTS
from isogloss.files import read_json
from isogloss.runs import open_run
from isogloss.steering import read_plan
from isogloss.workflows import find_study, preview_study, recipe_names, run_study
from isogloss.workflows.ablation import held_out
from isogloss.workflows.ablation import run as ablating
from isogloss.workflows.study import run as running
from isogloss.workflows.study.preview import _is_remote
from isogloss.workflows.study.settings import Study

FEW = ("en", "de", "sw")
CLASSES = {
    "Qwen/Qwen3-30B-A3B": ("qwen3_moe", CHATML),
    "microsoft/Phi-3.5-MoE-instruct": ("phimoe", TRIMMED),
    "openai/gpt-oss-20b": ("gpt_oss", DATED),
    "allenai/OLMoE-1B-7B-0125-Instruct": ("olmoe", TRIMMED),
}
STOPS = {
    "paper-b/steering": (running, "evaluate_plan", 0, "eval/summary.json"),
    "paper-b/masking": (ablating, "answer_items", 7, "ablation/ablation.json"),
}
"""Recipe to the function that is stopped, how often it may run before, and the result."""
PAPER_A = ("rule-early", "multilingual", "suppress", "deeper-1", "shallower-1", "threshold-0.001")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Local copies of all that the recipes read, and the models with their chat templates."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("published")
    six = (*FEW, "fr", "es", "zh")
    layouts.belebele(folder / "belebele", six)
    layouts.gsm8k_instruct(folder / "gsm8k_instruct")
    layouts.medinstruct(folder / "medinstruct")
    layouts.mgsm(folder / "mgsm", FEW)
    layouts.global_mmlu(folder / "global_mmlu", ("en", "de"), MEDICAL_SUBJECTS)
    layouts.flores_plus(folder / "flores_plus", FEW)
    layouts.polymath(folder / "polymath", FEW)
    for model, (family, template) in CLASSES.items():
        place = folder / model.rpartition("/")[2]
        shutil.copytree(checkpoint(family), place)
        (place / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        datasets.disable_progress_bars()
        yield folder


def local(source, data):
    """The same data set, read from its copy."""
    name, _, variant = source.partition(":")
    folder = {"flores": "flores_plus"}.get(name, name)
    return ":".join(part for part in (name, variant, str(data / folder)) if part)


def small(study, data):
    """A recipe with its sources on this machine, as many experts as a tiny model has, and few items."""
    changed = {
        "model": str(data / study.model.rpartition("/")[2]),
        "backend": "huggingface",
        "corpus": local(study.corpus, data),
        "task_corpus": study.task_corpus and local(study.task_corpus, data),
        "task": local(study.task, data) if study.steer or study.bands else study.task,
        "more_tasks": tuple(local(task, data) for task in study.more_tasks),
        "accuracy_task": study.accuracy_task and local(study.accuracy_task, data),
        "languages": (*FEW, "fr", "es", "zh") if study.accuracy_task else FEW,
        "eval_languages": ("de", "en") if "mmlu" in study.task else () if study.accuracy_task else FEW,
        "more_languages": ("de", "sw") if study.more_tasks else (),
        "task_items": 2,
    }
    if study.steer:
        changed |= {"layers": (2 + study.layers_base, 2 + study.layers_base), "sampling": None}
    if study.rule == "delta":
        changed |= {"threshold": 0.005}
        moved = [arm if "=" not in arm else "shifted=1,-1" for arm in study.arms if not arm.startswith("threshold")]
        changed |= {"arms": (*moved, "threshold=0.001")}
    elif study.steer:
        changed |= {"top": 6, "rule_languages": study.rule_languages and ("en", "sw")}
        changed |= {"threshold": 0.9} if study.expert_kind == "common" else {"threshold": 0.34}
    if study.bands:  # of the translations, those of three sentences are left to be measured
        changed |= {"bands": {"early": (2, 3)}, "top": 6, "threshold": 0.34, "sampling": None, "corpus_items": 3}
    return replace(study, **changed)


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    """Random weights never end an answer."""

    def load(*arguments, **options):
        task = load_task(*arguments, **options)
        return replace(task, max_new_tokens=min(task.max_new_tokens, 4))

    monkeypatch.setattr(running, "load_task", load)
    monkeypatch.setattr(held_out, "load_task", load)


def require_ablations(folder, plan):
    """Fail unless every arm of the paper is what its name says, and none is the plan."""
    arms = {path.parent.name: read_plan(path) for path in folder.glob("*/plan.json")}
    of = {name: {(each.layer, k) for each in arm.interventions for k in each.experts} for name, arm in arms.items()}
    ours = {(each.layer, k) for each in plan.interventions for k in each.experts}
    layers = {name: set(arm.layers) for name, arm in arms.items()}
    may_agree = ("threshold-0.001", "multilingual")  # as a task's experts may be other languages' too
    assert all(arm.interventions != plan.interventions for name, arm in arms.items() if name not in may_agree)
    assert layers.get("deeper-1", {3}) == {3}
    assert layers.get("shallower-1", {1}) == {1}
    assert layers.get("rule-early", {0}) <= {0, 1}
    assert of.get("threshold-0.001", ours) >= ours
    assert of.get("suppress", ours) == ours
    assert len(of.get("multilingual", ours)) <= len(ours)
    assert of["random-0"] != ours


def require_matrix(folder, study, result):
    """Fail unless each language's own experts were banned and every language measured, as was counted before."""
    codes, families = {"eng_Latn", "deu_Latn", "swh_Latn"}, result.ablation.families
    banned = {each.name for each in families.families if each.status == "banned"}
    assert banned
    assert {each.name for each in families.families} == codes
    assert families.bands == {"early": (2, 3)}
    assert [task.n_captured for task in families.tasks] == [0, 6]  # three sentences, in dev and in devtest
    evaluated = {"mgsm:boxed": codes, "flores": codes - {"eng_Latn"}}
    cells = {(cell.task, cell.masked, cell.evaluated) for cell in result.ablation.cells}
    assert cells == {(task, name, code) for task in evaluated for name in banned for code in evaluated[task]}
    for name in banned:
        plan = read_plan(folder / "ablation" / "plans" / f"early.{name}.json")
        family = next(each for each in families.families if each.name == name)
        assert {each.layer: tuple(each.experts) for each in plan.interventions} == family.experts
        assert (plan.sha256, set(plan.layers) <= {2, 3}) == (family.plan_sha256, True)
    (loss,) = (each for each in result.ablation.bands if each.task == "mgsm:boxed")
    (row, *_) = (each for each in result.published.rows if each.where == "early layers, mgsm:boxed, accuracy")
    assert row.measured == loss.beyond_others.scaled(100.0)
    assert row.cells[0] == "loss of the banned language beyond that of the others, early layers, mgsm:boxed, accuracy"
    assert (row.cells[1], row.cells[3]) == ("hurts", "not shown")
    page = result.report.read_text(encoding="utf-8")
    assert [f"ablation-{number}-0" in page for number in (0, 1)] == [True, True]
    asked = sum(len(path.read_text().splitlines()) for path in (folder / "ablation" / "measured").rglob("*.jsonl"))
    counted = [(each.name, each.n_items, each.n_languages, each.n_times) for each in preview_study(study).answers]
    names = [name for task in study.tasks for name in (task, f"{task}, random bans")]
    sizes = [(2, 3, 1 + 3), (2, 3, 10), (2, 2, 1 + 3), (2, 2, 10)]
    assert counted == [(name, *size) for name, size in zip(names, sizes, strict=True)]
    all_banned = sum(n * languages * times for n, languages, times in sizes)
    without = codes - banned
    assert asked == all_banned - sum(2 * (5 + 10 * (2 if code != "eng_Latn" else 1)) for code in without)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_runs_as_it_stands(name, data, tmp_path):
    """Chats of the published layout are captured, a plan is made and evaluated, and the paper's numbers shown."""
    found = find_study(name)
    study = small(found.study, data)
    result = run_study(study, tmp_path / "out", recipe=found.recipe)
    manifest = open_run(tmp_path / "out" / "run").manifest
    assert (manifest.chat_template_sha256 is None, manifest.token_scope) == (False, "all")
    assert "Beside the published numbers" in result.report.read_text(encoding="utf-8")
    rows = [row for row in result.published.rows if not row.where or row.where.startswith("early layers, mgsm:boxed")]
    assert rows
    assert all(row.measured is not None for row in rows), rows
    assert not any("nan" in cell for row in result.published.rows for cell in row.cells)
    said = " ".join(result.published.sentences)
    assert str(data) not in said
    assert "dtype: published not stated, here float32" in said
    assert "setting task_items" in said
    if study.bands:
        require_matrix(tmp_path / "out", study, result)
        return
    if not study.steer:
        assert result.evaluation is None
        assert set(read_json(tmp_path / "out" / "accuracy" / "accuracy.json")) == set(result.analysis.languages)
        return
    assert set(study.more_tasks) == set(result.more)
    assert {path.name for path in (tmp_path / "out").glob("eval-*")} == ({"eval-flores"} if result.more else set())
    if study.rule == "delta":
        left_out = {name for name in PAPER_A if f"Arm {name} " in " ".join(result.findings)}
        assert {*result.evaluation.controls, *left_out} >= {*PAPER_A, "random-0"}
        assert result.plan.layers == (2,)
        require_ablations(tmp_path / "out" / "plans", result.plan)
        assert open_run(tmp_path / "out" / "task").manifest.corpus["name"] in ("gsm8k_instruct", "medinstruct")


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
def test_a_study_goes_on_where_it_was_stopped(name, data, tmp_path, monkeypatch):
    """Stopped in the middle of the evaluation, it captures nothing again and ends with the same report."""
    study, (room, step, n_done, results) = small(find_study(name).study, data), STOPS[name]
    whole, go_on, left = run_study(study, tmp_path / "whole"), getattr(room, step), iter(range(n_done))

    def stop(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return go_on(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(room, step, stop)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, tmp_path / "stopped")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "run").glob("*.safetensors")}
    assert before
    resumed = run_study(study, tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert resumed.findings == whole.findings
    assert resumed.published.to_json() == whole.published.to_json()
    assert resumed.effects == whole.effects
    assert (tmp_path / "stopped" / results).read_bytes() == (tmp_path / "whole" / results).read_bytes()


def test_recipes_say_what_the_papers_print():
    """The numbers of the papers' tables, layers as printed, and which of them are ours."""
    printed = {
        "paper-a/qwen3-mgsm": ((7, 34), 0.4, "soft", 22, 76.4, 78.0),
        "paper-a/phi-mgsm": ((7, 16), 0.3, "soft", 12, 57.5, 58.9),
        "paper-a/gptoss-mgsm": ((3, 18), 0.3, "force", 9, 68.9, 71.5),
        "paper-a/qwen3-medical": ((7, 34), 0.5, "force", 23, 68.2, 69.1),
        "paper-a/phi-medical": ((7, 16), 0.25, "soft", 2, 57.8, 58.8),
        "paper-a/gptoss-medical": ((3, 18), 0.3, "soft", 6, 63.8, 64.5),
    }
    for name, (layers, threshold, kind, experts, baseline, steered) in printed.items():
        study = find_study(name).study
        assert (study.decoder_layers, study.threshold, study.kind) == (layers, threshold, kind)
        numbers = {each.quantity: each.value for each in study.published}
        assert numbers == {"experts": experts, "baseline": baseline, "steered": steered}
    assert find_study("paper-b/steering").study.decoder_layers == (10, 39)
    assert {*printed, "paper-a/olmoe-correlation", "paper-b/masking", "paper-b/steering"} == set(recipe_names())


def test_recipes_are_found_by_name(tmp_path, capsys):
    """Listed, refused with their names where there is none, and previewed without a network."""
    assert main(["study", "--list"]) == 0
    listed = capsys.readouterr().out
    assert [name for name in recipe_names() if name not in listed] == []
    assert main(["study", "paper-a/none", "-o", str(tmp_path / "out")]) == 2
    assert "no recipe of this name; the recipes are paper-a/gptoss-medical" in capsys.readouterr().err
    assert main(["study"]) == 2
    assert main(["study", "paper-a/phi-mgsm"]) == 2
    assert "give -o FOLDER" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="--set is no study: colour: "):
        find_study("paper-a/phi-mgsm").study.with_settings(["colour=red"])
    with pytest.raises(RunError, match="--set dtype: expected KEY=VALUE"):
        find_study("paper-a/phi-mgsm").study.with_settings(["dtype"])
    with pytest.raises(RunError, match=r"--set languages=\[en,sw\]: not TOML \(.*texts in a list or table are quoted"):
        find_study("paper-a/phi-mgsm").study.with_settings(["languages=[en,sw]"])
    changed = find_study("paper-a/phi-mgsm").study.with_settings(["dtype=bfloat16", "languages=['en', 'sw']"])
    assert (changed.dtype, changed.languages) == ("bfloat16", ("en", "sw"))


def test_a_known_name_is_fetched_also_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    """As it is when the study runs; other sources that are here are not."""
    monkeypatch.chdir(tmp_path)
    for name in ("mgsm", "mine"):
        (tmp_path / name).mkdir()
    sources = ("mgsm", "mgsm@main", "org/texts", "mgsm:mine", "mine", "organism:problems")
    assert [each for each in sources if _is_remote(each)] == ["mgsm", "mgsm@main", "org/texts"]


def test_a_preview_counts_what_is_here(tmp_path, capsys):
    """Items, tokens, answers of every arm, and nothing is written; a source out of reach is counted as published."""
    study = Study(
        languages=("en", "de"), eval_languages=("en", "de"), corpus_items=5, task_items=3, n_controls=2,
        arms=("suppress", "shifted=1,-1", "strength=0.1"), layers=(2, 5),
    )  # fmt: skip
    preview = preview_study(study)
    assert [(each.n_items, each.n_languages) for each in preview.texts] == [(5, 2), (5, 1)]
    (answers,) = preview.answers
    assert (answers.n_items, answers.n_languages, answers.n_times) == (3, 2, 2 + 2 + 4)
    assert answers.most_new_tokens == 3 * 2 * 8 * load_task("organism").max_new_tokens
    for learned, n_more in (("plan.json", 1), ("organism", 2)):  # the shipped plan brings its adapter
        assert preview_study(replace(study, learned=learned)).answers[0].n_times == answers.n_times + n_more
    assert preview.fetched == ()
    named = replace(study, learned="hf://me/plan", arms=("plan=other:hf://me/other/plan.json",))
    assert preview_study(named).fetched == ("hf://me/plan", "hf://me/other/plan.json")
    assert preview.hours > 0
    assert "about 121 hours at most" in replace(preview, hours=121.4).sentences[-1]
    assert "about 0.1 hours at most" in replace(preview, hours=1e-7).sentences[-1]
    assert "about 0.51 hours at most" in replace(preview, hours=0.512).sentences[-1]
    counted = preview.texts[0]
    (tmp_path / "study.toml").write_text('model = "organism"\ncorpus_items = 5\nlanguages = ["en", "de"]\n')
    assert main(["study", str(tmp_path / "study.toml"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"][0]["n_tokens"] == counted.n_tokens
    none = tmp_path / "none"
    guessed = preview_study(
        replace(study, model=str(none), corpus=f"belebele:{none}", task=f"mgsm:{none}", task_items=0)
    )
    assert [(each.was_read, each.n_items) for each in (*guessed.texts, *guessed.answers)] == [
        (False, 5),
        (True, 5),
        (False, 250),
    ]
    assert "not read here" in " ".join(guessed.sentences)
    for task, n_items, n_new in (
        ("global_mmlu", 14042, 0),
        ("global_mmlu:medical-first60", 420, 0),
        ("global_mmlu:generate", 14042, 1024),
        ("mgsm:boxed", 250, 2048),
    ):
        (unread,) = preview_study(replace(study, task=f"{task}:{none}", task_items=0)).answers
        assert (unread.was_read, unread.n_items) == (False, n_items)
        assert unread.most_new_tokens == n_items * 2 * unread.n_times * n_new


def test_layers_are_counted_as_the_paper_prints_them():
    """``layers_base = 1`` for layers and arms; a range that begins before it is refused."""
    assert Study(layers=(8, 35), layers_base=1).decoder_layers == (7, 34)
    assert Study(layers=(8, 35)).decoder_layers == (8, 35)
    with pytest.raises(RunError, match=r"layers is \[0, 4\]; expected the first and the last, 1-based"):
        Study(layers=(0, 4), layers_base=1)
    with pytest.raises(RunError, match="arms: 'colour'; expected an arm of"):
        Study(arms=("colour",))


def test_bands_are_an_ablation_of_the_study():
    """Its settings are the study's, layers counted from 0; what does not fit is refused in one line."""
    banning = Study(steer=False, bands={"late": (8, 9)}, layers_base=1, n_controls=10, rule="share", top=4)
    ablation = banning.ablation
    assert (ablation.bands, ablation.tasks, ablation.n_null) == ({"late": (7, 8)}, ("organism",), 10)
    assert (ablation.rule, ablation.top, ablation.task_corpus, ablation.model) == ("share", 4, "", "organism")
    assert Study().ablation is None
    for wrong, message in (
        ({"steer": True}, "bands are given and steer is true; set steer = false"),
        ({"n_controls": 3}, "n_controls is 3; expected at least 10 where bands are given"),
        ({"top": 0}, "the share rule needs top"),
        ({"bands": {"late": (0, 3)}}, "band 'late' is -1-2; expected a plain name and two layers"),
    ):
        with pytest.raises(RunError, match=message):
            replace(banning, **wrong)


@pytest.mark.parametrize(("name", "expected"), [("paper-a/qwen3-mgsm", "8-35 is 7-34 here"), ("paper-b/masking", "")])
def test_a_range_that_is_counted_from_1_is_said_in_ours(name, expected):
    """As the papers print it, and as every file and figure here counts; nothing where both are the same."""
    remark = find_study(name).study.layers_remark
    assert expected in remark
    assert bool(remark) == bool(expected)
