"""What a capture counts, and in which portions."""

from __future__ import annotations

from dataclasses import dataclass

from isogloss.errors import RunError
from isogloss.routing import Phase
from isogloss.runs import ROLES, TokenScope

__all__ = ["CaptureOptions"]


@dataclass(frozen=True)
class CaptureOptions:
    """What is counted, and in which portions.

    Attributes:
        token_scope: ``content`` counts the texts' own tokens; ``all`` also special tokens and what a chat template
            writes, as the papers do; ``user`` and ``assistant`` the messages of one side of a chat.
        batch_tokens: tokens per portion, padding included: those of one forward in transformers; the requests that vLLM
            gets together, and schedules itself.
        sampled_tokens: tokens per text whose pairs give the consistency.
        seed: of that sample.
        phase: ``prompt`` counts the tokens of the texts; ``generation`` takes every text as a prompt, lets the model
            go on greedily, and counts only what it wrote.
        new_tokens: most tokens that the model writes per text in the generation phase, at least 1; it stops earlier
            at its end-of-text token.
        hidden_states: whether the mean of what each router reads is kept; transformers only.
        chat: whether texts go through the tokenizer's chat template, with thinking off where it knows that: a text as
            one message of the user, a question and its answer as two turns. In the generation phase the model answers
            the user, and turns of the assistant are left out.
        first_tokens: count only so many tokens of each text, the first that ``token_scope`` counts; None for all. The
            rest is read, and counted nowhere. Routing depends on the position of a token, and a language whose texts
            take more tokens has more late ones; where every text has so many, positions are matched.
        token_counts: whether to count, too, how often each expert is chosen for each token id, for `isogloss inspect`.

    Raises:
        ValueError: on construction, where a number is below 1, or the seed below 0.
        RunError: one side of a chat is to be counted, and there is no chat, or the model writes.
    """

    token_scope: TokenScope = "content"
    batch_tokens: int = 8192
    sampled_tokens: int = 64
    seed: int = 0
    phase: Phase = "prompt"
    new_tokens: int = 64
    hidden_states: bool = False
    chat: bool = False
    first_tokens: int | None = None
    token_counts: bool = False

    def __post_init__(self) -> None:
        for name, least in {"batch_tokens": 1, "sampled_tokens": 1, "seed": 0, "new_tokens": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.first_tokens is not None and (self.first_tokens < 1 or self.written):
            raise RunError(
                f"first_tokens is {self.first_tokens} in the {self.phase} phase; expected at least 1, of texts that "
                "are read: in the generation phase new_tokens says how many are written"
            )
        if self.token_scope in ROLES and (not self.chat or self.written):
            raise RunError(
                f"tokens of the {self.token_scope} are counted in a chat that is read (--chat, --phase prompt); give "
                "that, or --tokens content or all"
            )

    @property
    def written(self) -> int:
        """Most tokens that are written after each text: 0 in the prompt phase."""
        return self.new_tokens if self.phase == "generation" else 0
