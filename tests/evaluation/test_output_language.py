"""The language of outputs: what is judged, how codes are resolved, and rates before and after a plan."""

from __future__ import annotations

import json
import socket

import pytest

from isogloss.errors import LanguageError, RunError
from isogloss.evaluation.output_language import (
    MIN_LETTERS,
    compare_output_language,
    output_language,
)
from isogloss.records import to_json

TEXTS = {
    "eng_Latn": "The children counted the snails on the wall after the rain had stopped in the evening.",
    "deu_Latn": "Die Kinder zählten die Schnecken an der Mauer, nachdem der Regen am Abend aufgehört hatte.",
    "fra_Latn": "Les enfants ont compté les escargots sur le mur quand la pluie a cessé dans la soirée.",
    "rus_Cyrl": "Дети считали улиток на стене после того, как вечером прекратился дождь.",
    "arb_Arab": "أحصى الأطفال القواقع على الجدار بعد أن توقف المطر في المساء.",
    "hin_Deva": "शाम को बारिश रुकने के बाद बच्चों ने दीवार पर घोंघे गिने।",
    "ben_Beng": "সন্ধ্যায় বৃষ্টি থামার পর শিশুরা দেয়ালে শামুক গুনেছিল।",
    "tha_Thai": "เด็กๆ นับหอยทากบนกำแพงหลังจากฝนหยุดตกในตอนเย็น",
    "jpn_Jpan": "夕方に雨が止んだ後、子供たちは壁の上のカタツムリを数えました。",
    "zho_Hans": "傍晚雨停之后，孩子们开始数墙上的蜗牛，然后把结果写在本子里。",
    "zho_Hant": "傍晚雨停之後，孩子們開始數牆上的蝸牛，然後把結果寫在本子裡。",
    "kor_Hang": "저녁에 비가 그친 뒤 아이들은 벽에 붙은 달팽이를 세었습니다.",
}


def rate_of(outputs, language, **options):
    """Estimate the share of outputs that are in a language."""
    return compare_output_language(outputs, outputs, language, **options).baseline


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_is_found_in_its_language_and_script(language: str):
    """The code is the full one, with simplified and traditional Chinese apart; lines and numbers do not matter."""
    assert output_language(TEXTS[language]) == language
    assert output_language("12 + 7 = 19.\n" + TEXTS[language].replace(" ", "\n") + "\n**42**") == language


def test_detection_needs_no_network(monkeypatch: pytest.MonkeyPatch):
    """A machine without a network finds the same."""

    def refuse(*_: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert output_language(TEXTS["deu_Latn"]) == "deu_Latn"


def test_the_whole_text_counts_not_its_beginning():
    """An output that opens in English and goes on in German for long is German."""
    assert (
        output_language("Sure, here is the answer to your question, step by step. " + TEXTS["deu_Latn"] * 6)
        == "deu_Latn"
    )


@pytest.mark.parametrize("text", ["", "   \n", "42", "16 + 17 = 33; 33 + 18 = 51", "Yes.", "😀 😀 😀", "\\frac{1}{2}"])
def test_texts_without_enough_letters_are_not_judged(text: str):
    """Numbers, formulas and single words have no language that could be told."""
    assert output_language(text) is None


def test_how_long_is_long_enough():
    """`MIN_LETTERS` letters are judged and one fewer is not; half as many of a script of syllables or words."""
    letters = TEXTS["deu_Latn"].replace(" ", "").replace(",", "").replace(".", "")
    assert output_language(letters[:MIN_LETTERS]) is not None
    assert output_language(letters[: MIN_LETTERS - 1] + " 1234567") is None
    assert output_language("傍晚雨停之后孩子们开始数墙上的蜗牛然后把"[: MIN_LETTERS // 2]) == "zho_Hans"
    assert output_language("傍晚雨停之后孩子们开始数墙上的蜗牛然后"[: MIN_LETTERS // 2 - 1]) is None


def test_chinese_is_not_japanese_and_names_do_not_decide():
    """Without kana a text in Han characters is Chinese; a few Latin names in it change nothing."""
    assert output_language("東京大學位於日本東京都文京區本鄉七丁目是日本國立大學") == "zho_Hant"
    assert output_language("Alexander Maximilian Johnson 认为傍晚雨停之后孩子们会开始数墙上的蜗牛") == "zho_Hans"


def test_kana_decides_against_the_detector(monkeypatch: pytest.MonkeyPatch):
    """Where the detector mistakes Chinese for Japanese or the reverse, the presence of kana has the last word."""
    monkeypatch.setattr("isogloss.evaluation.output_language._ranked", lambda _: ["ja", "zh"])
    assert output_language(TEXTS["zho_Hans"]) == "zho_Hans"
    monkeypatch.setattr("isogloss.evaluation.output_language._ranked", lambda _: ["zh", "ja"])
    assert output_language(TEXTS["jpn_Jpan"]) == "jpn_Jpan"


def test_labels_outside_the_short_codes_are_resolved():
    """Latin and Breton, which FLORES-200 lacks, get full codes instead of the next best language."""
    latin = "Gallia est omnis divisa in partes tres, quarum unam incolunt Belgae, aliam Aquitani, tertiam qui ipsorum"
    assert output_language(latin) == "lat_Latn"


def test_candidates_limit_what_can_be_found():
    """Among given languages the most probable counts; none in the text's script finds nothing."""
    assert output_language(TEXTS["deu_Latn"], among=["en", "fra_Latn"]) in ("eng_Latn", "fra_Latn")
    assert output_language(TEXTS["deu_Latn"], among=["de", "en"]) == "deu_Latn"
    assert output_language(TEXTS["rus_Cyrl"], among=["en", "de"]) is None
    with pytest.raises(LanguageError):
        output_language(TEXTS["rus_Cyrl"], among=["klingon"])


def test_the_rate_counts_what_can_be_judged_and_never_silence():
    """Two right, one in English, one silent: a half of four; bare numbers are left out."""
    outputs = [TEXTS["deu_Latn"], TEXTS["deu_Latn"], TEXTS["eng_Latn"], " \n", "42"]
    rate = rate_of(outputs, "de")
    assert rate is not None
    assert (rate.value, rate.n) == (0.5, 4)
    assert 0 < rate.low < 0.5 < rate.high < 1
    assert rate_of(["", ""], "de").value == 0.0
    assert rate_of(["42"], "de") is None


def test_another_script_is_another_language_even_among_candidates():
    """A Russian output, where German or English may occur, is judged and is not German."""
    rate = rate_of([TEXTS["rus_Cyrl"], TEXTS["deu_Latn"]], "de", among=["en"])
    assert (rate.value, rate.n) == (0.5, 2)


def test_two_arms_are_compared_on_items_judged_in_both():
    """A plan that turns German into English lowers the rate; an item that is a number in one arm is left out."""
    german, english = TEXTS["deu_Latn"], TEXTS["eng_Latn"]
    found = compare_output_language([german] * 10, [english] * 6 + [german] * 3 + ["42"], "deu_Latn")
    assert (found.n_items, found.judged_baseline, found.judged_steered) == (10, 10, 9)
    assert found.difference.n == 9
    assert found.baseline.value == 1.0
    assert found.difference.value == pytest.approx(-6 / 9)
    assert found.difference.high < 0
    raw = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert raw["steered"]["value"] == pytest.approx(3 / 9)


def test_arms_without_words_have_no_rate():
    """Numbers alone: counts stay, rates are null."""
    raw = to_json(compare_output_language(["1"], ["2"], "de"))
    counts = {"n_items": 1, "judged_baseline": 0, "judged_steered": 0}
    assert raw == {"baseline": None, "steered": None, "difference": None, **counts}


def test_arms_of_different_length_are_refused():
    """Outputs must be of the same items."""
    with pytest.raises(RunError, match="baseline has 1 outputs and steered 2"):
        compare_output_language(["a"], ["a", "b"], "de")


@pytest.mark.parametrize(
    ("language", "least"),
    [
        ("eng_Latn", 0.99),
        ("deu_Latn", 0.99),
        ("ben_Beng", 0.99),
        ("zho_Hans", 0.985),
        ("tha_Thai", 0.97),
        ("swh_Latn", 0.85),
    ],
)
def test_sentences_of_flores_are_found(shared_data, language: str, least: float):
    """Whole sentences of FLORES-200 are found at the documented rates."""
    lines = (shared_data / "flores200" / "devtest" / f"{language}.devtest").read_text(encoding="utf-8").splitlines()
    assert rate_of(lines[:300], language).value >= least
