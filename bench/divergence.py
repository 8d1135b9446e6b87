"""Divergence against a loop over scipy's function, and, with --full, of a Run of 204 languages.

    python bench/divergence.py [--full] [--growth] [OUT.md]

Every comparison alternates its two sides, so a machine that slows down slows both. ``--full`` writes 5 GB to a
temporary folder, measures each task in a process of its own, and deletes the folder. ``--growth`` does so for Runs of
several sizes, of which the largest takes 1.5 GB. Run by `make bench-analysis`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import jensenshannon
from scipy.special import entr

from isogloss.analysis import analyze_curves, analyze_run, divergence, pairwise_divergence
from isogloss.analysis.divergence import as_distributions, between
from isogloss.analysis.experts import experts_among_languages
from isogloss.analysis.shares import ShareRule
from isogloss.languages import FLORES_200
from isogloss.routing import RouterSpec
from isogloss.runs import LanguageRouting, Manifest, Run, RunWriter, open_run
from timing import alternating_times

Array = npt.NDArray[np.floating[Any]]

ROUNDS = 7
N_ITEMS, N_LAYERS, N_EXPERTS, TOP_K, N_TOKENS = 488, 48, 128, 8, 64

N_DRAWN = 12
SIZES = (  # languages, items, layers, experts
    (51, 100, 24, 64),
    (102, 100, 24, 64),
    (204, 100, 24, 64),
    (51, 200, 24, 64),
    (51, 100, 48, 64),
    (51, 100, 24, 128),
    (204, 1000, 48, 128),
    (204, 1000, 61, 256),
)


def softmax(logits: Array) -> Array:
    """Distributions over experts; modest logits, so that no expert is chosen by more than every token."""
    weights = np.exp(logits)
    return weights / weights.sum(axis=-1, keepdims=True)


def by_loop(p: Array, q: Array) -> Array:
    """Divergence with one call of scipy's function per item and layer."""
    rows = [jensenshannon(a, b) ** 2 for a, b in zip(p.reshape(-1, N_EXPERTS), q.reshape(-1, N_EXPERTS), strict=True)]
    mean_entropy = (entr(p).sum(axis=-1) + entr(q).sum(axis=-1)) / 2
    return np.reshape(rows, p.shape[:-1]) / (np.log(N_EXPERTS) - mean_entropy)


def alternate(name: str, ours: Callable[[], Array], other: Callable[[], Array]) -> str:
    """Check that both sides agree, time them in turn; give medians, their ratio and its range as a table row."""
    np.testing.assert_allclose(ours(), other(), rtol=1e-9, atol=1e-12)
    pairs = alternating_times(ours, other, ROUNDS)
    medians = [statistics.median(side) * 1e3 for side in zip(*pairs, strict=True)]
    ratios = [b / a for a, b in pairs]
    ratio, spread = medians[1] / medians[0], f"{min(ratios):.0f}-{max(ratios):.0f}"
    return f"| {name} | {medians[0]:.1f} | {medians[1]:.0f} | {ratio:.0f} | {spread} |"


def compare_with_loop() -> Iterator[str]:
    """Compare arrays with arrays, and a whole Run on disk with arrays that the loop finds in memory."""
    shape = 8, N_LAYERS, N_EXPERTS
    base = 0.3 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    codes = sorted(FLORES_200)[:16]
    languages = [synthetic_language(base, number) for number in range(len(codes))]
    exact = [np.float64(language.profiles) for language in languages]
    exact = [profiles / profiles.sum(axis=-1, keepdims=True) for profiles in exact]

    def one_against_all() -> Array:
        reference, *others = map(as_distributions, exact)
        return np.stack([between(reference, other) for other in others])

    def loop_over_pairs() -> Array:
        found = np.zeros((N_LAYERS, len(codes), len(codes)))
        for i, j in itertools.combinations(range(len(codes)), 2):
            found[:, i, j] = found[:, j, i] = by_loop(exact[i], exact[j]).mean(axis=0)
        return found

    with tempfile.TemporaryDirectory() as parent:
        writer = RunWriter(Path(parent) / "run", manifest(len(base)))
        for code, language in zip(codes, languages, strict=True):
            writer.write(code, language, "0" * 64)
        run = writer.finish()
        yield "Against a loop over `scipy.spatial.distance.jensenshannon`:\n"
        yield "| Comparison | ours, ms | loop, ms | ratio | rounds |"
        yield "|---|---|---|---|---|"
        yield alternate(
            "`divergence` of one pair",
            lambda: divergence(exact[0], exact[1]),
            lambda: by_loop(exact[0], exact[1]),
        )
        yield alternate(
            "one language against 15, as `analyze_curves` does",
            one_against_all,
            lambda: np.stack([by_loop(exact[0], other) for other in exact[1:]]),
        )
        yield alternate(
            "`pairwise_divergence` per item, 16 languages; ours read from disk and verified",
            lambda: pairwise_divergence(open_run(run.path), by="items").values,
            loop_over_pairs,
        )
    yield (
        f"\nPer item: 8 items, {N_LAYERS} layers of {N_EXPERTS} experts; medians of {ROUNDS} alternating rounds; the "
        f"results agree to 1e-9; load before {os.getloadavg()[0]:.1f}."
    )


def manifest(n_items: int, n_layers: int = N_LAYERS, n_experts: int = N_EXPERTS) -> Manifest:
    """Header of the synthetic Run."""
    return Manifest(
        model="synthetic",
        revision=None,
        config_sha256="unknown",
        fingerprint=None,
        routers=tuple(RouterSpec(layer, n_experts, TOP_K) for layer in range(n_layers)),
        corpus={"name": "synthetic", "source": "drawn", "licence": "none"},
        granularity="items",
        item_ids=tuple(str(number) for number in range(n_items)),
        token_scope="content",
        backend="none",
        dtype="float32",
        seed=0,
        packages={},
    )


def synthetic_language(base: Array, number: int) -> LanguageRouting:
    """Draw a language that lies near the items' own routing in the middle layers and far from it outside."""
    generator = np.random.default_rng(number)
    depth = np.linspace(-1, 1, base.shape[1], dtype=np.float32)[:, None]
    own = generator.standard_normal(base.shape, dtype=np.float32)
    own += generator.standard_normal(base.shape[1:], dtype=np.float32)
    profiles = softmax(base + 0.2 * depth**2 * own)
    edges = np.rint(np.cumsum(profiles, axis=-1, dtype=np.float64) * (TOP_K * N_TOKENS))
    edges[..., -1] = TOP_K * N_TOKENS
    return LanguageRouting(
        profiles=profiles,
        selections=np.diff(edges, axis=-1, prepend=0).astype(np.int32),
        tokens=np.full(len(base), N_TOKENS, dtype=np.int32),
        consistency=generator.random(base.shape[:2], dtype=np.float32),
        entropy=entr(profiles).sum(axis=-1, dtype=np.float32),
    )


def write_run(folder: Path) -> None:
    """Write the synthetic Run, language by language."""
    writer = RunWriter(folder, manifest(N_ITEMS))
    shape = N_ITEMS, N_LAYERS, N_EXPERTS
    base = 0.3 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for number, language in enumerate(sorted(FLORES_200)):
        writer.write(language, synthetic_language(base, number), "0" * 64)
    writer.finish()


def write_linked_run(folder: Path, n_languages: int, shape: tuple[int, int, int]) -> None:
    """Write a Run of which few languages are drawn; the others are links to their files, and read like any."""
    writer = RunWriter(folder, manifest(*shape))
    codes = sorted(FLORES_200)[:n_languages]
    base = 0.3 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for number, language in enumerate(codes[:N_DRAWN]):
        writer.write(language, synthetic_language(base, number), "0" * 64)
    entries = dict(writer.manifest.languages)
    for number, language in enumerate(codes[N_DRAWN:]):
        original = codes[number % N_DRAWN]
        (folder / f"{language}.safetensors").hardlink_to(folder / f"{original}.safetensors")
        entries[language] = entries[original]
    whole = replace(writer.manifest, status="complete", languages=entries)
    (folder / "manifest.json").write_bytes(whole.encode())


def _analyze(run: Run) -> object:
    return analyze_curves(run)


def _command(run: Run) -> object:
    return analyze_run(run)


def _means(run: Run) -> object:
    return pairwise_divergence(run)


def _items(run: Run) -> object:
    return pairwise_divergence(run, by="items")


def _shares(run: Run) -> object:
    rule = ShareRule("common", run.languages, threshold=2 / len(run.languages))
    return experts_among_languages(run, rule)


TASKS: dict[str, Callable[[Run], object]] = {
    "`analyze_curves`: English against all, everything it computes by default": _analyze,
    "`analyze_run`: all that `isogloss analyze` computes by default": _command,
    "all pairs on language means": _means,
    "all pairs per item": _items,
    "`isogloss experts --rule share`": _shares,
}
SHARES = "`isogloss experts --rule share`"
GROWTH = "`analyze_run`: all that `isogloss analyze` computes by default"


def measure(name: str, folder: Path) -> tuple[float, int]:
    """Seconds, reading and verification included, and peak resident MiB of this process."""
    start = time.perf_counter()
    TASKS[name](open_run(folder))
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def full_size() -> Iterator[str]:
    """Write the Run of full size and measure every task in a fresh process."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        write_run(folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        yield (
            f"\nA synthetic Run of {len(FLORES_200)} languages, {N_ITEMS} items, {N_LAYERS} layers of {N_EXPERTS} "
            f"experts ({size / 1e9:.1f} GB), from disk or its cache, hashes verified:\n"
        )
        yield "| Task | seconds | peak MiB | load before |\n|---|---|---|---|"
        for name in TASKS:
            load = os.getloadavg()[0]
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, peak = pool.submit(measure, name, folder).result()
            yield f"| {name} | {seconds:.0f} | {peak} | {load:.1f} |"


def growth() -> Iterator[str]:
    """Measure the whole analysis, and the share rule, at sizes that differ in one number each."""
    yield (
        f"\nHow time and memory grow; {N_DRAWN} languages are drawn and the others are links to their files; from the "
        "disk's cache, hashes verified, one thread of BLAS:\n"
    )
    yield "| languages | items | layers | experts | task | seconds of CPU | peak MiB |\n|---|---|---|---|---|---|---|"
    for n_languages, *shape in SIZES:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "run"
            write_linked_run(folder, n_languages, tuple(shape))
            for name in (GROWTH, SHARES):
                with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    seconds, peak = pool.submit(measure_cpu, name, folder).result()
                task = name.split(":")[0]
                yield f"| {n_languages} | {' | '.join(map(str, shape))} | {task} | {seconds:.1f} | {peak} |"


def measure_cpu(name: str, folder: Path) -> tuple[float, int]:
    """Seconds of the processor, which other work on the machine hardly changes, and peak resident MiB."""
    start = time.process_time()
    TASKS[name](open_run(folder))
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measurements(*, full: bool, grows: bool) -> Iterator[str]:
    """Yield the lines of the section as they are measured."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("isogloss", "numpy", "scipy"))
    yield "# Performance of the analysis\n\nWritten by `make bench-analysis`.\n"
    yield f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}.\n"
    yield from compare_with_loop()
    if full:
        yield from full_size()
    if grows:
        yield from growth()


def main() -> None:
    """Print the measurements, and write them to the file that is named."""
    parser = argparse.ArgumentParser(description="Measure the speed of divergence.")
    parser.add_argument(
        "--full", action="store_true", help="also a Run of 204 languages: 5 GB of disk for some minutes"
    )
    parser.add_argument("--growth", action="store_true", help="also how time and memory grow with the Run")
    parser.add_argument("out", nargs="?", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    lines = []
    for line in measurements(full=options.full, grows=options.growth):
        print(line, flush=True)
        lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
