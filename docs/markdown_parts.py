"""Tables in Markdown, for the scripts that write documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["estimate", "table", "with_section"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows under their columns."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ("---",) * len(columns), *rows))


def estimate(found: dict[str, Any], places: int = 3) -> str:
    """Write an estimate, as JSON types, with its interval where it has one."""
    if found["value"] is None:
        return "–"
    value = f"{found['value']:.{places}f}"
    return value if found["low"] is None else f"{value} [{found['low']:.{places}f}, {found['high']:.{places}f}]"


def with_section(page: str, section: str) -> str:
    """Put a section in the place of the one with its heading, of two #, or before the page's last line."""
    head = section.partition("\n")[0]
    found = re.search(rf"^{re.escape(head)}\n.*?(?=^## |^\*[^*\n]+\*$|\Z)", page, re.MULTILINE | re.DOTALL)
    if found:
        return f"{page[: found.start()]}{section}\n\n{page[found.end() :]}"
    rest, last = page.rstrip("\n").rsplit("\n", 1)
    return f"{rest}\n{section}\n\n{last}\n"
