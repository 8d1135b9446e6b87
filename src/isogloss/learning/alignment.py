"""A loss for training that draws the routing of parallel texts together, for any loop that calls a model.

The language-modelling loss and the load-balancing loss stay what they are; the divergence of every text's routing
profile from that of its parallel text in the pivot is added, with a weight that is a ratio to the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from transformers import TrainerCallback

from isogloss.analysis.layers import layer_positions, thirds
from isogloss.backends.huggingface import Divergence, RoutedForward, RouterRecorder, divergences, profiles_of
from isogloss.errors import ModelError, RunError
from isogloss.learning.paired_batches import COUNTED, PAIR, PIVOT_PROFILES, label_tokens, rows_of_pairs
from isogloss.learning.router_files import write_routers
from isogloss.records import Record

__all__ = ["AlignmentLog", "RoutingAlignment"]


@dataclass(frozen=True)
class AlignmentLog(Record):
    """Means over the batches since the last log, of this process.

    Attributes:
        lm_loss: nats per token.
        divergence: of the pairs, mean over the aligned layers; in the unit of the divergence; 0 without pairs.
        by_layer: decoder layer to its part of that mean.
        load_balance: the model's own load-balancing loss, before its coefficient; None where it has none.
        coefficient: factor of the divergence in the loss; None before it is fixed.
        pairs: how many were aligned.
        batches: that were seen.
    """

    lm_loss: float
    divergence: float
    by_layer: Mapping[int, float]
    load_balance: float | None
    coefficient: float | None
    pairs: int
    batches: int

    def flat(self) -> dict[str, float]:
        """Return what is known as ``alignment/NAME`` to a number, for a trainer's log."""
        names = ("lm_loss", "divergence", "load_balance", "coefficient", "pairs")
        values = {f"alignment/{name}": getattr(self, name) for name in names}
        return {name: float(value) for name, value in values.items() if value is not None}


class RoutingAlignment:
    """Language-modelling loss plus weighted divergence of parallel texts' routing, as one callable.

    Made before the model is handed to a trainer or to PEFT: its hooks stay on the model until `close`. The batches come
    from `isogloss.learning.PairCollator`. Where several texts share a step, by accumulation or over processes, the loss
    of the whole is the same however they are divided, as long as ``num_items_in_batch`` is given, ``pair_weight`` is
    ``tokens`` and ``coefficient`` is set.

    Args:
        model: of transformers, of a supported family.
        layers: that are aligned: ``early``, ``middle`` or ``late`` third, ``all``, or (first, last), inclusive, such
            as the middle layers of an analysis.
        divergence: ``hjs``, ``js`` or ``kl`` of the pivot from the other, see
            `isogloss.backends.huggingface.losses.divergences`.
        weight: of the alignment, as a ratio to the language-modelling loss on the first batch with pairs.
        pivot: ``detach``: only the other text's routing is drawn; ``both``; or ``stored``: profiles that the collator
            brings, of the pivot under an earlier model.
        balance: coefficient of the load-balancing loss; None for the model's own ``router_aux_loss_coef``. Models
            whose class has no such loss get none.
        coefficient: factor of the divergence in the loss; None to fix it by ``weight`` on the first batch with pairs,
            over all processes. Give the logged one to go on with stopped training.
        pair_weight: ``tokens``: a pair counts as its texts' tokens do in the language-modelling loss; ``equal``: all
            pairs of a batch count alike.

    Raises:
        ModelError: the model's routers cannot be reached, or another alignment listens to it.
        RunError: no routed layer in the range, or a number out of its range.

    Source:
        arXiv 2606.25821 (``js``, stored pivot) and 2610.01921 (``kl``); ``hjs`` as measured in arXiv 2510.04694. The
        weight as a ratio is ours, since the papers' weights are not comparable.
    """

    def __init__(  # noqa: PLR0913 - a choice each
        self,
        model: Any,  # noqa: ANN401 - transformers' own or a wrapper of it
        *,
        layers: Literal["early", "middle", "late", "all"] | tuple[int, int] = "middle",
        divergence: Divergence = "hjs",
        weight: float = 0.3,
        pivot: Literal["detach", "both", "stored"] = "detach",
        balance: float | None = None,
        coefficient: float | None = None,
        pair_weight: Literal["tokens", "equal"] = "tokens",
    ) -> None:
        _require_choice("divergence", divergence, ("hjs", "js", "kl"))
        _require_choice("pivot", pivot, ("detach", "both", "stored"))
        _require_choice("pair_weight", pair_weight, ("tokens", "equal"))
        for name, number in (("weight", weight), ("balance", balance), ("coefficient", coefficient)):
            if number is not None and not 0 <= number < float("inf"):
                raise RunError(f"{name} is {number}; expected a number of at least 0")
        self._recorder = RouterRecorder(model, (PAIR, COUNTED, PIVOT_PROFILES))
        try:
            self._places = _places([router.spec.layer for router in self._recorder.routers], layers)
        except RunError:
            self.close()
            raise
        self.divergence, self.weight, self.pivot, self.balance = divergence, weight, pivot, balance
        self.coefficient, self.pair_weight = coefficient, pair_weight
        self._sums = {True: _Sums(), False: _Sums()}  # with gradient, without

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers that are aligned."""
        return tuple(self._recorder.routers[place].spec.layer for place in self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks; the model is as before."""
        self._recorder.close()

    def __call__(
        self,
        outputs: Any,  # noqa: ANN401 - of a model of transformers
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """Return the loss of the forward that has just run, as ``compute_loss_func`` of a `transformers.Trainer`.

        Args:
            outputs: of the model; only ``logits`` are read.
            labels: ``[n, length]``, -100 where nothing is to be predicted; not shifted.
            num_items_in_batch: predicted tokens of the whole step; None for those of this batch.

        Raises:
            ModelError: a router was bypassed, or the alignment's gradient would be lost.
            RunError: the batch has no pairs' marks, a pair is torn apart, or there are no labels.
        """
        if labels is None:
            raise RunError("the batch has no labels; expected those of isogloss.learning.PairCollator")
        forward = self._recorder.take()
        if (forward is None or PAIR not in forward.given) and torch.is_grad_enabled():
            raise RunError(
                "the last forward got no pairs, so nothing would be aligned; expected batches of "
                "isogloss.learning.PairCollator (data_collator=…, with remove_unused_columns=False)"
            )
        if forward is not None and len(forward.given.get(PAIR, labels)) != len(labels):
            raise RunError(
                f"the last forward had {len(forward.given[PAIR])} rows, and these labels have {len(labels)}; expected "
                "the loss of every forward before the next one"
            )
        predicted = label_tokens(labels).sum()
        n_items = predicted if num_items_in_batch is None else num_items_in_batch
        lm_loss: torch.Tensor = self._recorder.model.loss_function(
            logits=outputs.logits, labels=labels, vocab_size=outputs.logits.shape[-1], num_items_in_batch=n_items
        )
        sums = self._sums[torch.is_grad_enabled()]
        sums.lm += lm_loss.detach() * n_items
        sums.tokens += predicted
        sums.batches += 1
        if forward is None:
            return lm_loss
        with torch.autocast(outputs.logits.device.type, enabled=False):
            loss: torch.Tensor = lm_loss + self._balanced(forward) * (predicted / n_items)
            if PAIR in forward.given:
                loss = loss + self._aligned(forward, labels, lm_loss, n_items).to(loss)
        return loss

    def log(self, *, evaluation: bool = False) -> AlignmentLog:
        """Return the means since the last call, and start anew.

        Args:
            evaluation: of the batches that ran without gradients, instead of those that ran with them.
        """
        sums, self._sums[not evaluation] = self._sums[not evaluation], _Sums()
        pairs = int(sums.pairs)
        by_layer = dict.fromkeys(self.layers, 0.0)
        if pairs:
            by_layer = dict(zip(self.layers, (sums.divergence / pairs).tolist(), strict=True))
        return AlignmentLog(
            lm_loss=float(sums.lm / max(1, int(sums.tokens))),
            divergence=sum(by_layer.values()) / len(by_layer),
            by_layer=by_layer,
            load_balance=float(sums.balance) / sums.batches if sums.balanced else None,
            coefficient=self.coefficient,
            pairs=pairs,
            batches=sums.batches,
        )

    def log_to(self, trainer: Any) -> None:  # noqa: ANN401 - of transformers or TRL
        """Write `AlignmentLog.flat` into everything that a `transformers.Trainer`, or one derived from it, logs."""
        trainer.callback_handler.callbacks.insert(0, _TrainerLog(self))  # before those that report what is logged

    def save_routers(self, path: Path | str) -> None:
        """Write the trained routers, and nothing else, for `isogloss.learning.load_routers`.

        Raises:
            ModelError: other weights are trained too, so that routers alone are not the trained model.
            FileError: the file cannot be written.
        """
        write_routers(Path(path), self._recorder.model, self._recorder.routers, self._recorder.fingerprint)

    def _aligned(
        self, forward: RoutedForward, labels: torch.Tensor, lm_loss: torch.Tensor, n_items: torch.Tensor | float
    ) -> torch.Tensor:
        """Return the weighted divergence of a batch's pairs, this batch's part of the step's."""
        texts, pivots = rows_of_pairs(forward.given[PAIR], with_pivot=self.pivot != "stored")
        if not len(texts):
            self._fix_coefficient(lm_loss, n_items, lm_loss.new_zeros(()))
            return lm_loss.new_zeros(())
        between = self._between(forward, texts, pivots)
        self._require_gradient(forward, between, lm_loss)
        sums = self._sums[torch.is_grad_enabled()]
        sums.divergence = sums.divergence + between.detach().sum(0)
        sums.pairs += len(texts)
        predicted = label_tokens(labels)
        if self.pair_weight == "equal":
            part = between.mean() * (predicted.sum() / n_items)
        else:
            tokens = predicted[texts] + (predicted[pivots] if len(pivots) else 0)
            if not bool(tokens.all()):
                raise RunError(
                    "a pair has no token that the language-modelling loss counts, so it would weigh nothing; give its "
                    "texts labels, or pair_weight='equal'"
                )
            part = (between.mean(1) * tokens).sum() / n_items
        self._fix_coefficient(lm_loss, n_items, part)
        return part * (self.coefficient or 0.0)

    def _between(self, forward: RoutedForward, texts: torch.Tensor, pivots: torch.Tensor) -> torch.Tensor:
        """Return the divergence of every pair in every aligned layer, ``[n_pairs, n_layers]``."""
        rows, counted = torch.cat([texts, pivots]), forward.given[COUNTED]
        logits = [
            forward.logits[place].view(*counted.shape, -1)[rows.to(forward.logits[place].device)].flatten(0, 1)
            for place in self._places
        ]
        device = logits[0].device
        own = profiles_of([each.to(device) for each in logits], counted[rows].to(device))
        if self.pivot != "stored":
            own, pivot = own.split([len(texts), len(pivots)])
            return divergences(own, pivot if self.pivot == "both" else pivot.detach(), self.divergence)
        if PIVOT_PROFILES not in forward.given:
            raise RunError("the pairs bring no stored profiles; give the collator the pivot's Run: stored=…")
        stored = forward.given[PIVOT_PROFILES][texts]
        expected = [len(forward.calls), own.shape[-1]]
        if list(stored.shape[1:]) != expected:
            raise RunError(
                f"stored profiles have shape {list(stored.shape[1:])}; expected {expected}, layers by experts"
            )
        return divergences(own, stored[:, self._places].to(own), self.divergence)

    def _require_gradient(self, forward: RoutedForward, between: torch.Tensor, lm_loss: torch.Tensor) -> None:
        """Refuse to go on where the alignment's gradient would be lost unseen."""
        if not torch.is_grad_enabled() or not lm_loss.requires_grad:
            return
        trained = [
            place
            for place in self._places
            if any(parameter.requires_grad for parameter in self._recorder.routers[place].module.parameters())
        ]
        if not between.requires_grad or not all(forward.logits[place].requires_grad for place in trained):
            raise ModelError(
                "no gradient of the alignment reaches what is trained; expected weights in or before the aligned "
                "layers, and no reentrant checkpointing: activation_checkpointing_kwargs={'use_reentrant': False}"
            )

    def _fix_coefficient(self, lm_loss: torch.Tensor, n_items: torch.Tensor | float, part: torch.Tensor) -> None:
        """Fix the factor on the first training batch in which some process has pairs."""
        if self.coefficient is not None or not torch.is_grad_enabled():
            return
        sums = torch.stack([lm_loss.detach().double() * n_items, part.detach().double() * n_items])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        lm_sum, divergence_sum = sums.tolist()
        if divergence_sum > 0:
            self.coefficient = self.weight * lm_sum / divergence_sum

    def _balanced(self, forward: RoutedForward) -> torch.Tensor | float:
        """Return the model's own load-balancing loss times its coefficient; 0 where it has none."""
        model, first = self._recorder.model, self._recorder.routers[0].spec
        function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
        coefficient = self.balance
        if coefficient is None:
            coefficient = getattr(model.config.get_text_config(), "router_aux_loss_coef", None)
        if function is None or coefficient is None:
            return 0.0
        logits = tuple(forward.logits[place] for place in range(len(forward.calls)))
        balance: torch.Tensor = function(logits, first.n_experts, first.top_k, forward.attention_mask)
        sums = self._sums[torch.is_grad_enabled()]
        sums.balance += balance.detach()
        sums.balanced = True
        return coefficient * balance


class _Sums:
    """What a log is the mean of; tensors, so that no batch waits for its numbers."""

    def __init__(self) -> None:
        self.lm: torch.Tensor | float = 0.0
        self.tokens: torch.Tensor | int = 0
        self.divergence: Any = 0.0
        self.pairs = self.batches = 0
        self.balance: torch.Tensor | float = 0.0
        self.balanced = False


class _TrainerLog(TrainerCallback):
    """Adds an alignment's means to what a trainer logs of its training."""

    def __init__(self, alignment: RoutingAlignment) -> None:
        self.alignment = alignment

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - its own
        """Add the means before anything that reports them is called."""
        logs = kwargs["logs"]
        for name, prefix, evaluation in (("loss", "", False), ("eval_loss", "eval_", True)):
            if name in logs:
                means = self.alignment.log(evaluation=evaluation).flat()
                for values in (logs, state.log_history[-1]):
                    values |= {prefix + key: value for key, value in means.items()}


def _places(routed: list[int], layers: str | tuple[int, int]) -> list[int]:
    """Return the places, among the routed layers, of those that are aligned."""
    if isinstance(layers, str):
        parts = zip(("early", "middle", "late"), thirds(routed).values(), strict=False)
        named = {**dict(parts), "all": (routed[0], routed[-1])}
        _require_choice("layers", layers, tuple(named))
        layers = named[layers]
    return layer_positions(routed, layers)


def _require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise RunError(f"{name} is {value!r}; expected {', '.join(choices)}")
