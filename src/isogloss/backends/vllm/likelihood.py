"""Log-likelihood of given continuations under a served model: the same tokens as under transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from isogloss.backends.joint_texts import JointText
from isogloss.backends.model import Likelihood
from isogloss.backends.vllm.answers import READ, require_readable
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.requests import START
from isogloss.errors import ModelError

__all__ = ["LOGPROBS_MODE", "likelihoods_served"]

LOGPROBS_MODE = "raw_logprobs"


def likelihoods_served(served: ServedModel, texts: Sequence[JointText]) -> list[Likelihood]:
    """Measure the tokens of each text from its start on; see `Model.joint_log_likelihoods`.

    Under a plan with conditions on phases, these tokens are of the generation, as under transformers.

    Raises:
        RunError: a text leaves no room in the engine's context for the one token that vLLM must generate.
        ModelError: the engine was started to return something else than log-probabilities of the model.
    """
    if (mode := str(served.engine.model_config.logprobs_mode)) != LOGPROBS_MODE:
        raise ModelError(f"the engine returns {mode}; expected {LOGPROBS_MODE}: leave --engine logprobs_mode out")
    require_readable(served, [text.ids for text in texts], 1)
    how = [{**READ, "prompt_logprobs": 1, "extra_args": {START: text.start}} for text in texts]
    outputs = served.run([text.ids for text in texts], how)
    pairs = sorted(zip(texts, outputs, strict=True), key=lambda pair: pair[0].place)
    return [_sum(text, output.prompt_logprobs) for text, output in pairs]


def _sum(text: JointText, logprobs: Sequence[Any]) -> Likelihood:
    measured = [(logprobs[place], text.ids[place]) for place in range(text.start, len(text.ids))]
    nats = [likely[token].logprob for likely, token in measured]
    best = [max(each.logprob for each in likely.values()) for likely, _ in measured]
    return Likelihood(math.fsum(nats), len(nats), nats == best)
