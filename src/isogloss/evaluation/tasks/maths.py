"""Word problems with numbers as answers: MGSM, MSVAMP, PolyMath."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from isogloss.corpora import check_cells, check_language, full_code, names_language, read_lines
from isogloss.errors import CorpusError, LanguageError
from isogloss.evaluation.tasks.parse import parse_boxed, parse_latex, parse_number, read_number
from isogloss.evaluation.tasks.reading import DataSet, Request, glob_languages, published, text_of
from isogloss.evaluation.tasks.task import Item, Parse, Task
from isogloss.languages import display_name, from_name

__all__ = ["load_maths_folder", "load_mgsm", "load_msvamp", "load_polymath"]

# The words before question and answer. Source: lm-evaluation-harness, tasks/mgsm/direct/mgsm_direct_*.yaml, version 4.
_WORDS = {
    "ben_Beng": ("প্রশ্ন:", "Answer:"),
    "deu_Latn": ("Frage:", "Antwort:"),
    "eng_Latn": ("Question:", "Answer:"),
    "spa_Latn": ("Pregunta:", "Respuesta:"),
    "fra_Latn": ("Question :", "Réponse :"),
    "jpn_Jpan": ("問題:", "Answer:"),
    "rus_Cyrl": ("Задача:", "Answer:"),
    "swh_Latn": ("Swali:", "Answer:"),
    "tel_Telu": ("ప్రశ్న:", "Answer:"),
    "tha_Thai": ("โจทย์:", "Answer:"),
    "zho_Hans": ("问题:", "Answer:"),
}

# Source: PolyMath (arXiv 2504.18428), Figure 8 and instruction.py of its repository.
_BOX = {
    "eng_Latn": "Note: Please put the final answer in the $\\boxed{}$.",
    "zho_Hans": "注意：请将最终答案放在 $\\boxed{}$ 中。",
    "arb_Arab": "ملاحظة: يُرجى وضع الإجابة النهائية في $\\boxed{}$.",
    "ben_Beng": "বিঃদ্রঃ: অনুগ্রহ করে চূড়ান্ত উত্তরটি $\\boxed{}$ এর মধ্যে রাখুন।",
    "deu_Latn": "Hinweis: Bitte setzen Sie die endgültige Antwort in $\\boxed{}$.",
    "spa_Latn": "Nota: Por favor, coloque la respuesta final en el $\\boxed{}$.",
    "fra_Latn": "Remarque : Veuillez mettre la réponse finale dans le $\\boxed{}$.",
    "ind_Latn": "Catatan: Silakan letakkan jawaban akhir di dalam $\\boxed{}$.",
    "ita_Latn": "Nota: Per favore, metti la risposta finale nel $\\boxed{}$.",
    "jpn_Jpan": "注意：最終的な答えを $\\boxed{}$ に入れてください。",
    "kor_Hang": "참고: 최종 답안을 $\\boxed{}$ 안에 넣어 주세요.",
    "zsm_Latn": "Nota: Sila letakkan jawapan akhir dalam $\\boxed{}$.",
    "por_Latn": "Nota: Por favor, coloque a resposta final no $\\boxed{}$.",
    "rus_Cyrl": "Примечание: Пожалуйста, поместите окончательный ответ в $\\boxed{}$.",
    "swh_Latn": "Kumbuka: Tafadhali weka jibu la mwisho katika $\\boxed{}$.",
    "tel_Telu": "గమనిక: దయచేసి తుది జవాబును $\\boxed{}$ లో ఉంచండి.",
    "tha_Thai": "หมายเหตุ: กรุณาใส่คำตอบสุดท้ายใน $\\boxed{}$.",
    "vie_Latn": "Lưu ý: Vui lòng đặt câu trả lời cuối cùng trong $\\boxed{}$.",
}

_DIRECT = (
    "zero-shot, one user message through the chat template with thinking off (plain for tokenizers without one): the "
    "language's word for question, the question, a line break, the word for answer. Words and the number of new "
    "tokens (its default, 256) as in lm-evaluation-harness, mgsm_direct version 4; greedy. An answer ends before the "
    "word for question. The last number counts (its flexible-extract), read with the decimal mark of the language; "
    "unlike there, 18.00 is 18 and not 1800."
)
_BOXED = (
    "zero-shot, one user message through the chat template with thinking off (plain for tokenizers without one): the "
    "question, a line break, and PolyMath's instruction in the question's language to put the final answer in a box. "
    "What stands in the last box counts; without a box an answer is wrong. "
)
_BY_VALUE = "; answers that are not written alike are compared by math-verify"
# Answers with their working are longer than lm-eval's 256 tokens; no paper states its limit.
_BOXED_TOKENS = 2048

# Published without a closing brace, in every language (medium-XX-111); the integral of the question has this value.
_ERRATA = {
    r"$\frac{1}{2\sqrt{2}\ln\frac{\sqrt{2}+2}{2-\sqrt{2}}$": r"$\frac{1}{2\sqrt{2}}\ln\frac{\sqrt{2}+2}{2-\sqrt{2}}$"
}

_Questions = Mapping[str, list[tuple[str, str, str]]]  # language to (id, question, answer)


def _named(name: str) -> str | None:
    try:
        return from_name(name)
    except LanguageError:
        return None


def _code_of_tsv(prefix: str, path: Path) -> str | None:
    stem = path.stem.removeprefix(prefix)
    return check_language(stem, str(path)) if names_language(stem) else None


def _read_tsv(path: Path, language: str | None = None) -> list[tuple[str, str, str]]:
    """Read questions and answers; published files write numbers as English does, whatever the language."""
    problems = []
    for number, line in enumerate(read_lines(path, allow_mark=True), start=1):
        question, tab, answer = line.partition("\t")
        check_cells((question, answer), f"{path}:{number}")
        parsed = read_number(answer, language)
        if not question.strip() or not tab or parsed is None:
            raise CorpusError(
                f"{path}:{number}: expected a question, a tab and a number"
                f"{f', one as {display_name(language)} writes it' if language else ''}, found {line[-60:]!r}"
            )
        problems.append((str(number - 1), question, parsed))
    return problems


_MGSM = DataSet(
    "juletxara/mgsm",
    ("question", "answer_number"),
    "CC-BY-4.0",
    "juletxara/mgsm (google-research/url-nlp), test",
    patterns=("*.tsv",),
    code=partial(_code_of_tsv, "mgsm_"),
    read=_read_tsv,
)
_MSVAMP = DataSet(
    "Mathoctopus/MSVAMP",
    ("m_query", "response"),
    "MIT",
    "Mathoctopus/MSVAMP (microsoft/MathOctopus), test",
    patterns=("test_*.json",),
    code=lambda path: _named(path.stem.removeprefix("test_")),
)
_POLYMATH = DataSet(
    "Qwen/PolyMath",
    ("id", "question", "answer"),
    "Apache-2.0",
    "Qwen/PolyMath",
    patterns=("*/{split}.jsonl", "data/*/{split}.jsonl"),
    code=lambda path: full_code(path.parent.name),
)


def load_mgsm(request: Request) -> Task:
    """Load MGSM: 250 problems in 11 languages, ``mgsm`` (direct) or ``mgsm:boxed``.

    Layouts: the hub's (columns ``question``, ``answer_number``; one configuration per language) and the original
    release's ``mgsm_xx.tsv``.
    """
    if request.variant == "boxed":
        return _boxed(_MGSM, request, _problems(_MGSM, request), note="The boxed protocol is paper B's for MGSM.")
    return _direct(_MGSM, request, note="")


def load_msvamp(request: Request) -> Task:
    """Load MSVAMP: 1000 problems in 10 languages.

    Layouts: the hub's (columns ``m_query``, ``response``; one configuration per language) and the original release's
    ``test_English.json`` with one object per line.
    """
    return _direct(_MSVAMP, request, note=" The protocol is MGSM's: MSVAMP has none of its own.")


def load_polymath(request: Request) -> Task:
    """Load PolyMath: 125 problems in 18 languages at one level, ``low`` unless the variant names another.

    Layouts: the hub's (configurations are languages, splits are levels; columns ``id``, ``question``, ``answer``) and
    the repository's ``xx/LEVEL.jsonl``, also under ``data/``.
    """
    level = request.variant or "low"
    questions = {
        code: [_level_problem(row, code, where) for where, row in rows] for code, rows in _POLYMATH.rows(request, level)
    }
    note = (
        "No language is asked for. Numbers are compared as numbers; other answers (levels above low) as LaTeX without "
        "spaces and sizes of brackets, which is stricter than the paper's test of mathematical equality. The expected "
        "answer of medium-111 is published without a closing brace, which is put where the integral has its value."
    )
    return _boxed(replace(_POLYMATH, source=f"Qwen/PolyMath, {level}"), request, questions, note=note)


def load_maths_folder(folder: Path, languages: tuple[str, ...] | None) -> Task:
    """Load a folder of a user's own, ``xxx_Xxxx.tsv`` or ``FOLDER_code.tsv``: the question and a line break, no chat.

    Expected answers and outputs are read with the decimal mark of the language: ``3,5`` is 3.5 in German and an error
    in English, as is ``12 bis 15``.

    Raises:
        CorpusError: a language is missing, a line malformed, an answer not one number of its
            language, or languages differ in their number of items.
    """
    files = glob_languages(folder, "*.tsv", partial(_code_of_tsv, f"{folder.name}_"))
    missing = set(languages or files) - set(files)
    if missing or not files:
        raise CorpusError(f"{folder} has no file for {', '.join(sorted(missing)) or 'any language'}; it needs *.tsv")
    questions = {code: _read_tsv(files[code], code) for code in languages or files}
    lengths = {code: len(rows) for code, rows in questions.items()}
    if len(set(lengths.values())) > 1:
        raise CorpusError(f"{folder}: languages have different numbers of items: {lengths}; line i must be one item")
    items = {code: [Item(i, q + "\n", answer) for i, q, answer in rows] for code, rows in questions.items()}
    return Task(
        folder.name,
        items,
        parse_number,
        max_new_tokens=256,
        protocol="zero-shot, plain: the question and a line break; the last number of the output counts, read with the "
        "decimal mark of the language",
        parsers={code: _in_language(parse_number, code) for code in items},
        source="a folder of the user's",
    )


def _direct(data: DataSet, request: Request, *, note: str) -> Task:
    questions = _problems(data, request)
    words = {
        code: published(_WORDS, code, "published words for question and answer", data.source) for code in questions
    }
    return data.task(
        request,
        {
            code: [Item(i, f"{words[code][0]} {question}\n{words[code][1]}", answer) for i, question, answer in rows]
            for code, rows in questions.items()
        },
        parse_number,
        max_new_tokens=256,
        protocol=_DIRECT + note,
        chat=True,
        stop={code: (word,) for code, (word, _) in words.items()},
        parsers={code: _in_language(parse_number, code) for code in questions},
    )


def _boxed(data: DataSet, request: Request, questions: _Questions, *, note: str) -> Task:
    what = "published instruction to box the answer"
    notes = {code: published(_BOX, code, what, data.source) for code in questions}
    by_value = importlib.util.find_spec("math_verify") is not None
    return data.task(
        request,
        {code: [Item(i, f"{q}\n{notes[code]}", answer) for i, q, answer in rows] for code, rows in questions.items()},
        parse_boxed,
        max_new_tokens=_BOXED_TOKENS,
        protocol=_BOXED + note + (_BY_VALUE if by_value else ""),
        normalise="expressions" if by_value else "none",
        chat=True,
        parsers={code: _in_language(parse_boxed, code) for code in questions},
    )


def _in_language(parse: Parse, code: str) -> Parse:
    return partial(parse, language=code)  # type: ignore[call-arg] # both parsers take it


def _problems(data: DataSet, request: Request) -> _Questions:
    """Read questions with numbers as answers; files of tab-separated lines are read as such already."""
    return {
        code: [
            row if isinstance(row, tuple) else _problem(str(i), row, data.columns, where)
            for i, (where, row) in enumerate(rows)
        ]
        for code, rows in data.rows(request)
    }


def _problem(item_id: str, row: object, columns: Sequence[str], where: str) -> tuple[str, str, str]:
    question, written = (text_of(row, column, where) for column in columns)
    answer = read_number(written)
    if answer is None:
        raise CorpusError(f"{where}: {columns[1]} is {written!r}, expected one number")
    return item_id, question, answer


def _level_problem(row: object, code: str, where: str) -> tuple[str, str, str]:
    """Read a row of PolyMath; ids such as ``low-zh-7`` name the language, which ids here must not."""
    written = text_of(row, "answer", where)
    written = _ERRATA.get("".join(written.split()), written)
    answer = parse_latex(written)
    if answer is None or parse_boxed(f"\\boxed{{{written}}}", code) != answer:
        raise CorpusError(
            f"{where}: answer is {written!r}, expected a number or LaTeX with closed braces that reads "
            f"the same in {code}"
        )
    parts = text_of(row, "id", where).split("-")
    return f"{parts[0]}-{parts[-1]}", text_of(row, "question", where), answer
