"""What the environment asks of a serving process, read and checked once at start.

* ``ISOGLOSS_PLAN``   path of the plan to serve with.
* ``ISOGLOSS_KINDS``  kinds that plans may use which replace it at run time: names separated by commas, or ``all``.
  Default: those of the plan.
* ``ISOGLOSS_SLOTS``  most combinations of language and phase of such plans. Default: as many as the plan has.
* ``ISOGLOSS_RECORD`` 1 keeps the router logits and expert ids of every step, for capture.

What an engine may do is fixed at start, since graphs are compiled and captured once; what it does can change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from isogloss.errors import PlanError
from isogloss.steering import KINDS, Kind, Plan, read_served_plan

__all__ = ["ServingSettings", "n_slots_of", "pass_on", "read_serving_settings"]

_PLAN, _KINDS, _SLOTS, _RECORD = "ISOGLOSS_PLAN", "ISOGLOSS_KINDS", "ISOGLOSS_SLOTS", "ISOGLOSS_RECORD"
_RAY = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"
_MOST_SLOTS = 1024


@dataclass(frozen=True)
class ServingSettings:
    """What this process serves, and what it can be asked for later.

    Attributes:
        plan: to start with; None for none.
        kinds: that the engine can apply, in the order of `isogloss.steering.KINDS`.
        n_slots: combinations of language and phase that it can distinguish; 1 where every token is edited alike.
        record: whether router logits and expert ids are kept step by step.
    """

    plan: Plan | None
    kinds: tuple[Kind, ...]
    n_slots: int
    record: bool

    def require(self, plan: Plan) -> None:
        """Refuse a plan that this engine was not started for.

        Raises:
            PlanError: it has other kinds, or more combinations of language and phase.
        """
        if missing := sorted({each.kind for each in plan.interventions} - set(self.kinds)):
            raise PlanError(
                f"the plan has interventions of kind {', '.join(missing)}; this engine was started for "
                f"{', '.join(self.kinds) or 'none'}: start it with {_KINDS}=all"
            )
        if (needed := n_slots_of(plan)) > self.n_slots:
            raise PlanError(
                f"the plan distinguishes {needed} combinations of language and phase; this engine was started for "
                f"{self.n_slots}: start it with {_SLOTS}={needed}"
            )

    @property
    def summary(self) -> str:
        """What a compiled graph depends on."""
        return f"{','.join(self.kinds)};{self.n_slots};{self.record}"


def n_slots_of(plan: Plan) -> int:
    """Return how many combinations of language and phase a plan distinguishes, all languages without rules as one."""
    return (1 + len(plan.languages)) * (2 if plan.by_phase else 1)


def read_serving_settings(environ: Mapping[str, str] = os.environ) -> ServingSettings | None:
    """Read what the environment asks for; None where it names none of the variables, so that the engine stays as it is.

    Raises:
        PlanError: a variable has no meaning, or the plan cannot be read.
    """
    if not any(name in environ for name in (_PLAN, _KINDS, _SLOTS, _RECORD)):
        return None
    plan = _read_plan(environ)
    kinds = _read_kinds(environ.get(_KINDS), plan)
    slots = _read_slots(environ.get(_SLOTS), plan)
    record = environ.get(_RECORD, "0")
    if record not in ("0", "1"):
        raise PlanError(f"{_RECORD} is {record!r}; expected 0 or 1")
    return ServingSettings(plan, kinds, slots, record == "1")


def pass_on(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let workers on other machines or in other folders find the same settings."""
    if _PLAN in environ:
        environ[_PLAN] = str(Path(environ[_PLAN]).absolute())
    prefixes = {prefix for prefix in environ.get(_RAY, "").split(",") if prefix}
    environ[_RAY] = ",".join(sorted(prefixes | {"ISOGLOSS_"}))


def _read_plan(environ: Mapping[str, str]) -> Plan | None:
    if _PLAN not in environ:
        return None
    if not environ[_PLAN].strip():
        raise PlanError(f"{_PLAN} is set and empty; expected the path of a plan: unset it to serve without one")
    plan = read_served_plan(environ[_PLAN])
    if not plan.interventions:
        raise PlanError(f"{environ[_PLAN]}: the plan has no interventions; unset {_PLAN} to serve without a plan")
    return plan


def _read_kinds(text: str | None, plan: Plan | None) -> tuple[Kind, ...]:
    named = {each.kind for each in plan.interventions} if plan else set()
    if text == "all":
        return KINDS
    given = {name.strip() for name in (text or "").split(",") if name.strip()}
    if unknown := sorted(given - set(KINDS)):
        raise PlanError(f"{_KINDS} names {', '.join(unknown)}; expected some of {', '.join(KINDS)}, or all")
    return tuple(kind for kind in KINDS if kind in named | given)


def _read_slots(text: str | None, plan: Plan | None) -> int:
    needed = 1 if plan is None else n_slots_of(plan)
    if text is None:
        return needed
    if not text.isdecimal() or not needed <= int(text) <= _MOST_SLOTS:
        raise PlanError(f"{_SLOTS} is {text!r}; expected a number from {needed} to {_MOST_SLOTS}")
    return int(text)
