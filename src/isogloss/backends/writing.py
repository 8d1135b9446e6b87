"""Tries what a model writes by the function that evaluations ask, unsteered and under a plan, for `isogloss doctor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from isogloss.arrays import Float32Array
from isogloss.backends.agreement import MOVED, moved_share
from isogloss.backends.joint_texts import JointText, encode_start
from isogloss.backends.model import AnswerOptions, Model
from isogloss.backends.token_batches import Text
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Steering

__all__ = ["NEW_TOKENS", "Writing", "Written", "n_read"]

NEW_TOKENS = 4
"""Tokens that are written after a prompt."""

_N_ALONE = 3  # prompts that are also answered alone
# Rounding decides where the likeliest tokens nearly tie, as they do in 16 bits. Of answers, and of tokens:
_OTHER_ANSWERS = {"float32": 0.0, "bfloat16": 0.5, "float16": 0.5}
_OTHER_TOKENS = {"float32": 0.0, "bfloat16": 0.2, "float16": 0.2}


class Written(NamedTuple):
    """What a model wrote after one prompt.

    Attributes:
        ids: of the prompt and of what follows it.
        start: of what follows, in ``ids``.
        selections: how many tokens chose each expert while the model wrote, ``[n_layers, n_experts]``: of what follows
            all but the last token, which the model did not read.
    """

    ids: list[int]
    start: int
    selections: Float32Array


class Writing:
    """Lets a model answer prompts, together and alone.

    Args:
        model: to try.
        prompts: of unlike lengths.
        answer_ids: returns the token ids of the answers of `Model.answer`, those that end them included.
        write: goes on after each prompt with `NEW_TOKENS` tokens, none of which ends it.
        read: runs given tokens at once, and returns the ``selections`` of those that count.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[str],
        *,
        answer_ids: Callable[[Sequence[str], AnswerOptions], list[list[int]]],
        write: Callable[[Sequence[str]], list[Written]],
        read: Callable[[Sequence[Text]], Mapping[str, Any]],
    ) -> None:
        self.model, self.prompts = model, prompts
        self.answer_ids, self.write, self.read = answer_ids, write, read

    def try_unsteered(self) -> str:
        """Compare answers with those to single prompts, with likelihoods, and with the routing of a reading.

        Raises:
            ModelError: two of them differ by more than rounding.
        """
        alike = self._require_alone_alike()
        n_tokens, n_other = self._count_unlikely()
        if n_other > _OTHER_TOKENS[self.model.dtype] * n_tokens:
            raise ModelError(
                f"{n_other} of {n_tokens} tokens that the model wrote are not the likeliest ones when it reads the "
                "same text; expected the likeliest each time: answers of this model cannot be trusted"
            )
        written = self.write(self.prompts)
        moved = self._require_read_alike(written)
        return (
            f"{alike}; {n_tokens - n_other} of {n_tokens} tokens written are the likeliest ones when the text is read; "
            f"of {n_read(written)} tokens read while writing, reading them at once changes {moved:.2%} of the "
            "selections"
        )

    def try_steered(self, plan: Steering) -> tuple[str, list[Written]]:
        """Require that a plan edits tokens while they are written as it edits those of a reading, alone and together.

        Args:
            plan: without conditions on languages.

        Returns:
            A sentence on what the plan changes, and what was written under it.

        Raises:
            ModelError: answers alone and together differ by more than rounding.
            PlanError: the plan reaches what is read, and not what is written.
        """
        with self.model.steer(plan):
            alike = self._require_alone_alike()
            written = self.write(self.prompts)
            self._require_read_alike(written, steered=True)
        changed = moved_share(self._selections_read(written), _stack(written))
        what = f"of {n_read(written)} tokens read while writing it changes {changed:.1%} of the selections"
        return f"{alike}; {what}", written

    def _answer(self, prompts: Sequence[str]) -> list[str]:
        return self.model.answer(prompts, max_new_tokens=NEW_TOKENS)

    def _require_alone_alike(self) -> str:
        """Return a sentence that prompts have the same answers alone as together."""
        together = self._answer(self.prompts)[:_N_ALONE]
        alone = [text for prompt in self.prompts[:_N_ALONE] for text in self._answer([prompt])]
        n_other = sum(one != other for one, other in zip(together, alone, strict=True))
        if n_other > _OTHER_ANSWERS[self.model.dtype] * len(alone):
            raise ModelError(
                f"{n_other} of {len(alone)} prompts are answered otherwise alone than in a batch of "
                f"{len(self.prompts)}; expected the same answers: evaluations in batches cannot be trusted here"
            )
        return f"{len(alone) - n_other} of {len(alone)} prompts have the same answer alone and in a batch"

    def _count_unlikely(self) -> tuple[int, int]:
        """Count the tokens of all answers, and those of them that are not the likeliest ones."""
        texts: list[JointText] = []
        for prompt, new in zip(self.prompts, self.answer_ids(self.prompts, AnswerOptions(NEW_TOKENS)), strict=True):
            ids = [*encode_start(self.model.tokenizer, prompt, add_special_tokens=True), *new]
            stops = range(len(ids) - len(new), len(ids))
            texts += [JointText(len(texts) + n, ids[: stop + 1], stop) for n, stop in enumerate(stops)]
        return len(texts), sum(not each.greedy for each in self.model.joint_log_likelihoods(texts))

    def _selections_read(self, written: Sequence[Written]) -> Float32Array:
        """Count the choices of the same tokens when the text is read at once, ``[n_texts, n_layers, n_experts]``."""
        places = [np.arange(each.start, len(each.ids) - 1) for each in written]
        texts = [
            Text(item, each.ids, each.start, place, place)
            for item, (each, place) in enumerate(zip(written, places, strict=True))
        ]
        selections: Float32Array = self.read(texts)["selections"]
        return selections

    def _require_read_alike(self, written: Sequence[Written], *, steered: bool = False) -> float:
        """Return the share of selections that a reading of the same tokens changes, at most what rounding moves."""
        moved, allowed = moved_share(self._selections_read(written), _stack(written)), MOVED[self.model.dtype]
        if moved <= allowed:
            return moved
        change = f"{moved:.2%} of the selections made while writing change when the same text is read"
        if steered:
            raise PlanError(f"under the plan {change}; expected at most {allowed:.0%}: it does not reach both alike")
        raise ModelError(f"{change}; expected at most {allowed:.0%} (rounding): generation cannot be captured here")


def _stack(written: Sequence[Written]) -> Float32Array:
    return np.stack([each.selections for each in written])


def n_read(written: Sequence[Written]) -> int:
    """Count the tokens that a model read while it wrote."""
    return sum(len(each.ids) - each.start - 1 for each in written)
