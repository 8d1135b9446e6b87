"""Runs from the traffic of a server that counts how often it chooses each expert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isogloss.arrays import Int64Array
from isogloss.errors import RunError, shorten
from isogloss.files import read_json
from isogloss.records import Name, Record
from isogloss.routing import Fingerprint, Phase, RouterSpec
from isogloss.runs.manifest import LANGUAGE_CODE
from isogloss.runs.pooled import Published, pooled_routing, whole, write_pooled
from isogloss.runs.run import Run

__all__ = ["OTHER", "UNSTEERED", "USAGE_SCHEMA_VERSION", "ServedUsage", "UsageCounts", "import_usage_json"]

USAGE_SCHEMA_VERSION = 1

OTHER = "other"
"""In place of a language: all that came when as many plans and languages as are told apart had come."""

UNSTEERED = "unsteered"
"""What a request or an import names where no plan is meant; no plan has this name."""


@dataclass(frozen=True, kw_only=True)
class UsageCounts(Record):
    """What was counted of one kind of token.

    Attributes:
        plan: name of the plan that the tokens ran under; None where it has none; ``unsteered`` where it was asked for.
        plan_sha256: its hash; None where there was no plan.
        language: that the requests stated, as a full code; None where none was stated; ``other`` for all that came when
            as many plans and languages as are told apart had come, whatever its plan.
        phase: ``prompt`` for tokens that were given, ``generation`` for those that the model wrote.
        tokens: that ran.
        selections: ``[n_layers, n_experts]``, how often each expert was chosen.
    """

    plan: Name | None
    plan_sha256: Name | None
    language: Name | None
    phase: Phase
    tokens: int
    selections: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class ServedUsage(Record):
    """How often a server has chosen each expert since it started or was last reset.

    Attributes:
        schema_version: of this format.
        model: under which the server offers it.
        fingerprint: of the model.
        n_apart: combinations of plan and language that are told apart, the first that came.
        layers: the routed ones, in the order of ``selections``.
        counts: one for each plan, language and phase of which tokens ran.

    Raises:
        RunError: on construction, if counts do not fit the model or each other.
    """

    schema_version: int
    model: Name
    fingerprint: Fingerprint
    n_apart: int
    layers: tuple[int, ...]
    counts: tuple[UsageCounts, ...]

    def __post_init__(self) -> None:
        if self.schema_version != USAGE_SCHEMA_VERSION:
            raise RunError(f"schema_version {self.schema_version}; expected {USAGE_SCHEMA_VERSION}")
        if not self.fingerprint.is_possible or not self.fingerprint.layers:
            raise RunError(
                f"{self.fingerprint} is of no model; expected layers of at least 0, and 1 <= top_k <= n_experts"
            )
        if self.layers != self.fingerprint.layers:
            raise RunError(
                f"layers {list(self.layers)} of {list(self.fingerprint.layers)}: one stage of a pipeline; expected "
                "all, as GET /isogloss/usage answers"
            )
        keys = [(each.plan, each.plan_sha256, each.language, each.phase) for each in self.counts]
        if len(set(keys)) < len(keys):
            raise RunError("counts: a plan, language and phase is there twice; expected each once")
        for each in self.counts:
            self._check(each)

    def _check(self, counts: UsageCounts) -> None:
        where = f"counts of {counts.language} ({counts.phase})"
        if counts.language not in (None, OTHER) and not LANGUAGE_CODE.fullmatch(counts.language or ""):
            raise RunError(f"{where}: expected a full code such as eng_Latn, {OTHER!r} or null")
        whole(counts.tokens, f"{where}: tokens", least=1, most=2**63 - 1)
        model = self.fingerprint
        if len(counts.selections) != len(self.layers):
            raise RunError(f"{where}: has {len(counts.selections)} layers; expected {len(self.layers)}")
        for layer, row in zip(self.layers, counts.selections, strict=True):
            if len(row) != model.n_experts or not all(0 <= each <= counts.tokens for each in row):
                raise RunError(f"{where}: layer {layer}: expected {model.n_experts} numbers from 0 to {counts.tokens}")
            if sum(row) != model.top_k * counts.tokens:
                raise RunError(
                    f"{where}: layer {layer} has {sum(row)} choices; expected {model.top_k} for each of "
                    f"{counts.tokens} tokens"
                )


def import_usage_json(path: str | Path, out: str | Path, *, plan: str | None = None, phase: Phase | None = None) -> Run:
    """Convert what a server has counted into a pooled Run of the languages that its requests stated.

    Selections are the counts, exactly. Profiles are selections divided by their sum: a server keeps no weights. The
    Run has the model's fingerprint, so plans can be made from it.

    Args:
        path: of what ``GET /isogloss/usage`` answered.
        out: folder of the new Run.
        plan: name of a plan, the start of its hash, or ``unsteered``; None where tokens of one plan alone were counted.
        phase: count these tokens alone; None for prompts and answers together.

    Raises:
        RunError: ``out`` holds something else; the file is malformed, or a refusal of the server; several plans fit, or
            none; no token of a language was counted, or more than a Run holds.
    """
    path = Path(path)
    raw = read_json(path)
    _require_no_refusal(path, raw)
    usage = ServedUsage.from_json(raw, path)
    wanted = _under_one_plan(path, [each for each in usage.counts if phase in (None, each.phase)], plan)
    stated = {each.language for each in wanted} - {None, OTHER}
    if not stated:
        raise RunError(
            f"{path}: {sum(each.tokens for each in wanted)} tokens, none of a request that stated its language; "
            'expected some: send "vllm_xargs": {"isogloss_language": "sw"}'
        )
    by_language = {code: [each for each in wanted if each.language == code] for code in sorted(map(str, stated))}
    tokens = {code: _tokens(path, code, counts) for code, counts in by_language.items()}
    model = usage.fingerprint
    published = Published(
        model=usage.model,
        routers=tuple(RouterSpec(layer, model.n_experts, model.top_k) for layer in model.layers),
        corpus=("traffic", "counts of a server"),
        backend="usage-json",
        files=dict.fromkeys(by_language, path),
        notes=tuple(sorted(_notes(wanted, phase))),
        fingerprint=model,
        plan_sha256=by_language[min(by_language)][0].plan_sha256,
        phase=phase or "prompt",
    )
    selections = {code: _selections(counts) for code, counts in by_language.items()}
    return write_pooled(
        out,
        published,
        {code: pooled_routing(each.astype(np.float64), tokens[code], each) for code, each in selections.items()},
    )


def _require_no_refusal(path: Path, raw: object) -> None:
    """Raise a RunError where the server has answered with the reason why it gives no counts."""
    if isinstance(raw, dict) and (reasons := [raw[name] for name in ("error", "detail") if name in raw]):
        raise RunError(
            f"{path} holds no counts, but a refusal of the server: {shorten(reasons[0])}; expected what GET "
            "/isogloss/usage answers where the server was started with ISOGLOSS_USAGE=64, ISOGLOSS_ADMIN_KEY and "
            "--middleware isogloss.backends.vllm.plugin.plans.Plans: ask again with the header Authorization: Bearer "
            "and that key"
        )


def _under_one_plan(path: Path, counts: Sequence[UsageCounts], plan: str | None) -> list[UsageCounts]:
    """Return the counts of a plan, and those that are of any."""
    known = {_plan_of(each) for each in counts if each.language != OTHER}
    fit = {key for key in known if plan is None or _is_named(plan, *key)}
    if len(fit) > 1 or (known and not fit):
        names = sorted(_shown(*key) for key in known)
        raise RunError(
            f"{path} has counts under {', '.join(names)}; expected one of them by --plan, its name or the start of its "
            "hash"
        )
    return [each for each in counts if each.language == OTHER or _plan_of(each) in fit]


def _plan_of(counts: UsageCounts) -> tuple[str | None, str | None]:
    """Return the name and hash of a plan; without a hash there was none, whatever requests named."""
    return (UNSTEERED if counts.plan_sha256 is None else counts.plan), counts.plan_sha256


def _is_named(text: str, name: str | None, digest: str | None) -> bool:
    return text == name or bool(digest and digest.startswith(text))


def _shown(name: str | None, digest: str | None) -> str:
    return " ".join(filter(None, (name, digest and f"({digest[:12]})")))


def _tokens(path: Path, code: str, counts: Iterable[UsageCounts]) -> int:
    return whole(sum(each.tokens for each in counts), f"{path}: tokens of {code}", least=1)  # what a Run holds


def _selections(counts: Iterable[UsageCounts]) -> Int64Array:
    total: Int64Array = np.sum([each.selections for each in counts], axis=0, dtype=np.int64)
    return total


def _notes(counts: Iterable[UsageCounts], phase: Phase | None) -> Iterable[str]:
    yield "profiles are selection counts normalised per layer; a server keeps no weights"
    if phase is None:
        yield "tokens of prompts and of answers are counted together"
    left_out = {"that stated no language": None, "of plans and languages that were not told apart": OTHER}
    for words, language in left_out.items():
        if tokens := sum(each.tokens for each in counts if each.language == language):
            yield f"left out: {tokens} tokens of requests {words}"
