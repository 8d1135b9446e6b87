"""How a plan was learned: losses and dev values by step, and where each set of offsets ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from isogloss.learning.history import LearningHistory
from isogloss.learning.records import LearnedSet, StepRecord
from isogloss.reports.figures import (
    MAX_COLOURS,
    Figure,
    KeyEntry,
    Section,
    Style,
    Table,
    base_layout,
    language_styles,
    marked_line,
    ordered_styles,
    scatter,
    translucent,
)
from isogloss.reports.metrics import Metric
from isogloss.reports.text import MISSING, hover, label, name, number, plain

_WINDOW = 20  # steps that the opaque line of a loss averages over
_ALL = "all requests"
_LOSSES = {
    "answers": "nats per token of the answers",
    "alignment": "divergence from the pivot, weighted",
    "both": "answers in nats per token and weighted divergence",
}

Steps = Mapping[tuple[str, ...], Sequence[StepRecord]]
Trace = dict[str, Any]


def describe_learning(history: LearningHistory) -> tuple[str, ...]:
    """Say what each set of offsets did to the dev items, and that it was chosen on them."""
    if not history.sets:
        return ("Learning has not finished: no step has been chosen yet.",)
    metric = Metric.named(history.settings.dev_metric)
    warning = (
        "Every step was chosen on these dev items: only other items, such as those of the test split, say what the "
        "plan is worth."
    )
    return (*(_ended(each, metric) for each in history.sets), warning)


def _ended(learned: LearnedSet, metric: Metric) -> str:
    of = ", ".join(map(name, learned.languages))
    if not learned.best_step:
        return f"{of}: no step was better than no offset, so the plan leaves it as it is."
    before, after = (fmean(values.values()) for values in (learned.dev_before, learned.dev))
    mean = "mean " if len(learned.languages) > 1 else ""
    return (
        f"{of}: {mean}{metric.name} on the dev items went from {metric.value(before)} to {metric.written(after)} "
        f"at step {learned.best_step}."
    )


def learning_section(history: LearningHistory) -> Section:
    """Draw losses and dev values by step, and list where every set ended."""
    settings, options = history.settings, history.settings.options
    shared = bool(options.get("shared")) or "parameters" in options  # recorded of adapters alone
    languages = language_styles(settings.languages, None)
    losses = _losses(history.steps, ordered_styles([_ALL]) if shared else languages, shared=shared)
    blocks: list[Figure | Table] = [*_loss_figure(history, losses), *_dev_figure(history, languages)]
    blocks += [_table(history)] if history.sets else []
    what = {"answers": "answers of examples", "alignment": "parallel texts", "both": "answers and parallel texts"}
    objective = plain(options.get("objective", MISSING))
    lead = (
        f"One offset for every expert and layer was learned from {what.get(objective, objective)}, with the model's "
        f"weights frozen: {'one set for all requests' if shared else 'one set for each language'}."
    )
    return Section("learning", "Learning", [lead], blocks)


def _losses(steps: Steps, styles: Mapping[str, Style], *, shared: bool) -> Iterator[tuple[Trace, KeyEntry]]:
    """Draw the loss of every step (thin) and its running mean (thick), set by set, with the entry of the key."""
    for codes, records in steps.items():
        group = _ALL if shared else codes[0]
        known = [each for each in records if not math.isnan(each.loss)]
        if not known or not (style := styles.get(group)):
            continue
        at, losses = [each.step for each in known], [each.loss for each in known]
        means = [fmean(losses[max(0, place + 1 - _WINDOW) : place + 1]) for place in range(len(losses))]
        hovers = [
            hover(label(group), f"step {step}: {number(loss)}", f"mean {number(mean)}")
            for step, loss, mean in zip(at, losses, means, strict=True)
        ]
        entry = style.entry(group, label(group))
        yield (
            scatter(group, at, losses, mode="lines", line={"color": translucent(style.colour, 0.25), "width": 1}),
            entry,
        )
        yield scatter(group, at, means, hovers, mode="lines", line={"color": style.colour, "width": 2}), entry


def _loss_figure(history: LearningHistory, losses: Iterable[tuple[Trace, KeyEntry]]) -> list[Figure]:
    options = history.settings.options
    unit = _LOSSES.get(plain(options.get("objective", "")), "loss") + (
        ", and the leash" if options.get("leash") else ""
    )
    caption = (
        f"Loss of each step's batch before the step (thin), and its mean over up to {_WINDOW} steps (thick)."
        f"{_drawn(history.steps)}"
    )
    return _figure(("learning-loss", "Loss by step", caption), f"loss: {unit}", "loss", losses)


def _dev_figure(history: LearningHistory, styles: Mapping[str, Style]) -> list[Figure]:
    metric = Metric.named(history.settings.dev_metric)
    chosen = {code: each.best_step for each in history.sets for code in each.languages}
    lines = []
    for records in history.steps.values():
        measured = [(each.step, each.dev) for each in records if each.dev is not None]
        for code in measured[0][1] if measured else ():
            if style := styles.get(code):
                points = [
                    (step, metric.factor * dev[code], hover(label(code), f"step {step}: {metric.written(dev[code])}"))
                    for step, dev in measured
                ]
                sizes = [17 if step == chosen.get(code) else 8 for step, _ in measured]
                lines.append((marked_line(code, points, style, size=sizes), style.entry(code, label(code))))
    ring = " The large marker is the step that was chosen." if chosen else ""
    caption = (
        f"Mean {metric.name} of the dev items{metric.direction} without offsets (step 0) and under those of later "
        f"steps.{ring} No interval: the best of several is chosen on these items.{_drawn(history.steps)}"
    )
    unit = f"dev {metric.name}{metric.percent and ', %'}"
    return _figure(("learning-dev", "Dev items by step", caption), unit, metric.name, lines)


def _figure(
    words: tuple[str, str, str], unit: str, short: str, lines: Iterable[tuple[Trace, KeyEntry]]
) -> list[Figure]:
    """Lay out lines over the steps, if there are any; anchor, title and caption are those of the figure."""
    if not (drawn := list(lines)):
        return []
    data, key = zip(*drawn, strict=True)
    layout = base_layout("step", unit, height=360)
    layout["yaxis"].update(rangemode="tozero")
    return [Figure(*words, list(data), layout, {"yaxis.title.text": short}, list(dict.fromkeys(key)))]


def _drawn(steps: Steps) -> str:
    """Say that some are left out of a figure; nothing where all are drawn."""
    n = len({code for codes in steps for code in codes})
    return f" {MAX_COLOURS} of {n} languages are drawn; the table has all." if n > MAX_COLOURS else ""


def _table(history: LearningHistory) -> Table:
    metric = Metric.named(history.settings.dev_metric)
    unit, rows = metric.percent and ", %", []
    for learned, records in zip(history.sets, history.steps.values(), strict=True):
        at = next((each for each in records if each.step == learned.best_step), records[0])
        kl = "not measured" if math.isnan(learned.kl) else number(learned.kl)
        for code in learned.languages:
            row = {
                "language": label(code),
                f"dev {metric.name} before{unit}": metric.value(learned.dev_before[code]),
                f"chosen{unit}": metric.value(learned.dev[code]),
                "step": str(learned.best_step),
                "largest offset, logits": number(at.largest),
                "not moved": f"{learned.without_gradient} of {learned.n_experts}",
                "KL": kl,
            }
            rows.append(row)
    caption = (
        "Dev values without offsets and at the chosen step, where they are biased upwards; the largest offset at that "
        "step; experts that no step moved; and how far the next token of generic pivot text moves, in nats."
    )
    return Table.of("Where each set ended", caption, rows, folded=False)
