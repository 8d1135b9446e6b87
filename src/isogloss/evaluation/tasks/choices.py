"""Questions with options: MMLU and its translations, Belebele."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isogloss.corpora.corpus import full_code, require_languages
from isogloss.corpora.hub import Hub, Row
from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.parse import parse_letter
from isogloss.evaluation.tasks.reading import Request, glob_languages, read_csv, read_languages, text_of
from isogloss.evaluation.tasks.task import Item, Task
from isogloss.files import parse_json

__all__ = ["MEDICAL_SUBJECTS", "load_belebele", "load_global_mmlu", "load_mmlu"]

MEDICAL_SUBJECTS = (
    "clinical_knowledge",
    "college_medicine",
    "human_aging",
    "medical_genetics",
    "nutrition",
    "professional_medicine",
    "virology",
)
"""Subjects of ``global_mmlu:medical``, with the same number of items each."""

_LETTERS = ("A", "B", "C", "D")
_ENGLISH = "eng_Latn"
_SHOTS = 5
_ARABIC = "arb_Arab"

_BY_LETTER = (
    "plain, not through a chat template: question, the four options as 'A. …', 'Answer:'; the most likely of the "
    "continuations ' A', ' B', ' C', ' D' is chosen, likelihoods as they are (one token each in most tokenizers)"
)
_GENERATED = (
    "zero-shot, one user message through the chat template with thinking off (plain for tokenizers without one): the "
    "English instruction of openai/simple-evals to think step by step and end with 'Answer: LETTER', the question, "
    "the options as 'A) …'; the letter behind the last colon counts, see parse_letter; greedy"
)
_INSTRUCTION = (
    "Answer the following multiple choice question. The last line of your response should be of the following "
    "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
)


def load_mmlu(request: Request) -> Task:
    """Load MMLU in English (``mmlu``) or Arabic (``mmlu_arabic``, local only): ``:5shot``, ``:generate``, or zero-shot.

    Layouts: the hub's ``cais/mmlu``, configuration ``all`` (columns ``question``, ``subject``, ``choices``,
    ``answer``), and the original release's ``test/SUBJECT_test.csv`` and ``dev/SUBJECT_dev.csv``, with or without a
    header, the answer as a letter or a 0-based index.
    """
    code = _ENGLISH if request.name == "mmlu" else _ARABIC
    require_languages({code}, request.languages, request.title)
    if request.name == "mmlu_arabic" and request.path is None:
        raise CorpusError(
            "mmlu_arabic is read from local files; name them as mmlu_arabic:FOLDER (test/SUBJECT_test.csv)"
        )
    questions = _mmlu_questions(request, "test")
    examples = _mmlu_questions(request, "dev") if request.variant == "5shot" else []
    licence, source = ("MIT", "cais/mmlu, test") if code == _ENGLISH else ("Apache-2.0", "FreedomIntelligence/AceGPT")
    protocol = (
        "Header 'The following are multiple choice questions (with answers) about SUBJECT.' Source: MMLU "
        "(arXiv 2009.03300)"
    )
    return _letters(request, {code: questions}, {code: examples}, licence, source, note=protocol)


def load_global_mmlu(request: Request) -> Task:
    """Load Global-MMLU: 14042 questions in 42 languages, ``:generate``, or ``:medical=INDICES.json``.

    Layout: the hub's (one configuration per language; columns ``sample_id``, ``subject``, ``question``, ``option_a``
    to ``option_d``, ``answer``). INDICES.json maps each of `MEDICAL_SUBJECTS` to positions within the subject.
    """
    hub = Hub("CohereForAI/Global-MMLU", request.path, request.title)
    chosen = _medical(request) if request.variant == "medical" else None
    columns = ("sample_id", "subject", "question", "option_a", "option_b", "option_c", "option_d", "answer")
    questions = {}
    for code, where, found in read_languages(request, hub, {}, split="test", columns=columns):
        rows = [_Question.of(row, f"{where}, row {number}") for number, row in enumerate(found, start=1)]
        questions[code] = rows if chosen is None else _choose(rows, chosen, where)
    note = "Source: lm-evaluation-harness, global_mmlu_full (letters)"
    if chosen is not None:
        note += "; medical: the positions of the given file within each subject, unweighted mean over the 7 subjects"
    return _letters(request, questions, {}, "Apache-2.0", "CohereForAI/Global-MMLU, test", note=note)


def load_belebele(request: Request) -> Task:
    """Load Belebele: 900 questions on 488 passages in 122 varieties, or ``:generate``.

    Layouts: the hub's and the original release's (``xxx_Xxxx`` configurations or .jsonl files; columns ``link``,
    ``question_number``, ``flores_passage``, ``question``, ``mc_answer1`` to ``mc_answer4``, ``correct_answer_num``),
    and ``xxx_Xxxx.jsonl`` with one passage per line (``text`` and ``items`` with ``question`` and ``answers``).
    """
    hub = Hub("facebook/belebele", request.path, request.title)
    files: dict[str, Path] = {}
    if request.path is not None:
        files = glob_languages(request.path, "*.jsonl", lambda path: full_code(path.stem))
    columns = ("link", "question_number", "flores_passage", "question", *_MC, "correct_answer_num")
    questions = {}
    for code, where, rows in read_languages(request, hub, files, split="test", columns=columns):
        found = [q for number, row in enumerate(rows, 1) for q in _belebele_rows(row, f"{where}:{number}")]
        questions[code] = sorted(found, key=lambda question: question.order)
    note = (
        "Passage and question stand as 'P: …' and 'Q: …', options as 'A: …'. Source: lm-evaluation-harness, belebele, "
        "which at commit 03919286 writes 'Answer' with a full-width colon, here it is ':'"
    )
    return _letters(request, questions, {}, "CC-BY-SA-4.0", "facebook/belebele, test", note=note)


class _Question:
    """A question with four options, whatever its layout."""

    def __init__(self, key: tuple[str, str], text: str, options: Sequence[str], right: int, passage: str = "") -> None:
        self.subject, self.item_id = key
        self.text, self.options, self.right, self.passage = text, tuple(options), right, passage

    @property
    def order(self) -> tuple[str, int]:
        """By passage, then by number within it."""
        link, _, number = self.item_id.rpartition("#")
        return link, int(number)

    @classmethod
    def of(cls, row: Row, where: str) -> _Question:
        """Read a row of Global-MMLU."""
        options = [text_of(row, f"option_{letter}", where) for letter in "abcd"]
        key = (text_of(row, "subject", where), text_of(row, "sample_id", where))
        return cls(key, text_of(row, "question", where), options, _right(text_of(row, "answer", where), where))

    def listed(self, mark: str) -> str:
        """Write the options one per line."""
        return "\n".join(f"{letter}{mark} {option}" for letter, option in zip(_LETTERS, self.options, strict=True))

    def shown(self) -> str:
        """Write question and options as the letters protocol does."""
        if self.passage:
            return f"P: {self.passage}\nQ: {self.text}\n{self.listed(':')}\nAnswer:"
        return f"{self.text}\n{self.listed('.')}\nAnswer:"


_MC = ("mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4")


def _letters(
    request: Request,
    questions: Mapping[str, Sequence[_Question]],
    examples: Mapping[str, Sequence[_Question]],
    licence: str,
    source: str,
    *,
    note: str,
) -> Task:
    """Build the task from its questions: options by letter, or generated where the variant says so."""
    generated = request.variant == "generate"
    if request.variant == "5shot":
        _require_examples(questions, examples)
    header = request.name.startswith("mmlu")
    items, shots = {}, {}
    for code, rows in questions.items():
        prefixes = _prefixes(rows, examples.get(code, ()), header=header)
        items[code] = [_item(row, prefixes[row.subject], generated=generated) for row in rows]
        shots[code] = [Item(e.item_id, e.shown(), _LETTERS[e.right], group=e.subject) for e in examples.get(code, ())]
    count = "zero" if not any(shots.values()) else "the dev examples of the subject in front, in their order; five"
    return Task(
        request.title,
        items,
        parse_letter,
        max_new_tokens=1024 if generated else 0,
        scoring="generated" if generated else "options",
        protocol=_GENERATED if generated else f"{count}-shot, {_BY_LETTER}. {note}",
        chat=generated,
        few_shot={code: examples for code, examples in shots.items() if examples},
        licence=licence,
        source=source,
        split=request.split,
        group_mean=request.variant == "medical",
    )


def _item(question: _Question, prefix: str, *, generated: bool) -> Item:
    letter = _LETTERS[question.right]
    if not generated:
        return Item(question.item_id, prefix + question.shown(), letter, _LETTERS, question.right, "", question.subject)
    text = f"{question.passage}\n\n{question.text}" if question.passage else question.text
    return Item(question.item_id, f"{_INSTRUCTION}\n\n{text}\n\n{question.listed(')')}", letter, group=question.subject)


def _require_examples(
    questions: Mapping[str, Sequence[_Question]], examples: Mapping[str, Sequence[_Question]]
) -> None:
    for code, rows in questions.items():
        counts = Counter(example.subject for example in examples.get(code, ()))
        lacking = sorted({row.subject for row in rows if counts[row.subject] != _SHOTS})
        if lacking:
            raise CorpusError(f"{code}: {lacking[0]} has {counts[lacking[0]]} dev examples, expected {_SHOTS}")


def _prefixes(rows: Sequence[_Question], examples: Sequence[_Question], *, header: bool) -> dict[str, str]:
    """Write, for each subject, what stands before its questions."""
    prefixes = {}
    for subject in {row.subject for row in rows}:
        name = subject.replace("_", " ")
        text = f"The following are multiple choice questions (with answers) about {name}.\n\n" if header else ""
        text += "".join(f"{e.shown()} {_LETTERS[e.right]}\n\n" for e in examples if e.subject == subject)
        prefixes[subject] = text
    return prefixes


def _mmlu_questions(request: Request, part: str) -> list[_Question]:
    if request.path is None or not (request.path / part).is_dir() or not any((request.path / part).glob("*.csv")):
        hub = Hub("cais/mmlu", request.path, request.title)
        rows = hub.rows("all", part, ("question", "subject", "choices", "answer"))
        return _numbered([(str(row["subject"]), _mmlu_row(row, hub.where)) for row in rows], part)
    found = []
    for path in sorted((request.path / part).glob(f"*_{part}.csv")):
        subject = path.stem.removesuffix(f"_{part}")
        for number, record in enumerate(read_csv(path), start=1):
            if number == 1 and record[:1] == ["question"]:
                continue
            found.append((subject, _mmlu_record(record, f"{path}: record {number}")))
    return _numbered(found, part)


def _mmlu_record(record: Sequence[str], where: str) -> tuple[str, Sequence[str], int]:
    if len(record) != 2 + len(_LETTERS) or not all(cell.strip() for cell in record):
        raise CorpusError(
            f"{where}: expected question, four options and the answer, found {len(record)} cells {record}"
        )
    return record[0].strip(), [cell.strip() for cell in record[1:5]], _right(record[5].strip(), where)


def _mmlu_row(row: Row, where: str) -> tuple[str, Sequence[str], int]:
    return _mmlu_record([str(row["question"]), *map(str, row["choices"]), str(row["answer"])], where)


def _numbered(found: Sequence[tuple[str, tuple[str, Sequence[str], int]]], part: str) -> list[_Question]:
    """Number questions within their subject, as Global-MMLU's ids do."""
    counts: Counter[str] = Counter()
    questions = []
    for subject, (text, options, right) in found:
        questions.append(_Question((subject, f"{subject}/{part}/{counts[subject]}"), text, options, right))
        counts[subject] += 1
    return questions


def _right(answer: str, where: str) -> int:
    if answer in _LETTERS:
        return _LETTERS.index(answer)
    if answer in ("0", "1", "2", "3"):
        return int(answer)
    raise CorpusError(f"{where}: answer is {answer!r}, expected A, B, C, D or 0 to 3")


def _medical(request: Request) -> dict[str, list[int]]:
    """Read the positions of the medical items; they are others' data, so the user names the file."""
    if not request.argument:
        raise CorpusError(
            "global_mmlu:medical needs the file with the positions of its items within each subject; "
            "name it as global_mmlu:medical=INDICES.json"
        )
    path = Path(request.argument)
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: cannot be read as JSON ({error})") from error
    missing = [subject for subject in MEDICAL_SUBJECTS if not isinstance(found, dict) or not found.get(subject)]
    if missing:
        raise CorpusError(
            f"{path}: no positions for {', '.join(missing)}; expected a list of whole numbers per subject"
        )
    positions = {subject: found[subject] for subject in MEDICAL_SUBJECTS}
    for subject, numbers in positions.items():
        whole = all(isinstance(number, int) and number >= 0 for number in numbers)
        if not whole or len(set(numbers)) != len(numbers):
            raise CorpusError(f"{path}: positions of {subject} must be different whole numbers from 0 on")
    sizes = {subject: len(numbers) for subject, numbers in positions.items()}
    if len(set(sizes.values())) > 1:
        raise CorpusError(
            f"{path}: subjects have different numbers of items, {sizes}; an unweighted mean needs the same"
        )
    return positions


def _choose(rows: Sequence[_Question], chosen: Mapping[str, Sequence[int]], where: str) -> list[_Question]:
    by_subject: defaultdict[str, list[_Question]] = defaultdict(list)
    for row in rows:
        by_subject[row.subject].append(row)
    for subject, positions in chosen.items():
        if max(positions) >= len(by_subject[subject]):
            raise CorpusError(
                f"{where}: {subject} has {len(by_subject[subject])} items, position {max(positions)} asked for"
            )
    return [by_subject[subject][position] for subject, positions in chosen.items() for position in positions]


def _belebele_rows(row: Any, where: str) -> list[_Question]:  # noqa: ANN401 - a row as it was published
    if isinstance(row, Mapping) and "items" in row:
        return _belebele_passage(row, where)
    number = text_of(row, "correct_answer_num", where)
    if number not in ("1", "2", "3", "4"):
        raise CorpusError(f"{where}: correct_answer_num is {number!r}, expected 1 to 4")
    item_id = f"{text_of(row, 'link', where)}#{text_of(row, 'question_number', where)}"
    options = [text_of(row, column, where) for column in _MC]
    passage = text_of(row, "flores_passage", where)
    return [_Question(("", item_id), text_of(row, "question", where), options, int(number) - 1, passage)]


def _belebele_passage(row: Mapping[str, Any], where: str) -> list[_Question]:
    """Read a passage with its questions; its address, or else its line, says which it is."""
    passage = text_of(row, "text", where)
    extra = (row.get("metadata") or {}).get("extra") or {}
    link = str(extra.get("url") or where.rpartition(":")[2])
    questions = []
    for number, item in enumerate(row["items"], start=1):
        spot = f"{where}, question {number}"
        answers = item.get("answers") or []
        right = [index for index, answer in enumerate(answers) if answer.get("correct")]
        if len(answers) != len(_LETTERS) or len(right) != 1:
            raise CorpusError(f"{spot}: {len(answers)} answers, {len(right)} of them correct; expected four and one")
        options = [text_of(answer, "text", spot) for answer in answers]
        questions.append(
            _Question(("", f"{link}#{number}"), text_of(item, "question", spot), options, right[0], passage)
        )
    return questions
