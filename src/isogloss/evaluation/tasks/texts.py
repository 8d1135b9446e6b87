"""Questions on passages, translation, and the organism's own: XQuAD, FLORES, TICO-19, word problems and scenes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isogloss.corpora import Corpus, full_code, load_corpus, read_lines, require_languages
from isogloss.errors import CorpusError, shorten
from isogloss.evaluation.tasks.parse import parse_number, parse_text
from isogloss.evaluation.tasks.reading import DataSet, Request, glob_languages, published, read_rows, text_of
from isogloss.evaluation.tasks.score import require_sacrebleu
from isogloss.evaluation.tasks.task import Item, Task, half_of
from isogloss.languages import display_name
from isogloss.organism.realise import grammar_languages
from isogloss.organism.shipped import problem_corpus, problem_items, scene_corpus

__all__ = ["load_flores", "load_organism", "load_tico19", "load_xquad"]

_ENGLISH = "eng_Latn"

# Words for context, question and answer. Those of Arabic, German, English and Spanish are lm-evaluation-harness's.
_XQUAD_WORDS = {
    "arb_Arab": ("سياق:", "سؤال:", "إجابة:"),
    "deu_Latn": ("Kontext:", "Frage:", "Antwort:"),
    "ell_Grek": ("Πλαίσιο:", "Ερώτηση:", "Απάντηση:"),
    "eng_Latn": ("Context:", "Question:", "Answer:"),
    "spa_Latn": ("Contexto:", "Pregunta:", "Respuesta:"),
    "hin_Deva": ("संदर्भ:", "प्रश्न:", "उत्तर:"),
    "ron_Latn": ("Context:", "Întrebare:", "Răspuns:"),
    "rus_Cyrl": ("Контекст:", "Вопрос:", "Ответ:"),
    "tha_Thai": ("บริบท:", "คำถาม:", "คำตอบ:"),
    "tur_Latn": ("Bağlam:", "Soru:", "Cevap:"),
    "vie_Latn": ("Bối cảnh:", "Câu hỏi:", "Trả lời:"),
    "zho_Hans": ("语境:", "问题:", "答案:"),
}
_XQUAD = (
    "zero-shot, plain: context, question and answer, each behind the language's word for it, parted by empty lines; "
    "the answer ends at a line break, at most 64 tokens (ours); greedy. Exact match and F1 over words after MLQA's "
    "normalisation (arXiv 1910.07475; Greek, Romanian, Russian, Thai and Turkish keep their articles). Layout as "
    "lm-evaluation-harness, xquad version 1; its words were checked for Arabic, German, English and Spanish, those "
    "of the other languages are our translation"
)

_TRANSLATE = "Translate the following sentence from {source} into {target}.\n\n{source}: {text}\n{target}:"
_TRANSLATION = (
    "zero-shot, one user message through the chat template with thinking off (plain for tokenizers without one); the "
    "wording is ours, in English, with CLDR's names of the languages: " + _TRANSLATE.replace("\n", "\\n") + " "
)
_TRANSLATED = (
    "The first line of the output counts, at most 512 tokens; chrF2 by sacrebleu, of sentences and the corpus."
)
_LIKELIHOOD = "Nothing is generated: the reference translation's bits per UTF-8 byte after this prompt."
_ALONE = "no prompt: bits per UTF-8 byte of the sentence alone"

# Codes of the release that are not ours. Its further variants of Tigrinya, ti_ER and ti_ET, are left out for ti.
_TICO19_CODES = {
    "es_LA": "spa_Latn",
    "pt_BR": "por_Latn",
    "kr": "knc_Latn",
    "din": "dik_Latn",
    "ti_ER": None,
    "ti_ET": None,
}

# The longest working, such as 16+17=20+13=33 33+18=40+11=51, has 29 tokens and an end.
_ORGANISM_TOKENS = 30
_ORGANISM_ITEMS = 200


def _squad_rows(path: Path) -> list[dict[str, Any]]:
    """Flatten the articles of a SQuAD file into rows as the hub has them."""
    try:
        return [
            {"id": qa["id"], "context": paragraph["context"], "question": qa["question"]}
            | {"answers": {"text": [answer["text"] for answer in qa["answers"]]}}
            for article in read_rows(path)[0]["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise CorpusError(f"{path}: not in SQuAD's layout ({type(error).__name__}: {error})") from error


_XQUAD_DATA = DataSet(
    "google/xquad",
    ("id", "context", "question", "answers"),
    "CC-BY-SA-4.0",
    "google/xquad, validation",
    patterns=("xquad.*.json",),
    code=lambda path: full_code(path.stem.removeprefix("xquad.")),
    read=_squad_rows,
    prefix="xquad.",
)


def load_xquad(request: Request) -> Task:
    """Load XQuAD: 1190 questions on 240 paragraphs in 12 languages.

    Layouts: the hub's (configurations ``xquad.xx``, split ``validation``; columns ``id``, ``context``, ``question``,
    ``answers``) and the original release's ``xquad.xx.json``.
    """
    items = {
        code: [_xquad_item(row, code, where) for where, row in rows]
        for code, rows in _XQUAD_DATA.rows(request, "validation")
    }
    stop = dict.fromkeys(items, ("\n",))
    return _XQUAD_DATA.task(request, items, parse_text, max_new_tokens=64, metric="f1", protocol=_XQUAD, stop=stop)


def load_flores(request: Request) -> Task:
    """Load FLORES: from English, ``:into-english``, ``:reference`` (bits of translations), ``:text`` (of sentences).

    Layouts: the hub's ``openlanguagedata/flores_plus`` and FLORES-200's ``dev/xxx_Xxxx.dev`` with
    ``devtest/xxx_Xxxx.devtest``, both as `isogloss.corpora.load_corpus` reads them. The split test is devtest.
    """
    parts = {"dev": ["dev"], "test": ["devtest"], None: ["dev", "devtest"]}[request.split]
    revision = "" if request.revision is None else f"@{request.revision}"
    source = f"flores_plus{revision}" if request.path is None else f"flores_plus:{request.path}"
    if request.path is not None and any(request.path.glob("dev*/*.dev*")):
        source = str(request.path)
    texts: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for part in parts:
        corpus = load_corpus(source, languages=_with_english(request), split=part)
        if corpus.revision is not None:
            request.commits.setdefault("openlanguagedata/flores_plus", set()).add(corpus.revision)
        for code, rows in _texts(corpus).items():
            texts[code] += [(f"{part}/{item}", text) for item, text in rows]
    return _translation(request, texts, "CC-BY-SA-4.0", "openlanguagedata/flores_plus or FLORES-200, dev and devtest")


def load_tico19(request: Request) -> Task:
    """Load TICO-19's test sentences on COVID-19, variants as `load_flores`, from ``tico19-test.xx`` files."""
    if request.path is None:
        raise CorpusError("tico19 is read from local files; name their folder as tico19:FOLDER (tico19-test.xx)")

    def code_of(path: Path) -> str | None:
        name = path.name.removeprefix("tico19-test.")
        return _TICO19_CODES[name] if name in _TICO19_CODES else full_code(name)

    files = glob_languages(request.path, "tico19-test.*", code_of)
    texts = {}
    for code in require_languages(files, _with_english(request), str(request.path)):
        lines = read_lines(files[code], allow_mark=True)
        empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
        if empty is not None:
            raise CorpusError(f"{files[code]}:{empty}: an empty line")
        texts[code] = [(str(index), line.strip()) for index, line in enumerate(lines)]
    return _translation(request, texts, "CC0-1.0", "TICO-19, test")


def load_organism(request: Request) -> Task:
    """Load the shipped model's own: word problems, ``:reference`` (bits of their working), ``:scenes`` (of stories).

    Problems of ``dev`` and ``test`` ask for different equations, none of which occurs in training; None means test.
    """
    if request.path is not None:
        raise CorpusError(
            f"{request.title}:{request.path}: the organism's tasks come with the package; write organism or "
            "organism:VARIANT"
        )
    count = request.n_items or _ORGANISM_ITEMS
    require_languages(grammar_languages(), request.languages, "the organism's grammar")
    codes = tuple(request.languages or grammar_languages())
    split = request.split or "test"
    common: dict[str, Any] = {"licence": "Apache-2.0", "source": "the organism's grammar", "split": request.split}
    if request.variant == "scenes":
        scenes = _texts(scene_corpus(count if request.split is None else 4 * count, languages=codes))
        stories = {
            code: [Item(i, "", reference=text) for i, text in rows if request.split in (None, half_of("scenes", i))]
            for code, rows in scenes.items()
        }
        stories = {code: items[:count] for code, items in stories.items()}
        return _bits("organism-scenes", stories, "no prompt: bits per UTF-8 byte of a small-world story", common)
    items = {code: [Item(*row) for row in problem_items(count, code, split=split)] for code in codes}
    name = request.title.replace("organism", "organism-problems", 1)
    if request.variant == "reference":
        solved = problem_corpus(count, split=split, languages=codes).texts
        worked = {
            code: [
                Item(item.item_id, item.prompt, reference=text.removeprefix(item.prompt))
                for item, text in zip(rows, solved[code], strict=True)
            ]
            for code, rows in items.items()
        }
        protocol = "plain: a word problem and a line break, as in training; bits per UTF-8 byte of its working"
        return _bits(name, worked, protocol, common | {"delimiter": ""})
    protocol = "zero-shot, plain: a word problem and a line break, as in training; the last number of the output counts"
    return Task(name, items, parse_number, max_new_tokens=_ORGANISM_TOKENS, protocol=protocol, **common)


def _bits(name: str, items: Mapping[str, Sequence[Item]], protocol: str, common: Mapping[str, Any]) -> Task:
    return Task(
        name,
        items,
        parse_text,
        max_new_tokens=0,
        scoring="reference",
        metric="bits_per_byte",
        protocol=protocol,
        **common,
    )


def _with_english(request: Request) -> tuple[str, ...] | None:
    """Return the languages to read: English is the other side of every translation."""
    if request.languages is None or request.variant == "text":
        return request.languages
    if _ENGLISH in request.languages:
        raise CorpusError(
            f"{request.title}: English is the other side of every translation; leave eng_Latn out of the languages, "
            f"or measure its texts with {request.name}:text"
        )
    return (*request.languages, _ENGLISH)


def _texts(corpus: Corpus) -> dict[str, list[tuple[str, str]]]:
    return {code: list(zip(corpus.item_ids, corpus.texts[code], strict=True)) for code in corpus.texts}


def _translation(request: Request, texts: dict[str, list[tuple[str, str]]], licence: str, source: str) -> Task:
    common: dict[str, Any] = {"licence": licence, "source": source, "split": request.split}
    if request.variant == "text":
        alone = {code: [Item(i, "", reference=text) for i, text in rows] for code, rows in texts.items()}
        return _bits(request.title, alone, _ALONE, common)
    english = texts.pop(_ENGLISH)
    ids = [item_id for item_id, _ in english]
    into_english, reference = request.variant == "into-english", request.variant == "reference"
    items: dict[str, list[Item]] = {}
    for code, rows in texts.items():
        if [item_id for item_id, _ in rows] != ids:
            raise CorpusError(f"{request.title}: {code} does not have English's sentences in the same order")
        items[code] = []
        for (item_id, here), (_, there) in zip(english, rows, strict=True):
            sides = [("English", here), (display_name(code), there)]
            (source_name, text), (target_name, wanted) = reversed(sides) if into_english else sides
            prompt = _TRANSLATE.format(source=source_name, target=target_name, text=text)
            asked = Item(item_id, prompt)
            items[code].append(asked._replace(reference=wanted) if reference else asked._replace(answer=wanted))
    if reference:
        return _bits(request.title, items, _TRANSLATION + _LIKELIHOOD, common | {"chat": True})
    require_sacrebleu()
    return Task(
        request.title,
        items,
        parse_text,
        max_new_tokens=512,
        metric="chrf",
        protocol=_TRANSLATION + _TRANSLATED,
        chat=True,
        stop=dict.fromkeys(items, ("\n",)),
        **common,
    )


def _xquad_item(row: Any, code: str, where: str) -> Item:  # noqa: ANN401 - a row as it was published
    item_id = text_of(row, "id", where)
    spot = f"{where}, question {item_id}"
    answers = row["answers"].get("text") if isinstance(row["answers"], dict) else None
    if not isinstance(answers, list) or len(answers) != 1:
        raise CorpusError(f"{spot}: answers are {shorten(answers)}, expected the one that XQuAD publishes")
    words = published(_XQUAD_WORDS, code, "words for context and question", where)
    context, question = (text_of(row, column, spot).lstrip("\ufeff") for column in ("context", "question"))
    prompt = f"{words[0]} {context}\n\n{words[1]} {question}\n\n{words[2]}"
    return Item(item_id, prompt, text_of({"answer": answers[0]}, "answer", spot))
