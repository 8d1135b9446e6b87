"""lm-evaluation-harness on a model that vLLM serves: its own transformers model, with another engine below it.

The harness has a vLLM model of its own, which starts an engine without plans, divides, truncates and ends texts in
other ways than its transformers model, and draws every repeat of a prompt anew from one stream, so that a steered arm
would not draw what the baseline drew. Here the engine is the one that takes plans, and the class is the harness's
transformers model (``HFLM``): prompts, tokens, chat templates, truncation and the cutting of answers are its own,
line by line. Only its two calls of the model are replaced, at the places where the harness's other engines replace
them: ``_loglikelihood_tokens``, which its base class leaves to each model, and ``_model_generate``. What the class
reads of a model, it reads off one without weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from isogloss.backends.model import Sampling
from isogloss.backends.vllm.answers import (
    common_arguments,
    drawn_arguments,
    generation_config,
    greedy_arguments,
    require_room,
    undivided,
)
from isogloss.backends.vllm.likelihood import LOGPROBS_MODE
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.slots import START
from isogloss.errors import CorpusError, ModelError, RunError

__all__ = ["ServedCalls", "served_lm"]

_TOP_K = 50  # what transformers keeps where neither a task nor the checkpoint says so
_OF_DRAWS = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")  # would shape draws as well


def served_lm(served: ServedModel, *, batch_size: int) -> Any:  # noqa: ANN401 - the harness has no types
    """Make the harness's model around an engine that runs.

    Args:
        served: a plan may be active, and may be replaced later.
        batch_size: requests that are handed to the engine at once.
    """
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - an optional extra

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(served.config)
    made = type("ServedLM", (ServedCalls, HFLM), {"served": served, "asked": Counter()})
    return made(pretrained=empty, tokenizer=served.tokenizer, backend="causal", batch_size=batch_size)


class ServedCalls:
    """What the harness's transformers model asks of its model, asked of vLLM; to be mixed into that class.

    Attributes:
        served: the engine.
        asked: how often each prompt was drawn for.
        tokenizer: of the harness's class.
        max_length: as above; of the model, not of the engine.
        batch_size: as above.
    """

    served: ServedModel
    asked: Counter[tuple[int, ...]]
    tokenizer: Any
    max_length: int
    batch_size: int

    @property
    def device(self) -> torch.device:
        """Where tokens lie on their way to the engine."""
        return torch.device("cpu")

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        """Measure continuations; under a plan with conditions on phases, their tokens are of the generation.

        Args:
            requests: (key, tokens of the context, tokens of the continuation) each.

        Returns:
            Log-probability in nats, and whether greedy decoding would write it; in order.

        Raises:
            CorpusError: a continuation, or what stands before it, has no token.
            RunError: a text leaves no room in the engine's context for the one token that vLLM must generate.
            ModelError: the engine was started to return something else than log-probabilities of the model.
        """
        if (mode := str(self.served.engine.model_config.logprobs_mode)) != LOGPROBS_MODE:
            raise ModelError(f"the engine returns {mode}; expected {LOGPROBS_MODE}: leave --engine logprobs_mode out")
        texts = []
        for _, context, continuation in requests:
            ids = [*context, *continuation][-(self.max_length + 1) :]  # the last token is predicted, not read
            texts.append((ids, len(ids) - len(continuation)))
            if not 0 < texts[-1][1] < len(ids):
                raise CorpusError(
                    f"a request of {len(context)} tokens and {len(continuation)} to measure after them; expected at "
                    f"least one of either, and at most {self.max_length} to measure: leave such items out"
                )
        require_room(self.served, [ids for ids, _ in texts], 1)
        size = self.batch_size
        batches = [texts[first : first + size] for first in range(0, len(texts), size)]
        return [found for batch in batches for found in _measure(self.served, batch)]

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **how: Any) -> torch.Tensor:  # noqa: ANN401 - the tasks' own settings
        """Continue prompts.

        Args:
            context: token ids ``[n, n_tokens]``, padded on the left.
            max_length: most tokens of a prompt with its padding and its answer together.
            stop: texts at which an answer may end; the harness cuts them off.
            **how: ``attention_mask`` ``[n, n_tokens]``, and how tokens are drawn.

        Returns:
            Token ids ``[n, n_tokens + n_new]``, padded on the right.

        Raises:
            ModelError: the checkpoint's generation configuration asks for something that vLLM would not do.
            RunError: so does the task; or a prompt and its answer do not fit in the engine's context.
        """
        kept = how.pop("attention_mask").bool()
        texts = [row[mask].tolist() for row, mask in zip(context, kept, strict=True)]
        sampling = _sampling(how, generation_config(self.served))
        draws = [greedy_arguments() if sampling is None else drawn_arguments(sampling, self._key(ids)) for ids in texts]
        n_new = max_length - int(context.shape[1])
        require_room(self.served, texts, n_new)
        parts = [slice(0, len(texts))] if sampling is None else undivided(self.served, texts)
        new = [ids for part in parts for ids in self._continue(texts[part], draws[part], stop, n_new)]
        rows = [torch.tensor(ids, dtype=context.dtype) for ids in new]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return torch.cat([context, padded], dim=1)

    def _key(self, ids: Sequence[int]) -> str:
        """Name one draw: of this prompt, for the n-th time, the same in every arm and batch."""
        self.asked[tuple(ids)] += 1
        return f"{list(ids)}#{self.asked[tuple(ids)]}"

    def _continue(
        self, texts: Sequence[list[int]], draws: Sequence[Mapping[str, Any]], stop: Sequence[str], n_new: int
    ) -> list[list[int]]:
        """Return the tokens that are written after each text, up to one in which a stop is complete."""
        ends = {"stop": [text for text in stop if text], "skip_special_tokens": False, "detokenize": True}
        common = common_arguments(self.served, n_new)
        new, stops = _written(_run(self.served, texts, [{**common, **ends, **each} for each in draws]))
        for place, found in enumerate(stops):
            # vLLM decodes an answer after its prompt, the harness by itself, where a first space may be missing.
            if isinstance(found, str) and found not in self.tokenizer.decode(new[place]):
                new[place] = _written(_run(self.served, [texts[place]], [{**common, **draws[place]}]))[0][0]
        return new


def _run(served: ServedModel, texts: Sequence[list[int]], how: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return what vLLM says of each text."""
    from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

    given = [{"prompt_token_ids": ids} for ids in texts]
    outputs: list[Any] = served.engine.generate(given, [SamplingParams(**each) for each in how], use_tqdm=False)
    return outputs


def _written(outputs: Sequence[Any]) -> tuple[list[list[int]], list[Any]]:
    """Return the tokens of each answer, and the text or token at which it ended; None at its full length."""
    answers = [output.outputs[0] for output in outputs]
    return [list(answer.token_ids) for answer in answers], [answer.stop_reason for answer in answers]


def _measure(served: ServedModel, texts: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
    """Measure the tokens of each text from a place on."""
    how = {**greedy_arguments(), "max_tokens": 1, "prompt_logprobs": 1, "detokenize": False}
    outputs = _run(served, [ids for ids, _ in texts], [{**how, "extra_args": {START: start}} for _, start in texts])
    found = []
    for (ids, start), output in zip(texts, outputs, strict=True):
        tokens = [(ids[place], output.prompt_logprobs[place]) for place in range(start, len(ids))]
        nats = [likely[token].logprob for token, likely in tokens]
        best = [max(each.logprob for each in likely.values()) for _, likely in tokens]
        found.append((math.fsum(nats), nats == best))
    return found


def _sampling(how: Mapping[str, Any], stored: Mapping[str, Any]) -> Sampling | None:
    """Read how a task draws tokens, as transformers does where the task leaves it to the checkpoint; None for greedy.

    Raises:
        RunError: the task or the checkpoint asks for more.
    """
    given = {name: value for name, value in how.items() if (name, value) not in (("num_beams", 1), ("use_cache", True))}
    drawn = bool(given.pop("do_sample", False))
    own = {name: given.pop(name) for name in ("temperature", "top_p", "top_k") if name in given}
    odd = [*given, *(name for name in _OF_DRAWS if drawn and name in stored)]
    if odd:
        raise RunError(
            f"the task generates with {', '.join(sorted(odd))}, which vLLM is not asked for here: use --backend "
            "huggingface, or a task that generates greedily or with temperature, top_p and top_k"
        )
    if not drawn:
        return None
    kept = {"top_p": 1.0, "top_k": _TOP_K} | {name: stored[name] for name in ("top_p", "top_k") if name in stored} | own
    return Sampling(float(own.get("temperature", 0.0)), float(kept["top_p"]), int(kept["top_k"]) or None)
