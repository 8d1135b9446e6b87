"""All pairs of languages: equal to a double loop, whatever the parts, the threads and the order."""

from __future__ import annotations

import importlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from run_examples import drawn_manifest

from isogloss.analysis import analyze_curves, divergence, pairs, pairwise_divergence, threads
from isogloss.errors import LanguageError, RunError
from isogloss.languages import FLORES_200
from isogloss.routing import RouterSpec, entropy
from isogloss.runs import LanguageRouting, Run, RunWriter
from isogloss.statistics import Resampling

Array = npt.NDArray[Any]

LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn", "tel_Telu", "zho_Hans")
LAYERS = (1, 2, 3, 5, 8, 9)
CORE = importlib.import_module("isogloss.analysis.divergence")  # the package gives the function of that name
FEW = Resampling(n_resamples=20)


def drawn_run(folder: Path, languages: tuple[str, ...], shape: tuple[int, int, int], *, pooled: bool = False) -> Run:
    """A Run of drawn profiles and selections, some shares exactly zero."""
    n_items, n_layers, n_experts = shape
    routers = (RouterSpec(layer, n_experts, 1) for layer in LAYERS[:n_layers])
    manifest = drawn_manifest(routers, n_items, granularity="pooled" if pooled else "items")
    writer, generator = RunWriter(folder, manifest), np.random.default_rng(5)
    for language in languages:
        counts = generator.multinomial(30, generator.dirichlet(np.ones(n_experts)), size=(n_items, n_layers))
        profiles = (counts / 30).astype(np.float32)
        routing = LanguageRouting(
            profiles=profiles,
            selections=generator.permuted(counts, axis=-1).astype(np.int32),
            tokens=np.full(n_items, 30, dtype=np.int32),
            consistency=np.full((n_items, n_layers), 0.25, dtype=np.float32),
            entropy=entropy(profiles),
        )
        writer.write(language, routing, "0" * 64)
    return writer.finish()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five languages, seven items, six routed layers of nine experts."""
    return drawn_run(tmp_path_factory.mktemp("runs") / "five", LANGUAGES, (7, 6, 9))


def shares(run: Run, language: str, quantity: str) -> Array:
    """Distributions of a language, in double precision."""
    routing = run.load(language)
    chosen = np.asarray(routing.profiles if quantity == "profile" else routing.selections, dtype=np.float64)
    return chosen / chosen.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("quantity", ["profile", "selection"])
def test_pairs_equal_a_double_loop(run: Run, quantity: Any):
    """By items: divergence first, mean after; by means: mean first, divergence after; the two differ."""
    by_items = pairwise_divergence(run, by="items", quantity=quantity)
    by_means = pairwise_divergence(run, by="means", quantity=quantity)
    for row, one in enumerate(LANGUAGES):
        for column, other in enumerate(LANGUAGES):
            p, q = shares(run, one, quantity), shares(run, other, quantity)
            np.testing.assert_allclose(by_items.values[:, row, column], divergence(p, q).mean(axis=0), atol=1e-12)
            means = divergence(p.mean(axis=0), q.mean(axis=0))
            np.testing.assert_allclose(by_means.values[:, row, column], means, atol=1e-12)
    off = ~np.eye(len(LANGUAGES), dtype=bool)
    assert (abs(by_means.values[:, off] - by_items.values[:, off]) > 1e-4).all()
    assert (by_items.by, by_means.by, by_items.n_items, by_items.quantity) == ("items", "means", 7, quantity)


@pytest.mark.parametrize("by", ["items", "means"])
def test_matrices_are_symmetric_with_zeros_and_follow_the_order(run: Run, by: Any):
    """Bit for bit: symmetric, zero on the diagonal, and permuted with the languages."""
    found, order = pairwise_divergence(run, by=by), [3, 0, 4, 2, 1]
    assert (found.values == found.values.transpose(0, 2, 1)).all()
    assert (found.values[:, range(5), range(5)] == 0).all()
    other = pairwise_divergence(run, by=by, languages=[LANGUAGES[place] for place in order])
    assert other.languages == tuple(LANGUAGES[place] for place in order)
    assert (other.values == found.values[:, order][:, :, order]).all()


@pytest.mark.parametrize("by", ["items", "means"])
@pytest.mark.parametrize(
    ("module", "name", "size"),
    [
        (pairs, "HELD", 1),  # one item at a time
        (pairs, "HELD", 3 * 8 * 6 * 9),  # three of the seven items, and four where all languages are held
        (pairs, "TILE", 1),
        (pairs, "TILE", 3 * 6 * 9),
        (CORE, "BLOCK", 1),
        (threads, "MAX_THREADS", 1),
    ],
)
def test_parts_and_threads_change_no_bit(
    run: Run, by: Any, module: Any, name: str, size: int, monkeypatch: pytest.MonkeyPatch
):
    """However many items, cells and threads at a time: the same bits."""
    before = pairwise_divergence(run, by=by).values
    monkeypatch.setattr(module, name, size)
    assert (pairwise_divergence(run, by=by).values == before).all()


def test_a_row_of_pairs_is_the_divergence_from_that_pivot(run: Run):
    """Both ways to the same number agree."""
    matrix = pairwise_divergence(run, by="items").values
    for language, curve in analyze_curves(run, resampling=FEW).divergence.items():
        column = matrix[:, 1, LANGUAGES.index(language)]
        np.testing.assert_allclose([point.value for point in curve], column, atol=1e-12)


def test_a_band_is_the_mean_of_its_routed_layers(run: Run):
    """Ends are decoder layers and count; dense layers between do not; a band without routed layers is refused."""
    found = pairwise_divergence(run)
    np.testing.assert_array_equal(found.band(3, 8), found.values[[2, 3, 4]].mean(axis=0))
    np.testing.assert_array_equal(found.band(4, 7), found.values[3])
    with pytest.raises(RunError, match=r"no routed layer lies in 6-7; this run has layers 1-9"):
        found.band(6, 7)


@pytest.mark.parametrize("by", ["items", "means"])
def test_chosen_layers_are_those_of_the_whole(run: Run, by: Any):
    """A range of layers gives the same matrices, named by decoder layer."""
    whole, part = pairwise_divergence(run, by=by), pairwise_divergence(run, by=by, layers=(2, 5))
    assert part.layers == (2, 3, 5)
    assert (part.values == whole.values[1:4]).all()
    with pytest.raises(RunError, match="no routed layer lies in 6-7"):
        pairwise_divergence(run, by=by, layers=(6, 7))


def test_json_holds_every_matrix(run: Run):
    """Strict JSON with the matrices by layer."""
    found = pairwise_divergence(run, layers=(1, 2))
    raw = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert raw.keys() == {"languages", "layers", "values", "by", "quantity", "n_items"}
    assert (np.array(raw["values"]) == found.values).all()
    assert raw["languages"] == list(LANGUAGES)


def test_pooled_runs_have_means_only(tmp_path: Path):
    """The divergence of pooled selections; per item it is refused by name."""
    pooled = drawn_run(tmp_path / "pooled", LANGUAGES[:3], (1, 6, 9), pooled=True)
    found = pairwise_divergence(pooled)
    assert (found.quantity, found.n_items) == ("selection", 1)
    expected = divergence(*(shares(pooled, language, "selection")[0] for language in LANGUAGES[:2]))
    np.testing.assert_allclose(found.values[:, 0, 1], expected, atol=1e-12)
    with pytest.raises(RunError, match="pairwise divergence by items needs one record per item"):
        pairwise_divergence(pooled, by="items")


@pytest.mark.parametrize("languages", [["eng_Latn"], [], ["eng_Latn", "eng_Latn"]])
def test_fewer_than_two_languages_or_one_twice_are_refused(run: Run, languages: list[str]):
    """A matrix needs two different languages."""
    with pytest.raises(LanguageError, match="at least two, none twice"):
        pairwise_divergence(run, languages=languages)


def test_an_absent_language_and_an_unknown_way_are_refused(run: Run):
    """The message lists what there is."""
    with pytest.raises(LanguageError, match="fra_Latn not in this run; it holds deu_Latn"):
        pairwise_divergence(run, languages=["eng_Latn", "fra_Latn"])
    with pytest.raises(ValueError, match="expected 'items' or 'means'"):
        pairwise_divergence(run, by="texts")  # type: ignore[arg-type]


def test_an_item_without_tokens_is_named(run: Run, monkeypatch: pytest.MonkeyPatch):
    """A distribution that sums to zero is an error that names the language."""
    monkeypatch.setattr(run, "load_items", lambda *_: np.zeros((7, 6, 9), dtype=np.int32))
    with pytest.raises(RunError, match=r"selections of deu_Latn.*without counted tokens"):
        CORE.read_distributions(run, "deu_Latn", "selection")


def test_a_damaged_file_is_refused(tmp_path: Path):
    """Reading in parts verifies the file as reading it whole does."""
    run = drawn_run(tmp_path / "damaged", LANGUAGES[:3], (4, 6, 9))
    path = tmp_path / "damaged" / "swh_Latn.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    for call in (pairwise_divergence, analyze_curves):
        with pytest.raises(RunError, match="damaged"):
            call(run)


@pytest.mark.parametrize("by", ["items", "means"])
def test_memory_is_bounded(by: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All languages at once would take 15 MB in double precision; read in parts it stays below 5."""
    languages = tuple(sorted(FLORES_200))[:40]
    run = drawn_run(tmp_path / "many", languages, (128, 6, 64))
    monkeypatch.setattr(pairs, "HELD", 1 << 17)
    monkeypatch.setattr(CORE, "BLOCK", 1 << 12)
    pairwise_divergence(run, by=by, languages=languages[:2])  # what is imported on the way is not counted
    tracemalloc.start()
    try:
        pairwise_divergence(run, by=by)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(languages) * 128 * 6 * 64 * 8 > 15e6
    assert peak < 5e6


def test_several_pivots_give_the_mean_over_them(run: Run):
    """Per item, by hand; the pivots have no curve, and shuffled pairing is averaged alike."""
    chosen = ("eng_Latn", "zho_Hans")
    found = analyze_curves(run, pivot=chosen, resampling=FEW)
    assert found.divergence.keys() == {"deu_Latn", "swh_Latn", "tel_Telu"} == found.divergence_ceiling.keys()
    for language, curve in found.divergence.items():
        own = shares(run, language, "profile")
        by_hand = np.mean([divergence(shares(run, pivot, "profile"), own) for pivot in chosen], axis=0).mean(axis=0)
        np.testing.assert_allclose([point.value for point in curve], by_hand, atol=1e-12)
        assert all(point.low < point.value < point.high for point in curve)
    raw = found.to_json()
    assert (raw["pivot"], raw["pivots"]) == ("eng_Latn,zho_Hans", ["eng_Latn", "zho_Hans"])
    alone = [analyze_curves(run, pivot=pivot, resampling=FEW) for pivot in chosen]
    for place, point in enumerate(found.shuffled["deu_Latn"]):
        assert point.value == pytest.approx(np.mean([one.shuffled["deu_Latn"][place].value for one in alone]))


def test_a_set_of_one_pivot_is_that_pivot(run: Run):
    """The same numbers, bit for bit, and the same JSON."""
    one, several = (analyze_curves(run, pivot=pivot, resampling=FEW).to_json() for pivot in ("swh_Latn", ["swh_Latn"]))
    assert one == several


@pytest.mark.parametrize("pivots", [[], ["eng_Latn", "eng_Latn"]])
def test_no_pivot_or_one_twice_is_refused(run: Run, pivots: list[str]):
    """A set has at least one pivot and none twice."""
    with pytest.raises(LanguageError, match="at least one, none twice"):
        analyze_curves(run, pivot=pivots)


def test_shuffled_pairing_compares_each_item_with_its_partner(run: Run):
    """Item i of the language against item partners[i] of the pivot, by hand."""
    partners = CORE.shuffled_partners(7, 3)
    p, q = shares(run, "eng_Latn", "profile"), shares(run, "deu_Latn", "profile")
    found = CORE.shuffled_from_pivots([CORE.as_distributions(p)], CORE.as_distributions(q), partners)
    np.testing.assert_array_equal(found, divergence(p[partners], q))


def test_one_thread_gives_the_same_analysis(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Threads share the work and change no bit."""
    before = analyze_curves(run, resampling=FEW).to_json()
    monkeypatch.setattr(threads, "MAX_THREADS", 1)
    assert analyze_curves(run, resampling=FEW).to_json() == before
