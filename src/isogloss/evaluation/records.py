"""What an evaluation writes down as it runs: its settings, and one record per item and arm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogloss.errors import RunError
from isogloss.files import Number, from_json, read_bytes

__all__ = [
    "SETTINGS",
    "DocumentRecord",
    "EvaluationSettings",
    "ItemRecord",
    "LmEvalSettings",
    "RunSettings",
    "read_records",
]

SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """All that decides the answers, as in ``settings.json``; a stopped evaluation goes on under equal ones only.

    Attributes:
        engine: that runs the model; with its version, the kernels it chooses among, and the end tokens it obeys.
        threads: of the processor; None where the engine does not say.
        model: fingerprint of the routers.
        task: its name.
        items_sha256: of all that is asked.
        arms: name to hash of the plan; None for the baseline.
        batch_size: items that are answered together.
        pivot: language that a plan must not harm.
    """

    engine: str
    engine_version: str
    dtype: str
    device: str
    kernels: Mapping[str, Any]
    threads: int | None = None
    model: Mapping[str, Any]
    model_name: str
    revision: str | None
    config_sha256: str
    tokenizer_sha256: str
    generation_config: Mapping[str, Any]
    task: str
    items_sha256: str
    arms: Mapping[str, str | None]
    batch_size: int
    pivot: str


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(RunSettings):
    """Settings of a task of our own: all that decides how it is asked and scored, see `isogloss.evaluation.tasks.Task`.

    Attributes:
        uses_chat: whether prompts go through the tokenizer's chat template.
        sampling: how tokens are drawn; None for greedy answers.
    """

    scoring: str
    metric: str
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
        prompt_sha256: of the prompt as the model met it.
        output: as the model wrote it; None where nothing is generated.
        log_likelihoods: of the options or the reference, in nats; NaN where the model gave no finite number.
        n_tokens: of each option or the reference.
        parsed: the answer read off, the option chosen, or None.
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
        outputs: what was generated for each request, cut as the task says.
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


def read_records(path: Path, kind: type[Any] = ItemRecord) -> list[Any]:
    """Read the records of one arm in one language, in the order of the items.

    Raises:
        RunError: a line is cut off or damaged.
    """
    records = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}:{number} is not finished; run its evaluation again") from error
        records.append(from_json(kind, raw, f"{path}:{number}"))
    return records
