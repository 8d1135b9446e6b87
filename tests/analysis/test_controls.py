"""Controls of the analysis: tokens that are not shared, what the routers read, and the two phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_examples import drawn_manifest

from isogloss.analysis import Analysis, Controls, analyze_curves, divergence
from isogloss.analysis.controls import cka, distinct_divergence, hidden_similarity, phase_divergence
from isogloss.errors import RunError
from isogloss.routing import RouterSpec, entropy, softmax
from isogloss.runs import LanguageRouting, Run, RunWriter
from isogloss.statistics import Resampling

N_ITEMS, LAYERS, N_EXPERTS, TOP_K, SIZE = 30, (1, 2, 4), 8, 2, 12
FAST = Resampling(n_resamples=200, n_permutations=20)
MANIFEST = drawn_manifest((RouterSpec(layer, N_EXPERTS, TOP_K) for layer in LAYERS), N_ITEMS)
LANGUAGES = ("eng_Latn", "deu_Latn", "fra_Latn", "spa_Latn", "swh_Latn")


def routing_of(profiles, seed: int, **options) -> LanguageRouting:
    """Routing whose every token chooses the two experts of highest weight."""
    tokens = np.random.default_rng(seed).integers(20, 40, size=N_ITEMS).astype(np.int32)
    selections = np.zeros(profiles.shape, dtype=np.int32)
    best = np.argsort(-profiles, axis=-1)[..., :TOP_K]
    np.put_along_axis(selections, best, tokens[:, None, None], axis=-1)
    return LanguageRouting(
        profiles.astype(np.float32),
        selections,
        tokens,
        np.full(profiles.shape[:2], 0.5, dtype=np.float32),
        entropy(profiles).astype(np.float32),
        **options,
    )


def write(path: Path, routings: dict[str, LanguageRouting], **fields) -> Run:
    """A finished Run with some fields of its manifest changed."""
    writer = RunWriter(path, replace(MANIFEST, **fields))
    for language, routing in routings.items():
        writer.write(language, routing, "0" * 64)
    return writer.finish()


def draw(seed: int, shape: tuple[int, ...] = (N_ITEMS, len(LAYERS), N_EXPERTS)):
    """Random profiles."""
    return softmax(2.0 * np.random.default_rng(seed).normal(size=shape))


def distinct_run(path: Path) -> Run:
    """English without distinct tokens; German with some in all items but the first three."""
    own = draw(9).astype(np.float32)
    left = np.zeros(N_ITEMS, dtype=np.int32)
    left[3:] = 5
    own[:3] = 0
    nothing = {"distinct_profiles": np.zeros_like(own), "distinct_tokens": np.zeros_like(left)}
    german = routing_of(draw(1), 1, distinct_profiles=own, distinct_tokens=left)
    return write(path, {"eng_Latn": routing_of(draw(0), 0, **nothing), "deu_Latn": german}, distinct_from="eng_Latn")


def test_distinct_divergence_reads_the_distinct_profiles(tmp_path):
    """It is the divergence of the pivot's profile from those over distinct tokens; items without such do not count."""
    run = distinct_run(tmp_path)
    found = distinct_divergence(run, "eng_Latn", resampling=FAST)
    reference, own = run.load("eng_Latn").profiles[3:], run.load("deu_Latn").distinct_profiles[3:]
    expected = [np.mean([divergence(p, q) for p, q in zip(reference[:, at], own[:, at], strict=True)]) for at in (0, 1)]
    curve = found.divergence["deu_Latn"]
    assert [point.value for point in curve[:2]] == pytest.approx(expected)
    assert {point.n for point in curve} == {N_ITEMS - 3}
    assert all(point.low < point.value < point.high for point in curve)
    assert found.share["deu_Latn"] == pytest.approx(5 * (N_ITEMS - 3) / run.load("deu_Latn").tokens.sum())
    printed = Analysis("eng_Latn", N_EXPERTS, {}, LAYERS, controls=Controls(distinct=found)).to_json()
    assert [row["layer"] for row in printed["controls"]["distinct"]["divergence"]["deu_Latn"]] == list(LAYERS)


def test_distinct_divergence_refuses_other_runs(tmp_path):
    """A Run without distinct profiles, or with another pivot's, is refused with the command that makes one."""
    run = write(tmp_path / "plain", {code: routing_of(draw(seed), seed) for seed, code in enumerate(LANGUAGES)})
    with pytest.raises(RunError, match=r"captured without; capture it with --distinct-from eng_Latn"):
        distinct_divergence(run, "eng_Latn")
    with pytest.raises(RunError, match="captured with eng_Latn instead"):
        distinct_divergence(distinct_run(tmp_path / "other"), "deu_Latn")


def naive_cka(x, y) -> float:
    """The unbiased estimate by U-centred Gram matrices (Székely and Rizzo 2014), another road to the same number."""

    def centred(rows):
        gram = rows @ rows.T
        np.fill_diagonal(gram, 0.0)
        n = len(gram)
        rows_mean, total = gram.sum(axis=1, keepdims=True) / (n - 2), gram.sum() / ((n - 1) * (n - 2))
        result = gram - rows_mean - rows_mean.T + total
        np.fill_diagonal(result, 0.0)
        return result

    a, b = centred(x), centred(y)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_cka_equals_u_centred_matrices():
    """The estimate equals the one by U-centring, for any shift of either side."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(25, 6))
    y = x @ rng.normal(size=(6, 9)) + 0.5 * rng.normal(size=(25, 9))
    assert cka(x + 7.0, y - 3.0).value == pytest.approx(naive_cka(x, y), abs=1e-9)


def test_cka_of_equal_and_of_unrelated_states():
    """It is 1 for rotated and rescaled states and, on average, 0 for unrelated ones in more dimensions than items."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 64))
    turned = 3.0 * x @ np.linalg.qr(rng.normal(size=(64, 64)))[0]
    assert cka(x, turned).value == pytest.approx(1.0, abs=1e-9)
    unrelated = [cka(x, rng.normal(size=x.shape)).value for _ in range(40)]
    assert abs(np.mean(unrelated)) < 0.03


@pytest.mark.slow
def test_cka_interval_covers_the_value_of_many_items():
    """The jackknife's 95 % interval holds the population value in about 95 % of samples."""
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(5, 5))

    def sample(n):
        x = rng.normal(size=(n, 5))
        return x, x @ mix + 1.5 * rng.normal(size=(n, 5))

    truth = cka(*sample(3000)).value
    covered = [point.low <= truth <= point.high for point in (cka(*sample(100)) for _ in range(120))]
    assert 0.87 <= np.mean(covered) <= 1.0


def test_cka_refuses_what_it_cannot_estimate():
    """Unequal numbers of items and fewer than four are errors; a constant side gives no number; few items no ends."""
    with pytest.raises(ValueError, match="expected as many"):
        cka(np.ones((5, 2)), np.ones((6, 2)))
    with pytest.raises(ValueError, match="at least 4"):
        cka(np.ones((3, 2)), np.ones((3, 2)))
    assert np.isnan(cka(np.ones((8, 2)), np.random.default_rng(0).normal(size=(8, 2))).value)
    assert np.isnan(cka(*np.random.default_rng(0).normal(size=(2, 5, 3))).low)


def hidden_run(path: Path, *, noise: tuple[float, ...]) -> Run:
    """Languages whose hidden states and whose routing both move away from English by the same noise."""
    rng = np.random.default_rng(4)
    base = rng.normal(size=(N_ITEMS, len(LAYERS), SIZE))
    routers = rng.normal(size=(SIZE, N_EXPERTS))
    routings = {}
    for seed, (code, distance) in enumerate(zip(LANGUAGES, noise, strict=True)):
        hidden = (base + distance * rng.normal(size=base.shape)).astype(np.float32)
        routings[code] = routing_of(softmax(hidden @ routers), seed, hidden=hidden)
    return write(path, routings, hidden_size=SIZE)


def test_hidden_similarity_falls_with_noise_and_mirrors_routing(tmp_path):
    """Noisier states are less alike; routing made from them alone correlates with them."""
    run = hidden_run(tmp_path, noise=(0.0, 0.0, 0.3, 0.8, 2.0))
    routing = analyze_curves(run, resampling=FAST).divergence
    found = hidden_similarity(run, "eng_Latn", routing=routing, resampling=FAST)
    for curves in (found.cosine, found.cka):
        means = [np.mean([point.value for point in curves[code]]) for code in LANGUAGES[1:]]
        assert means[0] == pytest.approx(1.0, abs=1e-6)
        assert means == sorted(means, reverse=True)
    assert all(layer.pearson.value > 0.9 and layer.pearson.n == 4 for layer in found.mirror)
    printed = Analysis("eng_Latn", N_EXPERTS, {}, LAYERS, controls=Controls(hidden=found)).to_json()
    assert [row["layer"] for row in printed["controls"]["hidden"]["mirror"]] == list(LAYERS)


def test_hidden_cosine_is_the_mean_over_items(tmp_path):
    """Cosine of each item's states, then the mean; no division where a state is zero."""
    run = hidden_run(tmp_path, noise=(0.0, 0.5, 0.5, 0.5, 0.5))
    x, y = (run.load(code).hidden[:, 1].astype(float) for code in ("eng_Latn", "swh_Latn"))
    expected = np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(x, y, strict=True)])
    found = hidden_similarity(run, "eng_Latn", resampling=FAST)
    assert found.cosine["swh_Latn"][1].value == pytest.approx(expected, abs=1e-6)
    assert found.mirror == ()


def test_hidden_similarity_refuses_runs_without_states(tmp_path):
    """The error names the option of capture."""
    run = write(tmp_path, {code: routing_of(draw(seed), seed) for seed, code in enumerate(LANGUAGES)})
    with pytest.raises(RunError, match="with --hidden-states"):
        hidden_similarity(run, "eng_Latn")


def test_phases_are_compared_item_by_item(tmp_path):
    """The divergence of each language's generation from its own prompt; equal routing gives zero."""
    same = {code: routing_of(draw(seed), seed) for seed, code in enumerate(LANGUAGES[:2])}
    other = {"eng_Latn": same["eng_Latn"], "deu_Latn": routing_of(draw(7), 7)}
    prompt, generation = write(tmp_path / "p", same), write(tmp_path / "g", other, phase="generation", new_tokens=8)
    found = phase_divergence(prompt, generation, resampling=FAST)
    assert {point.value for point in found["eng_Latn"]} == {0.0}
    pairs = zip(same["deu_Latn"].profiles[:, 2], other["deu_Latn"].profiles[:, 2], strict=True)
    assert found["deu_Latn"][2].value == pytest.approx(np.mean([divergence(p, q) for p, q in pairs]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "phases are prompt and prompt"),
        ({"phase": "generation", "model": "another"}, "differ in model"),
        ({"phase": "generation", "item_ids": tuple(map(str, range(1, N_ITEMS + 1)))}, "differ in item_ids"),
    ],
)
def test_phases_of_different_things_are_refused(tmp_path, changes, message):
    """Two prompts, another model, other texts: each is named."""
    routings = {"eng_Latn": routing_of(draw(0), 0)}
    with pytest.raises(RunError, match=message):
        phase_divergence(write(tmp_path / "p", routings), write(tmp_path / "g", routings, **changes))


def test_phases_need_a_common_language(tmp_path):
    """Runs of different languages have nothing to compare."""
    prompt = write(tmp_path / "p", {"eng_Latn": routing_of(draw(0), 0)})
    generation = write(tmp_path / "g", {"deu_Latn": routing_of(draw(0), 0)}, phase="generation")
    with pytest.raises(RunError, match="differ in all their languages"):
        phase_divergence(prompt, generation)
