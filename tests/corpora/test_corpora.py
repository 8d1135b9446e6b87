"""A corpus is aligned, or it is refused with the file, the line and the remedy."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.corpora import Corpus, load_corpus
from isogloss.errors import CorpusError, LanguageError
from isogloss.languages import FLORES_200

LINES = {"eng_Latn": ["One.", "Two."], "deu_Latn": ["Eins.", "Zwei."], "zho_Hant": ["一。", "二。"]}


def write_folder(folder: Path, lines=LINES, suffix="dev") -> Path:
    """Write one line-aligned file per language."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, texts in lines.items():
        (folder / f"{language}.{suffix}").write_bytes("".join(f"{text}\n" for text in texts).encode())
    return folder


def write_jsonl(path: Path, rows) -> str:
    """Write one row per line and return the path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_reads_a_folder(tmp_path):
    """Line i of every language's file is item i; languages come sorted, items numbered from 1."""
    corpus = load_corpus(str(write_folder(tmp_path / "greetings")))
    assert corpus.name == "greetings"
    assert corpus.languages == ("deu_Latn", "eng_Latn", "zho_Hant")
    assert corpus.item_ids == ("1", "2")
    assert corpus.texts["zho_Hant"] == ("一。", "二。")
    assert str(tmp_path) not in corpus.source


def test_reads_only_the_requested_languages(tmp_path):
    """Short codes are accepted, and a file that was not requested is not even opened."""
    folder = write_folder(tmp_path)
    (folder / "fra_Latn.dev").write_bytes(b"\xff")
    assert load_corpus(str(folder), languages=["zh-Hant", "en"]).languages == ("eng_Latn", "zho_Hant")


def test_ignores_hidden_and_foreign_files(tmp_path):
    """Hidden files, folders and names that are no language code are no part of a corpus."""
    folder = write_folder(tmp_path)
    for name in (".fra_Latn.dev", "README", "LICENSE.txt", "metadata_dev.tsv", "dev_code_map.tsv"):
        (folder / name).write_bytes(b"\xff")
    (folder / "spa_Latn").mkdir()
    assert load_corpus(str(folder)).languages == ("deu_Latn", "eng_Latn", "zho_Hant")


@pytest.mark.parametrize("layout", ["subfolder", "suffix"])
def test_chooses_a_split(tmp_path, layout):
    """A split is a subfolder, or the suffix of the files."""
    for split, count in (("dev", 2), ("devtest", 1)):
        lines = {language: texts[:count] for language, texts in LINES.items()}
        write_folder(tmp_path / split if layout == "subfolder" else tmp_path, lines, split)
    assert load_corpus(str(tmp_path), split="dev").item_ids == ("1", "2")
    assert load_corpus(str(tmp_path), split="devtest").item_ids == ("1",)
    with pytest.raises(CorpusError, match="no language files of split test"):
        load_corpus(str(tmp_path), split="test")


texts = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(texts, min_size=1, max_size=5))
def test_text_passes_through_unchanged(tmp_path_factory, lines):
    """Every character but LF survives, also the line separators that str.splitlines would split at."""
    lines[0] = lines[0].removeprefix("\ufeff") or "a"
    folder = write_folder(tmp_path_factory.mktemp("corpus"), {"eng_Latn": ["a\u2028b", *lines]})
    assert load_corpus(str(folder)).texts["eng_Latn"] == ("a\u2028b", *lines)


def test_reads_a_last_line_without_newline(tmp_path):
    """A missing newline at the end of the file loses nothing."""
    (tmp_path / "eng_Latn.txt").write_bytes(b"One.\nTwo.")
    assert load_corpus(str(tmp_path)).texts["eng_Latn"] == ("One.", "Two.")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"One.\n", r"deu_Latn.dev has 2 lines.*|eng_Latn.dev has 1 lines.*"),
        (b"One.\n\nTwo.\n", r"eng_Latn.dev:2: empty line"),
        (b"One.\n \t\n", r"eng_Latn.dev:2: empty line"),
        (b"One.\nTwo.\n\n", r"eng_Latn.dev:3: empty line"),
        (b"", r"eng_Latn.dev:1: empty line"),
        (b"One.\nTw\xe9.\n", r"eng_Latn.dev:2: not UTF-8.*iconv"),
        (b"\xef\xbb\xbfOne.\nTwo.\n", r"eng_Latn.dev:1: starts with a byte order mark.*without BOM"),
        (b"One.\nTwo.\r\r\n", r"eng_Latn.dev:2: a carriage return without a line feed.*mac2unix"),
        (b"One.\rTwo.\r", r"eng_Latn.dev:1: a carriage return without a line feed"),
    ],
)
def test_refuses_damaged_files(tmp_path, raw, message):
    """The error names the file, the line and the remedy."""
    folder = write_folder(tmp_path)
    (folder / "eng_Latn.dev").write_bytes(raw)
    with pytest.raises(CorpusError, match=message):
        load_corpus(str(folder))


def test_reads_line_ends_as_editors_do(tmp_path):
    """CRLF and LF end lines, in whatever mixture and with or without the last; other separators are text."""
    for code, raw in (
        ("eng_Latn", b"One.\r\nTwo.\r\n"),
        ("deu_Latn", b"Eins.\nZwei.\r\n"),
        ("fra_Latn", b"Un.\r\nDeux."),
    ):
        (tmp_path / f"{code}.txt").write_bytes(raw)
    (tmp_path / "spa_Latn.txt").write_bytes("U\u0085n\u2028o.\r\nD\x0bo\x0cs.\r\n".encode())
    texts = load_corpus(str(tmp_path)).texts
    assert texts["eng_Latn"] == ("One.", "Two.")
    assert texts["deu_Latn"] == ("Eins.", "Zwei.")
    assert texts["fra_Latn"] == ("Un.", "Deux.")
    assert texts["spa_Latn"] == ("U\u0085n\u2028o.", "D\x0bo\x0cs.")


def test_reads_names_with_a_region(tmp_path):
    """Files named as in browsers and operating systems are read, Traditional Chinese as such."""
    names = {"en-US": "eng_Latn", "pt_BR": "por_Latn", "zh-CN": "zho_Hans", "zh-TW": "zho_Hant", "iw": "heb_Hebr"}
    for name in names:
        (tmp_path / f"{name}.txt").write_text("One.\n", encoding="utf-8")
    assert set(load_corpus(str(tmp_path)).languages) == set(names.values())
    (tmp_path / "pt-PT.txt").write_text("One.\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"pt-PT.txt and .*pt_BR.txt are both por_Latn"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("name", ["en_clean.txt", "eng_Latn_clean.dev", "de-train.txt", "zh_tw.txt", "en-USA.txt"])
def test_no_language_is_left_out_in_silence(tmp_path, name):
    """A name that begins with a known code and is none is refused by the file's name."""
    folder = write_folder(tmp_path)
    (folder / name).write_text("One.\nTwo.\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"{name}: language '{name.partition('.')[0]}' is unknown"):
        load_corpus(str(folder))


def test_refuses_two_files_of_one_language(tmp_path):
    """en.txt and eng_Latn.dev would silently replace each other."""
    write_folder(tmp_path)
    (tmp_path / "en.txt").write_text("One.\nTwo.\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"en.txt and .*eng_Latn.dev are both eng_Latn"):
        load_corpus(str(tmp_path))


def test_refuses_a_file_of_an_unknown_language(tmp_path):
    """A name that looks like a code but is none is refused, not skipped."""
    write_folder(tmp_path)
    (tmp_path / "xqz_Latn.txt").write_text("One.\nTwo.\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"xqz_Latn.txt: language 'xqz_Latn' is unknown"):
        load_corpus(str(tmp_path))


def test_refuses_absent_languages_and_empty_requests(tmp_path):
    """A requested language must be there, be asked for once, and at least one must be."""
    folder = str(write_folder(tmp_path))
    with pytest.raises(CorpusError, match=r"no texts in fra_Latn; .* deu_Latn, eng_Latn, zho_Hant"):
        load_corpus(folder, languages=["fr", "en"])
    with pytest.raises(CorpusError, match="no language was requested"):
        load_corpus(folder, languages=[])
    with pytest.raises(LanguageError, match="given twice: eng_Latn"):
        load_corpus(folder, languages=["en", "eng_Latn"])
    with pytest.raises(LanguageError, match="'klingonish'"):
        load_corpus(folder, languages=["klingonish"])


def test_refuses_what_is_not_there(tmp_path):
    """Missing paths and folders without texts say what a source can be."""
    with pytest.raises(CorpusError, match=r"expected a folder, a .jsonl or .tsv file, or one of belebele, flores_plus"):
        load_corpus(str(tmp_path / "nothing"))
    with pytest.raises(CorpusError, match=r"nothing.jsonl: cannot be read .*check the path"):
        load_corpus(str(tmp_path / "nothing.jsonl"))
    with pytest.raises(CorpusError, match="no language files"):
        load_corpus(str(tmp_path))


def test_reads_flores(shared_data):
    """The real FLORES-200 reads whole: 204 languages, 997 aligned sentences."""
    corpus = load_corpus(str(shared_data / "flores200"), split="dev")
    assert len(corpus.languages) == 204
    assert len(corpus.item_ids) == 997
    assert corpus.name == "flores200/dev"


# --- tables -----------------------------------------------------------------------------------------------------------

ROWS = [
    {"language": "en", "id": "b", "text": "Two.\nLines."},
    {"language": "en", "id": "a", "text": "One."},
    {"language": "deu_Latn", "id": "a", "text": "Eins."},
    {"language": "deu_Latn", "id": "b", "text": "Zwei."},
]


def test_reads_jsonl_by_id(tmp_path):
    """Items are joined by id, in the order in which ids first appear, whichever languages are asked for."""
    source = write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    for languages in (None, ["de"]):
        corpus = load_corpus(source, languages=languages)
        assert corpus.item_ids == ("b", "a")
        assert corpus.texts["deu_Latn"] == ("Zwei.", "Eins.")
    assert load_corpus(source).texts["eng_Latn"] == ("Two.\nLines.", "One.")


def test_reads_tsv_without_ids(tmp_path):
    """Without ids, the n-th text of each language is item n; quotes and other columns mean nothing."""
    path = tmp_path / "pairs.tsv"
    path.write_text('text\tlanguage\tnote\n"One\ten\t-\nEins\tde\t-\nTwo\ten\t-\nZwei\tde\t-\n', encoding="utf-8")
    corpus = load_corpus(str(path))
    assert corpus.texts == {"deu_Latn": ("Eins", "Zwei"), "eng_Latn": ('"One', "Two")}
    assert corpus.item_ids == ("1", "2")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"language": "fr", "id": "a", "text": "Un."}], r"fra_Latn lacks 1 of 2 items, first 'b'"),
        ([*ROWS, {"language": "en", "id": "a", "text": "Uno."}], r":5: id 'a' appears twice"),
        ([*ROWS, {"language": "eng_Latn", "id": 1, "text": ""}], r":5: expected a text that is not empty"),
        ([*ROWS, {"language": "eng_Latn", "id": 1, "text": None}], r":5: expected a text that is not empty"),
        ([*ROWS, {"language": "eng_Latn", "id": 1}], r":5: expected a text that is not empty"),
        ([*ROWS, {"language": "xqz_Latn", "id": 1, "text": "?"}], r":5: language 'xqz_Latn' is unknown"),
        ([*ROWS, {"id": 1, "text": "?"}], r":5: language '' is unknown"),
        ([*ROWS, {"language": "en", "text": "?"}], r":5: some rows have an id and others do not"),
        ([*ROWS, {"language": "en", "id": True, "text": "?"}], r":5: id True; expected"),
        ([*ROWS, ["en", "?"]], r":5: found a list; expected an object"),
    ],
)
def test_refuses_bad_rows(tmp_path, rows, message):
    """The error names the line of the row."""
    with pytest.raises(CorpusError, match=message):
        load_corpus(write_jsonl(tmp_path / "pairs.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.jsonl", b'{"language": "en"\n', r"a.jsonl:1: not JSON"),
        ("a.jsonl", b'{"language": "en", "text": "\\ud800"}\n', r"a.jsonl:1: .*surrogate"),
        ("a.tsv", b"language\tid\nen\t1\n", r"a.tsv:1: columns"),
        ("a.tsv", b"language\ttext\ttext\nen\t1\t1\n", r"a.tsv:1: columns"),
        ("a.tsv", b"language\ttext\nen\tone\ttwo\n", r"a.tsv:2: 3 columns, expected 2"),
        ("a.tsv", b"language\ttext\n", r"no rows"),
        ("a.tsv", b"language\ttext\ren\tone\r", r"a.tsv:1: a carriage return"),
        ("a.tsv", b'language\ttext\nen\t"He said ""hello""."\n', r"a.tsv:2: .*is quoted as in CSV.*QUOTE_NONE"),
        ("a.tsv", b'language\ttext\nen\t""\n', r"a.tsv:2: .*is quoted as in CSV"),
    ],
)
def test_refuses_damaged_tables(tmp_path, name, raw, message):
    """The error names the file and line of what is no table."""
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(CorpusError, match=message):
        load_corpus(str(tmp_path / name))


def test_refuses_a_split_of_a_file(tmp_path):
    """A single file has no splits, so asking for one is a mistake and not ignored."""
    with pytest.raises(CorpusError, match="has no splits"):
        load_corpus(write_jsonl(tmp_path / "pairs.jsonl", ROWS), split="dev")


# --- Belebele's passages from the sentences of FLORES-200 -------------------------------------------------------------

PASSAGES = [
    {"passage": 0, "link": "b", "flores": [["devtest", 1], ["dev", 0]], "n_questions": 1},
    {"passage": 1, "link": "a", "flores": [["dev", 2]], "n_questions": 2},
]
SENTENCES = {
    "dev": {"eng_Latn": ["d0", "d1", "d2"], "deu_Latn": ["D0 ", "D1", '"D2"']},
    "devtest": {"eng_Latn": ["t0", "t1"], "deu_Latn": ["T0", "T1"]},
}


def write_passages(folder: Path, passages=PASSAGES, sentences=SENTENCES) -> str:
    """Write a map and sentences as the named corpus reads them."""
    (folder / "belebele").mkdir(parents=True)
    (folder / "belebele" / "passage_to_flores200.json").write_text(json.dumps(passages), encoding="utf-8")
    for split, lines in sentences.items():
        write_folder(folder / "flores200" / split, lines, split)
    return f"belebele:{folder}"


def test_joins_passages_from_sentences(tmp_path):
    """Sentences are joined by one space, unchanged, in the map's order; passages are named and ordered by link."""
    source = write_passages(tmp_path)
    corpus = load_corpus(source)
    assert corpus.item_ids == ("a", "b")
    assert corpus.texts == {"eng_Latn": ("d2", "t1 d0"), "deu_Latn": ('"D2"', "T1 D0 ")}
    assert (corpus.name, corpus.licence) == ("belebele", "CC-BY-SA-4.0")
    assert str(tmp_path) not in corpus.source
    assert load_corpus(source, languages=["de"]).texts == {"deu_Latn": ('"D2"', "T1 D0 ")}
    with pytest.raises(CorpusError, match="has no splits"):
        load_corpus(source, split="dev")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"link": "c", "flores": [["test", 0]]}, "entry 2: .*expected an object with link and flores"),
        ({"link": "c", "flores": [["dev", -1]]}, "entry 2: .*line from 0"),
        ({"link": "c", "flores": [["dev", True]]}, "entry 2: .*line from 0"),
        ({"link": "c", "flores": [["dev", 1.0]]}, "entry 2: .*line from 0"),
        ({"link": "c", "flores": [["dev", 1, 2]]}, "entry 2: .*a list of"),
        ({"link": "c", "flores": [{"dev": 1}]}, "entry 2: .*a list of"),
        ({"link": "c", "flores": [[["dev"], 1]]}, "entry 2: .*a list of"),
        ({"link": "c", "flores": []}, "entry 2: .*a list of"),
        ({"link": "c"}, "entry 2: .*a list of"),
        (["c"], "entry 2: .*expected an object"),
        ({"flores": [["dev", 0]]}, "entry 2: id None; expected a text"),
        ({"link": " ", "flores": [["dev", 0]]}, "entry 2: id ' '; expected a text"),
        ({"link": "a", "flores": [["dev", 0]]}, "link 'a' appears twice"),
        ({"link": "c", "flores": [["dev", 3]]}, r"entry 2: line 3 of dev, whose files have 3 lines \(0 to 2\)"),
        ({"link": "c", "flores": [["dev", 2], ["devtest", 2]]}, "entry 2: line 2 of devtest, whose files have 2 lines"),
    ],
)
def test_refuses_a_bad_map_of_passages(tmp_path, entry, message):
    """The error names the map, the entry, and what was expected there."""
    source = write_passages(tmp_path, [*PASSAGES, entry])
    with pytest.raises(CorpusError, match=rf"passage_to_flores200.json.*{message}"):
        load_corpus(source)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[{", r"json: not JSON .*line 1"),
        (b"{}", "json: expected a list of passages"),
        (b"[]", "json: expected a list of passages"),
        (b"\xff", "json:1: not UTF-8"),
    ],
)
def test_refuses_a_map_that_is_no_list(tmp_path, raw, message):
    """Damaged JSON and other JSON are refused by the file's name."""
    source = write_passages(tmp_path)
    (tmp_path / "belebele" / "passage_to_flores200.json").write_bytes(raw)
    with pytest.raises(CorpusError, match=message):
        load_corpus(source)


@pytest.mark.parametrize("split", ["dev", "devtest"])
def test_refuses_languages_that_a_split_lacks(tmp_path, split):
    """A language of one split alone is named with the folder that lacks it, whether it was asked for or not."""
    sentences = {**SENTENCES, split: {"eng_Latn": SENTENCES[split]["eng_Latn"]}}
    source = write_passages(tmp_path, sentences=sentences)
    with pytest.raises(CorpusError, match=rf"flores200/{split}: no texts in deu_Latn, which dev\w* has"):
        load_corpus(source)
    with pytest.raises(CorpusError, match=rf"flores200/{split}: no texts in deu_Latn"):
        load_corpus(source, languages=["de"])
    assert load_corpus(source, languages=["en"]).texts["eng_Latn"] == ("d2", "t1 d0")


def test_refuses_passages_without_their_sentences(tmp_path):
    """A map beside which a split of FLORES-200 is missing says which folder it needs."""
    source = write_passages(tmp_path, sentences={"dev": SENTENCES["dev"]})
    with pytest.raises(CorpusError, match="flores200/devtest: no such folder; expected the sentences of FLORES-200"):
        load_corpus(source)


def from_csv_field(field: str) -> str:
    """Read a field of CSV that is quoted; any other text is the field itself."""
    return next(csv.reader([field]))[0] if field.startswith('"') else field


@pytest.mark.parametrize(("language", "exact"), [("eng_Latn", 396), ("deu_Latn", 441)])
def test_rebuilt_passages_are_those_of_belebele(shared_data, language, exact):
    """All 488 equal the data set's: as they stand, or, where they hold quotation marks, as a field of CSV."""
    lines = (shared_data / "belebele" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    original = {row["metadata"]["extra"]["url"]: row["text"] for row in rows}
    corpus = load_corpus(f"belebele:{shared_data}", languages=[language])
    rebuilt = dict(zip(corpus.item_ids, corpus.texts[language], strict=True))
    assert corpus.item_ids == tuple(sorted(original))
    assert len(rebuilt) == 488
    assert sum(rebuilt[link] == text for link, text in original.items()) == exact
    assert {link: text if rebuilt[link] == text else from_csv_field(text) for link, text in original.items()} == rebuilt


def test_every_variety_of_flores_has_the_passages(shared_data):
    """204 varieties, 488 passages each, none empty."""
    corpus = load_corpus(f"belebele:{shared_data}")
    assert set(corpus.languages) == FLORES_200
    assert all(len(texts) == 488 and all(map(str.strip, texts)) for texts in corpus.texts.values())


# --- the corpus itself ------------------------------------------------------------------------------------------------

CORPUS = Corpus("c", {"eng_Latn": ("One.", "Two."), "deu_Latn": ("Eins.", "Zwei.")}, ("1", "2"), "CC0-1.0", "test")


def test_hash_covers_ids_and_texts_and_nothing_else():
    """Equal ids and texts hash equally under any name; a moved word boundary or another id does not."""
    renamed = Corpus("d", CORPUS.texts, CORPUS.item_ids, "MIT", "elsewhere")
    assert renamed.sha256("en") == CORPUS.sha256("eng_Latn")
    assert CORPUS.sha256("en") != CORPUS.sha256("de")
    others = [
        Corpus("c", {"eng_Latn": ("One.T", "wo.")}, ("1", "2"), "", ""),
        Corpus("c", {"eng_Latn": ("One.", "Two.")}, ("1", "3"), "", ""),
        Corpus("c", {"eng_Latn": ("Two.", "One.")}, ("1", "2"), "", ""),
    ]
    assert len({CORPUS.sha256("en"), *(other.sha256("en") for other in others)}) == 4
    with pytest.raises(CorpusError, match="no texts in fra_Latn"):
        CORPUS.sha256("fr")


def test_selects_languages_and_items():
    """Selection keeps what was asked for, in the order of the items asked for."""
    chosen = CORPUS.select(["de"], ["2", "1"])
    assert chosen.texts == {"deu_Latn": ("Zwei.", "Eins.")}
    assert chosen.item_ids == ("2", "1")
    assert CORPUS.select(["en", "de"]) == CORPUS
    for languages, items in ((["fr"], None), (["en"], ["3"]), (["en"], []), ([], None)):
        with pytest.raises(CorpusError):
            CORPUS.select(languages, items)


def test_refuses_to_be_misaligned():
    """A corpus that breaks its own promise cannot be built."""
    with pytest.raises(CorpusError, match="has 1 texts, expected 2"):
        Corpus("c", {"eng_Latn": ("One.",)}, ("1", "2"), "", "")
    with pytest.raises(CorpusError, match="ids repeat"):
        Corpus("c", {"eng_Latn": ("One.", "Two.")}, ("1", "1"), "", "")


def test_local_corpora_do_not_load_datasets(tmp_path):
    """Reading a folder imports neither `datasets` nor torch."""
    folder = write_folder(tmp_path)
    program = (
        "import sys; from isogloss.corpora import load_corpus; load_corpus(sys.argv[1]); "
        "sys.exit(bool({'datasets', 'torch', 'numpy'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", program, str(folder)]
    assert subprocess.run(run, check=False).returncode == 0
