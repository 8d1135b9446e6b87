"""The steering half of docs/findings.md: every arm on the shipped model's word problems, and the planted case."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from findings_page import judged, points
from isogloss.analysis import DeltaRule, ExpertTable, language_experts, task_experts
from isogloss.backends.model import Model
from isogloss.backends.open import load
from isogloss.corpora import Corpus
from isogloss.evaluation import PLAN, EvaluationSummary, Item, Task, compare_folders, load_task
from isogloss.evaluation.tasks.parse import parse_number
from isogloss.files import write_json
from isogloss.languages import display_name
from isogloss.runs import Run
from isogloss.statistics import Estimate
from isogloss.steering import Plan, write_plan
from isogloss.workflows import DEMO, capture_corpus, evaluate_plan, open_corpus
from known_answers.planted import planted_corpora, planted_problems
from known_answers.planted_model import planted_model
from markdown_parts import table

__all__ = ["planted_section", "rule_experts", "steering_section"]

PIVOT, OTHER_PIVOT = "eng_Latn", "deu_Latn"
N_ITEMS, N_QUESTIONS, N_RANDOM = 200, 100, 3
STRENGTHS = "0.25,1"
MEDICAL = 200
"""Sentences of TICO-19, an unrelated task's text."""


def steering_section(model: Model, data: Path, kept: Path) -> Iterator[str]:
    """All arms on the word problems in all languages, and the same plan measured in bits per byte.

    Args:
        model: the shipped model.
        data: holds ``tico19``.
        kept: where captures lie (``scenes``, ``problems``) and evaluations are kept.
    """
    scenes, found, rule = rule_experts(model, kept)
    plan, (first, last) = found.plan(DEMO.kind, strength=DEMO.strength), rule.layers or (0, 0)
    write_plan(plan, kept / "plan.json")
    arms = [f"random:{N_RANDOM}", "early", "late", "suppress", f"strength={STRENGTHS}"]
    tables = replacements(model, scenes, rule, data, kept)
    arms += [f"experts={name}:{path}" for name, path in tables.items()]
    task = load_task("organism", n_items=N_QUESTIONS)
    summary = evaluate_plan(model, plan, task=task, out=kept / "arms", arms=arms)
    yield "## Steering the shipped model's word problems"
    yield (
        f"The plan: {found.n} task experts (Δ rule at {DEMO.threshold:g}, word problems against scenes in English), "
        f"`{DEMO.kind}` {DEMO.strength:g} in layers {first}-{last}. {N_QUESTIONS} unseen problems in each "
        f"of {len(task.items)} languages, the same in every arm. Points of accuracy; English is at the ceiling before."
    )
    yield arms_table(summary, kept / "arms")
    yield claims(summary, kept / "arms")
    yield "### The plan, language by language"
    yield languages_table(summary)
    yield from likelihood(model, plan, kept)


def rule_experts(model: Model, kept: Path) -> tuple[Run, ExpertTable, DeltaRule]:
    """Find the task experts of the demo's layers: captured scenes, experts, and the rule that selected them."""
    scenes = capture_corpus(model, open_corpus("organism", n_items=N_ITEMS), kept / "scenes")
    problems = capture_corpus(
        model, open_corpus("organism:problems", languages=[PIVOT], n_items=N_ITEMS), kept / "problems"
    )
    rule = DeltaRule(threshold=DEMO.threshold, layers=DEMO.layers)
    return scenes, task_experts(problems, scenes, language=PIVOT, rule=rule), rule


def replacements(model: Model, scenes: Run, rule: DeltaRule, data: Path, kept: Path) -> dict[str, Path]:
    """Write tables of experts that stand in for the plan's: other languages', another task's, another pivot's."""
    wide = DeltaRule(threshold=0.0, layers=rule.layers)
    others = [code for code in scenes.languages if code != PIVOT]
    parts = [language_experts(scenes, code, pivot=PIVOT, rule=wide) for code in others]
    found = {"multilingual": united(parts)}
    medical = capture_corpus(model, medical_sentences(data), kept / "medical")
    found["unrelated-task"] = task_experts(medical, scenes, language=PIVOT, rule=wide)
    german = open_corpus("organism:problems", languages=[OTHER_PIVOT], n_items=N_ITEMS)
    found["other-pivot"] = task_experts(
        capture_corpus(model, german, kept / "problems-de"), scenes, language=OTHER_PIVOT, rule=wide
    )
    paths = {name: kept / f"experts-{name}.json" for name in found}
    for name, path in paths.items():
        write_json(path, found[name].to_json())
    return paths


def medical_sentences(data: Path) -> Corpus:
    """The first English sentences of TICO-19, which the model has read some of."""
    lines = (data / "tico19" / "tico19-test.en").read_text(encoding="utf-8").splitlines()[:MEDICAL]
    return Corpus("tico19", {PIVOT: tuple(lines)}, tuple(map(str, range(len(lines)))), "CC0-1.0", "TICO-19, test")


def united(parts: list[ExpertTable]) -> ExpertTable:
    """Keep each expert once, with the greatest statistic that any language gives it."""
    best = {}
    for part in parts:
        for row in part.experts:
            place = row.layer, row.expert
            if place not in best or row.statistic > best[place].statistic:
                best[place] = row
    experts = tuple(best[place] for place in sorted(best))
    return ExpertTable("delta", {**parts[0].parameters, "kind": "multilingual"}, experts, None)


def gain_over(folder: Path, arm: str) -> Estimate:
    """How much more the plan gives than another arm, item by item, in these languages."""
    return compare_folders(folder, folder, arms=(arm, PLAN)).overall_these_languages.difference


def claims(summary: EvaluationSummary, folder: Path) -> str:
    """Judge the papers' claims by the intervals: shown, the opposite shown, or not shown."""
    like, these = (judged(each.difference) for each in (summary.overall, summary.overall_these_languages))
    lines = [
        f"* Steering task experts raises accuracy: {like} for languages like these, {these} for these.",
        f"* English loses less than a point: {summary.guard[PLAN].verdict}.",
    ]
    lines += [f"* The plan does better than {arm}: {judged(gain_over(folder, arm))}." for arm in summary.controls]
    return "\n".join(lines)


def arms_table(summary: EvaluationSummary, folder: Path) -> str:
    """One row per arm: its effect, its cost in the pivot, and the plan's gain over it."""
    rows = []
    for arm, each in summary.compared.items():
        guard, kl = summary.guard[arm], summary.mean_kl(arm)
        rows.append(
            (
                arm,
                str(summary.n_experts[arm]),
                points(each.overall.difference),
                points(each.overall_these_languages.difference),
                f"{100 * guard.change:+.1f} ({guard.verdict})",
                "–" if kl is None else f"{kl.value:.3f}",
                "–" if arm == PLAN else points(gain_over(folder, arm)),
            )
        )
    columns = ("Arm", "Experts", "Languages like these", "These languages", "English (guard)", "KL", "Plan minus arm")
    return table(columns, rows)


def languages_table(summary: EvaluationSummary) -> str:
    """Baseline, difference, exact p-values and what could have been detected, by language."""
    rows = [
        (
            display_name(code),
            points(row.baseline),
            points(row.difference),
            f"{row.p_value:.3f}",
            f"{row.p_adjusted:.3f}",
            f"{row.p_bh:.3f}",
            "–" if math.isnan(row.minimum_detectable) else f"{100 * row.minimum_detectable:.1f}",
        )
        for code, row in summary.per_language.items()
    ]
    columns = ("Language", "Unsteered, %", "Difference, points", "p", "p, Holm", "p, BH", "Detectable, points")
    return table(columns, rows)


def likelihood(model: Model, plan: Plan, kept: Path) -> Iterator[str]:
    """The same plan on the likelihood of the right working: the sensitive measure."""
    task = load_task("organism:reference", n_items=N_QUESTIONS)
    summary = evaluate_plan(model, plan, task=task, out=kept / "reference", arms=["random:2", "suppress"])
    yield "### The likelihood of the right working"
    rows = []
    for arm, each in summary.compared.items():
        both = (mean.difference.text() for mean in (each.overall, each.overall_these_languages))
        rows.append((arm, *both, f"{len(each.significant)} of {len(each.per_language)}"))
    columns = ("Arm", "Languages like these", "These languages", "Languages that change, Holm")
    yield f"Bits per byte, steered minus unsteered: below zero is better.\n\n{table(columns, rows)}"


def planted_section(kept: Path) -> Iterator[str]:
    """A model whose answers depend on one known expert: the whole chain must find it and measure the gain."""
    yield "## A planted case"
    yield (
        "A tiny model with weights set by hand: one expert writes right answers, and only English routes to it. The "
        "twin has the same routing, and an expert that writes nothing."
    )
    rows = []
    for name, effective in (("planted", True), ("twin", False)):
        found, summary = planted_chain(kept / name, effective=effective)
        controls = [control.overall.difference for control in summary.controls.values()]
        worst = max(row.p_adjusted for code, row in summary.per_language.items() if code != PIVOT)
        rows.append(
            (
                name,
                ", ".join(f"layer {row.layer} expert {row.expert}" for row in found.experts),
                points(summary.overall.difference),
                f"{worst:.1e}" if worst < 0.001 else f"{worst:.3f}",  # noqa: PLR2004
                points(summary.per_language[PIVOT].difference),
                "; ".join(points(control) for control in controls),
            )
        )
    columns = ("Model", "Found", "Gain, points", "Greatest p of another language, Holm", "English", "Random controls")
    yield table(columns, rows)


def planted_chain(kept: Path, *, effective: bool) -> tuple[ExpertTable, EvaluationSummary]:
    """Capture, find, plan and evaluate."""
    kept.mkdir(exist_ok=True)
    model = load(str(planted_model(kept / "model", effective=effective)), dtype="float32")
    solved, generic = planted_corpora()
    task_run = capture_corpus(model, solved, kept / "solved")
    found = task_experts(
        task_run, capture_corpus(model, generic, kept / "generic"), language=PIVOT, rule=DeltaRule(threshold=0.4)
    )
    plan = found.plan("soft", strength=0.5)
    items = planted_problems()
    asked = {code: [Item(*row) for row in rows] for code, rows in items.items()}
    task = Task("planted", asked, parse_number, max_new_tokens=2)
    return found, evaluate_plan(model, plan, task=task, out=kept / "eval", arms=["random:3"])
