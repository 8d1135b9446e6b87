"""Results as JSON files: what is written is read back by its class, and damage is refused with the field's path."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from isogloss.errors import RunError
from isogloss.records import from_json, read_typed, to_json, write_typed
from isogloss.statistics import Estimate


@dataclass(frozen=True)
class Leaf:
    """A part of a result."""

    estimate: Estimate | None
    name: str = "leaf"


@dataclass(frozen=True)
class Tree(Leaf):
    """A result with every kind of field."""

    layers: Mapping[int, float] = field(default_factory=dict)
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    note: str | None = None


FULL = Tree(Estimate(0.5, math.nan, math.nan, 3), "tree", {2: 0.25}, {"a": Leaf(None)}, ("x", "y"), "a note")
RAW = {
    "estimate": {"value": 0.5, "low": None, "high": None, "n": 3},
    "name": "tree",
    "layers": {"2": 0.25},
    "leaves": {"a": {"estimate": None, "name": "leaf"}},
    "names": ["x", "y"],
    "note": "a note",
}


def test_a_result_becomes_json_and_comes_back(tmp_path: Path) -> None:
    """NaN is null on disk, keys are strings, tuples are lists; reading undoes it."""
    write_typed(tmp_path / "tree.json", FULL)
    assert json.loads((tmp_path / "tree.json").read_text()) == RAW
    assert read_typed(tmp_path / "tree.json", Tree) == FULL


def test_defaults_of_nothing_are_left_out() -> None:
    """A field without a value is absent where its default says so, and null where it must be there."""
    assert to_json(Tree(None)) == {"estimate": None, "name": "leaf"}
    assert from_json(Tree, {"estimate": None}, "here") == Tree(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, r"there: name: Input should be a valid string"),
        ({"leaves": {"a": {}}}, r"there: leaves\.a\.estimate: missing"),
        ({"leaves": {"a": {"estimate": None, "more": 1}}}, r"there: leaves\.a\.more: unknown field"),
        ({"estimate": {"value": "0.5", "low": None, "high": None, "n": 3}}, r"there: estimate\.value: .*another type"),
    ],
)
def test_damage_is_refused_with_the_path_of_the_field(change: dict[str, object], message: str) -> None:
    """One line says where in the file what is wrong."""
    with pytest.raises(RunError, match=message) as refused:
        from_json(Tree, RAW | change, "there")
    assert "\n" not in str(refused.value)
