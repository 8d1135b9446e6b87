"""The pages for contributors and readers of files are current."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from run_examples import MANIFEST

from isogloss.analysis import Analysis
from isogloss.steering import KINDS
from isogloss.steering.plan import Plan

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "isogloss"
SCHEMAS = (
    *("manifest", "usage", "analysis", "findings", "experts", "expert_tokens", "specific_experts"),
    *("plan", "adapter", "adapt_report"),
    *("evaluation_settings", "lm_eval_settings", "item_record", "document_record", "arm_effect"),
    *(
        "learn_settings",
        "learn_step",
        "evaluation_summary",
        "study",
        "published",
        "sweep",
        "sweep_candidates",
        "sweep_dev",
        "sweep_winner",
        "sweep_result",
        "ablation",
        "ablation_families",
        "ablation_result",
        "version_settings",
        "model_version",
        "version_comparison",
    ),
)


def section(title: str) -> str:
    """One section of CONTRIBUTING.md."""
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def paths_in(text: str) -> set[str]:
    """Paths of files and folders in backticks."""
    return {path for path in re.findall(r"`([\w./]+/[\w./]*)`", text) if not path.startswith("ROOM")}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_those_of_the_types(document_script, name):
    """What `make docs` would write is there, and the page links to it."""
    script = document_script("format_schemas")
    assert set(SCHEMAS) == set(script.TYPES)
    assert json.loads((script.FOLDER / f"{name}.json").read_text(encoding="utf-8")) == script.schema(name)
    assert f"(schemas.md#{name}json)" in (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_page_of_fields_is_that_of_the_types(document_script):
    """What `make docs` would write is there, and every type that a field refers to has its own table."""
    script = document_script("format_schemas")
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.page()
    anchors = {re.sub(r"[^\w-]", "", heading.lower()) for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    assert {*re.findall(r"\(#([^)]*)\)", page)} <= anchors


def test_schemas_have_the_fields_of_the_files(document_script):
    """A manifest and a plan have the fields of their schemas, each of which is described."""
    script = document_script("format_schemas")
    plan = Plan(MANIFEST.fingerprint)
    for name, written in (("manifest", MANIFEST.to_json()), ("plan", plan.to_json())):
        properties = script.schema(name)["properties"]
        assert properties.keys() == written.keys()
        assert all("description" in field for field in properties.values() if "const" not in field)


def test_the_schema_of_an_analysis_has_the_fields_of_its_file(document_script):
    """Every field of the file is in the schema and described, but for three that repeat others."""
    analysis = Analysis("eng_Latn", 8, {})
    properties = document_script("format_schemas").schema("analysis")["properties"]
    assert analysis.to_json().keys() == {*properties, "n_layers", "pivots", "u_shape"}
    assert all("description" in field for field in properties.values())


def test_contributing_names_files_that_exist():
    """Every path on the page is there."""
    named = paths_in((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert [path for path in named if "ROOM" not in path and not (ROOT / path).exists()] == []


def test_a_kind_is_named_in_the_files_that_contributing_lists():
    """Files that name two or more kinds are those of the section, so the list is neither short nor long."""
    naming = set()
    for path in SOURCE.rglob("*.py"):
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if len(texts & set(KINDS)) > 1:
            naming.add(path.relative_to(ROOT).as_posix())
    assert naming == {path for path in paths_in(section("Add a kind of intervention")) if path.startswith("src/")}
