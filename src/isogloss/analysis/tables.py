"""An analysis as tidy tables: one row per observation, one column per variable, for pandas, R and figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isogloss.analysis.correlation import LayerCorrelation
from isogloss.analysis.resources import COLUMNS
from isogloss.analysis.result import Analysis
from isogloss.errors import RunError
from isogloss.files import write_atomically
from isogloss.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLES", "measures", "tidy_rows", "tidy_tables", "to_frame", "write_tables"]

TableRow = dict[str, Any]


def tidy_rows(analysis: Analysis, name: str) -> list[TableRow]:
    """Lay out one of `TABLES` as rows with the columns of `tidy_tables`, without pandas; missing numbers are NaN."""
    return list(TABLES[name](analysis))


def to_frame(analysis: Analysis, name: str) -> pd.DataFrame:
    """Lay out one of `TABLES`, ``pairs``, or one measure of ``curves``, such as ``divergence``.

    Raises:
        RunError: the analysis has no such table; the message names those that it has.
    """
    import pandas as pd  # noqa: PLC0415 - half a second, and only tables need it

    if name == "pairs":
        table = pd.DataFrame(_pairs(analysis))
    elif name in TABLES:
        table = pd.DataFrame.from_records(tidy_rows(analysis, name))
    else:
        rows = [row for row in tidy_rows(analysis, "curves") if row["measure"] == name]
        table = pd.DataFrame.from_records(rows, exclude=["measure"] if rows else None)
    if len(table):
        return table
    names = [each for each in TABLES if tidy_rows(analysis, each)]
    measures = dict.fromkeys(row["measure"] for row in tidy_rows(analysis, "curves"))
    raise RunError(f"this analysis has no table {name!r}; it has {', '.join([*names, *measures])}")


def tidy_tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Lay an analysis out as tables.

    Returns:
        The tables that have rows, by name. Missing numbers are NaN, layers are decoder layers.

        * ``curves``: measure, language, layer, value, low, high, n; the measures are ``divergence``, ``shuffled``,
          ``excess`` (the second minus the first), ``entropy`` (nats), ``consistency``, ``distinct_divergence``,
          ``hidden_cosine``, ``hidden_cka`` and ``phase``;
        * ``pairs``: layer, language, other, divergence; every two languages once; only where the analysis was made in
          this process;
        * ``middle``: language (empty for all together), start, end, their intervals' ends, is_u_shape, p_value, rise,
          depth;
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
    import pandas as pd  # noqa: PLC0415 - as above

    tables = {"pairs": pd.DataFrame(_pairs(analysis))}
    tables |= {name: pd.DataFrame.from_records(tidy_rows(analysis, name)) for name in TABLES}
    return {name: table for name, table in tables.items() if len(table)}


def write_tables(analysis: Analysis, folder: Path) -> tuple[Path, ...]:
    """Write one Parquet file per table into a folder, atomically, and return the files.

    Raises:
        FileError: the folder cannot be written.
    """
    paths = []
    for name, table in tidy_tables(analysis).items():
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        paths.append(folder / f"{name}.parquet")
        write_atomically(paths[-1], content.getvalue())
    return tuple(paths)


def measures(analysis: Analysis) -> dict[str, Mapping[str, Sequence[Estimate]]]:
    """Return the measures of the table ``curves``: name to language to one Estimate per routed layer."""
    distinct, hidden = analysis.controls.distinct, analysis.controls.hidden
    return {
        "divergence": analysis.divergence,
        "shuffled": analysis.shuffled,
        "excess": analysis.translations.by_language if analysis.translations else {},
        "entropy": analysis.entropy,
        "consistency": analysis.consistency,
        "distinct_divergence": distinct.divergence if distinct else {},
        "hidden_cosine": hidden.cosine if hidden else {},
        "hidden_cka": hidden.cka if hidden else {},
        "phase": analysis.controls.phases,
    }


def _curves(analysis: Analysis) -> Iterator[TableRow]:
    for measure, curves in measures(analysis).items():
        for language, curve in curves.items():
            for layer, point in zip(analysis.layers, curve, strict=True):
                yield {"measure": measure, "language": language, "layer": layer, **vars(point)}


def _pairs(analysis: Analysis) -> dict[str, npt.NDArray[Any]]:
    """Return columns rather than rows: a million pairs are common."""
    pairs = analysis.layer_pairs
    if pairs is None:
        return {}
    names = np.array(pairs.languages)
    rows, columns = np.triu_indices(len(names), 1)
    n_layers = len(pairs.layers)
    return {
        "layer": np.repeat(np.array(pairs.layers), len(rows)),
        "language": np.tile(names[rows], n_layers),
        "other": np.tile(names[columns], n_layers),
        "divergence": pairs.values[:, rows, columns].ravel(),  # noqa: PD011 - no table
    }


def _middle(analysis: Analysis) -> Iterator[TableRow]:
    for language, middle in {"": analysis.middle_layers, **analysis.middle_by_language}.items():
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
                "p_value": middle.p_value,
                "rise": middle.rise,
                **{f"depth_{name}": number for name, number in vars(middle.depth).items()},
            }


def _resources(analysis: Analysis) -> Iterator[TableRow]:
    for row in analysis.resources.rows if analysis.resources else ():
        for measure in COLUMNS:
            point: Estimate | None = getattr(row, measure)
            if point is not None:
                yield {"language": row.language, "band": row.band, "measure": measure, **vars(point)}


def _coefficients(where: TableRow, correlation: LayerCorrelation) -> Iterator[TableRow]:
    least, greatest = correlation.leave_one_out
    for coefficient, point in (("pearson", correlation.pearson), ("spearman", correlation.spearman)):
        ends = {"left_out_least": least, "left_out_greatest": greatest} if coefficient == "pearson" else {}
        yield {**where, "coefficient": coefficient, **vars(point), **ends}


def _correlations(analysis: Analysis) -> Iterator[TableRow]:
    hidden = analysis.controls.hidden
    for layer, correlation in zip(analysis.layers, analysis.correlation, strict=False):
        yield from _coefficients({"measure": "divergence", "with": "accuracy", "layer": layer}, correlation)
    for band, correlation in analysis.accuracy.items():
        yield from _coefficients({"measure": "divergence", "with": "accuracy", "band": band}, correlation)
    for name, bands in analysis.related.items():
        for band, columns in bands.items():
            for measure, correlation in columns.items():
                yield from _coefficients({"measure": measure, "with": name, "band": band}, correlation)
    for layer, correlation in zip(analysis.layers, hidden.mirror if hidden else (), strict=False):
        yield from _coefficients({"measure": "divergence", "with": "1 - hidden_cosine", "layer": layer}, correlation)


def _references(analysis: Analysis) -> Iterator[TableRow]:
    for band, structure in analysis.structure.bands.items() if analysis.structure else ():
        for reference, test in structure.tests.items():
            for mantel, adjusted in ((test.plain, test.p_adjusted), (test.partial, test.partial_p_adjusted)):
                if mantel is not None:
                    where = {"band": band, "reference": reference, "controls": ", ".join(mantel.controls)}
                    point = {"correlation": mantel.correlation.value, **vars(mantel.correlation)}
                    del point["value"]
                    yield {**where, **point, "p_value": mantel.p_value, "p_adjusted": adjusted}


def _matches(analysis: Analysis) -> Iterator[TableRow]:
    structure = analysis.structure
    for matches in (structure.matches, structure.partial_matches) if structure else ():
        for reference, match in matches.items():
            same = {"reference": reference, "controls": ", ".join(match.controls)}
            rows = zip(structure.layers if structure else (), match.correlations, match.p_values, strict=True)
            for layer, correlation, p_value in rows:
                numbers = {"correlation": correlation, "p_value": p_value, "is_best": layer == match.layer}
                yield {**same, "layer": layer, **numbers}


def _domain(analysis: Analysis) -> Iterator[TableRow]:
    domain = analysis.domain
    for measure in ("raw", "floor", "excess") if domain else ():
        points: Sequence[Estimate] = getattr(domain, measure)
        for layer, point in zip(domain.layers if domain else (), points, strict=True):
            yield {"measure": measure, "layer": layer, **vars(point)}


def _overlap(analysis: Analysis) -> Iterator[TableRow]:
    for point in analysis.overlap.points if analysis.overlap else ():
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


TABLES: dict[str, Callable[[Analysis], Iterator[TableRow]]] = {
    "curves": _curves,
    "middle": _middle,
    "resources": _resources,
    "correlations": _correlations,
    "references": _references,
    "matches": _matches,
    "domain": _domain,
    "overlap": _overlap,
}
"""Name to what yields the rows of the table."""
