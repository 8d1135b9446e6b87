"""The alignment section of docs/findings.md: the shipped model trained further, with and without a loss on routing.

``python docs/findings_alignment.py [WORK] [--finished]``, or ``make findings-alignment``, goes on where it was stopped
and rewrites the section alone; with ``--finished`` from the arms that are measured already, and says which are not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from findings_alignment_arms import ARMS, MIDDLE, N_PAIRS, RECIPE, trained
from findings_learning_arms import ALIGNED, LANGUAGES, PIVOT, learning_pool
from findings_learning_arms import ARMS as LEARNED_ARMS
from findings_page import arguments, claim, points, rewrite
from isogloss.analysis import DivergenceChange, divergence_change
from isogloss.arrays import FloatArray
from isogloss.backends.model import Model
from isogloss.backends.open import load
from isogloss.evaluation import ask, compare_scores, load_task
from isogloss.evaluation.corpus_score import paired_corpus_scores
from isogloss.evaluation.guard import guard_pivot
from isogloss.files import read_json, write_json
from isogloss.languages import display_name
from isogloss.organism import TIERS, scene_corpus
from isogloss.runs import Run, open_run
from isogloss.statistics import Estimate
from isogloss.steering import Plan
from isogloss.workflows import capture_corpus, learn_with_progress
from markdown_parts import table

__all__ = ["alignment_section"]

HEAD = "## Training that aligns routing, on the shipped model"
N_TEST, N_SCENES = 100, 100
TIER_LANGUAGES = {
    "high": (PIVOT,),
    "middle": ("deu_Latn", "jpn_Jpan", "zho_Hans"),
    "low": TIERS["low"].languages,
    "very low": LANGUAGES,
}
CODES = tuple(code for codes in TIER_LANGUAGES.values() for code in codes)
UNTRAINED, OFFSETS = "untrained", "offsets"

PROTOCOL = """\
The shipped model is trained further for {steps} steps, as many as the learned offsets take, on the same texts in the
same order in every arm: documents drawn as in its own training but from another stream, without the real texts (about
{tokens:,} tokens a step), and {pairs} pairs a step. A pair is a word problem of the dev split, without its working,
in one of the four languages of the very low tier, beside the same problem in English; both are learned as text
without an end. They are the first {n_pairs} problems of each language that the learned plans of the section above
take as examples. Arms differ in the loss alone: `RoutingAlignment` with the entropy-normalised divergence, English
fixed, weight {weight:g} (the divergence adds as much as the language-modelling loss on the first pairs, and keeps
that factor), load balancing as in the model's configuration. AdamW, learning rate {rate:g} with {warmup} steps of
warm-up and linear decay to 0. **One seed**: intervals are over languages and items, or over items, and say nothing
about another training. Measured once: the first {n_test} problems of the test split, whose equations no training has
seen, and {n_scenes} scenes from a stream that no training reads. Tiers: high is English, middle is German, Japanese
and Chinese. Divergence: from English in layers {first}-{last}, mean over the four languages of the very low tier, of
the held-out scenes. Load balance: Switch Transformer's loss on all scenes, 1 where all experts get the same. Offsets:
one number per expert and layer, learned from the same pairs by `isogloss learn` (seed 0), weights frozen. Fixed
before a test problem was answered, but for one correction: an earlier training, of 300 steps, ended every pair with
the end-of-text token, which teaches the model not to answer; this was seen when its arm of routers alone had been
measured on these test problems (English 78 %). All arms were then trained anew without that token, and for fewer
steps, since time was short; weight and learning rate stayed."""


@dataclass(frozen=True)
class Outcome:
    """What was measured of one arm.

    Attributes:
        right: language to 1 or 0 by test problem.
        english: ``[n_scenes, 2]``: bits and bytes of English scenes.
        run: of the held-out scenes.
    """

    right: Mapping[str, FloatArray]
    english: FloatArray
    run: Run


def measured(kept: Path, name: str, plan: Plan | None = None) -> Outcome:
    """Measure an arm, unless that was done."""
    folder = kept / name
    path = folder / "measured.json"
    if not path.is_file():
        weights = folder / "model"
        model = load(str(weights) if weights.is_dir() else "organism", dtype="float32")
        scenes = scene_corpus(N_SCENES, languages=CODES)
        capture_corpus(model, scenes, folder / "run", plan=plan)
        with model.steer(plan) if plan is not None else nullcontext():
            right = answered(model)
            likelihoods = model.log_likelihoods([("", text) for text in scenes.texts[PIVOT]])
        english = [
            [-each.nats / np.log(2), len(text.encode())]
            for each, text in zip(likelihoods, scenes.texts[PIVOT], strict=True)
        ]
        write_json(path, {"right": right, "english": english})
    found = read_json(path)
    right = {code: np.array(values, dtype=np.float64) for code, values in found["right"].items()}
    return Outcome(right, np.array(found["english"]), open_run(folder / "run"))


def answered(model: Model) -> dict[str, list[float]]:
    """Answer the test problems; language to right or wrong."""
    asked = ask(model, load_task("organism", languages=CODES, n_items=N_TEST, split="test"))
    return {
        code: [float(record.value) for record in asked.answer(code, asked.questions[code])]  # type: ignore[union-attr]
        for code in CODES
    }


def offsets_plan(model: Model, kept: Path) -> Plan:
    """Learn offsets from the same pairs, or go on with it."""
    arm = next(arm for arm in LEARNED_ARMS if arm.name == "alignment")
    learned = learn_with_progress(model, arm.data(learning_pool(), 0), out=kept / OFFSETS / "learned", options=ALIGNED)
    return learned.plan


def gain(before: Outcome, after: Outcome, codes: Sequence[str] = LANGUAGES) -> Estimate:
    """Difference of accuracy, mean over languages, interval over languages and items."""
    one, other = ({code: each.right[code] for code in codes} for each in (before, after))
    return compare_scores(one, other).overall.difference


def bits_per_byte(before: Outcome, after: Outcome) -> Estimate:
    """Difference of English's bits per byte."""
    return paired_corpus_scores(
        before.english, after.english, corpus_score=lambda sums: sums[..., 0] / sums[..., 1]
    ).difference


def balance_sums(run: Run) -> FloatArray:
    """Return what each scene, in all languages, adds to the sums of the load-balancing loss, ``[n_items, n_sums]``."""
    parts = []
    for code in CODES:
        routing = run.load(code)
        tokens = routing.tokens[:, None, None].astype(np.float64)
        parts.append(np.stack([routing.selections.astype(np.float64), routing.profiles * tokens], axis=1))
    sums = np.sum(parts, axis=0)
    return np.asarray(sums.reshape(len(sums), -1))


def balance_of(run: Run) -> Any:  # noqa: ANN401 - a function of sums
    """Return the function from sums to the mean over layers of the load-balancing loss."""
    _, n_layers, n_experts = run.manifest.shape

    def score(sums: FloatArray) -> FloatArray:
        chosen, weights = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, n_layers, n_experts), -3, 0)
        chosen, weights = (each / each.sum(-1, keepdims=True) for each in (chosen, weights))
        return np.asarray((n_experts * (chosen * weights).sum(-1)).mean(-1))

    return score


def balance(before: Outcome, after: Outcome) -> tuple[Estimate, Estimate]:
    """Load balance of the second, and its difference from the first."""
    sums = [balance_sums(each.run) for each in (before, after)]
    scores = paired_corpus_scores(*sums, corpus_score=balance_of(after.run))
    return scores.steered, scores.difference


def changes(before: Outcome, after: Outcome) -> DivergenceChange:
    """Compare the divergence of the very low tier from English on held-out scenes."""
    return divergence_change(before.run, after.run, pivot=PIVOT, languages=LANGUAGES)


def middle_divergence(outcome: Outcome) -> float:
    """Mean over layers 4-9 and the four languages."""
    curves = changes(outcome, outcome).after
    return float(
        np.mean([curve[layer].value for curve in curves.values() for layer in range(MIDDLE[0], MIDDLE[1] + 1)])
    )


def arms_table(outcomes: Mapping[str, Outcome], facts: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per arm."""
    base, rows = outcomes["without"], []
    for name, outcome in outcomes.items():
        fact, is_base = facts.get(name, {}), name in ("without", UNTRAINED)
        load_balance, _ = balance(base, outcome)
        rows.append(
            (
                says(name),
                f"{fact['trained']:,}" if fact else "–",
                f"{fact['seconds'] / 60:.1f}" if "seconds" in fact else "–",
                f"{middle_divergence(outcome):.3f}",
                *(
                    f"{100 * np.mean([outcome.right[code].mean() for code in codes]):.1f}"
                    for codes in TIER_LANGUAGES.values()
                ),
                "" if name == "without" else points(gain(base, outcome)),
                "" if name == "without" else bits_per_byte(base, outcome).text("{:+.3f}".format),
                load_balance.text("{:.3f}".format) if not is_base or name == "without" else f"{load_balance.value:.3f}",
            )
        )
    columns = (
        "Arm",
        "Trained numbers",
        "Minutes",
        "Divergence",
        *(f"{tier.capitalize()}, %" for tier in TIER_LANGUAGES),
        "Very low: change from *no alignment*, points",
        "English, bits per byte: change",
        "Load balance",
    )
    return table(columns, rows)


def says(name: str) -> str:
    """What tables call an arm."""
    named = {arm.name: arm.says for arm in ARMS} | {UNTRAINED: "*the shipped model*", OFFSETS: "offsets alone, aligned"}
    return named[name]


def layers_table(outcomes: Mapping[str, Outcome]) -> str:
    """Change of held-out divergence from the arm without alignment, by layer."""
    base, rows = outcomes["without"], []
    for name, outcome in outcomes.items():
        if name in ("without", UNTRAINED):
            continue
        found = changes(base, outcome)
        rows.append((says(name), *(each.text("{:+.3f}".format) for each in found.mean_change)))
    return table(("Arm", *(str(router.layer) for router in base.run.manifest.routers)), rows)


PAIRS = (
    ("middle", "without", "Alignment does more for the very low tier than the same training without it"),
    ("shuffled", "without", "So does alignment to shuffled pairs"),
    ("middle", "shuffled", "True pairs do more than shuffled ones"),
    ("all", "middle", "All layers do more than layers 4-9"),
    ("middle", "early", "Layers 4-9 do more than layers 0-3"),
    ("middle", "late", "Layers 4-9 do more than layers 10-11"),
    ("routers", "routers-without", "Alignment does more where routers alone are trained"),
    ("middle", "routers", "Aligning all weights does more than routers alone"),
    ("routers", OFFSETS, "Trained routers do more than offsets"),
)


def claims(outcomes: Mapping[str, Outcome]) -> str:
    """Judge every comparison by its interval, and English by the guard."""
    lines = []
    for first, second, text in PAIRS:
        if first in outcomes and second in outcomes:
            lines.append(claim(text, gain(outcomes[second], outcomes[first]), " points"))
    for name in ("middle", "shuffled", "all", "routers"):
        if name in outcomes:
            low = gain(outcomes["without"], outcomes[name], TIER_LANGUAGES["low"])
            lines.append(
                f"* The low tier, which is not aligned, {says(name)}: {points(low)} points against *no alignment* "
                "(over languages and items)."
            )
            judged = guard_pivot(outcomes[UNTRAINED].right[PIVOT], outcomes[name].right[PIVOT])
            lines.append(
                f"* English's problems, {says(name)}: {100 * judged.change:+.1f} points against the shipped model "
                f"({judged.verdict})."
            )
    return "\n".join(lines)


def outcomes_of(kept: Path, *, finished: bool) -> tuple[dict[str, Outcome], dict[str, Mapping[str, Any]]]:
    """Train and measure every arm, or take those that were; return outcomes, and what trainings wrote down."""
    names = [UNTRAINED, *(arm.name for arm in ARMS), OFFSETS]
    if finished:
        names = [name for name in names if (kept / name / "measured.json").is_file()]
    facts: dict[str, Mapping[str, Any]] = dict(trained(kept, [arm for arm in ARMS if arm.name in names]))
    plan = None
    if OFFSETS in names:
        plan = offsets_plan(load("organism", dtype="float32"), kept)
        facts[OFFSETS] = {"trained": sum(len(rule.experts) for rule in plan.interventions)}
    return {name: measured(kept, name, plan if name == OFFSETS else None) for name in names}, facts


def alignment_section(kept: Path, *, finished: bool = False) -> Iterator[str]:
    """Train, measure and judge; what was done before is kept in ``kept``."""
    outcomes, facts = outcomes_of(kept, finished=finished)
    yield HEAD
    yield PROTOCOL.format(
        steps=RECIPE.steps,
        tokens=RECIPE.document_tokens,
        pairs=RECIPE.pairs,
        n_pairs=N_PAIRS,
        weight=RECIPE.weight,
        rate=RECIPE.learning_rate,
        warmup=RECIPE.warmup,
        n_test=N_TEST,
        n_scenes=N_SCENES,
        first=MIDDLE[0],
        last=MIDDLE[1],
    )
    if missing := [arm.says for arm in ARMS if arm.name not in outcomes]:
        yield f"Not yet trained or measured: {'; '.join(missing)}."
    yield arms_table(outcomes, facts)
    names = ", ".join(display_name(code) for code in LANGUAGES)
    yield f"Change of held-out divergence from English against *no alignment*, by layer ({names}; over scenes):"
    yield layers_table(outcomes)
    yield "### What is shown of alignment"
    yield claims(outcomes)


def main() -> None:
    """Rewrite the section."""
    _, kept = arguments()
    rewrite(alignment_section(kept / "alignment", finished="--finished" in sys.argv))


if __name__ == "__main__":
    main()
