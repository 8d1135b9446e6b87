"""What a terminal gets: text from files and names, without characters that command it."""

from __future__ import annotations

import re

__all__ = ["printable"]

# Control characters but tab and line feed, marks that turn the direction of text, and halves of characters.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Write every character that a terminal would obey, such as those of escape sequences, as its code.

    In JSON the code is the same character, so JSON stays the same data.

    Example:
        >>> printable("red \x1b[31m") == "red " + chr(92) + "u001b[31m"
        True
    """
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
