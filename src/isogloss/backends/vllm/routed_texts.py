"""Which experts a served model chooses for given texts, and what a plan changes of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isogloss.backends.joint_texts import encode_texts
from isogloss.backends.model import Change
from isogloss.backends.vllm.answers import READ, require_readable
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.requests import ITEM, START
from isogloss.routing import PHASES, Phase
from isogloss.steering import Steering

__all__ = ["Routed", "change_served", "route_texts", "share_changed"]


class Routed:
    """Routing of some texts, every token of them.

    Attributes:
        n_tokens: of each text.
        profiles: sums over tokens of the routers' probabilities, ``[n_texts, n_layers, n_experts]``.
        selections: tokens that chose each expert, the same shape.
        expert_ids: of each text, ``[n_layers, n_tokens, top_k]``, ascending.
    """

    def __init__(self, n_tokens: Sequence[int], recorded: dict[str, torch.Tensor]) -> None:
        self.n_tokens = tuple(n_tokens)
        self.profiles, self.selections = recorded["profiles"], recorded["selections"]
        sampled = recorded["sampled"].sort(-1).values
        self.expert_ids = [sampled[index, :, :n] for index, n in enumerate(self.n_tokens)]


def route_texts(
    served: ServedModel, texts: Sequence[str], *, phase: Phase = "prompt", add_special_tokens: bool = True
) -> Routed:
    """Run texts, read as tokens of one phase, and record the chosen experts of every token.

    Raises:
        CorpusError: no texts, or one without tokens.
        RunError: a text leaves no room in the engine's context for the one token that vLLM must generate.
        PlanError: the engine keeps no routing, or a token did not run.
    """
    tokens = encode_texts(served.tokenizer, texts, add_special_tokens=add_special_tokens)
    require_readable(served, tokens, 1)
    places = [list(range(len(ids))) for ids in tokens]
    extra = [{ITEM: item, START: 0 if phase == "generation" else len(ids)} for item, ids in enumerate(tokens)]
    with served.recording([{"counted": place, "sampled": place} for place in places]) as recorded:
        served.run(tokens, [{**READ, "extra_args": each} for each in extra])
    return Routed([len(ids) for ids in tokens], recorded)


def change_served(
    served: ServedModel, plan: Steering, texts: Sequence[str], *, add_special_tokens: bool = True
) -> Change:
    """Measure the share of tokens whose set of chosen experts differs under a plan; see `Model.change`.

    vLLM gives no whole distributions, so there is no divergence. Texts are read once as tokens of each phase that the
    plan names; the larger share counts, layer by layer, as in `isogloss.backends.huggingface.change.measure_change`.

    Where the engine's kernels round otherwise from run to run, as some do in 16 bits on several processes, experts
    that nearly tie move without any plan; such shares hold that noise.

    Raises:
        CorpusError: no texts, or one without tokens.
        PlanError: the plan is for another model, or was proven to change nothing.
    """
    plain = route_texts(served, texts, add_special_tokens=add_special_tokens)
    shares = []
    with served.steer(plan):
        for phase in plan.phases or PHASES[:1]:
            steered = route_texts(served, texts, phase=phase, add_special_tokens=add_special_tokens)
            shares.append(share_changed(plain, steered))
    layers = [spec.layer for spec in served.routers]
    return Change(dict(zip(layers, torch.stack(shares).amax(0).tolist(), strict=True)))


def share_changed(first: Routed, second: Routed) -> torch.Tensor:
    """Return the share of tokens whose sets of chosen experts differ, ``[n_layers]`` float64."""
    pairs = zip(first.expert_ids, second.expert_ids, strict=True)
    counts = torch.stack([(before != after).any(-1).sum(-1) for before, after in pairs])
    return counts.sum(0).double() / sum(first.n_tokens)
