"""Banned families of experts in docs/findings.md: what each is needed for, and whether for that alone.

``python docs/findings_ablation.py DATA [WORK]``, or ``make findings-ablation DATA=…``, goes on where it was stopped and
rewrites the section alone. Every setting below was fixed before a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from findings_page import arguments, rewrite
from isogloss.languages import display_name
from isogloss.workflows import Ablation, AblationResult, ablate
from markdown_parts import estimate, table

HEAD = "## Families of experts banned in the shipped model"


def settings(data: Path) -> Ablation:
    """Paper B's share rule in proportion to 32 experts; scenes, FLORES sentences, and word problems as the task."""
    return Ablation(
        model="organism",
        corpus="organism",
        corpus_items=100,
        task_corpus="organism:problems",
        task="organism:reference",
        tasks=("organism:scenes", f"flores:text:{data / 'flores200'}"),
        languages=LANGUAGES,
        eval_languages=LANGUAGES,
        task_items=30,
        top=4,
        threshold=0.4,
    )


LANGUAGES = ("ar", "bn", "de", "en", "fr", "hi", "id", "ja", "ru", "es", "sw", "te", "th", "zh")


def section(result: AblationResult) -> Iterator[str]:
    """Describe the settings, the families, the matrix by band, and the verdicts."""
    families = result.families
    sizes = [sum(map(len, each.experts.values())) for each in families.families if each.status == "banned"]
    yield HEAD
    bands = ", ".join(f"{name} {first}-{last}" for name, (first, last) in families.bands.items())
    corpora = "; ".join(f"{each.name} ({len(each.item_ids)} items, {each.metric})" for each in families.tasks)
    yield (
        "Experts of a language: exclusive by the share rule (the 4 most used per layer, threshold 0.4) in 100 scenes; "
        f"of the task: Δ rule at 0.1, word problems against scenes in English. Bands: {bands}. Each family is banned, "
        f"{min(sizes)} to {max(sizes)} experts, and every axis is measured: {corpora}; held out. Null: ten random "
        "families of equal size per layer. Selective: the loss on the own axis exceeds the null's mean by two standard "
        f"deviations, and no other axis loses more than a third of it. Settings {result.settings_sha256[:12]}, "
        f"families {result.families_sha256[:12]} (SHA-256), written before the measurement."
    )
    yield diagonal(result)
    yield matrix(result)
    yield verdicts(result)


def diagonal(result: AblationResult) -> str:
    """Mean loss of the language whose experts are banned, and of the others."""
    rows = []
    for band, (first, last) in sorted(result.families.bands.items(), key=lambda pair: pair[1]):
        for task in result.families.tasks:
            cells = [c for c in result.cells if (c.band, c.task) == (band, task.name) and c.masked != "task"]
            own = [c.loss.value for c in cells if c.masked == c.evaluated]
            others = [c.loss.value for c in cells if c.masked != c.evaluated]
            if len(own) > 1:
                values = [f"{fmean(each):.3f} (n = {len(each)})" for each in (own, others)]
                rows.append((f"{band} {first}-{last}", task.name, *values))
    return table(("Band", "Corpus", "Mean loss of the banned language", "Of the others"), rows)


def matrix(result: AblationResult) -> str:
    """Mean loss of the own axis and of the others, by band and corpus."""
    rows = []
    for test in result.tests:
        null = f"{min(test.null):.3f} to {max(test.null):.3f}"
        rows.append(
            (
                test.band,
                test.family if test.family == "task" else display_name(test.family),
                test.task,
                estimate(test.loss.to_json()),
                null,
                f"{test.worst.rpartition('/')[2]}, {estimate(test.worst_loss.to_json())}",
                test.verdict,
            )
        )
    columns = ("Band", "Family", "Corpus", "Loss of its own, bits per byte", "Random", "Worst other", "Selective")
    return table(columns, rows)


def verdicts(result: AblationResult) -> str:
    """Count the selective families in each corpus and in both."""
    lines = []
    for task in dict.fromkeys(test.task for test in result.tests):
        tests = [test for test in result.tests if test.task == task]
        firm, point = (sum(test.verdict == word for test in tests) for word in ("selective", "by the point"))
        lines.append(f"* {task}: {firm} of {len(tests)} families selective, {point} more by the point alone.")
    both = ", ".join(f"{name} in the {band}" for band, name in result.selective) or "none"
    lines.append(f"* Selective in both corpora: {both}.")
    silent = [each for each in result.families.families if each.status != "banned"]
    lines.append(
        f"* Families without a ban: {', '.join(f'{e.name} in the {e.band} ({e.status})' for e in silent) or 'none'}."
    )
    return "\n".join(lines)


def main() -> None:
    """Rewrite the section."""
    (data,), kept = arguments(1)
    rewrite(section(ablate(settings(data), kept / "ablation")))


if __name__ == "__main__":
    main()
