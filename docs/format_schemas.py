"""JSON Schemas of the files that isogloss writes, generated from the types that write and read them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_type_hints

from pydantic import TypeAdapter

from isogloss.analysis import Analysis, ExpertTable, ExpertTokens, SpecificExperts
from isogloss.evaluation import (
    ArmEffect,
    DocumentRecord,
    EvaluationSummary,
    ItemRecord,
    ModelVersion,
    VersionComparison,
)
from isogloss.evaluation.ablation import FamiliesFile
from isogloss.evaluation.records import EvaluationSettings, LmEvalSettings
from isogloss.learning import AdaptReport, LearnSettings, StepRecord
from isogloss.records import to_json
from isogloss.reports import PublishedComparison
from isogloss.reports.folders import Findings
from isogloss.runs.manifest import RUN_SCHEMA_VERSION, Manifest
from isogloss.runs.served_usage import USAGE_SCHEMA_VERSION, ServedUsage
from isogloss.steering.adapter_folder import ADAPTER_SCHEMA_VERSION, AdapterRecord
from isogloss.steering.plan import PLAN_SCHEMA_VERSION, Plan
from isogloss.workflows import Ablation, AblationResult, Study, Sweep, SweepResult
from isogloss.workflows.example import field_descriptions
from isogloss.workflows.sweep.results import CandidatesFile, DevFile, WinnerFile
from isogloss.workflows.versions import VersionSettings
from schema_page import schema_page

__all__ = ["FOLDER", "PAGE", "TYPES", "page", "schema", "write_schemas"]

Schema: TypeAlias = dict[str, Any]

FOLDER = Path(__file__).parent / "schemas"
PAGE = Path(__file__).parent / "schemas.md"

TYPES: dict[str, tuple[type, dict[str, Any]]] = {
    "manifest": (Manifest, {"schema_version": RUN_SCHEMA_VERSION}),
    "usage": (ServedUsage, {"schema_version": USAGE_SCHEMA_VERSION}),
    "analysis": (Analysis, {}),
    "findings": (Findings, {}),
    "experts": (ExpertTable, {}),
    "expert_tokens": (ExpertTokens, {}),
    "specific_experts": (SpecificExperts, {}),
    "plan": (Plan, {"schema_version": PLAN_SCHEMA_VERSION}),
    "adapt_report": (AdaptReport, {}),
    "adapter": (AdapterRecord, {"schema_version": ADAPTER_SCHEMA_VERSION}),
    "evaluation_settings": (EvaluationSettings, {}),
    "lm_eval_settings": (LmEvalSettings, {}),
    "item_record": (ItemRecord, {}),
    "document_record": (DocumentRecord, {}),
    "arm_effect": (ArmEffect, {}),
    "evaluation_summary": (EvaluationSummary, {}),
    "learn_settings": (LearnSettings, {}),
    "learn_step": (StepRecord, {}),
    "study": (Study, {}),
    "published": (PublishedComparison, {}),
    "sweep": (Sweep, {}),
    "sweep_candidates": (CandidatesFile, {}),
    "sweep_dev": (DevFile, {}),
    "sweep_winner": (WinnerFile, {}),
    "sweep_result": (SweepResult, {}),
    "ablation": (Ablation, {}),
    "ablation_families": (FamiliesFile, {}),
    "ablation_result": (AblationResult, {}),
    "version_settings": (VersionSettings, {}),
    "model_version": (ModelVersion, {}),
    "version_comparison": (VersionComparison, {}),
}
"""Name of the schema -> type, and fields that always have one value."""

UNWRITTEN = {"analysis": ("layer_pairs", "manifest")}
"""Name of the schema -> fields of the type that its file does not hold."""


def schema(name: str) -> Schema:
    """Return the JSON Schema of one of `TYPES`; the docstrings of its classes describe it and its fields."""
    kind, constants = TYPES[name]
    drawn: Schema = to_json(TypeAdapter(kind).json_schema())  # a default of NaN becomes null, as in the files
    if name in UNWRITTEN:
        drawn["properties"] = {key: part for key, part in drawn["properties"].items() if key not in UNWRITTEN[name]}
        drawn["$defs"] = {key: part for key, part in drawn["$defs"].items() if key in _used(drawn)}
    classes = {each.__name__: each for each in _classes(kind)}
    for part in (drawn, *drawn.get("$defs", {}).values()):
        if part.get("title") in classes:
            _describe(part, classes[part["title"]])
    for field, value in constants.items():
        drawn["properties"][field] = {"const": value, "title": "Schema Version"}
        drawn["required"] = sorted({*drawn["required"], field})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **drawn}


def page() -> str:
    """Return docs/schemas.md."""
    return schema_page({name: schema(name) for name in TYPES})


def write_schemas() -> None:
    """Write every schema into ``docs/schemas``, and the page that shows their fields."""
    FOLDER.mkdir(exist_ok=True)
    for name in TYPES:
        (FOLDER / f"{name}.json").write_text(json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(), "utf-8")


def _used(drawn: Schema) -> set[str]:
    """List the definitions that a schema refers to, at any depth."""
    used: set[str] = set()
    waiting: list[Any] = [drawn["properties"]]
    while waiting:
        new = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(waiting.pop()))) - used
        used |= new
        waiting += [drawn["$defs"][part] for part in new]
    return used


def _classes(kind: Any) -> Iterator[type]:  # noqa: ANN401 - any annotation
    """Yield the dataclasses that an annotation is made of, at any depth."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _classes(hint)
    for part in get_args(kind):
        yield from _classes(part)


def _describe(part: Schema, kind: type) -> None:
    """Describe an object by the start of its docstring, its fields by the sections Attributes, those of bases too."""
    text = inspect.getdoc(kind) or ""
    part["description"] = re.split(r"\n\n?(?:Attributes|Raises|Example):", text)[0].strip()
    for name, words in field_descriptions(kind).items():
        if name in part["properties"]:
            part["properties"][name]["description"] = words


if __name__ == "__main__":
    write_schemas()
