"""What a task is: items in several languages, and all that decides how they are asked and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from isogloss.errors import CorpusError
from isogloss.evaluation.paired import Better

__all__ = ["Item", "MetricName", "Normalise", "Parse", "ScoringMethod", "Task", "TaskSplit", "half_of"]

ScoringMethod = Literal["generated", "options", "reference"]
"""Parse an answer from generated text, compare the likelihood of options, or measure that of a reference text."""

MetricName = Literal["accuracy", "f1", "chrf", "bits_per_byte"]
"""What `Score.value` is. Only ``bits_per_byte`` is better when lower; ``chrf`` is in 0-100, accuracy and F1 in 0-1."""

Normalise = Literal["none", "bytes", "expressions"]
"""``bytes``: an option's log-likelihood is divided by its UTF-8 bytes before options are compared; ``expressions``:
generated answers are compared by what they are worth, as ``0.5`` and ``1/2``, not as they are written."""

TaskSplit = Literal["dev", "test"]

Parse = Callable[[str], str | None]

_NO_SETTINGS = ("name", "items", "parse", "parsers")


class Item(NamedTuple):
    """One question in one language.

    Attributes:
        item_id: the same in every language.
        prompt: all that the model reads, few-shot examples included; empty where a reference has no prompt.
        answer: what counts as right; for options the right one's text.
        options: texts of which one is right, without the space that may precede them; empty for other scorings.
        right: index of the right option, -1 where there are none.
        reference: text whose likelihood is measured; empty for other scorings.
        group: subject, for tasks whose mean is taken over subjects; empty for others.
    """

    item_id: str
    prompt: str
    answer: str = ""
    options: tuple[str, ...] = ()
    right: int = -1
    reference: str = ""
    group: str = ""


@dataclass(frozen=True)
class Task:
    """Items per language, and how the model's output becomes a score.

    Attributes:
        name: for tables and files, the variant included, as in ``mgsm:boxed``.
        items: full language code to items; ids agree between languages.
        parse: the answer in a generated output, or None where there is none, which counts as wrong.
        max_new_tokens: most tokens per answer; 0 where nothing is generated.
        scoring: see `ScoringMethod`.
        metric: see `MetricName`.
        protocol: wording of the prompt, shots, what is parsed how, and who published it so.
        chat: whether the prompt is one user message for the tokenizer's chat template (see `render`).
        delimiter: between a plain prompt and an option or reference; a chat template ends by itself.
        normalise: see `Normalise`.
        stop: language to strings that end an answer; leading white space of an output never does.
        parsers: language to the parser to use in place of ``parse``.
        few_shot: language to the examples that the prompts contain.
        licence: SPDX identifier of the texts, or ``not stated``.
        source: where they were published.
        split: ``dev``, ``test``, or None for all items.
        group_mean: whether results are the unweighted mean over groups.
        data_revision: ``REPOSITORY@COMMIT`` of what was read from the hub; None for local files, or if unknown.

    Raises:
        CorpusError: on construction, where ids differ between languages or repeat, an item cannot be scored (no
            expected answer, no right option, an empty reference), or an example is also an item.
    """

    name: str
    items: Mapping[str, Sequence[Item]]
    parse: Parse
    max_new_tokens: int
    scoring: ScoringMethod = "generated"
    metric: MetricName = "accuracy"
    protocol: str = "the prompt as it is; zero-shot"
    chat: bool = False
    delimiter: str = " "
    normalise: Normalise = "none"
    stop: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parsers: Mapping[str, Parse] = field(default_factory=dict)
    few_shot: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    licence: str = "not stated"
    source: str = "not stated"
    split: TaskSplit | None = None
    group_mean: bool = False
    data_revision: str | None = None

    def __post_init__(self) -> None:
        _check_alignment(self.name, self.items)
        for language, items in self.items.items():
            examples = {example.item_id for example in self.few_shot.get(language, ())}
            for item in items:
                fault = _fault(item, self.scoring)
                if fault is None and item.item_id in examples:
                    fault = "is also one of its few-shot examples"
                if fault is not None:
                    raise CorpusError(f"task {self.name}, {language}, item {item.item_id!r}: {fault}")

    @property
    def better(self) -> Better:
        """Which values of the metric are better."""
        return "lower" if self.metric == "bits_per_byte" else "higher"

    @property
    def margin(self) -> float:
        """Loss of the pivot that is accepted, in the metric's unit."""
        return 1.0 if self.metric == "chrf" else 0.01

    def read(self, language: str, output: str) -> str | None:
        """Return the answer in an output, cut at the first stop string, or None where there is none."""
        text = output.lstrip()
        for stop in self.stop.get(language, ()):
            text = text.partition(stop)[0]
        answer = self.parsers.get(language, self.parse)(text)
        return answer if answer is not None and answer.strip() else None

    def describe(self) -> dict[str, Any]:
        """Return all that decides the scores besides the items, for an evaluation's settings (JSON values only)."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NO_SETTINGS}
        stop = {language: list(stops) for language, stops in sorted(self.stop.items())}
        few_shot = {language: [each.item_id for each in shots] for language, shots in sorted(self.few_shot.items())}
        return {**own, "task": self.name, "stop": stop, "few_shot": few_shot}


def half_of(task: str, item_id: str) -> TaskSplit:
    """Return the half that an item belongs to, where a data set has only one published split.

    The first bit of SHA-256 over ``TASK/ITEM`` decides, TASK without variant: the same in every language, on every
    machine, and whatever other items there are.

    Example:
        >>> [half_of("mgsm", str(index)) for index in range(4)]
        ['test', 'dev', 'test', 'dev']
    """
    return "dev" if hashlib.sha256(f"{task}/{item_id}".encode()).digest()[0] < 128 else "test"  # noqa: PLR2004 - half of a byte


def _check_alignment(name: str, items: Mapping[str, Sequence[Item]]) -> None:
    if not items or not all(items.values()):
        empty = ", ".join(language for language, rows in items.items() if not rows) or "any language"
        raise CorpusError(f"task {name}: no items in {empty}; check the source, the split and the languages")
    (first, rows), *others = items.items()
    ids = [item.item_id for item in rows]
    if len(set(ids)) != len(ids):
        repeated = next(item_id for item_id in ids if ids.count(item_id) > 1)
        raise CorpusError(f"task {name}, {first}: item {repeated!r} appears twice; every item needs its own id")
    for language, rows_of_language in others:
        others_ids = [item.item_id for item in rows_of_language]
        if others_ids != ids:
            odd = next(iter(sorted(set(others_ids) ^ set(ids))), None)
            reason = "the items are in another order" if odd is None else f"only one of them has item {odd!r}"
            raise CorpusError(
                f"task {name}: {first} has {len(ids)} and {language} {len(others_ids)} items, and {reason}; "
                "all languages need the same items in the same order"
            )


def _fault(item: Item, scoring: ScoringMethod) -> str | None:
    """Return why an item cannot be scored, or None."""
    if scoring == "reference":
        return None if item.reference.strip() else "an empty reference"
    if not item.prompt.strip():
        return "an empty prompt"
    if scoring == "generated":
        return None if item.answer.strip() else "an empty expected answer"
    if len(item.options) < 2 or not all(option.strip() for option in item.options):  # noqa: PLR2004 - alternatives
        return f"options {item.options}, expected two or more that are not empty"
    if not 0 <= item.right < len(item.options) or item.answer != item.options[item.right]:
        return f"right option {item.right} of {len(item.options)} is not {item.answer!r}"
    return None
