"""How far apart languages are by other measures: genealogy, typology, place, script, shared tokens.

Genealogy, typology and place come from the URIEL knowledge base in the data files of the package lang2vec, which the
extra ``languages`` installs. Its code is not imported: it needs a module that setuptools no longer has.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isogloss.arrays import BoolArray, FloatArray, StoredArray
from isogloss.errors import LanguageError, RunError
from isogloss.languages import resolve, script
from isogloss.records import Record
from isogloss.runs import Run

__all__ = ["REFERENCE_NAMES", "ReferenceDistance", "reference_distances", "token_overlap_distance"]

_PARTS = {"syntax": "S_", "phonology": "P_", "inventory": "INV_"}

REFERENCE_NAMES = ("genealogical", "typological", *_PARTS, "geographic", "script")
"""What `reference_distances` can give."""

# FLORES code -> the code under which URIEL's tree lists the same language; the rows of these codes are empty there, and
# that of Chinese ends at Sino-Tibetan. Latgalian is listed as Latvian, Twi as Akan, both written Norwegians as one.
_IN_TREE = {"lvs": "lav", "ltg": "lav", "nno": "nor", "nob": "nor", "twi": "aka", "zho": "cmn"}

# FLORES code -> macrolanguage under which URIEL describes this standard language: under the individual code it has
# no or hardly any observed features. Macrolanguages that are groups of languages (Quechua, Fula) describe none of them.
_IN_FEATURES = dict(
    pair.split(":")
    for pair in "arb:ara azj:aze gaz:orm lvs:lav nno:nor npi:nep ory:ori pbt:pus twi:aka zsm:msa".split()  # noqa: SIM905 - a table
)

_ISOLATES = frozenset({"eus"})
"""Languages whose empty row in the tree is correct: they have no relatives."""

KNOWN_SHARE = 0.4
"""A language is known to a part of typology when this share of its features was observed. Any two such languages of
FLORES-200 share at least 20 observed features; at a quarter, some share fewer than five."""

_EARTH_TOLERANCE = 0.01
"""A point on the unit sphere, recovered from rounded distances, is off it by 0.001; a language without place is not
on it at all."""


@dataclass(frozen=True, eq=False)
class ReferenceDistance(Record):
    """A distance between languages that does not depend on any model.

    Attributes:
        name: one of `REFERENCE_NAMES`.
        languages: full codes, in the order of both axes.
        values: ``[n, n]`` in [0, 1], symmetric, zero on the diagonal; NaN in the rows and columns of unknown languages.
        unknown: full codes of the languages that are missing from the source.
        source: where the distance comes from, and its formula.
        version: of the source.
    """

    name: str
    languages: tuple[str, ...]
    values: StoredArray
    unknown: tuple[str, ...]
    source: str
    version: str


def reference_distances(
    languages: Sequence[str], names: Sequence[str] = REFERENCE_NAMES, *, imputed: bool = False
) -> dict[str, ReferenceDistance]:
    """Look up how far apart languages are by genealogy, typology, place and script.

    * ``genealogical``: angle between the sets of ancestors in Glottolog's tree, as URIEL measures it: 0 for equal
      ancestors, 1 for unrelated languages. With s shared ancestors of a and b, ``2 / pi * arccos(s / sqrt(a * b))``.
    * ``syntax``, ``phonology``, ``inventory``: the same angle between typological features that were observed in both
      languages, averaged over sources. A language with fewer than 40 % of them observed is unknown.
    * ``typological``: mean of these three; unknown where one of them is.
    * ``geographic``: great circle between the places of the languages, divided by half the Earth's circumference.
    * ``script``: 0 where both are written in the same script, 1 elsewhere; needs no data. ``Hans`` and ``Hant`` differ.

    Two varieties of one code (``ace_Arab``, ``ace_Latn``) differ in script alone. URIEL's own distances fill unobserved
    features from relatives and neighbours (k nearest by genealogy, place and features), which makes typology agree
    with genealogy and place by construction; here that is an option.

    Args:
        languages: as `isogloss.languages.resolve` accepts them, none twice.
        names: the distances wanted; all but ``script`` need the extra ``languages``.
        imputed: take URIEL's predictions of features, which cover every language, in place of observations.

    Returns:
        The distances by name, in the order asked for.

    Raises:
        LanguageError: the extra is not installed, or a code is unknown to isogloss or given twice.
        ValueError: a name is none of `REFERENCE_NAMES`.

    Source:
        Littell et al., URIEL and lang2vec, EACL 2017, pages 8-14. Angular distance: Toossi et al., arXiv 2405.11125,
        and Khan et al., URIEL+, arXiv 2409.18472.

    Example:
        >>> reference_distances(["hi", "ur", "ne"], ["script"])["script"].values[0].tolist()
        [0.0, 1.0, 0.0]
    """
    codes = tuple(resolve(language) for language in languages)
    if len(set(codes)) != len(codes):
        raise LanguageError(f"languages are given twice in {', '.join(codes)}; name each once")
    wrong = [name for name in names if name not in REFERENCE_NAMES]
    if wrong:
        raise ValueError(f"no reference distance {', '.join(wrong)}; expected some of {', '.join(REFERENCE_NAMES)}")
    return {name: _reference(name, codes, imputed=imputed) for name in names}


def token_overlap_distance(run: Run, languages: Sequence[str] | None = None) -> FloatArray:
    """Measure how few tokens two languages have in common: the rival explanation of shared routing.

    One minus the sum over token ids of the lesser relative frequency, which is the total variation distance:
    ``[n, n]`` in [0, 1], 1 where no token is shared. By default of all languages of the Run, sorted.

    Raises:
        RunError: the Run lacks a language, or was imported or captured without vocabularies.
    """
    codes = [resolve(language) for language in (run.languages if languages is None else languages)]
    if run.manifest.granularity != "items":
        raise RunError(
            f"{run.path}: imported counts do not say which tokens were counted, so token overlap is unknown; capture "
            "the model with `isogloss capture`"
        )
    everything = slice(None)
    ids = [run.load_items(code, "vocabulary", everything) for code in codes]
    counts = [run.load_items(code, "vocabulary_counts", everything).astype(np.float64) for code in codes]
    shares = [count / count.sum() for count in counts]
    distances = np.zeros((len(codes), len(codes)))
    here = np.zeros(1 + max((int(each[-1]) for each in ids), default=0))
    for i in range(len(codes)):
        here[ids[i]] = shares[i]
        for j in range(i + 1, len(codes)):
            distances[i, j] = distances[j, i] = 1.0 - np.minimum(here[ids[j]], shares[j]).sum()
        here[ids[i]] = 0.0
    return np.clip(distances, 0.0, 1.0)


def _reference(name: str, codes: tuple[str, ...], *, imputed: bool) -> ReferenceDistance:
    if name == "script":
        scripts = np.array([script(code) for code in codes])
        source = "ISO 15924 code of the language; 0 where equal"
        return _described(name, codes, (scripts[:, None] != scripts).astype(float), (source, "ISO 15924"))
    version = f"lang2vec {_package().version}"
    if name == "genealogical":
        source = "URIEL family features (Glottolog), angle between sets of ancestors"
        return _described(name, codes, _genealogical(codes), (source, version))
    if name == "geographic":
        source = "URIEL geographic features (Glottolog), great circle over half the Earth's circumference"
        return _described(name, codes, _geographic(codes), (source, version))
    kind = "predicted by k nearest neighbours" if imputed else "observed, averaged over sources"
    parts = [_typological(codes, part, imputed=imputed) for part in (_PARTS if name == "typological" else (name,))]
    source = f"URIEL {name} features ({kind}), angle over features known of both"
    return _described(name, codes, np.mean(parts, axis=0), (source, version))


def _described(name: str, codes: tuple[str, ...], values: FloatArray, source: tuple[str, str]) -> ReferenceDistance:
    """Set the diagonal, and name the languages without any distance."""
    empty = np.isnan(np.diag(values))
    values = np.where(empty[:, None] | empty, np.nan, np.clip(values, 0.0, 1.0))
    values[~empty, ~empty] = 0.0
    unknown = tuple(code for code, is_unknown in zip(codes, empty, strict=True) if is_unknown)
    return ReferenceDistance(name, codes, values, unknown, *source)


def _genealogical(codes: Sequence[str]) -> FloatArray:
    rows, data, _ = _table("family_features.npz")
    listed = [_IN_TREE.get(code[:3], code[:3]) for code in codes]
    ancestors = _rows(data, rows, listed)
    known = (np.nansum(ancestors, axis=1) > 0) | np.isin(listed, list(_ISOLATES))
    angles = _angles(np.nan_to_num(ancestors), np.ones(ancestors.shape, dtype=bool))
    angles[~known] = angles[:, ~known] = np.nan
    # Equal ancestors are distance 0, and an isolate is at 0 from itself in another script.
    same = np.array(listed)[:, None] == np.array(listed)
    return np.asarray(np.where(same & known, 0.0, angles))


def _typological(codes: Sequence[str], part: str, *, imputed: bool) -> FloatArray:
    rows, data, features = _table("feature_predictions.npz" if imputed else "feature_averages.npz")
    columns = np.char.startswith(features, _PARTS[part])
    values = _rows(data, rows, [_IN_FEATURES.get(code[:3], code[:3]) for code in codes])[:, columns]
    observed = np.asarray(values >= 0)  # URIEL writes -1 where nothing was observed; NaN is no code of URIEL
    angles = _angles(np.where(observed, values, 0.0), observed)
    unknown = observed.mean(axis=1) < KNOWN_SHARE
    angles[unknown] = angles[:, unknown] = np.nan
    return angles


def _geographic(codes: Sequence[str]) -> FloatArray:
    """Recover places from their distances to 299 known points, then measure between them."""
    # The cosine of a great circle is linear in the unit vector of the place, so least squares give the vector.
    rows, data, points = _table("geocoord_features.npz")
    latitude, longitude = np.radians([[float(angle) for angle in point.split("_")[1:]] for point in points]).T
    anchors = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])
    cosines = np.cos(np.pi * _rows(data, rows, [code[:3] for code in codes]))
    places = np.linalg.lstsq(anchors.T, np.nan_to_num(cosines).T, rcond=None)[0].T
    lengths = np.linalg.norm(places, axis=1)
    nowhere = (abs(lengths - 1.0) > _EARTH_TOLERANCE) | np.isnan(cosines).any(axis=1)
    places /= np.where(nowhere, 1.0, lengths)[:, None]
    arcs = np.arccos(np.clip(places @ places.T, -1.0, 1.0)) / np.pi
    arcs[nowhere] = arcs[:, nowhere] = np.nan
    return np.asarray(arcs)


def _angles(values: FloatArray, known: BoolArray) -> FloatArray:
    """Return the angle between rows over the columns known in both, 1 for a right one; NaN where none is shared."""
    shared = known.astype(np.float64)
    values = values.astype(np.float64)
    squares = (values**2) @ shared.T
    lengths = np.sqrt(squares * squares.T)
    cosines = np.divide(values @ values.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    angles = 2.0 / np.pi * np.arccos(np.clip(cosines, -1.0, 1.0))
    return np.where(shared @ shared.T > 0, angles, np.nan)


def _rows(data: FloatArray, rows: Mapping[str, int], codes: Sequence[str]) -> FloatArray:
    """Pick the rows of languages, ``[n, n_features]``; NaN for a code that URIEL lacks."""
    picked = np.full((len(codes), data.shape[1]), np.nan)
    for position, code in enumerate(codes):
        if code in rows:
            picked[position] = data[rows[code]]
    return picked


@cache
def _table(file: str) -> tuple[dict[str, int], FloatArray, npt.NDArray[np.str_]]:
    """Read a table of URIEL: row of each code, values ``[n_languages, n_features]``, names of the features."""
    with np.load(Path(str(_package().locate_file("lang2vec/data"))) / file, allow_pickle=False) as stored:
        languages, data, features = stored["langs"], stored["data"][:, :, 0], stored["feats"]
    # The tree is 118 MB as stored and holds nothing but 0 and 1.
    small = data.astype(np.int8) if np.array_equal(data, data.astype(np.int8)) else data.astype(np.float32)
    return {str(code): row for row, code in enumerate(languages)}, small, features


def _package() -> importlib.metadata.Distribution:
    """Find lang2vec among the installed packages, without importing it; LanguageError where it is missing."""
    # A search by module name finds the script lang2vec.py, which the package installs into the folder of commands.
    try:
        return importlib.metadata.distribution("lang2vec")
    except importlib.metadata.PackageNotFoundError:
        raise LanguageError(
            "genealogical, typological and geographic distances need the data of the package lang2vec, which is not "
            "installed: pip install 'isogloss[languages]' (the distance by script needs nothing)"
        ) from None
