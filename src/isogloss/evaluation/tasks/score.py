"""Turns outputs and log-likelihoods into scores, item by item."""

from __future__ import annotations

import math
import re
import string
import threading
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.task import Item, Task

__all__ = [
    "Score",
    "corpus_chrf",
    "normalise_text",
    "require_sacrebleu",
    "same_expression",
    "score_bits",
    "score_options",
    "score_output",
    "token_f1",
]

# Source: MLQA (arXiv 1910.07475), mlqa_evaluation_v1.py, as facts of the metric. Its Arabic rule removes the article
# also inside a word. The languages of XQuAD that MLQA lacks (Greek, Romanian, Russian, Thai, Turkish) keep all words.
_ARTICLES = {
    "eng": r"\b(?:a|an|the)\b",
    "spa": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vie": r"\b(?:của|là|cái|chiếc|những)\b",
    "deu": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "arb": "ال",
}
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_HAN = re.compile("([\u4e00-\u9fa5])")


class Score(NamedTuple):
    """How one item went.

    Attributes:
        parsed: the answer that was parsed, or the option that was selected; None where there is none.
        correct: whether it is right; None where the metric knows no right and wrong.
        value: the task's metric for this item.
    """

    parsed: str | None
    correct: bool | None
    value: float


def score_output(task: Task, language: str, item: Item, output: str) -> Score:
    """Score one generated answer; an empty or unparsable one is wrong and has value 0.

    Raises:
        CorpusError: the metric is chrF and sacrebleu is not installed, or as of `same_expression`.
    """
    parsed = task.read(language, output)
    if parsed is None:
        return Score(None, None if task.metric == "chrf" else False, 0.0)
    if task.metric == "chrf":
        return Score(parsed, None, float(_chrf().sentence_score(parsed, [item.answer]).score))
    if task.metric == "f1":
        words, expected = normalise_text(parsed, language), normalise_text(item.answer, language)
        if not expected:  # nothing but articles and punctuation is expected: compare what is written
            words, expected = parsed.casefold(), item.answer.strip().casefold()
        return Score(parsed, words == expected, token_f1(words.split(), expected.split()))
    correct = parsed == item.answer or (task.normalise == "expressions" and same_expression(parsed, item.answer))
    return Score(parsed, correct, float(correct))


def same_expression(answer: str, expected: str) -> bool:
    """Tell whether two answers, as `parse_boxed` returns them, are worth the same, by math-verify.

    Two plain numbers are what they are written as, and no number equals an interval, a tuple or a set. What
    math-verify cannot decide within its own 5 seconds is not alike.

    Raises:
        CorpusError: called in another thread than the main one, where math-verify cannot end what takes too long.

    Example:
        >>> [same_expression(*pair) for pair in (("0.5", "1/2"), ("n-1", "-1+n"), ("2n", "2"))]  # doctest: +SKIP
        [True, True, False]
    """
    if _PLAIN.fullmatch(answer) and _PLAIN.fullmatch(expected):
        return answer == expected
    if threading.current_thread() is not threading.main_thread():
        raise CorpusError("answers are compared by math-verify, which works in the main thread alone: evaluate there")
    from math_verify import parse, verify  # noqa: PLC0415 - optional

    given, right = (parse(f"\\boxed{{{each}}}") for each in (answer, expected))
    return bool(given and right and verify(right, given))


def score_options(task: Task, item: Item, log_likelihoods: Sequence[float]) -> Score:
    """Choose the most likely option.

    Args:
        task: with scoring ``options``; states whether to divide by bytes.
        item: with its options.
        log_likelihoods: of `continuations`, summed over tokens, nats (any base), one per option in order.

    Returns:
        ``parsed`` is the text of the option, None (wrong) where a likelihood is not a number or two options tie for
        the best, which a constant model would.

    Raises:
        CorpusError: not one log-likelihood per option.
    """
    if len(log_likelihoods) != len(item.options):
        raise CorpusError(
            f"task {task.name}, item {item.item_id!r}: {len(log_likelihoods)} log-likelihoods for "
            f"{len(item.options)} options"
        )
    sizes = [len(option.encode()) if task.normalise == "bytes" else 1 for option in item.options]
    values = [value / size for value, size in zip(log_likelihoods, sizes, strict=True)]
    if any(map(math.isnan, values)) or values.count(max(values)) > 1:
        return Score(None, correct=False, value=0.0)
    best = values.index(max(values))
    return Score(item.options[best], best == item.right, float(best == item.right))


def score_bits(item: Item, log_likelihood: float) -> Score:
    """Score a reference text by its code length in bits per UTF-8 byte; lower is better.

    The log-likelihood is that of `continuations`, summed over tokens, in nats. The delimiter's bits count, its byte
    does not.
    """
    return Score(None, None, -log_likelihood / math.log(2) / len(item.reference.encode()))


def corpus_chrf(outputs: Sequence[str | None], references: Sequence[str]) -> float:
    """Return chrF2 of a whole set of translations, 0-100; None counts as an empty translation.

    Source:
        Popović 2015, chrF; sacrebleu's signature nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no.
    """
    score = _chrf().corpus_score([output or "" for output in outputs], [list(references)]).score
    return float(score)


def normalise_text(text: str, language: str) -> str:
    """Return lower-case text without punctuation and articles, words separated by one space.

    Chinese characters are words of their own; Thai, which writes no spaces, is left as it is.

    Source:
        SQuAD v1.1 and MLQA's evaluation script (arXiv 1910.07475).

    Example:
        >>> [normalise_text("The  Broncos!", "eng_Latn"), normalise_text("野马队。", "zho_Hans")]
        ['broncos', '野 马 队']
    """
    kept = "".join(char for char in text.lower() if not _is_mark(char))
    code = language.partition("_")[0]
    if code in _ARTICLES:
        kept = re.sub(_ARTICLES[code], " ", kept)
    if code == "zho":
        kept = _HAN.sub(r" \1 ", kept)
    return " ".join(kept.split())


def token_f1(given: Sequence[str], expected: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall over words, 0-1; 0 where either has none."""
    common = sum((Counter(given) & Counter(expected)).values())
    return 2 * common / (len(given) + len(expected)) if common else 0.0


def require_sacrebleu() -> None:
    """Raise a `CorpusError` with the command that installs sacrebleu where it is missing."""
    try:
        import sacrebleu  # noqa: F401, PLC0415 - an optional extra
    except ImportError as error:
        raise CorpusError("translations are scored by sacrebleu; run: pip install 'isogloss[translation]'") from error


def _is_mark(char: str) -> bool:
    """Whether a character is punctuation to Unicode or to ASCII, whose symbols such as $ and + count."""
    return char in string.punctuation or unicodedata.category(char).startswith("P")


@cache
def _chrf() -> Any:  # noqa: ANN401 - sacrebleu's own
    require_sacrebleu()
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415 - an optional extra

    return CHRF()
