"""Routing that others published in docs/findings.md: counts of Qwen3, weights of Command A+, experts of NLLB-200.

``python docs/findings_published.py DATA [WORK]``, or ``make findings-published DATA=…``, rewrites these sections alone.
The data stay where they are: their licences are CC BY 4.0 (Command A+) and CC BY-NC-SA 4.0 (NLLB-200).
"""

from __future__ import annotations

import csv
import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np

from findings_page import arguments, rewrite
from findings_references import references
from isogloss.analysis import Analysis, AnalysisRequest, MiddleLayers, analyze_run, divergence, middle_layers
from isogloss.languages import display_name
from isogloss.runs import Run, import_expert_sets, import_mass_json
from markdown_parts import estimate, table

__all__ = ["command_a_section", "nllb_section"]

MASS, SETS = "routing/command_a_plus/atlas_mass.json", "routing/nllb_200_54b/experts.json"
SCORES = "routing/nllb_200_54b/FLORES-devtest-202-54B.tsv"
TASKS = ("math", "code", "general", "rag", "safety")
BANDS = {"encoder": (0, 5), "decoder": (6, 11)}
N_EXPERTS, PIVOT = 128, "eng_Latn"


def fresh(kept: Path, name: str) -> Path:
    """Return a folder that does not exist."""
    shutil.rmtree(kept / name, ignore_errors=True)
    return kept / name


def shares(run: Run, language: str) -> np.ndarray:
    """Profiles ``[n_layers, n_experts]`` of a pooled Run."""
    return np.asarray(run.load_items(language, "profiles", slice(None))[0], dtype=np.float64)


def command_a_section(data: Path, kept: Path) -> Iterator[str]:
    """Whether five languages and five tasks are U-shaped against English, and what entropy does in the last layers."""
    run = import_mass_json(data / MASS, fresh(kept, "command-a"))
    found, english = analyze_run(run), shares(run, PIVOT)
    tasks = {}
    for name in TASKS:
        of_task = import_mass_json(data / MASS, fresh(kept, f"command-a-{name}"), category=name)
        tasks[name] = np.asarray(divergence(shares(of_task, PIVOT), english))
    shapes = {display_name(code): middle for code, middle in found.middle_by_language.items()}
    shapes |= {f"task {name}": middle_layers(curve) for name, curve in tasks.items()}
    yield "## Command A+ (218B), published routing weights of five languages and five tasks"
    yield (
        "Combine weights summed over 3 to 5 thousand tokens per category, texts that are not translations of each "
        "other, a 4-bit build (github.com/transformerlab, CC BY 4.0): one record per category, so nothing has an "
        "interval over texts. p is over layers. The tasks are compared with general English text."
    )
    rows = [
        (name, f"{shape.start}-{shape.end}", f"{shape.depth.value:.3f}", f"{shape.p_value:.3f}", verdict(shape))
        for name, shape in shapes.items()
    ]
    yield table(("Against English", "Best segment, from 0", "Outer minus inner", "p, order of layers", "U-shape"), rows)
    depths = [shape.depth.value for shape in shapes.values()]
    n = len(found.middle_by_language)
    p = exact_p(depths[:n], depths[n:])
    yield (
        f"Outer minus inner layers, mean: {fmean(depths[:n]):.3f} in languages, {fmean(depths[n:]):.3f} in tasks; "
        f"exact permutation of the {len(depths)} labels, p = {p:.3f} (n = {n} languages, {len(TASKS)} tasks)."
    )
    yield f"Entropy of the routing, nats, mean over layers (uniform: {np.log(N_EXPERTS):.3f}):\n\n{entropies(found)}"


def verdict(shape: MiddleLayers) -> str:
    """Yes, or why not."""
    return "yes" if shape.is_u_shape else f"no: {shape.reason}"


def exact_p(first: list[float], second: list[float]) -> float:
    """Share of all divisions of the values whose difference of means is as great."""
    values, n = np.array([*first, *second]), len(first)
    seen = fmean(first) - fmean(second)
    differences = []
    for chosen in itertools.combinations(range(len(values)), n):
        inside = np.isin(np.arange(len(values)), chosen)
        differences.append(values[inside].mean() - values[~inside].mean())
    return float(np.mean(np.array(differences) >= seen - 1e-12))


def entropies(found: Analysis) -> str:
    """Mean entropy by band, and of the last layer, per language."""
    rows = []
    for code, curve in found.entropy.items():
        means = found.by_band({code: curve})[code]
        rows.append((display_name(code), *(f"{value:.3f}" for value in means.values()), f"{curve[-1].value:.3f}"))
    columns = ("Language", *(f"{name} {a}-{b}" for name, (a, b) in found.bands.items()), "last layer")
    return table(columns, rows)


def scores(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Mean chrF++ of a language as the source (to all others) and as the target (from all others)."""
    source, target = defaultdict(list), defaultdict(list)
    with path.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            one, other = row["direction"].split("-")
            source[one].append(float(row["chrF++"]))
            target[other].append(float(row["chrF++"]))
    means = [{code: fmean(values) for code, values in each.items()} for each in (source, target)]
    return means[0], means[1]


def nllb_section(data: Path, kept: Path) -> Iterator[str]:
    """What the most important experts of 202 languages follow, and their relation with translation quality."""
    run = import_expert_sets(data / SETS, fresh(kept, "nllb"), n_experts=N_EXPERTS, model="NLLB-200-54B")
    source, target = scores(data / SCORES)
    of_source = analyze_run(run, AnalysisRequest(bands=BANDS, accuracy=source))
    of_target = analyze_run(run, AnalysisRequest(bands=BANDS, accuracy=target))
    yield f"## NLLB-200-54B, published sets of the most important experts of {len(run.languages)} languages"
    yield (
        "36 experts per encoder layer for the language as the source, 12 per decoder layer for it as the target, of "
        "128 (github.com/naver/nllb-pruning, CC BY-NC-SA 4.0). Sets, not frequencies, of an encoder-decoder model: "
        "distances are shares of a set that the other lacks, and layers are not compared with each other. n counts "
        "languages."
    )
    lines = []
    for band in BANDS:
        kept_share = [
            1 - lacking(of_source, band, pair) for pair in itertools.combinations(range(len(run.languages)), 2)
        ]
        jaccard = [share / (2 - share) for share in kept_share]
        size = 36 if band == "encoder" else 12
        chance = size / N_EXPERTS
        lines.append(
            f"* {band}: Jaccard similarity of two languages' sets, mean {fmean(jaccard):.3f} (random sets: "
            f"{chance / (2 - chance):.3f}), from {min(jaccard):.3f} to {max(jaccard):.3f}."
        )
    yield "\n".join(lines)
    yield "### What the sets follow"
    yield references(of_source)
    yield "### Translation quality"
    rows = []
    for side, found in (("source", of_source), ("target", of_target)):
        for band, correlation in found.accuracy.items():
            part = correlation.to_json()
            least, greatest = part["leave_one_out"]
            cells = str(part["pearson"]["n"]), estimate(part["pearson"], 2), f"{least:.2f} to {greatest:.2f}"
            rows.append((f"{band}, from English", f"chrF++ as the {side}", *cells, estimate(part["spearman"], 2)))
    yield table(("Sets' distance", "With", "n", "Pearson", "Without any one", "Spearman"), rows)
    yield "### Not computed"
    yield "\n".join(f"* {name}: {why.removeprefix(f'{run.path}: ')}" for name, why in of_source.refused.items())


def lacking(found: Analysis, band: str, pair: tuple[int, int]) -> float:
    """Share of a set that another language's lacks, mean over the layers of a band."""
    size = 36 if band == "encoder" else 12
    return float(found.pairs.bands[band][pair] * np.log(N_EXPERTS / size) / np.log(2))


def main() -> None:
    """Rewrite the sections."""
    (data,), kept = arguments(1)
    from findings import Work, counts_section  # noqa: PLC0415 - it imports these sections

    rewrite(counts_section(Work(data, kept)), command_a_section(data, kept), nllb_section(data, kept))


if __name__ == "__main__":
    main()
