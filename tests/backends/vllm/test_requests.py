"""What requests may ask of the vLLM plugin, without vLLM: every value is admitted or refused, by one kind of error."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isogloss.backends.vllm.plugin.requests import (
    ITEM,
    LANGUAGE,
    PLAN,
    START,
    RequestError,
    admit,
    asked_by,
    separate_salt,
)
from isogloss.languages import FLORES_200, resolve

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CODES = st.sampled_from(["hi", "hi-IN", "HI", "zh-TW", "Hindi", "zzz", "en_Latn", "iw", "x" * 33, "zh", "a-\ud800"])
NAMES = st.sampled_from(["a", "A", "unsteered", "a ", "b" * 64])


def attempt(extra):
    """What is admitted, or why nothing is."""
    try:
        return admit(extra, n_prompt=50), None
    except RequestError as error:
        return None, str(error)


@pytest.fixture(autouse=True, scope="module")
def _offered(tmp_path_factory):
    """Plans that the engine has."""
    names = tmp_path_factory.mktemp("names") / "names"
    names.write_text(json.dumps(["a", *(f"{letter}{'n' * 63}" for letter in "bcdef"), "unsteered"]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ISOGLOSS_NAMES", str(names))
        yield


@given(st.dictionaries(st.sampled_from([LANGUAGE, PLAN, START, ITEM, "isogloss_lang", "other"]), JSON | CODES | NAMES))
@example({PLAN: "\ud800" * 64})
@example({PLAN: "b" * 1_000_000})
@example({PLAN: "a", LANGUAGE: "sw"})
@example({START: "abc"})
@example({START: 2**63})
@example({START: True})
@example({ITEM: -1})
@example({LANGUAGE: "x" * 1_000_000})
@example({"isogloss" * 100_000: 1})
def test_everything_is_admitted_as_what_steps_read_or_refused(extra):
    """Steps read full codes and small whole numbers, and nothing else; a refusal is short, whatever was sent."""
    own, refusal = attempt(extra)
    if refusal is not None:
        assert len(refusal) < 450
        json.dumps(refusal, ensure_ascii=False).encode()  # as a server sends it
        return
    assert own.keys() == extra.keys() - {"other"}
    assert own == admit(own, n_prompt=50)
    assert own.get(PLAN, "a") in ("a", "unsteered")
    if LANGUAGE in own:
        assert own[LANGUAGE] == resolve(extra[LANGUAGE])
    assert all(type(own[name]) is int and own[name] >= 0 for name in (START, ITEM) if name in own)
    assert own.get(START, 0) <= 50


@pytest.mark.parametrize(
    ("code", "full"),
    [("hi-IN", "hin_Deva"), ("pt-BR", "por_Latn"), ("zh-TW", "zho_Hant"), ("SW", "swh_Latn"), ("deu_Latn", "deu_Latn")],
)
def test_codes_are_those_of_the_command_line(code, full):
    """With a region, and in any case."""
    assert admit({LANGUAGE: code}) == {LANGUAGE: full}


@pytest.mark.parametrize("value", ["Hindi", "zzz", "", ["hi"], None, 5, {}])
def test_what_is_no_code_is_refused_by_name(value):
    """Never ignored: the rules of some language were meant."""
    with pytest.raises(RequestError, match=LANGUAGE):
        admit({LANGUAGE: value})


def test_the_arguments_of_a_request_stand_in_one_field():
    """Other fields, and other arguments, are left to vLLM."""
    own = {LANGUAGE: "hi", PLAN: "a"}
    assert asked_by({"model": "tiny", "vllm_xargs": own | {"other": 1}}) == {LANGUAGE: "hin_Deva", PLAN: "a"}
    assert asked_by({"model": "tiny", "metadata": {"a": 1}}) == asked_by({"vllm_xargs": None}) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {LANGUAGE: "hi"},
        {PLAN: "a"},
        {"extra_body": {"vllm_xargs": {LANGUAGE: "hi"}}, LANGUAGE: "hi"},
        {"extra_args": {LANGUAGE: "hi"}},
        {"vllm_xargs": {"isogloss_lang": "hi"}},
        {"vllm_xargs": {"ISOGLOSS_LANGUAGE": "hi"}},
    ],
)
def test_arguments_in_the_wrong_place_are_refused(fields):
    """VLLM ignores fields that it does not know: an answer without the rules would follow."""
    with pytest.raises(RequestError, match="expected"):
        asked_by(fields)


def test_extra_arguments_that_are_no_object_are_refused():
    """Where vLLM does not read the field, nor does it check it."""
    with pytest.raises(RequestError, match="a list; expected an object"):
        asked_by({"vllm_xargs": [LANGUAGE]})


PLANS = st.none() | st.sampled_from(["a", "hin_Deva", "unsteered"])
LANGUAGES = st.none() | st.sampled_from(sorted(FLORES_200))
SALTS = (
    st.none() | st.text(min_size=1) | st.sampled_from(["|isogloss:hin_Deva", "hin_Deva|", "a:|", "a:hin_Deva|", "|"])
)
OWN = st.tuples(PLANS, LANGUAGES, SALTS)


@given(OWN, OWN)
@example((None, "hin_Deva", None), (None, None, "hin_Deva|"))
@example((None, "hin_Deva", "a"), (None, None, "hin_Deva|a"))
@example((None, "hin_Deva", None), (None, None, "|isogloss:hin_Deva"))
@example(("a", "hin_Deva", None), (None, None, "a:hin_Deva|"))
@example(("hin_Deva", None, None), (None, "hin_Deva", None))
def test_no_salt_of_a_client_is_that_of_another_plan_or_language(one, other):
    """Two requests share a cache only where plan, language and salt are the same."""
    assert (separate_salt(*one) == separate_salt(*other)) == (one == other)
