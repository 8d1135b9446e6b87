"""An analysis as tidy tables: one row per observation, one column per variable, for pandas, R or a spreadsheet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis import Estimate, LayerCorrelation
from isogloss.analysis.resources import COLUMNS
from isogloss.analysis.structure import LayerMatch, ReferenceTest
from isogloss.errors import FileError
from isogloss.files import write_atomically, write_json
from isogloss.runs import Run
from isogloss.workflows.analysis import RunAnalysis
from isogloss.workflows.findings import describe_run

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

__all__ = ["tidy_tables", "write_tables"]

Row = dict[str, Any]


def tidy_tables(found: RunAnalysis) -> dict[str, pd.DataFrame]:
    """Lay an analysis out as tables.

    Args:
        found: of one Run.

    Returns:
        By name, those that have rows; missing numbers are NaN, layers are decoder layers:

        * ``curves``: measure, language, layer, value, low, high, n; the measures are ``divergence``, ``shuffled``,
          ``entropy`` (nats), ``consistency``, ``distinct_divergence``, ``hidden_cosine``, ``hidden_cka`` and ``phase``;
        * ``pairs``: layer, language, other, divergence; every two languages once;
        * ``middle``: language (empty for all together), start, end, their intervals' ends, is_u_shape, depth;
        * ``resources``: language, band, measure, value, low, high, n;
        * ``correlations``: measure, with, band or layer, coefficient, value, low, high, n, least and greatest with one
          language left out;
        * ``references``: band, reference, controls, correlation, low, high, n, p_value, p_adjusted;
        * ``matches``: reference, controls, layer, correlation, p_value (corrected for the search over layers);
        * ``domain``: measure (``raw``, ``floor``, ``excess``), layer, value, low, high, n;
        * ``overlap``: threshold, n_task, n_multilingual, overlap, low, high, expected, p_fewer, p_more.

    Source:
        Wickham, Tidy Data, Journal of Statistical Software 59 (2014).
    """
    import pandas as pd  # noqa: PLC0415 - half a second, and only tables need it

    rows = {
        "curves": _curves(found),
        "middle": _middle(found),
        "resources": _resources(found),
        "correlations": _correlations(found),
        "references": _references(found),
        "matches": _matches(found),
        "domain": _domain(found),
        "overlap": _overlap(found),
    }
    tables = {"pairs": pd.DataFrame(_pairs(found))}
    tables |= {name: pd.DataFrame.from_records(list(each)) for name, each in rows.items()}
    return {name: table for name, table in tables.items() if len(table)}


def write_tables(found: RunAnalysis, run: Run, folder: Path) -> tuple[Path, ...]:
    """Write an analysis; each file is there whole or not at all.

    Args:
        found: of the Run; becomes ``analysis.json`` and one Parquet file per table.
        run: becomes, with the sentences that `isogloss analyze` prints, ``findings.json``, so that
            `isogloss report` finds here all it needs.
        folder: made where absent; files of these names are replaced.

    Returns:
        The files.

    Raises:
        FileError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error
    paths = [folder / "analysis.json", folder / "findings.json"]
    write_json(paths[0], found.to_json())
    write_json(paths[1], {"findings": list(describe_run(found)), "run": run.manifest.to_json()})
    for name, table in tidy_tables(found).items():
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        paths.append(folder / f"{name}.parquet")
        write_atomically(paths[-1], content.getvalue())
    return tuple(paths)


def _estimate(point: Estimate) -> Row:
    return {"value": point.value, "low": point.low, "high": point.high, "n": point.n}


def _curves(found: RunAnalysis) -> Iterator[Row]:
    analysis, distinct, hidden = found.analysis, found.distinct, found.hidden
    measures: dict[str, Mapping[str, Sequence[Estimate]]] = {
        "divergence": analysis.divergence,
        "shuffled": analysis.shuffled,
        "entropy": analysis.entropy,
        "consistency": analysis.consistency,
        "distinct_divergence": distinct.divergence if distinct else {},
        "hidden_cosine": hidden.cosine if hidden else {},
        "hidden_cka": hidden.cka if hidden else {},
        "phase": found.phases,
    }
    for measure, curves in measures.items():
        for language, curve in curves.items():
            for layer, point in zip(analysis.layers, curve, strict=True):
                yield {"measure": measure, "language": language, "layer": layer, **_estimate(point)}


def _pairs(found: RunAnalysis) -> dict[str, npt.NDArray[Any]]:
    """Return columns rather than rows: a million pairs are common."""
    if found.pairs is None:
        return {}
    names = np.array(found.pairs.languages)
    rows, columns = np.triu_indices(len(names), 1)
    n_layers = len(found.pairs.layers)
    return {
        "layer": np.repeat(np.array(found.pairs.layers), len(rows)),
        "language": np.tile(names[rows], n_layers),
        "other": np.tile(names[columns], n_layers),
        "divergence": found.pairs.values[:, rows, columns].ravel(),  # noqa: PD011 - no table
    }


def _middle(found: RunAnalysis) -> Iterator[Row]:
    for language, middle in {"": found.analysis.middle, **found.analysis.middle_by_language}.items():
        if middle is not None:
            start, end = (span or (None, None) for span in (middle.start_interval, middle.end_interval))
            yield {
                "language": language,
                "start": middle.start,
                "start_low": start[0],
                "start_high": start[1],
                "end": middle.end,
                "end_low": end[0],
                "end_high": end[1],
                "is_u_shape": middle.is_u_shape,
                **{f"depth_{name}": number for name, number in _estimate(middle.depth).items()},
            }


def _resources(found: RunAnalysis) -> Iterator[Row]:
    for row in found.resources.rows if found.resources else ():
        for measure in COLUMNS:
            point: Estimate | None = getattr(row, measure)
            if point is not None:
                yield {"language": row.language, "band": row.band, "measure": measure, **_estimate(point)}


def _coefficients(where: Row, correlation: LayerCorrelation) -> Iterator[Row]:
    least, greatest = correlation.leave_one_out
    for coefficient, point in (("pearson", correlation.pearson), ("spearman", correlation.spearman)):
        ends = {"left_out_least": least, "left_out_greatest": greatest} if coefficient == "pearson" else {}
        yield {**where, "coefficient": coefficient, **_estimate(point), **ends}


def _correlations(found: RunAnalysis) -> Iterator[Row]:
    analysis, hidden = found.analysis, found.hidden
    for layer, correlation in zip(analysis.layers, analysis.correlation, strict=False):
        yield from _coefficients({"measure": "divergence", "with": "accuracy", "layer": layer}, correlation)
    for band, correlation in found.accuracy.items():
        yield from _coefficients({"measure": "divergence", "with": "accuracy", "band": band}, correlation)
    for name, bands in found.related.items():
        for band, columns in bands.items():
            for measure, correlation in columns.items():
                yield from _coefficients({"measure": measure, "with": name, "band": band}, correlation)
    for layer, correlation in zip(analysis.layers, hidden.mirror if hidden else (), strict=False):
        yield from _coefficients({"measure": "divergence", "with": "1 - hidden_cosine", "layer": layer}, correlation)


def _references(found: RunAnalysis) -> Iterator[Row]:
    if found.structure is None:
        return
    for band, structure in found.structure.bands.items():
        for reference, test in structure.tests.items():
            for where in _tests(test):
                yield {"band": band, "reference": reference, **where}


def _tests(test: ReferenceTest) -> Iterator[Row]:
    for found, adjusted in ((test.plain, test.p_adjusted), (test.partial, test.partial_p_adjusted)):
        if found is not None:
            point = found.correlation
            ends = {"correlation": point.value, "low": point.low, "high": point.high, "n": point.n}
            p_values = {"p_value": found.p_value, "p_adjusted": adjusted}
            yield {"controls": ", ".join(found.controls), **ends, **p_values}


def _matches(found: RunAnalysis) -> Iterator[Row]:
    if found.structure is None:
        return
    for matches in (found.structure.matches, found.structure.partial_matches):
        for reference, match in matches.items():
            yield from _layers(reference, match, found.structure.layers)


def _layers(reference: str, match: LayerMatch, layers: Sequence[int]) -> Iterator[Row]:
    for layer, correlation, p_value in zip(layers, match.correlations, match.p_values, strict=True):
        where = {"reference": reference, "controls": ", ".join(match.controls), "layer": layer}
        yield {**where, "correlation": correlation, "p_value": p_value, "is_best": layer == match.layer}


def _domain(found: RunAnalysis) -> Iterator[Row]:
    domain = found.domain
    for measure in ("raw", "floor", "excess") if domain else ():
        points: Sequence[Estimate] = getattr(domain, measure)
        for layer, point in zip(domain.layers if domain else (), points, strict=True):
            yield {"measure": measure, "layer": layer, **_estimate(point)}


def _overlap(found: RunAnalysis) -> Iterator[Row]:
    for point in found.overlap.points if found.overlap else ():
        overlap = point.overlap
        yield {
            "threshold": point.threshold,
            "n_task": point.n_task,
            "n_multilingual": point.n_multilingual,
            "overlap": overlap.value,
            "low": overlap.low,
            "high": overlap.high,
            "expected": point.expected,
            "p_fewer": point.p_fewer,
            "p_more": point.p_more,
        }
