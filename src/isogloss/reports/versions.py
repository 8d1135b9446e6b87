"""What changes between two versions of one model: choices by layer and language, next tokens, and bytes of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from isogloss.evaluation.versions import LanguageDifference, LayerMeasure, Measure, ModelVersion, VersionComparison
from isogloss.reports.curves import LinePlot, curve_figure, curve_table, highlighted
from isogloss.reports.figures import MAX_COLOURS, Figure, Section, Table, language_styles
from isogloss.reports.text import (
    MISSING,
    counted,
    known_columns,
    label_or_mean,
    name,
    number,
    p_value,
    plain,
    three_digits,
)
from isogloss.statistics import Estimate

_REST: Mapping[Measure, str] = {
    "sets": "sets, %",
    "first": "first expert, %",
    "divergence": "divergence",
    "next_token": "next token, %",
    "kl": "KL, nats",
}
_AS_NUMBER = ("divergence", "kl")


def describe_versions(result: VersionComparison) -> tuple[str, ...]:
    """Say how much changes, whether by language, whether next tokens do, and what of the weights is quantised."""
    overall, n = result.overall.means, len(result.languages)
    names = " to ".join(_name(each) for each in (result.first, result.second))
    choices = (
        f"From {names}, {_share(overall['choices'])} of the choices of {result.top_k} among {result.n_experts} experts "
        f"fall on other experts (mean over layers{f' and {n} languages' if n > 1 else ''}; of choices at random it "
        f"would be {three_digits(100 * (1 - result.top_k / result.n_experts))} %); {_share(overall['sets'])} of tokens "
        f"have another set of experts in a layer, {_share(overall['first'])} another expert of the greatest weight."
    )
    next_tokens = (
        f"After {_share(overall['next_token'])} of tokens another next token is the likeliest; the divergence of the "
        f"next token is {overall['kl'].text(number)} nats."
    )
    languages = (_by_language(result),) if n > 1 else ()
    weights = (sentence for each in (result.first, result.second) for sentence in _weights(each))
    return (choices, next_tokens, *languages, _repeated(result), *weights)


def _name(version: ModelVersion) -> str:
    return f"{plain(version.name)} in {plain(version.dtype)}"


def share_text(estimate: Estimate) -> str:
    """Write a share in percent with its interval, with three digits that count."""
    return estimate.scaled(100).text(three_digits)


def _share(estimate: Estimate) -> str:
    return f"{share_text(estimate)} %"


def _by_language(result: VersionComparison) -> str:
    values = {code: each.means["choices"].value for code, each in result.languages.items()}
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    low, high = (f"{three_digits(100 * values[code])} % ({name(code)})" for code in (least, most))
    ends = f"from {low} to {high}"
    if not result.unlike_others:
        return (
            f"Languages: {ends}; no language is shown to change more or less than the others (random sign flips over "
            f"{counted(result.n_items, 'item')}, Holm's correction for {len(values)} languages)."
        )
    more = {
        word: [code for code in result.unlike_others if (result.languages[code].beyond or _NONE).value * sign > 0]
        for word, sign in (("more", 1), ("less", -1))
    }
    shown = "; ".join(f"{word} in {', '.join(map(name, codes))}" for word, codes in more.items() if codes)
    return (
        f"Languages: {ends}; choices change {shown} than in the other languages (random sign flips over "
        f"{counted(result.n_items, 'item')}, Holm's correction for {len(values)} languages)."
    )


_NONE = Estimate.without_interval(0.0, 0)


def _repeated(result: VersionComparison) -> str:
    versions = (result.first, result.second)
    if not any(each.repeated for each in versions):
        return (
            "Each version, run a second time on a few of the texts, changes exactly 0 choices: all of this is a "
            "difference of versions."
        )
    noise = "; ".join(f"{_name(each)} {three_digits(100 * each.repeated)} %" for each in versions)
    return (
        f"Run a second time on a few of the texts, versions change choices by themselves: {noise}. That is in every "
        "number."
    )


def _weights(version: ModelVersion) -> Iterator[str]:
    """Say where a version's files or memory hold other numbers than its configuration lets expect."""
    of = plain(version.quantisation or "")
    if version.experts_unquantised:
        dtypes = ", ".join(each.dtype for each in version.weights if each.part == "experts" and each.stored)
        yield (
            f"{plain(version.name)} is said to be quantised ({of}), but its files hold all experts in {dtypes}: they "
            "were not quantised."
        )
    if version.dequantised:
        yield (
            f"{plain(version.name)} is quantised ({of}), and was turned into {plain(version.dtype)} when it was "
            "loaded: what is measured is the rounding of its weights, not that of kernels."
        )


def versions_section(result: VersionComparison) -> Section:
    """Draw changed choices by layer, a line for each language, and list every measure and what the weights take."""
    curves = _curves(result, "choices")
    shown = highlighted(curves, result.routed_layers)
    many = " In colour: the three highest and the three lowest means." if len(curves) > MAX_COLOURS else ""
    caption = (
        f"Share of the {result.top_k} choices of a token that fall on other experts, mean over the tokens of a text, "
        f"then over {counted(result.n_items, 'item')}.{_drawn(result, 'Bands')}{many}"
    )
    title, unit = "Changed choices by layer", "share of choices changed"
    mean = dict(zip(result.routed_layers, result.overall.layers["choices"], strict=True)) if len(curves) > 1 else {}
    plot = LinePlot("versions", title, caption, unit, curves, language_styles(shown, None), mean=mean)
    blocks: list[Figure | Table] = [
        curve_figure(plot),
        _table(result),
        _weight_table(result),
        curve_table(curves, "Changed choices: all numbers", f"{caption} Columns are decoder layers."),
    ]
    lead = (
        f"{_name(result.first)} and {_name(result.second)} read the same tokens of {plain(result.corpus)} "
        f"({result.overall.n_tokens:,} {plain(result.token_scope)} tokens), and are compared token by token."
    )
    return Section("versions", "Two versions of one model", [lead], blocks)


def _curves(result: VersionComparison, measure: LayerMeasure) -> dict[str, dict[int, Estimate]]:
    return {
        code: dict(zip(result.routed_layers, each.layers[measure], strict=True))
        for code, each in sorted(result.languages.items())
    }


def _drawn(result: VersionComparison, what: str) -> str:
    """Say how the intervals were drawn that brackets or bands show; nothing of one item, which has none."""
    if not result.overall.means["choices"].has_interval:
        return ""
    languages = ", of the mean also over languages" if len(result.languages) > 1 else ""
    return f" {what}: {100 * result.resampling.level:g} % bootstrap over items{languages}."


def difference_rows(result: VersionComparison) -> dict[str, dict[str, str]]:
    """Write what differs in each language, by column: what is tested first, and no columns of dashes alone.

    The mean over languages, where there are several, has an empty code and comes first.
    """
    languages = dict(sorted(result.languages.items()))
    every = {"": result.overall, **languages} if len(languages) > 1 else languages
    return dict(zip(every, known_columns([_cells(each) for each in every.values()]), strict=True))


def _cells(difference: LanguageDifference) -> dict[str, str]:
    return {
        "choices, %": share_text(difference.means["choices"]),
        "choices − others', points": share_text(difference.beyond) if difference.beyond else MISSING,
        "p (Holm)": p_value(difference.p_adjusted),
        **{title: _cell(measure, difference.means[measure]) for measure, title in _REST.items()},
    }


def _cell(measure: Measure, mean: Estimate) -> str:
    return mean.text(number) if measure in _AS_NUMBER else share_text(mean)


def _table(result: VersionComparison) -> Table:
    tested = (
        " Choices − others': a language's minus the mean of the other languages on the same items; p: that this is 0, "
        "by random sign flips, item by item, corrected for all languages by Holm's method."
    )
    caption = (
        "Shares that changed, mean over layers: of choices, of tokens' sets of experts, of their experts of the "
        "greatest weight, of likeliest next tokens; divergence of the mean routing weights."
        f"{tested if len(result.languages) > 1 else ''}{_drawn(result, 'Brackets')} KL: of the first version's 32 "
        "likeliest tokens and all others together, which the KL of all tokens is never below."
    )
    rows = [
        {"language": label_or_mean(code), **{title: text.replace(" [", "\n[") for title, text in cells.items()}}
        for code, cells in difference_rows(result).items()
    ]
    return Table.of("What changes, by language", caption, rows, folded=False)


def _weight_table(result: VersionComparison) -> Table:
    rows = [
        {
            "version": _name(version),
            "weights": each.part,
            "dtype": plain(each.dtype),
            "in files, MB": MISSING if each.stored is None else f"{each.stored / 1e6:,.2f}",
            "in memory, MB": f"{each.held / 1e6:,.2f}",
        }
        for version in (result.first, result.second)
        for each in version.weights
    ]
    caption = "Bytes by part and dtype, scales of quantised weights with them. Experts: the routed ones."
    return Table.of("What the weights take", caption, known_columns(rows), words=("weights", "dtype"), folded=False)
