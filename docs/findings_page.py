"""What the scripts of docs/findings.md share: the page, its sections, and how a difference is written and judged."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from isogloss.arrays import FloatArray
from isogloss.evaluation import outcome_of
from isogloss.statistics import MINUS, Estimate
from markdown_parts import with_section

__all__ = ["PAGE", "arguments", "claim", "judged", "percents", "points", "rewrite"]

PAGE = Path(__file__).parent / "findings.md"
_HYPHEN = re.compile(r"(?<!\w)-(?=\d)")
WORDS = {"better": "shown", "worse": "the opposite is shown", None: "not shown"}


def arguments(n_needed: int = 0) -> tuple[list[Path], Path]:
    """Read the command line: the paths that a script needs, and the folder in which it keeps what it has done.

    Args:
        n_needed: how many paths come before the folder; the process ends with the usage where they are missing.
    """
    given = [Path(each) for each in sys.argv[1:] if not each.startswith("--")]
    if len(given) < n_needed:
        sys.exit(f"usage: python {sys.argv[0]} {'DATA ' * n_needed}[WORK]")
    kept = given[n_needed] if len(given) > n_needed else Path("build/findings")
    kept.mkdir(parents=True, exist_ok=True)
    return given[:n_needed], kept


def rewrite(*sections: Iterable[str]) -> None:
    """Put sections, each given by its paragraphs, in their places on the page, with minus signs before numbers."""
    page = PAGE.read_text(encoding="utf-8")
    for parts in sections:
        page = with_section(page, _HYPHEN.sub(MINUS, "\n\n".join(parts)))
    PAGE.write_text(page, encoding="utf-8")


def points(difference: Estimate) -> str:
    """Write an estimate of a share in points."""
    return difference.scaled(100).text("{:.1f}".format)


def percents(values: Mapping[str, FloatArray], languages: Sequence[str]) -> list[str]:
    """Write the accuracy of each language."""
    return [f"{100 * values[code].mean():.1f}" for code in languages]


def judged(difference: Estimate) -> str:
    """Say what an interval shows of a claim that something is better."""
    return WORDS[outcome_of(difference)]


def claim(text: str, difference: Estimate, unit: str = "") -> str:
    """Write a claim, whether it is shown, and the difference in points."""
    return f"* {text}: {judged(difference)} ({points(difference)}{unit})."
