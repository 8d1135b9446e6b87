"""What capture, steering and learning cost on a GPU beside the plain model, as ratios within one process."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from adapters import random_adapter
from kinds import everywhere

from gpu_model import Sizes, random_texts
from gpu_results import Row
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import HuggingFaceModel, answer_loss, reader_of
from isogloss.backends.huggingface.padded_batches import make_batch
from isogloss.backends.joint_texts import Measured
from isogloss.backends.token_batches import portions
from isogloss.errors import PlanError
from isogloss.learning.descent import Descent, Texts
from isogloss.learning.parameters import parameters_of
from isogloss.learning.records import LearnOptions
from isogloss.steering import KINDS, Intervention, Steering
from timing import Side, interleaved_times, ratio_of

__all__ = ["Bench", "capture_rows", "decode_rows", "learning_rows"]

CAPTURE_AIM, DECODE_AIM = 1.05, 1.03


@dataclass(frozen=True)
class Bench:
    """What a part measures with.

    Attributes:
        loaded: the model.
        sizes: how much.
        until: of `time.monotonic`: when the part is to end.
    """

    loaded: HuggingFaceModel
    sizes: Sizes
    until: float

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a GPU that torch drives through CUDA."""
        return self.loaded.device.type == "cuda"

    def wait(self) -> None:
        """Return when the device has finished."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def times(self, sides: dict[str, Side], *, share: float = 1.0) -> dict[str, list[float]]:
        """Return seconds by side, after a round that warms up.

        Args:
            sides: by name.
            share: of the time that the part has left.
        """
        until = time.monotonic() + share * (self.until - time.monotonic())
        rounds = list(interleaved_times(sides, 1, wait=self.wait))  # kept where there is no time for another
        rounds = list(interleaved_times(sides, self.sizes.rounds, wait=self.wait, until=until)) or rounds
        return {name: [times[name] for times in rounds] for name in sides}


def capture_rows(bench: Bench) -> Iterator[Row]:
    """Compare a capture, its tokenising included, with forwards over the same batches."""
    loaded, sizes = bench.loaded, bench.sizes
    texts = random_texts(sizes.batch_tokens * sizes.n_batches, longest=min(256, sizes.batch_tokens))
    names = [str(place) for place in range(len(texts))]
    options = CaptureOptions(batch_tokens=sizes.batch_tokens)
    batches = [
        make_batch(loaded, part, options).input_ids for part in portions(reader_of(loaded), texts, names, options)
    ]

    @torch.inference_mode()
    def prefill(*, head: bool) -> None:
        for ids in batches:
            if head:
                loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1)
            else:
                loaded.decoder(input_ids=ids, use_cache=False)

    times = bench.times(
        {
            "capture": Side(lambda: loaded.capture(texts, names, options=options)),
            "counted": Side(lambda: loaded.capture(texts, names, options=replace(options, token_counts=True))),
            "decoder": Side(partial(prefill, head=False)),
            "head": Side(partial(prefill, head=True)),
            "tokenising": Side(lambda: list(portions(reader_of(loaded), texts, names, options))),
        }
    )
    n_tokens = sum(ids.numel() for ids in batches)
    rate = f"{n_tokens / statistics.median(times['capture']):,.0f} tokens/s, {len(batches)} batches"
    yield Row("capture / prefill without head", ratio_of(times["capture"], times["decoder"]), CAPTURE_AIM, note=rate)
    yield Row("capture / prefill, head of the last token", ratio_of(times["capture"], times["head"]))
    yield Row("capture with counts by token / capture", ratio_of(times["counted"], times["capture"]))
    yield Row("reading and tokenising / capture", ratio_of(times["tokenising"], times["capture"]))
    yield _waits("one captured batch", bench, lambda: loaded.capture(texts[:1], names[:1], options=options))


def plans(loaded: HuggingFaceModel) -> Iterator[tuple[str, Steering]]:
    """Yield plans on every layer of the kinds that are usual, and an adapter."""
    n_experts = loaded.routers[0].n_experts
    offsets = tuple(0.3 * (-1) ** expert for expert in range(n_experts))
    yield (
        "offset of every expert",
        everywhere(loaded, Intervention("offset", 0, tuple(range(n_experts)), values=offsets)),
    )
    yield "soft, 4 experts", everywhere(loaded, Intervention("soft", 0, (1, 2, 3, 4), strength=0.5))
    yield "force, 2 experts", everywhere(loaded, Intervention("force", 0, (1, 2)))
    if "select" in KINDS:
        yield "select, 2 experts", everywhere(loaded, Intervention("select", 0, (1, 2), values=(0.1, -0.1)))
    late = Intervention("soft", 0, (1, 2, 3, 4), strength=0.5, phase="generation")
    yield "soft, generation alone", everywhere(loaded, late)
    yield "router adapter of rank 8", random_adapter(loaded, rank=8, size=0.02)


def decode_rows(bench: Bench) -> Iterator[Row]:
    """Compare answers under plans with answers without one; entering a plan is timed apart."""
    loaded, sizes = bench.loaded, bench.sizes
    ids = torch.randint(3, 400, (sizes.prompts, sizes.prompt_tokens), generator=torch.Generator().manual_seed(0))
    ids = ids.to(loaded.device)
    options = {"max_new_tokens": sizes.new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    write = partial(loaded.model.generate, ids, attention_mask=torch.ones_like(ids), **options)
    sides, entered = {"unsteered": Side(write)}, dict[str, Steering]()
    for name, plan in plans(loaded):
        try:
            with loaded.steer(plan), torch.no_grad():
                loaded.model(input_ids=ids[:1], use_cache=False)
        except PlanError as error:
            yield Row(name, note=f"not applied: {error}")
            continue
        sides[name], entered[name] = Side(write, partial(loaded.steer, plan)), plan
    times = bench.times(sides, share=0.9)
    plain = times.pop("unsteered")
    rate = sizes.prompts * sizes.new_tokens / statistics.median(plain)
    yield Row("unsteered", note=f"{rate:,.0f} tokens/s, {sizes.prompts} prompts at a time, prompts read included")
    for name, seconds in times.items():
        yield Row(f"{name} / unsteered", ratio_of(seconds, plain), DECODE_AIM)
    yield from _entering(bench, next(iter(entered.values())), ids)


def _entering(bench: Bench, plan: Steering, ids: torch.Tensor) -> Iterator[Row]:
    loaded = bench.loaded

    @torch.no_grad()
    def forward(steering: Steering | None) -> None:
        with ExitStack() as context:
            context.enter_context(loaded.steer(steering) if steering is not None else nullcontext())
            loaded.model(input_ids=ids[:1, :1], use_cache=False)

    times = bench.times({"entered": Side(partial(forward, plan)), "plain": Side(partial(forward, None))}, share=0.5)
    yield Row("entering a plan and a forward / a forward of one token", ratio_of(times["entered"], times["plain"]))
    yield _waits("an unsteered forward", bench, partial(forward, None))
    with loaded.steer(plan):
        yield _waits("a steered forward", bench, partial(forward, None))


def _waits(what: str, bench: Bench, function: Callable[[], object]) -> Row:
    """Count how often the host waits for the GPU."""
    function()
    if not bench.on_gpu:
        return Row(f"waits of the host in {what}", note="counted on a GPU alone")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    n_waits = sum("synchroniz" in str(each.message) for each in caught)
    return Row(f"waits of the host in {what}", note=str(n_waits))


def _measured(sizes: Sizes, seed: int) -> list[Measured]:
    shape = sizes.learn_texts, sizes.learn_tokens
    drawn = torch.randint(3, 400, shape, generator=torch.Generator().manual_seed(seed)).tolist()
    return [Measured(place, ids, len(ids) // 2, len(ids) - 1) for place, ids in enumerate(drawn)]


LEARNED = (
    ("offsets, layers computed again", {"checkpointing": True}),
    ("offsets with a leash, layers computed again", {"checkpointing": True, "leash": 1.0}),
    ("matrices of rank 8, with a leash, layers computed again", {"checkpointing": True, "parameters": "low-rank"}),
    ("whole routers, with a leash, layers computed again", {"checkpointing": True, "parameters": "router"}),
    ("offsets, everything kept", {"checkpointing": False}),
)


def learning_rows(bench: Bench) -> Iterator[Row]:
    """Compare a step of learning with the forward of its loss, each way by itself, so that each has its own peak."""
    loaded, sizes = bench.loaded, bench.sizes
    answers, generic = _measured(sizes, 0), _measured(sizes, 1)
    layers = [spec.layer for spec in loaded.routers]

    @torch.no_grad()
    def forward() -> None:
        answer_loss(loaded, answers)

    for place, (name, how) in enumerate(LEARNED):
        options = LearnOptions(batch_size=sizes.learn_texts, batch_tokens=sizes.learn_texts * sizes.learn_tokens, **how)
        try:
            parameters = parameters_of(loaded, options, layers, None)
            descent = Descent(parameters, Texts(answers, None, (), generic), options, layers=layers, number=0)
            if bench.on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            step = Side(partial(_next_step, descent, iter(range(1, 1000))))
            times = bench.times({"step": step, "forward": Side(forward)}, share=1 / (len(LEARNED) - place))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield Row(name, note="does not fit")
            continue
        n_tokens = sizes.learn_texts * sizes.learn_tokens
        rate = f"{n_tokens / statistics.median(times['step']):,.0f} tokens/s in steps of {n_tokens:,}"
        peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if bench.on_gpu else ""
        yield Row(f"{name} / forward of the loss", ratio_of(times["step"], times["forward"]), note=rate + peak)


def _next_step(descent: Descent, numbers: Iterator[int]) -> None:
    descent.step(next(numbers))
