"""What an adapter's bound in nats costs in accuracy, in docs/findings.md: the curve of `isogloss adapt`, both ways.

``python docs/findings_bound.py [WORK]``, or ``make findings-bound``, rewrites the section alone. Dev items only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import spearmanr

from findings_page import arguments, points, rewrite
from isogloss.backends.model import Model
from isogloss.backends.open import load
from isogloss.evaluation import AskedTask, answer_items, ask, compare_scores, load_task
from isogloss.languages import display_name
from isogloss.learning import AdaptOptions, adapt_plan
from isogloss.learning.adapt_records import ADAPT_REPORT, AdaptReport
from isogloss.organism import learned_plan_file
from isogloss.statistics import Estimate
from isogloss.steering import RouterAdapter, read_adapter, read_plan
from isogloss.workflows import open_corpus
from markdown_parts import table

__all__ = ["Setting", "section", "verdict"]

HEAD = "## What an adapter's bound means in accuracy"
N_ITEMS, N_DEV, BATCH = 100, 100, 64
RIDGES = (1e-3, 1e-1)
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NO_BOUND = 1e6
BOUND = AdaptOptions().bound


@dataclass(frozen=True)
class Setting:
    """One ridge and strength.

    Attributes:
        ridge: as a multiple of the mean diagonal.
        strength: factor on the plan's offsets.
        moved: protected language to the divergence of its next token, in nats per token.
        targets: change of the accuracy of the plan's languages, mean over them.
        protected: the same of the protected languages.
        each: protected language to its change.
    """

    ridge: float
    strength: float
    moved: Mapping[str, float]
    targets: Estimate
    protected: Estimate
    each: Mapping[str, float]

    @property
    def largest(self) -> float:
        """What `isogloss adapt` bounds."""
        return max(self.moved.values())


def adapters(model: Model, kept: Path) -> Iterator[tuple[RouterAdapter, AdaptReport]]:
    """Fit an adapter of strength 1 for every ridge, with the divergence at every strength."""
    plan, corpus = read_plan(learned_plan_file()), open_corpus("organism:problems", n_items=N_ITEMS)
    for ridge in RIDGES:
        out = kept / f"ridge-{ridge:g}"
        if not out.is_dir():
            adapt_plan(
                model, plan, corpus, out=out, options=AdaptOptions(ridges=(ridge,), strengths=STRENGTHS, bound=NO_BOUND)
            )
        adapter, report = read_adapter(out), AdaptReport.read(out / ADAPT_REPORT)
        yield adapter.scaled(1 / adapter.scale), report


def answered(asked: AskedTask, adapter: RouterAdapter | None, folder: Path) -> dict[str, list[float]]:
    """Answer the dev problems of every language; what was answered before is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        code: [
            record.value
            for record in answer_items(
                asked, adapter, code, folder / f"{code}.jsonl", batch_size=BATCH, progress=lambda _: None
            )
        ]
        for code in asked.questions
    }


def settings(kept: Path) -> list[Setting]:
    """Measure every ridge and strength."""
    model = load("organism")
    asked = ask(model, load_task("organism", split="dev", n_items=N_DEV))
    assert isinstance(asked, AskedTask)  # noqa: S101 - of a Task
    before = answered(asked, None, kept / "baseline")
    found = []
    for adapter, report in adapters(model, kept):
        for point in report.curve:
            after = answered(asked, adapter.scaled(point.strength), kept / f"{point.ridge:g}-{point.strength:g}")
            targets, protected = (
                compare_scores(*({code: np.array(each[code]) for code in codes} for each in (before, after)))
                for codes in (report.targets, report.protected)
            )
            each = {code: row.difference.value for code, row in protected.per_language.items()}
            means = targets.overall.difference, protected.overall.difference
            found.append(Setting(point.ridge, point.strength, dict(point.moved), *means, each))
    return found


def signed(share: float) -> str:
    """Write a change of a share in points."""
    return f"{100 * share:+.1f}"


def setting_table(found: Sequence[Setting]) -> str:
    """One row per setting, from the least divergence to the largest."""
    rows = []
    for each in found:
        worst = min(each.each, key=each.each.__getitem__)
        rows.append(
            (
                f"{each.largest:.4f} ({display_name(max(each.moved, key=each.moved.__getitem__))})",
                f"{fmean(each.moved.values()):.4f}",
                f"{each.ridge:g}",
                f"{each.strength:g}",
                points(each.protected),
                f"{display_name(worst)} {signed(each.each[worst])}",
                points(each.targets),
            )
        )
    columns = (
        "Largest divergence",
        "Mean",
        "Ridge",
        "Strength",
        "Protected, points",
        "Worst",
        "Plan's languages, points",
    )
    return table(columns, rows)


def verdict(found: Sequence[Setting]) -> str:
    """Say what the bound allows, and where protected languages are shown to lose."""
    within = [each for each in found if each.largest <= BOUND]
    lines = []
    if within:
        least = min(each.protected.value for each in within)
        worst = min(value for each in within for value in each.each.values())
        lines.append(
            f"* Within {BOUND:g} nats ({len(within)} of {len(found)} settings) the mean of the protected languages "
            f"changes by {signed(least)} points at worst, a single one by {signed(worst)}."
        )
    losing = [each for each in found if each.protected.high < 0]
    if losing:
        lines.append(
            f"* The least divergence at which their mean is shown to fall is {losing[0].largest:.3f} nats: "
            f"{points(losing[0].protected)} points."
        )
    else:
        lines.append("* Their mean is shown to fall at none of them.")
    pairs = [(each.moved[code], each.each[code]) for each in found for code in each.each]
    rank = spearmanr(*zip(*pairs, strict=True)).statistic
    lines.append(
        f"* Over all settings and protected languages ({len(pairs)} pairs, which are not independent) the rank "
        f"correlation of divergence and change of accuracy is {rank:+.2f}."
    )
    return "\n".join(lines)


def section(found: Sequence[Setting]) -> str:
    """Write everything."""
    found = sorted(found, key=lambda each: each.largest)
    lead = (
        "The shipped learned plan as an adapter, with probes in closed form at two ridges, at strengths from "
        f"{STRENGTHS[0]:g} to {STRENGTHS[-1]:g}: how far the next token of each protected language is from the plain "
        "model's, as `isogloss adapt --bound` measures it on texts that probes were not fitted on, and what becomes of "
        f"its accuracy on {N_DEV} dev problems. No test problem was answered. Changes are against no adapter; "
        "intervals: over languages and items. The plan was learned on dev problems of its own four languages, whose "
        "gains here are biased upwards for that; those of the ten protected ones are not."
    )
    return "\n\n".join([HEAD, lead, setting_table(found), verdict(found)])


def main() -> None:
    """Rewrite the section."""
    rewrite([section(settings(arguments()[1] / "bound"))])


if __name__ == "__main__":
    main()
