"""The settings that studies and sweeps share, and how any settings are read from TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.model import Model
from isogloss.backends.open import BACKENDS, load, refuse_unsupported
from isogloss.corpora import Corpus
from isogloss.errors import IsoglossError, PlanError, RunError
from isogloss.files import read_bytes
from isogloss.languages import resolve
from isogloss.records import Record, problems, write_typed
from isogloss.routing import Fingerprint
from isogloss.runs import Run, TokenScope
from isogloss.steering import Kind, plan_from_experts
from isogloss.workflows.capture import capture_corpus
from isogloss.workflows.corpora import open_corpus_to_capture

__all__ = ["STRICT", "Layers", "LayersOrMiddle", "StudySettings", "require_strength"]

_LARGEST = 2**20  # bytes of a file of settings
_FINGERPRINT = Fingerprint("any", (0, 1), 4, 2, "00")  # of no model: strengths are checked before one is loaded

_DTYPES = ("auto", "float32", "bfloat16", "float16")

STRICT = {"extra": "forbid"}
"""Configuration of pydantic for settings: an unknown one is an error."""


class _AsText:
    """Tells pydantic to read layers that are written as ``A-B``, or ``middle`` for none of one's own."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: Callable[[object], Any]) -> Any:  # noqa: ANN401 - pydantic's own
        from pydantic_core import core_schema  # noqa: PLC0415 - 0.15 s, needed to read alone

        return core_schema.no_info_before_validator_function(cls._read, handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:  # noqa: ANN401 - pydantic's own
        return handler(schema)

    @staticmethod
    def _read(value: object) -> object:
        match = re.fullmatch(r"(\d+)-(\d+)", value) if isinstance(value, str) else None
        if match is not None:
            return int(match[1]), int(match[2])
        return None if value == "middle" else value


Layers = Annotated[tuple[int, int], _AsText]
"""First and last decoder layer, both included; in a file a list of both, or ``A-B`` as in all commands."""

LayersOrMiddle = Annotated[tuple[int, int] | None, _AsText]
"""As `Layers`, or None, in a file ``middle``."""


@dataclass(frozen=True)
class StudySettings(Record):
    """Model, texts and task of a study or a sweep.

    Attributes:
        model: hub id, folder, or ``organism``.
        corpus: generic parallel texts.
        task_corpus: task texts in the pivot language, to find task experts; empty for none.
        task: questions with answers, to evaluate.
        languages: to capture; empty for all that the corpus has.
        eval_languages: to evaluate; empty for all that the task has.
        pivot: the reference language.
        corpus_items: first items of the corpora; 0 for all.
        task_corpus_items: first items of the task texts; 0 for as many as ``corpus_items``.
        task_items: first items of the task; 0 for all.
        chat: whether both corpora are captured through the model's chat template.
        tokens: which of their tokens are counted: ``content``, ``all``, or, in a chat, ``user`` or ``assistant``.
        backend: what runs the model: ``huggingface`` or ``vllm``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: huggingface: such as ``cuda:0``, or ``auto`` for all GPUs; empty for a GPU where there is one.
        dequantize: huggingface: whether quantised weights are turned into floating point.
        engine: vllm: arguments of its ``LLM``, such as ``tensor_parallel_size``.

    Raises:
        RunError: on construction, where a number is out of its range.
        ModelError: there is no such backend, or it does not take an option.
    """

    model: str = "organism"
    corpus: str = "organism"
    task_corpus: str = "organism:problems"
    task: str = "organism"
    languages: tuple[str, ...] = ()
    eval_languages: tuple[str, ...] = ()
    pivot: str = "eng_Latn"
    corpus_items: int = 0
    task_items: int = 0
    task_corpus_items: int = 0
    chat: bool = False
    tokens: TokenScope = "content"
    backend: str = BACKENDS[0]
    dtype: str = "auto"
    device: str = ""
    dequantize: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)

    __pydantic_config__: ClassVar = STRICT
    written: ClassVar[tuple[str, ...]] = ("model",)
    """Settings that a file must state: defaults of the functions are not what its reader meant."""
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"model": "organism"})
    """What an example file states; its other settings are the defaults."""

    def __post_init__(self) -> None:
        self.require("corpus_items", "task_corpus_items", "task_items", least=0)
        refuse_unsupported(self.backend, device=self.device, dequantize=self.dequantize, engine=self.engine)
        if self.dtype not in _DTYPES:
            raise RunError(f"dtype is {self.dtype!r}; expected {' or '.join(_DTYPES)}")
        self.capture_options  # noqa: B018 - refuses tokens of a role without a chat

    @property
    def capture_options(self) -> CaptureOptions:
        """How both corpora are read and counted."""
        return CaptureOptions(token_scope=self.tokens, chat=self.chat)

    @property
    def n_task_texts(self) -> int:
        """How many task texts are read; 0 for all."""
        return self.task_corpus_items or self.corpus_items

    def load(self) -> Model:
        """Load the model; errors as of `isogloss.backends.open.load`."""
        return load(
            self.model,
            backend=self.backend,
            dtype=self.dtype,
            device=self.device or None,
            dequantize=self.dequantize,
            engine=self.engine,
        )

    def require(self, *names: str, least: int) -> None:
        """Refuse settings below their least value; RunError names the first."""
        for name in names:
            if (value := getattr(self, name)) < least:
                raise RunError(f"{name} is {value}; expected at least {least}{'' if least else ', 0 for all or none'}")

    def portable(self, path: Path) -> Self:
        """Return the settings as ``path`` shall hold them: absolute paths by their last names.

        Folders of results are given to others, whom the folders of a machine do not concern. A file of an older version
        that holds these settings with the whole paths is written anew.

        Raises:
            RunError: the file is damaged.
        """
        short = self.without_folders()
        if short != self and path.is_file() and type(self).read(path) == self:
            write_typed(path, short)
        return short

    def without_folders(self) -> Self:
        """Return the settings with absolute paths by their last names."""
        shortened: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, str):
                shortened[name] = _last_name(value)
            elif isinstance(value, tuple) and all(isinstance(each, str) for each in value):
                shortened[name] = tuple(map(_last_name, value))
        return replace(self, **shortened)

    @classmethod
    def read_toml(cls, path: Path) -> Self:
        """Read STUDY.toml or SWEEP.toml.

        Raises:
            RunError: not TOML, an unknown setting, one of `written` missing or an empty table, or a value of the wrong
                type or out of range.
        """
        what = cls.__name__.lower()
        try:
            raw = tomllib.loads(read_bytes(path, most=_LARGEST).decode("utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RunError(f"cannot read {what} {path}: {error}") from error
        settings = cls.from_settings(raw, path)
        if missing := [name for name in cls.written if raw.get(name) in (None, "", {})]:
            raise RunError(f"{path} is no {what}: it does not state {' and '.join(missing)}; write what is to be run")
        return settings

    @classmethod
    def from_settings(cls, raw: Mapping[str, Any], where: object) -> Self:
        """Build settings from plain values; RunError names ``where`` and the setting that does not fit."""
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - 0.2 s, needed to read alone

        what = cls.__name__.lower()
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as error:
            known = ", ".join(_names(cls))
            raise RunError(f"{where} is no {what}: {problems(error)}; the settings are {known}") from error
        except IsoglossError as error:
            raise RunError(f"{where} is no {what}: {error}") from error

    def open_texts(self) -> tuple[Corpus, Corpus | None]:
        """Open the generic texts, and the task texts in the pivot, if any; CorpusError where they cannot be read."""
        texts = open_corpus_to_capture(self.corpus, languages=self.languages or None, n_items=self.corpus_items or None)
        if not self.task_corpus:
            return texts, None
        languages, n_items = [resolve(self.pivot)], self.n_task_texts or None
        return texts, open_corpus_to_capture(self.task_corpus, languages=languages, n_items=n_items)

    def capture(self, model: Model, texts: tuple[Corpus, Corpus | None], out: Path) -> tuple[Run, Run | None]:
        """Capture what `open_texts` opened: generic texts into ``run/``, task texts, if any, into ``task/``."""
        generic, of_task = texts
        options = self.capture_options
        run = capture_corpus(model, generic, out / "run", languages=self.languages or None, options=options)
        if of_task is None:
            return run, None
        return run, capture_corpus(model, of_task, out / "task", languages=[resolve(self.pivot)], options=options)


def require_strength(where: str, kind: Kind, strength: float) -> None:
    """Refuse a strength that interventions of a kind cannot have; RunError says where it was set."""
    expert = (0, 0, 1.0, 1.0)
    try:
        plan_from_experts([expert], kind=kind, strength=strength, fingerprint=_FINGERPRINT, provenance={})
    except PlanError as error:
        raise RunError(f"{where}: {error}") from error


def _last_name(text: str) -> str:
    """Shorten an absolute path, also behind a kind such as ``tsv:`` or an arm's ``plan=NAME:``; ``hf://…`` is none."""
    kind, path = re.fullmatch(r"((?:(?!hf:/)[\w.=-]{2,}:)*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr] # any text
    return kind + Path(path).name if Path(path).is_absolute() else text


def _names(kind: Any) -> Iterator[str]:  # noqa: ANN401 - a dataclass
    """Yield the settings of a class, those of a table within it as ``TABLE.NAME``."""
    for each in fields(kind):
        if is_dataclass(table := each.default_factory):
            yield from (f"{each.name}.{name}" for name in _names(table))
        else:
            yield each.name
