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
from typing import TYPE_CHECKING, Any, Self

from isogloss.errors import PlanError
from isogloss.files import decode, parse_json, write_atomically
from isogloss.languages import resolve
from isogloss.notebook import Shown
from isogloss.routing import Fingerprint
from isogloss.steering.interventions import KINDS, PHASES, Intervention, LayerEdit, Phase, edit_layer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PLAN_SCHEMA_VERSION", "Plan", "check_plan", "compile_layer", "parse_plan", "read_plan", "write_plan"]

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

    def __post_init__(self) -> None:
        _check_fingerprint(self.fingerprint)
        interventions = tuple(sorted(self.interventions, key=_sort_key))
        object.__setattr__(self, "interventions", interventions)
        object.__setattr__(self, "provenance", _as_json(self.provenance))
        for layer in {intervention.layer for intervention in interventions}:
            _check_layer(layer, [each for each in interventions if each.layer == layer], self.fingerprint)

    def __repr__(self) -> str:
        kinds = ", ".join(sorted({each.kind for each in self.interventions})) or "empty"
        layers = f" in {len(self.layers)} layers, {self.layers[0]} to {self.layers[-1]}" if self.layers else ""
        n_experts = len({(each.layer, expert) for each in self.interventions for expert in each.experts})
        languages = f", rules for {', '.join(self.languages)}" if self.languages else ""
        return f"Plan({self.fingerprint.model_type}: {kinds}; {n_experts} experts{layers}{languages})"

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
        return hashlib.sha256(_canonical(self.to_json())).hexdigest()

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
        version = raw.get("schema_version")
        if type(version) is not int or version != PLAN_SCHEMA_VERSION:
            raise PlanError(
                f"schema_version is {version!r}; this version of isogloss reads {PLAN_SCHEMA_VERSION}; "
                "make the plan again with `isogloss plan`, or install the isogloss that wrote it"
            )
        if missing := [name for name in _FIELDS if name not in raw]:
            raise PlanError(f"the plan lacks {missing}; expected the fields {list(_FIELDS)}")
        try:
            return decode(cls, {name: value for name, value in raw.items() if name != "schema_version"}, "")
        except ValueError as error:
            raise PlanError(f"the plan is malformed: {error}") from error


def check_plan(plan: Plan, fingerprint: Fingerprint) -> None:
    """Raise PlanError if a plan was made for another model.

    Args:
        plan: the plan.
        fingerprint: of the model to steer.

    Raises:
        PlanError: the message has every field that differs, with the plan's and the model's values.
    """
    differences = plan.fingerprint.differences(fingerprint)
    if differences:
        lines = [f"{name}: expected {ours!r}, found {theirs!r}" for name, (ours, theirs) in differences.items()]
        raise PlanError(
            f"the plan was made for another model ({'; '.join(lines)}); load that model, "
            "or capture this one and make a plan for it with `isogloss plan`"
        )


def compile_layer(plan: Plan, layer: int, n_experts: int, *, phase: Phase | None = None) -> LayerEdit:
    """Convert the interventions of one layer to dense arrays; the edit is empty if the plan does not steer the layer.

    Args:
        plan: the plan, without conditions on languages.
        layer: 0-based position in the whole decoder stack; a routed layer of the plan's model.
        n_experts: routed experts of that layer.
        phase: of the tokens to edit; None for one edit for both phases.

    Returns:
        NumPy arrays; move them once with `LayerEdit.to`, then use `apply_edit`.

    Raises:
        PlanError: the plan's model has no such routed layer, or another number of experts; interventions of the layer
            are conditional on languages, or on phases where none is given.
    """
    expected = plan.fingerprint
    if layer not in expected.layers:
        raise PlanError(f"layer {layer} is not a routed layer of the plan's model; expected {_span(expected.layers)}")
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
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}; make one with `isogloss plan`") from error
    if len(content) > _LARGEST_FILE:
        raise PlanError(
            f"{path} is larger than {_LARGEST_FILE // 2**20} MiB, which is too large for a plan; check the path"
        )
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


def write_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan atomically.

    Raises:
        FileError: the folder is missing or cannot be written.
    """
    write_atomically(Path(path), _format(plan).encode())


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


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _as_json(provenance: object) -> dict[str, Any]:
    """Convert the provenance to JSON types, so that the plan equals the one read back from its file."""
    if not isinstance(provenance, Mapping):
        raise PlanError(f"provenance is a {type(provenance).__name__}; expected a mapping of JSON types")
    try:
        copied: dict[str, Any] = json.loads(_canonical(dict(provenance)))
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"the provenance cannot be written as JSON: {error}; expected finite JSON types") from error
    return copied


def _check_fingerprint(fingerprint: Fingerprint) -> None:
    """Raise PlanError if no model can have this fingerprint."""
    counts = (fingerprint.n_experts, fingerprint.top_k, *fingerprint.layers)
    texts = (fingerprint.model_type, fingerprint.router_sha256)
    typed = all(type(count) is int for count in counts)
    typed = typed and all(isinstance(text, str) and text.isprintable() for text in texts)
    if not typed or min(fingerprint.layers, default=0) < 0 or not 1 <= fingerprint.top_k <= fingerprint.n_experts:
        raise PlanError(
            f"the plan's {fingerprint} is invalid; expected texts, integers, layers of at least 0, "
            "and 1 <= top_k <= n_experts"
        )


def _sort_key(intervention: Intervention) -> tuple[Any, ...]:
    """Order by layer, kind, experts and conditions; ``force`` of one layer tie, so a stable sort keeps their order."""
    place = intervention.layer, KINDS.index(intervention.kind)
    if intervention.kind == "force":
        return place
    return *place, intervention.experts, intervention.phase, intervention.languages or ()


def _check_layer(layer: int, interventions: list[Intervention], fingerprint: Fingerprint) -> None:
    """Raise PlanError for interventions that the router cannot apply or that contradict each other."""
    if layer not in fingerprint.layers:
        raise PlanError(f"layer {layer} is not a routed layer of the model; expected {_span(fingerprint.layers)}")
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


def _span(layers: tuple[int, ...]) -> str:
    if not layers:
        return "none: the fingerprint has no routed layer"
    contiguous = layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if contiguous else ", ".join(map(str, layers))
