"""What `isogloss doctor` asks of a model that vLLM serves; each check returns a sentence with numbers, or raises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import safetensors.torch
import torch

from isogloss.backends.agreement import TOLERANCE
from isogloss.backends.checks import PROBE_TEXTS, Observation, Observer, describe_routers
from isogloss.backends.joint_texts import encode_start, tokenise_pairs
from isogloss.backends.vllm.answers import GREEDY, require_readable
from isogloss.backends.vllm.likelihood import likelihoods_served
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.requests import ITEM
from isogloss.backends.vllm.prove import prove_served
from isogloss.backends.vllm.routed_texts import Routed, route_texts, share_changed
from isogloss.backends.writing import NEW_TOKENS, Written
from isogloss.errors import ModelError

__all__ = ["AnswersObserver", "largest_reach_served", "try_recording", "try_routers", "write_recorded"]


def try_routers(served: ServedModel) -> str:
    """Name the routed layers, and compare every worker's routers with the reference router."""
    proof = prove_served(served)
    n_layers = int(served.config.get_text_config().num_hidden_layers)
    described = describe_routers(served.family, served.routers, n_layers=n_layers)
    return (
        f"{described}; router weights {served.fingerprint.router_sha256[:12]}; on {proof.n_tokens} random tokens, "
        f"scores of chosen experts differ from the reference router's best by at most {proof.deviation:.2g}"
    )


def try_recording(served: ServedModel) -> str:
    """Record the probe texts, and compare what was recorded with the number of tokens."""
    routed = route_texts(served, PROBE_TEXTS)
    top_k, n_tokens = served.routers[0].top_k, torch.tensor(routed.n_tokens, dtype=torch.float64)[:, None]
    for name, array, expected in (
        ("router probabilities", routed.profiles, n_tokens),
        ("chosen experts", routed.selections, top_k * n_tokens),
    ):
        off = (array.double().sum(-1) - expected).abs() / expected
        if not off.max().item() <= TOLERANCE["float32"]:
            item, layer = divmod(int(off.argmax()), off.shape[1])
            raise ModelError(
                f"{name} of text {item} in layer {served.routers[layer].layer} add up to "
                f"{array[item, layer].sum().item():g}; expected {expected[item].item():g}: captures cannot be trusted"
            )
    _require_counted(served, routed)
    again = route_texts(served, PROBE_TEXTS)
    return (
        f"on {len(PROBE_TEXTS)} texts ({sum(routed.n_tokens)} tokens), in all {len(served.routers)} routed layers, "
        f"every token was recorded once and chose {top_k} experts; a second reading changes those of "
        f"{share_changed(routed, again).max().item():.2%} of tokens"
    )


def _require_counted(served: ServedModel, routed: Routed) -> None:
    """Compare the counts of chosen experts with the expert ids, which are recorded separately."""
    for item, expert_ids in enumerate(routed.expert_ids):
        for spec, chosen, counted in zip(served.routers, expert_ids, routed.selections[item], strict=True):
            counts = torch.bincount(chosen.flatten(), minlength=spec.n_experts)
            if not torch.equal(counts, counted.long()):
                raise ModelError(
                    f"in layer {spec.layer}, the expert ids of text {item} are not those that were counted; expected "
                    "the same: captures cannot be trusted"
                )


def write_recorded(served: ServedModel, prompts: Sequence[str]) -> list[Written]:
    """Go on after each prompt, and count the experts of each token that the engine reads while it writes."""
    starts = [encode_start(served.tokenizer, prompt, add_special_tokens=True) for prompt in prompts]
    require_readable(served, starts, NEW_TOKENS)
    places = [list(range(len(ids), len(ids) + NEW_TOKENS - 1)) for ids in starts]
    common = {**GREEDY, "max_tokens": NEW_TOKENS, "ignore_eos": True}
    with served.recording([{"counted": place, "sampled": place} for place in places]) as recorded:
        outputs = served.run(starts, [{**common, "extra_args": {ITEM: item}} for item in range(len(starts))])
    selections = recorded["selections"].numpy()
    return [
        Written([*ids, *output.outputs[0].token_ids], len(ids), chosen)
        for ids, output, chosen in zip(starts, outputs, selections, strict=True)
    ]


def largest_reach_served(served: ServedModel, layer: int) -> float:
    """Largest distance of a random token's median router logit to its best, in a decoder layer."""
    workers = [safetensors.torch.load(content) for content in served.call("isogloss_probe")]
    logits = next(arrays[name] for arrays in workers if (name := f"{layer}.logits") in arrays)
    return (logits.max(-1).values - logits.median(-1).values).max().item()


class AnswersObserver(Observer):
    """Answers, and likelihoods of texts."""

    measured, remedy = "likelihoods", "start the engine again"

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        super().__init__()

    def observe(self) -> Observation:
        """Return answers, and likelihoods ``[n_texts]`` in nats."""
        pairs = [("", text) for text in PROBE_TEXTS]
        texts = tokenise_pairs(self.served.tokenizer, pairs, add_special_tokens=True)
        nats = [each.nats for each in likelihoods_served(self.served, texts)]
        return Observation(self.served.answer(PROBE_TEXTS, max_new_tokens=NEW_TOKENS), np.array(nats))
