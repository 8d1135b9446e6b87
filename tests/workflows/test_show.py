"""`show`: every number on the page is that of an independent hook, and a plan's changes are those that it makes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from adapters import random_adapter
from kinds import plan_of
from models import hooked_logits, tiny

import isogloss as ig
from isogloss.backends.huggingface import steer
from isogloss.backends.token_routing import TokenRouting, token_texts
from isogloss.cli.main import main
from isogloss.errors import CorpusError, ModelError
from isogloss.reports.tokens import ShownText, token_page
from isogloss.routing import route
from isogloss.steering import Intervention, read_steering, write_adapter
from isogloss.terminal import visible
from isogloss.workflows import show_texts

TEXT = "Swali: Anna ana matofaa 12."


class Scripts(HTMLParser):
    """JSON of a page's sections, and its visible words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.data: list[dict] = []
        self.text = ""
        self._json = self._script = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            self._script, self._json = True, ("type", "application/json") in attrs

    def handle_endtag(self, tag):
        self._script = self._script and tag != "script"

    def handle_data(self, data):
        if self._script and self._json:
            self.data.append(json.loads(data))
        elif not self._script:
            self.text += data


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
def test_values_are_those_of_an_independent_hook(family):
    """Logits are input times the router's matrix; ids and weights are the reference router's; so is the next token."""
    loaded = tiny(family)
    shown, ids = loaded.route_tokens(TEXT), loaded.tokenizer(TEXT)["input_ids"]
    logits = hooked_logits(loaded, ids).numpy()
    with torch.no_grad():
        probabilities = loaded.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    assert shown.token_ids.tolist() == ids
    np.testing.assert_allclose(shown.router_logits, logits, atol=1e-5)
    np.testing.assert_allclose(shown.next_probabilities, probabilities, atol=1e-6)
    for layer, spec in enumerate(loaded.routers):
        expected = route(logits[layer], spec)
        np.testing.assert_array_equal(shown.expert_ids[layer], expected.expert_ids)
        np.testing.assert_allclose(shown.weights[layer], expected.combine_weights, atol=1e-5)
    assert (shown.ranks() == np.arange(1, shown.expert_ids.shape[-1] + 1)).all()


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "deepseek_v3", "gpt_oss", "llama4", "phimoe"])
def test_every_kind_of_router_is_read(family):
    """Weights fall from the best on, every expert is one of the layer's, and nothing stays in the model."""
    loaded = tiny(family)
    shown = loaded.route_tokens(TEXT)
    n_tokens = len(shown.token_ids)
    assert shown.router_logits.shape[:2] == shown.expert_ids.shape[:2] == (len(loaded.routers), n_tokens)
    assert (np.diff(shown.weights, axis=-1) <= 1e-6).all()
    assert shown.expert_ids.max() < shown.router_logits.shape[-1]
    assert not any(router.module._forward_hooks for router in loaded.router_modules)


def test_page_shows_what_an_adapter_changes(tmp_path):
    """As it shows what a plan does."""
    loaded = tiny("qwen3_moe")
    adapter, folder = random_adapter(loaded), tmp_path / "adapter"
    write_adapter(adapter, folder)
    page = show_texts(loaded, {"sw": TEXT}, tmp_path / "page.html", plan=read_steering(folder)).read_text("utf-8")
    before, after = Scripts(page).data[0]["parts"]
    with steer(loaded, adapter):
        assert after["ids"] == loaded.route_tokens(TEXT).expert_ids.tolist() != before["ids"]
    assert f"The adapter (rank 0, rank 1) has {adapter.n_experts} experts in {len(adapter.layers)} layers." in page


def test_page_shows_what_was_read_and_what_a_plan_changes(tmp_path):
    """Numbers of the page are those of the routing; a banned expert is gone from every cell, and cells are framed."""
    loaded = tiny("qwen3_moe")
    plain = loaded.route_tokens(TEXT)
    banned = int(np.bincount(plain.expert_ids[1].ravel()).argmax())
    plan = plan_of(loaded, Intervention("ban", loaded.routers[1].layer, (banned,)))
    page = show_texts(loaded, {"en": "Anna has 12.", "sw": TEXT}, tmp_path / "new" / "page.html", plan=plan).read_text(
        "utf-8"
    )
    shown = Scripts(page)
    before, after = shown.data[1]["parts"]
    assert before["ids"] == plain.expert_ids.tolist()
    np.testing.assert_allclose(before["weights"], plain.weights, rtol=1e-3, atol=1e-9)
    with steer(loaded, plan):
        steered = loaded.route_tokens(TEXT)
    assert after["ids"] == steered.expert_ids.tolist()
    assert banned in plain.expert_ids[1]
    assert banned not in np.array(after["ids"][1])
    differ = (np.sort(before["ids"], -1) != np.sort(after["ids"], -1)).any(-1)
    frames = re.findall(r'class="changed" d="([^"]*)"', page)
    assert frames[1].count("z") == differ.sum() > 0
    assert f"{100 * differ.mean():.1f} % of choices differ under the plan" in shown.text
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    likeliest = steered.likeliest(1)[0][1]
    assert f"{likeliest:.3f}" in shown.text


def test_likely_tokens_are_told_apart(tmp_path, monkeypatch):
    """Parts of characters by their bytes, words with their space, ids that the tokenizer does not have by number."""
    loaded = tiny("olmoe")
    beyond = len(loaded.tokenizer) + 3
    (byte, *_), (*_, word) = (loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ऋ", "to to"))
    probabilities = np.zeros(beyond + 1, dtype=np.float32)
    probabilities[[byte, word, beyond]] = 0.5, 0.3, 0.2
    routing = replace(loaded.route_tokens(TEXT), next_probabilities=probabilities)
    monkeypatch.setattr(type(loaded), "route_tokens", lambda *_: routing)
    page = show_texts(loaded, {"en": TEXT}, tmp_path / "page.html").read_text("utf-8")
    table = page.split("The likeliest next tokens after this text")[1]
    shown = re.findall(r"<bdi[^>]*>(.*?)</bdi>", table)[:3]
    assert shown[0].startswith(r"\xe0")
    assert shown[1:] == [visible(loaded.tokenizer.decode([word])), f"&lt;{beyond}&gt;"]


def test_choices_of_the_pivot_are_marked(tmp_path):
    """Marked are exactly the chosen experts with the greatest total weight of the pivot's sentence in that layer."""
    loaded = tiny("olmoe")
    texts = {"en": "Anna has 12 apples.", "sw": TEXT}
    page = Scripts(show_texts(loaded, texts, tmp_path / "page.html").read_text("utf-8"))
    pivot, other = (loaded.route_tokens(text) for text in texts.values())
    top_k = pivot.expert_ids.shape[-1]
    for layer in range(len(loaded.routers)):
        totals = np.zeros(pivot.router_logits.shape[-1])
        for expert, weight in zip(pivot.expert_ids[layer].ravel(), pivot.weights[layer].ravel(), strict=True):
            totals[expert] += weight
        preferred = set(np.argsort(-totals)[:top_k].tolist())
        expected = [[int(expert in preferred) for expert in row] for row in other.expert_ids[layer].tolist()]
        assert page.data[1]["parts"][0]["pivot"][layer] == expected
    assert page.data[0]["parts"][0]["pivot"] is None


class Bytes:
    """A tokenizer whose tokens are bytes."""

    @staticmethod
    def decode(ids, **_):
        return bytes(ids).decode("utf-8", "replace")


def test_parts_of_a_character_are_shown_whole():
    """Each byte of a letter is labelled with the letter and which part it is; texts join to the whole."""
    text = "aनू字"
    parts = token_texts(Bytes(), np.array(list(text.encode())))
    assert parts[0] == ("a", 1, 1)
    assert parts[1:4] == [("न", 1, 3), ("न", 2, 3), ("न", 3, 3)]
    assert "".join(each for each, part, _ in parts if part == 1) == text
    broken = token_texts(Bytes(), np.array(list("é".encode())[:1]))
    assert broken == [("\ufffd", 1, 1)]


def test_markup_stays_text_and_direction_is_left_to_the_text():
    """Markup in a token or a text is shown; right-to-left text is laid out as such."""
    routing = TokenRouting(
        np.array([0]),
        np.zeros((1, 1, 4), np.float32),
        np.array([[[1, 2]]]),
        np.ones((1, 1, 2), np.float32) / 2,
        np.ones(3) / 3,
    )
    attack = "<script>alert(1)</script>"
    each = ShownText("arb_Arab", attack, [(attack, 1, 1)], routing, None, [(attack, 0.5, None)])
    page = token_page([each], model=attack, layers=[0], pivot="eng_Latn", plan=attack)
    assert attack not in page
    assert page.count("<script") == 2
    assert 'dir="auto"' in page
    assert "unicode-bidi: plaintext" in page


def test_command_writes_the_page_and_refuses_what_does_not_fit(tmp_path, capsys):
    """From the command line: one page; as many languages as texts; no file of another kind."""
    out = tmp_path / "page.html"
    assert main(["show", "organism", "Anna has 12.", "Anna hat 12.", "--languages", "en,de", "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "German (deu_Latn)" in out.read_text("utf-8")
    assert main(["show", "organism", "one", "two", "-o", str(out)]) == 2
    assert "found 2 texts and 1 languages" in capsys.readouterr().err
    assert main(["show", "organism", "one", "two", "--languages", "sw,sw", "-o", str(out)]) == 2
    assert "names a language twice" in capsys.readouterr().err
    other = tmp_path / "other.html"
    other.write_text("mine")
    assert main(["show", "organism", "one", "-o", str(other)]) == 2
    assert other.read_text() == "mine"


def test_what_cannot_be_shown_is_refused(tmp_path):
    """No text, a text without tokens, and a backend that does not give single tokens."""
    loaded = tiny("olmoe")
    with pytest.raises(CorpusError, match="found no text"):
        ig.show(loaded, {}, tmp_path / "page.html")
    with pytest.raises(ModelError, match="does not give the routing of single tokens; use --backend huggingface"):
        ig.Model.route_tokens(loaded, "text")
    assert not (tmp_path / "page.html").exists()
