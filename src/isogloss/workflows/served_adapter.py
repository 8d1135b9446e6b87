"""Examines an adapter on a running server: whether it acts, and on its own requests alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from isogloss.backends.checks import PROBE_TEXTS
from isogloss.backends.served import NextTokens, Server, apart, open_server
from isogloss.errors import IsoglossError, ModelError
from isogloss.workflows.doctor import Check, Diagnosis

__all__ = ["examine_server"]

_AT_ONCE, _ROUNDS = 8, 4
_LEAST_EFFECT = 1e-3
"""Of a log-probability: less is what engines differ by from one batch to the next."""
_SHARE = 0.2
"""Of the effect: two answers that should be one may be so far apart, since batches of unlike sizes round unlike."""


def examine_server(address: str, adapter: str | None = None) -> Diagnosis:
    """Ask a server the same prompts with the adapter, without, in turn and at once; nothing raises.

    Args:
        address: such as ``http://localhost:8000``.
        adapter: as the server names it; None for the only one.

    Returns:
        The checks ``server`` (it answers and has the adapter), ``acts`` (answers differ with it), ``default`` (requests
        that name no adapter get none), ``cache`` (answers to repeated prompts are those that nothing cached has part
        in) and ``mixed`` (so are answers to requests of both kinds at once). The references are asked one by one, with
        caches off.
    """
    try:
        server = open_server(address, adapter)
    except IsoglossError as error:
        return Diagnosis((Check("server", ok=False, detail=str(error)),))
    checks = [Check("server", ok=True, detail=server.summary)]
    steps = _Steps(server)
    for name in ("acts", "default", "cache", "mixed"):
        if name != "acts" and not checks[1].ok:
            detail = "not run: it builds on acts, which failed"
            checks.append(Check(name, ok=False, detail=detail, ran=False))
            continue
        try:
            ok, detail = getattr(steps, name)()
        except IsoglossError as error:
            ok, detail = False, str(error)
        else:
            detail = detail if ok else f"{detail}: {server.remedies[name]}"
        checks.append(Check(name, ok=ok, detail=detail))
    return Diagnosis(tuple(checks))


class _Steps:
    """The checks, which share the answers of reference."""

    def __init__(self, server: Server) -> None:
        self._server, self._texts = server, list(PROBE_TEXTS)
        self._references: dict[bool, list[NextTokens]] = {}
        self._effect = 0.0

    def acts(self) -> tuple[bool, str]:
        """With and without must be apart by more than the same question asked twice."""
        answers = {kind: self._ask([(text, kind, False) for text in self._texts]) for kind in (False, True)}
        answered = [place for place in range(len(self._texts)) if answers[False][place] and answers[True][place]]
        if not answered:
            raise ModelError("the server tells no log-probabilities of next tokens; expected some, as both engines do")
        self._texts = [self._texts[place] for place in answered]
        self._references = {kind: [answers[kind][place] for place in answered] for kind in answers}
        again = self._ask([(text, True, False) for text in self._texts])
        noise = _largest(again, self._references[True])
        self._effect = _largest(self._references[False], self._references[True])
        detail = f"answers differ by up to {_size(self._effect)} with it, by {_size(noise)} when asked again"
        return self._effect > max(_LEAST_EFFECT, 10 * noise), detail

    def default(self) -> tuple[bool, str]:
        """A request that names no adapter must be answered as one without it."""
        answers = self._ask([(text, None, False) for text in self._texts])
        return self._judge("requests that name no adapter", answers, [(place, False) for place in range(len(answers))])

    def cache(self) -> tuple[bool, str]:
        """All prompts several times with and without the adapter, one by one, caches as the server has them.

        The order is mixed: an engine puts away what it computed for one prompt, and finds it again later.
        """
        asked = [(place, kind) for place in range(len(self._texts)) for kind in (False, True)] * _ROUNDS
        random.Random(0).shuffle(asked)
        answers = self._ask([(self._texts[place], kind, True) for place, kind in asked])
        return self._judge("prompts repeated with and without it", answers, asked)

    def mixed(self) -> tuple[bool, str]:
        """All prompts, with and without, at the same time."""
        asked = [(place, kind) for place in range(len(self._texts)) for kind in (False, True)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(self._ask_one, [(self._texts[place], kind, False) for place, kind in asked]))
        return self._judge("requests with and without it at once", answers, asked)

    def _judge(self, what: str, answers: Sequence[NextTokens], asked: Sequence[tuple[int, bool]]) -> tuple[bool, str]:
        """Compare answers with the references of the same texts and kinds."""
        off = {False: 0.0, True: 0.0}
        for answer, (place, kind) in zip(answers, asked, strict=True):
            off[kind] = max(off[kind], apart(answer, self._references[kind][place]))
        kinds = sorted({kind for _, kind in asked})
        parts = [f"{_size(off[kind])} {'with' if kind else 'without'} it" for kind in kinds]
        detail = f"{what} are off by up to {' and '.join(parts)}, where the adapter changes {_size(self._effect)}"
        return max(off.values()) <= _SHARE * min(self._effect, 1.0), detail

    def _ask(self, questions: Sequence[tuple[str, bool | None, bool]]) -> list[NextTokens]:
        return [self._ask_one(question) for question in questions]

    def _ask_one(self, question: tuple[str, bool | None, bool]) -> NextTokens:
        text, adapter, cached = question
        return self._server.ask(text, adapter=adapter, cached=cached)


def _size(difference: float) -> str:
    """Write a difference of log-probabilities."""
    return f"{difference:.2g}" if math.isfinite(difference) else "another likeliest token"


def _largest(ours: Sequence[NextTokens], theirs: Sequence[NextTokens]) -> float:
    return max(apart(one, other) for one, other in zip(ours, theirs, strict=True))
