"""What one token adds to a text: with its space, in any script, and as bytes where it is a part of a character."""

from __future__ import annotations

import pytest
from models import tokenizer as byte_level
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from isogloss.backends.token_routing import token_bytes

TEXT = "Anna  sees\na नू, 図書館 and Три кошки.\tYes é!"


def by_pieces(inner):
    """A tokenizer of transformers."""
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def sentencepiece(*, normalised=True):
    """Pieces with ▁ for spaces, and bytes for what is not among them, as SentencePiece has them."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "na", "A", "n", "▁sees", "字", ",", "."]
    inner = Tokenizer(models.Unigram([(piece, -float(len(pieces))) for piece in pieces], 0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if normalised else steps)
    return by_pieces(inner)


def word_pieces():
    """Words and their ends, as BERT has them."""
    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "an": 1, "##na": 2, "sees": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return by_pieces(inner)


@pytest.mark.parametrize("make", [byte_level, sentencepiece, lambda: sentencepiece(normalised=False)])
def test_bytes_of_all_tokens_are_those_of_the_text(make):
    """One after the other; a decoder that leaves out the first space loses it there alone."""
    tokenizer = make()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert len(ids) > 10
    joined = b"".join(token_bytes(tokenizer, token) for token in ids).decode()
    assert joined.removeprefix(" ") == TEXT


def test_parts_of_a_character_are_bytes():
    """Of a byte-level vocabulary, and of one with bytes of its own."""
    for tokenizer in (byte_level(), sentencepiece()):
        ids = tokenizer("ऋ", add_special_tokens=False)["input_ids"]
        parts = [token_bytes(tokenizer, token) for token in ids]
        assert "ऋ".encode() in b"".join(parts)
        assert any(part in (b"\xe0", b"\xe0\xa4") for part in parts)


def test_a_word_has_its_space_and_an_end_none():
    """As both stand inside a text."""
    tokenizer = word_pieces()
    assert [token_bytes(tokenizer, token) for token in (1, 2, 3)] == [b" an", b"na", b" sees"]
    assert token_bytes(sentencepiece(), sentencepiece().convert_tokens_to_ids("▁sees")) == b" sees"
    assert token_bytes(sentencepiece(), sentencepiece().convert_tokens_to_ids("na")) == b"na"
    assert token_bytes(sentencepiece(), sentencepiece().convert_tokens_to_ids("▁")) == b" "


def test_no_token_is_nothing():
    """What decodes to nothing is written as its name."""

    class Silent:
        """Decodes to nothing."""

        def __init__(self, piece):
            self.piece = piece

        def decode(self, _ids, **_):
            return ""

        def convert_ids_to_tokens(self, _token):
            return self.piece

    assert token_bytes(Silent("☃"), 7) == "☃".encode()
    assert token_bytes(Silent(""), 7) == b"<7>"


def test_an_id_without_a_token_is_written_as_its_number():
    """Models have more rows than their tokenizers have tokens, and may write any of them."""
    for tokenizer in (byte_level(), sentencepiece(), word_pieces()):
        beyond = len(tokenizer) + 5
        assert token_bytes(tokenizer, beyond) == f"<{beyond}>".encode()
