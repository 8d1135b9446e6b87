"""How much of the divergence is due to unequal lengths, in docs/findings.md: whole texts against their first tokens.

``python docs/findings_length.py [WORK]``, or ``make findings-length``, rewrites the section alone.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np

from findings_page import arguments, rewrite
from isogloss.analysis import Analysis, analyze_curves, correlate
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.open import load
from isogloss.languages import display_name
from isogloss.runs import Run
from isogloss.workflows import capture_corpus, open_corpus
from markdown_parts import estimate, table

HEAD = "## Texts of unequal length"
N_ITEMS, PIVOT = 200, "eng_Latn"


def mean_divergence(found: Analysis) -> dict[str, float]:
    """Mean over layers, by language."""
    return {code: fmean(point.value for point in curve) for code, curve in found.divergence.items()}


def lengths(run: Run) -> dict[str, float]:
    """Mean tokens of a text, relative to the pivot's."""
    tokens = {code: run.load_items(code, "tokens", slice(None)).mean() for code in run.languages}
    return {code: float(tokens[code] / tokens[PIVOT]) for code in run.languages if code != PIVOT}


def section(kept: Path) -> str:
    """Capture whole texts, and the same number of first tokens of all, and compare."""
    model, corpus = load("organism"), open_corpus("organism", n_items=N_ITEMS)
    every = capture_corpus(model, corpus, kept / "length-every")
    least = np.min([every.load_items(code, "tokens", slice(None)) for code in every.languages], axis=0)
    first = int(np.median(least))
    corpus = corpus.select(
        corpus.languages, [item for item, n in zip(corpus.item_ids, least, strict=True) if n >= first]
    )
    whole = capture_corpus(model, corpus, kept / "length-whole")
    cut = capture_corpus(model, corpus, kept / f"length-{first}", options=CaptureOptions(first_tokens=first))
    ratio = lengths(whole)
    found = [analyze_curves(run, pivot=PIVOT) for run in (whole, cut)]
    means, unrelated = [mean_divergence(each) for each in found], [noise(each) for each in found]
    codes = sorted(ratio)
    by_length = np.array([ratio[code] for code in codes])
    values = [np.array([mean[code] for code in codes]) for mean in means]
    related = [correlate(by_length, each) for each in values]
    rows = [
        (display_name(code), f"{ratio[code]:.2f}", *(f"{mean[code]:.3f}" for mean in means))
        for code in sorted(codes, key=ratio.__getitem__)
    ]
    rows.append(("*items that are not translations*", "", *(f"{each:.3f}" for each in unrelated)))
    order = correlate(*values)
    lead = (
        f"{len(corpus.item_ids)} scenes of the shipped model, whole, and their first {first} tokens: all of {N_ITEMS} "
        f"that have {first} in every language, the median of the shortest. So every language is counted at the same "
        "positions. Divergence from English, mean over layers; n counts languages. Profiles over fewer tokens are "
        "noisier, and diverge for that alone: the last row says how far items do that are not translations."
    )
    pearson = [estimate(each.pearson.to_json(), 2) for each in related]
    spread = [np.std(each, ddof=1) for each in values]
    lines = [
        f"* Divergence with relative length (n = {len(codes)}): Pearson {pearson[0]} whole, {pearson[1]} cut.",
        f"* Languages keep their order: Spearman {estimate(order.spearman.to_json(), 2)} between both.",
        f"* Standard deviation of the languages' means: {spread[0]:.3f} whole, {spread[1]:.3f} at equal positions.",
    ]
    columns = ("Language", "Tokens relative to English", "Whole texts", f"First {first}")
    return "\n\n".join([HEAD, lead, table(columns, rows), "\n".join(lines)])


def noise(found: Analysis) -> float:
    """Mean divergence of items that are not translations of each other, over languages and layers."""
    return fmean(point.value for code, curve in found.shuffled.items() if code != PIVOT for point in curve)


def main() -> None:
    """Rewrite the section."""
    _, kept = arguments()
    rewrite([section(kept)])


if __name__ == "__main__":
    main()
