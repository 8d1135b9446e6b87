"""What plans and router adapters have in common: the fingerprint of their model, and provenance in JSON types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from isogloss.errors import PlanError
from isogloss.routing import Fingerprint

__all__ = [
    "ForOneModel",
    "as_provenance",
    "canonical",
    "check_fingerprint",
    "check_plan",
    "layer_span",
    "require_version",
]


class ForOneModel(Protocol):
    """A plan or a router adapter."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the model that it was made for."""

    @property
    def noun(self) -> str:
        """What it is called in messages."""

    @property
    def remedy(self) -> str:
        """How to make one for another model."""


def check_plan(plan: ForOneModel, fingerprint: Fingerprint) -> None:
    """Raise PlanError if a plan or a router adapter was made for another model.

    Raises:
        PlanError: the message has every field that differs, with the plan's and the model's values.
    """
    differences = plan.fingerprint.differences(fingerprint)
    if differences:
        lines = [f"{name}: expected {ours!r}, found {theirs!r}" for name, (ours, theirs) in differences.items()]
        raise PlanError(
            f"the {plan.noun} was made for another model ({'; '.join(lines)}); load that model, or {plan.remedy}"
        )


def require_version(raw: Mapping[str, Any], expected: int, *, again: str, where: str = "") -> None:
    """Raise PlanError for a file of another version.

    Args:
        raw: its fields.
        expected: what this version of isogloss reads.
        again: how to make the file again.
        where: what precedes the message.
    """
    version = raw.get("schema_version")
    if type(version) is not int or version != expected:
        raise PlanError(
            f"{where}schema_version is {version!r}; this version of isogloss reads {expected}; {again}, or install the "
            "isogloss that wrote it"
        )


def canonical(value: object) -> bytes:
    """Return JSON with sorted keys, without white space, in UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def as_provenance(provenance: object) -> dict[str, Any]:
    """Convert a provenance to JSON types, so that what has it equals what is read back from a file."""
    if not isinstance(provenance, Mapping):
        raise PlanError(f"provenance is a {type(provenance).__name__}; expected a mapping of JSON types")
    try:
        copied: dict[str, Any] = json.loads(canonical(dict(provenance)))
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"the provenance cannot be written as JSON: {error}; expected finite JSON types") from error
    return copied


def check_fingerprint(fingerprint: Fingerprint, what: str) -> None:
    """Raise PlanError if no model can have this fingerprint; ``what`` has it, such as "plan"."""
    if not fingerprint.is_possible:
        raise PlanError(
            f"the {what}'s {fingerprint} is invalid; expected texts, integers, layers of at least 0, "
            "and 1 <= top_k <= n_experts"
        )


def layer_span(layers: tuple[int, ...]) -> str:
    """Return layers in words."""
    if not layers:
        return "none: the fingerprint has no routed layer"
    contiguous = len(layers) == layers[-1] - layers[0] + 1
    return f"{layers[0]} to {layers[-1]}" if contiguous else ", ".join(map(str, layers))
