"""Log-likelihood of given continuations under a served model: the same tokens as under transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from isogloss.backends.joint_texts import JointText, tokenise_pairs
from isogloss.backends.model import Likelihood
from isogloss.backends.vllm.answers import require_room
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.slots import START
from isogloss.errors import ModelError

__all__ = ["LOGPROBS_MODE", "served_log_likelihoods"]

LOGPROBS_MODE = "raw_logprobs"


def served_log_likelihoods(
    served: ServedModel, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool = True
) -> list[Likelihood]:
    """Sum the log-probabilities of the tokens of each continuation after its prompt.

    Tokens, and where a continuation begins, are those of
    `isogloss.backends.huggingface.likelihood.continuation_log_likelihoods`; so are its tokens of the generation, under
    a plan with conditions on phases.

    Args:
        served: the model; a plan may be active.
        pairs: (prompt, continuation) each, all continuations of a prompt in one call.
        add_special_tokens: False for prompts that come from a chat template.

    Returns:
        One per pair, in order.

    Raises:
        CorpusError: a continuation without a token to measure.
        RunError: a text leaves no room in the engine's context for the one token that vLLM must generate.
        ModelError: the engine was started to return something else than log-probabilities of the model.
    """
    if (mode := str(served.engine.model_config.logprobs_mode)) != LOGPROBS_MODE:
        raise ModelError(f"the engine returns {mode}; expected {LOGPROBS_MODE}: leave --engine logprobs_mode out")
    texts = tokenise_pairs(served.tokenizer, pairs, add_special_tokens=add_special_tokens)
    require_room(served, [text.ids for text in texts], 1)
    from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

    how = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
    outputs = served.engine.generate(
        [{"prompt_token_ids": text.ids} for text in texts],
        [SamplingParams(**how, extra_args={START: text.start}) for text in texts],
        use_tqdm=False,
    )
    found = {text.place: _sum(text, output.prompt_logprobs) for text, output in zip(texts, outputs, strict=True)}
    return [found[place] for place in range(len(pairs))]


def _sum(text: JointText, logprobs: Sequence[Any]) -> Likelihood:
    measured = range(text.start, len(text.ids))
    return Likelihood(math.fsum(logprobs[place][text.ids[place]].logprob for place in measured), len(measured))
