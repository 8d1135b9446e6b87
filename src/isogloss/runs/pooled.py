"""Runs from what others published: one record per language, of which the items and most of the capture are unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isogloss.arrays import FloatArray
from isogloss.errors import RunError
from isogloss.files import read_bytes, sha256
from isogloss.progress import busy
from isogloss.routing import Fingerprint, Phase, RouterSpec
from isogloss.runs.language_routing import LanguageRouting
from isogloss.runs.manifest import Manifest
from isogloss.runs.run import Run, run_writer

__all__ = ["Published", "is_weight", "pooled_routing", "whole", "write_pooled"]

_LARGEST, _HEAVIEST = int(np.iinfo(np.int32).max), float(np.finfo(np.float32).max)


def pooled_routing(
    weights: FloatArray, tokens: int, selections: npt.NDArray[np.integer] | None = None
) -> LanguageRouting:
    """Make the record of a language; consistency and entropy of items are unknown (NaN).

    Args:
        weights: ``[n_layers, n_experts]``, a positive sum in every layer; profiles are their shares.
        tokens: counted ones.
        selections: the same shape; None where nobody knows them, which the manifest's backend says.
    """
    unknown = np.full((1, len(weights)), np.nan, dtype=np.float32)
    return LanguageRouting(
        profiles=(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)[None],
        selections=np.asarray(np.zeros(weights.shape) if selections is None else selections, dtype=np.int32)[None],
        tokens=np.array([tokens], dtype=np.int32),
        consistency=unknown,
        entropy=unknown.copy(),
    )


def whole(value: object, where: str, *, least: int = 0, most: int = _LARGEST) -> int:
    """Return a whole number of a file; RunError says where another value stands."""
    if type(value) is not int or not least <= value <= most:
        raise RunError(f"{where} is {value!r}; expected a whole number from {least} to {most}")
    return value


def is_weight(value: object) -> bool:
    """Whether a value is a sum of weights: a number of at least 0 that float32 holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _HEAVIEST


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of published routing.

    Attributes:
        model: its name.
        routers: of the layers.
        corpus: its name, and the kind of its source.
        backend: name of the importer.
        files: full code to the file that was read.
        notes: on what the numbers are.
        fingerprint: of the model, where it is known.
        plan_sha256: hash of the plan that the model was steered by.
        phase: of the tokens.
    """

    model: str
    routers: tuple[RouterSpec, ...]
    corpus: tuple[str, str]
    backend: str
    files: Mapping[str, Path]
    notes: tuple[str, ...]
    fingerprint: Fingerprint | None = None
    plan_sha256: str | None = None
    phase: Phase = "prompt"


def write_pooled(out: str | Path, published: Published, routings: Mapping[str, LanguageRouting]) -> Run:
    """Write a pooled Run, or finish one that a stopped import began.

    Args:
        out: folder of the Run.
        published: what is known.
        routings: full code to record.

    Raises:
        RunError: ``out`` holds something else, or an import of other files.
    """
    name, source = published.corpus
    hashes = {path: sha256(read_bytes(path)) for path in {*published.files.values()}}
    manifest = Manifest(
        status="partial",
        model=published.model,
        revision=None,
        config_sha256="unknown",
        fingerprint=published.fingerprint,
        routers=published.routers,
        corpus={"name": name, "source": source, "licence": "not stated"},
        granularity="pooled",
        item_ids=("pooled",),
        token_scope="all",
        backend=published.backend,
        dtype="unknown",
        seed=0,
        packages={},
        plan_sha256=published.plan_sha256,
        phase=published.phase,
        texts_sha256={code: hashes[path] for code, path in published.files.items()},
        notes=published.notes,
    )
    with run_writer(out, manifest) as writer, busy("import"):
        for language in sorted(routings.keys() - writer.done):
            writer.write(language, routings[language], manifest.texts_sha256[language])
        return writer.finish()
