"""Writes what the documents quote: the demo's output, proven model families, JSON Schemas. Run by `make docs`.

``python docs/write.py families`` leaves the demo out, which takes minutes; ``schemas`` writes the schemas alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from format_schemas import write_schemas
from isogloss.backends.support import Proof, Support, proofs, supported_models
from markdown_parts import table

README = Path(__file__).parents[1] / "README.md"
FAMILIES = Path(__file__).parent / "families.md"
START = Path(__file__).parent / "start.md"

INTRODUCTION = """\
Written by `make docs` from what `make prove` recorded; `isogloss models --json` has the same.

A family is proven on a version of transformers when a tiny model of the library's own class, with random weights,
passes every check below. Your own checkpoint is checked before every capture, and by `isogloss doctor`.

"Chooses by" names the scoring. `bias`: added to the scores for the choice only. `groups`: only experts of the best
groups can be chosen. `by configuration`: one of the scorings, as the checkpoint says. "Bakes" names the kinds
of plan that `isogloss bake` stores in biases of the routers, where the checkpoint has them; adapters go into all."""


def demo_output() -> str:
    """Run the demo and return what it prints, with the path as `make demo` has it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "isogloss", "demo", "-o", "isogloss-demo"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603 - our own
    return done.stdout


def quoted(text: str) -> str:
    """Return the block as docs/start.md holds it."""
    lines = [line.rstrip() for line in text.splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def with_block(page: str, name: str, block: str) -> str:
    """Replace what lies between a block's two markers."""
    found = re.compile(rf"(<!-- {name}:.*?-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    return found.sub(lambda markers: markers[1] + block + markers[2], page)


def families_block() -> str:
    """Return README.md's overview: model types by how their routers choose, and those that are refused."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    refused = []
    for support in supported_models():
        if support.status == "refused":
            refused.append(f"{support.model_type} ({support.reason})")
        elif support.model_type == support.text_model_type:
            scoring, *others = support.selection.split(" + ")
            groups[scoring][f"with {' and '.join(others)}: " if others else ""].append(support.model_type)
    lines = ["| Experts are chosen by | Model types |", "|---|---|"]
    for scoring, kinds in sorted(groups.items()):
        names = "; ".join(extra + ", ".join(found) for extra, found in sorted(kinds.items()))
        lines.append(f"| {scoring if ' ' in scoring else f'`{scoring}`'} | {names} |")
    return "\n".join([*lines, f"| *refused* | {'; '.join(refused)} |", ""])


def families_page() -> str:
    """Return docs/families.md."""
    supports = supported_models()
    rows = [support for support in supports if support.model_type == support.text_model_type]
    composites = defaultdict[str, list[str]](list)
    for support in supports:
        if support not in rows:
            composites[support.text_model_type].append(support.model_type)
    parts = [
        "# Model families",
        INTRODUCTION,
        table(
            ("Model type", "For example", "Router", "Chooses by", "Bakes", "Proven on transformers", "Note"),
            [_family(row, composites[row.model_type]) for row in rows if row.status != "refused"],
        ),
        "## Refused",
        table(("Model type", "Reason"), [(f"`{row.model_type}`", row.reason or "") for row in rows if row.reason]),
        "## What was checked",
        _checked(proofs()),
        "## What does not apply",
        table(("Check", "Model types", "Reason"), _not_applicable(supports)),
    ]
    return "\n\n".join(parts) + "\n"


def _family(row: Support, composites: Sequence[str]) -> tuple[str, ...]:
    names = f"`{row.model_type}`" + (f", inside {', '.join(f'`{name}`' for name in composites)}" if composites else "")
    proven = ", ".join(row.transformers) or row.status
    return (
        names,
        row.example or "",
        f"`{row.router_class}`",
        f"`{row.selection}`",
        ", ".join(row.baked_kinds),
        proven,
        row.note,
    )


def _checked(shown: dict[str, Proof]) -> str:
    """List the checks once: a test demands that they are the same on every version."""
    on = [
        f"transformers {version} with torch {proof.torch} and Python {proof.python}" for version, proof in shown.items()
    ]
    lines = [f"On {', and '.join(on)}:", ""]
    for check, axes in next(iter(shown.values())).checks.items():
        values = "; ".join(f"{axis.replace('_', ' ')}: {', '.join(found)}" for axis, found in axes.items())
        lines.append(f"* {check.replace('_', ' ')}" + (f" ({values})" if values else ""))
    return "\n".join(lines)


def _not_applicable(supports: tuple[Support, ...]) -> list[tuple[str, ...]]:
    """List skipped checks with the model types that share the reason."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for support in supports:
        for proof in support.proof.values():
            for case, reason in proof.skipped.items():
                general = re.sub(r"\w+ForCausalLM", "the class", reason).replace(support.model_type, "the family")
                found[case.replace("_", " "), general].add(support.model_type)
    return [(case, ", ".join(sorted(names)), reason) for (case, reason), names in sorted(found.items())]


def main() -> None:
    """Rewrite the blocks of README.md and docs/start.md, docs/families.md and docs/schemas."""
    write_schemas()
    if sys.argv[1:] == ["schemas"]:
        return
    readme = with_block(README.read_text(encoding="utf-8"), "families", families_block())
    FAMILIES.write_text(families_page(), encoding="utf-8")
    README.write_text(readme, encoding="utf-8")
    if sys.argv[1:] != ["families"]:
        START.write_text(with_block(START.read_text(encoding="utf-8"), "demo", quoted(demo_output())), encoding="utf-8")


if __name__ == "__main__":
    main()
