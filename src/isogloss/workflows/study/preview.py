"""What a study will take, before any of it runs: texts, tokens, answers, and an estimate of time and disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from isogloss.backends.open import folder_of
from isogloss.backends.reading import find_checkpoint
from isogloss.corpora import Corpus
from isogloss.corpora.catalogue import CORPUS_FACTS
from isogloss.errors import IsoglossError
from isogloss.evaluation import TASKS, Task, load_task
from isogloss.files import read_json
from isogloss.hub import asking_hub, split_revision
from isogloss.languages import resolve
from isogloss.organism import ORGANISM
from isogloss.records import Number, Record
from isogloss.workflows.ablation.held_out import hold_out_task
from isogloss.workflows.ablation.settings import Ablation
from isogloss.workflows.corpora import open_corpus
from isogloss.workflows.study.settings import Study

__all__ = ["Portion", "Preview", "preview_study"]

_Read = TypeVar("_Read")

_SAMPLED = 100  # texts per language whose tokens are counted
_READING, _WRITING = 1e14, 1e13
"""Operations per second that are assumed for reading texts and for writing answers: one current GPU in 16 bits."""
_BYTES_PER_ANSWER = 1500
_BYTES_PER_TOKEN = 4.0  # of UTF-8 text, where no tokenizer can be read
_GIB, _HOUR = 2**30, 3600
_LEAST_HOURS, _WHOLE_HOURS = 0.1, 10

# Items of the published data sets, where they cannot be read.
_KNOWN = {"belebele": 488, "flores_plus": 997, "mgsm": 250, "gsm8k_instruct": 6504, "medinstruct": 52002}
# Items, languages, and most new tokens per answer.
_KNOWN_TASKS = {
    "mgsm": (250, 11, 256),
    "mgsm:boxed": (250, 11, 2048),
    "belebele": (900, 122, 0),
    "belebele:generate": (900, 122, 1024),
    "global_mmlu": (14042, 42, 0),
    "global_mmlu:generate": (14042, 42, 1024),
    "global_mmlu:medical-first60": (420, 42, 0),
    "polymath": (125, 18, 2048),
    "flores": (2009, 200, 512),
}
# Bytes of the weights, and parameters per token, by the models' cards.
_KNOWN_MODELS = {
    "Qwen/Qwen3-30B-A3B": (61.1e9, 3.3e9),
    "microsoft/Phi-3.5-MoE-instruct": (83.7e9, 6.6e9),
    "openai/gpt-oss-20b": (13.8e9, 3.6e9),
    "allenai/OLMoE-1B-7B-0125-Instruct": (13.8e9, 1.3e9),
}


@dataclass(frozen=True)
class Portion(Record):
    """One part of the work.

    Attributes:
        name: of the corpus or task, as the study names it.
        n_items: of each language.
        n_languages: that it is in.
        n_times: how often every item is taken: once in a capture; in an evaluation once per arm or ban.
        n_tokens: read in all; of an evaluation the prompts.
        most_new_tokens: that are written in all, at most; 0 where nothing is.
        was_read: whether the texts could be read here; else numbers are those of the published data set.
    """

    name: str
    n_items: int
    n_languages: int
    n_times: int
    n_tokens: int
    most_new_tokens: int
    was_read: bool

    @property
    def text(self) -> str:
        """One sentence."""
        plural = "" if self.n_languages == 1 else "s"
        what = f"{self.name}: {self.n_items:,} items in {self.n_languages} language{plural}"
        times = f", each {self.n_times} times" if self.n_times > 1 else ""
        new = f", at most {self.most_new_tokens:,} written" if self.most_new_tokens else ""
        guess = "" if self.was_read else " (not read here: the size of the published data set)"
        return f"{what}{times}; about {self.n_tokens:,} tokens read{new}{guess}."


@dataclass(frozen=True)
class Preview(Record):
    """What a study will take.

    Attributes:
        model: as the study names it.
        fetched: what is fetched from the hub, unless this machine has it already.
        weights_bytes: of the model's weights; NaN where that is not known here.
        active_parameters: used per token; NaN as above.
        texts: captured corpora.
        answers: evaluated tasks.
        disk_bytes: of the study's folder.
        hours: at the assumed speeds; NaN where the parameters are not known.
        remark: on the layers, where the study counts them from 1; else empty.
    """

    model: str
    fetched: tuple[str, ...]
    weights_bytes: Number
    active_parameters: Number
    texts: tuple[Portion, ...]
    answers: tuple[Portion, ...]
    disk_bytes: int
    hours: Number
    remark: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person reads."""
        fetched = (
            f"Fetched, unless they are here: {', '.join(self.fetched)}." if self.fetched else "Nothing is fetched."
        )
        weights = "The size of the weights is not known here."
        if not math.isnan(self.weights_bytes):
            weights = f"Weights: {_size(self.weights_bytes)}."
        answered = sum(each.n_items * each.n_languages * each.n_times for each in self.answers)
        time = "no estimate of time: `isogloss doctor MODEL` measures the speed"
        if not math.isnan(self.hours):
            time = (
                f"about {_hours(self.hours)} hours at most on one GPU that does {_READING:.0e} operations per second "
                f"reading and {_WRITING:.0e} writing, which is assumed: `isogloss doctor MODEL` measures the speed"
            )
        return (
            f"Model {self.model}. {weights}",
            fetched,
            *(f"Captured: {each.text}" for each in self.texts),
            *(f"Answered: {each.text}" for each in self.answers),
            *([self.remark] if self.remark else []),
            f"In all {answered:,} answers; {_size(self.disk_bytes)} of results beside the weights; {time}.",
        )


def preview_study(study: Study) -> Preview:
    """Count what a study takes; nothing is captured, and no weights are fetched or loaded.

    Texts and tasks are read, which fetches them where they come from the hub; what cannot be read is counted as the
    published data set has it.
    """
    facts = _Checkpoint(study.model)
    texts = tuple(_captured(study, facts))
    answers = tuple(_answered(study, facts))
    n_texts = sum(each.n_items * each.n_languages for each in texts)
    n_answers = sum(each.n_items * each.n_languages * each.n_times for each in answers)
    read = sum(each.n_tokens for each in (*texts, *answers))
    written = sum(each.most_new_tokens for each in answers)
    hours = 2.0 * facts.active_parameters * (read / _READING + written / _WRITING) / _HOUR
    disk = n_texts * facts.bytes_per_text + n_answers * _BYTES_PER_ANSWER
    sources = [study.model, study.corpus, study.task_corpus, *_tasks(study), *(study.tasks if study.bands else ())]
    sources += [text[text.index("hf:/") :] for text in (study.learned, *study.arms) if "hf:/" in text]
    fetched = tuple(dict.fromkeys(source for source in sources if source and _is_remote(source)))
    weights, active = facts.weights_bytes, facts.active_parameters
    return Preview(study.model, fetched, weights, active, texts, answers, round(disk), hours, study.layers_remark)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= _WHOLE_HOURS else f"{max(hours, _LEAST_HOURS):.2g}"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / _GIB:,.1f} GiB" if n_bytes >= _GIB else f"{n_bytes / 2**20:,.1f} MiB"


def _tasks(study: Study) -> list[str]:
    tasks = list(study.tasks) if study.steer else []
    return [*tasks, *([study.accuracy_task] if study.accuracy_task and study.accuracy_task not in tasks else [])]


def _is_remote(source: str) -> bool:
    """Whether a source is no path and nothing that ships with the package; a known name alone is never a path."""
    name, *places = source.split(":")
    if split_revision(name)[0] not in {*TASKS, *(each.name for each in CORPUS_FACTS)}:
        places.append(source)
    return not source.startswith("organism") and not any(Path(place).exists() for place in places)


class _Checkpoint:
    """What a checkpoint's small files say: tokenizer, sizes; nothing where they cannot be read."""

    def __init__(self, model: str) -> None:
        self.tokenizer: Any = None
        self.config: dict[str, Any] = {}
        self.weights_bytes, self._known_active = _KNOWN_MODELS.get(model, (math.nan, math.nan))
        try:
            with asking_hub():
                self._read(model)
        except Exception:  # noqa: BLE001 - what cannot be read, for whatever reason, is unknown
            return

    def _read(self, model: str) -> None:
        from transformers.utils.hub import cached_file  # noqa: PLC0415 - seconds, and nothing else here needs it

        place = find_checkpoint(folder_of(model))
        self.config = place.config().get_text_config().to_dict()
        self.tokenizer = place.tokenizer()
        folder = Path(place.source)
        if folder.is_dir():
            self.weights_bytes = float(sum(path.stat().st_size for path in folder.glob("*.safetensors")))
        else:
            index = cached_file(place.source, "model.safetensors.index.json", revision=place.revision)
            self.weights_bytes = float(read_json(Path(str(index)))["metadata"]["total_size"])

    def _size(self, *names: str) -> float:
        return next((float(self.config[name]) for name in names if self.config.get(name)), math.nan)

    @property
    def _experts(self) -> tuple[float, float, float]:
        """Layers, experts and those chosen per token."""
        n_experts = self._size("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        return self._size("num_hidden_layers"), n_experts, self._size("num_experts_per_tok", "moe_k", "top_k_experts")

    @property
    def active_parameters(self) -> float:
        """All but the experts that a token does not use, at two bytes per stored value."""
        n_layers, n_experts, top_k = self._experts
        if math.isnan(n_layers):
            return self._known_active
        width, inner = self._size("hidden_size"), self._size("moe_intermediate_size", "intermediate_size")
        return self.weights_bytes / 2 - n_layers * (n_experts - top_k) * 3 * width * inner

    @property
    def bytes_per_text(self) -> float:
        """Of a Run; where the model is not known, that of Qwen3-30B-A3B."""
        n_layers, n_experts, _ = self._experts
        return 48 * (8 * 128 + 8) if math.isnan(n_layers * n_experts) else n_layers * (8 * n_experts + 8)

    def count(self, texts: Sequence[str]) -> float:
        """Count tokens per text, on the first texts."""
        first = list(texts[:_SAMPLED])
        if self.tokenizer is None:
            return sum(len(text.encode()) for text in first) / _BYTES_PER_TOKEN / max(1, len(first))
        return sum(map(len, self.tokenizer(first)["input_ids"])) / max(1, len(first))


def _captured(study: Study, facts: _Checkpoint) -> Iterator[Portion]:
    generic = (study.corpus, study.languages, study.corpus_items)
    of_task = (study.task_corpus, (study.pivot,), study.n_task_texts)
    for source, languages, n_items in (generic, of_task) if study.task_corpus else (generic,):
        try:
            corpus: Corpus = open_corpus(source, languages=languages or None, n_items=n_items or None)
        except IsoglossError:
            known = _KNOWN.get(source.partition(":")[0], 0)
            n = min(n_items or known, known) if known else n_items
            yield Portion(source, n, len(languages), 1, n * len(languages) * 100, 0, was_read=False)
            continue
        n_tokens = sum(facts.count(texts) * len(texts) for texts in corpus.texts.values())
        yield Portion(source, len(corpus.item_ids), len(corpus.texts), 1, round(n_tokens), 0, was_read=True)


def _answered(study: Study, facts: _Checkpoint) -> Iterator[Portion]:
    n_arms = 2 + study.n_controls + _learned_arms(study) + sum(map(_arms_of, study.arms))
    if study.ablation:
        yield from _banned(study.ablation, facts)
    for name in _tasks(study):
        times = n_arms if study.steer and name in study.tasks else 1
        languages = study.languages_of(name) or (study.languages if times == 1 else ())
        task = _unless_refused(partial(load_task, name, languages=languages or None, n_items=study.task_items or None))
        yield _times(_portion(name, task, languages, study.task_items, facts), times)


def _banned(ablation: Ablation, facts: _Checkpoint) -> Iterator[Portion]:
    """Count what an ablation asks if every family has a ban: each task without and under all, its own under random."""
    texts = _unless_refused(ablation.open_texts) or ()
    captured = set(texts[0].languages if texts else map(resolve, ablation.languages))
    portions: list[tuple[Portion, set[str]]] = []
    for name in ablation.tasks:
        languages = ablation.languages_of(name)
        held = _unless_refused(partial(hold_out_task, name, ablation, texts, languages))
        evaluated = held.task.items if held else map(resolve, languages or captured)
        task = held.task if held else None
        portions.append((_portion(name, task, languages or (), ablation.task_items, facts), captured & set(evaluated)))
    n_families = len(ablation.bands) * len(set[str]().union(*(own for _, own in portions)))
    for portion, own in portions:
        yield _times(portion, 1 + n_families)
        once = _times(portion, len(own) / max(1, portion.n_languages))
        once = replace(once, name=f"{portion.name}, random bans", n_languages=len(own), n_times=1)
        yield _times(once, len(ablation.bands) * ablation.n_null)


def _unless_refused(read: Callable[[], _Read]) -> _Read | None:
    try:
        return read()
    except IsoglossError:
        return None


def _portion(name: str, task: Task | None, languages: Sequence[str], n_items: int, facts: _Checkpoint) -> Portion:
    """Count every item of a task once; where it could not be read, as published."""
    if task is None:
        found = [known for known in _KNOWN_TASKS if f"{name}:".startswith(f"{known}:")]
        known, n_known, new = _KNOWN_TASKS.get(max(found, key=len, default=""), (0, 0, 0))
        n, n_languages = min(n_items or known, known), len(languages) or n_known
        return Portion(name, n, n_languages, 1, n * n_languages * 150, n * n_languages * new, was_read=False)
    items: Mapping[str, Sequence[Any]] = task.items
    tokens = sum(facts.count([item.prompt for item in rows]) * len(rows) for rows in items.values())
    n = len(next(iter(items.values())))
    new = task.max_new_tokens if task.scoring == "generated" else 0
    return Portion(name, n, len(items), 1, round(tokens), n * len(items) * new, was_read=True)


def _times(portion: Portion, times: float) -> Portion:
    read, new = round(portion.n_tokens * times), round(portion.most_new_tokens * times)
    return replace(portion, n_times=round(times), n_tokens=read, most_new_tokens=new)


def _learned_arms(study: Study) -> int:
    """Count what was learned: a plan or an adapter, and with the shipped plan its adapter."""
    return 1 + (study.learned == ORGANISM) if study.learned else 0


def _arms_of(arm: str) -> int:
    """Count the arms that one setting makes."""
    kind, _, rest = arm.partition("=")
    if kind.startswith("random"):
        return int(kind.partition(":")[2] or 1)
    return len(rest.split(",")) if kind in ("shifted", "threshold", "strength") else 1
