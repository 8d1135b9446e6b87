"""How a plan was learned: losses and dev values by step, and where each set of offsets ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    ordered_styles,
    scatter,
    translucent,
)
from isogloss.reports.metrics import Metric
from isogloss.reports.text import MISSING, hover, label, name, number, plain, plot_text

__all__ = ["describe_learning", "learning_section"]

_WINDOW = 20  # steps that the opaque line of a loss averages over
_ALL = "all requests"
_LOSSES = {
    "answers": "nats per token of the answers",
    "alignment": "divergence from the pivot, weighted",
    "both": "answers in nats per token and weighted divergence",
}

Steps = Mapping[tuple[str, ...], Sequence[StepRecord]]


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
    of = _named(learned.languages)
    if not learned.best_step:
        return f"{of}: no step was better than no offset, so the plan leaves it as it is."
    before, after = (fmean(values.values()) for values in (learned.dev_before, learned.dev))
    mean = "mean " if len(learned.languages) > 1 else ""
    return (
        f"{of}: {mean}{metric.name} on the dev items went from {metric.value(before)} to {metric.value(after)}"
        f"{metric.percent} at step {learned.best_step}."
    )


def _named(languages: Sequence[str]) -> str:
    return ", ".join(map(name, languages))


def learning_section(history: LearningHistory) -> Section:
    """Draw losses and dev values by step, and list where every set ended."""
    options, settings = history.settings.options, history.settings
    shared = bool(options.get("shared")) or "parameters" in options  # recorded of adapters alone
    languages = language_styles(settings.languages, None)
    blocks: list[Figure | Table] = [
        _loss_figure(history, ordered_styles([_ALL]) if shared else languages, shared=shared),
        _dev_figure(history, languages),
    ]
    blocks += [_table(history)] if history.sets else []
    what = {"answers": "answers of examples", "alignment": "parallel texts", "both": "answers and parallel texts"}
    objective = plain(options.get("objective", MISSING))
    lead = (
        f"One offset for every expert and layer was learned from {what.get(objective, objective)}, with the model's "
        f"weights frozen: {'one set for all requests' if shared else 'one set for each language'}."
    )
    return Section("learning", "Learning", [lead], blocks)


def _groups(steps: Steps, *, shared: bool) -> dict[str, Sequence[StepRecord]]:
    return {_ALL if shared else codes[0]: each for codes, each in steps.items()}


def _loss_figure(history: LearningHistory, styles: Mapping[str, Style], *, shared: bool) -> Figure:
    data: list[dict[str, Any]] = []
    for group, records in _groups(history.steps, shared=shared).items():
        if group in styles:
            data += _loss_lines(group, styles[group], [each for each in records if not math.isnan(each.loss)])
    objective = plain(history.settings.options.get("objective", ""))
    leash = history.settings.options.get("leash")
    unit = _LOSSES.get(objective, "loss") + (", and the leash" if leash else "")
    layout = base_layout("step", f"loss: {plot_text(unit)}", height=360)
    layout["yaxis"].update(rangemode="tozero")
    caption = (
        f"Loss of each step's batch before the step (thin), and its mean over up to {_WINDOW} steps (thick). "
        f"{_drawn(history.steps)}"
    )
    narrow = {"yaxis.title.text": "loss"}
    return Figure("learning-loss", "Loss by step", caption.strip(), data, layout, narrow, _key(data, styles))


def _loss_lines(group: str, style: Style, records: Sequence[StepRecord]) -> Iterator[dict[str, Any]]:
    steps, losses = [each.step for each in records], [each.loss for each in records]
    means = [fmean(losses[max(0, place + 1 - _WINDOW) : place + 1]) for place in range(len(losses))]
    thin = {"color": translucent(style.colour, 0.25), "width": 1}
    yield scatter(group, steps, losses, mode="lines", line=thin)
    hovers = [
        hover(_label(group), f"step {step}: {number(loss)}", f"mean {number(mean)}")
        for step, loss, mean in zip(steps, losses, means, strict=True)
    ]
    thick = {"color": style.colour, "width": 2}
    yield scatter(group, steps, means, hovers, mode="lines", line=thick, name=plot_text(_label(group)))


def _dev_figure(history: LearningHistory, styles: Mapping[str, Style]) -> Figure:
    metric = Metric.named(history.settings.dev_metric)
    chosen = {code: each.best_step for each in history.sets for code in each.languages}
    data = []
    for records in history.steps.values():
        measured = [each for each in records if each.dev is not None]
        codes = [code for code in (measured[0].dev or {}) if code in styles] if measured else []
        data += [_dev_line(code, styles[code], measured, chosen.get(code), metric) for code in codes]
    unit = f"dev {metric.name}{metric.percent and ', %'}"
    layout = base_layout("step", plot_text(unit), height=360)
    layout["yaxis"].update(rangemode="tozero")
    ring = " The large marker is the step that was chosen." if chosen else ""
    caption = (
        f"Mean {metric.name} of the dev items{metric.direction} without offsets (step 0) and under those of later "
        f"steps.{ring} No interval: the best of several is chosen on these items. {_drawn(history.steps)}"
    )
    return Figure(
        "learning-dev",
        "Dev items by step",
        caption.strip(),
        data,
        layout,
        {"yaxis.title.text": metric.name},
        _key(data, styles),
    )


def _dev_line(
    code: str, style: Style, measured: Sequence[StepRecord], chosen: int | None, metric: Metric
) -> dict[str, Any]:
    points = [(each.step, each.dev[code]) for each in measured if each.dev is not None]
    return scatter(
        code,
        [step for step, _ in points],
        [metric.factor * value for _, value in points],
        [hover(label(code), f"step {step}: {metric.value(value)}{metric.percent}") for step, value in points],
        mode="lines+markers",
        name=plot_text(label(code)),
        line={"color": style.colour, "width": 1.8},
        marker={
            "symbol": style.symbol,
            "size": [17 if step == chosen else 8 for step, _ in points],
            "color": style.colour,
        },
    )


def _label(group: str) -> str:
    return group if group == _ALL else label(group)


def _drawn(steps: Steps) -> str:
    """Say that some are left out of a figure; nothing where all are drawn."""
    n = len({code for codes in steps for code in codes})
    return f"{MAX_COLOURS} of {n} languages are drawn; the table has all." if n > MAX_COLOURS else ""


def _key(data: Sequence[Mapping[str, Any]], styles: Mapping[str, Style]) -> list[KeyEntry]:
    drawn = dict.fromkeys(trace["meta"] for trace in data)
    return [KeyEntry(_label(group), styles[group].sign, styles[group].colour, group) for group in drawn]


def _table(history: LearningHistory) -> Table:
    metric = Metric.named(history.settings.dev_metric)
    rows = []
    for learned, records in zip(history.sets, history.steps.values(), strict=True):
        at = next((each for each in records if each.step == learned.best_step), records[0])
        kl = "not measured" if math.isnan(learned.kl) else number(learned.kl)
        for code in learned.languages:
            values = (metric.value(each[code]) for each in (learned.dev_before, learned.dev))
            ends = (str(learned.best_step), number(at.largest), f"{learned.without_gradient} of {learned.n_experts}")
            rows.append((label(code), *values, *ends, kl))
    unit = metric.percent and ", %"
    header = ("language", f"dev {metric.name} before{unit}", f"chosen{unit}", "step", "largest offset, logits")
    caption = (
        "Dev values without offsets and at the chosen step, where they are biased upwards; the largest offset at that "
        "step; experts that no step moved; and how far the next token of generic pivot text moves, in nats."
    )
    return Table("Where each set ended", caption, (*header, "not moved", "KL"), rows, {0}, folded=False)
