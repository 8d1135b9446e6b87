"""Sentences on a Run and its experts."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from isogloss.reports.evidence import NO_EVIDENCE, SIGNIFICANT, Finding, errors_of, evidence, ranked, shows
from isogloss.reports.text import counted, distance_name, name, number, p_value, plain, sentence, with_interval
from isogloss.runs import UNFINISHED
from isogloss.statistics import Estimate

if TYPE_CHECKING:
    from isogloss.analysis import Analysis, Curves, ExpertTable, MantelTest


def describe_analysis(analysis: Analysis) -> tuple[str, ...]:
    """Describe in which layers languages are routed alike, with 95 % intervals."""
    unfinished = (UNFINISHED,) if analysis.status == "partial" else ()
    return (*unfinished, describe_shape(analysis), *_nearest(analysis))


def describe_run(analysis: Analysis) -> tuple[str, ...]:
    """Describe a Run's analysis, the clearest findings first: what has evidence, what has none, what is not tested."""
    unfinished = (UNFINISHED,) if analysis.status == "partial" else ()
    return (*unfinished, *ranked(run_findings(analysis)))


def run_findings(analysis: Analysis) -> Iterator[Finding]:
    """Yield middle layers, what routing is related to, and what remains after controls."""
    middle = analysis.middle_layers
    yield Finding(describe_shape(analysis), evidence(middle.depth) if middle and middle.is_u_shape else NO_EVIDENCE)
    parts = (translations, _structure, _accuracy, _distinct, _hidden, _phases, _domain) if analysis.bands else ()
    for part in parts:
        yield from part(analysis)
    described = (_nearest, _resources, _unknown) if analysis.bands else (_nearest, _unknown)
    yield from (Finding(text) for part in described for text in part(analysis))


def describe_experts(experts: ExpertTable) -> str:
    """Describe how many experts a rule selected and how many are expected by chance."""
    caution = f" {experts.caution}" if experts.caution else ""
    near = f" {experts.nearest.text}" if experts.nearest else ""
    unfinished = f" {UNFINISHED}" if experts.status == "partial" else ""
    chance = "" if experts.expected_by_chance is None else f"; {experts.expected_by_chance:.1f} expected by chance"
    return (
        f"{len(experts.experts)} task experts pass the Δ rule at {experts.parameters['threshold']:g} "
        f"in the steered layers{chance}.{near}{unfinished}{caution}"
    )


def _unknown(analysis: Analysis) -> Iterator[str]:
    """Name the languages of which the tokenizer does not know a part."""
    if analysis.manifest is not None and (shares := analysis.manifest.unknown_tokens):
        named = ", ".join(f"{name(code)} {100 * share:.1f} %" for code, share in shares.items())
        yield (
            f"The tokenizer does not know a part of these texts and writes its unknown token for it ({named} of the "
            "tokens): the routing of these languages is partly that of one token."
        )


def _pivots(analysis: Analysis) -> str:
    return " and ".join(map(name, analysis.pivots))


def describe_shape(analysis: Analysis) -> str:
    """Say in which layers divergence is lower than before and after, or that it was not found to be."""
    middle = analysis.middle_layers
    if middle is None:
        return f"Middle layers were not computed: {analysis.refused.get('middle_layers')}."
    span = f"layers {middle.start}-{middle.end}"
    if middle.start_interval and middle.end_interval:
        span += (
            f" (bootstrap intervals: start {middle.start_interval[0]}-{middle.start_interval[1]}, "
            f"end {middle.end_interval[0]}-{middle.end_interval[1]})"
        )
    depth = _interval(middle.depth)
    if middle.is_u_shape:
        return (
            f"Divergence from {_pivots(analysis)} is lower in the middle layers than before and after: in {span} it "
            f"is lower by {depth}."
        )
    return (
        f"No middle was found: divergence is not U-shaped as in the papers. {sentence(span)} fit best "
        f"(outer minus inner layers: {depth}), but {middle.reason}."
    )


def _nearest(analysis: Analysis) -> list[str]:
    if len(analysis.divergence_by_band) < 2 or not analysis.bands:  # noqa: PLR2004 - nothing to rank
        return []
    inner = analysis.described_band
    mean = {code: bands[inner] for code, bands in analysis.divergence_by_band.items()}
    ranked = sorted(mean, key=lambda code: mean[code].value)
    near, far = ranked[0], ranked[-1]
    where = _where(analysis)
    nearest = f"{name(near)} is routed most like {_pivots(analysis)} (mean divergence {mean[near].text()})"
    farthest = f"{name(far)} least ({mean[far].text()}), {_units(analysis, mean[near].n)}"
    return [f"{sentence(where)} {nearest} and {farthest}."]


def _units(analysis: Analysis, n: int) -> str:
    """State the items behind an estimate, or why it has no interval."""
    if analysis.is_pooled:
        return "no interval: pooled counts"
    return f"n = {counted(n, 'item')}{'' if n > 1 else ', too few for an interval'}"


def _where(analysis: Analysis) -> str:
    return f"in {analysis.band_words(analysis.described_band)}"


def translations(analysis: Analysis) -> Iterator[Finding]:
    """Say whether translations come closer in the middle than texts that are none."""
    lead = analysis.translations
    if lead is None or lead.rise is None:
        return
    band = analysis.band_words(analysis.described_band)
    size = f"by {_signed(lead.rise)}, n = {lead.rise.n} items"
    if shows(lead.rise):
        more = "more" if lead.rise.value > 0 else "less"
        where = f"and {more} so in {band} than elsewhere"
        text = f"Translations are closer to each other than other texts are, {where}"
    else:
        text = f"No evidence that translations come closer to each other in {band} than other texts do there"
    yield Finding(f"{text}: {size}.", evidence(lead.rise))


def _structure(analysis: Analysis) -> Iterator[Finding]:
    """Say which distances between languages routing follows in the band to describe, and which it is not seen to."""
    structure = analysis.structure
    tests = structure.bands[analysis.described_band].tests if structure else {}
    silent = []
    for reference, test in sorted(tests.items()):  # as the file has them, so that sentences agree
        if not shows(test.plain.correlation, test.p_adjusted):
            silent.append(f"{distance_name(reference)} ({_mantel(test.plain, test.p_adjusted)})")
            continue
        controlled = ""
        if test.partial is not None:
            rivals = " and ".join(map(distance_name, test.partial.controls))
            still = shows(test.partial.correlation, test.partial_p_adjusted)
            remains = "also" if still else "no evidence of it"
            controlled = (
                f"; {remains} after controlling for {rivals} ({_mantel(test.partial, test.partial_p_adjusted)})"
            )
        n = test.plain.correlation.n
        yield Finding(
            f"Routing follows {distance_name(reference)} {_where(analysis)}: {_mantel(test.plain, test.p_adjusted)}, "
            f"n = {n} languages{controlled}.",
            evidence(test.plain.correlation, test.p_adjusted),
        )
    for reference, match in sorted(structure.matches.items() if structure else ()):
        if match.p_adjusted < SIGNIFICANT:
            yield Finding(
                f"Routing follows {distance_name(reference)} in some layers, most in layer {match.layer}: Mantel r "
                f"{number(match.correlation)}, p = {p_value(match.p_adjusted)}, corrected for searching "
                f"{len(match.correlations)} layers and for {len(structure.matches) if structure else 0} distances.",
                errors_of(match.p_adjusted),
            )
    if silent:
        yield Finding(
            f"No evidence that routing follows any of these {_where(analysis)}: {', '.join(silent)}.", NO_EVIDENCE
        )


def _mantel(test: MantelTest, p_adjusted: float | None) -> str:
    p = "" if p_adjusted is None else f", p = {p_value(p_adjusted)} by Holm"
    return f"Mantel r {_interval(test.correlation)}{p}"


def _accuracy(analysis: Analysis) -> Iterator[Finding]:
    correlation = analysis.accuracy.get(analysis.described_band)
    if correlation is not None:
        least, greatest = map(number, correlation.leave_one_out)
        known = "Accuracy goes with" if shows(correlation.pearson) else "No evidence that accuracy goes with"
        yield Finding(
            f"{known} divergence {_where(analysis)}: Pearson {_interval(correlation.pearson)}, "
            f"Spearman {_interval(correlation.spearman)}, n = {correlation.pearson.n} languages; without any "
            f"one of them Pearson lies between {least} and {greatest}.",
            evidence(correlation.pearson),
        )


def _resources(analysis: Analysis) -> Iterator[str]:
    resources = analysis.resources
    if resources is None:
        return
    sizes = resources.estimates("coverage", analysis.described_band)
    few, many = min(sizes, key=lambda code: sizes[code].value), max(sizes, key=lambda code: sizes[code].value)
    ends = [f"{sizes[code].text('{:.1f}'.format)} ({name(code)})" for code in (few, many)]
    yield (
        f"{100 * resources.rule.coverage:g} % of a language's expert selections {_where(analysis)} go to "
        f"{' to '.join(ends)} of {analysis.n_experts} experts per layer, {_units(analysis, sizes[few].n)}."
    )


def _distinct(analysis: Analysis) -> Iterator[Finding]:
    distinct = analysis.controls.distinct
    if distinct is None:
        return
    known = [code for code, curve in distinct.divergence.items() if all(point.n for point in curve)]
    if known:
        least, most = _extremes(analysis, {code: distinct.divergence[code] for code in known})
        share, pivot = median(distinct.share[code] for code in known), name(analysis.pivots[0])
        everything = [analysis.divergence[code][place] for code, place in (least, most)]
        yield Finding(
            f"On tokens that do not occur in {pivot} (median share per language: {100 * share:.0f} %), divergence "
            f"{_where(analysis)} is {_point(analysis, distinct.divergence, least)} to "
            f"{_point(analysis, distinct.divergence, most)}, compared with {everything[0].text()} and "
            f"{everything[1].text()} on all tokens there."
        )


def _extremes(analysis: Analysis, curves: Curves) -> tuple[tuple[str, int], tuple[str, int]]:
    """Find the least and the greatest value of curves in the band to describe: language, and place of the layer."""
    first, last = analysis.bands[analysis.described_band]
    inside = [place for place, layer in enumerate(analysis.layers) if first <= layer <= last]
    points = sorted((curve[place].value, (code, place)) for code, curve in curves.items() for place in inside)
    return points[0][1], points[-1][1]


def _point(analysis: Analysis, curves: Curves, at: tuple[str, int]) -> str:
    """Write one value of curves with its interval, language, layer and number of items."""
    code, place = at
    point = curves[code][place]
    return f"{_interval(point)} ({name(code)}, layer {analysis.layers[place]}, n = {point.n} items)"


def _hidden(analysis: Analysis) -> Iterator[Finding]:
    hidden = analysis.controls.hidden
    if hidden is None or not hidden.mirror:
        return
    from isogloss.analysis import LEAST_CORRELATED, correlate_measures  # noqa: PLC0415 - sentences on an evaluation need no analysis

    inner = analysis.described_band
    apart = {code: 1.0 - mean[inner] for code, mean in analysis.by_band(hidden.cosine).items()}
    mean = {code: means[inner] for code, means in analysis.by_band(analysis.divergence).items()}
    if len(mean.keys() & apart.keys()) < LEAST_CORRELATED:  # of a file that another program wrote
        return
    pearson = correlate_measures(mean, apart).pearson
    known = "" if shows(pearson) else "no evidence that "
    text = (
        f"{known}the divergence of routing {_where(analysis)} goes, across languages, with that of the routers' inputs"
    )
    yield Finding(f"{sentence(text)}: Pearson {_interval(pearson)}, n = {pearson.n} languages.", evidence(pearson))


def _phases(analysis: Analysis) -> Iterator[Finding]:
    if phases := analysis.controls.phases:
        ends = " to ".join(_point(analysis, phases, at) for at in _extremes(analysis, phases))
        yield Finding(f"Divergence between generated text and its prompt {_where(analysis)}: {ends}.")


def _domain(analysis: Analysis) -> Iterator[Finding]:
    domain = analysis.domain
    if domain is None or domain.rise is None:
        return
    where = "the middle layers" if analysis.has_middle else "layers {}-{}".format(*domain.middle_range or ())
    corpus, base = plain(domain.corpus), plain(domain.base)
    size = f"by {_signed(domain.rise)}, after subtracting the divergence between unrelated texts"
    if shows(domain.rise):
        more = "more" if domain.rise.value > 0 else "less"
        text = f"The routing of {corpus} diverges from that of {base} {more} in {where} than in the others: {size}."
    else:
        text = f"No evidence that the routing of {corpus} diverges from that of {base} more or less in {where}: {size}."
    yield Finding(text, evidence(domain.rise))


def _signed(estimate: Estimate) -> str:
    """Write a change with its sign and interval."""
    return estimate.text(lambda value: f"{'+' if value >= 0 else ''}{number(value)}")


def _interval(estimate: Estimate) -> str:
    return with_interval(estimate) if estimate.has_interval else f"{with_interval(estimate)} (no interval)"
