"""Answers of a served model to prompts, greedy or sampled, cut as those of transformers are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import GenerationConfig

from isogloss.backends.configuration import generation_settings
from isogloss.backends.joint_texts import encode_start, refuse_placeholders, require_room
from isogloss.backends.model import AnswerOptions, Sampling
from isogloss.backends.vllm.loading import ServedModel
from isogloss.errors import RunError
from isogloss.hub import asking_hub

__all__ = [
    "GREEDY",
    "READ",
    "answer_ids",
    "common_arguments",
    "drawn_arguments",
    "generation_config",
    "require_readable",
    "undivided",
]

GREEDY = MappingProxyType({"temperature": 0.0})
"""Arguments of an answer whose every token is the most probable one."""

READ = MappingProxyType({**GREEDY, "max_tokens": 1})
"""Arguments of a text that is only read: vLLM must write one token."""

_SEEDS = 2**53  # numbers from 0 up to 1 have so many steps


def generation_config(served: ServedModel) -> dict[str, Any]:
    """Return the checkpoint's settings for generation that differ from the defaults, as transformers reads them."""
    try:
        name = served.engine.model_config.model
        with nullcontext() if Path(name).exists() else asking_hub():
            config = GenerationConfig.from_pretrained(name, revision=served.revision or "main")
    except OSError:  # the checkpoint has none
        config = GenerationConfig.from_model_config(served.config)
    return generation_settings(config)


def answer_ids(served: ServedModel, prompts: Sequence[str], options: AnswerOptions) -> list[list[int]]:
    """Continue all prompts, by token ids; see `Model.answer`.

    Answers end where transformers ends them: at the end tokens of the checkpoint's generation configuration. Draws of
    sampled answers depend on the seed and the item's key alone, not on the batch; they are vLLM's, so they differ from
    those of the transformers engine with the same seed.

    Returns:
        The ids of each answer up to the one that ends it, with it.

    Raises:
        RunError: a prompt and its answer do not fit in the engine's context.
    """
    special, sampling = options.add_special_tokens, options.sampling
    texts = [encode_start(served.tokenizer, prompt, add_special_tokens=special) for prompt in prompts]
    require_readable(served, texts, options.max_new_tokens)
    common = common_arguments(served, options.max_new_tokens)
    draws = [GREEDY] * len(texts) if sampling is None else [drawn_arguments(sampling[0], key) for key in sampling[1]]
    parts = [slice(0, len(texts))] if sampling is None else undivided(served, texts)
    how = [{**common, **each} for each in draws]
    return [ids for part in parts for ids in _continue(served, texts[part], how[part], options.stop)]


def _continue(
    served: ServedModel, texts: Sequence[list[int]], how: Sequence[dict[str, Any]], stop: Sequence[str]
) -> list[list[int]]:
    """Return the tokens that are written after each text, where there are stops up to one in which one is complete."""
    ends = {"stop": list(stop), "skip_special_tokens": False, "detokenize": True} if stop else {}
    answers = [output.outputs[0] for output in served.run(texts, [{**each, **ends} for each in how])]
    new = [list(answer.token_ids) for answer in answers]
    for place, answer in enumerate(answers):
        reason = answer.stop_reason if stop else None
        # vLLM decodes an answer after its prompt, here it is decoded alone, where a first space may be missing.
        if isinstance(reason, str) and reason not in served.tokenizer.decode(new[place]):
            new[place] = _continue(served, [texts[place]], [how[place]], ())[0]
    return new


def undivided(served: ServedModel, texts: Sequence[Sequence[int]]) -> list[slice]:
    """Group prompts so that no step of the engine divides one, where that breaks draws: on a processor.

    A prompt that is read in several steps draws a token at each and takes it back, which vLLM's generators for
    processors cannot.

    Raises:
        RunError: a prompt that no step can hold.
    """
    config = served.vllm_config
    if config.device_config.device_type != "cpu":
        return [slice(0, len(texts))]
    limit = int(config.scheduler_config.max_num_batched_tokens)
    ends, size = [0], 0
    for place, ids in enumerate(texts):
        if len(ids) >= limit:
            raise RunError(
                f"a prompt of {len(ids)} tokens; on a processor, vLLM draws answers only to prompts that one step "
                f"holds, and steps hold {limit} tokens: give --engine max_num_batched_tokens={len(ids) + 1} or more"
            )
        if size + len(ids) + 1 > limit:
            ends, size = [*ends, place], 0
        size += len(ids) + 1  # a token of its answer may be in the same step
    return [slice(*pair) for pair in pairwise([*ends, len(texts)])]


def common_arguments(served: ServedModel, max_new_tokens: int) -> dict[str, Any]:
    """What all answers of a checkpoint have in common."""
    return {
        "max_tokens": max_new_tokens,
        # vLLM would add the tokenizer's own end, which transformers does not know.
        "ignore_eos": True,
        "stop_token_ids": sorted(served.ends),
    }


def drawn_arguments(sampling: Sampling, key: str) -> dict[str, Any]:
    """Return the arguments of an answer whose draws depend on the seed and a key alone."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "seed": int(sampling.numbers(key, 1)[0] * _SEEDS),
    }


def require_readable(served: ServedModel, texts: Sequence[Sequence[int]], n_new: int) -> None:
    """Refuse texts of token ids that are empty, or leave the engine no room for so many more; RunError says which."""
    if not all(texts):
        raise RunError("a prompt has no token; vLLM continues no empty text: use --backend huggingface")
    remedy = "give --engine max_model_len={needed} where the model allows it, or leave long items out"
    refuse_placeholders(texts, served)
    require_room(texts, n_new, limit=int(served.engine.model_config.max_model_len), remedy=remedy)
