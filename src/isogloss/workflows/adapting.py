"""Makes a router adapter from a plan, with progress."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from isogloss.backends.model import Model
from isogloss.corpora import Corpus
from isogloss.evaluation import Task, load_task
from isogloss.learning import Adapted, AdaptOptions, adapt_plan
from isogloss.progress import track
from isogloss.steering import Plan, note_other_commit

__all__ = ["adapt"]


def adapt(  # noqa: PLR0913 - what it is made from, and how
    model: Model,
    plan: Plan,
    corpus: Corpus,
    *,
    out: str | Path,
    task: str | Task | None = None,
    n_dev: int | None = None,
    options: AdaptOptions | None = None,
) -> Adapted:
    """Make a router adapter that does for each language's tokens what a plan does for requests in that language.

    Args:
        model: unsteered, of the backend ``huggingface``; the adapter serves on any engine.
        plan: of kind ``offset``, without conditions on phases.
        corpus: texts in every language of the plan, in the pivot, and in whatever else the model is used in: a probe
            tells apart only what it was fitted on.
        out: folder of the adapter, new or empty; stock PEFT loads it.
        task: whose dev items choose ridge and strength, by name or as a `isogloss.task` of the dev split; None to come
            close to the plan instead.
        n_dev: most dev items of a task that is given by name; None for all.
        options: which languages are protected and how strongly, the bound, and what is chosen among.

    Raises:
        PlanError: the plan is for another model, or of a kind that no weight can do; it has rules for all requests
            beside others, or is for all requests while options protect languages; or no ridge and strength keeps the
            bound.
        CorpusError: the corpus or task lacks a language, or has too few items.
        LanguageError: the pivot is a language of the plan, or a language of the plan is to be protected.
        ModelError: the backend does not give what routers read.
        FileError: the folder is in use.
    """
    options = options or AdaptOptions()
    items = load_task(task, split="dev", n_items=n_dev) if isinstance(task, str) else task
    note_other_commit(plan, model.revision)
    totals = {"languages": len(corpus.languages), "settings": len(options.ridges) * len(options.strengths)}
    with ExitStack() as stack:
        bars = {what: stack.enter_context(track(f"adapt: {what}", total)) for what, total in totals.items()}
        return adapt_plan(
            model,
            plan,
            corpus,
            out=Path(out),
            task=items,
            options=options,
            progress=lambda what, n: bars[what](n),
        )
