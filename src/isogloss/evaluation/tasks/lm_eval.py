"""Tasks of lm-evaluation-harness, selected by name, with requests as it builds them.

lm-eval reads the data, builds the requests of every document and scores the answers. The tokens of a request are
those that its own transformers model (``HFLM``) would read: that class is made without a model, and asked what it would
ask one.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from isogloss.backends.chat_template import filling_template
from isogloss.backends.joint_texts import JointText
from isogloss.errors import CorpusError, LanguageError, RunError
from isogloss.hub import asking_hub
from isogloss.languages import resolve

__all__ = [
    "Continued",
    "LmEvalOptions",
    "LmEvalTasks",
    "Requests",
    "require_lm_eval",
    "task_language",
    "tasks_in",
]

_SEED = 1234  # lm-eval's own, of NumPy and of few-shot examples; its seed of Python is 0
_ENDLESS = 2**31
_FILE_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f-\x9f]{1,150}")


@dataclass(frozen=True)
class LmEvalOptions:
    """How lm-eval reads its tasks; the same in every arm.

    Attributes:
        limit: first documents of each task to keep; None for all.
        include_path: folder with tasks of one's own.
        builtin: whether tasks that come with lm-eval are known too; finding them takes seconds.
        num_fewshot: examples in the prompt; None for each task's own number.
        chat: whether prompts go through the tokenizer's chat template.
        generation: options of generation that replace the tasks' own, such as ``{"max_gen_toks": 32}``.
    """

    limit: int | None = None
    include_path: Path | None = None
    builtin: bool = True
    num_fewshot: int | None = None
    chat: bool = False
    generation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise RunError(f"limit is {self.limit!r}; expected a whole number of at least 1")


class Continued(NamedTuple):
    """A prompt to continue, its most new tokens, the texts at which the answer is cut, and how tokens are drawn."""

    prompt: str
    add_special_tokens: bool
    max_new_tokens: int
    stop: tuple[str, ...]
    how: dict[str, Any]


class LmEvalTasks:
    """Tasks of lm-eval, loaded.

    Args:
        names: of tasks, groups or tags, such as ``mgsm_direct`` or ``belebele_swh_Latn``.
        options: how they are read.
        metric: to compare, as lm-eval writes it, its filter with it or not: ``acc`` or ``acc,none``; None for the first
            by name.

    Attributes:
        tasks: name to lm-eval's task, groups resolved.
        version: of lm-eval.

    Raises:
        CorpusError: lm-eval is not installed, or has no such task, or one that runs code or reads more than texts, or
            whose name is no name of a file.
    """

    def __init__(
        self, names: Sequence[str], options: LmEvalOptions | None = None, *, metric: str | None = None
    ) -> None:
        require_lm_eval()
        import lm_eval  # noqa: PLC0415 - an optional extra

        self.names, self.options, self.metric = tuple(names), options or LmEvalOptions(), metric
        self.name, self.version = f"lm-eval:{','.join(names)}", str(lm_eval.__version__)
        manager = _find(self.names, self.options)
        with _lm_eval_seeds(), _fetching(self.names):
            self.tasks: dict[str, Any] = dict(manager.load(list(self.names))["tasks"])
        for name, task in self.tasks.items():
            if not _FILE_NAME.fullmatch(name):
                raise CorpusError(
                    f"task {name!r}: its answers are kept in a file of that name; expected at most 150 characters, of "
                    "which none is a slash, a backslash or a control character, and no dot first: rename the task"
                )
            if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                raise CorpusError(f"task {name} runs code of answers, or reads more than texts; choose another task")
            _configure(task, self.options)

    def build(self, requests: Requests) -> None:
        """Build the requests of all documents in the words of a model, with lm-eval's seeds."""
        chat = self.options.chat
        with _lm_eval_seeds():
            for task in self.tasks.values():
                task.build_all_requests(
                    limit=self.options.limit,
                    apply_chat_template=chat,
                    fewshot_as_multiturn=True,
                    chat_template=filling_template()(requests.lm.apply_chat_template) if chat else None,
                    tokenizer_name=requests.lm.tokenizer_name if chat else "",
                )


class Requests:
    """What lm-eval's transformers model would ask of a model.

    Args:
        tokenizer: of the model.
        context_length: most tokens of a text; None where the model does not state it.
    """

    def __init__(self, tokenizer: Any, context_length: int | None) -> None:  # noqa: ANN401 - transformers' own
        from lm_eval.models import huggingface  # noqa: PLC0415 - an optional extra

        nothing = SimpleNamespace(config=SimpleNamespace(), device=huggingface.torch.device("cpu"))
        recorder = type("RecordingLM", (_Recording, huggingface.HFLM), {})
        self.lm: Any = recorder(
            pretrained=nothing, tokenizer=tokenizer, backend="causal", max_length=context_length, batch_size=1
        )
        self.context_length = int(self.lm.max_length)

    def of(self, instance: Any) -> list[JointText] | Continued:  # noqa: ANN401 - lm-eval has no types
        """Turn a request into tokens to measure, whose sum answers it, or into a prompt to continue.

        Raises:
            CorpusError: nothing is left to measure.
            RunError: the request is longer than the model's context; lm-eval would cut off its beginning.
        """
        generates = instance.request_type == "generate_until"
        self.lm.recorded, self.lm._max_length = [], _ENDLESS if generates else self.context_length  # noqa: SLF001 - its only setter
        getattr(self.lm, instance.request_type)([instance], disable_tqdm=True)
        if not generates:
            return [self._measured(*each) for each in self.lm.recorded]
        ids, n_new, stop, how = self.lm.recorded[0]
        self._require_room(len(ids) + n_new)
        prompt = str(instance.args[0])
        special = list(self.lm.tokenizer(prompt)["input_ids"]) == ids
        return Continued(prompt, special, n_new, tuple(stop), how)

    def _measured(self, context: list[int], continuation: list[int]) -> JointText:
        if not context or not continuation:
            raise CorpusError(
                f"a request of {len(context)} tokens and {len(continuation)} to measure after them; expected at "
                "least one of either: leave such items out"
            )
        self._require_room(len(context) + len(continuation) - 1)  # the last token is predicted, not read
        return JointText(0, [*context, *continuation], len(context))

    def _require_room(self, n_tokens: int) -> None:
        if n_tokens > self.context_length:
            raise RunError(
                f"a request needs a context of {n_tokens} tokens and the model has {self.context_length}; lm-eval "
                "would cut off its beginning without a word: leave the task out, or give fewer examples or new tokens"
            )


class _Recording:
    """Keeps what lm-eval's transformers model would have a model compute; to be mixed into that class."""

    recorded: list[tuple[Any, ...]]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        self.recorded += [(context, continuation) for _, context, continuation in requests]
        return [(0.0, False)] * len(requests)

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **how: Any) -> Any:  # noqa: ANN401 - a tensor of torch; the tasks' own settings
        del how["attention_mask"]
        self.recorded.append((context[0].tolist(), max_length - int(context.shape[1]), stop, how))
        return context


def tasks_in(tasks: Sequence[str], languages: Sequence[str]) -> tuple[str, ...]:
    """Choose the tasks that are named by one of some languages; all where no language is given.

    Raises:
        CorpusError: a task is named by no language where some are given, or none is left.

    Example:
        >>> tasks_in(["mgsm_direct_sw", "mgsm_direct_de"], ["swh_Latn"])
        ('mgsm_direct_sw',)
    """
    if not languages:
        return tuple(tasks)
    for task in tasks:
        if task_language(task) is None:
            raise CorpusError(
                f"--languages chooses among tasks named by their language, and {task} is not; name tasks such as "
                "belebele_swh_Latn, or leave --languages out"
            )
    chosen = tuple(task for task in tasks if task_language(task) in languages)
    if not chosen:
        raise CorpusError(f"none of {', '.join(tasks)} is in {', '.join(languages)}; name tasks in these languages")
    return chosen


def task_language(task: str) -> str | None:
    """Read the full code of a language off the end of a task's name; None where it ends in none.

    Example:
        >>> [task_language(name) for name in ("mgsm_direct_sw", "belebele_swh_Latn", "arc_easy")]
        ['swh_Latn', 'swh_Latn', None]
    """
    parts = task.split("_")
    for n_parts in (2, 1):
        if len(parts) > n_parts:
            try:
                return resolve("_".join(parts[-n_parts:]))
            except LanguageError:
                continue
    return None


def require_lm_eval() -> None:
    """Raise a `CorpusError` where lm-evaluation-harness is not installed."""
    if missing := [name for name in ("lm_eval", "accelerate") if importlib.util.find_spec(name) is None]:
        raise CorpusError(
            f"tasks of lm-evaluation-harness need {' and '.join(missing)}; run: pip install isogloss[lm-eval]"
        )


def _find(names: Sequence[str], options: LmEvalOptions) -> Any:  # noqa: ANN401 - lm-eval has no types
    """Make a manager of tasks that knows all names; lm-eval's own ones are looked through where they are needed."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an optional extra

    path = None if options.include_path is None else str(options.include_path)
    manager = TaskManager(include_path=path, include_defaults=False)
    if options.builtin and not set(names) <= set(manager.all_subtasks):
        manager = TaskManager(include_path=path)
    for name in names:
        if name not in manager.all_tasks:
            close = ", ".join(difflib.get_close_matches(name, manager.all_tasks, n=4)) or "none that is similar"
            raise CorpusError(f"lm-evaluation-harness has no task {name!r}; it has {close}: see `lm_eval ls tasks`")
    if not names:
        raise CorpusError("no task of lm-evaluation-harness was named; name at least one")
    return manager


def _configure(task: Any, options: LmEvalOptions) -> None:  # noqa: ANN401 - lm-eval has no types
    """Set what the options replace, as ``lm_eval.simple_evaluate`` (0.4.13) does: 0 examples stay 0."""
    if options.generation and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(options.generation), update=True)
    own = task.get_config("num_fewshot")
    if own is None or (own != 0 and options.num_fewshot is not None):
        task.set_config(key="num_fewshot", value=options.num_fewshot or 0)
    task.set_fewshot_seed(seed=_SEED)


@contextlib.contextmanager
def _fetching(names: Sequence[str]) -> Iterator[None]:
    """Turn what ``datasets`` raises about data that it cannot get into a CorpusError of one line."""
    import datasets  # noqa: PLC0415 - lm-eval imports it anyway

    with asking_hub() as unreachable:
        try:
            yield
        except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = unreachable or f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise CorpusError(
                f"the data of {', '.join(names)} cannot be loaded ({reason}); check the network, accept the data set's "
                "terms and run `hf auth login`, or fetch it once where there is a network"
            ) from error


@contextlib.contextmanager
def _lm_eval_seeds() -> Iterator[None]:
    """Seed Python's and NumPy's generators as lm-eval does, which tasks may draw from; restored afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the generator that tasks know
    random.seed(0)
    np.random.seed(_SEED)  # noqa: NPY002 - as above
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as above
