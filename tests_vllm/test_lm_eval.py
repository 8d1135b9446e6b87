"""Tasks of lm-evaluation-harness on vLLM: the same questions, tokens, answers and scores as on transformers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is an optional extra")

from harness_tasks import no_hub

from engines import Engines
from isogloss.backends import open as opening
from isogloss.backends.open import load
from isogloss.cli import main
from isogloss.errors import ModelError, PlanError, RunError
from isogloss.evaluation import harness, harness_vllm
from isogloss.evaluation.harness import HarnessOptions, evaluate_with_harness
from isogloss.evaluation.summarise import compare_folders
from isogloss.evaluation.tasks import load_task
from isogloss.steering import Intervention, Plan, random_control, write_plan
from isogloss.workflows import lm_eval

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports, which are not ours

OPTIONS = {"max_model_len": 384, "max_num_seqs": 8, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**26}
LANGUAGES = ("eng_Latn", "swh_Latn")
N_ITEMS = 6

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
"""
CHOICE = """
doc_to_choice: "{{options}}"
doc_to_target: right
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
GENERATE = """
doc_to_target: reference
generation_kwargs: {how}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
GREEDY = '{until: ["\\n\\n", "+"], do_sample: false, max_gen_toks: 24}'
OTHER = {
    "few": '{until: ["\\n"], max_gen_toks: 3, num_beams: 1}',
    "end": "{max_gen_toks: 24, until: []}",
    "drawn": '{until: ["\\n"], do_sample: true, temperature: 1.5, top_p: 0.95, max_gen_toks: 8}',
    "beams": '{until: ["\\n"], num_beams: 4, max_gen_toks: 8}',
    "long": '{until: ["\\n"], max_gen_toks: 400}',
}
EQUAL = ("x_eng_Latn", "x_swh_Latn", "choice", "empty", "rolling", "few", "end")  # what both engines can do


def rows(language):
    """Problems in one language, with wrong worked answers beside the right one."""
    for item in load_task("organism:reference", languages=[language], n_items=N_ITEMS).items[language]:
        options = [item.reference, item.reference[::-1], f" {item.reference[:4]}", "7"]
        yield {"prompt": item.prompt, "reference": item.reference, "options": options, "right": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks as the harness reads them, their data in local files."""
    folder = tmp_path_factory.mktemp("tasks")
    file = {language: folder / f"{language}.jsonl" for language in LANGUAGES}
    for language, path in file.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(language)), encoding="utf-8")

    def write(name, kind, rest, language="swh_Latn", text=None):
        head = TASK.format(name=name, file=file[language], kind=kind)
        head = head if text is None else head.replace('"{{prompt}}"', text)
        (folder / f"{name}.yaml").write_text(head + rest, encoding="utf-8")

    for language in LANGUAGES:
        write(f"x_{language}", "generate_until", GENERATE.format(how=GREEDY), language)
    for name, how in OTHER.items():
        write(name, "generate_until", GENERATE.format(how=how) + ("repeats: 2\n" if name == "drawn" else ""))
    write("choice", "multiple_choice", CHOICE)
    write("empty", "multiple_choice", CHOICE + 'target_delimiter: ""\n', text='""')
    rolling = 'doc_to_target: "{{prompt}}{{reference}}"\nmetric_list:\n  - {metric: bits_per_byte}\n'
    write("rolling", "loglikelihood_rolling", rolling, text='""')
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_hub(tmp_path_factory):
    """Data sets are read from files alone, and cached here."""
    with no_hub(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def both(engines):
    """The organism under vLLM and under transformers."""
    engines.free()
    options = {**OPTIONS, "enforce_eager": True, "use_tqdm_on_load": False}
    served = load("organism", backend="vllm", engine=options)
    yield SimpleNamespace(served=served, loaded=load("organism"))
    owner = Engines()  # gives everything back
    owner._llm = served.served.engine
    owner.free()


def make_plan(both, **fields):
    """A plan that changes many choices."""
    layers = both.served.fingerprint.layers[1:9]
    return Plan(both.served.fingerprint, tuple(Intervention("force", layer, (1, 4), **fields) for layer in layers))


def run(model, tasks, folder, plan=None, **fields):
    """The harness's logs by task."""
    options = HarnessOptions(include_path=folder, builtin=False, **{"batch_size": 4} | fields)
    return harness._Harness(model, tuple(tasks), options).run(plan)


def answers(log, task):
    """What was found for each request of a task's documents."""
    return [response for sample in log["samples"][task] for responses in sample["resps"] for response in responses]


@pytest.mark.parametrize("steered", [False, True])
def test_samples_are_those_of_transformers(both, folder, steered):
    """Every request, every answer, every log-likelihood up to rounding, and every score of a document."""
    plan = make_plan(both) if steered else None
    found, expected = (run(model, EQUAL, folder, plan) for model in (both.served, both.loaded))
    assert found["samples"].keys() == expected["samples"].keys() == set(EQUAL)
    for task in EQUAL:
        pairs = list(zip(found["samples"][task], expected["samples"][task], strict=True))
        assert len(pairs) == N_ITEMS
        assert all(harness._asked(mine) == harness._asked(theirs) for mine, theirs in pairs)
        for mine, theirs in zip(answers(found, task), answers(expected, task), strict=True):
            if isinstance(theirs, tuple):
                assert (float(mine[0]), str(mine[1])) == (pytest.approx(float(theirs[0]), abs=2e-4), str(theirs[1]))
            else:
                assert mine == (theirs if isinstance(theirs, str) else pytest.approx(theirs, abs=2e-4))
        for metric in ("acc", "acc_norm", "exact_match"):
            assert [mine.get(metric) for mine, _ in pairs] == [theirs.get(metric) for _, theirs in pairs]
    assert any(answer and "+" not in answer for answer in answers(found, "x_swh_Latn"))
    if steered:
        plain = run(both.served, EQUAL, folder)
        assert all(answers(plain, task) != answers(found, task) for task in EQUAL)


def test_scores_and_changes_are_those_of_transformers(both, folder):
    """All arms in one engine: paired values by document, with the same shares of changed choices; no plan stays."""
    plan = make_plan(both)
    arms = {"plan": plan, "random": random_control(plan, seed=0)}
    options = HarnessOptions(include_path=folder, builtin=False, batch_size=3)
    found, expected = (
        evaluate_with_harness(model, ["x_swh_Latn", "choice", "rolling"], arms, options=options)
        for model in (both.served, both.loaded)
    )
    mine, theirs = ({**result.to_json(), "changed": None} for result in (found, expected))
    assert mine == theirs
    assert {each.metric for each in found.scores} == {"acc,none", "acc_norm,none", "exact_match,none"}
    assert found.left_out == ("rolling: bits_per_byte,none",)
    for arm, shares in found.changed.items():
        assert shares == pytest.approx(expected.changed[arm], abs=0.02)
        assert all(shares[layer] > 0.3 for layer in arms[arm].layers)
    assert both.served.served.call("isogloss_status")[0]["plan_sha256"] is None


@pytest.mark.parametrize("phase", ["prompt", "generation"])
def test_what_is_measured_after_a_prompt_is_of_the_generation(both, folder, phase):
    """Under a plan by phase, log-likelihoods are those of our own tasks; texts without a prompt are refused."""
    plan = make_plan(both, phase=phase)
    found = run(both.served, ["choice"], folder, plan)["samples"]["choice"]
    asked = [arguments for sample in found for arguments in sample["arguments"]]
    # The harness moves white space at the end of a prompt to what it measures.
    pairs = [(prompt.rstrip(), prompt[len(prompt.rstrip()) :] + option) for prompt, option in asked]
    with both.served.steer(plan):
        ours = both.served.log_likelihoods(pairs, add_special_tokens=True)
    measured = [float(responses[0][0]) for sample in found for responses in sample["resps"]]
    assert measured == pytest.approx([each.nats for each in ours], abs=1e-5)
    both_phases = run(both.served, ["choice"], folder, make_plan(both))["samples"]["choice"]
    assert measured != pytest.approx(
        [float(responses[0][0]) for sample in both_phases for responses in sample["resps"]], abs=1e-2
    )
    options = HarnessOptions(include_path=folder, builtin=False, limit=2)
    evaluate_with_harness(both.served, ["choice", "few"], {"plan": plan}, options=options)
    with pytest.raises(PlanError, match="which tokens of rolling are an answer"):
        evaluate_with_harness(both.served, ["choice", "rolling"], {"plan": plan}, options=options)


def test_draws_depend_on_the_prompt_and_its_turn_alone(both, folder):
    """Batches change nothing, repeats of a prompt differ, and another run draws the same."""
    found = [answers(run(both.served, ["drawn"], folder, batch_size=size), "drawn") for size in (1, 5)]
    assert found[0] == found[1]
    assert len(found[0]) == 2 * N_ITEMS
    assert len(set(found[0])) > N_ITEMS


@pytest.mark.parametrize(("task", "message"), [("beams", "generates with num_beams"), ("long", "need a context of")])
def test_what_vllm_would_not_do_is_refused(both, folder, task, message):
    """Nothing is answered otherwise than transformers would."""
    with pytest.raises(RunError, match=message):
        run(both.served, [task], folder)


def test_an_engine_that_returns_no_log_probabilities_of_the_model_is_refused(both, folder, monkeypatch):
    """Such as logits."""
    monkeypatch.setattr(both.served.served.engine.model_config, "logprobs_mode", "raw_logits")
    with pytest.raises(ModelError, match="returns raw_logits"):
        run(both.served, ["choice"], folder)


def test_a_stop_that_only_the_engine_sees_ends_nothing(both, folder, monkeypatch):
    """Where the harness does not find the stop in the answer, it gets the whole answer."""
    expected = answers(run(both.loaded, ["few"], folder), "few")
    real = harness_vllm._written

    def early(outputs):
        new, stops = real(outputs)
        return ([ids[:1] for ids in new], ["absent"] * len(new)) if len(new) > 1 else (new, stops)

    monkeypatch.setattr(harness_vllm, "_written", early)
    assert answers(run(both.served, ["few"], folder, batch_size=6), "few") == expected


def test_the_command_is_that_of_transformers(both, folder, tmp_path, capsys, monkeypatch):
    """One engine for all arms, told in the record; a finished one runs nothing; engines are never mixed."""
    path, started = tmp_path / "plan.json", []

    def start(name, **how):
        started.append((name, how))
        return both.served

    monkeypatch.setattr(
        opening, "load", lambda name, **how: start(name, **how) if how["backend"] == "vllm" else load(name)
    )
    write_plan(make_plan(both), path)
    given = ["evaluate", "organism", "--plan", path, "--task", "lm-eval:x_eng_Latn,x_swh_Latn", "--include-path"]
    given = [str(each) for each in [*given, folder, "--items", 4, "--batch-size", 2]]
    vllm = ["--backend", "vllm", "--engine", "max_model_len=384", "-o", str(tmp_path / "vllm")]
    assert main([*given, *vllm]) == 0
    assert main([*given, "-o", str(tmp_path / "huggingface")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]
    ((name, how),) = started
    assert (name, how["engine"]) == ("organism", {"max_model_len": 384})
    found, expected = (
        json.loads((tmp_path / engine / "summary.json").read_text()) for engine in ("vllm", "huggingface")
    )
    assert (found.pop("engine"), expected.pop("engine")) == ("vllm", "huggingface")
    for summary in (found, expected):
        del summary["changed_choices"]
    assert found == expected
    assert found["arms"]["plan"] != found["arms"]["baseline"]
    assert set(found["arms"]) == {"baseline", "plan", "random-0"}
    settings = json.loads((tmp_path / "vllm" / "settings.json").read_text())
    assert settings["kernels"]["enforce_eager"] is True
    with pytest.raises(RunError, match=r"has engine 'vllm' and .* has 'huggingface'; one comparison never mixes them"):
        compare_folders(tmp_path / "vllm", tmp_path / "huggingface")
    assert main([*given, "-o", str(tmp_path / "vllm")]) == 2
    monkeypatch.setattr(lm_eval, "evaluate_with_harness", None)
    assert main([*given, *vllm, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "vllm"
