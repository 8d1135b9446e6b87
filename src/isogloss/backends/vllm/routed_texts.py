"""Which experts a served model chooses for given texts, and what a plan changes of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isogloss.backends.vllm.answers import require_room
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.record import ITEM
from isogloss.backends.vllm.plugin.slots import START
from isogloss.errors import CorpusError
from isogloss.steering import PHASES, Phase, Plan

__all__ = ["Routed", "changed_choices", "route_texts", "share_changed"]


class Routed:
    """Routing of some texts, every token of them.

    Attributes:
        n_tokens: of each text.
        profiles: sums over tokens of the routers' probabilities, ``[n_texts, n_layers, n_experts]``.
        selections: tokens that chose each expert, the same shape.
        choices: of each text, chosen experts ``[n_layers, n_tokens, top_k]``, ascending.
    """

    def __init__(self, n_tokens: Sequence[int], recorded: dict[str, torch.Tensor]) -> None:
        self.n_tokens = tuple(n_tokens)
        self.profiles, self.selections = recorded["profiles"], recorded["selections"]
        sampled = recorded["sampled"].sort(-1).values
        self.choices = [sampled[index, :, :n] for index, n in enumerate(self.n_tokens)]


def route_texts(
    served: ServedModel, texts: Sequence[str], *, phase: Phase = "prompt", add_special_tokens: bool = True
) -> Routed:
    """Run texts and record every choice.

    Args:
        served: the model, started with ``record``; a plan may be active.
        texts: at least one.
        phase: whether their tokens are read as a prompt's or as generated ones.
        add_special_tokens: False for prompts that come from a chat template.

    Raises:
        CorpusError: no texts, or one without tokens.
        RunError: a text leaves no room in the engine's context for the one token that vLLM must generate.
        PlanError: the engine keeps no routing, or a token did not run.
    """
    tokens = [list(served.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]) for text in texts]
    if not tokens or not all(tokens):
        raise CorpusError("a text has no token to measure; leave out empty texts")
    require_room(served, tokens, 1)
    from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

    places = [list(range(len(ids))) for ids in tokens]
    extra = [{ITEM: item, START: 0 if phase == "generation" else len(ids)} for item, ids in enumerate(tokens)]
    with served.recording([{"counted": place, "sampled": place} for place in places]) as recorded:
        served.engine.generate(
            [{"prompt_token_ids": ids} for ids in tokens],
            [SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, extra_args=each) for each in extra],
            use_tqdm=False,
        )
    return Routed([len(ids) for ids in tokens], recorded)


def changed_choices(
    served: ServedModel, plan: Plan, texts: Sequence[str], *, add_special_tokens: bool = True
) -> dict[int, float]:
    """Measure the share of tokens whose set of chosen experts differs under a plan, by decoder layer.

    Texts are read once as tokens of each phase that the plan names; the larger share counts, layer by layer, as in
    `isogloss.backends.huggingface.change.measure_change`.

    Where the engine's kernels round otherwise from run to run, as some do in 16 bits on several processes, experts
    that nearly tie move without any plan; such shares hold that noise.

    Args:
        served: the model, unsteered, started with ``record``.
        plan: without conditions on languages.
        texts: at least one.
        add_special_tokens: False for prompts that come from a chat template.

    Raises:
        CorpusError: no texts, or one without tokens.
        PlanError: the plan is for another model, or was proven to change nothing.
    """
    plain = route_texts(served, texts, add_special_tokens=add_special_tokens)
    shares = []
    with served.steered(plan):
        for phase in plan.phases or PHASES[:1]:
            steered = route_texts(served, texts, phase=phase, add_special_tokens=add_special_tokens)
            shares.append(share_changed(plain, steered))
    layers = [spec.layer for spec in served.specs]
    return dict(zip(layers, torch.stack(shares).amax(0).tolist(), strict=True))


def share_changed(first: Routed, second: Routed) -> torch.Tensor:
    """Return the share of tokens whose sets of chosen experts differ, ``[n_layers]`` float64."""
    pairs = zip(first.choices, second.choices, strict=True)
    counts = torch.stack([(before != after).any(-1).sum(-1) for before, after in pairs])
    return counts.sum(0).double() / sum(first.n_tokens)
