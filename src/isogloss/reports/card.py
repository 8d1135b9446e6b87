"""The card of what is shared on the hub: what it is, for which model, what it was measured to do, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isogloss.errors import RunError
from isogloss.evaluation import SUMMARY, EvaluationSummary
from isogloss.evaluation.records import read_settings
from isogloss.records import read_typed
from isogloss.reports.metrics import Metric
from isogloss.reports.text import name as language_name
from isogloss.routing import Fingerprint
from isogloss.runs import Run
from isogloss.steering import Plan, RouterAdapter

__all__ = ["MARK", "run_card", "steering_card"]

MARK = "library_name: isogloss"
"""A line of every card that isogloss wrote."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL = 0.001  # the least p that is written out


def steering_card(shared: Plan | RouterAdapter, name: str, *, evaluation: Path | None) -> str:
    """Write the card of a plan or router adapter.

    Args:
        shared: what is shared.
        name: of the repository.
        evaluation: folder of an evaluation that has it among its arms; None for a card without numbers.

    Raises:
        RunError: the evaluation is damaged, or of other plans.
    """
    provenance = shared.provenance
    languages = shared.languages or tuple(map(str, provenance.get("languages") or ()))
    model = _model_of(shared)
    what = "steering plan" if isinstance(shared, Plan) else "router adapter"
    acts = f"for requests in {_named(shared.languages)} alone" if shared.languages else "for every request"
    changes = f"edits the logits of the routers, {acts}, and no weight"
    if isinstance(shared, RouterAdapter):
        changes = "changes the weights of the routers, for every request, and no others"
    about = f"A {what} of isogloss for the Mixture-of-Experts model `{_code(model or 'not named')}`: it {changes}."
    lines = [
        *_front(languages, model, [what.replace(" ", "-")]),
        f"# {name.rpartition('/')[2]}",
        about,
        *_measured(shared, evaluation),
        "## How to use it",
        _console(
            f"isogloss show MODEL 'A text.' --plan hf://{name} -o tokens.html",
            f"isogloss evaluate MODEL --plan hf://{name} --task TASK -o eval",
        ),
        "Read what it does before you serve it; isogloss refuses it for any other model.",
        "## What it is made from",
        *_fingerprint(shared.fingerprint),
        *_provenance(provenance),
        f"* sha256 of the {shared.noun}: `{shared.sha256}`",
    ]
    return _joined(lines)


def run_card(run: Run, name: str) -> str:
    """Write the card of a Run."""
    manifest = run.manifest
    n_items, n_layers, n_experts = manifest.shape
    corpus = manifest.corpus
    texts = f"{n_items:,} texts of `{_code(corpus['name'])}` in {_named(run.languages)}"
    size = f"{n_layers} routed layers of {n_experts} experts"
    lines = [
        *_front(run.languages, manifest.model, ["routing"]),
        f"# {name.rpartition('/')[2]}",
        f"Routing of `{_code(manifest.model)}` on {texts}, captured by isogloss: {size}. It holds no text.",
        f"Licence of the texts: `{_code(corpus['licence'])}`.",
        "## How to use it",
        _console(f"isogloss analyze hf://datasets/{name}"),
        "## What it is made from",
        *([] if manifest.fingerprint is None else _fingerprint(manifest.fingerprint)),
        *([] if manifest.revision is None else [f"* commit of the model: `{_code(manifest.revision)}`"]),
    ]
    return _joined(lines)


def _measured(shared: Plan | RouterAdapter, evaluation: Path | None) -> Iterator[str]:
    yield "## What it does"
    if evaluation is None:
        yield "No evaluation is given. Evaluate it before you use it."
        return
    arms = read_settings(evaluation).arms
    summary = read_typed(evaluation / SUMMARY, EvaluationSummary)
    arm = next((name for name, sha256 in arms.items() if sha256 == shared.sha256), None)
    if arm is None:
        others = ", ".join(name for name, each in arms.items() if each)
        raise RunError(
            f"{evaluation} evaluates other plans ({others}), none of them this {shared.noun}; give an evaluation of "
            "it, or none"
        )
    metric, steered = Metric.of(summary), summary.where_steered.get(arm)
    overall = summary.compared[arm].overall if steered is None else steered.overall
    where = f"{len(summary.n)} languages" if steered is None else f"its languages ({_named(steered.languages)})"
    yield (
        f"`{_code(metric.name)}` on `{_code(summary.task)}`, mean over {where}: {metric.value_text(overall.baseline)} "
        f"without it, {metric.value_text(overall.steered)} with it, {metric.change_text(overall.difference)} (95 % "
        "intervals)."
    )
    if (guard := summary.guard.get(arm)) is not None:
        cost = f"changes by {metric.change_text(guard.gain)}, n = {guard.n}" if guard.steered else "is not steered"
        yield f"{language_name(summary.pivot)}, which it must not harm, {cost}."
    yield "\n".join(_rows(summary, arm, metric))


def _rows(summary: EvaluationSummary, arm: str, metric: Metric) -> Iterator[str]:
    yield "| language | n | without | with | change | p (Holm) |\n|---|---|---|---|---|---|"
    for code, row in summary.compared[arm].per_language.items():
        values = metric.value_text(row.baseline), metric.value_text(row.steered), metric.change_text(row.difference)
        p = f"{row.p_adjusted:.3f}" if row.p_adjusted >= _SMALL else "< 0.001"
        yield f"| {language_name(code)} | {summary.n[code]} | {' | '.join(values)} | {p} |"


def _front(languages: Sequence[str], model: str | None, tags: Sequence[str]) -> list[str]:
    """Write what the hub reads: YAML, whose texts may be written as JSON."""
    codes = dict.fromkeys(code.partition("_")[0] for code in languages)
    fields = [MARK, f"tags: {json.dumps(['isogloss', 'mixture-of-experts', *tags])}"]
    fields += [f"language: {json.dumps(list(codes))}"] if codes else []
    fields += [f"base_model: {json.dumps(model)}"] if model and _HUB_ID.fullmatch(model) else []
    return ["\n".join(["---", *fields, "---"])]


def _model_of(shared: Plan | RouterAdapter) -> str | None:
    if isinstance(shared, RouterAdapter) and shared.base_model is not None:
        return shared.base_model
    inner = shared.provenance.get("model")
    named = shared.provenance.get("model_name") or (inner.get("model_name") if isinstance(inner, dict) else None)
    return None if named is None else str(named)


def _fingerprint(fingerprint: Fingerprint) -> list[str]:
    layers = fingerprint.layers
    size = f"{len(layers)} routed layers ({layers[0]} to {layers[-1]}, counted from 0), {fingerprint.n_experts} experts"
    return [
        f"* routers: `{_code(fingerprint.model_type)}`, {size}, {fingerprint.top_k} chosen per token",
        f"* sha256 of the routers' weights: `{fingerprint.router_sha256}`",
    ]


def _provenance(provenance: dict[str, Any]) -> Iterator[str]:
    for name, value in sorted(provenance.items()):
        if isinstance(value, str | int | float | list) and name != "sets":
            yield f"* {_code(name)}: `{_code(json.dumps(value, ensure_ascii=False))}`"
        elif isinstance(value, dict) and name in ("parameters", "options"):
            yield f"* {_code(name)}: `{_code(json.dumps(value, ensure_ascii=False, sort_keys=True))}`"


def _named(codes: Sequence[str]) -> str:
    return ", ".join(map(language_name, codes))


def _console(*commands: str) -> str:
    return "\n".join(["```console", *(f"$ {command}" for command in commands), "```"])


def _code(text: str) -> str:
    """Leave out of a name what would act in Markdown or HTML."""
    return re.sub(r"[`<>|\r\n]", " ", text)[:1000]


def _joined(parts: Sequence[str]) -> str:
    """Put an empty line between parts, but for rows of a list."""
    text = "\n\n".join(parts) + "\n"
    return re.sub(r"(?m)^(\* .*)\n\n(?=\* )", r"\1\n", text)
