"""Captures routing of texts on vLLM, aggregated per text in its workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends import token_batches
from isogloss.backends.model import CaptureOptions
from isogloss.backends.open import refuse_unsupported
from isogloss.backends.profiles import gather, pair_consistency
from isogloss.backends.token_batches import Reader, Text, portions, until_end
from isogloss.backends.vllm.answers import common_arguments
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.record import ITEM
from isogloss.backends.vllm.plugin.slots import START
from isogloss.runs import LanguageRouting

__all__ = ["capture", "counted_ids", "reader_of"]


def capture(
    served: ServedModel,
    texts: Sequence[str],
    item_ids: Sequence[str],
    *,
    options: CaptureOptions | None = None,
    pivot_ids: npt.NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
) -> LanguageRouting:
    """Capture the routing of texts, or of what the model writes after them.

    What is counted is what `isogloss.backends.huggingface.capture` counts, and so is the result, up to rounding. In the
    generation phase the model first goes on from each text greedily; then text and continuation run as one prompt, in
    which a plan that edits prompt and generation differently finds the continuation where it begins.

    Args:
        served: the model, started with ``record``; a plan may be active.
        texts: one per item.
        item_ids: seed the sample of tokens for consistency, so it does not depend on the batch.
        options: what is counted.
        pivot_ids: token ids of the pivot language (`counted_ids`); profiles are then also taken over those counted
            tokens alone whose id is none of them. None leaves that out.
        progress: told the number of texts finished by each portion.

    Returns:
        Profiles (mean softmax over all experts), selections, tokens, consistency and entropy per text and layer; the
        vocabulary; and, where asked for, the profiles over distinct tokens.

    Raises:
        CorpusError: a text has no token to count, or more tokens than the engine takes.
        ModelError: hidden states are asked for, or a token did not run.
        PlanError: the engine keeps no routing.
    """
    options = options or CaptureOptions()
    refuse_unsupported("vllm", hidden_states=options.hidden_states)
    parts = portions(reader_of(served), texts, item_ids, options, pivot_ids=pivot_ids)
    return gather(parts, len(texts), run=partial(_run, served), progress=progress)


def counted_ids(
    served: ServedModel, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions
) -> npt.NDArray[np.int64]:
    """Return the ids, ascending, that are counted anywhere in these texts; see `isogloss.backends.token_batches`.

    Raises:
        CorpusError: a text has no token to count, or more tokens than the engine takes.
    """
    return token_batches.counted_ids(reader_of(served), texts, item_ids, options)


def reader_of(served: ServedModel) -> Reader:
    """Say how texts are read, and how prompts are continued."""
    limit = int(served.engine.model_config.max_model_len)
    return Reader(
        served.tokenizer,
        write=partial(_continue_prompts, served),
        # An engine that writes always writes one token, for which there must be room.
        limit=limit - 1,
        remedy=f"give --engine max_model_len above {limit}, or split or remove the item",
    )


def _run(served: ServedModel, portion: Sequence[Text]) -> dict[str, npt.NDArray[np.float32]]:
    """Run a portion; return the consistency and sums over the counted tokens, ``[n, n_layers, …]`` each."""
    items = [
        {
            "counted": text.counted.tolist(),
            "sampled": text.sampled.tolist(),
            "distinct": [] if text.distinct is None else text.distinct.tolist(),
        }
        for text in portion
    ]
    extra = [{ITEM: index, START: text.start} for index, text in enumerate(portion)]
    with served.recording(items) as recorded:
        _generate(served, [text.ids for text in portion], extra, max_tokens=1)
    names = ["profiles", "selections", *(["distinct_profiles"] if portion[0].distinct is not None else [])]
    sums = {name: recorded[name].numpy() for name in names}
    n_experts, n_sampled = sums["profiles"].shape[2], torch.tensor([len(text.sampled) for text in portion])
    layers = [
        pair_consistency(torch.nn.functional.one_hot(chosen, n_experts).amax(2).float(), n_sampled)
        for chosen in recorded["sampled"].unbind(1)
    ]
    return {**sums, "consistency": torch.stack(layers, dim=1).numpy()}


def _continue_prompts(served: ServedModel, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
    """Continue prompts as `isogloss.backends.huggingface.answers.continue_prompts` does.

    The ends are those of the model's own ``generate``, to which vLLM adds the one of the tokenizer.
    """
    options = common_arguments(served, max_new_tokens)
    ends = set(options["stop_token_ids"])
    options["min_tokens"] = 1 if ends else 0
    return [until_end(ids, ends) for ids in _generate(served, prompts, [{}] * len(prompts), **options)]


def _generate(
    served: ServedModel,
    prompts: Sequence[Sequence[int]],
    extra: Sequence[dict[str, int]],
    **options: Any,  # noqa: ANN401 - vLLM's own
) -> list[list[int]]:
    """Continue prompts of token ids greedily; each has its own extra arguments."""
    from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

    given = [{"prompt_token_ids": list(ids)} for ids in prompts]
    how = [
        SamplingParams(**{"temperature": 0, "detokenize": False, "extra_args": each or None, **options})
        for each in extra
    ]
    outputs = served.engine.generate(given, how, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]
