"""Puts what a study measured beside the numbers of its paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from isogloss.analysis import Analysis
from isogloss.evaluation import AblationResult, EvaluationSummary
from isogloss.languages import resolve
from isogloss.reports import Condition, Published, PublishedComparison, PublishedRow, Quantity
from isogloss.reports.metrics import Metric
from isogloss.runs import Run
from isogloss.statistics import Estimate
from isogloss.workflows.study.settings import Study

__all__ = ["compare_with_published"]

_OF_BANS = {"banned loss": "own", "other loss": "others", "banned beyond other loss": "beyond_others"}
_SETTING_OF = {"model": "model", "dtype": "dtype", "layers": "layers", "engine": "backend"}


def compare_with_published(
    study: Study,
    recipe: Study | None,
    runs: tuple[Run, Run | None],
    analysis: Analysis,
    evaluation: EvaluationSummary | None,
    ablation: AblationResult | None = None,
) -> PublishedComparison | None:
    """Compare a study with its published numbers; None where it names none and no conditions.

    Args:
        study: as it ran.
        recipe: as it ships, where the study came from one; what was set otherwise is a condition that differs.
        runs: of the generic texts, and of the task's.
        analysis: of the first.
        evaluation: of the first task; None where nothing was steered.
        ablation: of the study's bands, where it has some.
    """
    if not (study.published or study.conditions or study.remarks):
        return None
    measured = _measured(study, analysis, evaluation)
    rows = [_row(each, measured, ablation) for each in study.published]
    conditions = [*_stated(study, runs, _evaluated(evaluation, ablation)), *_reset(study.without_folders(), recipe)]
    return PublishedComparison(tuple(rows), tuple(conditions), study.remarks)


def _row(
    each: Published, measured: Mapping[Quantity, Estimate | None], ablation: AblationResult | None
) -> PublishedRow:
    """Put a published result beside the measured one."""
    found, where = measured.get(each.quantity), ""
    if each.quantity in _OF_BANS and ablation is not None:
        found, where = _of_band(each, ablation)
    difference = None if found is None or each.words else _minus(found, each.value)
    return PublishedRow(each.quantity, each.value, found, difference, each.source, each.words, where)


def _of_band(each: Published, ablation: AblationResult) -> tuple[Estimate | None, str]:
    """Return the loss that is meant, in points of a share or the metric's unit, and where it was measured."""
    tasks = ablation.families.tasks
    task = tasks[each.task] if each.task < len(tasks) else None
    if task is None:
        return None, f"{each.band} layers"
    metric = Metric.named(task.metric if each.measure == "score" else each.measure)
    where = f"{each.band} layers, {task.name}, {metric.name}"
    meant = (each.band, task.name, each.measure)
    loss = next((one for one in ablation.bands if (one.band, one.task, one.measure) == meant), None)
    if loss is None:
        return None, where
    found: Estimate = getattr(loss, _OF_BANS[each.quantity])
    return (found.scaled(metric.factor) if found.is_known and not loss.too_few else None), where


def _measured(
    study: Study, analysis: Analysis, evaluation: EvaluationSummary | None
) -> Mapping[Quantity, Estimate | None]:
    measured: dict[Quantity, Estimate | None] = {}
    if evaluation is not None:
        overall, factor = evaluation.overall_these_languages, evaluation.factor
        measured |= {
            "baseline": overall.baseline.scaled(factor),
            "steered": overall.steered.scaled(factor),
            "gain": overall.difference.scaled(factor),
        }
        pivot = evaluation.per_language.get(resolve(study.pivot))
        measured["pivot change"] = None if pivot is None else pivot.difference.scaled(factor)
        n_experts = evaluation.n_experts.get("plan")
        measured["experts"] = None if n_experts is None else Estimate.without_interval(n_experts, 1)
    middle = analysis.middle if analysis.has_middle else (analysis.layers[0], analysis.layers[-1])
    inside = study.decoder_layers or middle
    pairs = zip(analysis.layers, analysis.correlation, strict=False)
    pearson = [each.pearson for layer, each in pairs if inside[0] <= layer <= inside[1]]
    if pearson:
        measured["lowest correlation"] = min(pearson, key=lambda each: each.value)
        measured["highest correlation"] = max(pearson, key=lambda each: each.value)
    return measured


def _minus(estimate: Estimate, value: float) -> Estimate:
    return replace(estimate, value=estimate.value - value, low=estimate.low - value, high=estimate.high - value)


def _evaluated(evaluation: EvaluationSummary | None, ablation: AblationResult | None) -> Mapping[str, int]:
    """Return the number of items of the first task, by language; none where nothing was evaluated."""
    if evaluation is not None:
        return evaluation.n
    if ablation is not None:
        first = ablation.families.tasks[0]
        return dict.fromkeys(first.languages, len(first.item_ids))
    return {}


def _stated(study: Study, runs: tuple[Run, Run | None], n_items: Mapping[str, int]) -> Iterator[Condition]:
    """Yield the conditions that the paper states, with those here; a name that we do not measure is left as stated."""
    run, task_run = runs
    manifest = run.manifest
    here = {
        "model": manifest.model,
        "engine": manifest.backend,
        "dtype": manifest.dtype,
        "generic items": str(len(manifest.item_ids)),
        "task texts": "0" if task_run is None else str(len(task_run.manifest.item_ids)),
        "layers": "found by the analysis" if study.layers is None else f"{study.layers[0]}-{study.layers[1]}",
        "languages captured": str(len(run.languages)),
    }
    if n_items:
        counts = sorted(set(n_items.values()))
        here["items per language"] = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        here["languages evaluated"] = str(len(n_items))
    for name, published in study.conditions.items():
        yield Condition(name, published, here.get(name, "not measured"))


def _reset(study: Study, recipe: Study | None) -> Iterator[Condition]:
    """Yield what was set otherwise than in the recipe, apart from what `_stated` compares anyway."""
    stated = {_SETTING_OF[name] for name in study.conditions if name in _SETTING_OF}
    for name, (theirs, ours) in (study.changed_from(recipe) if recipe else {}).items():
        if name not in stated:
            yield Condition(f"setting {name}", _short(theirs), _short(ours))


def _short(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_short(each)}" for name, each in value.items()) or "none"
    return str(value) if value not in ("", None) else "none"
