"""Plans: validated interventions with the fingerprint of their model, and the file format of plans.

A plan file is JSON with one intervention per group of lines, sorted by layer and kind, so that two plans can be
compared with any diff tool.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from isogloss.errors import PlanError
from isogloss.files import parse_json, read_bytes, write_atomically
from isogloss.folders import require_file
from isogloss.hub import address_of, fetched
from isogloss.languages import resolve
from isogloss.notebook import Shown
from isogloss.records import decode
from isogloss.routing import PHASES, Fingerprint, Phase
from isogloss.steering.checks import as_provenance, canonical, check_fingerprint, layer_span, require_version
from isogloss.steering.interventions import KINDS, Intervention
from isogloss.steering.layer_edits import LayerEdit, edit_layer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PLAN_SCHEMA_VERSION", "Plan", "compile_layer", "parse_plan", "read_plan", "require_plan_file", "write_plan"]

PLAN_SCHEMA_VERSION = 1

_FIELDS = ("schema_version", "fingerprint", "provenance", "interventions")
_LARGEST_FILE = 16 * 2**20  # bytes; every expert of 100 layers of 512 experts with its value takes 2 MiB


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Interventions for one model, checked against its fingerprint at construction.

    Interventions are sorted by layer, kind, experts and conditions; several ``force`` of one layer keep their order,
    since it ranks their experts. A plan without interventions is valid and changes nothing.

    Interventions may be conditional on the phase of a token and on the language of a request. The limits of a router,
    such as ``top_k``, are checked for every phase and language separately.

    Attributes:
        fingerprint: of the model that the plan was made for.
        interventions: sorted as above.
        provenance: where the plan comes from (run hash, rule, threshold, corpus, …); JSON types only.

    Raises:
        PlanError: an intervention does not fit the fingerprint, contradicts another one, or leaves a router without
            ``top_k`` experts; or the provenance cannot be written as JSON.
    """

    fingerprint: Fingerprint
    interventions: tuple[Intervention, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict, hash=False)

    noun: ClassVar[str] = "plan"
    remedy: ClassVar[str] = "capture this one and make a plan for it with `isogloss plan`"

    def __post_init__(self) -> None:
        check_fingerprint(self.fingerprint, "plan")
        interventions = tuple(sorted(self.interventions, key=_sort_key))
        object.__setattr__(self, "interventions", interventions)
        object.__setattr__(self, "provenance", as_provenance(self.provenance))
        for layer in {intervention.layer for intervention in interventions}:
            _check_layer(layer, [each for each in interventions if each.layer == layer], self.fingerprint)

    def __repr__(self) -> str:
        kinds = ", ".join(sorted({each.kind for each in self.interventions})) or "empty"
        layers = f" in {len(self.layers)} layers, {self.layers[0]} to {self.layers[-1]}" if self.layers else ""
        languages = f", rules for {', '.join(self.languages)}" if self.languages else ""
        return f"Plan({self.fingerprint.model_type}: {kinds}; {self.n_experts} experts{layers}{languages})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per intervention and expert.

        Columns are ``layer``, ``expert``, ``kind``, ``strength``, ``value`` (of the expert, where the kind has one),
        ``phase`` and ``languages`` (separated by spaces); what an intervention does not have is missing.
        """
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        rows = [
            (each.layer, expert, each.kind, each.strength, value, each.phase, " ".join(each.languages or ()) or None)
            for each in self.interventions
            for expert, value in itertools.zip_longest(each.experts, each.values or ())  # noqa: PD011 - no frame
        ]
        return pd.DataFrame(rows, columns=["layer", "expert", "kind", "strength", "value", "phase", "languages"])

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers with interventions, ascending."""
        return tuple(sorted({intervention.layer for intervention in self.interventions}))

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that interventions are conditional on, ascending."""
        return tuple(sorted({code for each in self.interventions for code in each.languages or ()}))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that interventions are conditional on, prompt first."""
        return tuple(phase for phase in PHASES if any(each.phase == phase for each in self.interventions))

    @property
    def by_phase(self) -> bool:
        """Whether some intervention edits the tokens of one phase only."""
        return bool(self.phases)

    @property
    def is_empty(self) -> bool:
        """Whether it has no intervention, so that it changes nothing."""
        return not self.interventions

    @property
    def n_experts(self) -> int:
        """Number of experts that interventions name, over all layers."""
        return len({(each.layer, expert) for each in self.interventions for expert in each.experts})

    def applies_to(self, language: str | None) -> bool:
        """Whether any intervention edits requests in a language; None is of an unknown one."""
        return any(each.applies_to(language) for each in self.interventions)

    def for_request(self, language: str | None) -> Plan:
        """Select the interventions for a request in a language: the unconditional ones and those of the language.

        A plan can serve only one language per forward pass; split a batch by language.

        Args:
            language: of the request, given or detected; None if it is unknown. Only unconditional interventions apply
                to None and to languages that no intervention names.

        Returns:
            This plan if it has no conditions on languages; otherwise a plan without them, whose provenance has the
            language and the hash of this plan.

        Raises:
            LanguageError: the code is unknown.

        Example:
            >>> rules = [Intervention("ban", 2, (0,)), Intervention("on", 2, (5,), languages=("sw",))]
            >>> plan = Plan(Fingerprint("qwen3_moe", (2,), 8, 2, "ab12"), tuple(rules))
            >>> [[each.kind for each in plan.for_request(code).interventions] for code in ("swh_Latn", "de")]
            [['ban', 'on'], ['ban']]
        """
        code = None if language is None else resolve(language)
        if not self.languages:
            return self
        chosen = (replace(each, languages=None) for each in self.interventions if each.applies_to(code))
        record = {**self.provenance, "language": code, "conditional_plan_sha256": self.sha256}
        return Plan(self.fingerprint, tuple(chosen), record)

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON (sorted keys, no white space, UTF-8), whatever the file's formatting."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types, with ``schema_version``."""
        return {
            "schema_version": PLAN_SCHEMA_VERSION,
            "fingerprint": self.fingerprint.to_json(),
            "provenance": self.provenance,
            "interventions": [intervention.to_json() for intervention in self.interventions],
        }

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Build from `to_json`'s output.

        Raises:
            PlanError: another schema version, a missing or unknown field, or an invalid plan.
        """
        if not isinstance(raw, Mapping):
            raise PlanError(f"a plan is a JSON object; found {type(raw).__name__}")
        require_version(raw, PLAN_SCHEMA_VERSION, again="make the plan again with `isogloss plan`")
        if missing := [name for name in _FIELDS if name not in raw]:
            raise PlanError(f"the plan lacks {missing}; expected the fields {list(_FIELDS)}")
        try:
            return decode(cls, {name: value for name, value in raw.items() if name != "schema_version"}, "")
        except ValueError as error:
            raise PlanError(f"the plan is malformed: {error}") from error


def compile_layer(plan: Plan, layer: int, n_experts: int, *, phase: Phase | None = None) -> LayerEdit:
    """Convert the interventions of one layer to dense NumPy arrays; the edit of a layer without any is empty.

    Move the arrays once with `LayerEdit.to`, then use `apply_edit`. Without a phase there is one edit for both phases.

    Raises:
        PlanError: the plan's model has no such routed layer, or another number of experts; interventions of the layer
            are conditional on languages, or on phases where none is given.
    """
    expected = plan.fingerprint
    if layer not in expected.layers:
        raise PlanError(
            f"layer {layer} is not a routed layer of the plan's model; expected {layer_span(expected.layers)}"
        )
    if n_experts != expected.n_experts:
        raise PlanError(f"layer {layer} has {n_experts} experts; the plan expects {expected.n_experts}")
    of_layer = [each for each in plan.interventions if each.layer == layer]
    if any(each.languages is not None for each in of_layer):
        raise PlanError(
            f"the plan has interventions for {', '.join(plan.languages)} only; select those of one request with "
            "Plan.for_request(language)"
        )
    if phase is None and not all(each.acts_on(every) for each in of_layer for every in PHASES):
        raise PlanError(
            f"the plan edits prompt and generation of layer {layer} differently; expected one edit for all tokens: "
            "pass the phase, or use an engine that separates phases"
        )
    return edit_layer((each for each in of_layer if phase is None or each.acts_on(phase)), n_experts)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read and check a plan file.

    Raises:
        PlanError: the file is missing, too large, not strict JSON, or not a valid plan.
    """
    place = fetched(path, error=PlanError)
    if place != Path(path) and place.is_dir():
        place /= "plan.json"
    if not place.exists() or place.is_dir():
        state = "it is a folder" if place.is_dir() else "no such file"
        raise PlanError(
            f"cannot read the plan {address_of(path) or path}: {state}; expected a plan's file: make one with "
            "`isogloss plan`"
        )
    content = read_bytes(place, most=_LARGEST_FILE, error=PlanError)
    try:
        return parse_plan(content)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def parse_plan(content: bytes | str) -> Plan:
    """Read and check a plan from the content of its file; PlanError if it is not strict JSON or not a valid plan."""
    try:
        return Plan.from_json(parse_json(content))
    except ValueError as error:
        raise PlanError(f"the plan is not a JSON file: {error}; make a plan with `isogloss plan`") from error


def write_plan(plan: Plan, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a plan atomically.

    Args:
        plan: of any interventions.
        path: new, or of a plan, which is replaced.
        force: replace a file of any kind.

    Raises:
        FileError: the folder is missing or cannot be written, or the file is of another kind.
    """
    require_plan_file(path, force=force)
    write_atomically(Path(path), _format(plan).encode())


def require_plan_file(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Refuse a file that `write_plan` would refuse, by the same error."""
    require_file(Path(path), "plan", _is_plan, force=force)


def _is_plan(content: bytes) -> bool:
    """Recognise a plan of any version, formatted by whatever program."""
    try:
        raw = parse_json(content)
    except ValueError:
        return False
    return isinstance(raw, dict) and set(raw) >= set(_FIELDS)


def _format(plan: Plan) -> str:
    """Format a plan with one intervention per group of lines."""
    raw = plan.to_json()
    head = [f'  "{name}": {_indented(raw[name])},' for name in _FIELDS[:-1]]
    blocks = ",\n".join(_block(entry) for entry in raw["interventions"])
    body = f'  "interventions": [\n{blocks}\n  ]' if blocks else '  "interventions": []'
    return "\n".join(["{", *head, body, "}", ""])


def _indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).replace("\n", "\n  ")


def _block(entry: Mapping[str, Any]) -> str:
    """Format one intervention: kind, layer and conditions on the first line, experts and values on one line each."""
    pairs = {name: f'"{name}": {json.dumps(value)}' for name, value in entry.items()}
    lists = [pairs.pop(name) for name in ("experts", "values") if name in pairs]
    return "    {" + ",\n     ".join([", ".join(pairs.values()), *lists]) + "}"


def _sort_key(intervention: Intervention) -> tuple[Any, ...]:
    """Order by layer, kind, experts and conditions; ``force`` of one layer tie, so a stable sort keeps their order."""
    place = intervention.layer, KINDS.index(intervention.kind)
    if intervention.kind == "force":
        return place
    return *place, intervention.experts, intervention.phase, intervention.languages or ()


def _check_layer(layer: int, interventions: list[Intervention], fingerprint: Fingerprint) -> None:
    """Raise PlanError for interventions that the router cannot apply or that contradict each other."""
    if layer not in fingerprint.layers:
        raise PlanError(f"layer {layer} is not a routed layer of the model; expected {layer_span(fingerprint.layers)}")
    last = fingerprint.n_experts - 1
    for each in interventions:
        if max(each.experts) > last:
            raise PlanError(
                f"{each.kind} in layer {layer}: expert {max(each.experts)} is out of range; expected 0 to {last}"
            )
    for condition, active in _together(interventions):
        _check_together(f"layer {layer}{condition}", active, fingerprint)


def _together(interventions: list[Intervention]) -> Iterator[tuple[str, list[Intervention]]]:
    """Yield, per phase and language, the condition in words and the interventions that act together.

    Other languages need no check: the interventions that act on them act on every language.
    """
    languages = sorted({code for each in interventions for code in each.languages or ()})
    for phase, language in itertools.product(PHASES, languages or (None,)):
        active = [each for each in interventions if each.acts_on(phase) and each.applies_to(language)]
        words = f" in {phase}" if any(each.phase == phase for each in active) else ""
        yield words + (f" for {language}" if any(each.languages for each in active) else ""), active


def _check_together(place: str, interventions: list[Intervention], fingerprint: Fingerprint) -> None:
    named: dict[str, list[int]] = defaultdict(list)
    for intervention in interventions:
        named[intervention.kind].extend(intervention.experts)
    for kind, experts in named.items():
        if twice := sorted(expert for expert, times in Counter(experts).items() if times > 1):
            raise PlanError(f"{kind} in {place} has experts {twice} in two interventions; merge them")
    _check_choice(place, named, fingerprint)


def _check_choice(place: str, named: Mapping[str, list[int]], fingerprint: Fingerprint) -> None:
    top_k = fingerprint.top_k
    if len(forced := named.get("force", ())) > top_k:
        raise PlanError(f"{place} forces {len(forced)} experts; a token chooses {top_k}: force at most {top_k}")
    if len(raised := {*forced, *named.get("on", ())}) > top_k:
        what = "forces or turns on" if forced else "turns on"
        raise PlanError(f"{place} {what} {len(raised)} experts; a token chooses {top_k}: name at most {top_k}")
    for up, down in itertools.product(("force", "on"), ("suppress", "off", "ban")):
        if both := sorted(set(named.get(up, ())).intersection(named.get(down, ()))):
            raise PlanError(f"{place} has experts {both} under both {up} and {down}; keep one of the two")
    left = fingerprint.n_experts - len(named.get("ban", ()))
    if left < top_k:
        most = fingerprint.n_experts - top_k
        raise PlanError(f"{place}: ban leaves {left} experts; a token chooses {top_k}: ban at most {most}")
