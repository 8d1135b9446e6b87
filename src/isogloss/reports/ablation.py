"""An ablation: maps of what each ban costs each language, and a table of what is needed for one axis alone."""

from __future__ import annotations

from collections.abc import Iterator

from isogloss.evaluation.ablation import AblationResult, BandLoss, Cell, FamiliesFile, Measure, Selectivity
from isogloss.evaluation.output_language import LEAST_JUDGED
from isogloss.reports.figures import Figure, Section, Table, base_layout, language_rows, row_axis
from isogloss.reports.maps import heat_map, known_values
from isogloss.reports.metrics import Metric
from isogloss.reports.text import hover, label, name, plain, plot_text, sample_size

_ROW = 22
_JUDGED = (
    " An answer is in the language that a detector of 176 languages finds most probable, among those asked for and "
    "English; answers of fewer than 40 letters (20 of dense scripts) are not judged, empty ones are in no language. It "
    "is unsure of small languages."
)
_ANCHORS: dict[Measure, str] = {"score": "ablation", "language": "ablation-language"}
_VERDICTS = {"selective": "selective", "by the point": "by the point alone", "no": "no"}


def describe_ablation(result: AblationResult) -> tuple[str, ...]:
    """Say how many families were banned, and which of them are needed for their own axis alone."""
    families = result.families
    banned = [each for each in families.families if each.status == "banned"]
    without = len(families.families) - len(banned)
    lines = [
        f"{len(banned)} families of experts were banned, in {', '.join(_spans(families))}"
        + (f"; {without} others have no ban (no expert, or none that is chosen)." if without else ".")
    ]
    for task in dict.fromkeys(test.task for test in result.tests):
        tests = [test for test in result.tests if test.task == task]
        firm = [test for test in tests if test.verdict == "selective"]
        point = sum(test.verdict == "by the point" for test in tests)
        lines.append(
            f"On {task} {len(firm)} of {len(tests)} families are selective: banning them harms their own axis by more "
            f"than random families do, and every other axis far less{_listed(firm)}; {point} more by the point alone."
        )
    lines += [_of_band(result, loss) for loss in result.bands if loss.own.is_known]
    if len({test.task for test in result.tests}) > 1:
        both = ", ".join(f"{_family(family)} in the {_layers(band)}" for band, family in result.selective)
        lines.append(f"Selective in every corpus: {both or 'none'}.")
    return tuple(lines)


def _spans(families: FamiliesFile) -> list[str]:
    return [f"layers {first}-{last} ({band})" for band, (first, last) in families.bands.items()]


def _listed(tests: list[Selectivity]) -> str:
    named = ", ".join(f"{_family(test.family)} in the {_layers(test.band)}" for test in tests)
    return f" ({named})" if named else ""


def _layers(band: str) -> str:
    """Name the layers of a band: ``late layers``, but ``last third of the layers``."""
    return f"{band} of the layers" if band.endswith(" third") else f"{band} layers"


def _family(family: str) -> str:
    return family if family == "task" else name(family)


def band_metric(result: AblationResult, loss: BandLoss | Cell) -> Metric:
    """Return the metric of a measure: the task's own, or the language of the answers."""
    if loss.measure == "language":
        return Metric.named(loss.measure)
    return Metric.named(next(task.metric for task in result.families.tasks if task.name == loss.task))


def _of_band(result: AblationResult, loss: BandLoss) -> str:
    """Say what the bans of a band cost the banned language and the others, on one task and measure."""
    metric = band_metric(result, loss)
    others = f", and the other languages {metric.loss_text(loss.others)}" if loss.others.is_known else ""
    if loss.too_few:
        return (
            f"On {loss.task}, bans in the {_layers(loss.band)}: the language of the answers is not stated: fewer than "
            f"{LEAST_JUDGED} of them could be judged ({_judged(loss)})."
        )
    own = f"{metric.loss_text(loss.own)} {'of ' if metric.is_share else ''}{metric.name}"
    before = f"{metric.value_text(loss.before)} without a ban, {_judged(loss)}"
    return (
        f"On {loss.task}, banning a language's experts in the {_layers(loss.band)} costs it {own} ({before}){others}; "
        f"random families of equal size cost it {metric.loss_text(loss.random)}."
    )


def _judged(loss: BandLoss) -> str:
    """How many items, or of how many answers those that could be judged, over all families."""
    if loss.measure == "language":
        return f"n = {loss.n_judged:,} of {loss.n_asked:,} answers"
    return f"n = {loss.n_asked:,} items of {loss.n_families} families"


def ablation_section(result: AblationResult) -> Section:
    """Draw a map for every task and band: evaluated languages in rows, banned families in columns."""
    blocks: list[Figure | Table] = [*_maps(result)]
    if result.bands:
        blocks.append(_bands(result))
    if result.tests:
        blocks.append(_tests(result))
    lead = (
        "A family are the experts that a rule finds for one language or task within a band of layers. It is banned, "
        "and every language is measured: a dark cell is a language that needs the banned experts."
    )
    fixed = (
        f"Settings (SHA-256 {result.settings_sha256}) and families ({result.families_sha256}) were written before the "
        "first measurement."
    )
    return Section("ablation", "Banned families of experts", [lead, fixed], blocks)


def _maps(result: AblationResult) -> Iterator[Figure]:
    for place, task in enumerate(result.families.tasks):
        for number, band in enumerate(result.families.bands):
            for measure, anchor in _ANCHORS.items():
                where = (task.name, band, measure)
                cells = [cell for cell in result.cells if (cell.task, cell.band, cell.measure) == where]
                if len(task.languages) > 1 and any(cell.loss.is_known for cell in cells):
                    metric = band_metric(result, cells[0])
                    yield _map(cells, result.families, metric, anchor=f"{anchor}-{place}-{number}")


def _map(cells: list[Cell], families: FamiliesFile, metric: Metric, *, anchor: str) -> Figure:
    """Draw the losses of one task under the bans of one band."""
    band, task = cells[0].band, cells[0].task
    first, last = families.bands[band]
    masked, evaluated = (list(dict.fromkeys(getattr(cell, side) for cell in cells)) for side in ("masked", "evaluated"))
    by_place = {(cell.evaluated, cell.masked): cell for cell in cells}
    rows = [[by_place[row, column] for column in masked] for row in evaluated]
    values = [[metric.factor * cell.loss.value for cell in row] for row in rows]
    hovers = [
        [hover(f"{label(cell.evaluated)}, without {_family(cell.masked)}", _loss(cell, metric)) for cell in row]
        for row in rows
    ]
    look = {"hovertext": hovers, "zmin": 0, "zmax": max([*known_values(values), 1e-9])}
    unit = f"loss,{metric.points}" if metric.points else f"loss, {metric.name}"
    layout = base_layout("banned experts of", "", height=150 + _ROW * len(evaluated))
    layout["margin"]["t"] = 44
    axis, narrow = row_axis(language_rows(evaluated), 12)
    layout["yaxis"].update(axis, range=[-0.5, len(evaluated) - 0.5])
    texts = [plot_text(_family(each)) for each in masked]
    layout["xaxis"].update(tickmode="array", tickvals=list(range(len(masked))), ticktext=texts, tickangle=-90)
    layout["xaxis"]["range"] = [-0.5, len(masked) - 0.5]
    caption = (
        f"How much worse {metric.name} gets on {plain(task)} in each language (rows) when the experts of a language "
        f"or task (columns) are banned in layers {first}-{last}; {sample_size(cell.loss.n for cell in cells)} items. "
        f"Losses below 0 are drawn as 0.{_JUDGED if cells[0].measure == 'language' else ''}"
    )
    data = heat_map(range(len(masked)), range(len(evaluated)), values, unit, **look)
    what = f", {metric.name}" if cells[0].measure == "language" else ""
    title = f"{plain(task)}{what}: bans in the {_layers(plain(band))}"
    return Figure(anchor, title, caption, [data], layout, narrow, rows=dict(enumerate(evaluated)))


def _loss(cell: Cell, metric: Metric) -> str:
    return f"{metric.value_text(cell.before)} before, worse by {metric.change_text(cell.loss)}"


def _bands(result: AblationResult) -> Table:
    rows = []
    for loss in result.bands:
        metric = band_metric(result, loss)
        rows.append(
            {
                "band": loss.band,
                "corpus": loss.task,
                "measure": metric.name,
                "families": str(loss.n_families),
                "items": _judged(loss) if loss.measure == "language" else str(loss.n_asked),
                "without a ban": metric.value_text(loss.before),
                "loss of the banned language": metric.loss_text(loss.own),
                "of the others": metric.loss_text(loss.others),
                "under random families": metric.loss_text(loss.random),
                "banned minus others": metric.change_text(loss.beyond_others),
                "banned minus random": metric.change_text(loss.beyond_random),
            }
        )
    caption = (
        "Means over the families of languages that have experts in the band and are measured on the corpus, for these "
        "languages; 95 % intervals over items."
    )
    return Table.of("Losses by band", caption, rows, words=("corpus", "measure"), folded=False)


def _tests(result: AblationResult) -> Table:
    units = {task.name: Metric.named(task.metric) for task in result.families.tasks}
    rows = []
    for test in result.tests:
        metric, other = (units[axis.rpartition("/")[0]] for axis in (test.own, test.worst))
        rows.append(
            {
                "family": f"{_family(test.family)}, {test.band}",
                "corpus": test.task,
                "own loss": metric.change_text(test.loss),
                "random": f"{metric.change(min(test.null))} to {metric.change(max(test.null))}",
                "beyond the null": metric.change_text(test.beyond_null),
                "worst other": test.worst,
                "its loss": other.change_text(test.worst_loss),
                "selective": _VERDICTS[test.verdict],
            }
        )
    caption = (
        "Selective: the loss of the family's own axis exceeds the mean of random families of equal size per layer by "
        "the set number of standard deviations, and the worst other axis loses at most the set share of it, both at "
        "the lower ends of their intervals; items are resampled."
    )
    return Table.of("Selectivity: all numbers", caption, rows, words=("corpus", "worst other", "selective"))
