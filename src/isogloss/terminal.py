"""What a terminal gets: text without characters that command it, and no more messages than were asked for."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from isogloss.errors import IsoglossError

__all__ = ["LEVEL_VARIABLE", "printable", "shows", "verbosity", "visible"]

# Control characters but tab and line feed, marks that turn the direction of text, and halves of characters.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

LEVEL_VARIABLE = "ISOGLOSS_LOG_LEVEL"
"""Environment variable that says which messages are shown, where no option of a command does."""

_LEVELS = ("error", "warning", "info", "debug")
_chosen: list[str] = []  # the last one counts


def printable(text: str) -> str:
    r"""Write every character that a terminal would obey, such as those of escape sequences, as its code.

    In JSON the code is the same character, so JSON stays the same data.

    Example:
        >>> printable("red \x1b[31m") == "red " + chr(92) + "u001b[31m"
        True
    """
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_JOINERS = "\u200c\u200d"  # between letters of many scripts


def visible(token: str) -> str:
    r"""Write a token so that all of it is seen: spaces as ``␣``, what has no shape as its code, lone marks on a circle.

    Example:
        >>> visible(" ab\n"), visible("\u0301"), visible("\u200f")
        ('␣ab\\n', '◌́', '\\u200f')
    """
    kept = _JOINERS if token.strip(_JOINERS) else ""
    shown = "".join(_shape(character, kept) for character in token)
    return f"◌{shown}" if token and unicodedata.category(token[0]).startswith("M") else shown


def _shape(character: str, kept: str) -> str:
    if character == " ":
        return "␣"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") and character not in kept:
        return character.encode("unicode_escape").decode()
    return character


def shows(level: str) -> bool:
    """Return whether messages of a level are shown on stderr.

    Args:
        level: ``warning``: notes, which a reader of the results should know; ``info``: what is being done, and bars;
            ``debug``: how long it took, and where an error was raised. Errors are always shown. By default all but
            ``debug`` are.

    Raises:
        IsoglossError: `LEVEL_VARIABLE` is set to something else.
    """
    shown = _chosen[-1] if _chosen else os.environ.get(LEVEL_VARIABLE, "").lower() or "info"
    if shown not in _LEVELS:
        raise IsoglossError(f"{LEVEL_VARIABLE} is {shown!r}; expected {', '.join(_LEVELS)}")
    return _LEVELS.index(level) <= _LEVELS.index(shown)


@contextmanager
def verbosity(level: str | None) -> Iterator[None]:
    """Show the messages of a level and of those that weigh more while open, whatever the environment says.

    Args:
        level: as of `shows`, or ``error``; None for what the environment says.
    """
    if level is not None:
        _chosen.append(level)
    try:
        yield
    finally:
        if level is not None:
            _chosen.pop()
