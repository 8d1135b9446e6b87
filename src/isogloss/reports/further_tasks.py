"""The section on further tasks that the same plan was evaluated on: one row per task and arm."""

from __future__ import annotations

from collections.abc import Sequence

from isogloss.evaluation import EvaluationSummary
from isogloss.reports.figures import Section, Table
from isogloss.reports.metrics import Metric, arm_text
from isogloss.reports.text import MISSING, plain


def further_tasks_section(summaries: Sequence[EvaluationSummary]) -> Section:
    """Describe what the plan and its arms changed on every further task, mean over its languages."""
    rows = []
    for summary in summaries:
        metric = Metric.of(summary)
        for arm, comparison in summary.compared.items():
            overall = comparison.overall
            rows.append(
                (
                    plain(summary.task),
                    plain(arm_text(arm)),
                    metric.name,
                    overall.baseline.text(metric.value),
                    overall.steered.text(metric.value),
                    overall.difference.text(metric.change),
                    summary.guard_verdict(arm) or MISSING,
                )
            )
    header = ("task", "arm", "metric", "without a plan", "with it", "difference", "pivot guard")
    caption = "Unweighted mean over the task's languages; 95 % intervals over languages and items."
    table = Table("Further tasks", caption, header, rows, text_columns=(0, 1, 2, 6), folded=False)
    return Section("further-tasks", "The same plan on further tasks", (), [table])
