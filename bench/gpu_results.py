"""What a run on a GPU has measured so far: printed, kept in a file at every number, and written as a page."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timing import Ratio

__all__ = ["Results", "Row"]

HEAD = """# Performance on a GPU

Written by `make bench-gpu`; all ratios are of medians of rounds that took turns in one
process, times in milliseconds.
"""


@dataclass(frozen=True)
class Row:
    """One number or one comparison.

    Attributes:
        what: was measured.
        ratio: None where nothing was compared.
        aim: largest ratio that is aimed at; None for none.
        equal: whether what must be equal is; None where nothing must be.
        note: what else was measured, or why nothing was.
    """

    what: str
    ratio: Ratio | None = None
    aim: float | None = None
    equal: bool | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the row of a table."""
        verdict = "" if self.equal is None else "equal" if self.equal else "NOT EQUAL"
        if self.ratio is None:
            return self.what, "", "", "", "", verdict, self.note
        times = f"{self.ratio.ours * 1e3:.1f}", f"{self.ratio.other * 1e3:.1f}"
        spread = f"{self.ratio.low:.3f}-{self.ratio.high:.3f} ({self.ratio.n_rounds})"
        if self.aim is not None:
            verdict = f"{'within' if self.ratio.value <= self.aim else 'above'} {self.aim:g}"
        return self.what, f"{self.ratio.value:.3f}", spread, *times, verdict, self.note


@dataclass
class Results:
    """All rows by part.

    Attributes:
        conditions: what was measured on and how.
        path: of the JSON file, written anew at every row; None for none.
        parts: name to rows.
        open_parts: that have not come to their end.
    """

    conditions: Mapping[str, Any]
    path: Path | None = None
    parts: dict[str, list[Row]] = field(default_factory=dict)
    open_parts: list[str] = field(default_factory=list)
    say: Callable[[str], None] = print
    began: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> list[str]:
        """What is not equal."""
        return [f"{part}: {row.what}" for part, rows in self.parts.items() for row in rows if row.equal is False]

    def begin(self, part: str) -> None:
        """Begin a part."""
        self.open_parts.append(part)
        self.parts[part] = []
        self.say(f"[{time.monotonic() - self.began:5.0f} s] {part}")
        self._save()

    def add(self, part: str, row: Row) -> None:
        """Keep a row."""
        self.parts[part].append(row)
        self.say(f"[{time.monotonic() - self.began:5.0f} s]   " + " | ".join(cell for cell in row.cells() if cell))
        self._save()

    def end(self, part: str) -> None:
        """Note that a part has come to its end."""
        self.open_parts.remove(part)
        self._save()

    def _save(self) -> None:
        if self.path is None:
            return
        parts = {name: [asdict(row) | _named(row) for row in rows] for name, rows in self.parts.items()}
        content = {**self.conditions, "seconds": time.monotonic() - self.began, "parts": parts}
        content["unfinished"] = self.open_parts
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(whole, self.path)  # noqa: PTH105 - one step, so that a run cut off leaves a whole file

    def page(self) -> str:
        """Return all of it as Markdown."""
        lines = [HEAD, "; ".join(f"{name}: {value}" for name, value in self.conditions.items()) + ".", ""]
        for part, rows in self.parts.items():
            lines += [f"## {part[0].upper()}{part[1:]}", "", *(_table(rows) or ["Nothing was measured."]), ""]
            if part in self.open_parts:
                lines += ["Cut off at its time.", ""]
        return "\n".join(lines)


def _named(row: Row) -> dict[str, Any]:
    return {"ratio": None if row.ratio is None else row.ratio._asdict()}


def _table(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    head = ("", "ratio", "range (rounds)", "ours", "other", "", "")
    cells = [row.cells() for row in rows]
    used = [i for i in range(len(head)) if i == 0 or any(row[i] for row in cells)]
    lines = [[row[i] for i in used] for row in (head, *cells)]
    lines.insert(1, ["---"] * len(used))
    return ["| " + " | ".join(line) + " |" for line in lines]
