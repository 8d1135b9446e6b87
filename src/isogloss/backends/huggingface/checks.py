"""What `isogloss doctor` asks of a model in transformers; each check returns a sentence with numbers, or raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.agreement import MOVED, TOLERANCE, moved_share, relative_difference
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.checks import PROBE_IDS, PROBE_TEXTS, Observation, Observer, describe_routers
from isogloss.backends.huggingface.answers import continue_prompts, pad_left
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import require_one_call_each, watch_routers
from isogloss.backends.joint_texts import encode_start
from isogloss.backends.writing import NEW_TOKENS, Written
from isogloss.errors import ModelError

__all__ = ["LogitsObserver", "describe_family", "largest_reach", "try_capture", "try_padding", "write_watched"]

_ALL = CaptureOptions(token_scope="all")
_ALONE = CaptureOptions(token_scope="all", batch_tokens=1)


def describe_family(loaded: LoadedModel) -> str:
    """Name the family, its routed layers, and how they choose."""
    return describe_routers(loaded.family, loaded.routers, n_layers=_stack_size(loaded))


def _stack_size(loaded: LoadedModel) -> int:
    """Count the decoder layers of the list in which the routers lie."""
    names = {module: name.split(".") for name, module in loaded.model.named_modules()}
    parts = names[loaded.router_modules[0].module]
    stack: Any = loaded.model.get_submodule(".".join(parts[: next(i for i, p in enumerate(parts) if p.isdecimal())]))
    return len(stack)


@computing
def try_capture(loaded: LoadedModel) -> str:
    """Compare our hook with the reference router, with what the experts receive, and with the library's own record."""
    proofs = [prove_routers(loaded, text) for text in PROBE_TEXTS]
    recorded = [_record_deviation(loaded, text) for text in PROBE_TEXTS]
    known = [deviation for deviation in recorded if deviation is not None]
    library = f"and the library's own record by at most {max(known):.2g}" if known else "the library records no logits"
    n_layers, n_handed = len(loaded.routers), min(proof.n_handed for proof in proofs)
    received = (
        f"experts receive the same expert ids in {n_handed} of them" if n_handed else "experts receive no expert ids"
    )
    return (
        f"on {len(PROBE_TEXTS)} texts ({sum(proof.n_tokens for proof in proofs)} tokens), in all {n_layers} routed "
        f"layers, our hook and the reference router differ by at most {max(proof.deviation for proof in proofs):.2g}, "
        f"{library}; {received}"
    )


def _record_deviation(loaded: LoadedModel, text: str) -> float | None:
    """Largest difference between our logits and those the library records; None where it records none."""
    ours_by_index: dict[int, RouterOutput] = {}
    with watch_routers(loaded, ours_by_index.__setitem__):
        output = loaded.decoder(input_ids=_probe_ids(loaded, text), use_cache=False, output_router_logits=True)
    recorded = getattr(output, "router_logits", None)
    if not recorded:
        return None
    each = len(recorded) // len(loaded.routers) if loaded.family.other_routers else 1
    own = recorded[each - 1 :: each]  # a layer's other routers run before that of its experts
    if len(own) != len(loaded.routers):
        raise ModelError(f"the library records {len(recorded)} routers; expected the {len(loaded.routers)} we found")
    largest, tolerance = 0.0, TOLERANCE[loaded.dtype]
    for index, (spec, values) in enumerate(zip(loaded.routers, own, strict=True)):
        logits = values.log() if loaded.family.returns == "probabilities" else values
        ours = ours_by_index[index].router_logits
        difference = relative_difference(*(part.float().cpu().numpy() for part in (ours, logits.reshape(ours.shape))))
        if difference > tolerance:
            raise ModelError(
                f"in layer {spec.layer} the library records other router logits than our hook reads (by "
                f"{difference:.2g}; expected at most {tolerance:g}): this version of transformers is not supported for "
                f"{loaded.family.model_type}, see `isogloss models`"
            )
        largest = max(largest, difference)
    return largest


def _probe_ids(loaded: LoadedModel, text: str) -> torch.Tensor:
    """Return the token ids ``[1, n_tokens]`` of one text, on the device of the model's input."""
    ids: torch.Tensor = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    return ids.to(loaded.device)


@computing
def try_padding(loaded: LoadedModel) -> str:
    """Compare the chosen experts of a batch padded on the right, and of one padded on the left, with single texts."""
    alone, together = (loaded.capture(PROBE_TEXTS, PROBE_IDS, options=options).selections for options in (_ALONE, _ALL))
    right, left = moved_share(together, alone), moved_share(_select_left_padded(loaded), alone)
    allowed, safe = MOVED[loaded.dtype], loaded.family.left_padding
    for side, share, expected in (("right", right, True), ("left", left, safe)):
        if expected and share > allowed:
            raise ModelError(
                f"padding on the {side} changes {share:.2%} of the selections of single texts; expected at most "
                f"{allowed:.0%} (rounding): captures and evaluations in batches cannot be trusted with this model"
            )
    verdict = "is safe" if safe else "is not safe for this family, so prompts are answered one by one"
    return f"on the right (capture) changes {right:.2%} of all selections; on the left {left:.2%}, and {verdict}"


def _select_left_padded(loaded: LoadedModel) -> npt.NDArray[Any]:
    """Count selections ``[n_items, n_layers, n_experts]`` of the real tokens of one batch padded on the left."""
    ids, mask = pad_left(loaded, loaded.tokenizer(list(PROBE_TEXTS))["input_ids"])
    real = mask.bool().cpu().numpy()
    counts = np.zeros((len(PROBE_TEXTS), len(loaded.routers), loaded.routers[0].n_experts), dtype=np.int64)
    item, _ = np.nonzero(real)

    def count(index: int, output: RouterOutput) -> None:
        chosen = output.expert_ids.cpu().numpy()[real.flatten()]
        np.add.at(counts[:, index], (item[:, None], chosen), 1)

    with watch_routers(loaded, count):
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        loaded.decoder(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False)
    return counts


@computing
def write_watched(loaded: LoadedModel, prompts: Sequence[str]) -> list[Written]:
    """Go on after each prompt, and count the experts of each token that the model reads while it writes."""
    size = len(prompts) if loaded.family.left_padding else 1
    return [each for at in range(0, len(prompts), size) for each in _write_together(loaded, prompts[at : at + size])]


def _write_together(loaded: LoadedModel, prompts: Sequence[str]) -> list[Written]:
    """The same for prompts that share a batch."""
    n, n_layers, n_experts = len(prompts), len(loaded.routers), loaded.routers[0].n_experts
    chosen: list[list[npt.NDArray[Any]]] = [[] for _ in range(n_layers)]

    def keep(index: int, output: RouterOutput) -> None:
        # Without a cache every forward reads all tokens again; the last is the one that was written.
        chosen[index].append(output.expert_ids.view(n, -1, output.expert_ids.shape[-1])[:, -1].cpu().numpy())

    starts = [encode_start(loaded.tokenizer, prompt, add_special_tokens=True) for prompt in prompts]
    with watch_routers(loaded, keep) as calls:
        written = continue_prompts(loaded, starts, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    require_one_call_each(loaded, calls, n_forwards=max(calls))
    selections = np.zeros((n, n_layers, n_experts), dtype=np.float32)
    for layer, forwards in enumerate(chosen):
        for expert_ids in forwards[1:]:  # the first reads the prompt
            np.add.at(selections[:, layer], (np.arange(n)[:, None], expert_ids), 1)
    return [
        Written([*ids, *new], len(ids), counts) for ids, new, counts in zip(starts, written, selections, strict=True)
    ]


@computing
def largest_reach(loaded: LoadedModel, layer: int) -> float:
    """Largest distance of a probe token's median router logit to its best, in a decoder layer."""
    distances: list[float] = []

    def keep(index: int, output: RouterOutput) -> None:
        if loaded.routers[index].layer == layer:
            logits = output.router_logits.float()
            distances.append((logits.max(-1).values - logits.median(-1).values).max().item())

    with watch_routers(loaded, keep):
        for text in PROBE_TEXTS:
            loaded.decoder(input_ids=_probe_ids(loaded, text), use_cache=False)
    return max(distances)


class LogitsObserver(Observer):
    """Answers, the logits of the first probe text, and the number of hooks."""

    measured, remedy = "logits", "load the model again"

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.hooks = self._count_hooks()
        super().__init__()

    def _count_hooks(self) -> int:
        modules = self.loaded.model.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)  # noqa: SLF001 - torch counts them nowhere else

    def observe(self) -> Observation:
        """Return answers, and logits ``[n_tokens, vocabulary]``."""
        output: Any = self.loaded.model(input_ids=_probe_ids(self.loaded, PROBE_TEXTS[0]), use_cache=False)
        answers = self.loaded.answer(PROBE_TEXTS, max_new_tokens=NEW_TOKENS)
        return Observation(answers, output.logits[0].float().cpu().numpy())

    def require_unchanged(self) -> str:
        """Return a sentence that the model is as before, without hooks of ours; ModelError where it is not."""
        if left := self._count_hooks() - self.hooks:
            raise ModelError(f"steering left {left} hooks in the model; expected none: load the model again")
        return f"{super().require_unchanged()} and no hook is left"
