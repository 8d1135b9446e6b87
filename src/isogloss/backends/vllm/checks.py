"""What `isogloss doctor` asks of a model that vLLM serves; each check returns a sentence with numbers, or raises."""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch

from isogloss.backends.agreement import TOLERANCE
from isogloss.backends.checks import PROBE_TEXTS, describe_routers
from isogloss.backends.joint_texts import tokenise_pairs
from isogloss.backends.vllm.answers import answer_prompts
from isogloss.backends.vllm.likelihood import joint_log_likelihoods
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.prove import prove_served
from isogloss.backends.vllm.routed_texts import Routed, route_texts, share_changed
from isogloss.errors import ModelError

__all__ = ["AnswersObserver", "largest_reach", "try_recording", "try_routers"]

_NEW_TOKENS = 8


def try_routers(served: ServedModel) -> str:
    """Name the routed layers, and compare every worker's routers with the reference router.

    Raises:
        ModelError: a router chooses otherwise, or a worker holds other weights.
    """
    proof = prove_served(served)
    n_layers = int(served.config.get_text_config().num_hidden_layers)
    described = describe_routers(served.family, served.specs, n_layers=n_layers)
    return (
        f"{described}; router weights {served.fingerprint.router_sha256[:12]}; on {proof.n_tokens} random tokens, "
        f"scores of chosen experts differ from the reference router's best by at most {proof.deviation:.2g}"
    )


def try_recording(served: ServedModel) -> str:
    """Record the probe texts, and compare what was recorded with the number of tokens.

    Raises:
        ModelError: a token was counted twice or not at all, or did not choose as many experts as it should.
    """
    routed = route_texts(served, PROBE_TEXTS)
    top_k, n_tokens = served.specs[0].top_k, torch.tensor(routed.n_tokens, dtype=torch.float64)[:, None]
    for name, array, expected in (
        ("router probabilities", routed.profiles, n_tokens),
        ("chosen experts", routed.selections, top_k * n_tokens),
    ):
        off = (array.double().sum(-1) - expected).abs() / expected
        if not off.max().item() <= TOLERANCE["float32"]:
            item, layer = divmod(int(off.argmax()), off.shape[1])
            raise ModelError(
                f"{name} of text {item} in layer {served.specs[layer].layer} add up to "
                f"{array[item, layer].sum().item():g}; expected {expected[item].item():g}: captures cannot be trusted"
            )
    _require_counted(served, routed)
    again = route_texts(served, PROBE_TEXTS)
    return (
        f"on {len(PROBE_TEXTS)} texts ({sum(routed.n_tokens)} tokens), in all {len(served.specs)} routed layers, "
        f"every token was recorded once and chose {top_k} experts; a second reading moves {_noise(routed, again):.2%} "
        "of tokens"
    )


def _require_counted(served: ServedModel, routed: Routed) -> None:
    """Compare the sums over choices with the choices themselves, which are recorded apart."""
    for item, choices in enumerate(routed.choices):
        for spec, chosen, counted in zip(served.specs, choices, routed.selections[item], strict=True):
            found = torch.bincount(chosen.flatten(), minlength=spec.n_experts)
            if not torch.equal(found, counted.long()):
                raise ModelError(
                    f"in layer {spec.layer}, the choices of text {item} are not those that were counted; expected the "
                    "same: captures cannot be trusted"
                )


def _noise(first: Routed, second: Routed) -> float:
    """Largest share of any layer of tokens whose choice differs between two unsteered readings."""
    return share_changed(first, second).max().item()


def largest_reach(served: ServedModel, layer: int) -> float:
    """Largest distance of a random token's median router logit to its best, in a decoder layer."""
    workers = [safetensors.torch.load(content) for content in served.call("isogloss_probe")]
    logits = next(arrays[name] for arrays in workers if (name := f"{layer}.logits") in arrays)
    return (logits.max(-1).values - logits.median(-1).values).max().item()


class AnswersObserver:
    """What a served model answers before it is steered, to compare with afterwards."""

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        self.before, again = self._observe(), self._observe()
        # Some kernels add up in an order of their own: then no two unsteered runs are equal either.
        self.noise = _largest_difference(self.before, again)

    def _observe(self) -> dict[str, Any]:
        """Answers, and likelihoods of texts in nats."""
        pairs = [("", text) for text in PROBE_TEXTS]
        texts = tokenise_pairs(self.served.tokenizer, pairs, add_special_tokens=True)
        return {
            "answers": answer_prompts(self.served, PROBE_TEXTS, max_new_tokens=_NEW_TOKENS),
            "nats": [each.nats for each in joint_log_likelihoods(self.served, texts)],
        }

    def require_unchanged(self) -> str:
        """Say that the model is as before.

        Raises:
            ModelError: an answer differs, or a likelihood by more than between two unsteered runs.
        """
        after = self._observe()
        difference = _largest_difference(after, self.before)
        if not difference <= 10 * self.noise:
            raise ModelError(
                f"after steering, log-likelihoods differ by {difference:.2g} nats; expected at most what two unsteered "
                f"runs differ by, {self.noise:.2g}: start the engine again"
            )
        if self.noise:
            return f"afterwards likelihoods are as before, to the {self.noise:.2g} nats to which they repeat here"
        if after["answers"] != self.before["answers"]:
            raise ModelError("after steering, answers are not those of before; expected the same: start it again")
        return "afterwards answers and likelihoods are bit-identical"


def _largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    pairs = zip(found["nats"], expected["nats"], strict=True)
    return max(0.0 if one == other else abs(one - other) for one, other in pairs)
