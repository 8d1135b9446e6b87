"""Tasks load from the hub's layout and from the original releases, the same items in every language."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_cache import COMMITS

from isogloss.corpora import hub as hub_module
from isogloss.errors import CorpusError, LanguageError
from isogloss.evaluation import TASKS, load_task
from isogloss.evaluation.tasks.choices import MEDICAL_SUBJECTS
from isogloss.evaluation.tasks.score import score_output
from isogloss.evaluation.tasks.task import half_of


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Keep what `datasets` caches inside the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write_repository(folder: Path, configs) -> Path:
    """Write rows per configuration and split as the hub stores them: parquet, named in the README."""
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / config / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), path)
            card += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
    return folder


def write_lines(path: Path, rows) -> None:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def mgsm_rows(language: str, n=3):
    """Rows of the hub's MGSM."""
    return [
        {"question": f"{language} {i}?", "answer": None, "answer_number": i + 1, "equation_solution": None}
        for i in range(n)
    ]


@pytest.mark.usefixtures("hub_cache")
def test_a_copy_of_a_release_keeps_its_protocol(tmp_path, monkeypatch):
    """However its folder is written; the rows are those of the name with a path."""
    folder = tmp_path / "mgsm"
    folder.mkdir()
    for code in ("en", "de"):
        (folder / f"mgsm_{code}.tsv").write_text("How many?\t3\n2 and 3?\t1,005\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    task = load_task("mgsm:mgsm")
    for source in ("mgsm/", "./mgsm", str(folder)):
        assert load_task(source).describe() == task.describe()
        assert load_task(source).items == task.items
        assert load_task(source, split="dev").items == load_task("mgsm:mgsm", split="dev").items
    assert task.chat
    assert task.name == "mgsm"


@pytest.mark.parametrize("name", ["mgsm", "organism-problems", "mgsm:boxed"])
def test_a_folder_of_ones_own_never_has_the_name_of_a_task(tmp_path, name):
    """Another protocol is called otherwise in settings and reports."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "eng_Latn.tsv").write_text("How many?\t3\n", encoding="utf-8")
    task = load_task(str(folder))
    assert task.name == f"./{name}"
    assert not task.chat


def test_a_copy_in_another_layout_is_pointed_to_its_task(tmp_path):
    """A folder of a task's name without questions of one's own is no task of one's own."""
    (tmp_path / "msvamp").mkdir()
    with pytest.raises(CorpusError, match=f"a copy of msvamp is msvamp:{tmp_path / 'msvamp'}"):
        load_task(str(tmp_path / "msvamp"))


def test_mgsm_of_the_hub(tmp_path):
    """One configuration per language, the wording of the protocol, and answers as plain numbers."""
    folder = write_repository(tmp_path / "copy", {code: {"test": mgsm_rows(code)} for code in ("en", "de", "te")})
    task = load_task(f"mgsm:{folder}", languages=["de", "en"])
    assert list(task.items) == ["deu_Latn", "eng_Latn"]
    assert task.items["deu_Latn"][1][:3] == ("1", "Frage: de 1?\nAntwort:", "2")
    assert (task.stop["deu_Latn"], task.chat, task.scoring) == (("Frage:",), True, "generated")
    assert str(tmp_path) not in task.source
    assert [task.read(code, "1.234") for code in ("deu_Latn", "eng_Latn")] == ["1234", "1.234"]
    boxed = load_task(f"mgsm:boxed:{folder}", languages=["en"])
    assert boxed.items["eng_Latn"][0].prompt.endswith("?\nNote: Please put the final answer in the $\\boxed{}$.")
    assert score_output(boxed, "eng_Latn", boxed.items["eng_Latn"][0], "1").correct is False
    assert score_output(boxed, "eng_Latn", boxed.items["eng_Latn"][0], "$\\boxed{1}$").correct is True


def test_the_commit_of_the_data_is_known(tmp_path, monkeypatch):
    """With its repository; a revision is asked for after the name, and of the hub's data alone."""

    def load_dataset(where, config, *, split, revision):
        assert (where, split) == ("juletxara/mgsm", "test")
        rows = mgsm_rows(config)
        file = f"/cache/mgsm/{config}/0.0.0/{COMMITS.get(revision or 'main', revision)}/mgsm-test.arrow"
        return SimpleNamespace(
            column_names=list(rows[0]), select_columns=lambda _columns: rows, cache_files=[{"filename": file}]
        )

    names = lambda _where, *, revision: ["en", "de"] if revision != "v2" else []  # noqa: E731 - one line
    hub = SimpleNamespace(get_dataset_config_names=names, load_dataset=load_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "_datasets", lambda: hub)
        for source, ref in (("mgsm", "main"), (f"mgsm@{COMMITS['v1']}", "v1"), (f"mgsm@{COMMITS['v1']}:boxed", "v1")):
            task = load_task(source)
            assert task.name == "mgsm:boxed" if "boxed" in source else "mgsm"
            assert task.data_revision == task.describe()["data_revision"] == f"juletxara/mgsm@{COMMITS[ref]}"
    folder = write_repository(tmp_path / "copy@v1", {code: {"test": mgsm_rows(code)} for code in ("en", "de")})
    assert load_task(f"mgsm:{folder}").data_revision is None
    for source in (f"mgsm@v1:{folder}", "organism@v1"):
        with pytest.raises(CorpusError, match="no revision; leave @v1 out"):
            load_task(source)


@pytest.mark.usefixtures("hub_cache")
def test_missing_columns_languages_and_splits_name_themselves(tmp_path):
    """What is not there is named, with what is."""
    rows = [{"question": "q", "number": 1}]
    folder = write_repository(tmp_path / "copy", {"en": {"test": rows}, "de": {"train": mgsm_rows("de")}})
    with pytest.raises(CorpusError, match=r"no column answer_number; it has \['question', 'number'\]"):
        load_task(f"mgsm:{folder}", languages=["en"])
    with pytest.raises(CorpusError, match="no texts in fra_Latn; available languages: deu_Latn, eng_Latn"):
        load_task(f"mgsm:{folder}", languages=["fr"])
    with pytest.raises(CorpusError, match="cannot be loaded"):
        load_task(f"mgsm:{folder}", languages=["de"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"expected the original release, or a full copy of google/xquad"):
        load_task(f"xquad:{tmp_path / 'empty'}")


@pytest.mark.usefixtures("hub_cache")
def test_misaligned_languages_are_refused_by_name(tmp_path):
    """An item that one language lacks is named."""
    rows = {"en": [("low-en-0", "1"), ("low-en-1", "2")], "de": [("low-de-0", "1"), ("low-de-2", "2")]}
    configs = {
        code: {"low": [{"id": i, "question": "q", "answer": a} for i, a in found]} for code, found in rows.items()
    }
    folder = write_repository(tmp_path / "copy", configs)
    with pytest.raises(
        CorpusError, match=r"deu_Latn has 2 and eng_Latn 2 items, and only one of them has item 'low-1'"
    ):
        load_task(f"polymath:{folder}")


@pytest.mark.usefixtures("hub_cache")
def test_polymath_levels_are_splits(tmp_path):
    """The variant names the level; LaTeX answers are compared as written, in either layout."""
    rows = [{"id": "top-en-0", "question": "how much?", "answer": "$\\frac{5}{4}$"}]
    low = [{"id": "low-en-0", "question": "how many?", "answer": "18"}]
    folder = write_repository(tmp_path / "copy", {"en": {"low": low, "top": rows}})
    assert load_task(f"polymath:{folder}").items["eng_Latn"][0].answer == "18"
    top = load_task(f"polymath:top:{folder}")
    assert (top.name, top.items["eng_Latn"][0].item_id) == ("polymath:top", "top-0")
    assert score_output(top, "eng_Latn", top.items["eng_Latn"][0], "\\boxed{ \\frac{5}{4} }").correct is True
    write_lines(tmp_path / "release" / "data" / "en" / "top.jsonl", rows)
    assert load_task(f"polymath:top:{tmp_path / 'release'}").items == top.items


def test_polymath_medium_loads_with_its_open_brace(tmp_path):
    """The one answer that is published without a closing brace is read; any other is refused by its line."""
    written = r"$\frac{1}{2\sqrt{2} \ln\frac{\sqrt{2}+2}{2-\sqrt{2}}$"
    row = {"id": "medium-de-111", "question": "?", "answer": written}
    write_lines(tmp_path / "de" / "medium.jsonl", [row])
    task = load_task(f"polymath:medium:{tmp_path}")
    item = task.items["deu_Latn"][0]
    right = r"\boxed{\frac{1}{2\sqrt{2}} \ln \frac{\sqrt{2}+2}{2-\sqrt{2}}}"
    assert score_output(task, "deu_Latn", item, right).correct is True
    for answer in (r"\frac{1}{2", "1.234"):
        write_lines(tmp_path / "de" / "medium.jsonl", [row, row | {"id": "medium-de-112", "answer": answer}])
        with pytest.raises(CorpusError, match=r"medium.jsonl:2: answer is .*closed braces.* the same in deu_Latn"):
            load_task(f"polymath:medium:{tmp_path}")


@pytest.mark.parametrize("level", ["low", "medium", "high", "top"])
def test_every_published_answer_of_polymath_is_right_where_it_is_boxed(shared_data, level):
    """In 18 languages; and no other answer of the level is right in its place."""
    folder = shared_data / "polymath"
    if not folder.is_dir():
        pytest.skip(f"no official files of PolyMath at {folder}")
    task = load_task(f"polymath:{level}:{folder}")
    assert len(task.items) == 18
    for language, items in task.items.items():
        assert len(items) == 125
        for item in items:
            assert score_output(task, language, item, rf"\boxed{{{item.answer}}}").correct is True


def test_a_folder_of_ones_own_is_read_by_its_language(tmp_path):
    """3,5 is 3.5 in German, in the file and in the output."""
    (tmp_path / "deu_Latn.tsv").write_bytes(b"Wie viel?\t3,5\r\nWie viele?\t1.234\r\n")
    (tmp_path / "en-US.tsv").write_text("How much?\t3.5\nHow many?\t1,234\n", encoding="utf-8")
    task = load_task(str(tmp_path))
    for items in task.items.values():
        assert [item.answer for item in items] == ["3.5", "1234"]
    item = task.items["deu_Latn"][0]
    assert score_output(task, "deu_Latn", item, "Das ist 3,5").correct is True
    assert score_output(task, "deu_Latn", item, "Das ist 5").correct is False
    assert "decimal mark of the language" in task.protocol


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("deu_Latn", "Wie viele?\t12 bis 15", r"deu_Latn.tsv:2: .*one as German writes it.*12 bis 15"),
        ("eng_Latn", "How much?\t3,5", r"eng_Latn.tsv:2: .*one as English writes it"),
        ("eng_Latn", "How many?\t1\t5", r"eng_Latn.tsv:2: .*a number, one as"),
        ("eng_Latn", '"She said ""how many?"""\t5', r"eng_Latn.tsv:2: .*quoted as in CSV"),
        ("eng_Latn", '"How\tmany?"\t5', r"eng_Latn.tsv:2: .*a number, one as"),
        ("eng_Latn", "How\rmany?\t5", r"eng_Latn.tsv:2: a carriage return"),
        ("en_clean", "How many?\t5", r"en_clean.tsv: language 'en_clean' is unknown"),
    ],
)
def test_lines_that_need_a_guess_are_refused(tmp_path, name, line, message):
    """The error names the file and the line."""
    (tmp_path / f"{name}.tsv").write_text(f"How many?\t1\n{line}\n", encoding="utf-8", newline="")
    with pytest.raises(CorpusError, match=message):
        load_task(str(tmp_path))


@pytest.mark.usefixtures("hub_cache")
def test_msvamp_of_the_hub(tmp_path):
    """The translated question is asked, and 8.0 is 8."""
    rows = [{"m_query": "wie viele?", "response": "8.0"}]
    folder = write_repository(tmp_path / "copy", {"de": {"test": rows}})
    assert load_task(f"msvamp:{folder}").items["deu_Latn"][0][1:3] == ("Frage: wie viele?\nAntwort:", "8")


def mmlu_rows(language: str, n=4):
    """Rows of the hub's Global-MMLU, subjects mixed."""
    return [
        {"sample_id": f"{subject}/test/{i}", "subject": subject, "question": f"{language} {subject} {i}", "answer": "C"}
        | {f"option_{letter}": f"{letter}{i}" for letter in "abcd"}
        for i in range(n)
        for subject in (*MEDICAL_SUBJECTS, "astronomy")
    ]


@pytest.mark.usefixtures("hub_cache")
def test_global_mmlu_and_its_medical_subset(tmp_path):
    """Letters are the options; the medical subset takes positions within the subject from the user's file."""
    folder = write_repository(tmp_path / "copy", {code: {"test": mmlu_rows(code)} for code in ("en", "fil")})
    task = load_task(f"global_mmlu:{folder}")
    assert list(task.items) == ["eng_Latn", "tgl_Latn"]
    item = task.items["eng_Latn"][0]
    assert item.prompt == "en clinical_knowledge 0\nA. a0\nB. b0\nC. c0\nD. d0\nAnswer:"
    assert (item.options, item.right, item.answer, item.group) == (("A", "B", "C", "D"), 2, "C", "clinical_knowledge")
    indices = tmp_path / "indices.json"
    indices.write_text(json.dumps({subject: [3, 1] for subject in MEDICAL_SUBJECTS}), encoding="utf-8")
    medical = load_task(f"global_mmlu:medical={indices}:{folder}")
    assert medical.group_mean
    assert [item.item_id for item in medical.items["tgl_Latn"]] == [
        f"{subject}/test/{position}" for subject in MEDICAL_SUBJECTS for position in (3, 1)
    ]
    with pytest.raises(CorpusError, match=r"global_mmlu:medical=INDICES\.json"):
        load_task(f"global_mmlu:medical:{folder}")


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"virology": []}, "no positions for virology"),
        ({"virology": [0]}, "different numbers of items"),
        ({"virology": [1, 1]}, "different whole numbers"),
        ({"virology": [0, 9]}, "virology has 4 items, but position 9"),
    ],
)
def test_a_bad_file_of_medical_positions_is_refused(tmp_path, change, message):
    """Each fault of the file names the subject."""
    folder = write_repository(tmp_path / "copy", {"en": {"test": mmlu_rows("en")}})
    indices = tmp_path / "indices.json"
    indices.write_text(json.dumps({subject: [3, 1] for subject in MEDICAL_SUBJECTS} | change), encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        load_task(f"global_mmlu:medical={indices}:{folder}")


@pytest.mark.usefixtures("hub_cache")
def test_mmlu_of_the_hub_and_of_the_release_agree(tmp_path):
    """The hub's table and CSV files, with letters or with a header and indices, give the same items and shots."""
    table = {part: [(f"{part} {i}", ["w", "x,y", "z", "v"], i % 4) for i in range(5)] for part in ("dev", "test")}
    rows = {
        part: [{"question": q, "subject": "anatomy", "choices": c, "answer": a} for q, c, a in found]
        for part, found in table.items()
    }
    hub = load_task(f"mmlu:5shot:{write_repository(tmp_path / 'copy', {'all': rows})}")
    for header in (False, True):
        release = tmp_path / f"release-{header}"
        for part, found in table.items():
            (release / part).mkdir(parents=True)
            with (release / part / f"anatomy_{part}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                if header:
                    writer.writerow(["question", "choice0", "choice1", "choice2", "choice3", "answer"])
                writer.writerows([q, *c, a if header else "ABCD"[a]] for q, c, a in found)
        assert load_task(f"mmlu:5shot:{release}").items == hub.items
    item = hub.items["eng_Latn"][2]
    assert item.prompt.startswith(
        "The following are multiple choice questions (with answers) about anatomy.\n\ndev 0\n"
    )
    assert item.prompt.endswith("D. v\nAnswer: A\n\ntest 2\nA. w\nB. x,y\nC. z\nD. v\nAnswer:")
    assert [example.item_id for example in hub.few_shot["eng_Latn"]] == [f"anatomy/dev/{i}" for i in range(5)]
    (release / "dev" / "anatomy_dev.csv").write_text("q,a,b,c,d,A\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="anatomy has 1 dev examples, expected 5"):
        load_task(f"mmlu:5shot:{release}")
    (release / "test" / "anatomy_test.csv").write_text("q,a,b,c,A\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="record 1: expected question, four options"):
        load_task(f"mmlu:{release}")


def belebele_row(language: str, link: str, number: int):
    """A row of the hub's Belebele."""
    return {
        "link": link,
        "question_number": number,
        "flores_passage": f"{language} {link}",
        "question": f"which {number}?",
        "correct_answer_num": "4",
    } | {f"mc_answer{i}": f"{language} {i}" for i in (1, 2, 3, 4)}


@pytest.mark.usefixtures("hub_cache")
def test_belebele_is_aligned_whatever_the_order_of_rows(tmp_path):
    """Questions stand by link and number in all languages, from the hub's layout and the release's."""
    orders = {"eng_Latn": [("b", 1), ("a", 2), ("a", 1)], "deu_Latn": [("a", 1), ("b", 1), ("a", 2)]}
    rows = {code: [belebele_row(code, *key) for key in order] for code, order in orders.items()}
    hub = load_task(f"belebele:{write_repository(tmp_path / 'copy', {c: {'test': r} for c, r in rows.items()})}")
    assert [item.item_id for item in hub.items["deu_Latn"]] == ["a#1", "a#2", "b#1"]
    assert hub.items["eng_Latn"][0].prompt == (
        "P: eng_Latn a\nQ: which 1?\nA: eng_Latn 1\nB: eng_Latn 2\nC: eng_Latn 3\nD: eng_Latn 4\nAnswer:"
    )
    assert hub.items["eng_Latn"][0].answer == "D"
    for code, found in rows.items():
        write_lines(tmp_path / "release" / f"{code}.jsonl", found)
    assert load_task(f"belebele:{tmp_path / 'release'}").items == hub.items


@pytest.mark.usefixtures("hub_cache")
def test_xquad_of_the_hub_and_of_the_release_agree(tmp_path):
    """Configurations named xquad.xx and SQuAD's own file give the same items."""
    qa = {"id": "7", "question": "who?"}
    row = qa | {"context": "It was Ann.", "answers": {"text": ["Ann"], "answer_start": [7]}}
    hub = load_task(f"xquad:{write_repository(tmp_path / 'copy', {'xquad.en': {'validation': [row]}})}")
    assert hub.items["eng_Latn"][0][:3] == ("7", "Context: It was Ann.\n\nQuestion: who?\n\nAnswer:", "Ann")
    squad = {"data": [{"paragraphs": [{"context": "It was Ann.", "qas": [qa | {"answers": [{"text": "Ann"}]}]}]}]}
    write_lines(tmp_path / "release" / "xquad.en.json", [squad])
    assert load_task(f"xquad:{tmp_path / 'release'}").items == hub.items
    write_lines(tmp_path / "release" / "xquad.en.json", [{"data": [{}]}])
    with pytest.raises(CorpusError, match="not in SQuAD's layout"):
        load_task(f"xquad:{tmp_path / 'release'}")


@pytest.mark.usefixtures("hub_cache")
def test_xcopa_splits_and_wording(tmp_path):
    """Validation is dev; the connector follows the premise, and choices begin in lower case, in either layout."""
    row = {"premise": "Kişi düştü.", "choice1": "Yer ıslaktı.", "choice2": "Güldü.", "question": "cause", "label": 0}
    other = row | {"question": "effect", "label": 1, "premise": "Kişi"}
    splits = {"validation": [row, other], "test": [other]}
    folder = write_repository(tmp_path / "copy", {"tr": splits, "translation-tr": splits})
    dev = load_task(f"xcopa:{folder}", split="dev").items["tur_Latn"]
    assert dev[0].prompt == "Kişi düştü çünkü"
    assert (dev[0].options, dev[0].answer) == (("yer ıslaktı.", "güldü."), "yer ıslaktı.")
    assert (dev[1].prompt, dev[1].answer) == ("Kişi bu yüzden", "güldü.")
    everything = load_task(f"xcopa:{folder}").items["tur_Latn"]
    assert [item.item_id for item in everything] == ["validation/0", "validation/1", "test/0"]
    for split, stem in (("validation", "val"), ("test", "test")):
        write_lines(tmp_path / "release" / "tr" / f"{stem}.tr.jsonl", splits[split])
    assert load_task(f"xcopa:{tmp_path / 'release'}").items["tur_Latn"] == everything


def test_flores_in_every_variant(tmp_path):
    """Directions, likelihood of the translation and of the sentence alone, from FLORES-200's layout."""
    for part, suffix in (("dev", "dev"), ("devtest", "devtest")):
        (tmp_path / part).mkdir()
        for code, word in (("eng_Latn", "Good day"), ("deu_Latn", "Guten Tag")):
            (tmp_path / part / f"{code}.{suffix}").write_text(f"{word} {part}\n", encoding="utf-8")
    item = load_task(f"flores:reference:{tmp_path}", split="dev").items["deu_Latn"][0]
    prompt = "Translate the following sentence from English into German.\n\nEnglish: Good day dev\nGerman:"
    assert (item.prompt, item.reference) == (prompt, "Guten Tag dev")
    alone = load_task(f"flores:text:{tmp_path}")
    assert [len(items) for items in alone.items.values()] == [2, 2]
    assert (alone.items["eng_Latn"][0].prompt, alone.items["eng_Latn"][0].reference) == ("", "Good day dev")
    with pytest.raises(CorpusError, match="English is the other side"):
        load_task(f"flores:{tmp_path}", languages=["en", "de"])
    pytest.importorskip("sacrebleu")
    into = load_task(f"flores:into-english:{tmp_path}", split="test").items["deu_Latn"]
    assert "German: Guten Tag devtest\nEnglish:" in into[0].prompt
    assert [item.answer for item in into] == ["Good day devtest"]


def test_unknown_names_are_answered_with_the_known(tmp_path):
    """Tasks, variants, splits and counts that do not exist say what does."""
    with pytest.raises(CorpusError, match=r"no task 'mgms'.*belebele, flores.*xquad"):
        load_task("mgms")
    with pytest.raises(CorpusError, match="neither a file or folder nor a variant; variants: boxed"):
        load_task("mgsm:native")
    with pytest.raises(CorpusError, match="expected dev, test"):
        load_task("organism", split="devtest")
    with pytest.raises(CorpusError, match="expected 1 or more"):
        load_task("organism", n_items=0)
    with pytest.raises(CorpusError, match="takes no file"):
        load_task(f"mgsm:boxed={tmp_path}")
    for name in ("tico19", "mmlu_arabic"):
        with pytest.raises(CorpusError, match=f"{name}:FOLDER"):
            load_task(name)
    with pytest.raises(LanguageError):
        load_task("organism", languages=["xx"])


def test_every_task_has_its_protocol_written_down(shared_data):
    """Licence, source and protocol are stated, and the settings are JSON without a path."""
    kept = {"mgsm": None, "msvamp": ["en"], "belebele": None, "tico19": ["fr"], "mmlu_arabic": None}
    folders = {name: shared_data / name for name in kept} | {"mmlu_arabic": shared_data / "mmlu_arabic_acegpt"}
    sources = {f"{n}:{v}:{f}" if v else f"{n}:{f}": kept[n] for n, f in folders.items() for v in ("", *TASKS[n])}
    pytest.importorskip("sacrebleu")
    for source, languages in (sources | dict.fromkeys(["organism", "organism:reference", "organism:scenes"])).items():
        if source.startswith("tico19:text"):
            continue  # as flores:text
        task = load_task(source, n_items=3, languages=languages)
        settings = json.dumps(task.describe())
        assert "shot" in task.protocol or task.scoring == "reference"
        assert "not stated" not in (task.licence, task.source)
        assert str(shared_data) not in settings
        assert {len(items) for items in task.items.values()} == {3}


@pytest.mark.parametrize(
    ("name", "folder", "n_languages", "n_items"),
    [
        ("mgsm", "mgsm", 11, 250),
        ("msvamp", "msvamp", 10, 1000),
        ("belebele", "belebele", 2, 900),
        ("mmlu", "mmlu", 1, 14042),
    ],
)
def test_the_published_items_are_all_there(shared_data, name, folder, n_languages, n_items):
    """Real releases have the published numbers of languages and items, with the same answers in all languages."""
    task = load_task(f"{name}:{shared_data / folder}")
    assert {len(items) for items in task.items.values()} == {n_items}
    assert len(task.items) == n_languages
    assert len({tuple(item.answer for item in items) for items in task.items.values()}) == 1


def test_the_expected_answer_scores_fully_in_every_language(shared_data, tmp_path):
    """Saying the right thing is right, for all items of XQuAD in 12 languages and of MSVAMP in 10."""
    with tarfile.open(shared_data / "xquad" / "xquad_json.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for source in (f"xquad:{tmp_path}", f"msvamp:{shared_data / 'msvamp'}"):
        task = load_task(source)
        for language, items in task.items.items():
            assert all(score_output(task, language, item, f" {item.answer}").value == 1 for item in items)


def test_halves_are_apart_complete_and_the_same_in_all_languages(shared_data):
    """Dev and test share no item, together are all, and depend on nothing but task and id."""
    source = f"mgsm:{shared_data / 'mgsm'}"
    dev, test, everything = (load_task(source, split=split).items for split in ("dev", "test", None))
    for language, items in everything.items():
        halves = {item.item_id for item in dev[language]}, {item.item_id for item in test[language]}
        assert not halves[0] & halves[1]
        assert halves[0] | halves[1] == {item.item_id for item in items}
        assert halves[0] == {item.item_id for item in items if half_of("mgsm", item.item_id) == "dev"}
    assert 90 < len(dev["eng_Latn"]) < 160
    few = load_task(source, split="dev", n_items=10, languages=["en"]).items["eng_Latn"]
    assert few == dev["eng_Latn"][:10]
    assert load_task(f"mgsm:boxed:{shared_data / 'mgsm'}", split="dev").items["eng_Latn"][0].item_id == few[0].item_id


def test_the_organism_has_splits_and_references():
    """Dev and test ask different things; the reference is the working that ends in the answer."""
    dev, test = (load_task("organism", split=split, n_items=20, languages=["en"]) for split in ("dev", "test"))
    assert not {i.prompt for i in dev.items["eng_Latn"]} & {i.prompt for i in test.items["eng_Latn"]}
    assert load_task("organism", n_items=20, languages=["en"]).items == test.items
    solved = load_task("organism:reference", n_items=20, languages=["en"])
    for item, question in zip(solved.items["eng_Latn"], test.items["eng_Latn"], strict=True):
        assert item.prompt == question.prompt
        assert item.reference.endswith(f"={question.answer}")
    assert solved.delimiter == ""
    halves = [load_task("organism:scenes", split=split, n_items=20, languages=["en"]) for split in ("dev", "test")]
    told = [{item.reference for item in task.items["eng_Latn"]} for task in halves]
    assert [len(stories) for stories in told] == [20, 20]
    assert not told[0] & told[1]
