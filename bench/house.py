"""Measures the state of the code base: size, imports between rooms, what a new kind or backend touches, quick commands.

``python bench/house.py [CHECKOUT] [--json FILE] [--page FILE] [--tests SECONDS|run]``; `make measure` compares this
checkout with the values of commit 504dec6, kept in ``bench/house_before.json``, and writes ``docs/house.md``.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Values: TypeAlias = dict[str, Any]
"""What was measured, by its description: a number, or a sorted list of files, which counts as its length."""

REPOSITORY = Path(__file__).parents[1]
BEFORE = Path(__file__).with_name("house_before.json")
MODULES = {path.stem for path in (REPOSITORY / "src" / "isogloss").glob("*.py")}
FOUNDATIONS = MODULES - {"__init__", "__main__", "face"}
NO_ROOMS = FOUNDATIONS | {""}  # nor is the package itself
KIND = "suppress"  # a kind whose name is no other word
BACKENDS = {"huggingface", "vllm", "vllm_plugin", "sglang_plugin"}
LONGEST_FUNCTION, LONGEST_FILE, SHARED_LINES, ROUNDS = 60, 400, 6, 3
DELTA = ("--rule", "delta", "--base", "run", "--threshold", "0.05")
SMALL = ("--languages", "en,de,sw", "--items", "8")


def measure_source(checkout: Path) -> Values:
    """Measure what reading the source tells."""
    source = checkout / "src" / "isogloss"
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in trees}
    names = {path: path.relative_to(source).as_posix() for path in trees}
    outside = [path for path in trees if not names[path].startswith("backends/")]
    edges = _edges(checkout / "src")
    return {
        "Python files of src/isogloss": len(lines),
        "Lines of src/isogloss": sum(lines.values()),
        "Lines of the report": sum(
            count for path, count in lines.items() if names[path].startswith(("report/", "reports/"))
        ),
        "Imports between rooms": sum(_room(one) != _room(other) for one, other in edges),
        "Imports from workflows to backends": sum(_goes(edge, "workflows", "backends") for edge in edges),
        "Imports from evaluation to backends": sum(_goes(edge, "evaluation", "backends") for edge in edges),
        f'Files that name a kind of intervention, as "{KIND}"': [
            names[path] for path, tree in trees.items() if KIND in set(_texts(tree))
        ],
        "Files outside backends/ that name a backend": [names[path] for path in outside if _names_backend(trees[path])],
        f"Functions over {LONGEST_FUNCTION} lines": sum(map(_long_functions, trees.values())),
        f"Files over {LONGEST_FILE} lines": sum(count > LONGEST_FILE for count in lines.values()),
        "Assignments to a name `found`": sum(_assignments(tree, "found") for tree in trees.values()),
        f"Pairs of places that share {SHARED_LINES} or more lines": _duplicates(trees),
    }


def _edges(source: Path) -> list[tuple[str, str]]:
    """List imports between modules of isogloss, those of the foundations apart."""
    import grimp  # noqa: PLC0415 - a process that was started from a larger one has at least its peak memory

    sys.path.insert(0, str(source))
    try:
        graph = grimp.build_graph("isogloss", cache_dir=None)
    finally:
        sys.path.remove(str(source))
    pairs = [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]
    return [pair for pair in pairs if not NO_ROOMS & {_room(name) for name in pair}]


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _goes(edge: tuple[str, str], start: str, end: str) -> bool:
    former = {"studies": "workflows"}  # the room's name at the first measurement
    return tuple(former.get(_room(module), _room(module)) for module in edge) == (start, end)


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module, docstrings as one text each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _names_backend(tree: ast.AST) -> bool:
    imported = any(f"isogloss.backends.{name}" in module for module in _imported(tree) for name in BACKENDS)
    return imported or not BACKENDS.isdisjoint(_texts(tree))


def _long_functions(tree: ast.AST) -> int:
    """Count functions with too many lines, docstrings apart."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.end_lineno or 0) - node.lineno + 1 - len(_docstring(node)) for node in functions]
    return sum(length > LONGEST_FUNCTION for length in lengths)


def _docstring(node: ast.AST) -> range:
    """Give the lines of a docstring."""
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return range(first.lineno, (first.end_lineno or first.lineno) + 1)
    return range(0)


def _assignments(tree: ast.AST, name: str) -> int:
    """Count statements that assign to a name alone."""
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return sum(isinstance(target, ast.Name) and target.id == name for target in targets)


def _duplicates(trees: dict[Path, ast.Module]) -> int:
    """Count pairs of places with equal lines; imports, docstrings, comments and blank lines do not count."""
    places: defaultdict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, tree in trees.items():
        code = list(_code_lines(path, tree))
        for start in range(len(code) - SHARED_LINES + 1):
            places[tuple(code[start : start + SHARED_LINES])].append((path, start))
    windows = {pair for equal in places.values() for pair in itertools.combinations(equal, 2)}
    # Windows that follow one another in both places are one pair.
    return sum(((a, i - 1), (b, j - 1)) not in windows for (a, i), (b, j) in windows)


def _code_lines(path: Path, tree: ast.Module) -> Iterator[str]:
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        skipped.update(_docstring(node))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if number not in skipped and text and not text.startswith("#"):
            yield text


def measure_commands(checkout: Path) -> Values:
    """Measure CPU seconds and peak memory of what should be quick, medians of three runs each."""
    with tempfile.TemporaryDirectory() as folder:
        _make_run(checkout, Path(folder))
        values: Values = {}
        for name, *arguments in (
            ("`isogloss --help`", "-m", "isogloss", "--help"),
            ("`import isogloss`", "-c", "import isogloss"),
            ("`isogloss analyze RUN`", "-m", "isogloss", "analyze", "run", "-o", "analysis"),
            ("`isogloss report EVAL`", "-m", "isogloss", "report", "eval", "-o", "report.html"),
        ):
            rounds = [_run(checkout, Path(folder), arguments) for _ in range(ROUNDS)]
            values[f"CPU seconds of {name}"] = round(statistics.median(seconds for seconds, _ in rounds), 2)
            values[f"Peak memory of {name}, MB"] = round(statistics.median(size for _, size in rounds))
    return values


def _make_run(checkout: Path, folder: Path) -> None:
    """Make ``run`` and ``eval`` of the organism: three languages, eight items."""
    for command in (
        ("capture", "organism", "--corpus", "organism", *SMALL, "-o", "run"),
        ("capture", "organism", "--corpus", "organism:problems", *SMALL, "-o", "task"),
        ("plan", "task", *DELTA, "--kind", "soft", "--strength", "0.5", "-o", "plan.json"),
        ("evaluate", "organism", "--plan", "plan.json", "--task", "organism", *SMALL, "-o", "eval"),
    ):
        _run(checkout, folder, ["-m", "isogloss", *command])


def _run(checkout: Path, folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Run Python on a checkout's source; return CPU seconds and peak memory in MB."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    with (folder / "output").open("wb") as output:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)  # noqa: S603 - our own
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {(folder / 'output').read_text(encoding='utf-8')}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _tests(checkout: Path, given: str | None) -> Values:
    if given is None:
        return {}
    if given != "run":
        return {"Minutes of `make test`": round(float(given) / 60, 1)}
    start = time.perf_counter()
    subprocess.run(["make", "test"], cwd=checkout, check=True)  # noqa: S607 - make of this machine
    return {"Minutes of `make test`": round((time.perf_counter() - start) / 60, 1)}


def page(before: Values, after: Values) -> str:
    """Write docs/house.md."""
    rows = [
        f"| {name} | {_shown(before.get(name))} | {_shown(after.get(name))} |"
        for name in dict.fromkeys([*before, *after])
    ]
    lists = [
        f"{name}: {', '.join(f'`{file}`' for file in value)}."
        for name, value in after.items()
        if isinstance(value, list)
    ]
    return "\n".join([INTRODUCTION, "| | 504dec6 | now |", "|---|---|---|", *rows, "", *lists, ""])


INTRODUCTION = f"""\
# The state of the house

Written by `make measure`. A room is a package directly under `isogloss`; imports count between modules of different
rooms, without those of {", ".join(sorted(FOUNDATIONS))}. CPU seconds (user and system) and peak memory are medians of
{ROUNDS} runs on the organism, three languages and eight items. Lines of functions are without docstrings, and places
that share lines are without docstrings, comments and imports.
"""


def _shown(value: object) -> str:
    return "" if value is None else f"{len(value) if isinstance(value, list) else value:,}"


def main() -> None:
    """Measure, print a table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", type=Path, default=REPOSITORY)
    parser.add_argument("--json", type=Path, help="write the values here")
    parser.add_argument("--page", type=Path, help="write a page that compares them with the first ones here")
    parser.add_argument("--tests", help="seconds that `make test` took, or 'run' to time it")
    parser.add_argument("--source-only", action="store_true", help="leave the commands out")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not (checkout / "src" / "isogloss").is_dir():
        parser.error(f"{checkout} is no checkout of isogloss")
    commands = {} if options.source_only else measure_commands(checkout)  # first, while this process is small
    values = measure_source(checkout) | commands | _tests(checkout, options.tests)
    for name, value in values.items():
        print(f"{_shown(value):>10}  {name}")
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if options.page:
        before = json.loads(BEFORE.read_text(encoding="utf-8"))
        options.page.write_text(page(before, values), encoding="utf-8")


if __name__ == "__main__":
    main()
