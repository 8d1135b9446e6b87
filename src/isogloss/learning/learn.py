"""Learns a plan or an adapter: sets of numbers one after the other, each chosen on dev items, resumable at any step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.joint_texts import Measured, refuse_placeholders, tokenise_pairs
from isogloss.backends.model import Model
from isogloss.backends.open import refuse_unsupported
from isogloss.errors import CorpusError, PlanError, RunError
from isogloss.evaluation import SETTINGS, Task, TemplateDate, ask, claim, kept_date
from isogloss.evaluation.asked import AskedTask
from isogloss.folders import locked
from isogloss.learning.data import LearningData
from isogloss.learning.dev_values import mean_value
from isogloss.learning.estimators import refuse_unmoved
from isogloss.learning.folder import ADAPTER, PLAN, Checkpoint, LearningFolder
from isogloss.learning.records import Learned, LearnedSet, LearnOptions, LearnSettings, StepRecord
from isogloss.records import to_json
from isogloss.steering import Plan, RouterAdapter, check_plan, write_adapter, write_plan

if TYPE_CHECKING:
    from isogloss.learning.descent import Descent, Texts
    from isogloss.learning.parameters import Parameters

__all__ = ["learn_plan"]

_KL_TEXTS = 64
_STEP_0 = "step_0"  # of the recorded options: "start" where step 0 is an adapter that was given


def learn_plan(  # noqa: PLR0913 - what is learned from, and how
    model: Model,
    data: LearningData,
    *,
    out: Path,
    options: LearnOptions | None = None,
    start: RouterAdapter | None = None,
    parameters: Parameters | None = None,
    progress: Callable[[int], None] | None = None,
) -> Learned:
    """Learn offsets on router logits, or an adapter of the routers' weights; the model's own weights are frozen.

    Args:
        model: unsteered, of the backend ``huggingface``, the only one that gives gradients.
        data: from `isogloss.learning.gather_data`.
        out: folder, new or of stopped learning with the same model, data and options.
        options: what, and how.
        start: an adapter of low rank to go on from, which is step 0: measured, guarded and kept where no step is
            better; None for one that changes nothing.
        parameters: numbers of another kind to learn in place of those that the options name, for comparisons.
        progress: told the number of steps done, those of an earlier run included.

    Returns:
        A plan of kind ``offset`` or ``select``, conditional on language unless ``shared``, also written to
        ``plan.json``; a set that nothing made better on the dev items has no part in it. Or an adapter, also written to
        the folder ``adapter``; where no step was better within the tolerance, it is the one to start from, or changes
        nothing where there is none or where that one costs the protected languages more than the tolerance.

    Raises:
        ModelError: the backend gives no gradients, the estimator cannot move the model's routers, or a loss is not
            finite.
        PlanError: the adapter to start from is of another model or other layers.
        RunError: layers that the model does not route; an adapter to start from with parameters other than
            ``low-rank``; the folder holds something else, or another process works there.
        CorpusError: an example or text is longer than the model's context, or has nothing to learn.
    """
    options = options or LearnOptions()
    job = _Job(model, data, options, start, kept_date(out), parameters)
    with locked(out, SETTINGS):
        _refuse_unmeasured(out, job.settings)
        claim(out, job.settings)
        return job.run(LearningFolder(out), progress or (lambda _: None))


class _OnDev(NamedTuple):
    """Language to mean value on the dev items: of the set, and of protected languages; None where none are theirs."""

    own: dict[str, float]
    protected: dict[str, float] | None


class _Job:
    """Everything that is checked before the folder is claimed."""

    def __init__(
        self,
        model: Model,
        data: LearningData,
        options: LearnOptions,
        start: RouterAdapter | None,
        today: TemplateDate,
        parameters: Parameters | None,
    ) -> None:
        refuse_unsupported(model.backend, gradients=True)
        refuse_unmoved(options, model.routers[0], model.fingerprint.model_type)
        if start is not None and options.parameters != "low-rank":
            raise RunError(
                f"an adapter to start from is for low-rank parameters, not {options.parameters}; leave it out, or "
                "learn low-rank"
            )
        self.model, self.data, self.options, self.started = model, data, options, start is not None
        self.layers = _layers(model, options, start)
        self.parameters = parameters or _parameters(model, options, self.layers, start)
        if options.leash and not (data.generic or data.protected):
            raise CorpusError("a leash needs generic text of the pivot; give a corpus, or leave the leash out")
        self.sets = [data.languages] if options.one_set else [(code,) for code in data.languages]
        self.dev = {code: _asked(model, task, today) for code, task in data.dev.items()}
        self.guarded = {code: _asked(model, task, today) for code, task in data.guarded.items()}
        answers = {code: _answers(model, _asked(model, task, today)) for code, task in data.examples.items()}
        kept = {options.pivot: data.generic, **data.protected} if data.generic else dict(data.protected)
        self.kept = {code: _generic(model, texts) for code, texts in kept.items()}
        if data.parallel is not None:
            _require_context(model, [text for texts in data.parallel.texts.values() for text in texts])
        self.texts = [self._texts(languages, answers) for languages in self.sets]
        first = next(iter(data.dev.values()))
        self.metric, self.better = first.metric, first.better
        described = json.loads(json.dumps(model.describe(), default=str))
        chosen = json.loads(json.dumps(options.recorded()))
        if parameters is not None:
            chosen["parameters"] = parameters.name
        if self.started:
            chosen[_STEP_0] = "start"
        self.settings = LearnSettings(
            described,
            model.threads,
            chosen,
            data.languages,
            first.name,
            first.metric,
            data.sha256(),
            today.kept,
            None if start is None else start.sha256,
        )

    def _texts(self, languages: tuple[str, ...], answers: Mapping[str, list[Measured]]) -> Texts:
        from isogloss.learning.descent import Texts  # noqa: PLC0415 - torch

        own = _numbered(text for code in languages for text in answers.get(code, ()))
        pivot = self.kept.get(self.options.pivot, [])
        others = _numbered(text for code, texts in self.kept.items() if code != self.options.pivot for text in texts)
        first, second = (pivot, others) if pivot else (others, [])
        return Texts(own, self.data.parallel, languages, first, second)

    def run(self, folder: LearningFolder, progress: Callable[[int], None]) -> Learned:
        """Do the steps that are missing, and write the plan."""
        checkpoint = folder.resume()
        progress(checkpoint.number * self.options.steps + max(checkpoint.step, 0))
        if checkpoint.step < 0:
            self.model.prove(next(iter(self.dev.values())).questions[self.data.languages[0]][0].text)
            unchanged = np.zeros_like(self.parameters.start())
            checkpoint.arrays["best"] = np.stack([unchanged] * len(self.sets))
        while checkpoint.number < len(self.sets):
            self._learn_set(folder, checkpoint, progress)
            if checkpoint.number + 1 == len(self.sets):
                break
            checkpoint.number, checkpoint.step = checkpoint.number + 1, -1
        return self._finish(folder, checkpoint)

    def _learn_set(self, folder: LearningFolder, checkpoint: Checkpoint, progress: Callable[[int], None]) -> None:
        from isogloss.learning.descent import Descent  # noqa: PLC0415 - torch

        number, options = checkpoint.number, self.options
        descent = Descent(self.parameters, self.texts[number], options, layers=self.layers, number=number)
        if checkpoint.step < 0:
            checkpoint.step = 0
            before = self._dev(number, None)
            n_experts = self.parameters.n_experts
            begun = LearnedSet(self.sets[number], 0, before.own, before.own, n_experts, n_experts)
            checkpoint.sets.append(replace(begun, protected_before=before.protected, protected=before.protected))
            first = self._start(checkpoint) if self.started else before
            self._keep(folder, checkpoint, descent, {}, first)
        else:
            descent.resume(checkpoint.arrays)
        for step in range(checkpoint.step + 1, options.steps + 1):
            losses = descent.step(step)
            checkpoint.step = step
            measured = None
            if step % options.dev_every == 0 or step == options.steps:
                measured = self._dev(number, descent.state()["values"])
                self._choose(checkpoint, measured, descent.state()["values"])
            self._keep(folder, checkpoint, descent, losses, measured)
            progress(1)

    def _start(self, checkpoint: Checkpoint) -> _OnDev:
        """Measure the adapter that learning starts from, and choose it unless it harms protected languages."""
        values = self.parameters.start()
        measured = self._dev(checkpoint.number, values)
        begun = replace(checkpoint.sets[-1], dev_start=measured.own, protected_start=measured.protected)
        checkpoint.sets[-1] = replace(begun, best_step=None)
        self._choose(checkpoint, measured, values)
        return measured

    def _choose(self, checkpoint: Checkpoint, measured: _OnDev, values: FloatArray) -> None:
        """Keep the numbers where they are the best so far, and cost protected languages no more than the tolerance."""
        current = checkpoint.sets[-1]
        sign = 1 if self.better == "higher" else -1
        gain = sign * (math.fsum(measured.own.values()) - math.fsum(current.dev.values()))
        if (gain > 0 or current.best_step is None) and self._is_harmless(current.protected_before, measured.protected):
            chosen = replace(current, best_step=checkpoint.step, dev=measured.own, protected=measured.protected)
            checkpoint.sets[-1] = chosen
            checkpoint.arrays["best"][checkpoint.number] = values

    def _is_harmless(self, before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> bool:
        """Whether neither the pivot nor the mean of all protected languages loses more than the tolerance."""
        if not before or not after:
            return True
        sign = 1 if self.better == "higher" else -1
        losses = {code: sign * (value - after[code]) for code, value in before.items()}
        mean = math.fsum(losses.values()) / len(losses)
        return max(mean, losses.get(self.options.pivot, mean)) <= self.options.tolerance

    def _keep(
        self,
        folder: LearningFolder,
        checkpoint: Checkpoint,
        descent: Descent,
        losses: Mapping[str, float],
        measured: _OnDev | None,
    ) -> None:
        arrays = descent.state()
        values, left = self.parameters.change(arrays["values"]), self.parameters.unmoved(descent.reached)
        checkpoint.arrays = {"best": checkpoint.arrays["best"], **arrays}
        checkpoint.sets[-1] = replace(checkpoint.sets[-1], without_gradient=left)
        record = StepRecord(
            self.sets[checkpoint.number],
            checkpoint.step,
            **losses,
            largest=float(np.abs(values).max()),
            deviation=float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))),
            without_gradient=left,
            dev=None if measured is None else measured.own,
            protected=None if measured is None else measured.protected,
        )
        folder.keep(record, checkpoint)

    def _dev(self, number: int, values: FloatArray | None) -> _OnDev:
        """Return mean values on dev items, of each language of a set and of each protected one."""
        steered = nullcontext() if values is None else self.parameters.steered(values)
        with steered:
            own = {code: mean_value(self.dev[code], code) for code in self.sets[number]}
            protected = {code: mean_value(asked, code) for code, asked in self.guarded.items()}
        return _OnDev(own, protected or None)

    def _finish(self, folder: LearningFolder, checkpoint: Checkpoint) -> Learned:
        best = checkpoint.arrays["best"]
        sets = []
        for values, learned in zip(best, checkpoint.sets, strict=True):
            kl = self._kl(values, chosen=learned.is_chosen)
            others = {code: each for code, each in kl.items() if code != self.options.pivot}
            sets.append(replace(learned, kl=kl.get(self.options.pivot, math.nan), protected_kl=others or None))
        record = {"rule": "learned", **to_json(self.settings), "sets": [each.to_json() for each in sets]}
        plan = self.parameters.write(best, record, [None if self.options.one_set else each for each in self.sets])
        if isinstance(plan, Plan):
            write_plan(plan, folder.path / PLAN)
        elif not (folder.path / ADAPTER).exists():
            write_adapter(plan, folder.path / ADAPTER)
        return Learned(plan, tuple(sets), self.metric)

    def _kl(self, values: FloatArray, *, chosen: bool) -> dict[str, float]:
        """Measure how far the next token of protected texts moves, by language."""
        from isogloss.learning.descent import mean_leash  # noqa: PLC0415 - torch

        if not chosen:
            return {self.options.pivot: 0.0, **dict.fromkeys(self.kept, 0.0)}
        return {code: mean_leash(self.parameters, values, texts[:_KL_TEXTS]) for code, texts in self.kept.items()}


def _parameters(model: Model, options: LearnOptions, layers: Sequence[int], start: RouterAdapter | None) -> Parameters:
    from isogloss.learning.parameters import parameters_of  # noqa: PLC0415 - torch

    return parameters_of(model, options, layers, start)  # type: ignore[arg-type]  # its backend gives gradients


def _refuse_unmeasured(out: Path, settings: LearnSettings) -> None:
    """Refuse to go on where step 0 was the unsteered model although learning started from an adapter."""
    if settings.start_sha256 is None or not (out / SETTINGS).is_file():
        return
    before = LearnSettings.read(out / SETTINGS)
    if before.start_sha256 is not None and _STEP_0 not in before.options:
        raise RunError(
            f"{out} was begun by a version that did not measure the adapter to start from, and chose among other "
            "steps; learn in a new folder"
        )


def _layers(model: Model, options: LearnOptions, start: RouterAdapter | None) -> tuple[int, ...]:
    routed = [spec.layer for spec in model.routers]
    if start is not None:
        check_plan(start, model.fingerprint)
        first, last = options.layers or (start.layers[0], start.layers[-1])
        if dropped := [layer for layer in start.layers if not first <= layer <= last]:
            raise PlanError(
                f"layers {first} to {last} leave out layer{'s' * (len(dropped) > 1)} {', '.join(map(str, dropped))} of "
                "the adapter to start from, whose change there would be lost; name all of its layers, or none"
            )
        if options.layers is None:
            return start.layers
    first, last = options.layers or (routed[0], routed[-1])
    if not (layers := tuple(layer for layer in routed if first <= layer <= last)):
        raise RunError(f"no routed layer from {first} to {last}; the model routes {routed[0]} to {routed[-1]}")
    return layers


def _asked(model: Model, task: Task, today: TemplateDate) -> AskedTask:
    asked = ask(model, task, today=today)
    assert isinstance(asked, AskedTask)  # noqa: S101 - of a Task
    return asked


def _answers(model: Model, asked: AskedTask) -> list[Measured]:
    """Tokenise the prompts of examples with their answers."""
    task, pairs = asked.task, []
    for questions in asked.questions.values():
        for question in questions:
            item, prompt, texts = question.content
            if task.scoring == "generated":
                apart = asked.uses_chat or prompt[-1:].isspace()
                texts = ("" if apart else task.delimiter) + item.answer, ""
            pairs.append((prompt, texts[item.right if task.scoring == "options" else 0]))
    return _tokenised(model, pairs, add_special_tokens=not asked.uses_chat)


def _numbered(texts: Iterable[Measured]) -> list[Measured]:
    return [text._replace(place=place) for place, text in enumerate(texts)]


def _generic(model: Model, texts: Sequence[str]) -> list[Measured]:
    return _tokenised(model, [("", text) for text in texts], add_special_tokens=True)


def _tokenised(model: Model, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool) -> list[Measured]:
    joint = sorted(tokenise_pairs(model.tokenizer, pairs, add_special_tokens=add_special_tokens))
    for text in joint:
        _require_fits(model, text.ids, "".join(pairs[text.place]))
    return [text.measured for text in joint]


def _require_context(model: Model, texts: Sequence[str]) -> None:
    for ids, text in zip(model.tokenizer(list(texts))["input_ids"], texts, strict=True):
        _require_fits(model, ids, text)


def _require_fits(model: Model, ids: Sequence[int], text: str) -> None:
    refuse_placeholders([ids], model)
    if model.context_length is not None and len(ids) > model.context_length:
        raise CorpusError(
            f"a text to learn from has {len(ids)} tokens, the model takes {model.context_length}: {text[:60]!r}; "
            "shorten it or take it out"
        )
