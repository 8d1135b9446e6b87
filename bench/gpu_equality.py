"""Shows on a GPU that every family's tiny model is captured and steered there as on the processor, and as it should be.

Two oracles: the reference router in NumPy, on the logits that the GPU computed; and the same model on the processor.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinds import everywhere, forced, forced_and_banned, plan_of
from models import FAMILIES, ITEM_IDS, REPRESENTATIVES, TEXTS, tiny, tokenizer
from mxfp4_checkpoints import write_mxfp4
from transformers.utils.import_utils import is_kernels_available

from gpu_results import Row
from isogloss import routing
from isogloss.backends.agreement import MOVED, moved_share, relative_difference
from isogloss.backends.huggingface import (
    HuggingFaceModel,
    Offsets,
    answer_loss,
    load_model,
    offsets_applied,
    prove_routers,
    steer,
)
from isogloss.backends.huggingface.router_outputs import logits_of
from isogloss.backends.huggingface.watch import attached, watch_routers
from isogloss.backends.joint_texts import Measured
from isogloss.steering import Intervention, apply_choice, apply_edit, compile_layer

__all__ = ["compare", "family_rows", "trap_rows"]

_LONG = " ".join(TEXTS)
_EDITS = (
    Intervention("offset", 0, (2, 4), values=(1.5, -2.0)),
    Intervention("soft", 0, (1, 5), strength=1.0),
    Intervention("force", 0, (6,)),
    Intervention("ban", 0, (0, 4)),
    Intervention("select", 0, (2, 5), values=(0.3, -0.2)),
)
_WEIGHTS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference of a steered weight from the reference router's, by dtype of the model."""
_COMPILED = 0.05  # of the largest logit: what bfloat16 rounds in four layers


def family_rows(device: torch.device, until: float, families: Sequence[str] = ()) -> Iterator[Row]:
    """Yield a row for each family and dtype, those of one router of each kind first, until the time is over."""
    first = families or sorted(FAMILIES, key=lambda family: family not in REPRESENTATIVES)
    cases = [(family, dtype) for dtype in (torch.float32, torch.bfloat16) for family in first]
    for place, (family, dtype) in enumerate(cases):
        if time.monotonic() > until:
            yield Row(f"{len(cases) - place} of {len(cases)} cases", note="not reached in the time of this part")
            return
        name = f"{family} {str(dtype).removeprefix('torch.')}"
        yield _verdict(name, partial(_compare_family, family, dtype, device))


def _verdict(name: str, check: Callable[[], str]) -> Row:
    """Run a check, which returns what it saw; whatever it raises is not equal."""
    try:
        return Row(name, equal=True, note=check())
    except Exception as error:  # noqa: BLE001 - a fault of one family must not hide the others
        return Row(name, equal=False, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _compare_family(family: str, dtype: torch.dtype, device: torch.device) -> str:
    host = tiny(family, dtype=dtype)
    allowed = MOVED[host.dtype]
    if dtype != torch.float32:  # two roundings of one model may differ by as much as either from the model itself
        exact, rounded = (each.capture(TEXTS, ITEM_IDS).selections for each in (tiny(family), host))
        allowed = max(allowed, 2 * moved_share(rounded, exact))
    return compare(host, on(device, tiny(family, dtype=dtype)), allowed=allowed)


def on(device: torch.device, loaded: HuggingFaceModel) -> HuggingFaceModel:
    """Return a model on a device."""
    return HuggingFaceModel(loaded.model.to(device), tokenizer(), name=loaded.name)


def compare(host: HuggingFaceModel, there: HuggingFaceModel, *, allowed: float) -> str:
    """Compare a model on a device with the same on the processor, and with the reference router.

    Args:
        host: the model on the processor.
        there: the same on the device.
        allowed: largest share of selections that may fall on other experts.

    Raises:
        ModelError: the routers choose otherwise than the reference router.
        AssertionError: anything else is not equal; says what.
    """
    proof = prove_routers(there, TEXTS[1])
    plain = [each.capture(TEXTS, ITEM_IDS).selections for each in (host, there)]
    moved = moved_share(plain[1], plain[0])
    require(moved <= allowed, f"a capture moves {moved:.2%} of selections; allowed are {allowed:.2%}")
    for edit in _EDITS:
        _require_reference(there, edit)
    plan = everywhere(host, _EDITS[0])
    steered = []
    for each in (host, there):
        with steer(each, plan):
            steered.append(each.capture(TEXTS, ITEM_IDS).selections)
    under_plan, effect = moved_share(steered[1], steered[0]), moved_share(steered[1], plain[1])
    require(under_plan <= allowed, f"a steered capture moves {under_plan:.2%}; allowed are {allowed:.2%}")
    require(effect > allowed, f"the plan moved only {effect:.2%} of selections")
    _require_forced(there)
    return (
        f"reference router within {proof.deviation:.1e}; selections moved from the processor's: {moved:.2%} plain, "
        f"{under_plan:.2%} steered, of a plan that moves {effect:.0%}"
    )


def require(holds: bool, message: str) -> None:  # noqa: FBT001 - as assert
    """Raise an AssertionError, in optimised Python too."""
    if not holds:
        raise AssertionError(message)


def _require_forced(loaded: HuggingFaceModel) -> None:
    """Every token chooses the forced expert, none the banned one."""
    with steer(loaded, forced_and_banned(loaded)):
        captured = loaded.capture(TEXTS, ITEM_IDS)
    every = captured.tokens[:, None].repeat(len(loaded.routers), 1)
    require(bool((captured.selections[:, :, 5] == every).all()), "a token did not choose the forced expert")
    require(captured.selections[:, :, 0].sum() == 0, "a token chose the banned expert")


def _require_reference(loaded: HuggingFaceModel, edit: Intervention) -> None:
    """What the last router chooses and weighs under a plan is what the reference router does on edited logits.

    Routers that cap or scale their logits, or report probabilities, are edited before: there the steered ones are read.
    """
    router = loaded.router_modules[-1]
    spec = router.spec
    plan = plan_of(loaded, replace(edit, layer=spec.layer))
    compiled = compile_layer(plan, spec.layer, spec.n_experts)
    with steer(loaded, plan):
        read, steered, ids, weights = _routed(loaded)
    with torch.inference_mode():  # the same numbers, since another forward of the model may round otherwise on a GPU
        plain = logits_of(router.module(*read[0], **read[1]), router.family.returns).float().cpu().numpy()
    changes = any(getattr(router.module, name, 0) for name in ("router_logit_softcapping", "output_multiplier"))
    reads_steered = loaded.family.returns == "probabilities" or changes
    logits = steered if reads_steered else apply_edit(plain, compiled)
    scores = apply_choice(
        routing.choice_scores(logits, spec, router.selection_bias(), select=compiled.select), compiled
    )
    best = -np.sort(-scores, axis=1)[:, : spec.top_k]
    chosen = -np.sort(-np.take_along_axis(scores, ids, axis=1), axis=1)
    is_rounded = loaded.model.dtype != torch.float32 and not compiled.edits_logits  # in families that score in 16 bits
    near = np.isclose(chosen, best, rtol=2**-8 if is_rounded else 1e-4, atol=2**-8 if is_rounded else 1e-5)
    require(bool(near.all()), f"{edit.kind}: other experts than the reference")
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1, kind="stable")
    ids, weights = (np.take_along_axis(part, order, axis=1) for part in (ids, weights))
    expected = routing.combine_weights(logits, ids, spec, router.expert_scale())
    far = relative_difference(weights, expected)
    require(far <= _WEIGHTS[loaded.model.dtype], f"{edit.kind}: weights differ from the reference by {far:.2g}")


def _routed(loaded: HuggingFaceModel) -> tuple[Any, Any, Any, Any]:
    """Return what the last router is given in a forward of one text, and its logits, expert ids and weights."""
    given, seen = [], []
    module = loaded.router_modules[-1].module
    handle = module.register_forward_pre_hook(lambda _module, *given_now: given.append(given_now), with_kwargs=True)
    with attached([handle]), watch_routers(loaded, lambda _index, output: seen.append(output)), torch.inference_mode():
        ids = loaded.tokenizer(_LONG, return_tensors="pt")["input_ids"].to(loaded.device)
        loaded.model(input_ids=ids, use_cache=False)
    logits, weights, expert_ids = seen[-1]
    return given[0], *(part.cpu().numpy() for part in (logits.float(), expert_ids, weights.float()))


def trap_rows(device: torch.device, until: float) -> Iterator[Row]:
    """Yield what is special on a GPU: other kernels, other products, graphs, packed weights, gradients."""
    checks: dict[str, Callable[[], str]] = {
        "kolibri1: the product with float32 output is edited": partial(_try_mixed_product, device),
        **{
            f"experts of {family} by grouped, batched and single products": partial(_try_experts, family, device)
            for family in ("olmoe", "gpt_oss", "deepseek_v3")
        },
        **{
            f"gradient of {family}": partial(_try_gradient, family, device)
            for family in ("olmoe", "qwen3_moe", "gpt_oss")
        },
        "MXFP4, made floating point": partial(_try_mxfp4, device),
        "a steered router in a CUDA graph": partial(_try_graph, device),
        "answers of a compiled static cache": partial(_try_compiled, device),
    }
    for name, check in checks.items():
        if time.monotonic() > until:
            yield Row(name, note="not reached in the time of this part")
        elif device.type != "cuda" and check.func in _ON_CUDA:
            yield Row(name, note="on a GPU alone")
        else:
            yield _verdict(name, check)
    there = "installed: routers may run kernels from the hub" if is_kernels_available() else "not installed"
    yield Row("the package kernels", note=there)


def _try_mixed_product(device: torch.device) -> str:
    """In 16 bits, without gradients, Kolibri's router calls `torch.mm` with another dtype of its output."""
    loaded, seen = on(device, tiny("kolibri1", dtype=torch.bfloat16)), []
    plain = torch.mm

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401 - torch's own
        seen.append(kwargs.get("out_dtype"))
        return plain(*args, **kwargs)

    torch.mm = watched
    try:
        _routed(loaded)
    finally:
        torch.mm = plain
    require(torch.float32 in seen, "the router did not call torch.mm with float32 output here")
    for edit in _EDITS:
        _require_reference(loaded, edit)
    return f"{seen.count(torch.float32)} such products in a forward"


def _try_experts(family: str, device: torch.device) -> str:
    """However experts are multiplied, the steered choice of a whole model is the same but for rounding."""
    found = {}
    for way in ("eager", "grouped_mm", "batched_mm"):
        loaded = on(device, tiny(family, dtype=torch.bfloat16))
        loaded.model.set_experts_implementation(way)
        with steer(loaded, everywhere(loaded, _EDITS[0])):
            found[way] = loaded.capture(TEXTS, ITEM_IDS).selections
    moved = max(moved_share(found[way], found["eager"]) for way in found)
    require(moved <= 2 * MOVED["bfloat16"], f"{moved:.2%} of selections moved")
    return f"{moved:.2%} of selections moved"


def _try_gradient(family: str, device: torch.device) -> str:
    """The gradient of offsets, layers computed again or not, is that of the processor."""
    gradients = []
    for where, again in ((torch.device("cpu"), False), (device, False), (device, True)):
        loaded = on(where, tiny(family))
        values = {s.layer: torch.zeros(s.n_experts, device=where, requires_grad=True) for s in loaded.routers}
        ids = loaded.tokenizer(TEXTS[1])["input_ids"]
        with offsets_applied(loaded, Offsets(values), checkpointing=again):
            answer_loss(loaded, [Measured(0, ids, 3, len(ids) - 1)]).backward()
        gradients.append(torch.stack([value.grad.cpu() for value in values.values()]))
    size, far = (float(each.abs().max()) for each in (gradients[0], torch.stack(gradients[1:]) - gradients[0]))
    require(size > 0 and far <= 1e-2 * size, f"gradients of size {size:.2g} differ by {far:.2g}")
    return f"of size {size:.2g}, differs by {far:.1g}"


def _try_mxfp4(device: torch.device) -> str:
    """A packed checkpoint of gpt_oss, made floating point on load, is captured as the weights that it means."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        packed, dense = Path(folder, "packed"), Path(folder, "dense")
        for each in (packed, dense):
            each.mkdir()
        write_mxfp4(packed, dense)
        found = [
            load_model(str(each), dtype="bfloat16", device=str(device), dequantize=each is packed).capture(
                TEXTS, ITEM_IDS
            )
            for each in (packed, dense)
        ]
    moved = moved_share(found[0].selections, found[1].selections)
    require(moved <= MOVED["bfloat16"], f"{moved:.2%} of selections moved")
    return f"{moved:.2%} of selections moved"


def _try_graph(device: torch.device) -> str:
    """A router that is captured as a graph in its first run under a plan is edited in every replay."""
    loaded = on(device, tiny("olmoe", dtype=torch.bfloat16))
    router = loaded.router_modules[-1].module
    hidden = torch.randn(16, loaded.hidden_size, device=device, dtype=torch.bfloat16)
    with torch.inference_mode():
        router(hidden)  # what a library sets up once is no part of a graph
    with torch.inference_mode(), steer(loaded, everywhere(loaded, _EDITS[0])):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = router(hidden)
        for _ in range(2):
            hidden.copy_(torch.randn_like(hidden))
            graph.replay()
            for replayed, again in zip(captured, router(hidden), strict=True):
                require(torch.equal(replayed, again), "a replayed router differs from one that runs")
        steered = captured[2].clone()
    with torch.inference_mode():
        require(not torch.equal(steered, router(hidden)[2]), "the plan changed nothing")
    return "two replays"


def _try_compiled(device: torch.device, **how: Any) -> str:  # noqa: ANN401 - transformers' own
    """With a static cache transformers compiles the forward of every token by itself; the plan acts in it.

    The first token is read from the prompt, which is not compiled; a plan for the generation acts from the second on.
    """
    loaded = on(device, tiny("olmoe", dtype=torch.bfloat16))
    ids = loaded.tokenizer(TEXTS[0], return_tensors="pt").to(device)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    write = partial(loaded.model.generate, **ids, **options)
    static, far = {}, 0.0
    for name, plan in (("plain", None), ("both", forced(loaded)), ("late", forced(loaded, phase="generation"))):
        with steer(loaded, plan) if plan is not None else contextlib.nullcontext():
            eager, static[name] = write().logits, write(cache_implementation="static", **how).logits
        for one, other in zip(eager, static[name], strict=True):
            far = max(far, _relative(one, other))
            if one.argmax() != other.argmax():  # by rounding; what follows has another text before it
                break
        require(far <= _COMPILED, f"{name}: compiled logits differ by {far:.2g} of the largest")
    require(_relative(static["late"][0], static["plain"][0]) <= _COMPILED, "the prompt was steered too")
    effects = [_relative(static[name][place], static["plain"][place]) for name, place in (("both", 0), ("late", 1))]
    require(min(effects) > 2 * _COMPILED, f"the plans changed logits by {effects} of the largest alone")
    return f"compiled logits within {far:.1g} of the largest; the plans change them by {min(effects):.1g}"


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())


_ON_CUDA = (_try_mixed_product, _try_graph, _try_compiled)
