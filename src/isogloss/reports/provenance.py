"""What the numbers rest on: the manifest, the settings of the analysis, and the arms of the evaluation."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from isogloss.reports.figures import Section, Table
from isogloss.reports.text import label, scalar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from isogloss.evaluation.summary import EvaluationSummary

__all__ = ["flat", "provenance_section"]

_OWN_TABLES = ("languages", "packages", "routers", "item_ids", "notes")


def flat(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of nested JSON objects as dotted names and values."""
    for key, value in found.items():
        name = scalar(f"{prefix}{key}")
        if isinstance(value, dict) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, _value(value)


def _value(value: object) -> str:
    if isinstance(value, list) and len(value) > 1 and all(type(part) is int for part in value):
        return _spans(value)
    return scalar(None if value == {} else value)


def _spans(layers: Sequence[int]) -> str:
    """Write increasing layers as ranges, such as ``1–3, 7``."""
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _router_rows(routers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Say the specification of the routers once for all layers that share it."""
    layers: dict[str, list[int]] = {}
    for place, router in enumerate(routers):
        specification = "; ".join(f"{name} {scalar(value)}" for name, value in router.items() if name != "layer")
        layers.setdefault(specification, []).append(int(router.get("layer", place)))
    return [(f"routers, layers {_spans(sorted(at))}", specification) for specification, at in layers.items()]


def _item_row(item_ids: Sequence[object]) -> list[tuple[str, str]]:
    if not item_ids:
        return []
    ends = scalar(item_ids[0]) if len(item_ids) == 1 else f"{scalar(item_ids[0])} … {scalar(item_ids[-1])}"
    return [("items", f"{len(item_ids):,}: {ends}")]


def _run_table(manifest: Mapping[str, Any]) -> Table:
    rows = list(flat({name: value for name, value in manifest.items() if name not in _OWN_TABLES}))
    rows += _router_rows(manifest.get("routers") or ())
    rows += _item_row(manifest.get("item_ids") or ())
    caption = "As recorded in manifest.json when the run was captured. Hashes are SHA-256."
    return Table("The run", caption, ("field", "value"), tuple(rows), text_columns=frozenset({0, 1}))


def _language_table(languages: Mapping[str, Mapping[str, Any]]) -> Table:
    fields = list(dict.fromkeys(name for entry in languages.values() for name in entry))
    rows = []
    for code, entry in sorted(languages.items()):
        tokens = (f"{value:,}" if isinstance(value, int) else scalar(value) for value in map(entry.get, fields))
        rows.append((label(code), *tokens))
    words = frozenset({0, *(place + 1 for place, name in enumerate(fields) if name != "tokens")})
    header = ("language", *(name.replace("_", " ") for name in fields))
    caption = "Counted tokens, and SHA-256 of the routing file and of the texts, per language."
    return Table("Languages of the run", caption, header, tuple(rows), text_columns=words, folded=True)


def _pairs(title: str, caption: str, found: Mapping[str, Any]) -> list[Table]:
    rows = tuple(flat(found))
    both = frozenset({0, 1})
    return [Table(title, caption, ("field", "value"), rows, text_columns=both, folded=True)] if rows else []


def provenance_section(
    manifest: Mapping[str, Any], settings: Mapping[str, Any], evaluation: EvaluationSummary | None
) -> Section:
    """Describe the run behind the numbers.

    Args:
        manifest: of the Run.
        settings: of the analysis, such as its resampling.
        evaluation: whose arms are to be listed, or None.

    Returns:
        The last section of a report.
    """
    blocks = [_run_table(manifest)] if manifest else []
    if manifest.get("languages"):
        blocks.append(_language_table(manifest["languages"]))
    blocks += _pairs("Package versions", "Recorded when the run was captured.", manifest.get("packages") or {})
    blocks += _pairs("Settings of the analysis", "With the same settings and run, the numbers are the same.", settings)
    if evaluation is not None:
        blocks += _pairs("Arms of the evaluation", "What was compared with what.", {"arms": evaluation.arms})
    lead = (
        "Every number above was computed from the run described here; equal hashes mean equal inputs."
        if manifest
        else "The run behind these numbers is not described here: report on its own folder for its manifest."
    )
    return Section("provenance", "Provenance", (lead,), tuple(blocks))
