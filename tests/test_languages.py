"""One spelling per language, whatever was typed."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss import languages
from isogloss.errors import LanguageError
from isogloss.languages import FLORES_200, display_name, from_name, resolve, script

CODES = st.sampled_from(sorted(FLORES_200))


def test_examples_run():
    """The examples of the documentation are true."""
    result = doctest.testmod(languages)
    assert result.attempted >= 4
    assert result.failed == 0


def test_knows_all_of_flores(shared_data):
    """The built-in list is exactly the FLORES-200 release."""
    released = {path.name.partition(".")[0] for path in (shared_data / "flores200" / "dev").iterdir()}
    assert released == FLORES_200


def test_has_204_codes():
    """FLORES-200 has 204 codes."""
    assert len(FLORES_200) == 204


@pytest.mark.parametrize(
    ("code", "full"),
    [
        ("en", "eng_Latn"),
        ("zh", "zho_Hans"),
        ("sw", "swh_Latn"),
        ("bn", "ben_Beng"),
        ("ja", "jpn_Jpan"),
        ("de", "deu_Latn"),
        ("es", "spa_Latn"),
        ("fr", "fra_Latn"),
        ("ru", "rus_Cyrl"),
        ("te", "tel_Telu"),
        ("th", "tha_Thai"),
        ("ar", "arb_Arab"),
        ("swa", "swh_Latn"),
        ("swa_Latn", "swh_Latn"),
        ("ger", "deu_Latn"),
        ("eng", "eng_Latn"),
        ("EN", "eng_Latn"),
        (" eng-latn ", "eng_Latn"),
        ("zh-Hant", "zho_Hant"),
        ("cmn_Hans", "zho_Hans"),
        ("ekk_Latn", "est_Latn"),
        ("fil_Latn", "tgl_Latn"),
        ("nqo_Nkoo", "nqo_Nkoo"),
        ("chv_Cyrl", "chv_Cyrl"),
        ("cv-Cyrl", "chv_Cyrl"),
        ("hin_Latn", "hin_Latn"),
        ("hi_Latn", "hin_Latn"),
        ("arb_Latn", "arb_Latn"),
        ("aze_Cyrl", "aze_Cyrl"),
        ("iw", "heb_Hebr"),
        ("in", "ind_Latn"),
        ("ji", "ydd_Hebr"),
        ("jw", "jav_Latn"),
        ("mo", "ron_Latn"),
        ("pt-BR", "por_Latn"),
        ("pt_BR", "por_Latn"),
        ("en-US", "eng_Latn"),
        ("es-419", "spa_Latn"),
        ("zh-CN", "zho_Hans"),
        ("zh-TW", "zho_Hant"),
        ("zh_HK", "zho_Hant"),
        ("zh-hk", "zho_Hant"),
        ("zho-TW", "zho_Hant"),
        ("cmn-TW", "zho_Hant"),
        ("zh-Hans-TW", "zho_Hans"),
        ("yue-HK", "yue_Hant"),
        ("sr-RS", "srp_Cyrl"),
        ("sr-ME", "srp_Latn"),
        ("sr-Latn-RS", "srp_Latn"),
        ("pa-PK", "pan_Arab"),
        ("fa-AF", "prs_Arab"),
        ("fil-PH", "tgl_Latn"),
    ],
)
def test_resolves(code, full):
    """Short, macrolanguage, renamed and outside codes all reach one full code."""
    assert resolve(code) == full


@given(CODES)
def test_full_codes_are_fixed_points(code):
    """A full code resolves to itself in any case and with a hyphen."""
    assert resolve(code) == code
    assert resolve(code.upper().replace("_", "-")) == code


@given(CODES)
def test_three_letters_suffice_exactly_where_they_are_unambiguous(code):
    """Three letters resolve to the only script, and refuse where there are two."""
    rivals = sorted(other for other in FLORES_200 if other.startswith(code[:3]))
    if len(rivals) == 1:
        assert resolve(code[:3]) == code
    else:
        with pytest.raises(LanguageError, match=" or ".join(rivals)):
            resolve(code[:3])


@given(st.text(max_size=9))
def test_any_text_resolves_to_a_fixed_point_or_is_refused(text):
    """Nothing else than LanguageError escapes, and an answer is always a full code that resolves to itself."""
    try:
        full = resolve(text)
    except LanguageError as error:
        assert repr(text) in str(error)  # noqa: PT017 - either outcome is right; each has its own law
    else:
        assert resolve(full) == full
        assert len(full) == 8


@pytest.mark.parametrize(
    "code",
    [
        "mt_de",
        "zh_tw",
        "de-EN",
        "en-XX",
        "xx-US",
        "en-USA",
        "",
        "x",
        "xx",
        "xxx_Latn",
        "qqq_Latn",
        "und_Latn",
        "mul_Latn",
        "zxx_Latn",
        "eng_Xyzq",
        "english",
        "../eng_Latn",
    ],
)
def test_refuses_what_is_no_language(code):
    """Unknown languages, private and special codes, unknown scripts and paths are refused."""
    with pytest.raises(LanguageError, match="expected ISO 639-3 and a script"):
        resolve(code)


def test_suggests_near_codes():
    """The error of a misspelled code names the nearest valid ones."""
    with pytest.raises(LanguageError, match="swh_Latn"):
        resolve("swh_Lat")
    with pytest.raises(LanguageError, match="eng_Latn"):
        resolve("engl_Latn")
    with pytest.raises(LanguageError, match="did you mean zho_Hans or zho_Hant"):
        resolve("zh_tw")
    with pytest.raises(LanguageError, match="in several scripts; write ace_Arab or ace_Latn"):
        resolve("ace-ID")


def test_names_are_distinct_and_plain():
    """No two FLORES-200 codes share a name, and no name carries the registry's remarks."""
    names = [display_name(code) for code in sorted(FLORES_200)]
    assert len(set(names)) == 204
    assert not [name for name in names if "individual" in name or "Unknown" in name]
    assert display_name("bn") == "Bengali"
    assert display_name("hin_Latn") == "Hindi (Latin script)"


@pytest.mark.parametrize(("name", "code"), [("Bengali", "ben_Beng"), ("chinese", "zho_Hans"), ("Swahili", "swh_Latn")])
def test_finds_by_name(name, code):
    """English names lead to the code that the short code leads to."""
    assert from_name(name) == code


def test_refuses_unknown_names():
    """A name of no language is refused."""
    with pytest.raises(LanguageError, match="nonsense"):
        from_name("nonsense")


@given(CODES)
def test_script_is_the_second_half(code):
    """The script is read off the resolved code."""
    assert script(code) == code[4:]


def test_import_loads_no_name_data():
    """Importing and resolving FLORES-200 codes does not load langcodes."""
    program = "import sys; from isogloss.languages import resolve; resolve('en'); sys.exit('langcodes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
