"""Builds the model of the planted case: a Qwen3-MoE all of whose weights are set explicitly.

The first layer's attention is uniform over the text so far, and writes means over its tokens. The planted
layer's router reads them; its planted expert writes the sum of the two numbers at a word such as "makes". The
head holds the same guess for every language, which is right for small numbers, and which the expert's answer outweighs.
All other experts write where nothing is read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from known_answers.planted import DIGITS, LARGEST, LEXICON, PIVOT

__all__ = ["PLANTED_EXPERT", "PLANTED_LAYER", "planted_model"]

PLANTED_LAYER = 2
PLANTED_EXPERT = 11

_N_LAYERS, _N_EXPERTS, _TOP_K, _INNER, _N_UNREAD = 4, 16, 3, 8, 8
_MULTIPLE = 16  # of the hidden size; torch's grouped product needs rows of whole 16 bytes
_SEED = 2517

_PAD, _BOS, _EOS, _UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
_SPECIAL = (_PAD, _BOS, _EOS, _UNKNOWN)
_PROMPT_TOKENS = 7  # with <bos>: the attention's means at a prompt's end are over as many

# Router logits of the planted layer, before a common factor.
_GENERAL, _LANGUAGE = 10.0, 5.0  # two experts chosen always, one by the words of its language
_SHORT = -0.7  # how far the planted expert falls behind the language's own at the median sum
_NOISE = 1.0  # standard deviation over sums
_SHARPNESS = 0.3

_GUESS = 1e-3  # logits of the guess relative to those of the expert's answer
_KNOWN = 3  # the guess takes larger numbers for this one
_MISTAKEN = {9: 8}  # the expert takes 9 for 8, so that no arm is right everywhere


class _Layout:
    """Which hidden dimension holds what.

    Attributes:
        token: word to its id, which is its dimension too: embeddings are one-hot.
        one: always 1.
        value: mean over the text of the numbers' tenths, as the expert reads them.
        guess: the same, as the guess does.
        noise: mean over the text of what makes a sum easy or hard to route.
        task: language to the share of its task words in the text.
        answer: the sum's twentieths, written by the planted expert.
        weight: a twentieth, written with it: the answer is their quotient.
        unread: first of the dimensions that nothing reads.
    """

    def __init__(self, token: dict[str, int]) -> None:
        self.token = token
        self.one, self.value, self.guess, self.noise = range(len(token), len(token) + 4)
        self.task = {code: self.noise + 1 + index for index, code in enumerate(LEXICON)}
        self.answer, self.weight, self.unread = range(self.noise + 1 + len(LEXICON), self.noise + 4 + len(LEXICON))
        self.hidden_size = -(-(self.unread + _N_UNREAD) // _MULTIPLE) * _MULTIPLE

    def scale(self, length: float) -> float:
        """By what the norm before a layer multiplies a state of this length."""
        return math.sqrt(self.hidden_size) / length


# Lengths of hidden states: the embeddings' exactly, and the usual one at a prompt's end after the first attention.
_EMBEDDED, _ATTENDED = 2**0.5, 2.4**0.5


def planted_model(folder: Path, *, effective: bool = True) -> Path:
    """Build the model and its tokenizer, the same at every call.

    Args:
        folder: to write the checkpoint into, about 1 MB.
        effective: False makes the twin whose routers are the same, but whose planted expert writes its answer where
            nothing reads it: the same expert must be found, and no gain measured.

    Returns:
        The folder, for `isogloss.backends.huggingface.load_model`.
    """
    tokenizer = _tokenizer()
    layout = _Layout(dict(tokenizer.get_vocab()))
    model: Any = Qwen3MoeForCausalLM(_config(layout)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
        _set_embeddings(model.model.embed_tokens.weight, layout)
        _set_attention(model.model.layers[0].self_attn, layout)
        _set_routers(model, layout)
        _set_experts(model, layout, effective=effective)
        _set_head(model.lm_head.weight, layout)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    words = [word for lexicon in LEXICON.values() for word in (*lexicon.task_words, *lexicon.generic)]
    vocabulary = [*_SPECIAL, *(str(number) for number in range(LARGEST + 1)), *words]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, vocabulary.index(_BOS))]
    )
    special = {"bos_token": _BOS, "eos_token": _EOS, "pad_token": _PAD, "unk_token": _UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)


def _config(layout: _Layout) -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        vocab_size=len(layout.token),
        hidden_size=layout.hidden_size,
        num_hidden_layers=_N_LAYERS,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,  # type: ignore[call-arg]  # taken, though the stub of the class lacks it
        num_experts=_N_EXPERTS,
        num_experts_per_tok=_TOP_K,
        moe_intermediate_size=_INNER,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        max_position_embeddings=512,
        pad_token_id=layout.token[_PAD],
        bos_token_id=layout.token[_BOS],
        eos_token_id=layout.token[_EOS],
    )


def _set_embeddings(weight: torch.Tensor, layout: _Layout) -> None:
    for index in layout.token.values():
        weight[index, [index, layout.one]] = 1.0


def _set_attention(attention: Any, layout: _Layout) -> None:  # noqa: ANN401 - a module of transformers
    """Let each token read the mean over itself and all before it; zero queries and keys weigh all tokens alike."""
    features = {layout.value: {}, layout.guess: {}, layout.noise: _noise()} | {d: {} for d in layout.task.values()}
    for number in DIGITS:
        features[layout.value][str(number)] = _MISTAKEN.get(number, number) / 10
        features[layout.guess][str(number)] = min(number, _KNOWN) / 10
    for code, dimension in layout.task.items():
        features[dimension] = dict.fromkeys(LEXICON[code].task_words, 1.0)
    for channel, (dimension, of_words) in enumerate(features.items()):
        attention.o_proj.weight[dimension, channel] = 1.0
        for word, value in of_words.items():
            attention.v_proj.weight[channel, layout.token[word]] = value / layout.scale(_EMBEDDED)


def _noise() -> dict[str, float]:
    """What each number and noun adds to the planted expert's logit; a sum has its noun twice."""
    draw = np.random.default_rng(_SEED)
    spread = _NOISE / 3**0.5  # two numbers and one noun add up
    noise = {str(number): value for number, value in zip(DIGITS, _quantiles(len(DIGITS), draw), strict=True)}
    for lexicon in LEXICON.values():
        values = _quantiles(len(lexicon.nouns), draw) / 2
        noise |= dict(zip(lexicon.nouns, values, strict=True))
    return {word: float(value * spread) for word, value in noise.items()}


def _quantiles(n: int, draw: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Equally spaced values of mean 0 and variance 1 in random order."""
    values = draw.permutation(np.arange(n) - (n - 1) / 2)
    return np.asarray(values / values.std())


def _set_routers(model: Any, layout: _Layout) -> None:  # noqa: ANN401 - a model of transformers
    """Let words choose experts at random, but in the planted layer as the case wants it."""
    draw = np.random.default_rng(_SEED + 1)
    factor = _SHARPNESS / layout.scale(_ATTENDED)
    for index, layer in enumerate(model.model.layers):
        rows = np.zeros((_N_EXPERTS, layout.hidden_size))
        rows[:, : len(layout.token)] = draw.normal(size=(_N_EXPERTS, len(layout.token)))
        if index == PLANTED_LAYER:
            general, by_language = _roles()
            rows[[*general, *by_language.values(), PLANTED_EXPERT]] = 0.0
            rows[general, layout.one] = _GENERAL
            for code, expert in by_language.items():
                words = (*LEXICON[code].task_words, *LEXICON[code].generic)
                rows[expert, [layout.token[word] for word in words]] = _LANGUAGE
            rows[PLANTED_EXPERT] = _planted_row(layout)
        layer.mlp.gate.weight.copy_(torch.from_numpy(rows * factor))


def _roles() -> tuple[list[int], dict[str, int]]:
    """The planted layer's two general experts, and the expert of each language."""
    others = [expert for expert in range(_N_EXPERTS) if expert != PLANTED_EXPERT]
    drawn = np.random.default_rng(_SEED + 2).permutation(others).tolist()
    return drawn[:2], dict(zip(LEXICON, drawn[2:], strict=False))


def _planted_row(layout: _Layout) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Choose the planted expert in all English sums, and in other languages' where the noise makes up for the gap."""
    row = np.zeros(layout.hidden_size)
    row[layout.one] = -1.0
    row[layout.task[PIVOT]] = 16.0  # task words are a third of a text or more at each of its tokens
    row[layout.noise] = _PROMPT_TOKENS
    for code, lexicon in LEXICON.items():
        if code != PIVOT:
            row[[layout.token[word] for word in (*lexicon.nouns, lexicon.plus)]] = 3.0
            row[layout.token[lexicon.makes]] = _LANGUAGE + _SHORT + 1.0
    return row


def _set_experts(model: Any, layout: _Layout, *, effective: bool) -> None:  # noqa: ANN401 - a model of transformers
    draw = torch.Generator().manual_seed(_SEED)
    unread = slice(layout.unread, layout.hidden_size)
    for index, layer in enumerate(model.model.layers):
        experts = layer.mlp.experts
        experts.gate_up_proj.copy_(torch.randn(experts.gate_up_proj.shape, generator=draw) * 0.1)
        down = experts.down_proj[:, unread]
        experts.down_proj[:, unread] = torch.randn(down.shape, generator=draw) * 0.1
        if index == PLANTED_LAYER:
            _plant(experts, layout, effective=effective)


def _plant(experts: Any, layout: _Layout, *, effective: bool) -> None:  # noqa: ANN401 - a module of transformers
    """Make the planted expert add: one inner unit passes the sum on, one its weight, both at a sum's last word."""
    gate, up = experts.gate_up_proj[PLANTED_EXPERT].zero_().chunk(2)
    down = experts.down_proj[PLANTED_EXPERT].zero_()
    scale, opening = layout.scale(_ATTENDED), 10.0
    for lexicon in LEXICON.values():
        gate[:2, layout.token[lexicon.makes]] = opening / scale
    up[0, layout.value] = 10 * _PROMPT_TOKENS / 20 / scale
    up[1, layout.one] = 1 / 20 / scale
    written = (layout.answer, layout.weight) if effective else (layout.unread, layout.unread + 1)
    for unit, dimension in enumerate(written):
        down[dimension, unit] = 1.0


def _set_head(weight: torch.Tensor, layout: _Layout) -> None:
    """Give number n the logit n·v - n²/2, which is largest for n = v, the expert's sum or else the guess; then end."""
    for number in range(LARGEST + 1):
        row, penalty = weight[layout.token[str(number)]], number**2 / 2 - 5  # 5: any number beats any word
        row[layout.answer], row[layout.weight] = 20.0 * number, -20.0 * penalty
        row[layout.guess], row[layout.one] = _GUESS * 10 * _PROMPT_TOKENS * number, -_GUESS * penalty
        weight[layout.token[_EOS], layout.token[str(number)]] = 10.0
