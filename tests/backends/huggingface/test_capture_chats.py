"""Chats are captured token by token as the chat template writes them, and every token is of one role."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from calendar_days import set_day
from chat_templates import CHATML, DATED, MARKED, TRIMMED
from models import ITEM_IDS, TEXTS, hooked_logits, tiny

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.chat_template import template_sha256
from isogloss.backends.chat_texts import read_chats
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.corpora import Corpus, Turns
from isogloss.errors import CorpusError, IsoglossError, ModelError, RunError
from isogloss.runs import merge, open_run
from isogloss.workflows import capture_corpus

TURNS = tuple(Turns(question, answer) for question, answer in zip(TEXTS, reversed(TEXTS), strict=True))
CHAT = CaptureOptions(chat=True, sampled_tokens=5)
OF_FAMILY = {"qwen3_moe": CHATML, "phimoe": TRIMMED, "gpt_oss": DATED, "olmoe": MARKED}
"""The classes of the models that the papers study, each with a template of its form."""


def chatting(family, template):
    """A tiny model whose tokenizer has a chat template."""
    loaded = tiny(family)
    loaded.tokenizer = copy.deepcopy(loaded.tokenizer)
    loaded.tokenizer.chat_template = template
    return loaded


def messages(turns):
    """One conversation as transformers takes it."""
    both = [("user", turns.user), ("assistant", turns.assistant)]
    return [{"role": role, "content": content} for role, content in both if content is not None]


@pytest.mark.parametrize("family", OF_FAMILY)
def test_profiles_are_those_of_the_templates_tokens(family):
    """The oracle knows neither our reader nor our batches: token ids by transformers, routers by a hook of torch."""
    loaded = chatting(family, OF_FAMILY[family])
    captured = loaded.capture(TURNS, ITEM_IDS, options=replace(CHAT, token_scope="all"))
    plain = loaded.capture([turns.text for turns in TURNS], ITEM_IDS)
    assert np.abs(plain.profiles - captured.profiles).max() > 0.01, "a chat is routed as plain text"
    for item, turns in enumerate(TURNS):
        with pytest.MonkeyPatch.context() as patch:
            set_day(patch, "2026-01-01")
            ids = loaded.tokenizer.apply_chat_template(messages(turns), return_dict=False)
        assert captured.tokens[item] == len(ids)
        expected = hooked_logits(loaded, ids).softmax(-1).mean(1)
        np.testing.assert_allclose(captured.profiles[item], expected, atol=1e-6)


@pytest.mark.parametrize("template", [CHATML, MARKED, TRIMMED, DATED], ids=["chatml", "marked", "trimmed", "dated"])
def test_every_token_of_a_message_has_its_role(template):
    """The tokens of a role are those of its message alone, and no message's token is the template's."""
    tokenizer = chatting("olmoe", template).tokenizer
    turns = [*TURNS, Turns("  assistant \n", "user"), Turns("<eos>", "Yes."), Turns("One question.")]
    for read, each in zip(read_chats(tokenizer, turns, [str(n) for n in range(len(turns))]), turns, strict=True):
        for places, text in ((read.user, each.user), (read.assistant, each.assistant)):
            decoded = tokenizer.decode([read.ids[place] for place in places])
            assert decoded.strip() == ("" if text is None else text.strip())
        assert [place for place, own in enumerate(read.special) if not own] == sorted([*read.user, *read.assistant])


def test_content_is_user_and_assistant_together():
    """Sums over tokens of both sides are those of the content; the template's tokens come on top of it in ``all``."""
    loaded = chatting("qwen3_moe", CHATML)
    scopes = ("user", "assistant", "content", "all")
    user, assistant, content, everything = (
        loaded.capture(TURNS, ITEM_IDS, options=replace(CHAT, token_scope=scope)) for scope in scopes
    )
    for captured, messages_of in ((user, TEXTS), (assistant, reversed(TEXTS))):
        alone = loaded.tokenizer(list(messages_of), add_special_tokens=False)["input_ids"]
        np.testing.assert_array_equal(captured.tokens, [len(ids) for ids in alone])
    np.testing.assert_array_equal(user.tokens + assistant.tokens, content.tokens)
    np.testing.assert_array_equal(user.selections + assistant.selections, content.selections)
    assert (everything.tokens > content.tokens).all()
    assert (everything.selections >= content.selections).all()


def test_the_templates_own_mask_decides():
    """The same conversation by a template that marks the assistant and by one that does not; and a wrong mask."""
    loaded = chatting("olmoe", MARKED)
    (read,) = read_chats(loaded.tokenizer, TURNS[:1], ["1"])
    encoded = loaded.tokenizer.apply_chat_template(
        messages(TURNS[0]), return_dict=True, return_assistant_tokens_mask=True
    )
    own = {place for place, mine in enumerate(encoded["assistant_masks"]) if mine}
    assert own > set(read.assistant)
    assert not own & set(read.user)
    loaded.tokenizer.chat_template = MARKED.replace("'<bos>' + message", "'<bos>' ~ message").replace(
        "{% generation %}{{- message.content + '<eos>' }}{% endgeneration %}",
        "{{- message.content + '<eos>' }}{% generation %}{{- '' }}{% endgeneration %}",
    )
    with pytest.raises(CorpusError, match=r"item 1: the chat template's own mask .* none of the assistant's"):
        list(read_chats(loaded.tokenizer, TURNS[:1], ["1"]))


def test_what_a_model_answers_in_a_chat_follows_the_users_message_alone():
    """Its prompt ends where the assistant begins, with thinking off; turns of the assistant are left out."""
    loaded = chatting("qwen3_moe", CHATML)
    (read,) = read_chats(loaded.tokenizer, TURNS[:1], ["1"], to_continue=True)
    expected = loaded.tokenizer.apply_chat_template(
        messages(TURNS[0])[:1], add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert read.ids == expected
    assert loaded.tokenizer.decode(read.ids).endswith("<think>\n\n</think>\n\n")
    options = replace(CHAT, phase="generation", new_tokens=3)
    written = loaded.capture(TURNS, ITEM_IDS, options=options)
    np.testing.assert_array_equal(written.selections, loaded.capture(TEXTS, ITEM_IDS, options=options).selections)


CORPUS = Corpus(
    "pairs",
    {"eng_Latn": tuple(turns.text for turns in TURNS)},
    ITEM_IDS,
    "CC0-1.0",
    "test",
    turns={"eng_Latn": TURNS},
)


def test_a_run_of_chats_says_so_and_is_no_run_of_plain_texts(tmp_path, capsys):
    """Template and scope stand in the manifest; such Runs neither resume, merge nor compare without a word."""
    from isogloss.analysis import DeltaRule, task_experts  # noqa: PLC0415 - the rule alone

    loaded = chatting("olmoe", TRIMMED)
    chat = capture_corpus(loaded, CORPUS, tmp_path / "chat", options=replace(CHAT, token_scope="assistant"))
    plain = capture_corpus(loaded, CORPUS, tmp_path / "plain")
    manifest = open_run(chat.path).manifest
    assert (manifest.chat_template_sha256, manifest.token_scope) == (template_sha256(loaded.tokenizer), "assistant")
    assert plain.manifest.chat_template_sha256 is None
    with pytest.raises(RunError, match="chat_template_sha256"):
        capture_corpus(loaded, CORPUS, tmp_path / "chat")
    with pytest.raises(RunError, match="chat_template_sha256"):
        merge([tmp_path / "chat", tmp_path / "plain"], tmp_path / "merged")
    capsys.readouterr()
    table = task_experts(chat, plain, language="eng_Latn", rule=DeltaRule(0.1))
    said = r"One Run is of texts as a chat (template "
    assert said in capsys.readouterr().err
    assert said in table.caution
    task_experts(plain, plain, language="eng_Latn", rule=DeltaRule(0.1))
    assert "chat" not in capsys.readouterr().err


def test_a_capture_of_another_day_is_the_same(monkeypatch):
    """Templates that write the date get one day."""
    loaded = chatting("gpt_oss", DATED)
    first = loaded.capture(TURNS, ITEM_IDS, options=CHAT)
    set_day(monkeypatch, "2031-12-31")
    np.testing.assert_array_equal(loaded.capture(TURNS, ITEM_IDS, options=CHAT).profiles, first.profiles)


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, ModelError, "no chat template"),
        ("{{ messages[0].content | upper }}", CorpusError, "does not write every message once"),
        (
            CHATML.replace("message.content", "message.content | replace('river', 'sea')"),
            CorpusError,
            "changes the text",
        ),
        ("{{ raise_exception('no') }}", RunError, "does not take this conversation"),
    ],
)
def test_a_template_that_will_not_do_is_refused_in_one_line(template, error, message):
    """There is none, it changes texts, or fails."""
    loaded = chatting("olmoe", template)
    with pytest.raises(error, match=message) as caught:
        loaded.capture(TURNS, ITEM_IDS, options=CHAT)
    assert "\n" not in str(caught.value)


def test_a_refused_chat_leaves_no_folder(tmp_path):
    """Not even a beginning of a Run: with a template that is mended the same folder is taken."""
    refusing = "{% if 'river' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + CHATML
    with pytest.raises(RunError, match="does not take this conversation"):
        capture_corpus(chatting("olmoe", refusing), CORPUS, tmp_path / "run", options=CHAT)
    assert not (tmp_path / "run").exists()
    run = capture_corpus(chatting("olmoe", CHATML), CORPUS, tmp_path / "run", options=CHAT)
    assert run.manifest.status == "complete"


def test_roles_need_a_chat_that_is_read():
    """Refused when the options are made; an item without an answer when it is read."""
    for wrong in ({}, {"chat": True, "phase": "generation"}):
        with pytest.raises(IsoglossError, match="--chat, --phase prompt"):
            CaptureOptions(token_scope="user", **wrong)
    loaded = chatting("olmoe", TRIMMED)
    with pytest.raises(CorpusError, match="no token of the assistant"):
        loaded.capture(TEXTS, ITEM_IDS, options=replace(CHAT, token_scope="assistant"))


def test_batches_change_nothing_in_a_chat():
    """One conversation per forward, or all together."""
    loaded = HuggingFaceModel(tiny("qwen3_moe").model, chatting("olmoe", CHATML).tokenizer, name="tiny")
    alone, together = (loaded.capture(TURNS, ITEM_IDS, options=replace(CHAT, batch_tokens=n)) for n in (1, 100_000))
    np.testing.assert_array_equal(alone.selections, together.selections)
    np.testing.assert_allclose(alone.profiles, together.profiles, atol=1e-6)
