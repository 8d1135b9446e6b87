"""How a plan or an adapter was learned: losses and dev values by step, where it ended, and what it costs others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from isogloss.learning.history import LearningHistory
from isogloss.learning.records import LearnedSet, LearnOptions, StepRecord
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
from isogloss.reports.text import MISSING, counted, hover, known_columns, label, name, number, plain
from isogloss.steering import CONSTANT_KINDS

_WINDOW = 20  # steps that the opaque line of a loss averages over
_ALL = "all requests"
_OFFSET = "offset for every expert and layer"
_LOSSES = {
    "answers": "nats per token of the answers",
    "alignment": "divergence from the pivot, weighted",
    "both": "answers in nats per token and weighted divergence",
}

Steps = Mapping[tuple[str, ...], Sequence[StepRecord]]
Trace = dict[str, Any]


def describe_learning(history: LearningHistory) -> tuple[str, ...]:
    """Say what each set of numbers did to the dev items, what it cost others, and that it was chosen on them."""
    if not history.sets:
        return ("Learning has not finished: no step has been chosen yet.",)
    metric, what = Metric.named(history.settings.dev_metric), "adapter" if learns_adapter(history) else "plan"
    warning = (
        "Every step was chosen on these dev items: only other items, such as those of the test split, say what the "
        f"{what} is worth."
    )
    pivot = plain(history.settings.options.get("pivot", "eng_Latn"))
    unguarded = [line for each in history.sets if what == "adapter" and (line := each.unguarded(pivot))]
    ended = (_ended(each, metric, what) for each in history.sets)
    cost = (text for each in history.sets for text in _cost(history, each, metric))
    return (*ended, *cost, *unguarded, warning)


def learns_adapter(history: LearningHistory) -> bool:
    """Whether a change of the routers' weights was learned, not a plan."""
    return _parameters(history) not in CONSTANT_KINDS


def _parameters(history: LearningHistory) -> str:
    """Name what was learned, as the options do; offsets are not recorded."""
    return plain(history.settings.options.get("parameters", LearnOptions.parameters))


def _ended(learned: LearnedSet, metric: Metric, what: str) -> str:
    of = ", ".join(map(name, learned.languages))
    if learned.started:
        return f"{of}: {_ended_from_start(learned, metric)}"
    if not learned.best_step and what == "adapter":
        return f"{of}: no step within the tolerance was better than no change, so the adapter changes nothing."
    if not learned.best_step:
        return f"{of}: no step was better than no change, so the plan leaves it as it is."
    before, after = (fmean(values.values()) for values in (learned.dev_before, learned.dev))
    mean = "mean " if len(learned.languages) > 1 else ""
    return (
        f"{of}: {mean}{metric.name} on the dev items went from {metric.value(before)} to {metric.written(after)} "
        f"at step {learned.best_step}."
    )


def _cost(history: LearningHistory, learned: LearnedSet, metric: Metric) -> list[str]:
    """Say what protected languages have lost, and which of them moved most."""
    if not learned.is_chosen or not (kept := _kept(history, learned)):
        return []
    said = []
    if dev := [each for each in kept.values() if not math.isnan(each.before)]:
        before, after = (fmean(values) for values in zip(*(each[:2] for each in dev), strict=True))
        said.append(
            f"the mean {metric.name} on their dev items went from {metric.value(before)} to {metric.written(after)}"
        )
    if moved := {code: each.kl for code, each in kept.items() if not math.isnan(each.kl)}:
        most = max(moved, key=moved.__getitem__)
        said.append(f"the next token moves most in {name(most)}, by {number(moved[most])} nats per token")
    return [f"Of {counted(len(kept), 'protected language')} {', and '.join(said)}."]


class _Kept(NamedTuple):
    """A protected language: dev value before and at the chosen step, and divergence of the next token; NaN: unknown."""

    before: float
    after: float
    kl: float


def _kept(history: LearningHistory, learned: LearnedSet) -> dict[str, _Kept]:
    """Return the protected languages of an adapter, the pivot first."""
    if not learns_adapter(history):
        return {}
    pivot = plain(history.settings.options.get("pivot", ""))
    kl = {pivot: learned.kl, **(learned.protected_kl or {})}
    before, after = learned.protected_before or {}, learned.protected or {}
    known = {*before, *(code for code, value in kl.items() if not math.isnan(value))} - set(learned.languages)
    return {
        code: _Kept(*(each.get(code, math.nan) for each in (before, after, kl)))
        for code in sorted(known, key=lambda code: (code != pivot, code))
    }


def _ended_from_start(learned: LearnedSet, metric: Metric) -> str:
    values = (learned.dev_before, learned.dev_start or {}, learned.dev)
    before, start, after = (fmean(each.values()) for each in values)
    mean = "mean " if len(learned.languages) > 1 else ""
    measured = f"{mean}{metric.name} on the dev items"
    if learned.best_step is None:
        return (
            "neither the adapter to start from nor any step kept the protected languages within the tolerance, so the "
            f"adapter changes nothing; {measured} is {metric.written(before)}, and was {metric.written(start)} at the "
            "start."
        )
    if learned.best_step == 0:
        return (
            f"no step was better than the adapter that learning started from, which is kept as it was; {measured} went "
            f"from {metric.value(before)} to {metric.written(after)} with it."
        )
    return (
        f"{measured} went from {metric.value(before)} to {metric.written(after)} at step {learned.best_step}; the "
        f"adapter to start from had {metric.written(start)}."
    )


def learning_section(history: LearningHistory) -> Section:
    """Draw losses and dev values by step, and list where every set ended and what protected languages lost."""
    settings, options = history.settings, history.settings.options
    shared = bool(options.get("shared")) or learns_adapter(history)
    languages = language_styles(settings.languages, None)
    losses = _losses(history.steps, ordered_styles([_ALL]) if shared else languages, shared=shared)
    blocks: list[Figure | Table] = [*_loss_figure(history, losses), *_dev_figure(history, languages)]
    blocks += [_table(history)] if history.sets else []
    blocks += [_kept_table(history, kept) for each in history.sets if (kept := _kept(history, each))]
    what = {"answers": "answers of examples", "alignment": "parallel texts", "both": "answers and parallel texts"}
    objective = plain(options.get("objective", MISSING))
    source = what.get(objective, objective)
    if learns_adapter(history):
        lead = (
            f"{_change(history)} was learned from {source}, with all other weights frozen. It acts on every request, "
            "whatever its language."
        )
    else:
        ranked = _parameters(history) == "select"
        one = "number for every expert and layer, added to the scores that routers rank," if ranked else _OFFSET
        lead = (
            f"One {one} was learned from {source}, with the model's weights frozen: "
            f"{'one set for all requests' if shared else 'one set for each language'}."
        )
    return Section("learning", "Learning", [lead], blocks)


def _change(history: LearningHistory) -> str:
    """Say what kind of change of which weights an adapter is."""
    options, start = history.settings.options, history.settings.start_sha256
    kinds = {"router": "full rank", "low-rank": "low rank" if start else f"rank {options.get('rank', MISSING)}"}
    if (parameters := _parameters(history)) not in kinds:
        return f"A change of weights, {parameters},"
    fixed = ", whose probes stayed as they were" * (options.get("probes") == "fixed")
    begun = f", from an adapter that was there before{fixed}," if start else ""
    layers = f" in layers {options['layers'][0]}–{options['layers'][1]}" if options.get("layers") else ""
    return plain(f"A change of {kinds[parameters]}{begun} of the routers' weights{layers}")


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
    started = history.settings.options.get("step_0") == "start"
    first = "under the adapter to start from (step 0)" if started else "before any change (step 0)"
    ring = " The large marker is the step that was chosen." if chosen else ""
    caption = (
        f"Mean {metric.name} of the dev items{metric.direction} {first} and after later "
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
    size = "largest number, scores" if _parameters(history) == "select" else "largest offset, logits"
    size = "largest change of a weight" if learns_adapter(history) else size
    unit, rows = metric.percent and ", %", []
    started = any(each.started for each in history.sets)
    for learned, records in zip(history.sets, history.steps.values(), strict=True):
        at = next((each for each in records if each.step == learned.best_step), records[0])
        kl = {} if learns_adapter(history) else {"KL": _divergence(learned.kl)}
        for code in learned.languages:
            start = {f"start{unit}": metric.value(learned.dev_start[code])} if learned.dev_start else {}
            row = {
                "language": label(code),
                f"dev {metric.name} before{unit}": metric.value(learned.dev_before[code]),
                **start,
                f"chosen{unit}": metric.value(learned.dev[code]),
                "step": "none" if learned.best_step is None else str(learned.best_step),
                size: number(0.0 if learned.best_step is None else at.largest),
                "not moved": f"{learned.without_gradient} of {learned.n_experts}",
            }
            rows.append(row | kl)
    at_start = ", under the adapter to start from" if started else ""
    caption = (
        f"Dev values before any change{at_start} and at the chosen step, where they are biased upwards; the "
        f"{size.partition(',')[0]} at that step; experts that no step moved"
    )
    moves = "." if learns_adapter(history) else "; and how far the next token of generic pivot text moves, in nats."
    title = "Where learning ended" if learns_adapter(history) else "Where each set ended"
    return Table.of(title, caption + moves, rows, folded=False)


def _kept_table(history: LearningHistory, kept: Mapping[str, _Kept]) -> Table:
    """List what protected languages had before and at the chosen step, as far as it was measured."""
    metric = Metric.named(history.settings.dev_metric)
    unit = metric.percent and ", %"
    rows = [
        {
            "language": label(code),
            f"dev {metric.name} before{unit}": metric.value(each.before),
            f"chosen{unit}": metric.value(each.after),
            "KL": number(each.kl),
        }
        for code, each in kept.items()
    ]
    caption = (
        "Languages that the adapter must leave as they are: mean of their dev items before any change and at the step "
        "that was chosen among those that cost neither the pivot nor their mean more than the tolerance"
        f"{_tolerance(history, metric)}; and how far the next token moves on their generic texts, in nats per token."
    )
    return Table.of("Protected languages", caption, known_columns(rows), folded=False)


def _tolerance(history: LearningHistory, metric: Metric) -> str:
    """Write the tolerance in brackets, with a blank before them; nothing where it is not recorded."""
    value = history.settings.options.get("tolerance")
    return f" ({metric.value(value)}{metric.points})" if isinstance(value, int | float) else ""


def _divergence(value: float) -> str:
    return "not measured" if math.isnan(value) else number(value)
