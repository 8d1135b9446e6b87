"""What `doctor` asks of routers and capture: each function returns a sentence with numbers, or raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from isogloss.backends.families import Family
from isogloss.backends.huggingface import CaptureOptions, LoadedModel, capture, prove_routers
from isogloss.backends.huggingface.outputs import RouterOutput
from isogloss.backends.huggingface.prove import TOLERANCE, relative_difference
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import ModelError
from isogloss.routing import RouterSpec
from isogloss.runs import LanguageRouting

__all__ = [
    "PROBE_IDS",
    "PROBE_TEXTS",
    "describe_routers",
    "describe_specs",
    "probe_ids",
    "spans",
    "try_capture",
    "try_padding",
]

PROBE_TEXTS = (
    "The ferry leaves at seven, but in winter the captain waits for the school children.",
    "Kivuko huondoka saa moja.",
    "Паром отходит в семь часов, а зимой капитан ждёт школьников.",
    "渡轮七点出发，冬天船长会等学生。",
    "تغادر العبّارة في السابعة، وفي الشتاء ينتظر القبطان تلاميذ المدرسة.",
    "नाव सात बजे चलती है, पर सर्दियों में नाविक बच्चों की प्रतीक्षा करता है।",
)
"""Written for this purpose, in six languages and five scripts, and of unlike lengths, so that a batch is padded."""

PROBE_IDS = tuple(f"probe-{index}" for index in range(len(PROBE_TEXTS)))

_ALL = CaptureOptions(token_scope="all")
_ALONE = CaptureOptions(token_scope="all", batch_tokens=1)
# Sums of another shape round otherwise and move tokens between experts that nearly tie; padding that reaches a token
# moves far more of them.
_MOVED = {torch.float32: 0.01, torch.bfloat16: 0.05, torch.float16: 0.05}


def describe_routers(loaded: LoadedModel) -> str:
    """Name the family, its routed layers, and how they choose."""
    specs = [router.spec for router in loaded.routers]
    return describe_specs(loaded.family, specs, n_layers=_stack_size(loaded))


def describe_specs(family: Family, specs: Sequence[RouterSpec], *, n_layers: int) -> str:
    """Say which of a model's decoder layers are routed, and how."""
    layers = [spec.layer for spec in specs]
    unrouted = sorted(set(range(n_layers)) - set(layers))
    note = f"; note: {family.note}" if family.note else ""
    return (
        f"{family.model_type}: {len(layers)} of {n_layers} layers are routed ({spans(layers)}), "
        f"{spans(unrouted) or 'none'} without a router; {specs[0].n_experts} experts, top {specs[0].top_k}, "
        f"{' or '.join(sorted(set(map(_how, specs))))}{note}"
    )


def _how(spec: RouterSpec) -> str:
    """Say how a router scores, chooses and weighs."""
    parts = [
        spec.scoring,
        "weights sum to 1" if spec.renormalise else "weights as scored",
        "a selection bias" if spec.selection_bias else "no selection bias",
        f"best {spec.top_groups} of {spec.n_groups} groups" if spec.n_groups > 1 else "no groups",
    ]
    return ", ".join(parts)


def _stack_size(loaded: LoadedModel) -> int:
    """Count the decoder layers of the list in which the routers lie."""
    names = {module: name.split(".") for name, module in loaded.model.named_modules()}
    parts = names[loaded.routers[0].module]
    stack: Any = loaded.model.get_submodule(".".join(parts[: next(i for i, p in enumerate(parts) if p.isdecimal())]))
    return len(stack)


def spans(numbers: Sequence[int]) -> str:
    """Write ascending integers as ranges.

    Example:
        >>> spans([0, 1, 2, 5])
        '0-2, 5'
    """
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


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
        output = loaded.decoder(input_ids=probe_ids(loaded, text), use_cache=False, output_router_logits=True)
    recorded = getattr(output, "router_logits", None)
    if not recorded:
        return None
    each = len(recorded) // len(loaded.routers) if loaded.family.other_routers else 1
    own = recorded[each - 1 :: each]  # a layer's other routers run before that of its experts
    if len(own) != len(loaded.routers):
        raise ModelError(f"the library records {len(recorded)} routers; expected the {len(loaded.routers)} we found")
    largest, tolerance = 0.0, TOLERANCE[loaded.model.dtype]
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


def probe_ids(loaded: LoadedModel, text: str) -> torch.Tensor:
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
    allowed, safe = _MOVED[loaded.model.dtype], loaded.family.left_padding
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
