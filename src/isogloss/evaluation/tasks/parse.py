"""Reads answers off generated text: numbers in any script, boxed answers, letters of options, plain text."""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "DECIMAL_COMMA",
    "parse_boxed",
    "parse_latex",
    "parse_letter",
    "parse_number",
    "parse_text",
    "read_number",
]

# Languages of our tasks that write 1.234,5 for 1,234.5. Source: Unicode CLDR, symbols-numberSystem-latn, decimal.
DECIMAL_COMMA = frozenset(
    """
    ces_Latn deu_Latn ell_Grek est_Latn fra_Latn ind_Latn ita_Latn kir_Cyrl lit_Latn nld_Latn pol_Latn por_Latn
    ron_Latn rus_Cyrl spa_Latn srp_Cyrl swe_Latn tur_Latn ukr_Cyrl vie_Latn
    """.split()  # noqa: SIM905 - a table
)

# Signs of other scripts: minus, full-width and small hyphen; full-width comma and stop; Arabic thousands and decimal;
# the narrow and unbreakable spaces that group digits.
_SIGNS = str.maketrans("−－﹣，．٬٫\u00a0\u202f\u2009", "---,.,.___")
# A hyphen after a letter, a digit or a bracket subtracts or joins; elsewhere it is a sign.
_NUMBER = re.compile(r"(?<![\w)\]])-?\d+(?:[.,_]\d+)*|\d+(?:[.,_]\d+)*")
_GROUPED = re.compile(r"\d{1,3}(?:(?P<mark>[.,_])\d{3}(?:(?P=mark)\d{3})*|(?:,\d{2})+,\d{3})")
_BOX = re.compile(r"\\boxed\s*\{")
_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")
# Spaces of LaTeX, and sizes of brackets and fractions: they change how an answer looks, not its meaning.
_SPACES = re.compile(r"(?<!\\)\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~")
_SIZES = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_SMALL_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
# All of a text that is one number: signs of currency on either side, percent, degrees, and what is counted.
_CURRENCY = "".join(chr(code) for code in range(0x20D0) if unicodedata.category(chr(code)) == "Sc")
_ONE_NUMBER = re.compile(
    rf"(?:[A-Z]{{1,3}}(?=\s*[{_CURRENCY}]))?[\s{_CURRENCY}]*(?P<sign>[-+]?)[\s{_CURRENCY}]*"
    rf"(?P<digits>\d{{1,3}}(?:[ ]\d{{3}})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,_]\d+)*)"
    rf"(?:\s*[%٪％°{_CURRENCY}])?(?P<unit>.*)",
    re.DOTALL,
)
# Words after a number that change its value, or of which it is a part, in the languages of PolyMath.
_NO_UNITS = frozenset(
    """
    pi sin cos tan log ln exp sqrt or and mod times plus minus hundred thousand million billion trillion dozen half
    hundert tausend millionen milliarden dutzend mille millions milliards douzaine cien cientos mil millón millones
    docena cem milhão milhões dúzia mila milione milioni miliardi dozzina ratus ribu juta lusin elfu laki milioni dazeni
    тысяча тысячи тысяч миллион миллиона миллионов миллиарда миллиардов дюжина trăm nghìn ngàn triệu tỷ tá
    ألف آلاف مليون ملايين مئة শত হাজার লক্ষ লাখ কোটি వందల వేల వేలు లక్ష లక్షలు కోటి ร้อย พัน หมื่น แสน ล้าน โหล
    """.split()  # noqa: SIM905 - a table
)
_NUMERALS = frozenset("十百千万萬亿億兆십백천만억조")
_AFTER_COLON = re.compile(r"[:：]\s*[\s*_$(\[\\{]*(?:boxed\{|text\{)?\(?([A-Z])(?![A-Za-z])")
_AT_START = re.compile(r"[\s*_(\[$]*([A-Z])(?:[\s*_$]*(?:[).:\]，。、]|$)|\s*\n)")
_ANSWER = re.compile(
    r"answer\b[\s*_]*(?:is|[:：])[\s*_:：$(\[\\{]*(?:boxed\{|text\{)?\(?([A-Z])(?![A-Za-z])", re.IGNORECASE
)
_ALONE = re.compile(r"(?<![A-Za-z'’])([B-Z]|A(?!\s+(?!or\b|and\b)[a-z]))(?![A-Za-z'’])")


def parse_number(output: str, language: str | None = None) -> str | None:
    """Return the last number of an output, written plainly, or None.

    Digits of every script count, as do full-width and Arabic separators and the signs − and －. Marks between groups of
    three digits (or of two and three, as in 1,14,200) are dropped: 1,234 is 1234 everywhere, 1.234 where the language
    has a decimal comma, and 0.125 and 0,125 are fractions everywhere. Any other comma separates two numbers where the
    language has a decimal point. A hyphen after a digit or letter is not a sign: the last number of 10-3 is 3.

    Args:
        output: any text.
        language: full code; in those with a decimal comma 3,5 is 3.5 and 1.234 is 1234. None reads as English.

    Returns:
        As in ``-1234.5``: no thousands marks, no zeros in front or at the end, no ``-0``.

    Source:
        The flexible-extract filter of lm-evaluation-harness's mgsm_direct tasks: the last number counts. That filter
        ignores all punctuation, so that 18.00 is 1800 there; here it is 18.

    Example:
        >>> [parse_number(text) for text in ("costs $1,234.50.", "১৮ টাকা", "no idea", "1,2,3")]
        ['1234.5', '18', None, '3']
        >>> parse_number("insgesamt 1.234,50 €", "deu_Latn")
        '1234.5'
    """
    numbers = _NUMBER.findall(_plain(output))
    return _canonical(numbers[-1], decimal_comma=language in DECIMAL_COMMA) if numbers else None


def parse_boxed(output: str, language: str | None = None) -> str | None:
    r"""Return the content of the last ``\boxed{}`` of an output: a number where it is one.

    Numbers are as from `parse_number`; a fraction is ``a/b``; all else is the LaTeX without spaces and dollar signs.
    None where there is no box, it is never closed, or nothing is in it.

    Example:
        >>> [parse_boxed(text) for text in (r"so $\boxed{1{,}234}$.", r"\boxed{\frac{5}{4}}", r"\boxed{}", "18")]
        ['1234', '5/4', None, None]
    """
    content = _last_box(output)
    return None if content is None else parse_latex(content, language)


def parse_latex(content: str, language: str | None = None) -> str | None:
    r"""Return an answer in LaTeX without its box, as `parse_boxed` does; expressions are the same in every language.

    Only a number by itself is read as one, with a currency, a percent sign or words for what is counted around it.
    Expressions, intervals, tuples and lists (``2n``, ``[2,3)``, ``(3,2)``, ``1 or 2``) are compared as written.

    Example:
        >>> [parse_latex(text, "deu_Latn") for text in ("3,5", "[2,3)", "n - 1", r"18 \text{ m}")]
        ['3.5', '[2,3)', 'n-1', '18']
    """
    content = _SPACES.sub(" ", content.replace("{,}", ",").replace(r"\,", "").replace(r"\!", ""))
    content = content.replace(r"\$", "$").replace(r"\%", "%")
    number = read_number(_TEXT.sub(_without_unit, content), language)
    if number is not None:
        return number
    content = _plain(" ".join(_TEXT.sub(r" \1 ", content).replace("$", "").replace("%", "").split()))
    content = _SMALL_FRACTION.sub(r"\\frac", _SIZES.sub("", content)).removesuffix(".")
    written = re.sub(r"(?<!\d) | (?!\d)", "", content)  # 1 2 is not 12
    fraction = _FRACTION.fullmatch(written)
    return "".join((fraction[1], fraction[2], "/", fraction[3])) if fraction else written or None


def read_number(text: str, language: str | None = None) -> str | None:
    """Return the number that a text is, written as by `parse_number`, or None where it is more or less than one.

    A currency, a percent sign, or words for what is counted may precede or follow it.

    Example:
        >>> [read_number(text, "deu_Latn") for text in ("3,5", "1 234 Eier", "12 bis 15", "2n", "3!", "- 4")]
        ['3.5', '1234', None, None, None, '-4']
    """
    match = _ONE_NUMBER.fullmatch(_plain(re.sub("[\u00a0\u202f\u2009]", " ", text.strip())))
    if match is None or not _is_unit(match["unit"]):
        return None
    digits = match["digits"].replace(" ", "_")
    if _read(digits, "," if language in DECIMAL_COMMA else ".") is None:
        return None
    return _canonical(match["sign"].strip("+") + digits, decimal_comma=language in DECIMAL_COMMA)


def parse_letter(output: str, n_options: int = 4) -> str | None:
    """Return the letter that an output chooses, or None where it chooses none or several.

    In this order: the last letter after "answer is" or "answer:", the last after any colon, a letter at the start of
    the output that is not part of a word, the only letter of an option that occurs as a word of its own. The English
    article does not count as a letter.

    Args:
        output: any text; full-width letters count.
        n_options: how many letters there are, from A on; at most 26.

    Source:
        The instruction ``Answer: $LETTER`` and its pattern are those of openai/simple-evals (common.py); the further
        rules are ours, for models that answer with less.

    Example:
        >>> [parse_letter(text) for text in ("Answer: B", "(C) because of A", "**D**", "A cat sat.", "A or B", "")]
        ['B', 'C', 'D', None, None, None]
    """
    text = unicodedata.normalize("NFKC", output)
    allowed = {chr(ord("A") + index) for index in range(n_options)}
    for pattern in (_ANSWER, _AFTER_COLON):
        marked = [letter for letter in pattern.findall(text) if letter in allowed]
        if marked:
            return str(marked[-1])
    opening = _AT_START.match(text)
    if opening and opening[1] in allowed:
        return opening[1]
    alone = {letter for letter in _ALONE.findall(text) if letter in allowed}
    return str(alone.pop()) if len(alone) == 1 else None


def parse_text(output: str) -> str | None:
    """Return an output without white space around it, or None where nothing is left."""
    return output.strip() or None


def _plain(text: str) -> str:
    """Write all decimal digits in ASCII and separators of other scripts as ours."""
    digits = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    return digits.translate(_SIGNS)


def _canonical(number: str, *, decimal_comma: bool) -> str:
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    read = _read(digits, "," if decimal_comma else ".")
    while read is None:  # a list: its last number, to which the sign in front does not belong
        kinds = set(re.findall(r"[.,_]", digits))
        digits = re.split(r"[.,_]", digits, maxsplit=0 if len(kinds) == 1 else 1)[-1]
        sign, read = "", _read(digits, "," if decimal_comma else ".")
    whole, fraction = read[0].lstrip("0") or "0", read[1].rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return value if value == "0" else sign + value


def _read(digits: str, decimal: str) -> tuple[str, str] | None:
    """Split one number into whole and fraction; None where its marks separate several numbers."""
    marks = re.findall(r"[.,_]", digits)
    if not marks:
        return digits, ""
    last, grouped = marks[-1], _GROUPED.fullmatch(digits) and not digits.startswith("0")
    before, after = digits.rsplit(last, 1)
    if len(marks) > 1 and marks.count(last) == 1 and _GROUPED.fullmatch(before):
        return _only_digits(before), after  # 1.234,56 and 1,234.56: the other mark groups
    if grouped and (last != "." or decimal == "," or len(marks) > 1):
        return _only_digits(digits), ""
    if len(marks) == 1 and last != "_" and (last in (".", decimal) or digits.startswith("0,")):
        return before, after
    return None


def _without_unit(text: re.Match[str]) -> str:
    """Return the content of a text in LaTeX without the words for what is counted; letters of formulas stay."""
    inner = str(text[1])
    counted = text[0].startswith(r"\text{") and not any(char.isdecimal() for char in inner)
    return " " if counted and (len(inner.strip()) == 1 or _is_unit(f" {inner}")) else f" {inner} "


def _is_unit(following: str) -> bool:
    """Whether the text after a number names what is counted: words, and no variables, operators or numerals."""
    words = re.sub(r"[.。]?\s*$", "", following).split()
    if words and not following[0].isspace() and _is_variable(words[0][0]):
        return False
    return all(
        word.lower() not in _NO_UNITS
        and word[0].isalpha()
        and word[0] not in _NUMERALS
        and all(unicodedata.category(char)[0] in "LM" or char in "'’-." for char in word)
        and not (len(word.strip(".")) == 1 and _is_variable(word[0]))
        for word in words
    )


def _is_variable(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("LATIN", "GREEK", "MATHEMATICAL"))


def _only_digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _last_box(output: str) -> str | None:
    boxes = list(_BOX.finditer(output))
    if not boxes:
        return None
    start, depth = boxes[-1].end(), 1
    for index in range(start, len(output)):
        depth += {"{": 1, "}": -1}.get(output[index], 0)
        if depth == 0:
            return output[start:index]
    return None
