"""What the tasks known by name are: what `isogloss tasks` lists."""

from __future__ import annotations

from dataclasses import dataclass

from isogloss.records import Record

__all__ = ["TASK_FACTS", "TaskFacts"]


@dataclass(frozen=True)
class TaskFacts(Record):
    """A task as published.

    Attributes:
        name: after ``--task``.
        asks: what is asked, and what counts as right.
        variants: name after the colon, and what it changes.
        languages: how many.
        items: per language, by split where there are two.
        source: data set of the Hugging Face hub, or where the items come from.
    """

    name: str
    asks: str
    variants: dict[str, str]
    languages: int
    items: str
    source: str


_TRANSLATION = {
    "into-english": "English is written instead of being read",
    "reference": "likelihood of the reference after the English sentence, in bits per byte",
    "text": "likelihood of the sentence alone, in bits per byte",
}
_MMLU = {
    "5shot": "five examples before each question",
    "generate": "the model writes its answer after reasoning, instead of being scored on the four letters",
}

TASK_FACTS = (
    TaskFacts(
        "organism",
        "word problems of the included model's small world: the last number counts",
        {
            "reference": "likelihood of the worked answer, in bits per byte",
            "scenes": "likelihood of held-out descriptions, in bits per byte",
        },
        14,
        "any number; 200 unless told otherwise",
        "made by isogloss",
    ),
    TaskFacts(
        "mgsm",
        "grade-school maths, step by step: the last number counts",
        {"boxed": "the answer is asked for in \\boxed{}, and only that counts"},
        11,
        "250",
        "juletxara/mgsm",
    ),
    TaskFacts("msvamp", "one-step maths problems: the last number counts", {}, 10, "1,000", "Mathoctopus/MSVAMP"),
    TaskFacts(
        "polymath",
        "maths in \\boxed{}, of four difficulties",
        {level: f"only the level {level}" for level in ("low", "medium", "high", "top")},
        18,
        "125; the level low unless told otherwise",
        "Qwen/PolyMath",
    ),
    TaskFacts(
        "global_mmlu",
        "knowledge questions with four options",
        {
            "medical": "only the medical subjects; takes a file: medical=INDICES.json",
            "medical-first60": "the first 60 questions of each medical subject",
            "generate": "the model writes its answer, instead of being scored on the four letters",
        },
        42,
        "14,042",
        "CohereForAI/Global-MMLU",
    ),
    TaskFacts("mmlu", "knowledge questions with four options", _MMLU, 1, "14,042", "cais/mmlu"),
    TaskFacts("mmlu_arabic", "MMLU in Arabic", _MMLU, 1, "as the files have", "local files: mmlu_arabic:FOLDER"),
    TaskFacts(
        "belebele",
        "a passage and a question with four options",
        {"generate": "the model writes its answer, instead of being scored on the four letters"},
        122,
        "900",
        "facebook/belebele",
    ),
    TaskFacts("xquad", "a passage and a question whose answer is a span: F1", {}, 12, "1,190", "google/xquad"),
    TaskFacts("xcopa", "which of two sentences is cause or effect", {}, 11, "dev 100, test 500", "cambridgeltl/xcopa"),
    TaskFacts(
        "flores",
        "translation of a sentence from English: chrF",
        _TRANSLATION,
        204,
        "dev 997, test 1,012",
        "openlanguagedata/flores_plus, or FLORES-200 from a folder",
    ),
    TaskFacts(
        "tico19", "translation on COVID-19 from English: chrF", _TRANSLATION, 37, "2,100", "local files: tico19:FOLDER"
    ),
)
"""In the order of `isogloss.evaluation.TASKS`; counts are those of the releases, of which a copy may hold fewer."""
