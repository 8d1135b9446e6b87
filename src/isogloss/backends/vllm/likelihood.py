"""Log-likelihood of given continuations under a served model: the same tokens as under transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from isogloss.backends.joint_texts import JointText
from isogloss.backends.model import Likelihood
from isogloss.backends.vllm.answers import require_room
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.slots import START
from isogloss.errors import ModelError

__all__ = ["LOGPROBS_MODE", "joint_log_likelihoods"]

LOGPROBS_MODE = "raw_logprobs"


def joint_log_likelihoods(served: ServedModel, texts: Sequence[JointText]) -> list[Likelihood]:
    """Sum the log-probabilities of the tokens of each text from its start on.

    Under a plan with conditions on phases, these tokens are of the generation, as under transformers.

    Args:
        served: the model; a plan may be active.
        texts: with the places 0 to n - 1, in any order.

    Returns:
        One per text, by place.

    Raises:
        RunError: a text leaves no room in the engine's context for the one token that vLLM must generate.
        ModelError: the engine was started to return something else than log-probabilities of the model.
    """
    if (mode := str(served.engine.model_config.logprobs_mode)) != LOGPROBS_MODE:
        raise ModelError(f"the engine returns {mode}; expected {LOGPROBS_MODE}: leave --engine logprobs_mode out")
    require_room(served, [text.ids for text in texts], 1)
    from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

    how = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 1, "detokenize": False}
    outputs = served.engine.generate(
        [{"prompt_token_ids": text.ids} for text in texts],
        [SamplingParams(**how, extra_args={START: text.start}) for text in texts],
        use_tqdm=False,
    )
    found = {text.place: _sum(text, output.prompt_logprobs) for text, output in zip(texts, outputs, strict=True)}
    return [found[place] for place in range(len(texts))]


def _sum(text: JointText, logprobs: Sequence[Any]) -> Likelihood:
    measured = [(logprobs[place], text.ids[place]) for place in range(text.start, len(text.ids))]
    nats = [likely[token].logprob for likely, token in measured]
    best = [max(each.logprob for each in likely.values()) for likely, _ in measured]
    return Likelihood(math.fsum(nats), len(nats), nats == best)
