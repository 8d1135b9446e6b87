"""Loads any task by its name: which function reads it, and which items are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import cast, get_args

from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.choices import load_belebele, load_global_mmlu, load_mmlu
from isogloss.evaluation.tasks.maths import load_maths_folder, load_mgsm, load_msvamp, load_polymath
from isogloss.evaluation.tasks.reading import Request
from isogloss.evaluation.tasks.task import Task, TaskSplit, half_of
from isogloss.evaluation.tasks.texts import load_flores, load_organism, load_tico19, load_xquad
from isogloss.evaluation.tasks.xcopa import load_xcopa
from isogloss.hub import split_revision
from isogloss.languages import resolve
from isogloss.organism import ORGANISM

__all__ = ["TASKS", "load_task"]


@dataclass(frozen=True)
class _Loader:
    """Who reads a task, the names that may follow its own, and whether its one published split is halved here."""

    load: Callable[[Request], Task]
    variants: tuple[str, ...] = ()
    halved: bool = True


_TRANSLATION = ("into-english", "reference", "text")
_LOADERS = {
    ORGANISM: _Loader(load_organism, ("reference", "scenes"), halved=False),
    "mgsm": _Loader(load_mgsm, ("boxed",)),
    "msvamp": _Loader(load_msvamp),
    "polymath": _Loader(load_polymath, ("low", "medium", "high", "top")),
    "global_mmlu": _Loader(load_global_mmlu, ("medical", "medical-first60", "generate")),
    "mmlu": _Loader(load_mmlu, ("5shot", "generate")),
    "mmlu_arabic": _Loader(load_mmlu, ("5shot", "generate")),
    "belebele": _Loader(load_belebele, ("generate",)),
    "xquad": _Loader(load_xquad),
    "xcopa": _Loader(load_xcopa, halved=False),
    "flores": _Loader(load_flores, _TRANSLATION, halved=False),
    "tico19": _Loader(load_tico19, _TRANSLATION),
}

TASKS: Mapping[str, tuple[str, ...]] = MappingProxyType({name: loader.variants for name, loader in _LOADERS.items()})
"""Names that `load_task` knows, each with its variants."""


def load_task(
    source: str,
    *,
    languages: Sequence[str] | None = None,
    n_items: int | None = None,
    split: str | None = None,
    chat: bool | None = None,
) -> Task:
    """Load a task.

    Args:
        source: one of

            * ``NAME`` or ``NAME:VARIANT`` of `TASKS`: from the Hugging Face hub through `datasets` (``organism`` comes
              with the package); a variant that needs a file takes it as ``VARIANT=FILE``; ``NAME@REVISION`` names a
              branch, tag or commit of the hub's data set;
            * ``NAME:PATH`` or ``NAME:VARIANT:PATH``: from a local copy of the hub's repository or of the original
              release; the functions named ``load_…`` list the layouts that each task reads;
            * a folder with one file per language, ``xxx_Xxxx.tsv`` or ``FOLDER_code.tsv``, each line a question, a
              tab, and a number. A folder called as a task is written ``./NAME``; one with the files of that task's
              release (``mgsm/`` with ``mgsm_de.tsv``) is read as ``NAME:PATH``, and any other is called ``./NAME``.
        languages: codes to keep, in this order; None for all.
        n_items: first items to keep, after the split; None for all (200 for the organism).
        split: ``dev`` to choose on, ``test`` to confirm on, or None for both. Published ones where there are two
            (xcopa, flores, the organism, whose None is its test split); elsewhere `half_of` the one there is. Shots
            come from neither.
        chat: whether prompts go through the chat template; None for the protocol's own.

    Returns:
        The task; its items have the same ids in the same order in every language.

    Raises:
        CorpusError: no such task, variant, file, column, language or split, or languages whose items differ; the
            message names what was found and what to write.
        LanguageError: a language is unknown or ambiguous.

    Example:
        >>> task = load_task("organism", languages=["en"], n_items=3, split="dev")
        >>> task.name, task.split, len(task.items["eng_Latn"])
        ('organism-problems', 'dev', 3)
    """
    wanted = None if languages is None else tuple(dict.fromkeys(resolve(code) for code in languages))
    if n_items is not None and n_items < 1:
        raise CorpusError(f"{n_items} items were requested; expected 1 or more")
    task = _load(source, wanted, n_items, _split(split))
    kept = {code: list(rows)[:n_items] for code, rows in task.items.items()}
    task = replace(task, items=kept, split=_split(split))
    if chat is None or chat == task.chat:
        return task
    note = " (changed here: through the chat template)" if chat else " (changed here: plain, no chat template)"
    return replace(task, chat=chat, protocol=task.protocol + note)


def _load(source: str, wanted: tuple[str, ...] | None, n_items: int | None, split: TaskSplit | None) -> Task:
    name, _, rest = source.partition(":")
    name, revision = split_revision(name)
    if name not in TASKS:
        return _load_folder(source, wanted, split)
    variant, argument, path = _parts(name, rest)
    loader = _LOADERS[name]
    request = Request(name, variant, argument, path, wanted, split, n_items, revision)
    task = None if revision and path else loader.load(request)
    if task is None or (revision and request.read_from is None):
        raise CorpusError(f"{source}: it is not read from the hub, so it has no revision; leave @{revision} out")
    task = replace(task, data_revision=request.read_from)
    return _halve(task, name, split) if loader.halved and split is not None else task


def _load_folder(source: str, wanted: tuple[str, ...] | None, split: TaskSplit | None) -> Task:
    folder = Path(source)
    if not folder.is_dir():
        known = ", ".join(sorted(TASKS))
        raise CorpusError(
            f"no task {source!r}; expected 'organism' or a folder with one xxx_Xxxx.tsv per language, or one of {known}"
        )
    if (name := folder.name) in TASKS and any(folder.glob(f"{name}_*.tsv")):  # the layout of a release
        return _load(f"{name}:{folder}", wanted, None, split)
    if name in TASKS and not any(folder.glob("*.tsv")):
        raise CorpusError(f"{folder} holds no *.tsv, so it is no task of your own; a copy of {name} is {name}:{folder}")
    task = load_maths_folder(folder, wanted)
    if re.split("[:-]", name)[0] in TASKS:  # two protocols never share a name
        task = replace(task, name=f"./{name}")
    return task if split is None else _halve(task, name, split)


def _parts(name: str, rest: str) -> tuple[str, str, Path | None]:
    """Split what follows a task's name into variant, the variant's file, and path."""
    head, _, tail = rest.partition(":")
    variant, equals, argument = head.partition("=")
    if variant not in TASKS[name]:
        variant, argument, tail = "", "", rest
    elif equals and variant != "medical":
        raise CorpusError(f"{name}:{variant} takes no file; write {name}:{variant}")
    path = Path(tail) if tail else None
    if path is not None and not path.exists():
        variants = ", ".join(TASKS[name]) or "none"
        raise CorpusError(f"{name}: {tail!r} is neither a file or folder nor a variant; variants: {variants}")
    return variant, argument, path


def _split(split: str | None) -> TaskSplit | None:
    if split not in (None, *get_args(TaskSplit)):
        raise CorpusError(f"no split {split!r}; expected dev, test, or none for all items")
    return cast("TaskSplit | None", split)


def _halve(task: Task, name: str, split: TaskSplit) -> Task:
    items = {code: [item for item in rows if half_of(name, item.item_id) == split] for code, rows in task.items.items()}
    return replace(task, items=items, split=split)
