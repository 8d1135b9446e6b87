"""Which model types are supported, and what was proven for each on which version of transformers.

The rows are `isogloss.backends.families`; the proofs are ``proven.json`` beside this file, which ``make prove`` writes
from the family suites. Reading them needs neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

from isogloss.backends.bake_forms import PARTS
from isogloss.backends.families import FAMILIES, REFUSED, WRAPPERS, Family
from isogloss.steering import KINDS, Kind

__all__ = ["Proof", "Status", "Support", "proofs", "supported_models"]

Status: TypeAlias = Literal["proven", "refused", "unproven"]
"""``unproven`` is a row that no version has passed the suites with; no release has one."""


@dataclass(frozen=True)
class Proof:
    """What one run of the family suites showed, for one family or for all.

    Attributes:
        torch: version.
        python: version.
        checks: tests that passed, each with its parameters and all their values, in every combination.
        skipped: the combinations that do not apply to the family, such as ``padding_side_changes_no_choice[left]``,
            with the reason.
    """

    torch: str
    python: str
    checks: Mapping[str, Mapping[str, tuple[str, ...]]]
    skipped: Mapping[str, str]

    def values(self, axis: str) -> frozenset[str]:
        """Return the values of a parameter that every check which has it passed, with nothing skipped."""
        passed = [set(axes[axis]) - self._skipped(check) for check, axes in self.checks.items() if axis in axes]
        return frozenset(set.intersection(*passed)) if passed else frozenset()

    def _skipped(self, check: str) -> set[str]:
        cases = (case.removesuffix("]").partition("[") for case in self.skipped)
        return {value for name, _, values in cases if name == check for value in values.split(",")}


@dataclass(frozen=True)
class Support:
    """What is known of one model type.

    Attributes:
        model_type: ``model_type`` of the configuration.
        text_model_type: that of its text part; the same for models of text alone.
        status: proven on at least one version of transformers, refused, or neither.
        reason: why it is refused; None where it is not.
        router_class: class of its routers; None where refused, as for all that follow.
        example: a checkpoint on the hub.
        scoring: as in `isogloss.routing.RouterSpec`, or ``by configuration``.
        selection_bias: whether a bias is added for the selection only.
        group_score: how groups of experts are scored; None for no groups.
        baked_kinds: interventions that `isogloss bake` can store in the biases of a checkpoint that has them.
        capture: whether routing can be captured.
        kinds: interventions that it can be steered with.
        since: lowest version of transformers that can work.
        transformers: versions on which it is proven, lowest first.
        proof: by version, what was shown.
        note: what a user should know.
    """

    model_type: str
    text_model_type: str
    status: Status
    reason: str | None = None
    router_class: str | None = None
    example: str | None = None
    scoring: str | None = None
    selection_bias: bool | None = None
    group_score: str | None = None
    baked_kinds: tuple[Kind, ...] = ()
    capture: bool = False
    kinds: tuple[Kind, ...] = ()
    since: str | None = None
    transformers: tuple[str, ...] = ()
    proof: Mapping[str, Proof] = field(default_factory=dict)
    note: str = ""

    @property
    def selection(self) -> str:
        """How it selects experts, in a few words: the scoring, and what else decides."""
        parts = [self.scoring or ""]
        parts += ["bias"] if self.selection_bias else []
        parts += ["groups"] if self.group_score else []
        return " + ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as types that JSON holds."""
        return asdict(self)


def supported_models() -> tuple[Support, ...]:
    """Return every model type that has a row or was proven as a composite around one, then those that are refused.

    Example:
        >>> from isogloss.backends.support import supported_models
        >>> models = {support.model_type: support for support in supported_models()}
        >>> models["qwen3_moe"].status, models["qwen3_moe"].scoring
        ('proven', 'softmax')
        >>> models["doge"].status
        'refused'
    """
    rows = {name: name for name in FAMILIES}
    for version in _record().values():
        rows |= {name: proven["row"] for name, proven in version["families"].items()}
    accepted = [_accepted(name, FAMILIES[row]) for name, row in sorted(rows.items())]
    return (*accepted, *(Support(name, name, "refused", reason) for name, reason in sorted(REFUSED.items())))


def proofs(model_type: str | None = None) -> dict[str, Proof]:
    """Return what was shown by version of transformers, lowest first.

    Args:
        model_type: only versions on which it is proven, with what was skipped for it; None for all versions.
    """
    return {
        version: Proof(
            run["torch"],
            run["python"],
            _checks(version),
            {} if found is None else dict(found["skipped"]),
        )
        for version, run in _record().items()
        if (found := _proven(run, model_type)) is not None or model_type is None
    }


def _proven(run: Mapping[str, Any], model_type: str | None) -> Mapping[str, Any] | None:
    """What a run recorded of a model type; where it was proven inside multimodal classes alone, of the first."""
    families: Mapping[str, Mapping[str, Any]] = run["families"]
    inside = (proven for proven in families.values() if proven["row"] == model_type)
    return families.get(str(model_type)) or next(inside, None)


@cache
def _checks(version: str) -> dict[str, dict[str, tuple[str, ...]]]:
    raw = _record()[version]["checks"]
    return {check: {axis: tuple(values) for axis, values in axes.items()} for check, axes in raw.items()}


@cache
def _record() -> dict[str, Any]:
    """The record by version, as JSON; its writer (tests/prove_plugin.py) sorts it."""
    text = (resources.files("isogloss.backends") / "proven.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def _accepted(model_type: str, row: Family) -> Support:
    shown = proofs(model_type)
    parts = {"logit bias": row.logit_bias, "selection bias": row.selection_bias is not None}
    kinds = frozenset.intersection(*(proof.values("intervention") for proof in shown.values())) if shown else ()
    return Support(
        model_type=model_type,
        text_model_type=row.model_type,
        status="proven" if shown else "unproven",
        router_class=row.router_class,
        example=WRAPPERS.get(model_type, ("", row.example))[1],
        scoring=row.scoring or "by configuration",
        selection_bias=row.selection_bias is not None,
        group_score=row.group_score,
        baked_kinds=tuple(kind for kind, part in PARTS.items() if row.bakes and parts[part]),
        capture=bool(shown),
        kinds=tuple(kind for kind in KINDS if kind in kinds),
        since=row.since,
        transformers=tuple(shown),
        proof=shown,
        note=row.note,
    )
