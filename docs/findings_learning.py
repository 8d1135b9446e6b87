"""The learned half of docs/findings.md: plans learned on the shipped model, and everything that they are compared with.

``python docs/findings_learning.py [WORK]``, or ``make findings-learning``, goes on where it was stopped and rewrites
the section alone. What is learned and measured was fixed, as `PROTOCOL` says it, before a test problem was answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from findings_learning_arms import (
    ARMS,
    CONTROLS,
    DOSES,
    LANGUAGES,
    N_DEV,
    N_EXAMPLES,
    PIVOT,
    RECIPE,
    SEEDS,
    SHARED,
    controls,
    learned_arms,
    learning_pool,
)
from findings_page import arguments, claim, percents, points, rewrite
from findings_steering import rule_experts
from isogloss.arrays import FloatArray
from isogloss.backends.model import Model
from isogloss.backends.open import load
from isogloss.evaluation import (
    BASELINE,
    EvaluationSummary,
    Task,
    ask,
    compare_scores,
    load_task,
    read_records,
    run_evaluation,
)
from isogloss.evaluation.guard import guard_pivot
from isogloss.files import read_json, write_json
from isogloss.languages import display_name
from isogloss.learning import Learned, LearningData
from isogloss.progress import track
from isogloss.statistics import Estimate
from isogloss.workflows import DEMO
from markdown_parts import table

__all__ = ["learning_section"]

N_TEST, N_SHOTS = 100, 4
HEAD = "## Learned plans on the shipped model's word problems"
AIM = 25
NOTES = """\
KL: how far the next token of English scenes moves under a set, in nats per token, mean over sets; a set by language is
never used on English, so there it says how strong the set is. "Not steered" is exact: no rule applies to English.
{shots} worked problems in one prompt are unlike the model's training, where every text holds one problem. Not measured:
LoRA on attention with the same examples, which needs another package."""

PROTOCOL = """\
Fixed before a test problem was answered. Languages: the four of the very low tier, in which the model has seen next
to no worked problem. Examples: worked problems of the dev split; seed s takes the s-th {n_examples:,} of the pool, so
that seeds differ in examples and batches. The best step is chosen on {n_dev} other problems of the dev split per
language, among 0, {dev_every}, {twice} and so on. Everything is measured once, on the first {n_test} problems of the
test split, whose equations occur neither in the model's training nor in the dev split. Adam, learning rate {rate:g},
batches of {batch}, all layers and no leash unless an arm says otherwise; that all layers are learned follows one
earlier run that was measured on the same test split (docs/decisions/0013), and nothing else was chosen on it. *By
language*: one set of offsets for each language, {steps} steps each; requests in other languages are not steered.
*Shared*: one set for all requests, {shared} steps of examples in all four languages; the cheaper recipe, on which
objectives, layers and numbers of examples are compared. Intervals: over languages and items, of the mean over the
four; "three seeds" averages each item's result over the seeds first, so that its interval is over languages and
items, not over seeds, whose spread stands beside it."""

Values = Mapping[str, Mapping[str, FloatArray]]
"""Arm to language to ``[n_items]`` results."""


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        values: results by arm.
        summary: of the evaluation.
        learned: by arm.
    """

    values: Values
    summary: EvaluationSummary
    learned: Mapping[str, Learned]


def measure(model: Model, pool: LearningData, kept: Path) -> Measured:
    """Learn every arm, and answer the test problems under each of them, once."""
    learned = learned_arms(model, pool, kept)
    plans = {name: each.plan for name, each in learned.items()}
    rule = rule_experts(model, kept.parent)[1].plan(DEMO.kind, strength=DEMO.strength)
    arms = plans | controls(plans) | {"rule": rule}
    arms["plan"] = arms.pop("by-language-0")
    task = load_task("organism", languages=(*LANGUAGES, PIVOT), n_items=N_TEST, split="test")
    asked = ask(model, task)
    nothing = [name for name, plan in arms.items() if not plan.interventions]
    arms = {name: plan for name, plan in arms.items() if name not in nothing}
    with track("evaluate", (len(arms) + 1) * N_TEST * len(task.items)) as advance:
        summary = run_evaluation(model, asked, arms, out=kept / "test", progress=advance)
    values = {
        arm: {
            code: np.array([row.value for row in read_records(kept / "test" / arm / f"{code}.jsonl")])
            for code in task.items
        }
        for arm in (BASELINE, *arms)
    }
    values["by-language-0"] = values.pop("plan")
    values |= dict.fromkeys(nothing, values[BASELINE])
    path = kept / "few-shot.json"
    if not path.is_file():
        write_json(path, few_shot(model, task, pool))
    shots = read_json(path)
    values["few-shot-0"] = {code: np.array(rows, dtype=np.float64) for code, rows in shots.items()}
    return Measured(values, summary, learned)


def few_shot(model: Model, task: Task, pool: LearningData) -> dict[str, list[bool]]:
    """Answer with worked problems before every question; language to right or wrong."""
    right = {}
    for code in LANGUAGES:
        shots = [f"{item.prompt}{item.reference}\n" for item in pool.examples[code].items[code][:N_SHOTS]]
        prompts = ["".join([*shots, item.prompt]) for item in task.items[code]]
        outputs = model.generate(prompts, max_new_tokens=task.max_new_tokens)
        first = [output.strip().partition("\n")[0] for output in outputs]
        right[code] = [task.parse(text) == item.answer for text, item in zip(first, task.items[code], strict=True)]
    return right


def of_arm(
    values: Values, arm: str, seeds: Sequence[int], languages: Sequence[str] = LANGUAGES
) -> dict[str, FloatArray]:
    """Average each item's result over the seeds of an arm."""
    names = [f"{arm}-{seed}" for seed in seeds] if seeds else [arm]
    return {code: np.mean([values[name][code] for name in names], axis=0) for code in languages}


def gain(before: Mapping[str, FloatArray], after: Mapping[str, FloatArray]) -> Estimate:
    """Difference of two arms, mean over the four languages, interval over languages and items."""
    return compare_scores(before, after).overall.difference


def arms_table(found: Measured) -> str:
    """One row per arm: gain, its spread over seeds, the four languages, English."""
    values = found.values
    before = of_arm(values, BASELINE, ())
    english_before = f"{100 * values[BASELINE][PIVOT].mean():.1f}"
    rows = [("*unsteered*", "", "", *percents(before, LANGUAGES), english_before, "")]
    for name, says, seeds in listed():
        after = of_arm(values, name, seeds)
        single = [gain(before, of_arm(values, name, (seed,))).value for seed in seeds] if len(seeds) > 1 else []
        spread = ", ".join(f"{100 * value:+.1f}" for value in single)
        cells = (*percents(after, LANGUAGES), *english(found, name, seeds))
        rows.append((says, points(gain(before, after)), spread, *cells))
    names = [display_name(code) for code in LANGUAGES]
    return table(("Arm", "Change of the mean, points", "Each seed", *names, "English", "KL"), rows)


def listed() -> Iterator[tuple[str, str, Sequence[int]]]:
    """Name every arm, what the table says of it, and its seeds."""
    yield from ((arm.name, arm.says, arm.seeds) for arm in ARMS[:1])
    yield from CONTROLS
    yield from ((f"scale-{factor:g}", f"{factor:g} times its offsets (seed 0)", ()) for factor in DOSES)
    yield from ((arm.name, arm.says, arm.seeds) for arm in ARMS[1:])
    yield "rule", "the Δ rule's plan of the section above", ()
    yield "few-shot", f"no plan, {N_SHOTS} worked problems in the prompt", SEEDS[:1]


def english(found: Measured, arm: str, seeds: Sequence[int]) -> tuple[str, str]:
    """Write what an arm does to English, and how far it moves the next token of generic English text."""
    names = [f"{arm}-{seed}" for seed in seeds] if seeds else [arm]
    sets = [each.kl for name in names if name in found.learned for each in found.learned[name].sets]
    kl = f"{np.mean(sets):.3f}" if sets else "–"
    guard = found.summary.guard.get("plan" if names[0] == "by-language-0" else names[0])
    if guard is None:
        return "–", kl
    if not guard.steered:
        return "not steered", kl
    before, after = (of_arm(found.values, name, each, (PIVOT,))[PIVOT] for name, each in ((BASELINE, ()), (arm, seeds)))
    judged = guard_pivot(before, after)
    return f"{100 * judged.change:+.1f} ({judged.verdict})", kl


PAIRS = (
    ("by-language", "permuted", "Learned offsets do more than the same offsets permuted"),
    ("by-language", "other-language", "A language's own offsets do more than those of another of the four"),
    ("by-language", "rule", "Learned offsets do more than the Δ rule"),
    ("by-language", "few-shot", "Learned offsets do more than worked problems in the prompt"),
    ("by-language", "shared", "One set for each language does more than one for all"),
    ("shared", "alignment", "Answers do more than alignment alone"),
    ("alignment", "shuffled", "Alignment to true pairs does more than to shuffled ones"),
    ("shared", "few-32", f"{N_EXAMPLES} examples do more than 32"),
    ("middle", "early", "Layers 4-9 do more than layers 0-3"),
    ("middle", "late", "Layers 4-9 do more than layers 10-11"),
    ("shared", "middle", "All layers do more than layers 4-9 alone"),
)


def claims(found: Measured) -> str:
    """Judge the aim and every comparison by its interval."""
    seeds = {name: each for name, _, each in listed()}
    values = found.values
    reached = gain(of_arm(values, BASELINE, ()), of_arm(values, "by-language", SEEDS))
    met = "not reached"
    if 100 * reached.value >= AIM:
        met = "reached" + ("" if 100 * reached.low >= AIM else " by the estimate, while the interval allows less")
    lines = [f"* Aim of {AIM} points more in the mean of the four languages: {met} ({points(reached)})."]
    for first, second, text in PAIRS:
        both = set(seeds[first]) & set(seeds[second]) or None
        one, other = (
            of_arm(values, name, sorted(both) if both and seeds[name] else seeds[name]) for name in (first, second)
        )
        lines.append(claim(text, gain(other, one)))
    return "\n".join(lines)


def on_dev(found: Measured) -> str:
    """Say what the chosen steps had on the dev items, on which they were chosen."""
    sets = [each for seed in SEEDS for each in found.learned[f"by-language-{seed}"].sets]
    before, after = (
        100 * fmean(value for each in sets for value in getattr(each, name).values()) for name in ("dev_before", "dev")
    )
    return (
        f"On the dev items, on which steps were chosen, the mean of the plans by language goes from {before:.1f} to "
        f"{after:.1f} %; these also share their pool of equations with the examples."
    )


def learning_section(kept: Path) -> Iterator[str]:
    """Learn, measure and judge; what was done before is kept in ``kept``, a folder of its own beside captures."""
    kept.mkdir(exist_ok=True)
    model = load("organism")
    pool = learning_pool()
    found = measure(model, pool, kept)
    yield HEAD
    yield PROTOCOL.format(
        n_examples=N_EXAMPLES,
        n_dev=N_DEV,
        dev_every=RECIPE.dev_every,
        twice=2 * RECIPE.dev_every,
        n_test=N_TEST,
        rate=RECIPE.learning_rate,
        batch=RECIPE.batch_size,
        steps=RECIPE.steps,
        shared=SHARED.steps,
    )
    yield arms_table(found)
    yield f"{NOTES.format(shots=N_SHOTS)} {on_dev(found)}"
    yield "### What is shown"
    yield claims(found)


def main() -> None:
    """Rewrite the section."""
    _, kept = arguments()
    rewrite(learning_section(kept / "learning"))


if __name__ == "__main__":
    main()
