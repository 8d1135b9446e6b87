"""Runs from routing that others published as summed weights or as sets of experts, without counts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.errors import LanguageError, RunError
from isogloss.files import read_json
from isogloss.languages import resolve
from isogloss.routing import RouterSpec
from isogloss.runs.manifest import EXPERT_SETS, MASS_JSON
from isogloss.runs.pooled import Published, is_weight, pooled_routing, whole, write_pooled
from isogloss.runs.run import Run

__all__ = ["import_expert_sets", "import_mass_json"]

_TOLERANCE = 1e-2  # of the sums of layers, relative
_FIELDS = ("model", "num_experts", "top_k", "layers", "mass")
_SOURCE = "published routing"
_LARGEST = 1 << 20  # tokens, experts, layers: beyond any model's


def import_mass_json(path: str | Path, out: str | Path, *, category: str | None = None) -> Run:
    """Convert summed combine weights by category into a pooled Run.

    The file is ``{"model": str, "num_experts": int, "top_k": int, "layers": [int, …], "mass": {category: {layer:
    [number, …]}}}``: the weights of the chosen experts, renormalised per token, summed over tokens; so a layer sums to
    its number of tokens. Profiles are the weights divided by that sum. Nobody knows how often an expert was chosen:
    what needs selections is refused by name, and so is all that needs items.

    Args:
        path: of the file.
        out: folder of the new Run.
        category: None imports every category that is a language, such as ``en``, and names the others in the notes;
            else this one alone, as text in English, such as a task's.

    Raises:
        RunError: ``out`` holds something else; the file is malformed; a layer lacks experts or sums to other than the
            layer above it; no category is a language, or there is none of that name.
    """
    path = Path(path)
    raw = read_json(path)
    missing = [name for name in _FIELDS if not isinstance(raw, dict) or name not in raw]
    if missing:
        lacking = f"; it has no {missing[0]}" if isinstance(raw, dict) else ""
        raise RunError(f"{path}: expected an object with {', '.join(_FIELDS)}{lacking}")
    n_experts, top_k = (
        whole(raw[name], f"{path}: {name}", least=1, most=_LARGEST) for name in ("num_experts", "top_k")
    )
    layers = (
        [whole(each, f"{path}: layers", most=_LARGEST) for each in raw["layers"]]
        if isinstance(raw["layers"], list)
        else []
    )
    masses = raw["mass"]
    if not layers or layers != sorted(set(layers)) or not isinstance(masses, dict) or not 0 < top_k <= n_experts:
        raise RunError(f"{path}: expected ascending layers, top_k up to num_experts, and mass by category")
    languages, others = _categories(masses, category, path)
    routers = tuple(RouterSpec(layer, n_experts, top_k, scoring="softmax", renormalise=True) for layer in layers)
    read = {code: _mass(masses[name], layers, n_experts, f"{path}: {name}") for code, name in languages.items()}
    notes = ["profiles are mean combine weights over the chosen experts; how often each was chosen was not published"]
    if others:
        notes.append(f"no languages, and left out: {', '.join(others)}; --category imports one as text in English")
    if category:
        notes.append(f"eng_Latn is the category {category}")
    routings = {code: pooled_routing(each, round(float(each[0].sum()))) for code, each in read.items()}
    published = Published(
        model=str(raw["model"]),
        routers=routers,
        corpus=(path.stem, _SOURCE),
        backend=MASS_JSON,
        files=dict.fromkeys(read, path),
        notes=tuple(notes),
    )
    return write_pooled(out, published, routings)


def import_expert_sets(path: str | Path, out: str | Path, *, n_experts: int, model: str = "unknown") -> Run:
    """Convert the set of each language's most important experts into a pooled Run.

    The file is ``{language: [id, …]}`` with id = layer x ``n_experts`` + expert, layers counted over routed ones alone.
    Sets of a layer have the same size n in every language. Profiles are uniform over a set, so that divergence is the
    share of a set that the other lacks, times log 2 / (log ``n_experts`` - log n): a distance between sets, no more.
    Entropies, selections, and all that needs items are refused by name.

    Args:
        path: of the file.
        out: folder of the new Run.
        n_experts: per layer.
        model: that the sets are of.

    Raises:
        RunError: ``out`` holds something else; the file is malformed, or sets of a layer differ in size.
        LanguageError: a language is unknown.
    """
    path = Path(path)
    raw = read_json(path)
    if not isinstance(raw, dict) or not raw or n_experts < 1:
        raise RunError(f"{path}: expected an object with the list of expert ids of each language, and n_experts from 1")
    sets: dict[str, FloatArray] = {}
    last = max(max(_ids(ids, f"{path}: {code}")) for code, ids in raw.items())
    for name, ids in raw.items():
        chosen = np.zeros((1 + last // n_experts, n_experts))
        chosen.ravel()[ids] = 1.0
        if chosen.sum() != len(ids) or (code := resolve(name)) in sets:
            raise RunError(f"{path}: {name} has an id twice, or is there under another name; expected each once")
        sets[code] = chosen
    sizes = {code: tuple(each.sum(axis=1).astype(int).tolist()) for code, each in sets.items()}
    first = next(iter(sizes))
    if odd := next((code for code in sizes if sizes[code] != sizes[first] or not all(sizes[code])), None):
        raise RunError(
            f"{path}: {odd} has sets of {list(sizes[odd])} experts by layer, {first} of {list(sizes[first])}; expected "
            "the same sizes, at least 1, in every language"
        )
    routers = tuple(RouterSpec(layer, n_experts, size, scoring="softmax") for layer, size in enumerate(sizes[first]))
    published = Published(
        model=model,
        routers=routers,
        corpus=(path.stem, _SOURCE),
        backend=EXPERT_SETS,
        files=dict.fromkeys(sets, path),
        notes=("profiles are uniform over published sets of experts: nothing says how much each is used",),
    )
    return write_pooled(out, published, {code: pooled_routing(each, 1) for code, each in sets.items()})


def _categories(masses: Mapping[str, Any], category: str | None, path: Path) -> tuple[dict[str, str], list[str]]:
    """Return language to category, and the categories that are no languages."""
    if category is not None:
        if category not in masses:
            raise RunError(f"{path}: no category {category!r}; expected one of {', '.join(masses)}")
        return {"eng_Latn": category}, []
    languages: dict[str, str] = {}
    for name in masses:
        with suppress(LanguageError):
            languages[resolve(name)] = name
    if not languages:
        raise RunError(f"{path}: no category is a language ({', '.join(masses)}); import one of them with --category")
    return languages, [name for name in masses if name not in languages.values()]


def _mass(raw: Any, layers: list[int], n_experts: int, where: str) -> FloatArray:  # noqa: ANN401 - JSON before it is checked
    """Read ``[n_layers, n_experts]`` of one category."""
    rows = [raw.get(str(layer)) for layer in layers] if isinstance(raw, dict) else []
    for layer, row in zip(layers, rows, strict=False):
        if not isinstance(row, list) or len(row) != n_experts or not all(is_weight(each) for each in row):
            raise RunError(f"{where}, layer {layer}: expected {n_experts} numbers of at least 0")
    if not rows:
        raise RunError(f"{where}: expected an object with a list for each layer")
    mass = np.array(rows, dtype=np.float64)
    sums = mass.sum(axis=1)
    if sums.min() < 1 or np.ptp(sums) > _TOLERANCE * sums.max():
        raise RunError(
            f"{where}: layers sum to {sums.min():g} to {sums.max():g}; expected the number of tokens in each"
        )
    return mass


def _ids(raw: Any, where: str) -> list[int]:  # noqa: ANN401 - JSON before it is checked
    if not isinstance(raw, list) or not raw:
        raise RunError(f"{where} has no list of expert ids")
    return [whole(each, where, most=_LARGEST) for each in raw]
