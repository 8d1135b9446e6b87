"""Measures whether intervals, tests and rules keep what they promise, on simulated routing with known answers.

``python docs/calibration.py [OUT.json]`` prints tables in Markdown and writes the numbers. Seeds are fixed: equal
versions of the libraries give equal numbers. It takes minutes of one core; every sample is a Run, flushed to TMPDIR.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from calibration_rows import MONTE_CARLO, Row, calibration_tables, covers, mean, share
from isogloss.analysis import (
    ContrastRule,
    DeltaRule,
    ExpertTable,
    MiddleLayers,
    ShareRule,
    SpecificityRule,
    analyze_curves,
    correlate,
    divergence,
    experts_among_languages,
    language_experts,
    mantel,
    middle_layers,
    task_experts,
)
from isogloss.languages import FLORES_200
from isogloss.runs import Run
from isogloss.statistics import Resampling
from known_answers.simulation import draw_routing, simulate_run, simulate_task_run, truth
from known_answers.worlds import PlantedExpert, SimulatedLanguage, SimulatedWorld

Array = np.ndarray[Any, Any]
NOMINAL, LEVEL, N_RESAMPLES = 0.95, 0.05, 1000
LANGUAGES = (PIVOT, TARGET, OTHER) = ("eng_Latn", "swh_Latn", "tel_Telu")
population = cache(truth)


def runs(world: SimulatedWorld, n: int, *, task: bool = False) -> Iterator[tuple[Run, Run | None, Resampling]]:
    """Draw n samples of a world, each with a stream of its own for resamples; with task text where asked for."""
    for draw in range(n):
        with tempfile.TemporaryDirectory() as folder:
            run = simulate_run(world, Path(folder) / "generic", draw=draw)
            tasks = simulate_task_run(world, Path(folder) / "task", draw=draw) if task else None
            yield run, tasks, Resampling(n_resamples=N_RESAMPLES, seed=draw)


# --- intervals and change points --------------------------------------------------------------------------------------

CURVES = SimulatedWorld(
    languages=(SimulatedLanguage(PIVOT, 0.0), SimulatedLanguage(TARGET), SimulatedLanguage(OTHER, 1.3, 2.0)),
    n_layers=12,
    n_experts=8,
    tokens=12.0,
    middle=(3, 8),
    strength=0.6,
)


def intervals(n_items: int, n: int, *, n_truth: int = 20_000) -> list[Row]:
    """Measure the coverage of the intervals of means over items, and the width of one.

    Args:
        n_items: per simulation.
        n: simulations.
        n_truth: items behind the population values.
    """
    world = replace(CURVES, n_layers=3, middle=(1, 1))
    true = population(world, n_items=n_truth)
    hits: dict[str, list[bool]] = {}
    width = []
    for run, _, resampling in runs(replace(world, n_items=n_items), n):
        analysis = analyze_curves(run, pivot=PIVOT, resampling=resampling)
        apart = analysis.divergence[TARGET]
        for name, estimates, values in (
            ("divergence", apart, true.divergence),
            ("entropy", analysis.entropy[TARGET], true.entropy),
            ("consistency", analysis.consistency[TARGET], true.consistency),
        ):
            for layer, where in enumerate(("outer", "middle")):
                held = covers(estimates[layer], values[TARGET][layer])
                hits.setdefault(f"{name}, {where} layer", []).append(held)
        width.append(apart[0].high - apart[0].low)
    setting = f"{n_items} items"
    rows = [Row("Intervals", name, setting, **share(held, NOMINAL)) for name, held in hits.items()]
    return [*rows, Row("Intervals", "divergence, outer layer: width", setting, **mean(width))]


def curves(n_items: int, n: int, *, strength: float, n_truth: int = 5_000) -> list[Row]:
    """Measure how often the planted edges are found, and whether their intervals and that of depth hold the truth.

    Args:
        n_items: per simulation.
        n: simulations.
        strength: of the outer layers.
        n_truth: items behind the population's depth.
    """
    world = replace(CURVES, strength=strength)
    (start, end), depth = world.middle, population(world, n_items=n_truth).depth
    found = middles(replace(world, n_items=n_items), n)
    off = [max(abs(middle.start - start), abs(middle.end - end)) for middle in found]
    said = {
        "interval of the start": [low <= start <= high for low, high in (m.start_interval or (1, 0) for m in found)],
        "interval of the end": [low <= end <= high for low, high in (m.end_interval or (1, 0) for m in found)],
        "interval of the depth": [covers(middle.depth, depth) for middle in found],
    }
    seen = {
        "both edges as planted": [miss == 0 for miss in off],
        "both edges within one layer": [miss <= 1 for miss in off],
        "called a U": [middle.is_u_shape for middle in found],
    }
    setting = f"strength {strength:g}, {n_items} items"
    return [Row("Change points", name, setting, **share(hits)) for name, hits in seen.items()] + [
        Row("Change points", name, setting, **share(hits, NOMINAL)) for name, hits in said.items()
    ]


def flat(n_items: int, n: int) -> list[Row]:
    """Measure how often a curve without a middle is called a U, and whether the interval of its depth holds zero."""
    found = middles(replace(CURVES, n_items=n_items, strength=0.0), n)
    called = share([middle.is_u_shape for middle in found], LEVEL, better="below")
    depth = share([covers(middle.depth, 0.0) for middle in found], NOMINAL)
    return [
        Row("Change points", "flat curve called a U", f"flat, {n_items} items", **called),
        Row("Change points", "interval of the depth", f"flat, {n_items} items", **depth),
    ]


def layers(n_layers: int, n: int) -> list[Row]:
    """Measure how often curves whose every layer is known exactly are called a U, by what their levels are.

    Args:
        n_layers: of a curve.
        n: curves of each kind.
    """
    generator, place = np.random.default_rng(n_layers), np.arange(n_layers)

    def noise(size: float) -> Array:
        return generator.normal(scale=size, size=n_layers)

    high = np.where((place >= n_layers // 4) & (place < n_layers - n_layers // 4), 0.0, 1.0)
    w, slope = np.array([1.0, 0, 1, 0, 1])[place * 5 // n_layers], np.linspace(0, 2, n_layers)
    kinds: dict[str, tuple[Callable[[], Array], float | None]] = {
        "independent levels": (lambda: noise(1.0), LEVEL),
        "zigzag": (lambda: place % 2 + noise(0.2), LEVEL),
        "W": (lambda: w + noise(0.2), LEVEL),
        "slope": (lambda: slope + noise(0.4), LEVEL),
        "random walk": (lambda: np.cumsum(noise(1.0)), None),
        "U, layers vary by a fifth of its depth": (lambda: high + noise(0.2), None),
        "U, layers vary by two fifths of its depth": (lambda: high + noise(0.4), None),
        "parabola, layers vary by a fifth of its depth": (lambda: np.linspace(-1, 1, n_layers) ** 2 + noise(0.2), None),
    }
    return [
        Row(
            "Order of layers",
            f"{name}: called a U",
            f"{n_layers} layers",
            **share([middle_layers(draw()).is_u_shape for _ in range(n)], nominal, better="below"),
        )
        for name, (draw, nominal) in kinds.items()
    ]


def middles(world: SimulatedWorld, n: int) -> list[MiddleLayers]:
    """Find the middle layers of n samples of a world."""
    analyses = (analyze_curves(run, pivot=PIVOT, resampling=resampling) for run, _, resampling in runs(world, n))
    return [analysis.middle_layers for analysis in analyses if analysis.middle_layers]


# --- experts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One rule with one kind of expert.

    Attributes:
        find: (run, task run, threshold, resampling) to the table.
        planted: experts of this kind in a world.
        threshold: at which planted experts are looked for.
        value: statistic of an exclusive expert, from its rates in the target and elsewhere; None for other kinds.
        null: threshold that finds some experts in noise.
    """

    find: Callable[[Run, Run | None, float, Resampling], ExpertTable]
    planted: Callable[[SimulatedWorld], frozenset[tuple[int, int]]]
    threshold: float
    value: Callable[[float, float], float] | None = None
    null: float | None = None


def _specific(rate: float, elsewhere: float) -> float:
    return rate / ((rate + 2 * elsewhere) / 3) * (1 + 10 * rate)


def _exclusive(world: SimulatedWorld) -> frozenset[tuple[int, int]]:
    return world.exclusive_experts(TARGET)


# A rule is one row: what finds the experts, which are planted, at which thresholds, and what the statistic should be.
RULES = {
    "delta": Rule(
        lambda r, _, t, s: language_experts(r, TARGET, pivot=PIVOT, rule=DeltaRule(t), resampling=s),
        _exclusive, 0.3, lambda rate, elsewhere: rate - elsewhere, 0.03,
    ),
    "share, exclusive": Rule(
        lambda r, _, t, s: experts_among_languages(
            r, ShareRule("exclusive", LANGUAGES, (TARGET,), 16, t), resampling=s
        ),
        _exclusive, 0.6, lambda rate, elsewhere: rate / (rate + 2 * elsewhere), 0.37,
    ),
    "contrast": Rule(
        lambda r, _, t, s: language_experts(
            r, TARGET, pivot=PIVOT, rule=ContrastRule(t, sign="positive"), resampling=s
        ),
        _exclusive, 0.3, lambda rate, elsewhere: rate - elsewhere, 0.03,
    ),
    "specificity, specific": Rule(
        lambda r, _, t, s: experts_among_languages(
            r, SpecificityRule("specific", LANGUAGES, TARGET, threshold=t), resampling=s
        ),
        _exclusive, 8.0, _specific, 3.0,
    ),
    "share, common": Rule(
        lambda r, _, t, s: experts_among_languages(r, ShareRule("common", LANGUAGES, top=2, threshold=t), resampling=s),
        SimulatedWorld.common_experts, 0.5, null=0.7,
    ),
    "specificity, overlap": Rule(
        lambda r, _, t, s: experts_among_languages(
            r, SpecificityRule("overlap", LANGUAGES, threshold=t), resampling=s
        ),
        SimulatedWorld.common_experts, 4.0, null=2.5,
    ),
    "delta, task": Rule(
        lambda r, k, t, s: task_experts(k or r, r, language=PIVOT, rule=DeltaRule(t), resampling=s),
        SimulatedWorld.task_experts, 0.3, null=0.03,
    ),
    "contrast, task": Rule(
        lambda r, k, t, s: task_experts(
            k or r, r, language=PIVOT, rule=ContrastRule(t, sign="positive"), resampling=s
        ),
        SimulatedWorld.task_experts, 0.3, null=0.03,
    ),
}  # fmt: skip
EXPERTS = replace(CURVES, n_layers=2, middle=(1, 1), n_experts=16, top_k=3, strength=0.5)
RATE, ELSEWHERE = 0.5, 0.2


def expert_intervals(n_items: int, n: int) -> list[Row]:
    """Measure coverage for a planted expert that is always found, and for one that its threshold finds by luck."""
    planted = PlantedExpert(1, 3, (TARGET,), RATE, ELSEWHERE)
    world = replace(EXPERTS, n_items=n_items, planted=(planted,))
    rules = {name: (rule, rule.value(RATE, ELSEWHERE)) for name, rule in RULES.items() if rule.value}
    found: dict[tuple[str, bool], list[Any]] = {(name, lucky): [] for name in rules for lucky in (False, True)}
    for run, _, resampling in runs(world, n):
        for name, (rule, value) in rules.items():
            for lucky in (False, True):
                once = replace(resampling, n_permutations=1)
                table = rule.find(run, None, value if lucky else value / 2, once)
                found[name, lucky] += [row for row in table.experts if (row.layer, row.expert) == (1, 3)]
    rows = []
    for name, (_, value) in rules.items():
        always, lucky = found[name, False], found[name, True]
        excess = [row.statistic / value - 1 for row in lucky]
        for quantity, fields in {
            f"{name}: interval, found in {len(always)} of {n}": share([covers(row, value) for row in always], NOMINAL),
            f"{name}: interval, threshold at the true value": share([covers(row, value) for row in lucky], NOMINAL),
            f"{name}: statistic above the truth, threshold at the true value": mean(excess, 0.0),
        }.items():
            rows.append(Row("Intervals of experts", quantity, f"{n_items} items", **fields))
    return rows


def chance(n_items: int, n: int, fertility: float = 1.0) -> list[Row]:
    """Hold the number of experts found in languages and texts that are routed alike against the chance count."""
    languages = tuple(SimulatedLanguage(code, 0.0, fertility if code == TARGET else 1.0) for code in LANGUAGES)
    world = replace(EXPERTS, languages=languages, n_items=n_items, strength=0.0)
    counted: dict[str, list[tuple[int, float]]] = {
        name: [] for name, rule in RULES.items() if rule.null is not None and (fertility == 1 or "task" not in name)
    }
    for run, task, resampling in runs(world, n, task=True):
        for name, pairs in counted.items():
            table = RULES[name].find(run, task, RULES[name].null or 0.0, resampling)
            pairs.append((table.n, table.expected_by_chance or 0.0))
    rows = []
    for name, pairs in counted.items():
        mean_found, expected = np.mean(pairs, axis=0)
        quantity = f"{name}: {mean_found:.2f} found, {expected:.2f} expected; difference"
        fields = mean([there - by_chance for there, by_chance in pairs], 0.0)
        rows.append(Row("Chance counts", quantity, f"{n_items} items, fertility {fertility:g}", **fields))
    return rows


def recovery(n_items: int, n: int) -> list[Row]:
    """Measure which of the planted experts each rule finds, and which of its finds were planted."""
    planted = [
        expert
        for layer in range(6)
        for expert in (
            PlantedExpert(layer, 0, (TARGET,), RATE, 0.05),
            PlantedExpert(layer, 1, LANGUAGES, 0.6),
            PlantedExpert(layer, 2, elsewhere=0.05, task=0.45),
        )
    ]
    world = replace(EXPERTS, n_layers=6, middle=(2, 3), n_items=n_items, planted=tuple(planted))
    right: dict[str, list[bool]] = {name: [] for name in RULES}
    hit: dict[str, list[bool]] = {name: [] for name in RULES}
    for run, task, resampling in runs(world, n, task=True):
        for name, rule in RULES.items():
            cheap = replace(resampling, n_permutations=1, n_resamples=2)
            found = {(row.layer, row.expert) for row in rule.find(run, task, rule.threshold, cheap).experts}
            right[name] += [expert in rule.planted(world) for expert in found]
            hit[name] += [expert in found for expert in rule.planted(world)]
    rows = []
    for name, rule in RULES.items():
        setting = f"{n_items} items, threshold {rule.threshold:g}"
        rows.append(Row("Recovery of planted experts", f"{name}: planted ones found", setting, **share(hit[name])))
        rows.append(Row("Recovery of planted experts", f"{name}: found ones planted", setting, **share(right[name])))
    return rows


# --- over languages ---------------------------------------------------------------------------------------------------


def related(families: Sequence[int], kinship: float, seed: int) -> Array:
    """Draw the routing of one language per family label, and return the divergence of their mean profiles."""
    codes = sorted(FLORES_200)[: len(families)]
    languages = tuple(
        SimulatedLanguage(code, family=f"family {family}") for code, family in zip(codes, families, strict=True)
    )
    world = SimulatedWorld(
        languages=languages, n_items=8, n_layers=1, middle=(0, 0), middle_strength=0.5, kinship=kinship, seed=seed
    )
    profiles = np.stack([draw_routing(world, code).profiles[:, 0].mean(axis=0) for code in codes])
    return np.asarray(divergence(profiles[:, None], profiles[None]))


def unlike(labels: Array) -> Array:
    """Return distances of 0 within a group and 1 between groups."""
    return (labels[:, None] != labels).astype(np.float64)


def genealogy(n: int) -> list[Row]:
    """Measure level and power of the Mantel tests, with 16 languages of four families."""
    families = np.repeat(np.arange(4), 4)
    p_values: dict[tuple[str, bool], list[float]] = {}
    for seed in range(n):
        generator, few = np.random.default_rng(seed), Resampling(n_permutations=199, seed=seed)
        alone, akin = related(families, 0.0, seed), related(families, 0.5, seed)
        # A rival that agrees with the families for three languages of four, and is all that the routing follows.
        mixed = np.where(generator.random(16) < 0.75, families, generator.integers(0, 4, 16))  # noqa: PLR2004 - as said
        tests = {
            ("plain: routing follows nothing", True): mantel(alone, unlike(families), resampling=few),
            ("plain: routing follows families", False): mantel(akin, unlike(families), resampling=few),
            ("plain: routing follows a rival only", False): mantel(akin, unlike(mixed), resampling=few),
            ("partial, controlling for the rival: routing follows the rival only", True): mantel(
                akin, unlike(mixed), control={"rival": unlike(families)}, resampling=few
            ),
            ("partial, controlling for the rival: routing follows families", False): mantel(
                akin, unlike(families), control={"rival": unlike(mixed)}, resampling=few
            ),
        }
        for key, test in tests.items():
            p_values.setdefault(key, []).append(test.p_value)
    rows = []
    for (name, null), found in p_values.items():
        rejected = share([p <= LEVEL for p in found], LEVEL if null else None, better="below")
        rows.append(Row("Mantel tests", f"{name}; rejected at {LEVEL:g}", "16 languages, 4 families", **rejected))
    return rows


def accuracy(n_languages: int, correlation: float, n: int) -> list[Row]:
    """Measure the coverage of both correlation intervals over languages, for accuracies that are normal or bounded."""
    generator, covariance = np.random.default_rng(n_languages), [[1.0, correlation], [correlation, 1.0]]
    # Accuracy between guessing (0.25) and 1; its population correlations from a large sample.
    shapes = {"normal": lambda y: y, "bounded": lambda y: 0.25 + 0.75 / (1 + np.exp(-2 * y))}
    rows = []
    for shape, transform in shapes.items():
        x, y = generator.multivariate_normal([0, 0], covariance, size=1_000_000).T
        pearson, spearman = np.corrcoef(x, transform(y))[0, 1], 6 / np.pi * np.arcsin(correlation / 2)
        hits: dict[str, list[bool]] = {"Pearson": [], "Spearman": []}
        for _ in range(n):
            x, y = generator.multivariate_normal([0, 0], covariance, size=n_languages).T
            found = correlate(x, transform(y))
            hits["Pearson"].append(covers(found.pearson, pearson))
            hits["Spearman"].append(covers(found.spearman, spearman))
        setting = f"{n_languages} languages, correlation {correlation:g}, {shape} accuracy"
        rows += [Row("Correlation with accuracy", name, setting, **share(hit, NOMINAL)) for name, hit in hits.items()]
    return rows


# --- all of it --------------------------------------------------------------------------------------------------------


def calibrate() -> list[Row]:
    """Run every simulation."""
    return [
        *(row for n_items, n in ((20, 1000), (50, 600), (200, 300)) for row in intervals(n_items, n)),
        *curves(20, 150, strength=0.6),
        *curves(20, 200, strength=0.3),
        *curves(50, 150, strength=0.3),
        *flat(20, 250),
        *flat(50, 150),
        *(row for n_layers in (12, 24, 32, 48) for row in layers(n_layers, 400)),
        *expert_intervals(20, 400),
        *expert_intervals(50, 400),
        *chance(20, 200),
        *chance(20, 200, fertility=3.0),
        *recovery(20, 50),
        *genealogy(500),
        *(row for n in (15, 40) for correlation in (0.0, -0.5, -0.9) for row in accuracy(n, correlation, 2000)),
    ]


def main() -> None:
    """Print the tables, and write the numbers where asked to."""
    results = {"monte_carlo_level": MONTE_CARLO, "rows": [asdict(row) for row in calibrate()]}
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write(calibration_tables(results))


if __name__ == "__main__":
    main()
