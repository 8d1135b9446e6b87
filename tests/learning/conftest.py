"""What the tests of learning learn from."""

from __future__ import annotations

import json

import pytest
from models import TEXTS


@pytest.fixture
def examples(tmp_path):
    """A file of examples in two languages."""
    rows = [
        {"language": code, "prompt": f"{text} {number}?", "answer": f" {TEXTS[number % 5]}", "id": f"{number}"}
        for code, text in (("sw", "Ngapi"), ("de", "Wie viele"))
        for number in range(16)
    ]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
