"""A sweep: candidates are compared on a task's dev split, and the winner is confirmed once on its test split.

The folder of a sweep holds ``settings.json``, the Runs ``run/`` and ``task/``, ``candidates.json`` with ``plans/``, the
evaluation of all plans ``dev/``, ``dev.json``, ``winner.json``, the evaluation of the winner ``test/``, and
``sweep.json``. A sweep that was stopped resumes, and ends with the same bytes.

No item of the test split is loaded before ``winner.json`` is on disk, and that file is never written again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from isogloss.analysis import analyze_curves, default_bands
from isogloss.backends.model import Model
from isogloss.errors import RunError
from isogloss.evaluation import PLAN, SETTINGS, Asked, Item, RunOptions, Task, ask, claim, kept_date, load_task
from isogloss.files import remove_stale
from isogloss.folders import locked
from isogloss.languages import resolve
from isogloss.progress import busy, note, track
from isogloss.records import write_typed
from isogloss.runs import Run
from isogloss.steering import Plan, random_control, read_plan, write_plan
from isogloss.workflows.corpora import open_corpus
from isogloss.workflows.evaluate import evaluate_plan
from isogloss.workflows.sweep.candidates import Candidates, has_effect, make_candidates
from isogloss.workflows.sweep.results import (
    CandidatesFile,
    DevFile,
    MeasuredCandidate,
    SeenBefore,
    SweepResult,
    SweepTest,
    WinnerFile,
    WinnersCurse,
)
from isogloss.workflows.sweep.select import choose_winner, front, measure, over_controls, rank
from isogloss.workflows.sweep.settings import Sweep, candidates, require_pivot

__all__ = ["run_sweep"]

_CANDIDATES, _DEV, _WINNER, _RESULT = "candidates.json", "dev.json", "winner.json", "sweep.json"
_SEEDS = 10  # tried per random control that is wanted
_CURSE = (
    "the winner was chosen because its gain on dev was the greatest, so that gain is too high on average; the gain on "
    "test is not"
)

_UNTESTED = "its plan changes no chosen expert on the first test items: take more items, or more dev"

_Loader = Callable[[], Model]


def run_sweep(sweep: Sweep, out: Path) -> SweepResult:
    """Run a sweep into a folder; what a stopped one has finished is kept.

    Args:
        sweep: the settings.
        out: folder of the sweep, new or from a stopped sweep with the same settings.

    Returns:
        As written to ``sweep.json``.

    Raises:
        IsoglossError: any step refused its input; the message names it and the reason.
    """
    with locked(out, SETTINGS):
        claim(out, sweep.portable(out / SETTINGS))
        if (out / _RESULT).is_file():
            return SweepResult.read(out / _RESULT)
        load_once = cache(sweep.load)
        if not (out / _WINNER).is_file():
            n = len(candidates(sweep.grid))
            note(f"{n} candidates in the grid: at most {n + 1} evaluations on dev, then {2 + sweep.n_controls} on test")
            _fix_winner(sweep, out, load_once)
        fixed, plan = _fixed(out)
        test = _confirm(sweep, out, load_once(), plan) if plan is not None else None
        result = _result(out, fixed, test)
        write_typed(out / _RESULT, result)
    return result


def _fix_winner(sweep: Sweep, out: Path, load_once: _Loader) -> None:
    """Compare the candidates on dev, and write down which one wins."""
    task = _load_split(sweep, "dev")
    require_pivot(list(task.items), sweep.pivot, f"task {task.name}")
    made = _candidates(sweep, out, load_once, task)
    rows = _measured(sweep, out, load_once(), task, made) if made.plans else []
    write_typed(out / _DEV, DevFile(task.metric, tuple(rows)))
    winner, reason = choose_winner(rows)
    plan = made.plans[winner.arm] if winner and winner.arm else None
    fixed = WinnerFile(
        winner=winner.name if winner else None,
        reason=reason,
        candidate=winner,
        plan=plan.to_json() if plan else None,
        plan_sha256=plan.sha256 if plan else None,
    )
    write_typed(out / _WINNER, fixed)


def _load_split(sweep: Sweep, split: str) -> Task:
    n_items = (sweep.dev_items if split == "dev" else 0) or sweep.task_items
    return load_task(sweep.task, languages=sweep.eval_languages or None, n_items=n_items or None, split=split)


def _candidates(sweep: Sweep, out: Path, load_once: _Loader, task: Task) -> Candidates:
    """Make the plans of all candidates, or read those of a stopped sweep."""
    path, folder = out / _CANDIDATES, out / "plans"
    if path.is_file():
        kept = CandidatesFile.read(path)
        return Candidates(list(kept.candidates), {arm: read_plan(folder / f"{arm}.json") for arm in kept.plans})
    texts = sweep.open_texts()
    asked = ask(load_once(), task, today=kept_date(out / "dev"))  # refuses what is too long before the captures
    run, task_run = sweep.capture(load_once(), texts, out)
    bands = _bands(sweep, run)
    grid = candidates(sweep.grid)
    with track("find experts", len(grid)) as advance:
        made = make_candidates(
            grid,
            (task_run, run),  # type: ignore[arg-type] # the settings name task texts
            bands=bands,
            pivot=resolve(sweep.pivot),
            works=lambda plan: has_effect(asked, plan),
            progress=advance,
        )
    folder.mkdir(exist_ok=True)
    remove_stale(folder)
    for arm, plan in made.plans.items():
        write_plan(plan, folder / f"{arm}.json")
    hashes = {arm: plan.sha256 for arm, plan in made.plans.items()}
    write_typed(path, CandidatesFile(bands=bands, candidates=tuple(made.rows), plans=hashes))
    return made


def _bands(sweep: Sweep, run: Run) -> dict[str, tuple[int, int]]:
    """Find the layers before, in and after the middle, where the grid names any of them."""
    if not any(layers.startswith(("early", "middle", "late")) for layers in sweep.grid.layers):
        return {}
    with busy("analyze"):
        analysis = analyze_curves(run, pivot=resolve(sweep.pivot))
    if not analysis.has_middle:
        raise RunError(f"no middle layers: {analysis.no_middle}; name layers in the grid as A-B instead")
    return default_bands(analysis)


def _measured(sweep: Sweep, out: Path, model: Model, task: Task, made: Candidates) -> list[MeasuredCandidate]:
    """Answer dev once without a plan and once with each distinct plan, and rank the candidates."""
    pivot, better = resolve(sweep.pivot), task.better
    others = [f"plan={arm}:{out / 'plans' / arm}.json" for arm in made.plans if arm != PLAN]
    options, n_asked = RunOptions(pivot=pivot), sum(map(len, task.items.values()))
    note(
        f"{len(made.plans) + 1} evaluations on dev (one without a plan, one for each distinct plan) of {n_asked} items "
        f"in {len(task.items)} languages: {(len(made.plans) + 1) * n_asked:,} answers"
    )
    summary = evaluate_plan(model, made.plans[PLAN], task=task, out=out / "dev", arms=others, options=options)
    gains = {arm: measure(out / "dev", arm, pivot=pivot, better=better)[0] for arm in made.plans}
    rows = [
        MeasuredCandidate(**vars(row), **vars(gains[row.arm]), guard=summary.guard[row.arm])
        for row in made.rows
        if row.arm in gains
    ]
    ranked = rank(rows)
    return [replace(row, front=on_front) for row, on_front in zip(ranked, front(ranked), strict=True)]


def _fixed(out: Path) -> tuple[WinnerFile, Plan | None]:
    """Read the winner that was written down."""
    path = out / _WINNER
    fixed = WinnerFile.read(path)
    if fixed.plan is None:
        return fixed, None
    plan = Plan.from_json(fixed.plan)
    if plan.sha256 != fixed.plan_sha256:
        raise RunError(
            f"{path}: the hash of its plan is not the one that it states; restore the file, or sweep into a new folder"
        )
    return fixed, plan


def _confirm(sweep: Sweep, out: Path, model: Model, plan: Plan) -> SweepTest | None:
    """Evaluate the plan that was written down on test, which is loaded here alone; None where it changes nothing."""
    task, pivot = _load_split(sweep, "test"), resolve(sweep.pivot)
    seen, better = _seen_before(sweep, task), task.better
    asked = ask(model, task, today=kept_date(out / "test"))
    if not has_effect(asked, plan):
        return None
    arms, idle = _controls(sweep, out, asked, plan)
    options = RunOptions(pivot=pivot)
    summary = evaluate_plan(model, plan, task=task, out=out / "test", arms=arms, options=options)
    gains, comparison = measure(out / "test", PLAN, pivot=pivot, better=better)
    controls = {name: measure(out / "test", name, pivot=pivot, better=better)[0] for name in summary.controls}
    beyond = over_controls(out / "test", PLAN, list(controls), pivot=pivot, better=better) if controls else None
    return SweepTest(
        **vars(gains),
        metric=task.metric,
        better=better,
        n=summary.n,
        guard=summary.guard[PLAN],
        per_language=comparison.per_language,
        controls=controls,
        over_controls=beyond,
        controls_without_effect=tuple(idle),
        seen_before=seen,
    )


def _controls(sweep: Sweep, out: Path, asked: Asked, plan: Plan) -> tuple[list[str], list[int]]:
    """Write random controls as arms, and list the seeds that were passed over: an evaluation refuses idle plans."""
    arms: list[str] = []
    idle: list[int] = []
    for seed in range(_SEEDS * sweep.n_controls):
        control = random_control(plan, seed=seed)
        if not has_effect(asked, control):
            idle.append(seed)
            continue
        path = out / "plans" / f"random-{seed}.json"
        write_plan(control, path)
        arms.append(f"plan=random-{seed}:{path}")
        if len(arms) == sweep.n_controls:
            break
    return arms, idle


def _seen_before(sweep: Sweep, test: Task) -> SeenBefore:
    """Count the test items that candidates were compared on, or whose pivot's text experts were looked for in."""
    pivot = resolve(sweep.pivot)
    dev = {_asked(item) for item in _load_split(sweep, "dev").items[pivot]}
    asked = [_asked(item) for item in test.items[pivot]]
    both = sum(each in dev for each in asked)
    if both == len(asked):
        raise RunError(f"task {test.name}: all test items also occur in dev; a sweep needs a task with two splits")
    texts = open_corpus(sweep.task_corpus, languages=[pivot], n_items=sweep.n_task_texts or None).texts[pivot]
    in_texts = sum(
        any((prompt.strip() or reference.strip()) in text for text in texts) for prompt, reference, _ in asked
    )
    return SeenBefore(both, in_texts)


def _asked(item: Item) -> tuple[str, str, tuple[str, ...]]:
    return item.prompt, item.reference, item.options


def _result(out: Path, fixed: WinnerFile, test: SweepTest | None) -> SweepResult:
    made, curse = CandidatesFile.read(out / _CANDIDATES), None
    if test is not None and fixed.candidate is not None:
        dev = fixed.candidate.gain
        curse = WinnersCurse(dev, test.gain, dev.value - test.gain.value, _CURSE)
    dev_file = DevFile.read(out / _DEV)
    return SweepResult(
        bands=made.bands,
        candidates=made.candidates,
        counts=dict(sorted(Counter(row.status for row in made.candidates).items())),
        n_plans=len(made.plans),
        metric=dev_file.metric,
        dev=dev_file.ranked,
        winner=fixed.winner,
        reason=fixed.reason,
        plan_sha256=fixed.plan_sha256,
        untested=_UNTESTED if fixed.winner is not None and test is None else None,
        test=test,
        winners_curse=curse,
    )
