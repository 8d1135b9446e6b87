"""Runs tasks of lm-evaluation-harness under several arms, and pairs what it logs about each document.

The harness builds prompts, runs the model in its own batches and scores; here only the model is steered meanwhile. So
a task is exactly the published one. Its results are aggregates without pairing: two arms are compared by the values of
single documents instead, after every prompt of both was found to be the same.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from isogloss.backends.model import Model
from isogloss.errors import CorpusError, PlanError, RunError
from isogloss.evaluation.arms import BASELINE
from isogloss.evaluation.harness_vllm import served_lm
from isogloss.evaluation.paired import Better, Comparison, compare_arms
from isogloss.evaluation.scores import FloatArray
from isogloss.steering import Plan

__all__ = ["HarnessOptions", "HarnessResult", "HarnessScores", "evaluate_with_harness", "require_harness"]

_PROBES = 4  # documents of each task on which a plan must change some choice
_ROUNDING = 1e-6  # between the harness's mean and ours


@dataclass(frozen=True)
class HarnessOptions:
    """How the harness runs its tasks; the same in every arm.

    Attributes:
        limit: first documents of each task to keep; None for all.
        include_path: folder with tasks of one's own.
        builtin: whether tasks that come with the harness are known too; finding them takes seconds.
        num_fewshot: examples in the prompt; None for what each task says.
        batch_size: prompts per forward, at least 1. Fixed: the harness's search for a size could end otherwise in
            another arm. 1 is used for families in which padding on the left changes answers.
        chat: whether prompts go through the tokenizer's chat template.
        generation: options of generation that replace the tasks' own, such as ``{"max_gen_toks": 32}``.
    """

    limit: int | None = None
    include_path: Path | None = None
    builtin: bool = True
    num_fewshot: int | None = None
    batch_size: int = 16
    chat: bool = False
    generation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise RunError(f"{name} is {value!r}; expected a whole number of at least 1")


@dataclass(frozen=True)
class HarnessScores:
    """One metric of one task, document by document.

    Attributes:
        task: name in the harness.
        metric: name and filter as the harness writes them, such as ``acc,none`` or ``exact_match,flexible-extract``.
        better: which values are better.
        documents: positions in the task's data set, in order.
        values: arm to ``[n_documents]`` values; ``baseline`` among them.
    """

    task: str
    metric: str
    better: Better
    documents: tuple[int, ...]
    values: Mapping[str, FloatArray]


@dataclass(frozen=True)
class HarnessResult:
    """What the harness found in every arm.

    Attributes:
        scores: one per task and metric, by task, then metric.
        left_out: ``TASK: METRIC`` of metrics that are no mean of values of single documents (perplexity, corpus BLEU).
        changed: arm to decoder layer to the share of tokens whose chosen experts the plan changes, on the first
            prompts of every task.
        versions: task to its version in the harness.
        harness: version of the harness.
    """

    scores: tuple[HarnessScores, ...]
    left_out: tuple[str, ...]
    changed: Mapping[str, Mapping[int, float]]
    versions: Mapping[str, Any]
    harness: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, sorted."""
        return tuple(sorted({scores.metric for scores in self.scores}))

    def compare(self, metric: str, *, tasks: Mapping[str, str] | None = None, seed: int = 0) -> dict[str, Comparison]:
        """Compare every arm with the baseline in one metric.

        Args:
            metric: as in ``metrics``.
            tasks: those to compare, each with the name it has in the comparison, such as its language; None for all
                that have the metric, under their own names. Tasks take the place that languages have elsewhere.
            seed: of the bootstrap.

        Returns:
            Arm to `Comparison`; ``per_language`` is by task.

        Raises:
            RunError: no task has the metric, a task lacks it, two have one name, or they differ in which values are
                better.
        """
        found = {scores.task: scores for scores in self.scores if scores.metric == metric}
        names = dict.fromkeys(found) if tasks is None else tasks
        chosen = {names[task] or task: found[task] for task in names if task in found}
        if not chosen or len(chosen) < len(names) or len({scores.better for scores in chosen.values()}) > 1:
            raise RunError(
                f"metric {metric!r} is ambiguous between {sorted(found)}; expected it in {sorted(names)}, each under "
                f"its own name and with the same direction; the metrics are {', '.join(self.metrics)}"
            )
        arms: dict[str, dict[str, FloatArray]] = {}
        for name, scores in chosen.items():
            for arm, values in scores.values.items():
                arms.setdefault(arm, {})[name] = values
        baseline, better = arms.pop(BASELINE), next(iter(chosen.values())).better
        return compare_arms(baseline, arms, better=better, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON types, values included."""
        return {
            "scores": [
                {
                    "task": scores.task,
                    "metric": scores.metric,
                    "better": scores.better,
                    "documents": list(scores.documents),
                    "values": {arm: values.tolist() for arm, values in scores.values.items()},
                }
                for scores in self.scores
            ],
            "left_out": list(self.left_out),
            "changed": {arm: {str(layer): share for layer, share in by.items()} for arm, by in self.changed.items()},
            "versions": dict(self.versions),
            "harness": self.harness,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Build from `to_json`'s output.

        Raises:
            RunError: a field is missing or has another form.
        """
        try:
            scores = tuple(
                HarnessScores(
                    each["task"],
                    each["metric"],
                    each["better"],
                    tuple(each["documents"]),
                    {arm: np.array(values, dtype=np.float64) for arm, values in each["values"].items()},
                )
                for each in raw["scores"]
            )
            changed = {arm: {int(k): float(share) for k, share in by.items()} for arm, by in raw["changed"].items()}
            return cls(scores, tuple(raw["left_out"]), changed, dict(raw["versions"]), str(raw["harness"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"these are no results of lm-eval ({error!r}); run `isogloss evaluate` again") from error


def evaluate_with_harness(
    model: Model,
    tasks: Sequence[str],
    arms: Mapping[str, Plan],
    *,
    options: HarnessOptions | None = None,
) -> HarnessResult:
    """Run tasks of lm-evaluation-harness unsteered and under every plan.

    The harness runs on the loaded model itself. It seeds the random generators of Python, NumPy and torch with its own
    seeds before every arm, so that sampled answers of two arms differ by the plan alone. vLLM's draws have seeds of
    their own, which depend on the prompt and on how often it was asked.

    Args:
        model: unsteered.
        tasks: names of tasks, groups or tags of the harness, such as ``mgsm_direct`` or ``belebele_swh_Latn``.
        arms: name to plan; ``baseline`` (no plan) is added and run first.
        options: how the tasks are run.

    Raises:
        CorpusError: the harness is not installed, or has no such task.
        ModelError: vLLM would not answer as transformers does.
        PlanError: an arm is called ``baseline``; a plan belongs to another model, has conditions on languages, changes
            no chosen expert on the tasks' own prompts, or has conditions on phases where a task generates nothing; vLLM
            reads what is measured after a prompt as generated, and refuses such plans for whole texts alone.
        RunError: two arms did not see the same documents and prompts; or vLLM has no room for a text, or would not
            generate as a task says.
    """
    if BASELINE in arms:
        raise PlanError(f"an arm is called {BASELINE!r}, which is the unsteered model; give it another name")
    if conditional := sorted(arm for arm, plan in arms.items() if plan.languages):
        raise PlanError(
            f"arms {', '.join(conditional)} have rules for some languages alone, and the harness does not say in which "
            "language it asks; evaluate the rules of one language at a time: a plan made without --for-languages"
        )
    options = options or HarnessOptions()
    harness = _Harness(model, tuple(tasks), options)
    logs = {BASELINE: harness.run(None)}
    changed = {arm: _effect(model, plan, logs[BASELINE], chat=options.chat) for arm, plan in arms.items()}
    for arm, plan in arms.items():
        logs[arm] = harness.run(plan)
        _require_same(logs[BASELINE], logs[arm], arm)
    scores, left_out = _collect(logs)
    return HarnessResult(scores, left_out, changed, dict(logs[BASELINE]["versions"]), harness.version)


def require_harness() -> None:
    """Raise a `CorpusError` where lm-evaluation-harness is not installed."""
    if missing := [name for name in ("lm_eval", "accelerate") if importlib.util.find_spec(name) is None]:
        raise CorpusError(
            f"tasks of lm-evaluation-harness need {' and '.join(missing)}; run: pip install isogloss[lm-eval]"
        )


class _Harness:
    """The installed harness with a model and tasks."""

    def __init__(self, model: Model, tasks: tuple[str, ...], options: HarnessOptions) -> None:
        require_harness()
        import lm_eval  # noqa: PLC0415 - an optional extra
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - as above

        path = options.include_path
        self.tasks = TaskManager(include_path=None if path is None else str(path), include_defaults=options.builtin)
        _require_known(tasks, self.tasks.all_tasks)
        self.model, self.names, self.options = model, tasks, options
        self.evaluate, self.version = lm_eval.simple_evaluate, str(lm_eval.__version__)

    def run(self, plan: Plan | None) -> dict[str, Any]:
        """Run all tasks; the model wrapper is made anew, so that nothing of an earlier arm is kept."""
        options = self.options
        with self.model.steer(plan) if plan is not None else nullcontext():
            found = self.evaluate(
                model=self._model(),
                tasks=list(self.names),
                limit=options.limit,
                num_fewshot=options.num_fewshot,
                apply_chat_template=options.chat,
                gen_kwargs=dict(options.generation) if options.generation else None,
                task_manager=self.tasks,
                bootstrap_iters=0,
                log_samples=True,
            )
        if found is None:
            raise RunError("the harness returned no results; run it as a single process")
        results: dict[str, Any] = dict(found)
        return results

    def _model(self) -> Any:  # noqa: ANN401 - the harness has no types
        """Make what the harness asks."""
        model: Any = self.model
        size = self.options.batch_size
        if model.backend == "vllm":
            return served_lm(model.served, batch_size=size)
        from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - an optional extra

        return HFLM(
            pretrained=model.loaded.model,
            tokenizer=model.tokenizer,
            backend="causal",
            batch_size=size if model.loaded.family.left_padding else 1,
        )


def _require_known(tasks: Sequence[str], known: Sequence[str]) -> None:
    for name in tasks:
        if name not in known:
            close = ", ".join(difflib.get_close_matches(name, known, n=4)) or "none that is similar"
            raise CorpusError(f"lm-evaluation-harness has no task {name!r}; it has {close}: see `lm_eval ls tasks`")
    if not tasks:
        raise CorpusError("no task of lm-evaluation-harness was named; name at least one")


def _effect(model: Model, plan: Plan, log: Mapping[str, Any], *, chat: bool) -> Mapping[int, float]:
    """Measure what a plan changes on the first prompts of every task; refuse no effect, and what cannot be steered."""
    if plan.by_phase and (unable := _without_phases(model, log)):
        raise PlanError(
            f"the plan edits prompt and generation differently, but the harness does not say which tokens of "
            f"{', '.join(unable)} are an answer; use tasks that generate, or a plan without conditions on phases"
        )
    probes = []
    for samples in log["samples"].values():
        first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]][:_PROBES]
        texts = ("".join(part for part in sample["arguments"][0] if isinstance(part, str)) for sample in first)
        probes += [text for text in texts if text.strip()]
    change = model.change(plan, probes, add_special_tokens=not chat)
    change.require(plan)
    return change.changed


def _without_phases(model: Model, log: Mapping[str, Any]) -> list[str]:
    """Name the tasks in which it is not known which tokens are of a prompt and which of an answer."""
    types = {task: config.get("output_type") for task, config in log["configs"].items()}
    if model.backend == "vllm":
        return [task for task, kind in types.items() if kind == "loglikelihood_rolling"]
    return [task for task, kind in types.items() if kind != "generate_until"]


class _Asked(NamedTuple):
    """What identifies a logged sample: the filter of its answer, the document, and the hash of all its requests."""

    filter: str
    document: int
    sha256: str


def _asked(sample: Mapping[str, Any]) -> _Asked:
    content = [sample["doc_hash"], sample["target_hash"], sample["arguments"]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    return _Asked(str(sample["filter"]), int(sample["doc_id"]), digest.hexdigest())


def _require_same(baseline: Mapping[str, Any], steered: Mapping[str, Any], arm: str) -> None:
    """Refuse logs of other documents or prompts."""
    if list(baseline["samples"]) != list(steered["samples"]):
        raise RunError(f"arm {arm} ran tasks {list(steered['samples'])}; expected {list(baseline['samples'])}")
    for task, samples in baseline["samples"].items():
        before, after = ([_asked(sample) for sample in log] for log in (samples, steered["samples"][task]))
        if before != after:
            odd = next((a.document for a, b in zip(before, after, strict=False) if a != b), "the number of documents")
            raise RunError(
                f"task {task}: arm {arm} was asked something else than the baseline (document {odd}); their answers "
                "cannot be paired: does the task draw its prompts at random without a seed?"
            )


def _collect(logs: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[HarnessScores, ...], tuple[str, ...]]:
    scores, left_out = [], []
    baseline = logs[BASELINE]
    for task, samples in sorted(baseline["samples"].items()):
        for name in sorted({(metric, sample["filter"]) for sample in samples for metric in sample["metrics"]}):
            metric = ",".join(name)
            values = {arm: _values(log, task, *name) for arm, log in logs.items()}
            kept = {arm: value for arm, value in values.items() if value is not None}
            if len(kept) < len(logs):
                left_out.append(f"{task}: {metric}")
                continue
            documents = tuple(int(sample["doc_id"]) for sample in samples if sample["filter"] == name[1])
            higher = baseline["higher_is_better"].get(task, {}).get(name[0])
            scores.append(HarnessScores(task, metric, "lower" if higher is False else "higher", documents, kept))
    return tuple(scores), tuple(left_out)


def _values(log: Mapping[str, Any], task: str, metric: str, of_filter: str) -> FloatArray | None:
    """Read a metric off the documents; None where their mean is not what the harness reports, or there is none."""
    found = [sample.get(metric) for sample in log["samples"][task] if sample["filter"] == of_filter]
    if not all(isinstance(value, int | float | np.number | np.bool_) and math.isfinite(value) for value in found):
        return None
    values = np.array(found, dtype=np.float64)
    reported = log["results"][task].get(f"{metric},{of_filter}")
    if not isinstance(reported, int | float) or abs(float(values.mean()) - reported) > _ROUNDING:
        return None
    return values
