"""``pytest --prove FILE``: writes down which checks of the family suites each model family passed.

Only whole runs are written down: all three suites collected entirely, and no failure outside the families. A family
with a failure is named under "failed" and does not count as proven. The file keeps what it says of other versions of
transformers.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import platform
from pathlib import Path

import pytest
from packaging.version import Version

from isogloss.files import write_atomically

ROOT = Path(__file__).parents[2]
SUITES = tuple(
    ROOT / "tests" / "backends" / "huggingface" / f"test_{name}.py" for name in ("answers", "capture", "steer")
)
RECORD = ROOT / "src" / "isogloss" / "backends" / "proven.json"


def pytest_addoption(parser):
    """Add the option."""
    parser.addoption("--prove", type=Path, metavar="FILE", help="record what the family suites prove in FILE")


def pytest_configure(config):
    """Listen only where a record is wanted."""
    if (path := config.getoption("prove", None)) is not None:
        config.pluginmanager.register(Prover(path), "prover")


def readable(value):
    """Name a parameter's value: an intervention by its kind, a dtype without its library."""
    return getattr(value, "kind", None) or str(value).removeprefix("torch.")


def parameter(value):
    """A parametrised value without the marks that it may have."""
    return value.values[0] if isinstance(value, type(pytest.param())) else value


def axes_of(function):
    """Parameters of a test and their values, in the order of the source."""
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    return {mark.args[0]: [readable(parameter(value)) for value in mark.args[1]] for mark in reversed(marks)}


def tests_of(module):
    """The tests that a module defines, by name without ``test_``."""
    functions = {name.removeprefix("test_"): value for name, value in vars(module).items() if name.startswith("test_")}
    return {name: function for name, function in functions.items() if function.__module__ == module.__name__}


@functools.cache
def load(path):
    """Import a suite by its path: files of tests are no package."""
    spec = importlib.util.spec_from_file_location(f"prove_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checks():
    """What every family must pass: check to its other parameters and their values, sorted."""
    found = {}
    for path in SUITES:
        for check, function in tests_of(load(path)).items():
            axes = axes_of(function)
            if axes.pop("family", None) is not None:
                found[check] = {axis: axes[axis] for axis in sorted(axes)}
    return dict(sorted(found.items()))


def cases(check, axes):
    """Names of all the cases of a check, such as ``padding_side_changes_no_choice[left]``."""
    if not axes:
        return [check]
    return [f"{check}[{','.join(values)}]" for values in itertools.product(*(axes[axis] for axis in sorted(axes)))]


def case_of(item):
    """The check and parameters of a collected test, as `cases` names them, and its family or None."""
    check = item.originalname.removeprefix("test_")
    parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    family = parameters.pop("family", None)
    return cases(check, {axis: [readable(value)] for axis, value in parameters.items()})[0], family


class Prover:
    """Collects outcomes by family and case, and writes them at the end."""

    def __init__(self, path):
        self.path = path
        self.cases = {}
        self.passed, self.failed, self.skipped = set(), set(), {}
        self.verdict = ""

    def pytest_collection_finish(self, session):
        """Stop before anything runs where the selection is partial."""
        items = [item for item in session.items if item.path in SUITES]
        self.cases = {item.nodeid: case_of(item) for item in items}
        missing = expected() - set(self.cases.values())
        others = len(session.items) - len(items)
        if (missing or others) and not session.config.option.collectonly:
            found = f"{len(missing)} of their tests are missing, {others} others are selected"
            files = " ".join(str(path.relative_to(ROOT)) for path in SUITES)
            raise pytest.UsageError(f"--prove takes the whole family suites and nothing else, but {found}; run {files}")

    def pytest_runtest_logreport(self, report):
        """Keep one outcome of a case; a failure in any phase counts."""
        case = self.cases[report.nodeid]
        if report.failed:
            self.failed.add(case)
        elif report.skipped:
            self.skipped[case] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call":
            self.passed.add(case)

    def pytest_sessionfinish(self):
        """Write the record where every case has an outcome and no test outside the families failed."""
        if not (self.passed or self.failed):
            return
        unknown = set(self.cases.values()) - self.passed - self.failed - set(self.skipped)
        outside = sorted(check for check, family in self.failed if family is None)
        if unknown or outside:
            self.verdict = f"{self.path} is unchanged: {len(unknown)} cases did not end; failed outside: {outside}"
            return
        from transformers import __version__ as version  # noqa: PLC0415 - heavy, and only this needs it

        record = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        record[version] = self.proof()
        ordered = {key: record[key] for key in sorted(record, key=Version)}
        write_atomically(self.path, (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode())
        proof = record[version]
        self.verdict = f"{self.path}: {len(proof['families'])} families proven on transformers {version}"
        if proof["failed"]:
            self.verdict += f"; failed: {', '.join(proof['failed'])}"

    def proof(self):
        """What this run shows, as JSON."""
        import torch  # noqa: PLC0415 - as above

        families = sorted({family for _, family in self.cases.values() if family is not None})
        failed = {family: sorted(case for case, of in self.failed if of == family) for family in families}
        return {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "checks": checks(),
            "families": {family: self.about(family) for family in families if not failed[family]},
            "failed": {family: found for family, found in failed.items() if found},
        }

    def about(self, family):
        """The row that describes a proven family, and the cases that do not apply to it, with the reason."""
        from models import text_type  # noqa: PLC0415 - as above

        skipped = {case: reason for (case, of), reason in sorted(self.skipped.items(), key=str) if of == family}
        return {"row": text_type(family), "skipped": skipped}

    def pytest_terminal_summary(self, terminalreporter):
        """Say what was written, last."""
        if self.verdict:
            terminalreporter.write_line(self.verdict)


def expected():
    """All cases of the suites, with their families, and their other tests."""
    found = set()
    for path in SUITES:
        for check, function in tests_of(load(path)).items():
            axes = axes_of(function)
            families = axes.pop("family", [None])
            found |= set(itertools.product(cases(check, axes), families))
    return found
