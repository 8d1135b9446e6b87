"""Says in plain sentences what a study found, whichever way it fell."""

from __future__ import annotations

from typing import Any

from isogloss.analysis import Analysis, ExpertTable
from isogloss.languages import display_name

__all__ = ["describe_analysis", "describe_evaluation", "describe_experts"]

_SIGNIFICANT = 0.05


def describe_analysis(analysis: Analysis) -> tuple[str, ...]:
    """Say where in depth languages part and meet, with 95 % intervals; no U-shape is said to be none."""
    return (_shape(analysis), *_nearest(analysis))


def describe_experts(experts: ExpertTable) -> str:
    """Say how many experts a rule found and how many chance would give."""
    chance = "" if experts.expected_by_chance is None else f"; {experts.expected_by_chance:.1f} expected by chance"
    return (
        f"{len(experts.experts)} task experts pass the Δ rule at {experts.parameters['threshold']:g} "
        f"in the steered layers{chance}."
    )


def describe_evaluation(evaluation: dict[str, Any] | None) -> tuple[str, ...]:
    """Say whether steering helped, from an evaluation's summary; None where no plan was made."""
    if evaluation is None:
        return ("No plan was made, so nothing was evaluated.",)
    return (_overall(evaluation), _by_language(evaluation), _controls(evaluation))


def _shape(analysis: Analysis) -> str:
    middle = analysis.middle
    if middle is None:
        return f"Middle layers were not looked for: {analysis.refused.get('middle_layers')}."
    span = f"layers {middle.start}-{middle.end}"
    if middle.start_interval and middle.end_interval:
        span += (
            f" (start {middle.start_interval[0]}-{middle.start_interval[1]}, "
            f"end {middle.end_interval[0]}-{middle.end_interval[1]} over resamples)"
        )
    depth = _interval(middle.depth.to_json())
    if middle.is_u_shape:
        return (
            f"Divergence from {display_name(analysis.pivot)} falls in the middle and rises again: {span} lie lower "
            f"than the layers around them by {depth}."
        )
    return (
        f"The U-shape of the papers does not appear here: {span} is the middle segment, but it is not lower than both "
        f"its neighbours (outer minus middle: {depth})."
    )


def _nearest(analysis: Analysis) -> list[str]:
    if analysis.middle is None or len(analysis.divergence) < 2:  # noqa: PLR2004 - nothing to rank
        return []
    inside = [i for i, layer in enumerate(analysis.layers) if analysis.middle.start <= layer <= analysis.middle.end]
    mean = {
        language: sum(curve[i].value for i in inside) / len(inside) for language, curve in analysis.divergence.items()
    }
    ranked = sorted(mean, key=mean.__getitem__)
    near, far = ranked[0], ranked[-1]
    nearest = f"{display_name(near)} is routed most like {display_name(analysis.pivot)} ({mean[near]:.3f})"
    return [f"In the middle layers {nearest}, {display_name(far)} least ({mean[far]:.3f})."]


def _overall(evaluation: dict[str, Any]) -> str:
    overall = evaluation["overall"]
    difference = overall["difference"]
    return (
        f"Mean accuracy over {len(evaluation['per_language'])} languages: {_percent(overall['baseline'])} unsteered, "
        f"{_percent(overall['steered'])} steered; difference {_percent(difference)}: {_verdict(difference)}."
    )


def _by_language(evaluation: dict[str, Any]) -> str:
    per_language = evaluation["per_language"]
    changed = [code for code, row in per_language.items() if row["p_adjusted"] < _SIGNIFICANT]
    if not changed:
        return "In no single language is the difference significant after Holm's correction."
    parts = [f"{display_name(code)} {_percent(per_language[code]['difference'])}" for code in changed]
    return f"Significant after Holm's correction: {', '.join(parts)}."


def _controls(evaluation: dict[str, Any]) -> str:
    parts = [f"{name} {_percent(control['overall']['difference'])}" for name, control in evaluation["controls"].items()]
    if not parts:
        return "No control was run."
    return f"Random experts, as many per layer, change the mean by: {'; '.join(parts)}."


def _verdict(difference: dict[str, Any]) -> str:
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "no effect is shown"
    return "steering helps" if difference["low"] > 0 else "steering hurts"


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f} (no interval)"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _percent(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{100 * estimate['value']:.1f} %"
    return f"{100 * estimate['value']:.1f} % [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"
