"""Runs an ablation: families fixed first, then every axis measured under every ban, then the matrix and the tests.

The folder holds ``settings.json``, ``run/`` (and ``task/``), ``families.json`` with ``plans/`` (written before anything
is measured), ``measured/N/ARM/xxx_Xxxx.jsonl`` for the N-th task, and ``ablation.json``. Started again with the same
settings it goes on; killed or not, it ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isogloss.analysis import analyze_curves, default_bands
from isogloss.arrays import FloatArray
from isogloss.backends.chat_template import TemplateDate
from isogloss.backends.model import Model
from isogloss.errors import RunError
from isogloss.evaluation import BASELINE, SETTINGS, Asked, Better, answer_items, ask, claim
from isogloss.evaluation.ablation import ABLATION, AblatedTask, AblationResult, FamiliesFile
from isogloss.evaluation.selectivity import Axis
from isogloss.files import read_bytes, remove_stale, sha256
from isogloss.folders import locked
from isogloss.languages import resolve
from isogloss.progress import busy, track
from isogloss.records import write_typed
from isogloss.runs import Run
from isogloss.steering import Plan, random_control, read_plan, write_plan
from isogloss.workflows.ablation.families import TASK_FAMILY, Bans, make_families
from isogloss.workflows.ablation.held_out import HeldOut, hold_out
from isogloss.workflows.ablation.results import Measured, Place, own_axes, random_arm, results, values_of
from isogloss.workflows.ablation.settings import Ablation

__all__ = ["FAMILIES", "Prepared", "ablate", "run_ablation"]

FAMILIES = "families.json"


class Prepared(NamedTuple):
    """What an ablation measures.

    Attributes:
        model: that is loaded.
        runs: of the generic texts, and of the task texts where there are some.
        held: the tasks, as `hold_out` returns them.
    """

    model: Model
    runs: tuple[Run, Run | None]
    held: Sequence[HeldOut]


def ablate(settings: Ablation, out: str | Path) -> AblationResult:
    """Ban families of experts and measure every axis, into a folder; what a stopped run has finished is kept.

    Args:
        settings: all that decides what is done; they are written, and the families after them, before a measurement.
        out: folder of the ablation, new or of a stopped one with the same settings.

    Returns:
        As written to ``ablation.json``.

    Raises:
        IsoglossError: any step refused its input; the message names it and the reason.
    """
    out = Path(out)

    def prepare() -> Prepared:
        texts = settings.open_texts()
        held = hold_out(settings, texts)
        model = settings.load()
        for each in held:
            ask(model, each.task, settings.sampling)  # refuses what is too long before anything is captured
        return Prepared(model, settings.capture(model, texts, out), held)

    return run_ablation(settings, out, prepare)


def run_ablation(settings: Ablation, out: Path, prepare: Callable[[], Prepared]) -> AblationResult:
    """Do as `ablate` does, with what ``prepare`` captures; it is called after the settings are written."""
    with locked(out, SETTINGS):
        claim(out, settings.portable(out / SETTINGS))
        if (out / ABLATION).is_file():
            return AblationResult.read(out / ABLATION)
        result = _ablate(prepare(), settings, out)
        write_typed(out / ABLATION, result)
    return result


def _ablate(prepared: Prepared, settings: Ablation, out: Path) -> AblationResult:
    model, runs, held = prepared
    path = out / FAMILIES
    kept = FamiliesFile.read(path) if path.is_file() else None
    today = TemplateDate(kept.date if kept else None)
    asked = [ask(model, each.task, settings.sampling, today=today) for each in held]
    made = _kept_bans(out, kept, settings) if kept else _families(settings, runs, held, asked, out)
    written = FamiliesFile.read(path)
    measured = _measure(asked, made, settings, out)
    banned = [each.family for each in made if each.plan is not None]
    cells, tests, losses = results(measured, banned, settings)
    return AblationResult(
        model=model.name,
        engine=str(model.describe()["engine"]),
        settings_sha256=written.settings_sha256,
        families_sha256=sha256(read_bytes(path)),
        families=written,
        cells=tuple(cells),
        tests=tuple(tests),
        bands=tuple(losses),
    )


def _families(
    settings: Ablation, runs: tuple[Run, Run | None], held: Sequence[HeldOut], asked: Sequence[Asked], out: Path
) -> list[Bans]:
    """Find the families and write them and their bans down."""
    bands, has_middle = dict(settings.bands), False
    if not bands:
        with busy("analyze"):
            analysis = analyze_curves(runs[0], pivot=resolve(settings.pivot))
        bands, has_middle = default_bands(analysis), analysis.has_middle
    n_corpora = len(settings.tasks)
    own = {code: each for each in reversed(asked[:n_corpora]) for code in each.questions if code in runs[0].languages}
    own = dict(sorted(own.items())) | ({TASK_FAMILY: asked[-1]} if settings.task else {})
    if not own:
        raise RunError(
            f"no language of {', '.join(settings.tasks)} is among the captured {', '.join(runs[0].languages)}"
        )
    with busy("find experts"):
        made = make_families(settings, runs, bands, own)
    (out / "plans").mkdir(exist_ok=True)
    remove_stale(out / "plans")
    for each in made:
        if each.plan is not None:
            write_plan(each.plan, out / "plans" / f"{each.family.arm}.json")
    described = [each.describe() for each in asked]
    families = FamiliesFile(
        settings_sha256=sha256(read_bytes(out / SETTINGS)),
        bands=bands,
        has_middle=has_middle,
        tasks=tuple(_ablated(one, facts["items_sha256"]) for one, facts in zip(held, described, strict=True)),
        families=tuple(each.family for each in made),
        date=next((facts["date"] for facts in described if facts["date"]), None),
    )
    write_typed(out / FAMILIES, families)
    return made


def _ablated(held: HeldOut, items_sha256: str) -> AblatedTask:
    return AblatedTask(
        name=held.task.name,
        metric=held.task.metric,
        better=held.task.better,
        languages=tuple(held.task.items),
        item_ids=tuple(item.item_id for item in next(iter(held.task.items.values()))),
        n_captured=held.n_captured,
        items_sha256=items_sha256,
    )


def _kept_bans(out: Path, kept: FamiliesFile, settings: Ablation) -> list[Bans]:
    """Read the bans of a stopped run; RunError where a plan is not the one that was written down."""
    made = []
    for family in kept.families:
        if family.status != "banned":
            made.append(Bans(family))
            continue
        path = out / "plans" / f"{family.arm}.json"
        plan = read_plan(path)
        if plan.sha256 != family.plan_sha256:
            raise RunError(f"{path} is not the plan that {FAMILIES} names; restore both, or choose a new folder")
        made.append(Bans(family, plan, tuple(random_control(plan, seed=seed) for seed in range(settings.n_null))))
    return made


def _measure(asked: Sequence[Asked], made: Sequence[Bans], settings: Ablation, out: Path) -> Measured:
    """Measure every axis without a ban and under every family's, and the own axes under random bans."""
    work = list(_work(asked, made, settings))
    total = sum(len(asked[place].questions[code]) for _, _, (place, code) in work)
    values: dict[Place, FloatArray] = {}
    with track("ablate", total) as advance:
        for arm, plan, axis in work:
            place, language = axis
            folder = out / "measured" / str(place) / arm
            folder.mkdir(parents=True, exist_ok=True)
            records = answer_items(
                asked[place],
                plan,
                language,
                folder / f"{language}.jsonl",
                batch_size=settings.batch_size,
                progress=advance,
            )
            values |= {(measure, arm, axis): each for measure, each in values_of(asked[place], language, records)}
    return Measured(values, [each.name for each in asked], [_better(each) for each in asked])


def _better(asked: Asked) -> Better:
    return asked.task.better  # type: ignore[union-attr] # tasks of our own


def _work(asked: Sequence[Asked], made: Sequence[Bans], settings: Ablation) -> Iterator[tuple[str, Plan | None, Axis]]:
    """Yield arm, ban and axis of every measurement, in the order in which they are made."""
    axes = [(place, code) for place, each in enumerate(asked) for code in each.questions]
    yield from ((BASELINE, None, axis) for axis in axes)
    for each in made:
        if each.plan is not None:
            yield from ((each.family.arm, each.plan, axis) for axis in axes)
            for axis in own_axes(each.family, axes, settings):
                yield from ((random_arm(each.family, seed), plan, axis) for seed, plan in enumerate(each.null))
