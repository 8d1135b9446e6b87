"""Learns a plan or an adapter, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isogloss.backends.model import Model
from isogloss.corpora import Corpus
from isogloss.learning import Learned, LearningData, LearnOptions, gather_data, learn_plan
from isogloss.progress import track
from isogloss.steering import RouterAdapter

__all__ = ["learn", "learn_with_progress"]


def learn_with_progress(
    model: Model, data: LearningData, *, out: Path, options: LearnOptions, start: RouterAdapter | None = None
) -> Learned:
    """Learn; see `isogloss.learning.learn_plan`."""
    n_sets = 1 if options.one_set else len(data.languages)
    with track(f"learn {options.objective}", n_sets * options.steps) as advance:
        return learn_plan(model, data, out=out, options=options, start=start, progress=advance)


def learn(  # noqa: PLR0913 - each names a source
    model: Model,
    *,
    out: str | Path,
    task: str | None = None,
    examples: str | None = None,
    languages: Sequence[str] = (),
    parallel: Corpus | None = None,
    generic: Corpus | None = None,
    n_items: int | None = None,
    n_dev: int | None = None,
    n_examples: int | None = None,
    options: LearnOptions | None = None,
    protect: Sequence[str] | None = None,
    start: RouterAdapter | None = None,
) -> Learned:
    """Learn a plan, or an adapter, from examples or parallel texts; the model's own weights are frozen.

    Args:
        model: unsteered, of the backend ``huggingface``; the plan serves on any.
        out: folder of the result, new or of stopped learning with the same settings.
        task: whose dev items choose the best step; None for bits per byte of held-out examples.
        examples: a task, or a ``.jsonl`` file with prompts and answers; None for ``task``.
        languages: to learn; empty for all but the pivot.
        parallel: texts to align; None for the prompts of the examples' task.
        generic: texts of the pivot, and of other languages to protect, for the leash; None for ``parallel``.
        n_items: items of the dev split to read, before they are divided into examples and dev items.
        n_dev: most dev items per language.
        n_examples: most examples per language.
        options: what is learned, what is minimised, and how.
        protect: languages that an adapter must leave as they are; None for all of the generic texts, or of the task,
            that are not learned.
        start: adapter of low rank to go on from; it is step 0, and is kept if no step is better.

    Raises:
        CorpusError: there is nothing to learn from, or a dev item is also learned from.
        ModelError: the model gives no gradients, or the estimator cannot move its routers.
        RunError: the folder holds something else.
    """
    options = options or LearnOptions()
    data = gather_data(
        task,
        examples=examples,
        languages=languages,
        pivot=options.pivot,
        answers=options.answers,
        alignment=options.alignment,
        parallel=parallel,
        generic=generic,
        n_items=n_items,
        n_dev=n_dev,
        n_examples=n_examples,
        protect=protect if options.is_adapter else (),
    )
    return learn_with_progress(model, data, out=Path(out), options=options, start=start)
