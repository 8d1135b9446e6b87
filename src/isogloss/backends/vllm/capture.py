"""Captures routing of texts on vLLM, aggregated per text in its workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.profiles import pair_consistency
from isogloss.backends.token_batches import Reader, Text, until_end
from isogloss.backends.vllm.answers import READ, common_arguments
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.requests import ITEM, START

__all__ = ["read_served", "run_served"]


def read_served(served: ServedModel) -> Reader:
    """Return how texts are read, and how prompts are continued."""
    limit = int(served.engine.model_config.max_model_len)
    return Reader(
        served.tokenizer,
        write=partial(_continue_prompts, served),
        # An engine that writes always writes one token, for which there must be room.
        limit=limit - 1,
        remedy=f"give --engine max_model_len above {limit}, or split or remove the item",
        placeholders=served.placeholders,
    )


def run_served(
    served: ServedModel, portion: Sequence[Text], *, token_counts: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Run a portion of texts, as `isogloss.backends.profiles.gather` asks for it.

    Args:
        served: records routing.
        portion: texts that vLLM gets together.
        token_counts: whether ``expert_ids`` are asked for: the choices of all counted tokens, in place of a sample's,
            then leave the workers.

    Raises:
        ModelError: a token did not run.
        PlanError: the engine keeps no routing.
    """
    items = [
        {
            "counted": text.counted.tolist(),
            "sampled": (text.counted if token_counts else text.sampled).tolist(),
            "distinct": [] if text.distinct is None else text.distinct.tolist(),
        }
        for text in portion
    ]
    extra = [{ITEM: index, START: text.start} for index, text in enumerate(portion)]
    with served.recording(items) as recorded:
        served.run([text.ids for text in portion], [{**READ, "extra_args": each} for each in extra])
    names = ["profiles", "selections", *(["distinct_profiles"] if portion[0].distinct is not None else [])]
    sums = {name: recorded[name].numpy() for name in names}
    if token_counts:
        pairs = list(zip(recorded["sampled"], portion, strict=True))
        sums["expert_ids"] = (
            torch.cat([chosen[:, : len(text.counted)] for chosen, text in pairs], dim=1).transpose(0, 1).numpy()
        )
        recorded["sampled"] = _of_sample(pairs)
    n_experts, n_sampled = sums["profiles"].shape[2], torch.tensor([len(text.sampled) for text in portion])
    layers = [
        pair_consistency(torch.nn.functional.one_hot(chosen, n_experts).amax(2).float(), n_sampled)
        for chosen in recorded["sampled"].unbind(1)
    ]
    return {**sums, "consistency": torch.stack(layers, dim=1).numpy()}


def _of_sample(pairs: Sequence[tuple[torch.Tensor, Text]]) -> torch.Tensor:
    """Take the choices of each text's sample, padded, from those of all its counted tokens.

    Args:
        pairs: ``[n_layers, n_counted, top_k]`` and the text that they are of.

    Returns:
        ``[n_texts, n_layers, n_sampled, top_k]``.
    """
    places = [torch.from_numpy(np.searchsorted(text.counted, text.sampled)) for _, text in pairs]
    padded = torch.nn.utils.rnn.pad_sequence(places, batch_first=True)
    return torch.stack([chosen[:, where] for (chosen, _), where in zip(pairs, padded, strict=True)])


def _continue_prompts(served: ServedModel, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
    """Continue prompts as `isogloss.backends.huggingface.answers.continue_prompts` does.

    The ends are those of the model's own ``generate``, to which vLLM adds the one of the tokenizer.
    """
    options = common_arguments(served, max_new_tokens)
    ends = set(options["stop_token_ids"])
    options["min_tokens"] = 1 if ends else 0
    outputs = served.run(prompts, [{**options, "temperature": 0.0}] * len(prompts))
    return [until_end(output.outputs[0].token_ids, ends) for output in outputs]
