"""What plans are learned from and chosen on: examples, dev items, parallel texts and generic texts.

Only dev splits are read, never a test split. Where examples and dev items come from one source, the hash of an item's
id decides which of the two it is, in every language alike; otherwise no prompt may be on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isogloss.corpora import Corpus, read_text, require_languages
from isogloss.errors import CorpusError, LanguageError
from isogloss.evaluation import Item, Task, load_task
from isogloss.evaluation.tasks.parse import parse_text
from isogloss.evaluation.tasks.task import half_of
from isogloss.files import parse_json
from isogloss.languages import resolve

__all__ = ["LearningData", "gather_data"]

_FIELDS = {"language", "prompt", "answer", "text", "id"}


@dataclass(frozen=True)
class LearningData:
    """Texts of one model-independent kind.

    Attributes:
        languages: that are learned, full codes.
        dev: language to the items on which the best step is chosen.
        examples: language to the items whose answers are learned; empty without answers.
        parallel: texts of the languages and the pivot; None without alignment.
        generic: texts of the pivot, for the leash; empty without.
        protected: other languages that must stay as they are, to texts for the leash.
        guarded: protected languages, the pivot too, to dev items that must not get worse.
    """

    languages: tuple[str, ...]
    dev: Mapping[str, Task]
    examples: Mapping[str, Task]
    parallel: Corpus | None = None
    generic: tuple[str, ...] = ()
    protected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guarded: Mapping[str, Task] = field(default_factory=dict)

    def sha256(self) -> dict[str, str]:
        """Hash each part."""
        parts: dict[str, Any] = {
            "examples": {code: list(task.items[code]) for code, task in self.examples.items()},
            "dev": {code: list(task.items[code]) for code, task in self.dev.items()},
            "parallel": None if self.parallel is None else [self.parallel.item_ids, dict(self.parallel.texts)],
            "generic": self.generic,
        }
        if self.protected or self.guarded:
            guarded = {code: list(task.items[code]) for code, task in self.guarded.items()}
            parts |= {"protected": dict(self.protected), "guarded": guarded}
        return {
            name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()
        }

    def unguarded(self, pivot: str) -> str | None:
        """Say why dev items do not guard the choice of an adapter's step, or not in the pivot; None where they do."""
        if not self.guarded:
            return "no dev items are in a protected language"
        if pivot not in self.guarded and pivot not in self.dev:
            return f"no dev items are in the pivot {pivot}"
        return None

    def require_guarded(self, pivot: str, asked: str) -> None:
        """Refuse what was asked for the guard where there is none.

        Raises:
            CorpusError: says why there is none, and what gives one.
        """
        if (why := self.unguarded(pivot)) is not None:
            what = "nothing would guard" if not self.guarded else f"{pivot} would not guard"
            raise CorpusError(
                f"{asked}: {what} the choice of the step: {why}; give --task TASK with items in the pivot and other "
                "protected languages, or leave it out"
            )


def gather_data(  # noqa: PLR0913 - each names a source
    task: str | None,
    *,
    examples: str | None = None,
    languages: Sequence[str] = (),
    pivot: str = "eng_Latn",
    answers: bool = True,
    alignment: bool = False,
    parallel: Corpus | None = None,
    generic: Corpus | None = None,
    n_items: int | None = None,
    n_dev: int | None = None,
    n_examples: int | None = None,
    protect: Sequence[str] | None = (),
) -> LearningData:
    """Read examples and dev items, and keep them apart.

    Args:
        task: whose dev items choose the best step; None for bits per byte of the examples that are held out.
        examples: a task whose dev items give prompts and answers, or a ``.jsonl`` file, each line an object with
            ``language``, ``answer`` and ``prompt``, or ``text`` alone (worked text, all of which is learned), and
            perhaps ``id``; None for ``task``.
        languages: to learn; empty for all of the task, or of the file, but the pivot.
        pivot: the reference language.
        answers: whether answers are learned.
        alignment: whether parallel texts are aligned.
        parallel: texts in the languages and the pivot; None for the prompts of the examples, which must be a task.
        generic: texts of the pivot for the leash; None for those of ``parallel``, if given.
        n_items: items of a task's dev split to read, before they are divided; None for all.
        n_dev: most dev items per language; None for all.
        n_examples: most examples per language; None for all.
        protect: languages that must stay as they are, the pivot among them unless it is learned; their texts are those
            of ``generic``, else of ``parallel``, else the prompts and answers of the examples' task. None for all
            languages of these but those that are learned; empty for the pivot's generic texts alone.

    Raises:
        CorpusError: no source, no examples, no dev items, a language that a source lacks or that is not to be learned,
            a prompt that is an example and a dev item, nothing that protects the pivot, or languages to protect by
            name without dev items by which they, or the pivot, could guard the choice of the step.
    """
    source, pivot = examples or task, resolve(pivot)
    if source is None:
        raise CorpusError("nothing to learn from: give a task, or a file of examples")
    wanted = _languages(languages, without=pivot if alignment else None)
    own_prompts = alignment and parallel is None
    if own_prompts and _is_file(source):
        raise CorpusError(f"{source}: prompts of a file are not parallel; give the parallel texts as a corpus")
    items = _read(source, (*wanted, pivot) if own_prompts and wanted else wanted, n_items)
    learned = wanted or tuple(code for code in items if code != pivot)
    dev, unseen = _dev_items(items, task, source, learned, n_items)
    dev = {code: _first(rows, n_dev, "dev items") for code, rows in dev.items()}
    pool = items if unseen is None else _without(unseen, dev)
    pool = {code: _first(rows, n_examples, "examples") for code, rows in pool.items()}
    if alignment:
        parallel = _prompts(pool, (*learned, pivot)) if parallel is None else parallel.select([*learned, pivot])
    texts = generic or (parallel if not own_prompts else None)
    data = LearningData(
        learned,
        dev,
        {code: pool[code] for code in learned} if answers else {},
        parallel if alignment else None,
        () if texts is None else texts.select([pivot]).texts[pivot],
    )
    if protect is None or protect:
        data = _protected(data, texts, task, source, pivot=pivot, protect=protect, n_items=n_items, n_dev=n_dev)
    _require_apart(data)
    return data


def _protected(  # noqa: PLR0913 - as of gather_data
    data: LearningData,
    texts: Corpus | None,
    task: str | None,
    source: str,
    *,
    pivot: str,
    protect: Sequence[str] | None,
    n_items: int | None,
    n_dev: int | None,
) -> LearningData:
    """Add texts and dev items of the languages that must stay as they are."""
    if texts is None and _is_file(source):
        raise CorpusError(f"{source}: has no texts that protect other languages; give generic texts as a corpus")
    worked = None if _is_file(source) else _read(source, (), n_items)
    texts = texts or _worked_texts(worked or {}, data)
    wanted = tuple(dict.fromkeys(map(resolve, protect or [code for code in texts.languages if code not in data.dev])))
    if both := sorted(set(wanted) & set(data.dev)):
        raise CorpusError(f"{', '.join(both)} is to be learned and protected; leave it out of one of the two")
    if pivot not in (*wanted, *data.dev):
        raise CorpusError(f"the pivot {pivot} is not protected, only {', '.join(wanted)}; add it to them")

    protected = {code: texts.select([code]).texts[code] for code in wanted}
    guarded: dict[str, Task] = {}
    if task is not None:
        all_items = worked if worked is not None and task == source else _read(task, (), n_items)
        guarded = {code: each for code, each in (all_items or {}).items() if code in wanted}
        guarded = _divide(guarded, "dev") if _base(task) == _base(source) else guarded
        guarded = {code: _first(each, n_dev, "dev items") for code, each in guarded.items()}
    others = {code: each for code, each in protected.items() if code != pivot}
    data = replace(data, generic=protected.get(pivot, ()), protected=others, guarded=guarded)
    if protect:
        data.require_guarded(pivot, f"to protect {', '.join(wanted)}")
    return data


def _worked_texts(tasks: Mapping[str, Task], data: LearningData) -> Corpus:
    """Make texts of the prompts and answers of a task, without dev items."""
    examples = _divide(tasks, "test")
    texts = {
        code: tuple(f"{item.prompt}{item.reference or item.answer}" for item in task.items[code])
        for code, task in examples.items()
        if code not in data.dev
    }
    first = next(iter(examples.values()))
    ids = tuple(item.item_id for rows in first.items.values() for item in rows)
    return Corpus(f"{first.name} worked", texts, ids, first.licence, first.source)


def _languages(codes: Sequence[str], *, without: str | None) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(resolve(code) for code in codes))
    if without in wanted:
        raise LanguageError(
            f"{without} is the pivot, whose texts are fixed in an alignment; leave it out of the languages"
        )
    return wanted


def _dev_items(
    items: dict[str, Task], task: str | None, source: str, learned: Sequence[str], n_items: int | None
) -> tuple[dict[str, Task], dict[str, Task] | None]:
    """Return the dev items, and what of ``items`` is none of them by its hash; None where they are of two sources."""
    measured = items if task in (None, source) else _read(str(task), tuple(learned), n_items)
    dev = {code: measured[code] for code in learned}
    if task is not None and _base(task) != _base(source):
        return dev, None
    return _divide(dev, "dev"), _divide(items, "test")


def _read(source: str, languages: tuple[str, ...], n_items: int | None) -> dict[str, Task]:
    """Return one task per language, from a file or from the dev split of a task."""
    if _is_file(source):
        rows = _read_file(Path(source))
        if unnamed := sorted(set(rows) - set(languages or rows)):
            raise CorpusError(
                f"{source}: has examples in {', '.join(unnamed)}, which is not to be learned; name it among the "
                "languages, or take its lines out"
            )
        require_languages(rows, languages or None, source)
        common: dict[str, Any] = {"max_new_tokens": 0, "scoring": "reference", "metric": "bits_per_byte"}
        name = Path(source).name
        return {code: Task(name, {code: items}, parse_text, delimiter="", **common) for code, items in rows.items()}
    task = load_task(source, languages=languages or None, n_items=n_items, split="dev")
    return {code: replace(task, items={code: rows}) for code, rows in task.items.items()}


def _is_file(source: str) -> bool:
    return source.endswith(".jsonl")


def _base(source: str) -> str:
    """Name what items come from: variants of one task share their items."""
    return source if _is_file(source) else source.partition(":")[0]


def _read_file(path: Path) -> dict[str, list[Item]]:
    items: dict[str, list[Item]] = {}
    for number, line in enumerate(read_text(path, allow_mark=True).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not JSON ({error})") from error
        code, item = _example(row, where)
        items.setdefault(code, []).append(item)
    if not items:
        raise CorpusError(f"{path}: no examples; expected one JSON object per line")
    return items


def _example(row: Any, where: str) -> tuple[str, Item]:  # noqa: ANN401 - any JSON
    known = isinstance(row, dict) and "language" in row and set(row) <= _FIELDS
    parts = [row.get(name) for name in ("prompt", "answer", "text", "language")] if known else []
    if not known or any(part is not None and not isinstance(part, str) for part in parts):
        raise CorpusError(f"{where}: expected an object of texts: language, prompt and answer, or language and text")
    prompt, answer, text, language = parts
    if (text is None) == (answer is None) or (text is not None and prompt is not None) or not (text or answer).strip():
        raise CorpusError(f"{where}: expected prompt and answer, or text alone, and neither empty")
    written = json.dumps([prompt, answer, text])
    item_id = str(row.get("id", hashlib.sha256(written.encode()).hexdigest()[:16]))
    try:
        return resolve(language), Item(item_id, prompt or "", reference=text or answer)
    except LanguageError as error:
        raise CorpusError(f"{where}: {error}") from error


def _divide(tasks: Mapping[str, Task], half: str) -> dict[str, Task]:
    """Keep the items whose hash puts them among the dev items, or, of half ``test``, among the examples."""
    kept = {}
    for code, task in tasks.items():
        rows = [item for item in task.items[code] if half_of("learn", item.item_id) == half]
        if not rows:
            what = "examples" if half == "test" else "dev items"
            raise CorpusError(f"{task.name}: no {what} in {code} after its items were divided; it needs more of them")
        kept[code] = replace(task, items={code: rows})
    return kept


def _without(pool: Mapping[str, Task], dev: Mapping[str, Task]) -> dict[str, Task]:
    """Leave out examples whose prompt is also that of a dev item with another id, in all languages."""
    measured = {_key(item) for item in _items(dev)}
    both = {item.item_id for item in _items(pool) if _key(item) in measured}
    kept = {}
    for code, task in pool.items():
        if not (rows := [item for item in task.items[code] if item.item_id not in both]):
            raise CorpusError(f"{task.name}: every example in {code} has the prompt of a dev item; it needs more items")
        kept[code] = replace(task, items={code: rows})
    return kept


def _first(task: Task, n: int | None, what: str) -> Task:
    if n is not None and n < 1:
        raise CorpusError(f"{n} {what} asked for; expected 1 or more")
    return replace(task, items={code: rows[:n] for code, rows in task.items.items()})


def _prompts(pool: Mapping[str, Task], languages: tuple[str, ...]) -> Corpus:
    """Make parallel texts of the prompts of a task."""
    require_languages(pool, languages, "the task")
    first = next(iter(pool.values()))
    texts = {code: tuple(item.prompt for item in pool[code].items[code]) for code in dict.fromkeys(languages)}
    ids = tuple(item.item_id for item in pool[languages[0]].items[languages[0]])
    return Corpus(f"{first.name} prompts", texts, ids, first.licence, first.source)


def _require_apart(data: LearningData) -> None:
    """Refuse a dev item whose prompt is also learned from."""
    learned = {_key(item) for item in _items(data.examples)}
    texts = [] if data.parallel is None else [text for each in data.parallel.texts.values() for text in each]
    for item in _items(data.dev):
        prompt = item.prompt or item.reference
        if _key(item) in learned or any(prompt in text for text in texts):
            raise CorpusError(
                f"dev item {item.item_id!r} is also learned from ({prompt[:60]!r}); take it out of the examples or "
                "parallel texts: a plan must be chosen on items that it has not seen"
            )


def _items(tasks: Mapping[str, Task]) -> Iterator[Item]:
    return (item for task in tasks.values() for rows in task.items.values() for item in rows)


def _key(item: Item) -> str:
    return hashlib.sha256(" ".join((item.prompt or item.reference).split()).encode()).hexdigest()
