"""What an evaluation writes down as it runs: its settings, and one record per item and arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isogloss.backends.chat_template import TemplateDate
from isogloss.errors import RunError
from isogloss.files import parse_json, read_bytes, read_json
from isogloss.records import Name, Number, from_json

__all__ = [
    "SETTINGS",
    "DocumentRecord",
    "EvaluationSettings",
    "ItemRecord",
    "LmEvalSettings",
    "RunSettings",
    "kept_date",
    "read_records",
    "read_settings",
]

SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """All that decides the answers, as in ``settings.json``; a stopped evaluation resumes only under equal ones.

    Attributes:
        engine: that runs the model; with its version, the kernels it chooses among, and the end tokens it obeys.
        isogloss_version: that began it; None in evaluations of older versions.
        threads: of the processor; None where the engine does not state it.
        model: fingerprint of the routers.
        weights_sha256: hash of values sampled from all weights; None where the engine does not state it.
        generation_config: what answers follow of the checkpoint's own; what they do not is in ``…_ignored``.
        task: its name.
        items_sha256: of all that is asked.
        arms: name to hash of the plan; None for the baseline.
        batch_size: items that are answered together.
        pivot: language that a plan must not harm.
        date: that the chat template wrote into prompts for today's; None where it writes none.
    """

    engine: Name
    engine_version: Name
    isogloss_version: str | None = None
    dtype: str
    device: str
    kernels: Mapping[str, Any]
    threads: int | None = None
    model: Mapping[str, Any]
    model_name: Name
    revision: Name | None
    config_sha256: str
    weights_sha256: str | None = None
    tokenizer_sha256: str
    generation_config: Mapping[str, Any]
    generation_config_ignored: Mapping[str, Any] = field(default_factory=dict)
    task: Name
    items_sha256: str
    arms: Mapping[str, str | None]
    batch_size: int
    pivot: Name
    date: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(RunSettings):
    """Settings of a task of our own: all that decides how it is asked and scored, see `isogloss.evaluation.tasks.Task`.

    Attributes:
        uses_chat: whether prompts go through the tokenizer's chat template.
        sampling: how tokens are drawn; None for greedy answers.
        data_revision: ``REPOSITORY@COMMIT`` of what was read from the hub; None for local files, or if unknown.
    """

    scoring: Name
    metric: Name
    protocol: str
    chat: bool
    delimiter: str
    normalise: str
    stop: Mapping[str, tuple[str, ...]]
    max_new_tokens: int
    few_shot: Mapping[str, tuple[str, ...]]
    licence: str
    source: str
    split: str | None
    group_mean: bool
    uses_chat: bool
    sampling: Mapping[str, Any] | None
    data_revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class LmEvalSettings(RunSettings):
    """Settings of tasks of lm-evaluation-harness.

    Attributes:
        harness: its version, and how it reads the tasks.
        versions: of the tasks.
    """

    harness: Mapping[str, Any]
    versions: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ItemRecord:
    """How one item went in one arm; one line of ``ARM/xxx_Xxxx.jsonl``.

    Attributes:
        item: its id.
        prompt_sha256: of the prompt as the model read it.
        output: as the model wrote it; None where nothing is generated.
        log_likelihoods: of the options or the reference, in nats; NaN where the model gave no finite number.
        n_tokens: of each option or the reference.
        parsed: the answer that was parsed, or the option that was selected; None where there is none.
        expected: the right answer.
        correct: whether it is right; None where the metric knows no right and wrong.
        value: the task's metric for this item.

    Raises:
        ValueError: on construction, where the value is not finite.
    """

    item: str
    prompt_sha256: str
    output: str | None = None
    log_likelihoods: tuple[Number, ...] = ()
    n_tokens: tuple[int, ...] = ()
    parsed: str | None
    expected: str
    correct: bool | None
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"the value of item {self.item} is {self.value}; expected a finite score")


@dataclass(frozen=True, kw_only=True)
class DocumentRecord:
    """How one document of a task of lm-evaluation-harness went in one arm; one line of ``ARM/TASK.jsonl``.

    Attributes:
        item: its place in the data set.
        prompt_sha256: of the document, its target and its requests.
        outputs: what was generated for each request, cut as the task defines.
        log_likelihoods: of each request that measures, in nats; NaN where the model gave no finite number.
        greedy: whether greedy decoding would write what is measured.
        expected: the target.
        values: metric and filter to the value of the document; NaN where it is no finite number.
    """

    item: str
    prompt_sha256: str
    outputs: tuple[str, ...] = ()
    log_likelihoods: tuple[Number, ...] = ()
    greedy: tuple[bool, ...] = ()
    expected: str
    values: Mapping[str, Number]


def read_settings(folder: Path) -> EvaluationSettings | LmEvalSettings:
    """Read the settings of an evaluation; RunError where they are damaged."""
    path = folder / SETTINGS
    raw = read_json(path)
    is_lm_eval = isinstance(raw, dict) and "harness" in raw
    return from_json(LmEvalSettings, raw, path) if is_lm_eval else from_json(EvaluationSettings, raw, path)


def kept_date(folder: Path) -> TemplateDate:
    """Return the date that prompts were written with in a folder that was begun; today's where none was kept.

    Raises:
        RunError: the settings are damaged.
    """
    path = folder / SETTINGS
    raw = read_json(path) if path.is_file() else None
    return TemplateDate(raw.get("date") if isinstance(raw, dict) else None)


def read_records(path: Path, kind: type[Any] = ItemRecord) -> list[Any]:
    """Read the records of one arm in one language, in the order of the items.

    Raises:
        RunError: a line is cut off or damaged.
    """
    records = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            raw = parse_json(line)
        except ValueError as error:
            raise RunError(f"{path}:{number} is not finished; run its evaluation again") from error
        records.append(from_json(kind, raw, f"{path}:{number}"))
    return records
