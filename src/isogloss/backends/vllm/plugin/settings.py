"""What the environment asks of a serving process, read and checked once at start.

* ``ISOGLOSS_PLAN``   path of the plan of all requests that name none.
* ``ISOGLOSS_PLANS``  plans that requests choose by name: ``NAME=PATH`` separated by commas.
* ``ISOGLOSS_KINDS``  kinds that plans may use which replace them at run time: names separated by commas, or ``all``.
  Default: those of the plans. ``select`` needs its own name beside ``all`` where routers have no selection bias:
  experts are then chosen outside of vLLM's kernels, which takes a little longer, steered or not.
* ``ISOGLOSS_SLOTS``  most combinations of plan, language and phase of such plans. Default: as many as the plans have.
* ``ISOGLOSS_RECORD`` 1 keeps the router logits and expert ids of every step, for capture.
* ``ISOGLOSS_USAGE``  counts chosen experts, for this many combinations of plan and language apart.

What an engine may do is fixed at start, since graphs are compiled and captured once; what it does can change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from isogloss.backends.vllm.plugin.names import UNSTEERED, require_name
from isogloss.errors import PlanError
from isogloss.steering import KINDS, Kind, Plan, read_served_plan

__all__ = ["ServingSettings", "n_slots_of", "pass_on", "read_serving_settings"]

_PLAN, _PLANS, _KINDS, _SLOTS = "ISOGLOSS_PLAN", "ISOGLOSS_PLANS", "ISOGLOSS_KINDS", "ISOGLOSS_SLOTS"
_RECORD, _USAGE = "ISOGLOSS_RECORD", "ISOGLOSS_USAGE"
_RAY = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"
_MOST_SLOTS = 1024


@dataclass(frozen=True)
class ServingSettings:
    """What this process serves, and what it can be asked for later.

    Attributes:
        plans: to start with, by name; that of requests which name none has the name "".
        kinds: that the engine can apply, in the order of `isogloss.steering.KINDS`.
        n_slots: combinations of plan, language and phase that it can distinguish.
        apart: whether it knows which token is of which request; else all are edited alike, by the plan without a name.
        record: whether router logits and expert ids are kept step by step.
        usage: combinations of plan and language for which chosen experts are counted apart; 0 where they are not.
        selects_everywhere: whether ``select`` was asked for by its name, or is in a plan.
    """

    plans: Mapping[str, Plan]
    kinds: tuple[Kind, ...]
    n_slots: int
    apart: bool
    record: bool
    usage: int = 0
    selects_everywhere: bool = False

    def require(self, plans: Mapping[str, Plan]) -> None:
        """Refuse plans that this engine was not started for.

        Raises:
            PlanError: they have other kinds, or more combinations of plan, language and phase.
        """
        if missing := sorted(_kinds_of(plans) - set(self.kinds)):
            raise PlanError(
                f"the plan has interventions of kind {', '.join(missing)}; this engine was started for "
                f"{', '.join(self.kinds) or 'none'}: start it with {_KINDS}=all"
            )
        if (needed := n_slots_of(plans)) > self.n_slots:
            raise PlanError(
                f"the plans distinguish {needed} combinations of plan, language and phase; this engine was started for "
                f"{self.n_slots}: start it with {_SLOTS}={needed}"
            )
        if not self.apart and any(plans):
            raise PlanError(
                "this engine edits all requests alike, so that none can name a plan; start it with "
                f"{_PLANS}=NAME=PATH or {_SLOTS}=2"
            )

    @property
    def n_rows(self) -> int:
        """Rows of every array of a layer: where requests are told apart, one more that edits nothing."""
        return self.n_slots + self.apart

    @property
    def summary(self) -> str:
        """What a compiled graph depends on."""
        parts = self.n_slots, self.apart, self.record, self.usage, self.selects_everywhere
        return f"{','.join(self.kinds)};{';'.join(map(str, parts))}"


def n_slots_of(plans: Mapping[str, Plan]) -> int:
    """Return how many combinations plans distinguish, all languages that a plan has no rules for as one."""
    return sum((1 + len(plan.languages)) * (2 if plan.by_phase else 1) for plan in plans.values())


def _kinds_of(plans: Mapping[str, Plan]) -> set[Kind]:
    return {each.kind for plan in plans.values() for each in plan.interventions}


def read_serving_settings(environ: Mapping[str, str] = os.environ) -> ServingSettings | None:
    """Read what the environment asks for; None where it names none of the variables, so that the engine stays as it is.

    Raises:
        PlanError: a variable has no meaning, or a plan cannot be read.
    """
    if not any(name in environ for name in (_PLAN, _PLANS, _KINDS, _SLOTS, _RECORD, _USAGE)):
        return None
    plans = {name: _read_plan(path, name) for name, path in _paths(environ).items()}
    kinds, named = _read_kinds(environ.get(_KINDS), plans)
    n_slots = _read_slots(environ.get(_SLOTS), plans)
    record = environ.get(_RECORD, "0")
    if record not in ("0", "1"):
        raise PlanError(f"{_RECORD} is {record!r}; expected 0 or 1")
    apart, usage = n_slots > 1 or any(plans), _read_usage(environ.get(_USAGE, "0"))
    selects = "select" in named
    return ServingSettings(plans, kinds, n_slots, apart, record == "1", usage=usage, selects_everywhere=selects)


def pass_on(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let workers on other machines or in other folders find the same settings."""
    paths = {name: str(Path(path).absolute()) for name, path in _paths(environ).items()}
    if _PLAN in environ:
        environ[_PLAN] = paths.pop("")
    if paths:
        environ[_PLANS] = ",".join(f"{name}={path}" for name, path in paths.items())
    prefixes = {prefix for prefix in environ.get(_RAY, "").split(",") if prefix}
    environ[_RAY] = ",".join(sorted(prefixes | {"ISOGLOSS_"}))


def _paths(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the paths of plans by name."""
    for variable, expected in ((_PLAN, "the path of a plan"), (_PLANS, "NAME=PATH separated by commas")):
        if variable in environ and not environ[variable].strip():
            raise PlanError(f"{variable} is set and empty; expected {expected}: unset it to serve without")
    paths = {"": environ[_PLAN]} if _PLAN in environ else {}
    for item in environ[_PLANS].split(",") if _PLANS in environ else ():
        name, equals, path = (part.strip() for part in item.partition("="))
        if not equals or not path:
            raise PlanError(
                f"{_PLANS} has {item!r}; expected NAME=PATH separated by commas: a path has none of its own"
            )
        require_name(name)
        if name in paths:
            raise PlanError(f"{_PLANS} names {name} twice; expected one plan for each name")
        paths[name] = path
    return paths


def _read_plan(path: str, name: str) -> Plan:
    plan = read_served_plan(path)
    if not plan.interventions:
        remedy = f"requests that name {UNSTEERED} need none" if name else f"unset {_PLAN} to serve without a plan"
        raise PlanError(f"{path}: the plan has no interventions; {remedy}")
    return plan


def _read_kinds(text: str | None, plans: Mapping[str, Plan]) -> tuple[tuple[Kind, ...], set[str]]:
    """Return the kinds that plans may use, and those that are named: not by ``all``."""
    given = {name.strip() for name in (text or "").split(",") if name.strip()}
    if unknown := sorted(given - {*KINDS, "all"}):
        raise PlanError(f"{_KINDS} names {', '.join(unknown)}; expected some of {', '.join(KINDS)}, or all")
    named = given | _kinds_of(plans)
    return KINDS if "all" in given else tuple(kind for kind in KINDS if kind in named), named


def _read_slots(text: str | None, plans: Mapping[str, Plan]) -> int:
    needed = max(1, n_slots_of(plans))
    if text is None:
        return needed
    if not text.isdecimal() or not needed <= int(text) <= _MOST_SLOTS:
        raise PlanError(f"{_SLOTS} is {text!r}; expected a number from {needed} to {_MOST_SLOTS}")
    return int(text)


def _read_usage(text: str) -> int:
    if not text.isdecimal() or int(text) > _MOST_SLOTS:
        raise PlanError(
            f"{_USAGE} is {text!r}; expected how many combinations of plan and language to count apart, from 1 to "
            f"{_MOST_SLOTS}, or 0 to count nothing"
        )
    return int(text)
