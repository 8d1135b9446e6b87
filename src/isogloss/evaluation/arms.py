"""The arms of an evaluation: the plan under test, and what it is compared with besides the unsteered model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from isogloss.errors import PlanError, shorten
from isogloss.files import read_json
from isogloss.hub import fetched
from isogloss.steering import (
    CONSTANT_KINDS,
    STRENGTH_KINDS,
    Plan,
    RouterAdapter,
    SelectedExpert,
    Steering,
    exchanged_probes,
    opposed,
    permuted_experts,
    random_control,
    read_steering,
    replaced,
    rescaled,
    shifted_control,
    with_strength,
)

__all__ = ["ARMS", "BASELINE", "PLAN", "dose_of", "make_arms", "require_interventions"]

BASELINE = "baseline"
PLAN = "plan"

ARMS = (
    "random[:N], early, late, layers=A-B[:TABLE.json], suppress, strength=S,S,…, experts=NAME:TABLE.json, "
    "plan=NAME:PLAN"
)
"""What `make_arms` reads for a plan."""

_OF_ADAPTER = "random[:N], suppress, strength=S,S,…, other-probes, plan=NAME:PLAN"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_FILES = ("settings.json", "summary.json")  # beside the folders of the arms


def make_arms(plan: Steering, specifications: Sequence[str]) -> dict[str, Steering]:
    """Make the arms of a command line.

    Args:
        plan: under test; it becomes the arm ``plan``, the first one.
        specifications: any of

            * ``random`` or ``random:N``: N plans with random experts, as many per layer (seeds 0 to N-1; none for 0);
            * ``early``, ``late``: as many experts in the first or last layers of the model, before or after the plan's;
            * ``layers=A-B``: as many experts in these layers, of which the plan steers none; ``layers=A-B:TABLE.json``
              takes the experts that a rule match there, as the papers do;
            * ``suppress``: the opposite of what the plan does to its experts;
            * ``strength=0.1,0.25``: the plan at other strengths, for a dose-response; its own one is not run twice;
            * ``experts=NAME:TABLE.json``: the experts of a table in place of the plan's, as many per layer, such as
              multilingual ones, those of an unrelated task or of another pivot;
            * ``plan=NAME:PLAN``: any other plan, or the folder of a router adapter.

            A table is what ``isogloss experts --json`` prints. Of an adapter, ``random`` permutes the experts of every
            layer, ``strength`` sets the scale, ``suppress`` changes its sign, and ``other-probes`` gives every rank the
            probe of the next one.

    Returns:
        Name to plan: ``plan``, ``random-0``, ``early``, ``suppress``, ``strength-0.25``,
        ``layers-0-4``, or the name given.

    Raises:
        RunError: a table is no file of strict JSON.
        PlanError: an empty plan, a specification that cannot be read or made, or two arms of one name.
    """
    arms: dict[str, Steering] = {PLAN: plan}
    require_interventions(arms)
    for specification in specifications:
        for name, other in _make(plan, specification):
            if name in arms or name == BASELINE:
                raise PlanError(f"--arms {specification}: there is an arm {name!r} already; name every arm once")
            require_interventions({name: other})
            arms[name] = other
    return arms


def require_interventions(arms: Mapping[str, Steering | None]) -> None:
    """Refuse an empty plan, under which every answer would be the baseline's; PlanError names its arm."""
    for name, plan in arms.items():
        if plan is not None and plan.is_empty:
            lacks = "has no intervention" if isinstance(plan, Plan) else "changes no weight"
            raise PlanError(
                f"arm {name}: the {plan.noun} {lacks}, so nothing would be compared; give one that changes something"
            )


def dose_of(plan: Steering) -> float | None:
    """Return the one strength of a plan, or None where it has none or several; of an adapter, its scale."""
    if isinstance(plan, RouterAdapter):
        return plan.scale
    doses: set[float | None] = set()
    for each in plan.interventions:
        if each.kind in STRENGTH_KINDS:
            doses.update(each.values or () if each.kind in CONSTANT_KINDS else (each.strength,))
    return doses.pop() if len(doses) == 1 else None


def _make(plan: Steering, specification: str) -> Iterator[tuple[str, Steering]]:
    kind, equals, rest = specification.partition("=")
    if kind == "plan" and equals:
        name, file = _named(kind, rest)
        yield name, read_steering(file)
    elif isinstance(plan, RouterAdapter):
        yield from _of_adapter(plan, specification)
    else:
        yield from _of_plan(plan, specification)


def _n_random(specification: str) -> int | None:
    """Read ``random`` or ``random:N``; None for anything else."""
    count = re.fullmatch(r"random(?::(\d+))?", specification)
    if count is None:
        return None
    return 1 if count[1] is None else int(count[1])


def _of_adapter(adapter: RouterAdapter, specification: str) -> Iterator[tuple[str, RouterAdapter]]:
    kind, equals, rest = specification.partition("=")
    if (n_controls := _n_random(specification)) is not None:
        yield from ((f"random-{seed}", permuted_experts(adapter, seed=seed)) for seed in range(n_controls))
    elif specification == "suppress":
        yield specification, rescaled(adapter, -adapter.scale)
    elif specification == "other-probes":
        yield specification, exchanged_probes(adapter)
    elif kind == "strength" and equals:
        doses = (scale for scale in _strengths(rest) if scale != adapter.scale)
        yield from ((f"strength-{scale:g}", rescaled(adapter, scale)) for scale in doses)
    else:
        raise PlanError(f"{specification!r} is no arm of a router adapter; expected {_OF_ADAPTER}")


def _of_plan(plan: Plan, specification: str) -> Iterator[tuple[str, Plan]]:
    kind, equals, rest = specification.partition("=")
    if (n_controls := _n_random(specification)) is not None:
        yield from ((f"random-{seed}", random_control(plan, seed=seed)) for seed in range(n_controls))
    elif specification in ("early", "late"):
        yield specification, shifted_control(plan, _outside(plan, specification))
    elif specification == "suppress":
        yield specification, opposed(plan)
    elif kind == "strength" and equals:
        yield from _doses(plan, rest)
    elif kind == "layers" and equals:
        yield _elsewhere(plan, rest)
    elif kind == "experts" and equals:
        name, table = _named(kind, rest)
        yield name, replaced(plan, _table(table), name=name)
    else:
        raise PlanError(f"unknown arm {specification!r}; expected {ARMS}")


def _outside(plan: Plan, side: str) -> tuple[int, ...]:
    """Return the layers at one end of the model, at most as many as the plan has."""
    every, size = plan.fingerprint.layers, len(plan.layers)
    if side == "early":
        outside = tuple(layer for layer in every if layer < plan.layers[0])[:size]
    else:
        outside = tuple(layer for layer in every if layer > plan.layers[-1])[-size:]
    if not outside:
        end = f"before {plan.layers[0]}" if side == "early" else f"after {plan.layers[-1]}"
        raise PlanError(f"--arms {side}: the model has no routed layer {end}; leave this arm out")
    return outside


def _doses(plan: Plan, text: str) -> Iterator[tuple[str, Plan]]:
    for strength in _strengths(text):
        dosed = with_strength(plan, strength)
        if dosed.interventions != plan.interventions:
            yield f"strength-{strength:g}", dosed


def _strengths(text: str) -> Iterator[float]:
    for part in text.split(","):
        try:
            strength = float(part)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength):
            raise PlanError(f"--arms strength={text}: {part!r} is no finite number; write strength=0.1,0.25")
        yield strength


def _elsewhere(plan: Plan, text: str) -> tuple[str, Plan]:
    match = re.fullmatch(r"(\d+)-(\d+)(?::(.+))?", text)
    if not match:
        raise PlanError(f"--arms layers={text}: expected layers=A-B or layers=A-B:TABLE.json, 0-based, inclusive")
    first, last = int(match[1]), int(match[2])
    layers = [layer for layer in plan.fingerprint.layers if first <= layer <= last]
    if first <= max(plan.fingerprint.layers) < last:
        raise PlanError(
            f"--arms layers={text} goes beyond the model, whose last routed layer is {max(plan.fingerprint.layers)}"
        )
    if not layers:
        raise PlanError(f"--arms layers={text}: the model has no routed layer there; expected some of its layers")
    table = None if match[3] is None else _table(Path(match[3]))
    return f"layers-{first}-{last}", shifted_control(plan, layers, table=table)


def _named(kind: str, text: str) -> tuple[str, Path]:
    name, _, file = text.partition(":")
    if not _NAME.fullmatch(name) or not file or name.lower() in _FILES:
        what = "PLAN" if kind == "plan" else "FILE.json"
        raise PlanError(
            f"--arms {kind}={shorten(text)}: expected {kind}=NAME:{what}, the name of at most 80 letters, digits, "
            f"'.', '_', '-', and not {' or '.join(_FILES)}"
        )
    return name, Path(file)


def _table(path: Path) -> list[SelectedExpert]:
    """Read the experts that ``isogloss experts --json`` printed."""
    raw = read_json(fetched(path, error=PlanError))
    try:
        rows = [SelectedExpert(row["layer"], row["expert"], row["statistic"]) for row in raw["experts"]]
    except (TypeError, KeyError) as error:
        raise PlanError(f"{path} is no table of experts; expected what `isogloss experts --json` prints") from error
    typed = all(type(row.layer) is int and type(row.expert) is int and row.expert >= 0 for row in rows)
    if not typed or not all(type(row.statistic) in (int, float) for row in rows):
        raise PlanError(f"{path}: expected layer and expert as integers, and a number as statistic, in every row")
    return rows
