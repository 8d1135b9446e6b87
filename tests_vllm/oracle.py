"""What transformers answers, steered or not: the reference for what vLLM answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from isogloss.backends.huggingface import steer
from isogloss.backends.huggingface.steer import mark_generated

__all__ = ["TOLERANCE", "Answers", "expected_answers", "require_equal", "transformers_answers"]

# Of log-probabilities, in float32. The largest difference that was measured, eager and compiled: Qwen3-MoE 2.2e-6 and
# 1.6e-6, OLMoE 2.1e-6 and 1.4e-6, Mixtral 2.1e-6 and 2.5e-6, Phi-3.5-MoE 2.0e-6 and 2.6e-6, GPT-OSS 2.1e-6 and 2.7e-6,
# GLM-4-MoE 2.2e-6 and 2.2e-6, DeepSeek-V3 2.2e-6 and 2.6e-6. No written token leads the next best by less than 1.2e-3.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Answers:
    """What an engine wrote after each prompt, and how likely it found every token.

    Attributes:
        tokens: ids that were written, one list per prompt.
        log_probs: float64 ``[n_prompt + n_new - 1]`` per prompt: natural logarithms of probabilities, of the prompt's
            tokens from the second on, then of the written ones.
    """

    tokens: list[list[int]]
    log_probs: list[np.ndarray]


@torch.inference_mode()
def transformers_answers(loaded, prompts, n_new):
    """Write greedily by the model's own generate, then read the log-probabilities from one forward over each text.

    Each prompt runs alone, without padding. Inside `steer`, the written tokens of that forward are marked as generated,
    so that each token meets the edits that it met while it was written.

    Args:
        loaded: a `HuggingFaceModel` in float32 whose generation configuration names no end of text.
        prompts: token ids of each prompt.
        n_new: tokens to write after each.
    """
    tokens, log_probs = [], []
    for prompt in prompts:
        text = loaded.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=n_new,
            do_sample=False,
        )
        assert text.shape == (1, len(prompt) + n_new), "the text ended early"
        generated = (torch.arange(text.shape[1]) >= len(prompt))[None]
        with mark_generated(loaded, generated):
            logits = loaded.model(input_ids=text, use_cache=False).logits[0, :-1]
        tokens.append(text[0, len(prompt) :].tolist())
        log_probs.append(logits.double().log_softmax(-1).gather(-1, text[0, 1:, None])[:, 0].numpy())
    return Answers(tokens, log_probs)


def expected_answers(loaded, plan, prompts, languages, n_new):
    """Answer each prompt under what the plan chooses for its language; what `engines.served_answers` must answer.

    Args:
        loaded: as in `transformers_answers`; not steered.
        plan: for this model.
        prompts: token ids of each prompt.
        languages: of the prompts, None where none is stated.
        n_new: tokens to write after each.
    """
    tokens, log_probs = [], []
    for prompt, language in zip(prompts, languages, strict=True):
        with steer(loaded, plan.for_request(language)):
            answers = transformers_answers(loaded, [prompt], n_new)
        tokens += answers.tokens
        log_probs += answers.log_probs
    return Answers(tokens, log_probs)


def require_equal(served, expected, tolerance):
    """Fail unless every token is the same, and every log-probability within the tolerance.

    Returns:
        The largest difference between log-probabilities.
    """
    assert served.tokens == expected.tokens
    for mine, theirs in zip(served.log_probs, expected.log_probs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)
    return max(np.abs(a - b).max() for a, b in zip(served.log_probs, expected.log_probs, strict=True))
