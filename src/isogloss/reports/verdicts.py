"""The first screen of a report: what was run, three questions with their answers, and the words that are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from isogloss.evaluation import PLAN, EvaluationSummary, is_random, outcome_of
from isogloss.reports.evidence import SIGNIFICANT, shows
from isogloss.reports.metrics import Metric, arm_text
from isogloss.reports.sentences import describe_shape, translations
from isogloss.reports.text import counted, distance_name, label, name, number, p_value, plain, sentence, with_interval

if TYPE_CHECKING:
    from isogloss.analysis import Analysis, LanguageStructure

_MOST_NAMED = 16


class State(Enum):
    """How a question was answered; the value is the class of its card."""

    SHOWN = "shown"
    HARM = "harm"
    NO_EVIDENCE = "open"
    NOT_MEASURED = "unmeasured"

    @property
    def sign(self) -> str:
        """A sign that says the same without colour."""
        return {"shown": "●", "harm": "▼", "open": "○", "unmeasured": "–"}[self.value]


class Verdict(NamedTuple):
    """A question, its state, a short answer, and the numbers behind it."""

    question: str
    state: State
    answer: str
    reason: str


def verdicts(
    analysis: Analysis | None, evaluation: EvaluationSummary | None, *, several: bool = False
) -> list[Verdict]:
    """Answer where languages meet, what routing follows, and whether steering helped; none where nothing was run.

    Where ``several`` evaluations lie over each other, the last question is answered once for each, in their table.
    """
    if analysis is None and evaluation is None:
        return []
    of_run = [_meeting(analysis), _following(analysis)] if analysis else []
    return of_run if several else [*of_run, _helped(evaluation)]


def _meeting(analysis: Analysis) -> Verdict:
    question, middle = "Where do languages meet?", analysis.middle_layers
    reason = describe_shape(analysis)
    if middle is None:
        return Verdict(question, State.NOT_MEASURED, "Not measured", reason)
    if analysis.bands:
        reason = " ".join([reason, *(finding.text for finding in translations(analysis))])
    if not middle.is_u_shape:
        return Verdict(question, State.NO_EVIDENCE, "No evidence of layers where they meet", reason)
    return Verdict(question, State.SHOWN, f"In layers {middle.start}–{middle.end} of {_span(analysis.layers)}", reason)


def _span(layers: Sequence[int]) -> str:
    return f"{layers[0]}–{layers[-1]}"


def _following(analysis: Analysis) -> Verdict:
    question, structure = "What does routing follow?", analysis.structure
    band = analysis.described_band if analysis.bands else None
    tests = structure.bands[band].tests if structure and band and band in structure.bands else {}
    if not tests:
        why = "Languages were too few, or no distances between them were given."
        reasons = structure.refused.values() if structure else [analysis.refused.get("structure", why)]
        return Verdict(question, State.NOT_MEASURED, "Not measured", f"{next(iter(reasons), why)}")
    followed = {each: test for each, test in tests.items() if shows(test.plain.correlation, test.p_adjusted)}
    others = [distance_name(each) for each in tests if each not in followed]
    where = analysis.band_words(analysis.described_band)
    listed = " or ".join([", ".join(others[:-1]), others[-1]] if others[1:] else others)
    silent = f"No evidence that it follows {listed} in {where}."
    if not followed:
        return _in_some_layers(question, structure, silent, len(tests))
    texts = [
        f"{distance_name(each)}: Mantel r {with_interval(test.plain.correlation)}, p = {p_value(test.p_adjusted)}"
        for each, test in followed.items()
    ]
    answer = " and ".join(map(distance_name, followed))
    return Verdict(
        question,
        State.SHOWN,
        sentence(answer),
        f"{sentence('; '.join(texts))}, by Holm over {len(tests)} distances. {silent if others else ''}",
    )


def _in_some_layers(question: str, structure: LanguageStructure | None, silent: str, n_tests: int) -> Verdict:
    """Say what routing follows in some layer, where it is not seen to follow anything in the band to describe."""
    matches = structure.matches if structure else {}
    significant = {each: match for each, match in matches.items() if match.p_adjusted < SIGNIFICANT}
    if not significant:
        return Verdict(question, State.NO_EVIDENCE, f"No evidence that it follows any of {n_tests} distances", silent)
    texts = [
        f"{distance_name(each)}: Mantel r {number(match.correlation)} in layer {match.layer}, "
        f"p = {p_value(match.p_adjusted)}"
        for each, match in significant.items()
    ]
    answer = f"{sentence(' and '.join(map(distance_name, significant)))}, in some layers"
    corrected = "corrected for the search over layers and for all distances"
    return Verdict(question, State.SHOWN, answer, f"{sentence('; '.join(texts))}, {corrected}. {silent}")


def _helped(summary: EvaluationSummary | None) -> Verdict:
    question = "Did steering help?"
    if summary is None:
        return Verdict(question, State.NOT_MEASURED, "Not measured", "No plan was evaluated.")
    metric, change = Metric.of(summary), summary.overall.difference
    size = f"mean {metric.name} over {len(summary.per_language)} languages: {metric.change_text(change)}"
    reason = [f"{sentence(size)}."]
    against = summary.against_random
    more = against is None or outcome_of(against.difference, summary.better) == "better"
    if against is not None:
        difference = metric.change_text(against.difference)
        plans = f"the mean of {against.n_plans} random plans" if against.n_plans > 1 else "one random plan"
        unclear = "" if more else "no evidence that it does better than random experts; "
        reason.append(f"Against {plans}: {unclear}{difference}.")
    reason += [f"Arm {arm_text(arm)} helps: {text}." for arm, text in _other_plans(summary, metric)]
    explained = " ".join(reason)
    if summary.unmeasured:
        return Verdict(question, State.NOT_MEASURED, "Not measured", f"{sentence(summary.unmeasured)}.")
    if summary.outcome == "worse":
        return Verdict(question, State.HARM, "The plan hurts", explained)
    if summary.outcome == "better" and more:
        return Verdict(
            question, State.SHOWN, f"The plan helps by {metric.change(change.value)}{metric.points}", explained
        )
    if summary.outcome == "better":
        return Verdict(question, State.NO_EVIDENCE, "No evidence that it helps more than random experts", explained)
    return Verdict(question, State.NO_EVIDENCE, "No evidence that the plan helps", explained)


def _other_plans(summary: EvaluationSummary, metric: Metric) -> Iterator[tuple[str, str]]:
    """Yield the other arms that are shown to help, where they steer."""
    for arm, comparison in summary.controls.items():
        steered = summary.where_steered.get(arm) or summary.adapters.get(arm)
        change = (steered or comparison).overall.difference
        if outcome_of(change, summary.better) == "better":
            where = f" in {', '.join(map(name, steered.languages))}" if steered else ""
            yield arm, f"{metric.change_text(change)}{where}"


def facts(
    manifest: Mapping[str, Any],
    analysis: Analysis | None,
    evaluation: EvaluationSummary | None,
    *,
    written: str = "",
    command: str = "",
) -> list[tuple[str, str]]:
    """List what was run: model, shape, languages, texts, task, date, version, and how to repeat it; known ones alone.

    Args:
        manifest: of the Run, or settings of the evaluation.
        analysis: of the Run.
        evaluation: its summary.
        written: date of the files.
        command: that made them.
    """
    model = manifest.get("model_name") or manifest.get("model") or (evaluation and evaluation.model)
    revision = manifest.get("revision")
    listed = {
        "Model": f"{model}{f', revision {revision}' if revision else ''}" if isinstance(model, str) else "",
        "Routers": _shape(manifest, analysis),
        "Languages": _languages(analysis.languages if analysis else tuple(evaluation.n) if evaluation else ()),
        "Texts": _texts(manifest),
        "Task": f"{evaluation.task}: {_sizes(evaluation)}" if evaluation else "",
        "Arms": _arms(evaluation) if evaluation else "",
        "Written": written,
        "Versions": _versions(manifest, evaluation),
        "To repeat": command,
    }
    return [(field, plain(value)) for field, value in listed.items() if value]


def _shape(manifest: Mapping[str, Any], analysis: Analysis | None) -> str:
    model = manifest.get("model")
    known = model if isinstance(model, Mapping) else manifest.get("fingerprint") or {}
    layers = list(known.get("layers") or (analysis.layers if analysis else ()))
    n_experts = known.get("n_experts") or (analysis.n_experts if analysis else None)
    if not layers or not n_experts:
        return ""
    chosen = f", {known['top_k']} chosen per token" if known.get("top_k") else ""
    return f"{len(layers)} layers ({_span(layers)}, 0-based) of {n_experts} experts{chosen}"


def _languages(codes: Sequence[str]) -> str:
    named = ", ".join(map(name, codes[:_MOST_NAMED]))
    more = f" and {len(codes) - _MOST_NAMED} more" if len(codes) > _MOST_NAMED else ""
    return f"{len(codes)}: {named}{more}" if codes else ""


def _texts(manifest: Mapping[str, Any]) -> str:
    corpus, languages = manifest.get("corpus") or {}, manifest.get("languages")
    if not isinstance(languages, Mapping):
        return ""
    counts = [entry["tokens"] for entry in languages.values() if isinstance(entry.get("tokens"), int)]
    tokens = f", {sum(counts):,} tokens" if counts else ""
    n = len(manifest.get("item_ids") or ())
    items = counted(n, "parallel item") if n else ""
    return f"{corpus.get('name', 'texts')}: {items}{tokens}"


def _arms(evaluation: EvaluationSummary) -> str:
    """Name the arms; random plans are counted."""
    named = [arm for arm in evaluation.controls if not is_random(arm)]
    n = len(evaluation.controls) - len(named)
    random = [counted(n, "random plan")] if n else []
    return ", ".join([PLAN, *named, *random])


def _sizes(evaluation: EvaluationSummary) -> str:
    sizes = sorted(set(evaluation.n.values()))
    n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else "0"
    return f"{n} items per language, {Metric.of(evaluation).name}"


def _versions(manifest: Mapping[str, Any], evaluation: EvaluationSummary | None) -> str:
    packages = manifest.get("packages") or {}
    own = manifest.get("isogloss_version") or packages.get("isogloss")
    engine = manifest.get("engine_version") or ", ".join(
        f"{each} {packages[each]}" for each in ("transformers", "vllm", "torch") if each in packages
    )
    return ", ".join(filter(None, [own and f"isogloss {own}", engine or (evaluation.engine if evaluation else "")]))


_WORDS = {
    "Expert": "A part of a layer. A router chooses a few of its many experts for each token; that is the routing.",
    "Pivot": "The language that all others are compared with, here {pivots}.",
    "Divergence": "How differently a text and its translation are routed: 0 where both go to the same experts in equal "
    "shares, 1 where they share none.",
    "Plan": "Which experts a model was made to choose more or less often, in which layers, and how strongly.",
    "Arm": "One way in which the same questions were asked: without a plan (baseline), with it, or with another one to "
    "compare it with, such as one with random experts.",
}


def glossary(analysis: Analysis | None, evaluation: EvaluationSummary | None) -> list[tuple[str, str]]:
    """Explain the words that a reader meets first, each in a sentence or two."""
    compared = analysis.pivots if analysis else ()
    if not compared and evaluation and any(evaluation.distance.values()):
        compared = (evaluation.pivot,)
    pivots = " and ".join(map(label, compared))
    asked = ["Expert", *(("Pivot", "Divergence") if compared else ()), *(("Plan", "Arm") if evaluation else ())]
    return [(word, plain(_WORDS[word].replace("{pivots}", pivots))) for word in asked]
