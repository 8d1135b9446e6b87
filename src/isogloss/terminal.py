"""What a terminal gets: text from files and names, without characters that command it."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["printable", "visible"]

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


_JOINERS = "\u200c\u200d"  # between letters of many scripts


def visible(token: str) -> str:
    r"""Write a token so that all of it is seen: spaces as ``␣``, what has no shape as its code, lone marks on a circle.

    Example:
        >>> visible(" ab\n"), visible("\u0301"), visible("\u200f")
        ('␣ab\\n', '◌́', '\\u200f')
    """
    shown = "".join(map(_shape, token))
    return f"◌{shown}" if token and unicodedata.category(token[0]).startswith("M") else shown


def _shape(character: str) -> str:
    category = unicodedata.category(character)
    if character == " ":
        return "␣"
    if category in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") and character not in _JOINERS:
        return character.encode("unicode_escape").decode()
    return character
