"""Language codes: ``xxx_Xxxx``, ISO 639-3 and script, as in FLORES-200.

Short codes are accepted as input and resolved once; everything else compares full codes as strings.
This module is quick to import: langcodes (50 ms) is loaded only for names and for codes outside FLORES-200.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from functools import cache

from isogloss.errors import LanguageError

__all__ = ["FLORES_200", "display_name", "from_name", "resolve", "script"]

FLORES_200 = frozenset(
    """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab
    arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn
    ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn
    ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek
    eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn
    gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn
    hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn
    kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn kea_Latn khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl
    kmb_Latn kmr_Latn knc_Arab knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn
    ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Arab
    min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn
    nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab pes_Arab plt_Latn pol_Latn por_Latn
    prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn
    slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn
    swh_Latn szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn
    tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn
    vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
    """.split()  # noqa: SIM905 - a table
)
"""The 204 codes of FLORES-200 (NLLB Team, arXiv 2207.04672)."""

# ISO 639-1 -> its default variety in FLORES-200.
_SHORT = dict(
    pair.split()
    for pair in """
    af afr_Latn | ak aka_Latn | am amh_Ethi | ar arb_Arab | as asm_Beng | ay ayr_Latn | az azj_Latn |
    ba bak_Cyrl | be bel_Cyrl | bg bul_Cyrl | bm bam_Latn | bn ben_Beng | bo bod_Tibt | bs bos_Latn |
    ca cat_Latn | cs ces_Latn | cy cym_Latn | da dan_Latn | de deu_Latn | dz dzo_Tibt | ee ewe_Latn |
    el ell_Grek | en eng_Latn | eo epo_Latn | es spa_Latn | et est_Latn | eu eus_Latn | fa pes_Arab |
    ff fuv_Latn | fi fin_Latn | fj fij_Latn | fo fao_Latn | fr fra_Latn | ga gle_Latn | gd gla_Latn |
    gl glg_Latn | gn grn_Latn | gu guj_Gujr | ha hau_Latn | he heb_Hebr | hi hin_Deva | hr hrv_Latn |
    ht hat_Latn | hu hun_Latn | hy hye_Armn | id ind_Latn | ig ibo_Latn | is isl_Latn | it ita_Latn |
    ja jpn_Jpan | jv jav_Latn | ka kat_Geor | kg kon_Latn | ki kik_Latn | kk kaz_Cyrl | km khm_Khmr |
    kn kan_Knda | ko kor_Hang | ku kmr_Latn | ky kir_Cyrl | lb ltz_Latn | lg lug_Latn | li lim_Latn |
    ln lin_Latn | lo lao_Laoo | lt lit_Latn | lv lvs_Latn | mg plt_Latn | mi mri_Latn | mk mkd_Cyrl |
    ml mal_Mlym | mn khk_Cyrl | mr mar_Deva | ms zsm_Latn | mt mlt_Latn | my mya_Mymr | nb nob_Latn |
    ne npi_Deva | nl nld_Latn | nn nno_Latn | no nob_Latn | ny nya_Latn | oc oci_Latn | om gaz_Latn |
    or ory_Orya | pa pan_Guru | pl pol_Latn | ps pbt_Arab | pt por_Latn | qu quy_Latn | rn run_Latn |
    ro ron_Latn | ru rus_Cyrl | rw kin_Latn | sa san_Deva | sc srd_Latn | sd snd_Arab | sg sag_Latn |
    si sin_Sinh | sk slk_Latn | sl slv_Latn | sm smo_Latn | sn sna_Latn | so som_Latn | sq als_Latn |
    sr srp_Cyrl | ss ssw_Latn | st sot_Latn | su sun_Latn | sv swe_Latn | sw swh_Latn | ta tam_Taml |
    te tel_Telu | tg tgk_Cyrl | th tha_Thai | ti tir_Ethi | tk tuk_Latn | tl tgl_Latn | tn tsn_Latn |
    tr tur_Latn | ts tso_Latn | tt tat_Cyrl | tw twi_Latn | ug uig_Arab | uk ukr_Cyrl | ur urd_Arab |
    uz uzn_Latn | vi vie_Latn | wo wol_Latn | xh xho_Latn | yi ydd_Hebr | yo yor_Latn | zh zho_Hans |
    zu zul_Latn
    """.split("|")  # noqa: SIM905 - a table
)

# Other codes of these languages: ISO 639-2 macrolanguages and bibliographic codes, those that FLORES+ renamed (cmn,
# ekk, fil, gug), and those that ISO 639 withdrew, which older software still writes (iw, in, ji, jw, mo, scc, scr).
_SYNONYMS = dict(
    pair.split()
    for pair in """
    ara ar | aym ay | aze az | fas fa | ful ff | kur ku | lav lv | mlg mg | msa ms | mon mn | nep ne | nor no |
    ori or | orm om | pus ps | que qu | sqi sq | swa sw | uzb uz | yid yi | cmn zh | ekk et | fil tl | gug gn |
    alb sq | arm hy | baq eu | bur my | chi zh | cze cs | dut nl | fre fr | geo ka | ger de | gre el | ice is |
    mac mk | mao mi | may ms | per fa | rum ro | slo sk | tib bo | wel cy | iw he | in id | ji yi | jw jv | mo ro |
    scc sr | scr hr
    """.split("|")  # noqa: SIM905 - a table
)

# Where langcodes' English name is ambiguous or unusual in this field.
_NAMES = {"ben": "Bengali", "tgl": "Tagalog", "prs": "Dari", "luo": "Luo", "lus": "Mizo"}

# A region behind an underscore counts in capitals alone: mt_de ends the name of a task about machine translation.
_CODE = re.compile(r"([A-Za-z]{2,3})(?:[_-]([A-Za-z]{4}))?(?:-([A-Za-z]{2}|\d{3})|_([A-Z]{2}|\d{3}))?")
# What a region makes another language of than its code says: fa-AF is CLDR's name of Dari.
_OF_REGION = {("fa", "AF"): "prs_Arab"}
_NO_REGION = frozenset({"XA", "XB", "XX", "ZZ"})
_SPECIAL = frozenset({"mis", "mul", "und", "zxx"})


def resolve(code: str) -> str:
    """Return the full code of a language.

    Args:
        code: an ISO 639-1 code (``en``), a three-letter code with one FLORES-200 script (``eng``), or a language and a
            script (``eng_Latn``, ``zh-Hant``); in any case, ``-`` for ``_``. Codes outside FLORES-200 need their
            script and must be known to langcodes. A region may follow (``pt-BR``, ``zh_TW``; behind ``_`` in capitals):
            it only decides the script where none is given, as CLDR knows it.

    Returns:
        The code as ``xxx_Xxxx``; resolving it again returns it unchanged.

    Raises:
        LanguageError: the code is malformed, unknown or ambiguous; the message suggests codes.

    Example:
        >>> [resolve(code) for code in ("en", "swh", "zh-hant", "deu_Latn", "zh-TW")]
        ['eng_Latn', 'swh_Latn', 'zho_Hant', 'deu_Latn', 'zho_Hant']
    """
    match = _CODE.fullmatch(code.strip())
    if match is None:
        raise _unknown(code)
    language, script_code, region = match[1].lower(), match[2], (match[3] or match[4] or "").upper()
    usual = _script_in(language, region) if region else None
    if region and usual is None:
        raise _unknown(code)
    if script_code is not None:
        return _resolve_full(code, language, script_code.capitalize())
    return _resolve_bare(code, language) if usual is None else _resolve_in_region(code, language, region, usual)


def script(code: str) -> str:
    """Return the ISO 15924 script of a language, given as `resolve` accepts it.

    Example:
        >>> script("ru")
        'Cyrl'
    """
    return resolve(code).partition("_")[2]


def display_name(code: str) -> str:
    """Return the English name of a language, with its script if FLORES-200 has it in several.

    The code is one that `resolve` accepts; names differ between any two codes of FLORES-200.

    Example:
        >>> [display_name(code) for code in ("sw", "zh", "ace_Arab")]
        ['Swahili', 'Chinese (Simplified)', 'Acehnese (Arabic script)']
    """
    return _name(resolve(code))


def from_name(name: str) -> str:
    """Return the full code of a language given by its English name in any case.

    Raises:
        LanguageError: no language or no single script is known for this name.

    Example:
        >>> from_name("Bengali")
        'ben_Beng'
    """
    import langcodes  # noqa: PLC0415 - 50 ms, needed for names only

    try:
        tag = langcodes.find(name)
    except LookupError:
        raise _unknown(name) from None
    return resolve(str(tag.language))


def _resolve_bare(code: str, language: str) -> str:
    short = _SYNONYMS.get(language, language)
    if short in _SHORT:
        return _SHORT[short]
    varieties = _varieties().get(language, ())
    if len(varieties) == 1:
        return varieties[0]
    if varieties:
        raise LanguageError(f"language {code!r} is written in several scripts; write {' or '.join(varieties)}")
    raise _unknown(code)


def _resolve_in_region(code: str, language: str, region: str, script_code: str) -> str:
    if (language, region) in _OF_REGION:
        return _OF_REGION[language, region]
    if language != "zho":  # Chinese alone is settled by a region that its bare code leaves open
        default = _resolve_bare(code, language)
        if default.endswith(script_code):
            return default
    return _resolve_full(code, language, script_code)


def _script_in(language: str, region: str) -> str | None:
    """Return the script that a language is written in there, or None if langcodes knows no such region."""
    import langcodes  # noqa: PLC0415 - 50 ms, needed for regions only

    tag = langcodes.Language.get(f"{_SYNONYMS.get(language, language)}-{region}")
    if not tag.is_valid() or tag.territory_name().startswith("Unknown") or region in _NO_REGION:
        return None
    return str(tag.maximize().script)


def _resolve_full(code: str, language: str, script_code: str) -> str:
    full = f"{language}_{script_code}"
    if full in FLORES_200:
        return full
    short = _SYNONYMS.get(language, language)
    if short in _SHORT:
        standard = f"{_SHORT[short][:3]}_{script_code}"
        if standard in FLORES_200:
            return standard
    outside = _outside_flores(language, script_code)
    if outside is None:
        raise _unknown(code)
    return outside


def _outside_flores(language: str, script_code: str) -> str | None:
    """Return the ISO 639-3 spelling of a code that FLORES-200 lacks, or None if langcodes does not know it."""
    import langcodes  # noqa: PLC0415 - 50 ms, needed outside FLORES-200 only

    tag = langcodes.Language.get(language)
    known = tag.is_valid() and not tag.language_name().startswith("Unknown") and language not in _SPECIAL
    if not known or not langcodes.Language.make(script=script_code).is_valid():
        return None
    # A three-letter code stays as given: langcodes would fold single varieties into their macrolanguage.
    bibliographic = language in _SYNONYMS or len(language) == 2  # noqa: PLR2004 - two letters is ISO 639-1
    return f"{tag.to_alpha3() if bibliographic else language}_{script_code}"


@cache
def _varieties() -> dict[str, tuple[str, ...]]:
    """Group FLORES-200 by its three-letter part."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for full in sorted(FLORES_200):
        groups[full[:3]].append(full)
    return {language: tuple(codes) for language, codes in groups.items()}


@cache
def _name(full: str) -> str:
    import langcodes  # noqa: PLC0415 - 50 ms, needed for names only

    language, _, script_code = full.partition("_")
    if language == "zho" and full in FLORES_200:
        return "Chinese (Simplified)" if script_code == "Hans" else "Chinese (Traditional)"
    name = _NAMES.get(language) or langcodes.Language.get(language).language_name()
    name = name.removesuffix(" (individual language)")
    varieties = _varieties().get(language, ())
    if not varieties or varieties == (full,):
        return name
    return f"{name} ({langcodes.Language.make(script=script_code).script_name()} script)"


def _unknown(code: str) -> LanguageError:
    known = sorted(FLORES_200 | _SHORT.keys())
    text = code.strip().replace("-", "_")
    first = re.split(r"[_.]", text.lower())[0]
    usual = _SHORT.get(_SYNONYMS.get(first, first), first) if first != text.lower() else text.lower()
    same_language = [full for full in known if full.startswith(usual[:3] + "_")] if len(usual) >= 3 else []  # noqa: PLR2004 - ISO 639-3
    suggestions = same_language or difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(suggestions)}?" if suggestions else "for example eng_Latn or en"
    return LanguageError(f"language {code!r} is unknown; expected ISO 639-3 and a script, as in swh_Latn: {hint}")
