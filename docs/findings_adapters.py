"""The sections of docs/findings.md on learned router adapters, their controls, and whether alignment is the cause.

``python docs/findings_adapters.py [WORK]``, or ``make findings-adapters``, goes on where it was stopped and rewrites
the two sections alone; with ``--measured`` it measures nothing, and writes what has been measured so far. What is
learned and measured was fixed, as `PROTOCOL` says it, before a test problem was answered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from findings_adapters_arms import (
    ARMS,
    LANGUAGES,
    LORA_RANK,
    N_DEV,
    OTHERS,
    PIVOT,
    RANK,
    Run,
)
from findings_adapters_measured import (
    LAYERS,
    N_OTHERS,
    N_ROUTED,
    N_TEST,
    RUNS,
    Measured,
    everything,
    gain,
    listed,
    measure,
    of_arm,
    read_measured,
    read_stored,
    store,
)
from findings_page import arguments, claim, percents, points, rewrite
from isogloss.arrays import FloatArray
from isogloss.evaluation.guard import guard_pivot
from isogloss.languages import display_name
from isogloss.statistics import Estimate
from markdown_parts import table

__all__ = ["adapters_section", "cause_section"]

N_SHUFFLES = 2000
WHERE = f"layers {LAYERS[0]}-{LAYERS[1]}"
HEAD = "## Learned adapters on the shipped model's word problems"
CAUSE_HEAD = "## Does routing closer to English help?"

PROTOCOL = """\
Fixed before a test problem was answered. Languages to learn: the four of the very low tier; the pivot and the nine
others are protected. Every arm has the same examples, {steps} of Adam with batches of 8 (a plan has a set of numbers
for each language, of a quarter of the steps), and a leash: the divergence of the next token from the plain model on
scenes of the protected languages, half of them English (a plan's: English alone), with weight 3; rates of 0.001 for
routers whole and for attention, 0.005 for low rank, 0.03 for offsets, 0.02 for those with fixed probes. The best step
is chosen on {n_dev} dev problems of each language, among those in which neither English nor the mean of the protected
languages loses more than 2 points; a plan, which acts on no protected request, is chosen without that. *Control*: LoRA
of rank {lora} on the four projections of attention, through PEFT, of nearly the size of the routers. *Probes in closed
form*: `isogloss adapt` on the plan and scenes in all languages, without labels: the ridge and strength that come
closest to the plan while the next token of no protected language moves by more than 0.02 nats per token. *Permuted*:
what was learned for each expert is given to another one of its layer. Seed s takes the s-th examples of the pool.
Everything is measured once, on the first {n_test} problems of the test split, {n_others} in each of the nine others.
Intervals: over languages and items; results of several seeds are averaged item by item first, so that their interval
is not over seeds, whose spread stands beside it."""


LATER = (
    "Added when the runs above had been measured: in 240 steps 1,920 of the 4,800 examples are read, and the loss of "
    "routers was still falling. Nothing but the number of steps differs; dev problems are answered every 200 steps."
)


def said_of(run: Run) -> str:
    """Name a run by its examples, and by its steps where another one has as many examples."""
    is_first = next(each for each in RUNS if each.n_examples == run.n_examples) == run
    return f"{run.n_examples:,} examples" if is_first else f"{run.n_examples:,} examples in {run.steps:,} steps"


def arms_table(found: Mapping[str, Measured], run: Run) -> str:
    """One row per arm: gain, its spread over seeds, the four languages, English, the others."""
    before = of_arm(found, "baseline", run)
    english_before = f"{100 * found['baseline'].right[PIVOT].mean():.1f}"
    rows = [("*plain model*", "", "", "", *percents(before, LANGUAGES), english_before, "")]
    for arm, says in listed(found, run):
        names = run.names(arm)
        after, size = of_arm(found, arm, run), found[names[0]].n_numbers
        single = [100 * gain(before, of_arm(found, arm, run.of_seed(seed))).value for seed in run.seeds]
        rows.append(
            (
                says,
                f"{size:,}" if size else "",
                points(gain(before, after)),
                ", ".join(f"{value:+.1f}" for value in single) if len(single) > 1 else "",
                *percents(after, LANGUAGES),
                english(found, arm, run),
                protected(found, arm, run),
            )
        )
    columns = ("Arm", "Numbers", "Change of the four, points", "Each seed", *map(display_name, LANGUAGES))
    return table((*columns, "English", "Nine others: mean; worst"), rows)


def english(found: Mapping[str, Measured], arm: str, run: Run) -> str:
    """Write what an arm does to English."""
    if arm.endswith("plan"):
        return "not steered"
    before, after = (of_arm(found, name, run, (PIVOT,))[PIVOT] for name in ("baseline", arm))
    judged = guard_pivot(before, after)
    return f"{100 * judged.change:+.1f} ({judged.verdict})"


def protected(found: Mapping[str, Measured], arm: str, run: Run) -> str:
    """Write what an arm does to the other languages."""
    if arm.endswith("plan"):
        return "not steered"
    before, after = (of_arm(found, name, run, OTHERS) for name in ("baseline", arm))
    change = {code: 100 * (after[code].mean() - before[code].mean()) for code in OTHERS}
    worst = min(change, key=lambda code: change[code])
    return f"{points(gain(before, after))}; {display_name(worst)} {change[worst]:+.1f}"


PAIRS = (
    ("attention", "router", "LoRA on attention does more than routers whole of about the same size"),
    ("attention", "plan", "LoRA on attention does more than a plan by language"),
    ("attention", "low-rank", f"LoRA on attention does more than rank {RANK} on routers"),
    ("attention", "probes", "LoRA on attention does more than the plan's probes in closed form"),
    ("attention", "fixed", "LoRA on attention does more than offsets learned on with fixed probes"),
    ("router", "low-rank", "Routers whole do more than rank 8 on routers"),
    ("router", "plan", "Routers whole, with no condition, do more than a plan by language"),
    ("router", "permuted-router", "Routers whole do more than the same numbers permuted"),
    ("low-rank", "permuted-low-rank", "Rank 8 does more than the same numbers permuted"),
    ("probes", "plan", "Probes in closed form do more than the plan that they are made of"),
    ("probes", "other-probes", "Probes do more than those of another language"),
    ("fixed", "probes", "Offsets learned on with fixed probes do more than those of the plan"),
    ("plan", "permuted-plan", "A plan does more than the same offsets permuted"),
)


def claims(found: Mapping[str, Measured], run: Run) -> str:
    """Judge every comparison by its interval."""
    lines, names = [], dict(listed(found, run))
    for first, second, text in PAIRS:
        if first in names and second in names:
            lines.append(claim(text, gain(of_arm(found, second, run), of_arm(found, first, run))))
    return "\n".join(lines)


def on_dev(found: Mapping[str, Measured], run: Run) -> str:
    """Say at which steps arms were chosen, and how far they move the next token of English scenes."""
    parts = []
    for arm in ARMS:
        runs = [found.get(name) for name in run.names(arm.name)]
        if not (steps := ", ".join(str(step) for one in runs if one is not None for step in one.best_steps)):
            continue
        kl = fmean(each for one in runs if one is not None for each in one.kl)
        parts.append(f"{arm.says}: step {steps}, {kl:.4f} nats per token of English scenes")
    return f"Chosen on the dev problems: {'; '.join(parts)}."


def adapters_section(found: Mapping[str, Measured]) -> Iterator[str]:
    """Compare what was learned."""
    yield HEAD
    steps = ", ".join(f"{run.steps:,} steps ({run.n_examples:,} examples)" for run in RUNS[:-1])
    yield PROTOCOL.format(steps=steps, n_dev=N_DEV, lora=LORA_RANK, n_test=N_TEST, n_others=N_OTHERS)
    for run in RUNS:
        seeds = "1 seed" if len(run.seeds) == 1 else f"{len(run.seeds)} seeds"
        yield f"### {run.n_examples:,} examples of each language, {run.steps:,} steps, {seeds}"
        if not listed(found, run):
            yield "Not measured yet, and added by the command that writes this page."
            continue
        if run is RUNS[-1]:
            yield LATER
        yield arms_table(found, run)
        yield claims(found, run)
        yield on_dev(found, run)
        missing = [says for arm, says in everything() if arm not in dict(listed(found, run))]
        if missing:
            yield f"Not measured yet, and added by the command that writes this page: {'; '.join(missing)}."


def moved(found: Mapping[str, Measured], name: str) -> dict[str, FloatArray]:
    """Language to ``[n_routed, n_layers]`` change of the divergence from the pivot."""
    before = found["baseline"].distance
    return {code: rows - before[code] for code, rows in found[name].distance.items()}


def cause_section(found: Mapping[str, Measured]) -> Iterator[str]:
    """Set gain against change of divergence, for every language, layer and arm."""
    yield CAUSE_HEAD
    yield (
        "Of every arm above: by how many points it raises a language's accuracy, and by how much it changes how far "
        f"that language's prompts are routed from the English ones (D_HJS of the same {N_ROUTED} test prompts, English "
        "under the same arm). If what helps brought routing closer to English, gains would go with falls. Intervals "
        "are over languages and items. In brackets: the four languages in the order of the table above."
    )
    yield moved_table(found)
    yield "### Gain against change of divergence, layer by layer"
    yield correlation_table(found)
    yield verdict(found)


def moved_table(found: Mapping[str, Measured]) -> str:
    """One row per arm and number of examples."""
    rows = []
    for says, run, accuracy, change, single in moved_arms(found):
        by_language = ", ".join(f"{single[code]:+.3f}" for code in LANGUAGES)
        rows.append(
            (
                says,
                f"{run.n_examples:,}",
                f"{run.steps:,}",
                points(accuracy),
                f"{change.text('{:+.3f}'.format)} ({by_language})",
            )
        )
    return table(("Arm", "Examples", "Steps", "Gain, points", f"Change of divergence, {WHERE}"), rows)


def moved_arms(found: Mapping[str, Measured]) -> Iterator[tuple[str, Run, Estimate, Estimate, dict[str, float]]]:
    """Yield of every arm its gain and the change of its divergence in these layers, also by language."""
    for run in RUNS:
        for arm, says in listed(found, run):
            before, after = (
                {code: rows[:, LAYERS[0] : LAYERS[1] + 1].mean(1) for code, rows in _distance(found, each)}
                for each in (["baseline"], run.names(arm))
            )
            single = {code: float((after[code] - before[code]).mean()) for code in LANGUAGES}
            accuracy = (of_arm(found, name, run) for name in ("baseline", arm))
            yield says, run, gain(*accuracy), gain(before, after), single


def _distance(found: Mapping[str, Measured], names: Sequence[str]) -> Iterator[tuple[str, FloatArray]]:
    for code in LANGUAGES:
        yield code, np.mean([found[name].distance[code] for name in names], axis=0)


def _points(found: Mapping[str, Measured], *, controls: bool) -> tuple[FloatArray, FloatArray]:
    """Return gains ``[n_arms, n_languages]`` and changes of divergence ``[n_arms, n_languages, n_layers]``.

    Seeds of an arm are averaged: they are no arms of their own.
    """
    before, gains, changes = found["baseline"].right, [], []
    for run in RUNS:
        for arm, _ in listed(found, run):
            if controls or not arm.startswith(("permuted", "other")):
                after = of_arm(found, arm, run)
                each = [moved(found, name) for name in run.names(arm)]
                gains.append([after[code].mean() - before[code].mean() for code in LANGUAGES])
                changes.append([np.mean([one[code].mean(0) for one in each], axis=0) for code in LANGUAGES])
    return np.array(gains), np.array(changes)


def rank_correlation(gains: FloatArray, changes: FloatArray) -> tuple[float, float]:
    """Correlate by ranks within languages; p by shuffling the arms, all languages alike: these are not independent.

    Args:
        gains: ``[n_arms, n_languages]``.
        changes: the same.
    """
    first, second = (_ranks(each) for each in (gains, changes))
    observed = float((first * second).mean())
    rng = np.random.default_rng(0)
    drawn = [float((rng.permutation(first) * second).mean()) for _ in range(N_SHUFFLES)]
    extreme = sum(abs(value) >= abs(observed) - 1e-12 for value in drawn)
    return observed, (extreme + 1) / (N_SHUFFLES + 1)


def _ranks(values: FloatArray) -> FloatArray:
    """Rank the arms of each language, standardised; equal ones share their mean rank."""
    ranks = np.array([rankdata(column) for column in values.T])
    centred = ranks - ranks.mean(1, keepdims=True)
    scale = centred.std(1, keepdims=True)
    return np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0).T


def correlation_table(found: Mapping[str, Measured]) -> str:
    """One row per layer: without permuted controls, and with them."""
    both = [_points(found, controls=controls) for controls in (False, True)]
    n_layers = both[0][1].shape[2]
    rows = []
    for layer in range(n_layers):
        cells = []
        for gains, changes in both:
            value, p = rank_correlation(gains, changes[:, :, layer])
            cells += [f"{value:+.2f}", f"{p:.3f}"]
        rows.append((str(layer), *cells))
    n_arms = [len(gains) for gains, _ in both]
    columns = ("Layer", f"Rank correlation, {n_arms[0]} arms", "p", f"with permuted controls, {n_arms[1]}", "p")
    return table(columns, rows)


def verdict(found: Mapping[str, Measured]) -> str:
    """Say which way it falls."""
    sides: dict[str, list[str]] = {"closer to English": [], "further from it": [], "neither is shown": []}
    for says, run, accuracy, change, _ in moved_arms(found):
        side = "closer to English" if change.high < 0 else "further from it" if change.low > 0 else "neither is shown"
        sides[side].append(f"{says}, {said_of(run)} ({100 * accuracy.value:+.1f} points)")
    lines = [f"* {WHERE.capitalize()}, {side}: {'; '.join(arms)}." for side, arms in sides.items() if arms]
    said = []
    for controls, words in ((False, "of the learned arms"), (True, "with the permuted controls")):
        gains, changes = _points(found, controls=controls)
        value, p = rank_correlation(gains, changes[:, :, LAYERS[0] : LAYERS[1] + 1].mean(2))
        said.append(f"{words} {value:+.2f} (p = {p:.3f}, {len(gains)} arms)")
    lines.append(
        f"* Rank correlation of gain and change in {WHERE}, within languages: {', '.join(said)}; above 0, "
        "what helps more goes further from English; p by shuffling arms, so that few arms cannot reach a small one. An "
        "arm counts once for every number of examples and steps, though these resemble each other: p is too small."
    )
    return "\n".join(lines)


def main() -> None:
    """Rewrite the sections."""
    kept = arguments()[1] / "adapters"
    kept.mkdir(exist_ok=True)
    if "--measured" not in sys.argv:
        measure(kept)
    found = read_stored() | read_measured(kept)
    store(found)
    rewrite(adapters_section(found), cause_section(found))


if __name__ == "__main__":
    main()
