"""Questions with lettered options: MMLU and its translations, Belebele."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from isogloss.corpora import require_languages
from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.parse import parse_letter
from isogloss.evaluation.tasks.reading import DataSet, Request, read_csv, text_of
from isogloss.evaluation.tasks.task import Item, Task
from isogloss.files import parse_json, read_bytes

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
_FIRST = 60
_MOST_DIGITS = 6  # of the number of a question
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


_MMLU = DataSet("cais/mmlu", ("question", "subject", "choices", "answer"), "MIT", "cais/mmlu, test")
_GLOBAL_MMLU = DataSet(
    "CohereForAI/Global-MMLU",
    ("sample_id", "subject", "question", "option_a", "option_b", "option_c", "option_d", "answer"),
    "Apache-2.0",
    "CohereForAI/Global-MMLU, test",
)
_MC = ("mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4")
_BELEBELE = DataSet(
    "facebook/belebele",
    ("link", "question_number", "flores_passage", "question", *_MC, "correct_answer_num"),
    "CC-BY-SA-4.0",
    "facebook/belebele, test",
    patterns=("*.jsonl",),
)


def load_mmlu(request: Request) -> Task:
    """Load MMLU in English (``mmlu``) or Arabic (``mmlu_arabic``, local only): ``:5shot``, ``:generate``, or zero-shot.

    Layouts: the hub's ``cais/mmlu``, configuration ``all`` (columns ``question``, ``subject``, ``choices``,
    ``answer``), and the original release's ``test/SUBJECT_test.csv`` and ``dev/SUBJECT_dev.csv``, with or without a
    header, the answer as a letter or a 0-based index.
    """
    code, data = _ENGLISH, _MMLU
    if request.name == "mmlu_arabic":
        code, data = _ARABIC, replace(_MMLU, licence="Apache-2.0", source="FreedomIntelligence/AceGPT")
    require_languages({code}, request.languages, request.title)
    if request.name == "mmlu_arabic" and request.path is None:
        raise CorpusError(
            "mmlu_arabic is read from local files; name them as mmlu_arabic:FOLDER (test/SUBJECT_test.csv)"
        )
    questions = _mmlu_questions(request, "test")
    examples = _mmlu_questions(request, "dev") if request.variant == "5shot" else []
    note = (
        "Header 'The following are multiple choice questions (with answers) about SUBJECT.' Source: MMLU "
        "(arXiv 2009.03300)"
    )
    return _letters(data, request, {code: questions}, {code: examples}, note=note)


def load_global_mmlu(request: Request) -> Task:
    """Load Global-MMLU: 14042 questions in 42 languages, ``:generate``, or a medical subset.

    The subset is ``:medical=INDICES.json``, or ``:medical-first60``, the first 60 questions of each medical subject.

    Layout: the hub's (one configuration per language; columns ``sample_id``, ``subject``, ``question``, ``option_a``
    to ``option_d``, ``answer``). INDICES.json maps each of `MEDICAL_SUBJECTS` to positions within the subject.
    """
    positions = {"medical": _medical, "medical-first60": _first_medical}.get(request.variant, lambda _: None)(request)
    questions = {}
    for code, rows in _GLOBAL_MMLU.rows(request):
        questions[code] = [_global_mmlu_question(row, where) for where, row in rows]
        if positions is not None:
            questions[code] = _at(questions[code], positions, f"{request.path or _GLOBAL_MMLU.repository}, {code}")
    note = "Source: lm-evaluation-harness, global_mmlu_full (letters)"
    if positions is not None:
        which = "positions of the given file" if request.variant == "medical" else f"first {_FIRST} questions"
        note += f"; medical: the {which} within each subject, unweighted mean over the 7 subjects"
    return _letters(_GLOBAL_MMLU, request, questions, {}, note=note)


def load_belebele(request: Request) -> Task:
    """Load Belebele: 900 questions on 488 passages in 122 varieties, or ``:generate``.

    Layouts: the hub's and the original release's (``xxx_Xxxx`` configurations or .jsonl files; columns ``link``,
    ``question_number``, ``flores_passage``, ``question``, ``mc_answer1`` to ``mc_answer4``, ``correct_answer_num``),
    and ``xxx_Xxxx.jsonl`` with one passage per line (``text`` and ``items`` with ``question`` and ``answers``).
    """
    questions = {
        code: sorted((q for where, row in rows for q in _belebele_questions(row, where)), key=lambda q: q.order)
        for code, rows in _BELEBELE.rows(request)
    }
    note = (
        "Passage and question stand as 'P: …' and 'Q: …', options as 'A: …'. Source: lm-evaluation-harness, belebele, "
        "which at commit 03919286 writes 'Answer' with a full-width colon, here it is ':'"
    )
    return _letters(_BELEBELE, request, questions, {}, note=note)


class _Question(NamedTuple):
    """A question with four options, whatever its layout."""

    subject: str
    item_id: str
    text: str
    options: Sequence[str]
    right: int
    passage: str = ""

    @property
    def order(self) -> tuple[str, int]:
        """By passage, then by number within it."""
        link, _, number = self.item_id.rpartition("#")
        return link, int(number)

    def listed(self, mark: str) -> str:
        """Write the options one per line."""
        return "\n".join(f"{letter}{mark} {option}" for letter, option in zip(_LETTERS, self.options, strict=True))

    def shown(self) -> str:
        """Write question and options as the letters protocol does."""
        if self.passage:
            return f"P: {self.passage}\nQ: {self.text}\n{self.listed(':')}\nAnswer:"
        return f"{self.text}\n{self.listed('.')}\nAnswer:"


def _letters(
    data: DataSet,
    request: Request,
    questions: Mapping[str, Sequence[_Question]],
    examples: Mapping[str, Sequence[_Question]],
    *,
    note: str,
) -> Task:
    """Build the task from its questions: options by letter, or generated where the variant asks for that."""
    generated = request.variant == "generate"
    if request.variant == "5shot":
        _require_examples(questions, examples)
    header = request.name.startswith("mmlu")
    items, shots = {}, {}
    for code, rows in questions.items():
        prefixes = _prefixes(rows, examples.get(code, ()), header=header)
        items[code] = [_item(row, prefixes[row.subject], generated=generated) for row in rows]
        if own := examples.get(code):
            shots[code] = [Item(e.item_id, e.shown(), _LETTERS[e.right], group=e.subject) for e in own]
    count = "the dev examples of the subject in front, in their order; five" if shots else "zero"
    return data.task(
        request,
        items,
        parse_letter,
        max_new_tokens=1024 if generated else 0,
        scoring="generated" if generated else "options",
        protocol=_GENERATED if generated else f"{count}-shot, {_BY_LETTER}. {note}",
        chat=generated,
        few_shot=shots,
        group_mean=request.variant.startswith("medical"),
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
    """Write the text before the questions of each subject."""
    prefixes = {}
    for subject in {row.subject for row in rows}:
        name = subject.replace("_", " ")
        text = f"The following are multiple choice questions (with answers) about {name}.\n\n" if header else ""
        text += "".join(f"{e.shown()} {_LETTERS[e.right]}\n\n" for e in examples if e.subject == subject)
        prefixes[subject] = text
    return prefixes


def _mmlu_questions(request: Request, part: str) -> list[_Question]:
    """Read one part of MMLU, and number the questions within their subject, as Global-MMLU's ids do."""
    counts: Counter[str] = Counter()
    questions = []
    for subject, cells, where in _mmlu_records(request, part):
        if len(cells) != 2 + len(_LETTERS) or not all(cell.strip() for cell in cells):
            raise CorpusError(
                f"{where}: expected question, four options and the answer, found {len(cells)} cells {cells}"
            )
        text, *options, answer = (cell.strip() for cell in cells)
        item_id = f"{subject}/{part}/{counts[subject]}"
        questions.append(_Question(subject, item_id, text, options, _right(answer, where)))
        counts[subject] += 1
    return questions


def _mmlu_records(request: Request, part: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield subject, cells and place of every question of a part."""
    files = sorted((request.path / part).glob(f"*_{part}.csv")) if request.path is not None else []
    for path in files:
        for number, record in enumerate(read_csv(path), start=1):
            if number > 1 or record[:1] != ["question"]:
                yield path.stem.removesuffix(f"_{part}"), record, f"{path}: record {number}"
    if not files:
        hub = request.hub(_MMLU.repository)
        for row in hub.rows("all", part, _MMLU.columns):
            options = {str(place): option for place, option in enumerate(_list_in(row, "choices", hub.where))}
            cells = [
                text_of(row, "question", hub.where),
                *(text_of(options, place, hub.where) for place in options),
                text_of(row, "answer", hub.where),
            ]
            yield text_of(row, "subject", hub.where), cells, hub.where


def _global_mmlu_question(row: Any, where: str) -> _Question:  # noqa: ANN401 - a row as it was published
    subject, item_id, text, *options, answer = (
        text_of(row, column, where) for column in ("subject", "sample_id", *_GLOBAL_MMLU.columns[2:])
    )
    return _Question(subject, item_id, text, options, _right(answer, where))


def _right(answer: str, where: str) -> int:
    if answer in _LETTERS:
        return _LETTERS.index(answer)
    if answer in ("0", "1", "2", "3"):
        return int(answer)
    raise CorpusError(f"{where}: answer is {answer!r}, expected A, B, C, D or 0 to 3")


def _first_medical(_: Request) -> dict[str, list[int]]:
    """Take as many questions of each subject as the medical items of the paper have."""
    return {subject: list(range(_FIRST)) for subject in MEDICAL_SUBJECTS}


def _medical(request: Request) -> dict[str, list[int]]:
    """Read the positions of the medical items; they are others' data, so the user names the file."""
    if not request.argument:
        raise CorpusError(
            "global_mmlu:medical needs the file with the positions of its items within each subject; "
            "name it as global_mmlu:medical=INDICES.json"
        )
    path = Path(request.argument)
    try:
        raw = parse_json(read_bytes(path, error=CorpusError))
    except ValueError as error:
        raise CorpusError(f"{path}: cannot be read as JSON ({error})") from error
    missing = [subject for subject in MEDICAL_SUBJECTS if not isinstance(raw, dict) or not raw.get(subject)]
    if missing:
        raise CorpusError(
            f"{path}: no positions for {', '.join(missing)}; expected a list of whole numbers per subject"
        )
    positions = {subject: raw[subject] for subject in MEDICAL_SUBJECTS}
    for subject, numbers in positions.items():
        whole = isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)
        if not whole or len(set(numbers)) != len(numbers):
            raise CorpusError(f"{path}: positions of {subject} must be different whole numbers from 0 on")
    sizes = {subject: len(numbers) for subject, numbers in positions.items()}
    if len(set(sizes.values())) > 1:
        raise CorpusError(
            f"{path}: subjects have different numbers of items, {sizes}; an unweighted mean needs the same"
        )
    return positions


def _at(rows: Sequence[_Question], positions: Mapping[str, Sequence[int]], where: str) -> list[_Question]:
    by_subject: defaultdict[str, list[_Question]] = defaultdict(list)
    for row in rows:
        by_subject[row.subject].append(row)
    for subject, numbers in positions.items():
        if max(numbers) >= len(by_subject[subject]):
            raise CorpusError(
                f"{where}: {subject} has {len(by_subject[subject])} items, but position {max(numbers)} was requested"
            )
    return [by_subject[subject][number] for subject, numbers in positions.items() for number in numbers]


def _belebele_questions(row: Any, where: str) -> list[_Question]:  # noqa: ANN401 - a row as it was published
    if isinstance(row, Mapping) and "items" in row:
        return _belebele_passage(row, where)
    number = text_of(row, "correct_answer_num", where)
    if number not in ("1", "2", "3", "4"):
        raise CorpusError(f"{where}: correct_answer_num is {number!r}, expected 1 to 4")
    position = text_of(row, "question_number", where)
    if not position.isdecimal() or len(position) > _MOST_DIGITS:
        raise CorpusError(f"{where}: question_number is {position[:40]!r}; expected a whole number")
    item_id = f"{text_of(row, 'link', where)}#{position}"
    options = [text_of(row, column, where) for column in _MC]
    passage = text_of(row, "flores_passage", where)
    return [_Question("", item_id, text_of(row, "question", where), options, int(number) - 1, passage)]


def _belebele_passage(row: Mapping[str, Any], where: str) -> list[_Question]:
    """Read a passage with its questions; it is identified by its address, else by its line."""
    passage = text_of(row, "text", where)
    extra = _inside(_inside(row, "metadata"), "extra")
    link = text_of(extra, "url", where) if extra.get("url") else where.rpartition(":")[2]
    questions = []
    for number, item in enumerate(_list_in(row, "items", where), start=1):
        spot = f"{where}, question {number}"
        answers = _list_in(item, "answers", spot)
        right = [index for index, answer in enumerate(answers) if isinstance(answer, dict) and answer.get("correct")]
        if len(answers) != len(_LETTERS) or len(right) != 1:
            raise CorpusError(f"{spot}: {len(answers)} answers, {len(right)} of them correct; expected four and one")
        options = [text_of(answer, "text", spot) for answer in answers]
        questions.append(_Question("", f"{link}#{number}", text_of(item, "question", spot), options, right[0], passage))
    return questions


def _inside(row: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    """Return an object inside a row; an empty one where it is left out."""
    value = row.get(column)
    return value if isinstance(value, Mapping) else {}


def _list_in(row: Any, column: str, where: str) -> list[Any]:  # noqa: ANN401 - a row as it was published
    """Return a list inside a row; CorpusError where there is none."""
    if not isinstance(row, Mapping) or not isinstance(row.get(column), list):
        raise CorpusError(f"{where}: {column} is no list, as it is where this was published")
    return list(row[column])
