"""What the numbers rest on: the manifest, the settings of the analysis, and the arms of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from isogloss.reports.figures import Section, Table
from isogloss.reports.text import label, scalar

_OWN_TABLES = ("languages", "packages", "routers", "item_ids", "notes")


def flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of nested JSON objects as dotted names and values."""
    for key, value in fields.items():
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


def _run_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the fields of a manifest; the specification of the routers once for all layers that share it."""
    layers: dict[str, list[int]] = {}
    for place, router in enumerate(manifest.get("routers") or ()):
        specification = "; ".join(f"{name} {scalar(value)}" for name, value in router.items() if name != "layer")
        layers.setdefault(specification, []).append(int(router.get("layer", place)))
    rows = list(flat({name: value for name, value in manifest.items() if name not in _OWN_TABLES}))
    rows += [(f"routers, layers {_spans(sorted(at))}", specification) for specification, at in layers.items()]
    if items := manifest.get("item_ids"):
        ends = scalar(items[0]) if len(items) == 1 else f"{scalar(items[0])} … {scalar(items[-1])}"
        rows.append(("items", f"{len(items):,}: {ends}"))
    return rows


def _language_table(languages: Mapping[str, Mapping[str, Any]]) -> Table:
    fields = list(dict.fromkeys(name for entry in languages.values() for name in entry))
    rows = []
    for code, entry in sorted(languages.items()):
        cells = (f"{value:,}" if isinstance(value, int) else scalar(value) for value in map(entry.get, fields))
        rows.append((label(code), *cells))
    words = {0, *(place for place, name in enumerate(fields, start=1) if name != "tokens")}
    header = ("language", *(name.replace("_", " ") for name in fields))
    caption = "Counted tokens, and SHA-256 of the routing file and of the texts, per language."
    return Table("Languages of the run", caption, header, rows, words)


def provenance_section(
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    arms: Mapping[str, Any] | None,
    *,
    study: Mapping[str, Any],
) -> Section:
    """Describe the run behind the numbers, the settings of the analysis, and the arms of the evaluation."""

    def table(title: str, caption: str, rows: Sequence[tuple[str, str]], *, folded: bool = True) -> Table:
        return Table(title, caption, ("field", "value"), rows, {0, 1}, folded=folded)

    what, recorded = "run", "As recorded in manifest.json when the run was captured. Hashes are SHA-256."
    if "languages" not in manifest:  # of an evaluation or a learned plan
        what, recorded = "settings", "As recorded in settings.json, which decides every number. Hashes are SHA-256."
    same = "With the same settings and run, the numbers are the same."
    packages = manifest.get("packages") or {}
    blocks = [table(f"The {what}", recorded, _run_rows(manifest), folded=False)] if manifest else []
    if manifest.get("languages"):
        blocks.append(_language_table(manifest["languages"]))
    pairs = (
        table("Settings of the study", "As recorded in study.json.", list(flat(study)), folded=False),
        table("Package versions", "Recorded when the run was captured.", list(flat(packages))),
        table("Settings of the analysis", same, list(flat(settings))),
        table("Arms of the evaluation", "What was compared with what.", list(flat({"arms": arms} if arms else {}))),
    )
    blocks += [each for each in pairs if each.rows]
    lead = (
        f"Every number above was computed from the {what} described here; equal hashes mean equal inputs."
        if manifest
        else "The run behind these numbers is not described here: report on its own folder for its manifest."
    )
    return Section("provenance", "Provenance", [lead], blocks)
