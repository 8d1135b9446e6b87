"""Data sets of the hub, read through `datasets` from local copies of their layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hub_cache import COMMITS, add_snapshot
from hub_cache import hub_cache as hub_cache_of
from published_layouts import write_repository

from isogloss.corpora import hub as hub_module
from isogloss.corpora import load_corpus
from isogloss.errors import CorpusError
from isogloss.languages import FLORES_200, resolve


def flores_rows(config: str, ids=(0, 10, 9)):
    """Rows of one FLORES+ configuration."""
    iso, iso_script = config.split("_")[:2]
    return [{"id": i, "iso_639_3": iso, "iso_15924": iso_script, "text": f"{config} {i}", "url": "-"} for i in ids]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Keep what `datasets` caches inside the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


CONFIGS = ("eng_Latn", "cmn_Hans", "twi_Latn_akua1239", "twi_Latn_asan1239", "cat_Latn", "cat_Latn_vale1252")


@pytest.mark.usefixtures("hub_cache")
def test_reads_flores_plus_by_configuration(tmp_path):
    """FLORES+ is read by its own names for languages, and sorted by id as a number."""
    folder = write_repository(tmp_path / "copy", "dev", {name: flores_rows(name) for name in CONFIGS})
    corpus = load_corpus(f"flores_plus:{folder}", languages=["zh", "en", "tw"])
    assert corpus.item_ids == ("0", "9", "10")
    assert corpus.texts["zho_Hans"] == ("cmn_Hans 0", "cmn_Hans 9", "cmn_Hans 10")
    assert corpus.texts["twi_Latn"][0] == "twi_Latn_akua1239 0"
    assert corpus.licence == "CC-BY-SA-4.0"
    assert str(tmp_path) not in corpus.source
    everything = load_corpus(f"flores_plus:{folder}")
    assert everything.languages == ("aka_Latn", "cat_Latn", "eng_Latn", "twi_Latn", "zho_Hans")
    with pytest.raises(CorpusError, match="no texts in fra_Latn"):
        load_corpus(f"flores_plus:{folder}", languages=["fr"])


@pytest.mark.usefixtures("hub_cache")
def test_reads_the_questions_of_mgsm(tmp_path):
    """The hub's rows, which have no ids, and the files of the release give the same questions; answers are left out."""
    questions = {"en": ["How many cups?", "How many snails?"], "de": ["Wie viele Tassen?", "Wie viele Schnecken?"]}
    rows = {code: [{"question": each, "answer_number": 3} for each in texts] for code, texts in questions.items()}
    copy = write_repository(tmp_path / "copy", "test", rows)
    release = tmp_path / "release"
    release.mkdir()
    for code, texts in questions.items():
        (release / f"mgsm_{code}.tsv").write_text("".join(f"{text}\t3\n" for text in texts), encoding="utf-8")
    for folder in (copy, release):
        corpus = load_corpus(f"mgsm:{folder}")
        assert corpus.texts == {"deu_Latn": tuple(questions["de"]), "eng_Latn": tuple(questions["en"])}
        assert corpus.item_ids == ("0", "1")
        with pytest.raises(CorpusError, match="no texts in fra_Latn"):
            load_corpus(f"mgsm:{folder}", languages=["fr"])
    (release / "mgsm_de.tsv").write_text("Wie viele Tassen?\t3\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="deu_Latn"):
        load_corpus(f"mgsm:{release}")


@pytest.mark.usefixtures("hub_cache")
def test_reads_flores_plus_by_language_columns(tmp_path):
    """Where there is one configuration for all, rows are divided by their language columns."""
    configs = {name: flores_rows(name) for name in ("eng_Latn", "deu_Latn")}
    folder = write_repository(tmp_path / "copy", "devtest", configs, per_language=False)
    corpus = load_corpus(f"flores_plus:{folder}", languages=["de"], split="devtest")
    assert corpus.texts == {"deu_Latn": ("deu_Latn 0", "deu_Latn 9", "deu_Latn 10")}


@pytest.mark.usefixtures("hub_cache")
def test_refuses_flores_plus_with_differing_items(tmp_path):
    """A sentence that one language lacks is named."""
    configs = {"eng_Latn": flores_rows("eng_Latn"), "deu_Latn": flores_rows("deu_Latn", (0, 10))}
    folder = write_repository(tmp_path / "copy", "dev", configs)
    with pytest.raises(CorpusError, match="deu_Latn lacks 1 of 3 items, first '9', which eng_Latn has"):
        load_corpus(f"flores_plus:{folder}")


@pytest.mark.usefixtures("hub_cache")
def test_refuses_splits_and_columns_that_are_not_there(tmp_path):
    """An unknown split and a foreign table are refused with what was found."""
    configs = {"eng_Latn": flores_rows("eng_Latn")}
    folder = write_repository(tmp_path / "copy", "dev", configs)
    with pytest.raises(CorpusError, match="split devtest: cannot be loaded"):
        load_corpus(f"flores_plus:{folder}", split="devtest")
    with pytest.raises(CorpusError, match="no column link, flores_passage, question_number"):
        load_corpus(f"belebele:{folder}", split="dev")
    with pytest.raises(CorpusError, match="there is no such file or folder"):
        load_corpus(f"belebele:{tmp_path / 'nothing'}")


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    "content", ["---\nconfigs: [\0]\n---\n", "---\nconfigs:\n- a: b\n   c: d\n---\n", "---\n- 1\n---\n"]
)
def test_a_damaged_card_is_refused_in_one_line(tmp_path, content):
    """Whatever the library's readers raise about it."""
    folder = write_repository(tmp_path / "copy", "dev", {"eng_Latn": flores_rows("eng_Latn")})
    (folder / "README.md").write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"^[^\n]*cannot be loaded[^\n]*$"):
        load_corpus(f"flores_plus:{folder}", split="dev")


def belebele_rows(config: str, order):
    """Rows of one Belebele configuration, one per question."""
    return [
        {"link": link, "question_number": number, "flores_passage": f"{config} {link}", "dialect": config}
        for link, number in order
    ]


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("name", "file"), [("mgsm", "mgsm_en.tsv"), ("belebele", "belebele/passage_to_flores200.json")]
)
def test_a_name_alone_is_the_hubs_wherever_one_stands(tmp_path, monkeypatch, name, file):
    """Also in a folder that holds the original release: only NAME:FOLDER reads it."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("How many cups?\t3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("isogloss.corpora.load.load_hub", lambda name, local, *_, **__: f"{name} of the hub{local}")
    assert load_corpus(name) == f"{name} of the hub"


def test_reads_belebele_passages_once_sorted_by_link(tmp_path):
    """Two questions of one passage are one item, whatever the order of rows in each language."""
    configs = {
        "eng_Latn": belebele_rows("eng_Latn", [("b", 1), ("a", 2), ("a", 1), ("c", 1)]),
        "deu_Latn": belebele_rows("deu_Latn", [("a", 1), ("c", 1), ("b", 1), ("a", 2)]),
    }
    folder = write_repository(tmp_path / "copy", "test", configs)
    corpus = load_corpus(f"belebele:{folder}")
    assert corpus.item_ids == ("a", "b", "c")
    assert corpus.texts["deu_Latn"] == ("deu_Latn a", "deu_Latn b", "deu_Latn c")


@pytest.mark.usefixtures("hub_cache")
def test_keeps_the_passage_of_the_first_question(tmp_path):
    """Where two rows of a link differ, the lowest question number decides, not the order of rows."""
    rows = belebele_rows("eng_Latn", [("a", 2), ("a", 1)])
    rows[0]["flores_passage"] = "a variant"
    folder = write_repository(tmp_path / "copy", "test", {"eng_Latn": rows})
    assert load_corpus(f"belebele:{folder}").texts["eng_Latn"] == ("eng_Latn a",)


@pytest.mark.usefixtures("hub_cache")
def test_belebele_has_488_passages(tmp_path, shared_data):
    """Real links and passages give the 488 items of the papers, in their order."""
    passages = json.loads((shared_data / "belebele" / "passage_to_flores200.json").read_text(encoding="utf-8"))
    order = [(p["link"], number) for p in reversed(passages) for number in range(1, p["n_questions"] + 1)]
    folder = write_repository(tmp_path / "copy", "test", {"eng_Latn": belebele_rows("eng_Latn", order)})
    assert load_corpus(f"belebele:{folder}").item_ids == tuple(passage["link"] for passage in passages)


# Source: the table of languages in the README of github.com/facebookresearch/belebele.
BELEBELE = """
acm_Arab afr_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng azj_Latn bam_Latn
ben_Beng ben_Latn bod_Tibt bul_Cyrl cat_Latn ceb_Latn ces_Latn ckb_Arab dan_Latn deu_Latn ell_Grek eng_Latn est_Latn
eus_Latn fin_Latn fra_Latn fuv_Latn gaz_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hin_Latn hrv_Latn
hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kac_Latn kan_Knda kat_Geor kaz_Cyrl
kea_Latn khk_Cyrl khm_Khmr kin_Latn kir_Cyrl kor_Hang lao_Laoo lin_Latn lit_Latn lug_Latn luo_Latn lvs_Latn mal_Mlym
mar_Deva mkd_Cyrl mlt_Latn mri_Latn mya_Mymr nld_Latn nob_Latn npi_Deva npi_Latn nso_Latn nya_Latn ory_Orya pan_Guru
pbt_Arab pes_Arab plt_Latn pol_Latn por_Latn ron_Latn rus_Cyrl shn_Mymr sin_Latn sin_Sinh slk_Latn slv_Latn sna_Latn
snd_Arab som_Latn sot_Latn spa_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn tam_Taml tel_Telu tgk_Cyrl tgl_Latn
tha_Thai tir_Ethi tsn_Latn tso_Latn tur_Latn ukr_Cyrl urd_Arab urd_Latn uzn_Latn vie_Latn war_Latn wol_Latn xho_Latn
yor_Latn zho_Hans zho_Hant zsm_Latn zul_Latn
""".split()  # noqa: SIM905 - a table
ROMANISED = ("ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn")


def test_every_variety_of_belebele_has_its_own_code():
    """The names of all 122 configurations are full codes, so none is dropped as a name that is no language."""
    assert [resolve(code) for code in BELEBELE] == BELEBELE
    assert len(set(BELEBELE)) == 122
    assert set(BELEBELE) - FLORES_200 == set(ROMANISED)


@pytest.mark.usefixtures("hub_cache")
def test_romanised_varieties_of_belebele_are_read(tmp_path):
    """Configurations outside FLORES-200 are languages beside those in their own script."""
    codes = (*ROMANISED, "hin_Deva")
    configs = {code: belebele_rows(code, [("a", 1)]) for code in codes}
    corpus = load_corpus(f"belebele:{write_repository(tmp_path / 'copy', 'test', configs)}")
    assert corpus.texts == {code: (f"{code} a",) for code in codes}


@pytest.mark.usefixtures("hub_cache")
def test_both_ways_to_belebele_give_the_same_ids(tmp_path, shared_data):
    """Passages from the data set and those rebuilt from FLORES-200 are the same items in the same order."""
    passages = json.loads((shared_data / "belebele" / "passage_to_flores200.json").read_text(encoding="utf-8"))
    order = [(passage["link"], 1) for passage in reversed(passages)]
    folder = write_repository(tmp_path / "copy", "test", {"eng_Latn": belebele_rows("eng_Latn", order)})
    rebuilt = load_corpus(f"belebele:{shared_data}", languages=["en"])
    assert load_corpus(f"belebele:{folder}").item_ids == rebuilt.item_ids


def test_says_what_to_do_without_the_hub(tmp_path):
    """Offline, the error names the data set, the terms to accept and the way around."""
    pytest.importorskip("datasets")
    program = "from isogloss.corpora import load_corpus; load_corpus('flores_plus', languages=['en'])"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = [sys.executable, "-c", program]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert "CorpusError: openlanguagedata/flores_plus: cannot be loaded" in result.stderr
    assert "copy the repository and name it as flores_plus:FOLDER" in result.stderr


def test_a_folder_that_is_no_copy_is_refused_in_one_line(tmp_path):
    """What the library says about every file is left out; both layouts that would do are named."""
    (tmp_path / "one.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "two.csv").write_text("c\n1\n", encoding="utf-8")
    with pytest.raises(CorpusError) as refused:
        load_corpus(f"belebele:{tmp_path}", languages=["eng_Latn"])
    assert "\n" not in str(refused.value)
    assert "passage_to_flores200.json beside flores200/" in str(refused.value)


class FakeDatasets:
    """Stands for `datasets` on a hub, or, where ``kept`` is given, without a network on what it has kept."""

    def __init__(self, kept=None):
        self.kept = kept

    def get_dataset_config_names(self, _where, *, revision):
        """Two languages, at every revision."""
        return ["eng_Latn", "deu_Latn"] if self.kept or revision in {None, *COMMITS, *COMMITS.values()} else []

    def load_dataset(self, _where, config, *, split, revision):
        """A table in the folder of its commit."""
        rows = flores_rows(config)
        commit = self.kept[config] if self.kept else COMMITS.get(revision or "main", revision)
        file = f"/cache/flores_plus/{config}/0.0.0/{commit}/flores_plus-{split}.arrow"
        return SimpleNamespace(
            column_names=list(rows[0]), select_columns=lambda _columns: rows, cache_files=[{"filename": file}]
        )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Let there be a hub whose data set has two commits."""
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").touch()
    place = hub_cache_of(monkeypatch, tmp_path / "hub")
    for ref in COMMITS:
        add_snapshot(place, "openlanguagedata/flores_plus", tmp_path / "card", ref, kind="datasets")
    monkeypatch.setattr(hub_module, "_datasets", FakeDatasets)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("source", "commit"),
    [
        ("flores_plus", COMMITS["main"]),
        ("flores_plus@v1", COMMITS["v1"]),
        (f"flores_plus@{COMMITS['v1']}", COMMITS["v1"]),
    ],
)
def test_the_commit_of_a_data_set_is_known(source, commit):
    """Of the main branch, or of the branch, tag or commit after the name; picking items keeps it."""
    corpus = load_corpus(source)
    assert (corpus.name, corpus.revision) == ("flores_plus", commit)
    assert corpus.select(["eng_Latn"]).revision == commit


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("revision", [COMMITS["v1"], "v1", "unknown"])
def test_another_commit_than_asked_for_is_refused(monkeypatch, revision):
    """Without a network `datasets` takes what it has kept last, also where a revision was asked for."""
    kept = dict.fromkeys(("eng_Latn", "deu_Latn"), COMMITS["main"])
    monkeypatch.setattr(hub_module, "_datasets", lambda: FakeDatasets(kept))
    for asked in ("", "@main", f"@{COMMITS['main']}"):
        assert load_corpus(f"flores_plus{asked}", languages=["en"]).revision == COMMITS["main"]
    with pytest.raises(CorpusError, match=f"revision {revision} was asked for, and commit {COMMITS['main']} was kept"):
        load_corpus(f"flores_plus@{revision}", languages=["en"])


@pytest.mark.usefixtures("hub")
def test_languages_of_two_commits_are_refused(monkeypatch):
    """As they may lie on a machine that has fetched them at different times."""
    kept = {"eng_Latn": COMMITS["main"], "deu_Latn": COMMITS["v1"]}
    monkeypatch.setattr(hub_module, "_datasets", lambda: FakeDatasets(kept))
    with pytest.raises(CorpusError, match="languages are of two commits"):
        load_corpus("flores_plus")


@pytest.mark.usefixtures("hub_cache")
def test_a_local_copy_has_no_revision(tmp_path):
    """None is recorded, and none can be asked for; an @ in its name is no revision."""
    folder = write_repository(tmp_path / "copy@v1", "dev", {"eng_Latn": flores_rows("eng_Latn")})
    assert load_corpus(f"flores_plus:{folder}").revision is None
    for name in ("flores_plus", "belebele"):
        with pytest.raises(CorpusError, match="a local copy has no revision"):
            load_corpus(f"{name}@v1:{folder}")
    texts = tmp_path / "flores_plus@v1"
    texts.mkdir()
    (texts / "eng_Latn.txt").write_text("One.\n", encoding="utf-8")
    assert load_corpus(str(texts)).texts == {"eng_Latn": ("One.",)}
