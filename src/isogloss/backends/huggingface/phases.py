"""Tells which tokens of a running forward were given, and which the model wrote and reads again.

While a plan has conditions on phases, a forward is told by what it is, not by who called it. transformers prepares
every forward of every way to generate by one method of the model, and reads what was given by another: what is
prepared while the prompt is read was given, what is prepared later was written. A forward that nothing prepared reads
given tokens where it begins a text, and a written one where it adds one token to a cache; more than one could be
either, so they are refused. The caller may mark tokens instead.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from isogloss.backends.huggingface.methods import method_replaced
from isogloss.errors import ModelError
from isogloss.routing import Phase

__all__ = ["TokenPhases"]


class TokenPhases(threading.local):
    """The phases of the tokens of one model's forwards, in each thread by itself.

    Attributes:
        generated: of the running forward: False where all tokens were given, True where the model wrote all, else a
            mask ``[batch, length]``, True where it wrote the token.
    """

    def __init__(self) -> None:
        self.generated: bool | torch.Tensor = False
        self._marked: tuple[torch.Size, bool | torch.Tensor] | None = None
        self._prepared: Phase | None = None  # of the next forward
        self._reads_prompt = False
        self._n_given = 0  # read by the prompt's forwards of the generation that runs

    @contextmanager
    def marked(self, generated: torch.Tensor) -> Iterator[None]:
        """Take the phases of the forwards inside from a mask, as `mark_generated` says."""
        if generated.dtype != torch.bool or generated.ndim != 2:  # noqa: PLR2004 - batch by length
            raise ModelError(
                f"the mask of generated tokens is {generated.dtype} of shape {list(generated.shape)}; "
                "expected bool [batch, length], as the input ids"
            )
        every = bool(generated.all())  # one phase for all tokens leaves those without an edit bit-identical
        phases = every if every or not generated.any() else generated
        before, self._marked = self._marked, (generated.shape, phases)
        try:
            yield
        finally:
            self._marked = before

    @contextmanager
    def followed(self, model: torch.nn.Module) -> Iterator[None]:
        """Listen to how the model prepares forwards inside; afterwards it is as before."""
        with ExitStack() as context:
            context.enter_context(method_replaced(model, "_prefill", self._while_reading_prompt))
            context.enter_context(method_replaced(model, "prepare_inputs_for_generation", self._preparing))
            try:
                yield
            finally:
                self.generated, self._prepared = False, None

    def _while_reading_prompt(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def prefill(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - transformers' signature
            self._reads_prompt, self._n_given = True, 0
            try:
                return plain(*args, **kwargs)
            finally:
                self._reads_prompt = False

        return prefill

    def _preparing(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def prepare(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - transformers' signature
            if kwargs.get("is_first_iteration") and not self._reads_prompt:
                raise ModelError(
                    "assisted decoding and prompt lookup read the prompt together with proposed tokens; a plan with "
                    "conditions on phases cannot follow that: generate without an assistant"
                )
            self._prepared = "prompt" if self._reads_prompt else "generation"
            return plain(*args, **kwargs)

        return prepare

    def begin_forward(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Find the phases of a forward of the decoder stack that begins with these arguments."""
        given = (named.get("input_ids"), named.get("inputs_embeds"), *inputs)
        read = next(each for each in given if each is not None)
        batch, length = read.shape[:2]
        prepared, self._prepared = self._prepared, None
        if self._marked is not None:
            shape, self.generated = self._marked
            if shape != (batch, length):
                raise ModelError(
                    f"the mask of generated tokens has shape {list(shape)}, a forward reads [{batch}, {length}]; "
                    "expected the same: mark every batch by itself"
                )
        elif prepared == "prompt":
            self._n_given += length
            self.generated = False
        elif prepared == "generation":
            self.generated = length == 1 or self._written(read, named)
        else:
            self.generated = _adds_a_token(length, named)

    def _written(self, read: torch.Tensor, named: Mapping[str, Any]) -> torch.Tensor:
        """Return the mask of a forward that reads all tokens of a generation again, without a cache."""
        batch, length = read.shape[:2]
        if named.get("past_key_values") is not None or length <= self._n_given or not self._n_given:
            raise ModelError(
                f"generate reads {length} tokens after {self._n_given} given ones; expected 1 with a cache, or all "
                "again without: a plan with conditions on phases cannot follow this way of generating"
            )
        return (torch.arange(length, device=read.device) >= self._n_given).expand(batch, length)


def _adds_a_token(length: int, named: Mapping[str, Any]) -> bool:
    """Tell whether a forward that nothing prepared reads a written token: one more than its cache holds."""
    if named.get("cu_seq_lens_q") is not None:
        raise ModelError(
            "a forward reads several requests in one row (continuous batching or packed texts); a plan with conditions "
            "on phases cannot tell their tokens apart: generate in padded batches"
        )
    cache = named.get("past_key_values")
    n_cached = 0 if cache is None else int(cache.get_seq_length())
    if n_cached and length > 1:
        raise ModelError(
            f"a forward reads {length} tokens after {n_cached} in its cache; a plan with conditions on phases cannot "
            "tell whether the model wrote them: name them with `mark_generated`"
        )
    return n_cached > 0
