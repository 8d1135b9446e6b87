"""Tasks of lm-evaluation-harness on a steered model; small tasks of our own stand in for those of the hub."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is an optional extra")

from harness_tasks import GENERATE, no_hub

from isogloss.backends.huggingface import load_model, steer
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.errors import CorpusError, ModelError, PlanError, RunError
from isogloss.evaluation import harness
from isogloss.evaluation.harness import HarnessOptions, evaluate_with_harness
from isogloss.steering import Intervention, Plan, random_control
from known_answers.planted import planted_problems
from known_answers.planted_model import PLANTED_EXPERT, PLANTED_LAYER, planted_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports, which are not ours

LANGUAGES = ("deu_Latn", "swh_Latn")
N_ITEMS = 24

CHOICE = """
task: planted_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

ROLLING = """
task: planted_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{prompt}}}} {{{{answer}}}}"
metric_list:
  - {{metric: bits_per_byte}}
"""


def rows(language):
    """Sums of one language with the right answer among four."""
    for item, prompt, answer in planted_problems()[language][:N_ITEMS]:
        options = [str((int(answer) + step) % 19) for step in (0, 1, 3, 5)]
        place = int(item[0]) % 4
        options[0], options[place] = options[place], options[0]
        yield {"id": item, "prompt": prompt, "answer": answer, "options": options, "right": place}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks as the harness reads them, their data in local files."""
    folder = tmp_path_factory.mktemp("tasks")
    for language in LANGUAGES:
        file = folder / f"{language}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(language)), encoding="utf-8")
        (folder / f"{language}.yaml").write_text(GENERATE.format(language=language, file=file), encoding="utf-8")
    (folder / "choice.yaml").write_text(CHOICE.format(file=folder / "deu_Latn.jsonl"), encoding="utf-8")
    (folder / "text.yaml").write_text(ROLLING.format(file=folder / "deu_Latn.jsonl"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_hub(tmp_path_factory):
    """Data sets are read from files alone, and cached here."""
    with no_hub(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model that adds where one certain expert is chosen."""
    return load_model(str(planted_model(tmp_path_factory.mktemp("model") / "planted")), device="cpu")


def plan_for(loaded, *experts, kind="force", **fields):
    """A plan for experts of the planted layer."""
    return Plan(loaded.fingerprint(), (Intervention(kind, PLANTED_LAYER, experts, **fields),))


def options(folder, **fields):
    """Options that find the tasks."""
    return HarnessOptions(include_path=folder, builtin=False, **fields)


@pytest.fixture(scope="module")
def result(loaded, folder):
    """All four tasks, unsteered, with the planted expert forced, and with a random one."""
    plan = plan_for(loaded, PLANTED_EXPERT)
    arms = {"plan": plan, "random": random_control(plan, seed=0)}
    tasks = [*(f"planted_{language}" for language in LANGUAGES), "planted_choice", "planted_text"]
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    found = evaluate_with_harness(HuggingFaceModel(loaded), tasks, arms, options=options(folder))
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return found


def values(result, task, metric):
    """Arm to values of one task and metric."""
    return next(each.values for each in result.scores if (each.task, each.metric) == (task, metric))


def test_generated_answers_equal_our_own(loaded, result):
    """Per item, in every arm, the harness's exact match is whether our own greedy answer is right."""
    for language in LANGUAGES:
        asked = list(rows(language))
        found = values(result, f"planted_{language}", "exact_match,none")
        plans = {"baseline": None, "plan": plan_for(loaded, PLANTED_EXPERT)}
        for arm, plan in plans.items():
            with steer(loaded, plan or Plan(loaded.fingerprint())):
                answers = HuggingFaceModel(loaded).generate([row["prompt"] for row in asked], max_new_tokens=2)
            right = [float(answer.strip() == row["answer"]) for answer, row in zip(answers, asked, strict=True)]
            assert found[arm].tolist() == right
            assert 0 < sum(right) < N_ITEMS


def test_likelihoods_equal_plain_forwards(loaded, folder):
    """Log-likelihoods that the harness logs are sums of log-softmax of one forward per option, in every arm."""
    adapter = harness._Harness(HuggingFaceModel(loaded), ("planted_choice",), options(folder, batch_size=5))
    for plan in (None, plan_for(loaded, PLANTED_EXPERT)):
        log = adapter.run(plan)["samples"]["planted_choice"]
        assert len(log) == N_ITEMS
        for sample in log[:6]:
            for (prompt, option), ((found, _),) in zip(sample["arguments"], sample["resps"], strict=True):
                ids = loaded.tokenizer(prompt + option, return_tensors="pt")["input_ids"]
                n_prompt = len(loaded.tokenizer(prompt)["input_ids"])
                with torch.inference_mode(), steer(loaded, plan or Plan(loaded.fingerprint())):
                    likely = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
                expected = sum(likely[place - 1, ids[0, place]].item() for place in range(n_prompt, ids.shape[1]))
                assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_plan_gains_and_a_random_expert_does_not(result):
    """Paired statistics run on what the harness logged, each task under a name of the caller's choice."""
    names = {f"planted_{language}": language for language in LANGUAGES}
    compared = result.compare("exact_match,none", tasks=names)
    assert set(compared) == {"plan", "random"}
    assert set(compared["plan"].per_language) == set(LANGUAGES)
    assert compared["plan"].test == "mcnemar"
    assert all(entry.p_adjusted < 0.01 for entry in compared["plan"].per_language.values())
    assert compared["plan"].overall_these_languages.difference.low > 0
    assert all(entry.p_value > 0.05 for entry in compared["random"].per_language.values())
    choice = values(result, "planted_choice", "acc,none")
    assert choice["plan"].mean() > choice["baseline"].mean()


def test_effects_and_documents_are_recorded(result):
    """Each arm says what share of tokens it rerouted; documents stand in order; the result is JSON."""
    assert set(result.changed) == {"plan", "random"}
    assert all(shares[PLANTED_LAYER] > 0.5 for shares in result.changed.values())
    assert all(scores.documents == tuple(range(N_ITEMS)) for scores in result.scores)
    assert {scores.better for scores in result.scores} == {"higher"}
    assert json.loads(json.dumps(result.to_json()))["harness"] == result.harness


def test_a_metric_that_is_no_mean_of_documents_is_left_out_by_name(result):
    """Bits per byte are a ratio of sums, so it cannot be compared document by document; the result says so."""
    assert result.left_out == ("planted_text: bits_per_byte,none",)
    assert not any(scores.task == "planted_text" for scores in result.scores)


def test_leaving_restores_the_model_bit_for_bit(loaded, folder, result):
    """After all arms, the unsteered answers are those of before, the logits bit-identical, and no hook is left."""
    ids = loaded.tokenizer(next(rows("deu_Latn"))["prompt"], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        before = loaded.model(input_ids=ids).logits
    model, arms = HuggingFaceModel(loaded), {"plan": plan_for(loaded, PLANTED_EXPERT)}
    again = evaluate_with_harness(model, ["planted_choice"], arms, options=options(folder))
    with torch.inference_mode():
        assert torch.equal(before, loaded.model(input_ids=ids).logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())
    for arm in ("baseline", "plan"):
        np.testing.assert_array_equal(
            values(again, "planted_choice", "acc,none")[arm], values(result, "planted_choice", "acc,none")[arm]
        )


def test_another_prompt_in_an_arm_is_refused(loaded, folder, monkeypatch):
    """Where a steered arm was asked something else, nothing is compared."""
    run = harness._Harness.run

    def altered(self, plan):
        log = run(self, plan)
        if plan is not None:
            log["samples"]["planted_choice"][3]["arguments"][1] = ("another", " prompt")
        return log

    monkeypatch.setattr(harness._Harness, "run", altered)
    arms = {"plan": plan_for(loaded, PLANTED_EXPERT)}
    with pytest.raises(RunError, match=r"planted_choice: arm plan .*document 3"):
        evaluate_with_harness(HuggingFaceModel(loaded), ["planted_choice"], arms, options=options(folder, limit=5))


def test_a_plan_that_changes_nothing_is_refused(loaded, folder):
    """The effect is measured on the task's own prompts before a steered arm is run."""
    arms = {"plan": plan_for(loaded, PLANTED_EXPERT, kind="offset", values=(0.0,))}
    with pytest.raises(PlanError, match="changed no chosen expert"):
        evaluate_with_harness(HuggingFaceModel(loaded), ["planted_choice"], arms, options=options(folder, limit=2))


def test_phases_are_followed_in_generated_answers_and_refused_in_likelihoods(loaded, folder):
    """The prompt's end decides the first answer, so an edit of the generation alone changes no score; and no guess."""
    arms = {"plan": plan_for(loaded, PLANTED_EXPERT, phase="generation")}
    found = evaluate_with_harness(HuggingFaceModel(loaded), ["planted_deu_Latn"], arms, options=options(folder))
    scores = values(found, "planted_deu_Latn", "exact_match,none")
    np.testing.assert_array_equal(scores["baseline"], scores["plan"])
    with pytest.raises(PlanError, match=r"planted_choice are an answer"):
        evaluate_with_harness(HuggingFaceModel(loaded), ["planted_choice"], arms, options=options(folder, limit=2))


def test_wrong_use_is_refused(loaded, folder):
    """Unknown tasks, a taken name, other engines, sizes of nothing, and metrics that are not there."""
    with pytest.raises(CorpusError, match=r"no task 'planted_choise'.*planted_choice"):
        evaluate_with_harness(HuggingFaceModel(loaded), ["planted_choise"], {}, options=options(folder))
    with pytest.raises(CorpusError, match="name at least one"):
        evaluate_with_harness(HuggingFaceModel(loaded), [], {}, options=options(folder))
    with pytest.raises(PlanError, match="'baseline'"):
        evaluate_with_harness(HuggingFaceModel(loaded), ["planted_choice"], {"baseline": plan_for(loaded, 0)})
    with pytest.raises(ModelError, match="served by vLLM; found str"):
        evaluate_with_harness("a model", ["planted_choice"], {})
    for fields in ({"limit": 0}, {"batch_size": "auto"}):
        with pytest.raises(RunError, match="at least 1"):
            HarnessOptions(**fields)


def test_a_comparison_needs_the_metric_in_every_task(result):
    """The message names the metrics there are."""
    with pytest.raises(RunError, match=r"the metrics are acc,none, exact_match,none"):
        result.compare("f1,none")
    with pytest.raises(RunError, match="expected it in"):
        result.compare("acc,none", tasks={"planted_choice": "deu_Latn", "planted_deu_Latn": "swh_Latn"})


@pytest.mark.parametrize(("reported", "kept"), [(0.5, True), (0.75, False), (None, False)])
def test_values_count_only_where_their_mean_is_what_the_harness_reports(reported, kept):
    """A metric that the harness aggregates otherwise, such as a median or a corpus score, is no mean of documents."""
    samples = [{"filter": "none", "f1": value} for value in (0.0, 1.0)] + [{"filter": "other", "f1": 7.0}]
    log = {"samples": {"task": samples}, "results": {"task": {"f1,none": reported}}}
    found = harness._values(log, "task", "f1", "none")
    assert (found is not None) == kept
    if found is not None:
        assert found.tolist() == [0.0, 1.0]
