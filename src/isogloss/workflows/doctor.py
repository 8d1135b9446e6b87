"""Examines a checkpoint before anything long is run: one check after the other, each with numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isogloss.backends.open import BACKENDS, checks_of, import_backend, load
from isogloss.corpora import Corpus
from isogloss.errors import IsoglossError
from isogloss.progress import busy
from isogloss.steering import Steering

__all__ = ["Check", "Diagnosis", "examine"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: ``loads``, ``routers``, ``capture``, ``padding``, ``generation``, ``steering`` or ``plan``,
            ``estimate``.
        ok: whether it held.
        detail: what was found, with numbers; or why it failed, or was not run.
        ran: whether it was tried at all.
    """

    name: str
    ok: bool
    detail: str
    ran: bool = True


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order in which they were run."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the checks as JSON types."""
        checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in self.checks]
        return {"ok": self.ok, "checks": checks}


_NEEDS = {
    "routers": "loads",
    "capture": "routers",
    "padding": "capture",
    "generation": "capture",
    "steering": "generation",
    "plan": "generation",
    "estimate": "capture",
}
"""Check -> the one that it builds on."""


def examine(
    name: str,
    loading: Mapping[str, Any],
    *,
    plan: Steering | None = None,
    language: str | None = None,
    corpus: Corpus | None = None,
) -> Diagnosis:
    """Load a model and run every check of its backend; one that fails stops those that build on it, and never raises.

    Args:
        name: of the model, as `isogloss.backends.open.load` takes it.
        loading: arguments of `load`.
        plan: to try; None tries one of our own.
        language: of the requests that a plan with conditions on languages is tried for; None for the first that it
            names.
        corpus: to estimate the capture of; None estimates a million tokens.

    Returns:
        The checks ``loads``, ``routers``, ``capture``, ``padding``, ``generation``, ``steering`` (or ``plan``, where
        one is given) and ``estimate``; of a model that vLLM serves the same without ``padding`` and ``estimate``.
    """
    backend = loading.get("backend", BACKENDS[0])
    steps: dict[str, Callable[[], str]] = {}

    def load_it() -> str:
        import_backend(backend)
        start = time.perf_counter()
        model = load(name, **loading)
        seconds = time.perf_counter() - start
        steps.update(model.checks(plan, language=language, corpus=corpus))
        return f"in {seconds:.1f} s: {model.summary}"

    checks = {"loads": _try("loads", load_it)}
    for each in checks_of(backend, with_plan=plan is not None):
        needed = _NEEDS[each]
        if not checks[needed].ok:
            checks[each] = Check(each, ok=False, detail=f"not run: it builds on {needed}, which failed", ran=False)
        else:
            checks[each] = _try(each, steps[each])
    return Diagnosis(tuple(checks.values()))


def _try(name: str, step: Callable[[], str]) -> Check:
    with busy(name):
        try:
            return Check(name, ok=True, detail=step())
        except IsoglossError as error:
            return Check(name, ok=False, detail=str(error))
        except Exception as error:  # noqa: BLE001 - the model's own code may raise anything; that is a finding too
            first = next(iter(str(error).splitlines()), "no message")
            return Check(name, ok=False, detail=f"the model's code raised {type(error).__name__}: {first}")
