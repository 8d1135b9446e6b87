"""Examines a checkpoint before anything long is run: one check after the other, each with numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from isogloss.backends.huggingface import LoadedModel
from isogloss.backends.vllm.loading import ServedModel
from isogloss.corpora import Corpus
from isogloss.errors import IsoglossError
from isogloss.steering import Plan
from isogloss.workflows.capture import slots_for
from isogloss.workflows.diagnosis import describe_routers, try_capture, try_padding
from isogloss.workflows.estimate import estimate_capture, weight_bytes
from isogloss.workflows.progress import busy
from isogloss.workflows.served_checks import (
    describe_served,
    try_recording,
    try_served_plan,
    try_served_routers,
    try_served_trial,
)
from isogloss.workflows.serving import open_served
from isogloss.workflows.sources import open_model
from isogloss.workflows.trial import try_plan, try_trial

__all__ = ["Check", "Diagnosis", "ModelChoice", "examine"]


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is loaded.

    Attributes:
        name: hub id, folder, or ``organism``.
        dtype: as `isogloss.workflows.sources.open_model` takes it.
        device: as there.
        dequantize: as there.
        served: whether vLLM runs it.
        engine: arguments of vLLM's ``LLM``.
    """

    name: str
    dtype: str = "auto"
    device: str | None = None
    dequantize: bool = False
    served: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: ``loads``, ``routers``, ``capture``, ``padding``, ``steering`` or ``plan``, ``estimate``.
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


Step: TypeAlias = "tuple[Callable[[], str], str | None]"
"""A check, and the name of the one that it builds on."""


def examine(
    choice: ModelChoice, *, plan: Plan | None = None, language: str | None = None, corpus: Corpus | None = None
) -> Diagnosis:
    """Run every check; one that fails stops those that build on it, and never raises.

    Args:
        choice: the model.
        plan: to try; None tries one of our own.
        language: of the requests that a plan with conditions on languages is tried for; None for the first that it
            names.
        corpus: to estimate the capture of; None estimates a million tokens.

    Returns:
        The checks ``loads``, ``routers``, ``capture``, ``padding``, ``steering`` (or ``plan``, where one is given) and
        ``estimate``; of a model that vLLM serves the same without ``padding`` and ``estimate``.
    """
    steps = _served_steps(choice, plan, language) if choice.served else _steps(choice, plan, language, corpus)
    checks: dict[str, Check] = {}
    for name, (step, needed) in steps.items():
        if needed is not None and not checks[needed].ok:
            checks[name] = Check(name, ok=False, detail=f"not run: it builds on {needed}, which failed", ran=False)
        else:
            checks[name] = _try(name, step)
    return Diagnosis(tuple(checks.values()))


def _steps(choice: ModelChoice, plan: Plan | None, language: str | None, corpus: Corpus | None) -> dict[str, Step]:
    loaded: list[LoadedModel] = []

    def load() -> str:
        start = time.perf_counter()
        how: dict[str, Any] = {"dtype": choice.dtype, "device": choice.device, "dequantize": choice.dequantize}
        loaded.append(open_model(choice.name, **how))
        return _describe(loaded[0], time.perf_counter() - start)

    def steering() -> str:
        return try_trial(loaded[0]) if plan is None else try_plan(loaded[0], plan, language=language)

    return {
        "loads": (load, None),
        "routers": (lambda: describe_routers(loaded[0]), "loads"),
        "capture": (lambda: try_capture(loaded[0]), "routers"),
        "padding": (lambda: try_padding(loaded[0]), "capture"),
        "steering" if plan is None else "plan": (steering, "capture"),
        "estimate": (lambda: estimate_capture(loaded[0], corpus), "capture"),
    }


def _served_steps(choice: ModelChoice, plan: Plan | None, language: str | None) -> dict[str, Step]:
    served: list[ServedModel] = []

    def load() -> str:
        start = time.perf_counter()
        how: dict[str, Any] = {"dtype": choice.dtype, "n_slots": slots_for(plan), "options": choice.engine}
        served.append(open_served(choice.name, record=True, **how))
        return describe_served(served[0], time.perf_counter() - start)

    def steering() -> str:
        if plan is None:
            return try_served_trial(served[0])
        return try_served_plan(served[0], plan, language=language)

    return {
        "loads": (load, None),
        "routers": (lambda: try_served_routers(served[0]), "loads"),
        "capture": (lambda: try_recording(served[0]), "routers"),
        "steering" if plan is None else "plan": (steering, "capture"),
    }


def _try(name: str, step: Callable[[], str]) -> Check:
    with busy(name):
        try:
            return Check(name, ok=True, detail=step())
        except IsoglossError as error:
            return Check(name, ok=False, detail=str(error))
        except Exception as error:  # noqa: BLE001 - the model's own code may raise anything; that is a finding too
            first = next(iter(str(error).splitlines()), "no message")
            return Check(name, ok=False, detail=f"the model's code raised {type(error).__name__}: {first}")


def _describe(loaded: LoadedModel, seconds: float) -> str:
    n_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    return (
        f"in {seconds:.1f} s: {dtype} on {loaded.device}, {n_parameters:,} parameters, "
        f"{weight_bytes(loaded) / 2**30:.3g} GiB of weights"
    )
