"""What `isogloss doctor` asks of a model in transformers; each check returns a sentence with numbers, or raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isogloss.backends.agreement import TOLERANCE, relative_difference
from isogloss.backends.checks import PROBE_IDS, PROBE_TEXTS, describe_routers
from isogloss.backends.huggingface.capture import capture
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.backends.model import CaptureOptions
from isogloss.errors import ModelError
from isogloss.runs import LanguageRouting

__all__ = ["LogitsObserver", "describe_family", "largest_reach", "try_capture", "try_padding"]

_ALL = CaptureOptions(token_scope="all")
_ALONE = CaptureOptions(token_scope="all", batch_tokens=1)
# Sums of another shape round otherwise and move tokens between experts that nearly tie; padding that reaches a token
# moves far more of them.
_MOVED = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.05}


def describe_family(loaded: LoadedModel) -> str:
    """Name the family, its routed layers, and how they choose."""
    specs = [router.spec for router in loaded.routers]
    return describe_routers(loaded.family, specs, n_layers=_stack_size(loaded))


def _stack_size(loaded: LoadedModel) -> int:
    """Count the decoder layers of the list in which the routers lie."""
    names = {module: name.split(".") for name, module in loaded.model.named_modules()}
    parts = names[loaded.routers[0].module]
    stack: Any = loaded.model.get_submodule(".".join(parts[: next(i for i, p in enumerate(parts) if p.isdecimal())]))
    return len(stack)


@torch.inference_mode()
def try_capture(loaded: LoadedModel) -> str:
    """Compare our hook with the reference router, with what the experts receive, and with the library's own record.

    Raises:
        ModelError: two of them differ in some layer.
    """
    proofs = [prove_routers(loaded, text) for text in PROBE_TEXTS]
    recorded = [_record_deviation(loaded, text) for text in PROBE_TEXTS]
    known = [deviation for deviation in recorded if deviation is not None]
    library = f"and the library's own record by at most {max(known):.2g}" if known else "the library records no logits"
    n_layers, n_handed = len(loaded.routers), min(proof.n_handed for proof in proofs)
    received = f"experts receive that choice in {n_handed} of them" if n_handed else "experts are handed no choice"
    return (
        f"on {len(PROBE_TEXTS)} texts ({sum(proof.n_tokens for proof in proofs)} tokens), in all {n_layers} routed "
        f"layers, our hook and the reference router differ by at most {max(proof.deviation for proof in proofs):.2g}, "
        f"{library}; {received}"
    )


def _record_deviation(loaded: LoadedModel, text: str) -> float | None:
    """Largest difference between the logits we hear and those the library records; None where it records none.

    Raises:
        ModelError: the library records other layers, or other logits.
    """
    heard: dict[int, RouterOutput] = {}
    with watch_routers(loaded, heard.__setitem__):
        output = loaded.decoder(input_ids=_probe_ids(loaded, text), use_cache=False, output_router_logits=True)
    recorded = getattr(output, "router_logits", None)
    if not recorded:
        return None
    each = len(recorded) // len(loaded.routers) if loaded.family.other_routers else 1
    own = recorded[each - 1 :: each]  # a layer's other routers run before that of its experts
    if len(own) != len(loaded.routers):
        raise ModelError(f"the library records {len(recorded)} routers; expected the {len(loaded.routers)} we found")
    largest, tolerance = 0.0, TOLERANCE[loaded.dtype]
    for index, (router, values) in enumerate(zip(loaded.routers, own, strict=True)):
        logits = values.log() if loaded.family.returns == "probabilities" else values
        ours = heard[index].router_logits
        found = relative_difference(ours.float().cpu().numpy(), logits.reshape(ours.shape).float().cpu().numpy())
        if found > tolerance:
            raise ModelError(
                f"in layer {router.spec.layer} the library records other router logits than our hook hears "
                f"(by {found:.2g}; expected at most {tolerance:g}): this version of transformers is not supported for "
                f"{loaded.family.model_type}, see `isogloss models`"
            )
        largest = max(largest, found)
    return largest


def _probe_ids(loaded: LoadedModel, text: str) -> torch.Tensor:
    """Return the token ids ``[1, n_tokens]`` of one text, where the model wants them."""
    ids: torch.Tensor = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    return ids.to(loaded.device)


@torch.inference_mode()
def try_padding(loaded: LoadedModel) -> str:
    """Compare the choices of a batch padded on the right, and of one padded on the left, with those of single texts.

    Raises:
        ModelError: a padding that the family's row calls safe moves choices.
    """
    alone = capture(loaded, PROBE_TEXTS, PROBE_IDS, options=_ALONE)
    together = capture(loaded, PROBE_TEXTS, PROBE_IDS, options=_ALL)
    right = _moved(alone, together.selections)
    left = _moved(alone, _select_left_padded(loaded))
    allowed, safe = _MOVED[loaded.dtype], loaded.family.left_padding
    for side, share, expected in (("right", right, True), ("left", left, safe)):
        if expected and share > allowed:
            raise ModelError(
                f"padding on the {side} moves {share:.2%} of the choices of single texts; expected at most "
                f"{allowed:.0%} (rounding): captures and evaluations in batches cannot be trusted with this model"
            )
    verdict = "is safe" if safe else "is not safe for this family, so prompts are answered one by one"
    return f"on the right (capture) moves {right:.2%} of all choices; on the left moves {left:.2%} and {verdict}"


def _moved(alone: LanguageRouting, selections: Any) -> float:  # noqa: ANN401 - an array
    """Share of all choices that fall on other experts than those of single texts."""
    return float(np.abs(alone.selections - selections).sum() / 2 / alone.selections.sum())


def _select_left_padded(loaded: LoadedModel) -> Any:  # noqa: ANN401 - an array
    """Count choices ``[n_items, n_layers, n_experts]`` of the real tokens of one batch padded on the left."""
    batch = loaded.tokenizer(list(PROBE_TEXTS), return_tensors="pt", padding=True, padding_side="left")
    ids, mask = (batch[name].to(loaded.device) for name in ("input_ids", "attention_mask"))
    counts = np.zeros((len(PROBE_TEXTS), len(loaded.routers), loaded.routers[0].spec.n_experts), dtype=np.int64)
    item, _ = np.nonzero(batch["attention_mask"].numpy())

    def count(index: int, output: RouterOutput) -> None:
        chosen = output.expert_ids.cpu().numpy()[batch["attention_mask"].flatten().bool().numpy()]
        np.add.at(counts[:, index], (item[:, None], chosen), 1)

    with watch_routers(loaded, count):
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        loaded.decoder(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False)
    return counts


@torch.inference_mode()
def largest_reach(loaded: LoadedModel, layer: int) -> float:
    """Largest distance of a probe token's median router logit to its best, in a decoder layer."""
    distances: list[float] = []

    def keep(index: int, output: RouterOutput) -> None:
        if loaded.routers[index].spec.layer == layer:
            logits = output.router_logits.float()
            distances.append((logits.max(-1).values - logits.median(-1).values).max().item())

    with watch_routers(loaded, keep):
        for text in PROBE_TEXTS:
            loaded.decoder(input_ids=_probe_ids(loaded, text), use_cache=False)
    return max(distances)


class LogitsObserver:
    """What a model computes and carries before it is steered, to compare with afterwards."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.hooks = self._count_hooks()
        self.before, again = self._logits(), self._logits()
        # Some kernels add up in an order of their own: then no two unsteered forwards are equal either.
        self.noise = _largest_difference(self.before, again)

    def _count_hooks(self) -> int:
        modules = self.loaded.model.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)  # noqa: SLF001 - torch counts them nowhere else

    def _logits(self) -> torch.Tensor:
        """``[n_tokens, vocabulary]`` in float32, of the first probe text."""
        with torch.inference_mode():
            output: Any = self.loaded.model(input_ids=_probe_ids(self.loaded, PROBE_TEXTS[0]), use_cache=False)
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def require_unchanged(self) -> str:
        """Say that the model is as before.

        Raises:
            ModelError: a hook is left, or the output differs by more than between two unsteered forwards.
        """
        if left := self._count_hooks() - self.hooks:
            raise ModelError(f"steering left {left} hooks in the model; expected none: load the model again")
        difference = _largest_difference(self._logits(), self.before)
        if not difference <= 10 * self.noise:
            raise ModelError(
                f"after steering the output logits differ by {difference:.2g}; expected at most what two unsteered "
                f"forwards differ by, {self.noise:.2g}: load the model again"
            )
        if self.noise:
            return f"afterwards no hook is left; logits repeat only to {self.noise:.2g} here, steered before or not"
        return "afterwards logits are bit-identical and no hook is left"


def _largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of two logits; those of tokens that the model rules out are infinite in both."""
    return (found - expected).abs().masked_fill(found == expected, 0.0).max().item()
