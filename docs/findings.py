"""Writes docs/findings.md: what isogloss finds in published counts, in the shipped model, and in simulated routing.

``python docs/findings.py DATA [WORK]``. DATA holds the real texts and counts: ``flores200/``, ``belebele/``,
``routing/`` and ``perf_tables/``. Captures and numbers are kept in WORK (build/findings): a stopped run goes on.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

from calibration import calibrate
from calibration_rows import MONTE_CARLO, calibration_tables
from findings_page import PAGE, arguments, rewrite
from findings_references import references
from findings_steering import planted_section, steering_section
from isogloss.analysis import (
    Analysis,
    AnalysisRequest,
    ShareRule,
    analyze_run,
    experts_among_languages,
    read_measure,
)
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.model import Model
from isogloss.backends.open import load
from isogloss.corpora import Corpus, load_corpus
from isogloss.errors import LanguageError
from isogloss.files import read_json
from isogloss.languages import display_name
from isogloss.organism.realise import grammar_languages
from isogloss.organism.shipped import model_folder
from isogloss.organism.train import TIERS
from isogloss.reports.sentences import describe_run
from isogloss.runs import import_counts_json
from isogloss.workflows import capture_corpus, open_corpus, word_problem_accuracies
from markdown_parts import estimate, table

COUNTS = "routing/conctsai_qwen3-30b-a3b_mgsm"
ACCURACIES = "perf_tables/qwen3_30b_a3b_belebele_0shot_15langs.json"
PUBLISHED_MIDDLE = (7, 34)
"""Layers 8 to 35 of Qwen3-30B-A3B, counted from 1, which arXiv 2510.04694 read off its curve and steered."""

SHARED = ShareRule("common", ("eng_Latn", "zho_Hans"), top=20, threshold=0.7, layers=(10, 39))
"""Experts that arXiv 2601.14050 steers, found on these counts by its public code."""

N_PASSAGES, N_GENERATED, N_ITEMS = 50, 32, 200
PIVOT = "eng_Latn"

INTRODUCTION = """\
# Findings

Written by `make findings DATA=…` from published expert counts, from FLORES-200 text routed by the model that ships
with isogloss, and from simulated routing whose answers are known; and, a section or two each, by
`make findings-published`, `-learning`, `-adapters`, `-bound`, `-ablation`, `-alignment`, `-length` and `-versions`.
Brackets: 95 % intervals. Thresholds and seeds are the defaults. Effects that do not appear, and values that cannot be
computed, are listed as such."""


@dataclass(frozen=True)
class Work:
    """Where texts and counts come from, and where captures and numbers are kept."""

    data: Path
    kept: Path

    def json(self, name: str, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 - any JSON value
        """Return what was computed before under this name, or compute and keep it."""
        path = self.kept / f"{name}.json"
        if not path.is_file():
            path.write_text(json.dumps(compute(), allow_nan=False), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))


def fitting_passages(model: Model, work: Work) -> Corpus:
    """The first passages of Belebele that the model can read in every variety of FLORES-200."""
    corpus = load_corpus(f"belebele:{work.data}")
    limit = read_json(model_folder() / "config.json")["max_position_embeddings"]

    def longest() -> list[int]:
        lengths = ([len(ids) for ids in model.tokenizer(list(texts))["input_ids"]] for texts in corpus.texts.values())
        return [max(each) for each in zip(*lengths, strict=True)]

    fits = [item for item, n in zip(corpus.item_ids, work.json("longest", longest), strict=True) if n <= limit]
    return corpus.select(corpus.languages, fits[:N_PASSAGES])


def bullets(sentences: tuple[str, ...]) -> str:
    """One sentence a line."""
    return "\n".join(f"* {sentence}" for sentence in sentences)


def counts_section(work: Work) -> Iterator[str]:
    """What the published counts of Qwen3-30B-A3B allow."""
    shutil.rmtree(work.kept / "counts", ignore_errors=True)
    run = import_counts_json(work.data / COUNTS, work.kept / "counts")
    found = analyze_run(run)
    yield "## Qwen3-30B-A3B, published expert counts on MGSM in 8 languages"
    yield (
        "Counts pooled over all prompts of a language (github.com/conctsai, MIT): one record per language, so nothing "
        "that needs items. n counts languages."
    )
    yield bullets(describe_run(found))
    yield "### Middle layers: change points against the published range"
    yield middle_comparison(found)
    yield "### What routing follows"
    yield references(found)
    shared = experts_among_languages(run, SHARED)
    first, last = SHARED.layers or (0, 0)
    yield (
        f"By the rule of arXiv 2601.14050, English and Chinese share {shared.n} experts in layers {first}-{last}: of "
        f"the {SHARED.top} that each chooses most in a layer, those of which neither has more than "
        f"{SHARED.threshold:.0%}. The paper's public code steers these; `isogloss study paper-b/steering` looks for "
        "them anew."
    )
    yield "### Accuracy"
    try:
        analyze_run(run, AnalysisRequest(accuracy=read_measure(work.data / ACCURACIES)))
    except LanguageError as error:
        yield f"The 15 published Belebele accuracies of this model: {error}."
    yield "### Not computed"
    refused = found.refused
    yield bullets(tuple(f"{name}: {why.removeprefix(f'{run.path}: ')}" for name, why in refused.items()))


def middle_comparison(found: Analysis) -> str:
    """Edges overall and per language beside the published ones."""
    overall, first, last = found.middle_layers, *PUBLISHED_MIDDLE
    edges = {"all languages": overall} | {
        display_name(code): middle for code, middle in found.middle_by_language.items()
    }
    rows = []
    for name, middle in edges.items():
        if middle is not None:
            shared = max(0, min(last, middle.end) - max(first, middle.start) + 1)
            union = max(last, middle.end) - min(first, middle.start) + 1
            rows.append((name, f"{middle.start}-{middle.end}", f"{shared / union:.2f}", str(middle.is_u_shape)))
    listed = table(("Curve", "Middle, from 0", "Layers shared / in either", "Lower than both sides"), rows)
    return f"Published: layers {first}-{last} from 0, read by eye off the curve on FLORES text.\n\n{listed}"


def organism_section(work: Work) -> Iterator[str]:
    """The shipped model on FLORES-200 passages in all 204 varieties, trained on or not."""
    model = load("organism")
    corpus = fitting_passages(model, work)
    hidden = CaptureOptions(hidden_states=True)
    run = capture_corpus(model, corpus, work.kept / "flores", options=hidden, distinct_from=PIVOT)
    own = tuple(grammar_languages())
    written = CaptureOptions(phase="generation", new_tokens=N_GENERATED)
    generation = capture_corpus(model, corpus, work.kept / "generation", languages=own, options=written)
    accuracies = work.json("accuracies", lambda: {c: e.value for c, e in word_problem_accuracies(model).items()})
    resources = {code: tier.share for tier in TIERS.values() for code in tier.languages}
    found = analyze_run(run, AnalysisRequest(accuracy=accuracies, resource=resources, generation=generation))
    yield f"## The shipped model on FLORES-200 text in {len(run.languages)} varieties"
    yield (
        f"The first {N_PASSAGES} of Belebele's passages that fit into the model's context in every variety, rebuilt "
        f"from FLORES-200. The model was trained on {len(own)} of these languages and on a small world of its own; "
        "FLORES-200 is far from anything that it has read, and most varieties reach it as bytes."
    )
    yield bullets(describe_run(found))
    yield "### Divergence by band"
    yield divergence_table(found, own)
    yield "### What routing follows"
    yield references(found)
    yield "### Accuracy and resources"
    yield correlations(found)
    yield "### Controls"
    yield controls(found, own)
    yield from domain_section(model, work)
    yield from steering_section(model, work.data, work.kept)


def divergence_table(found: Analysis, own: tuple[str, ...]) -> str:
    """Mean divergence by band over groups of languages, and every language of the model's own."""
    means = found.by_band(found.divergence)
    shuffled = found.by_band(found.shuffled)
    groups = {
        "its own languages": [code for code in means if code in own],
        "other languages in Latin script": [code for code in means if code not in own and code.endswith("Latn")],
        "other languages, other scripts": [code for code in means if code not in own and not code.endswith("Latn")],
    }
    rows = [
        (f"*{name}* (n = {len(codes)})", *(f"{fmean(means[code][band] for code in codes):.3f}" for band in found.bands))
        for name, codes in groups.items()
        if codes
    ]
    floor = [f"{fmean(shuffled[code][band] for code in means):.3f}" for band in found.bands]
    rows.append(("*items that are not translations*", *floor))
    rows += [
        (display_name(code), *(f"{value:.3f}" for value in means[code].values()))
        for code in groups["its own languages"]
    ]
    return table(("Language", *(f"{name} {a}-{b}" for name, (a, b) in found.bands.items())), rows)


def correlations(found: Analysis) -> str:
    """Accuracy and resources against divergence and what languages use of the experts."""
    rows = [
        (f"divergence, {band}", "accuracy", *coefficients(correlation.to_json()))
        for band, correlation in found.accuracy.items()
    ]
    for measure, bands in found.related.items():
        for band, columns in bands.items():
            rows += [
                (f"{name}, {band}", measure, *coefficients(correlation.to_json()))
                for name, correlation in columns.items()
            ]
    columns = ("Measure of routing", "With", "n", "Pearson", "Without any one", "Spearman")
    return (
        f"Accuracy: word problems of the model card, {N_ITEMS} a language. Resource: share of training documents.\n\n"
        f"{table(columns, rows)}"
    )


def coefficients(found: dict[str, Any]) -> tuple[str, ...]:
    """Cells of one correlation."""
    least, greatest = found["leave_one_out"]
    without = "–" if least is None else f"{least:.2f} to {greatest:.2f}"
    return str(found["pearson"]["n"]), estimate(found["pearson"], 2), without, estimate(found["spearman"], 2)


def controls(found: Analysis, own: tuple[str, ...]) -> str:
    """Divergence on tokens of a language's own, hidden states, and phases, by band."""
    parts = {"divergence, all tokens": found.divergence}
    if found.controls.distinct:
        parts["divergence, tokens that do not occur in English"] = found.controls.distinct.divergence
    if found.controls.hidden:
        parts |= {
            "cosine of what routers read": found.controls.hidden.cosine,
            "CKA of what routers read": found.controls.hidden.cka,
        }
    if found.controls.phases:
        parts["divergence of generation from prompt"] = found.controls.phases
    rows = []
    for name, curves in parts.items():
        means = found.by_band({code: curve for code, curve in curves.items() if all(point.n for point in curve)})
        for group, codes in (
            ("its own", [c for c in means if c in own]),
            ("others", [c for c in means if c not in own]),
        ):
            if codes:
                cells = (f"{fmean(means[code][band] for code in codes):.3f}" for band in found.bands)
                rows.append((name, f"{group} (n = {len(codes)})", *cells))
    caption = ""
    if found.controls.distinct:
        shares = found.controls.distinct.share
        caption = (
            f"Share of tokens that do not occur in English: median {median(shares.values()):.0%}, "
            f"from {min(shares.values()):.0%} to {max(shares.values()):.0%}."
        )
    if found.controls.hidden and found.controls.hidden.mirror:
        mirror = [
            found.over_band([c.pearson.value for c in found.controls.hidden.mirror], band) for band in found.bands
        ]
        listed = ", ".join(f"{band} {value:.2f}" for band, value in zip(found.bands, mirror, strict=True))
        caption += f" Correlation across languages of routing's divergence with 1 - cosine, mean over layers: {listed}."
    columns = ("Measure", "Languages", *(f"{name} {a}-{b}" for name, (a, b) in found.bands.items()))
    return f"{table(columns, rows)}\n\n{caption}"


def domain_section(model: Model, work: Work) -> Iterator[str]:
    """Word problems against small-world scenes."""
    scenes = capture_corpus(model, open_corpus("organism", n_items=N_ITEMS), work.kept / "scenes")
    problems = open_corpus("organism:problems", languages=[PIVOT], n_items=N_ITEMS)
    task = capture_corpus(model, problems, work.kept / "problems")
    found = analyze_run(scenes, AnalysisRequest(task=task))
    yield f"## The shipped model's own texts: {N_ITEMS} scenes in {len(scenes.languages)} languages, and word problems"
    yield bullets(describe_run(found))
    if found.overlap is not None:
        yield "### Task experts and multilingual experts"
        columns = ("Threshold", "Task", "Multilingual", "Both", "Expected by chance", "p, fewer", "p, more")
        rows = [
            (
                f"{point.threshold:g}",
                str(point.n_task),
                str(point.n_multilingual),
                estimate(point.overlap.to_json(), 0),
                f"{point.expected:.1f}",
                f"{point.p_fewer:.3f}",
                f"{point.p_more:.3f}",
            )
            for point in found.overlap.points
        ]
        where = found.band_words("middle") if found.has_middle else "all layers"
        yield f"Experts that pass the Δ rule in {where}.\n\n{table(columns, rows)}"


def simulation_section(work: Work) -> Iterator[str]:
    """Whether intervals, tests and rules keep what they promise."""
    rows = work.json("calibration", lambda: [asdict(row) for row in calibrate()])
    yield "## Simulated routing with known answers"
    yield calibration_tables({"monte_carlo_level": MONTE_CARLO, "rows": rows}).strip()


def main() -> None:
    """Write the sections of this script anew; those of other scripts stay."""
    (data,), kept = arguments(1)
    work = Work(data, kept)
    parts = [*counts_section(work), *organism_section(work), *planted_section(work.kept), *simulation_section(work)]
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(f"{INTRODUCTION}\n\n{page[page.index('## ') :]}", encoding="utf-8")
    rewrite(*([section] for section in re.split(r"\n\n(?=## )", "\n\n".join(parts))))
    packages = ", ".join(f"{name} {version(name)}" for name in ("isogloss", "torch", "transformers", "numpy", "scipy"))
    rest, _ = PAGE.read_text(encoding="utf-8").rstrip("\n").rsplit("\n", 1)
    PAGE.write_text(f"{rest}\n*{packages}; Python {platform.python_version()}.*\n", encoding="utf-8")


if __name__ == "__main__":
    main()
