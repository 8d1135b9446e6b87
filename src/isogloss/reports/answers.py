"""A few answers without and with the plan: some that it made right, some that it made wrong, and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isogloss.errors import RunError
from isogloss.evaluation import BASELINE, PLAN, EvaluationSummary, ItemRecord, read_records
from isogloss.reports.figures import Table
from isogloss.reports.text import MISSING, label, plain

_MOST_LANGUAGES = 6
_LONGEST = 400
_VERDICTS = {(False, True): "now right", (True, False): "no longer right", (False, False): "wrong in both"}


class SampleAnswer(NamedTuple):
    """One item in one language: what was right, and both answers."""

    language: str
    item: str
    expected: str
    before: str
    after: str
    verdict: str


def sample_answers(folder: Path, summary: EvaluationSummary) -> tuple[SampleAnswer, ...]:
    """Read a few answers of an evaluation: of the languages that change most, the first of each verdict.

    Empty where nothing is generated, as where options are scored, and where answers are not kept beside the summary.

    Raises:
        RunError: a file of answers is damaged.
    """
    changes = {code: row.difference.value for code, row in summary.per_language.items()}
    chosen = sorted(changes, key=lambda code: (-abs(changes[code]), code))[:_MOST_LANGUAGES]
    return tuple(sample for code in chosen for sample in _of_language(folder, code))


def _of_language(folder: Path, code: str) -> Iterator[SampleAnswer]:
    files = [folder / arm / f"{code}.jsonl" for arm in (BASELINE, PLAN)]
    if not all(file.is_file() for file in files):
        return
    try:
        before, after = map(read_records, files)
    except RunError:
        return  # documents of lm-evaluation-harness, which hold no text of the model
    seen: set[str] = set()
    for one, other in zip(before, after, strict=False):
        verdict = _verdict(one, other)
        if one.output is not None and other.output is not None and verdict and verdict not in seen:
            seen.add(verdict)
            yield SampleAnswer(code, one.item, one.expected, one.output, other.output, verdict)


def _verdict(before: ItemRecord, after: ItemRecord) -> str:
    """Say how the plan changed an answer; nothing where both are right, or the answers are the same."""
    if before.correct is None or after.correct is None:
        return "" if before.output == after.output else f"score {before.value:.2f} → {after.value:.2f}"
    return _VERDICTS.get((before.correct, after.correct), "") if before.output != after.output else ""


def answers_table(answers: Sequence[SampleAnswer]) -> Table | None:
    """List answers without and with the plan, cut where they are long; None without any."""
    if not answers:
        return None
    rows = [
        (label(each.language), each.verdict, *map(_cut, (each.expected, each.before, each.after, each.item)))
        for each in answers
    ]
    caption = (
        "The first answers of each kind that the plan changed, of the languages whose score changes most: they show"
        " what an answer looks like, and say nothing about how often it is so."
    )
    header = ("language", "verdict", "right answer", "without the plan", "with the plan", "item")
    return Table("A few answers", caption, header, rows, frozenset(range(len(header))), folded=False)


def _cut(text: str) -> str:
    text = plain(text).strip()
    return f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text or MISSING
