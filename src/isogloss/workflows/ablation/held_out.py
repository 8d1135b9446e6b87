"""The tasks of an ablation, without the items whose texts families are found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from isogloss.corpora import Corpus
from isogloss.errors import CorpusError
from isogloss.evaluation import Item, Task, load_task
from isogloss.workflows.ablation.settings import Ablation

__all__ = ["HeldOut", "hold_out", "hold_out_task"]


@dataclass(frozen=True)
class HeldOut:
    """A task without the items whose text is captured.

    Attributes:
        task: with its first items that are left.
        n_captured: items that are left out.
    """

    task: Task
    n_captured: int


def hold_out(settings: Ablation, texts: tuple[Corpus, Corpus | None]) -> list[HeldOut]:
    """Load the tasks of an ablation, that of ``task`` last, without items of which a text in any language is captured.

    Args:
        settings: the tasks, their languages, and how many items are kept.
        texts: that are captured.

    Raises:
        CorpusError: a task cannot be read, or all its items are captured.
    """
    held = [hold_out_task(name, settings, texts, settings.languages_of(name)) for name in settings.tasks]
    if settings.task:
        held.append(hold_out_task(settings.task, settings, texts, (settings.pivot,)))
    return held


def hold_out_task(
    source: str, settings: Ablation, texts: tuple[Corpus | None, ...], languages: Sequence[str] | None
) -> HeldOut:
    """Load one task as `hold_out` does, in some languages; None is all that it has."""
    every = (text for corpus in texts if corpus is not None for each in corpus.texts.values() for text in each)
    captured = frozenset(text.strip() for text in every)
    task = load_task(source, languages=languages)
    seen = {
        item.item_id
        for items in task.items.values()
        for item in items
        if captured & {text.strip() for text in _texts_of(task, item)}
    }
    kept = {
        code: [item for item in items if item.item_id not in seen][: settings.task_items or None]
        for code, items in task.items.items()
    }
    if not all(kept.values()):
        raise CorpusError(
            f"task {source}: the texts of all its items were captured; expected held-out texts: lower corpus_items, or "
            "name another corpus or task"
        )
    return HeldOut(replace(task, items=kept), len(seen))


def _texts_of(task: Task, item: Item) -> tuple[str, ...]:
    """Return the texts of an item that a corpus may hold; lines of the prompt also without the words before a colon."""
    whole = (item.prompt, item.reference, item.prompt + task.delimiter + item.reference, item.answer)
    lines = item.prompt.splitlines()
    return tuple(filter(None, (*whole, *lines, *(line.partition(":")[2].strip() for line in lines))))
