"""Answers of a served model to prompts, greedy or sampled, cut as those of transformers are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from transformers import GenerationConfig

from isogloss.backends.configuration import end_tokens, generation_settings
from isogloss.backends.model import Sampling
from isogloss.backends.vllm.loading import ServedModel
from isogloss.errors import ModelError, RunError

__all__ = [
    "answer_prompts",
    "common_arguments",
    "drawn_arguments",
    "generation_config",
    "greedy_arguments",
    "require_room",
    "undivided",
]

# Of a generation configuration: what decides no token where a call says how tokens are drawn, as ours do.
_HARMLESS = frozenset(
    (
        *("_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        *("max_length", "max_new_tokens", "early_stopping", "length_penalty", "num_return_sequences"),
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        *("prefill_chunk_size", "low_memory", "renormalize_logits", "continuous_batching_config"),
    )
)
_APPLIED = frozenset(("eos_token_id", "repetition_penalty"))
_SEEDS = 2**53  # numbers from 0 up to 1 have so many steps


def generation_config(served: ServedModel) -> dict[str, Any]:
    """Return what the checkpoint says about generation where it differs from the defaults, as transformers reads it."""
    try:
        config = GenerationConfig.from_pretrained(served.engine.model_config.model, revision=served.revision or "main")
    except OSError:  # the checkpoint has none
        config = GenerationConfig.from_model_config(served.config)
    return generation_settings(config)


def answer_prompts(
    served: ServedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    add_special_tokens: bool = True,
    sampling: tuple[Sampling, Sequence[str]] | None = None,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continue all prompts.

    Answers end where transformers ends them: at the end tokens of the checkpoint's generation configuration, whose
    repetition penalty holds as well. Draws of sampled answers depend on the seed and the item's key alone, not on the
    batch; they are vLLM's, so they differ from those of the transformers engine with the same seed.

    Args:
        served: the model; a plan may be active.
        prompts: at least a token each.
        max_new_tokens: most tokens per answer.
        add_special_tokens: False for prompts that come from a chat template.
        sampling: how tokens are drawn, and one key per prompt; None for greedy answers.
        stop: texts after which an answer may end; they are not cut off, and special tokens count as their text.

    Returns:
        The continuations, without the prompt and special tokens.

    Raises:
        ModelError: the generation configuration asks for something that vLLM would not do.
        RunError: a prompt and its answer do not fit in the engine's context.
    """
    texts = [list(served.tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]) for prompt in prompts]
    require_room(served, texts, max_new_tokens)
    common = common_arguments(served, max_new_tokens)
    draws = (
        [greedy_arguments()] * len(texts)
        if sampling is None
        else [drawn_arguments(sampling[0], key) for key in sampling[1]]
    )
    parts = [slice(0, len(texts))] if sampling is None else undivided(served, texts)
    how = [{**common, **each} for each in draws]
    new = [ids for part in parts for ids in _continue(served, texts[part], how[part], [text for text in stop if text])]
    return list(served.tokenizer.batch_decode(new, skip_special_tokens=True))


def _continue(
    served: ServedModel, texts: Sequence[list[int]], how: Sequence[dict[str, Any]], stop: Sequence[str]
) -> list[list[int]]:
    """Return the tokens that are written after each text, where there are stops up to one in which one is complete."""
    from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

    ends = {"stop": list(stop), "skip_special_tokens": False, "detokenize": True} if stop else {}
    given = [{"prompt_token_ids": ids} for ids in texts]
    outputs = served.engine.generate(given, [SamplingParams(**{**each, **ends}) for each in how], use_tqdm=False)
    answers = [output.outputs[0] for output in outputs]
    new = [list(answer.token_ids) for answer in answers]
    for place, answer in enumerate(answers):
        reason = answer.stop_reason if stop else None
        # vLLM decodes an answer after its prompt, here it is decoded by itself, where a first space may be missing.
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
    config = served.engine.llm_engine.vllm_config
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
    stored, known = generation_config(served), GenerationConfig().to_dict()
    if unknown := sorted(name for name in stored if name in known and name not in _HARMLESS | _APPLIED):
        raise ModelError(
            f"the checkpoint's generation configuration sets {', '.join(unknown)}, which transformers applies to every "
            "answer and vLLM does not; use --backend huggingface, or remove it from generation_config.json"
        )
    return {
        "max_tokens": max_new_tokens,
        # vLLM would add the tokenizer's own end, which transformers does not know.
        "ignore_eos": True,
        "stop_token_ids": sorted(end_tokens(stored)),
        "repetition_penalty": stored.get("repetition_penalty") or 1.0,
        "detokenize": False,
    }


def greedy_arguments() -> dict[str, Any]:
    """Return the arguments of an answer whose every token is the most probable one."""
    return {"temperature": 0.0}


def drawn_arguments(sampling: Sampling, key: str) -> dict[str, Any]:
    """Return the arguments of an answer whose draws depend on the seed and a key alone."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "seed": int(sampling.numbers(key, 1)[0] * _SEEDS),
    }


def require_room(served: ServedModel, texts: Sequence[Sequence[int]], n_new: int) -> None:
    """Refuse texts of token ids that leave the engine no room for so many more.

    Raises:
        RunError: an empty text, or one that is too long.
    """
    limit = int(served.engine.model_config.max_model_len)
    for ids in texts:
        if not ids:
            raise RunError("a prompt has no token; vLLM continues no empty text: use --backend huggingface")
        if len(ids) + n_new > limit:
            raise RunError(
                f"a text of {len(ids)} tokens and {n_new} after it need a context of {len(ids) + n_new}; the engine "
                f"was started for {limit}: give --engine max_model_len={len(ids) + n_new} where the model allows it, "
                "or leave long items out"
            )
