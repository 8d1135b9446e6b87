"""Writes what the documents quote from commands: the demo's output in README.md. Run by `make docs`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- demo:.*?-->\n).*?(<!-- end of demo -->)", re.DOTALL)


def demo_output() -> str:
    """Run the demo and return what it prints, with the path as `make demo` has it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "isogloss", "demo", "-o", "isogloss-demo"]
        environment = os.environ | {"COLUMNS": "100"}  # so wide that no cell of the table is broken
        done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)  # noqa: S603 - our own
    return done.stdout


def quoted(text: str) -> str:
    """Return the block as README.md holds it."""
    lines = [line.rstrip() for line in text.splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def main() -> None:
    """Rewrite the block."""
    block = quoted(demo_output())
    readme = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda found: found[1] + block + found[2], readme), encoding="utf-8")


if __name__ == "__main__":
    main()
