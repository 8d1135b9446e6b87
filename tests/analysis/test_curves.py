"""The analysis of whole Runs: simulated ones with a known truth, pooled ones, and the published counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_examples import drawn_manifest

from isogloss.analysis import (
    DeltaRule,
    ShareRule,
    analyze_curves,
    experts_among_languages,
    language_experts,
    task_experts,
)
from isogloss.errors import LanguageError, RunError
from isogloss.routing import RouterSpec, entropy
from isogloss.runs import LanguageRouting, Manifest, Run, RunWriter, import_counts_json
from isogloss.statistics import Resampling

LAYERS = tuple(range(2, 14))
N_ITEMS, N_EXPERTS, TOP_K = 20, 8, 2
FAST = Resampling(n_resamples=200, n_permutations=20)
CURVE = np.repeat([0.6, 0.1, 0.5], [3, 6, 3])
RUN_FIELDS = {"n_layers", "n_experts", "pivot", "middle_layers", "divergence", "entropy", "consistency", "granularity"}


def routing_of(profiles: np.ndarray[Any, Any], seed: int) -> LanguageRouting:
    """Selections and the rest to profiles [items, layers, experts]: systematic samples of top_k x tokens choices."""
    tokens = np.random.default_rng(seed).integers(20, 40, size=len(profiles)).astype(np.int32)
    edges = np.cumsum(profiles, axis=-1) * (TOP_K * tokens[:, None, None])
    selections = np.diff(np.rint(edges), axis=-1, prepend=0)
    return LanguageRouting(
        profiles=profiles.astype(np.float32),
        selections=selections.astype(np.int32),
        tokens=tokens,
        consistency=np.full(profiles.shape[:2], 0.25, dtype=np.float32),
        entropy=entropy(profiles).astype(np.float32),
    )


def simulate(
    path: Path,
    curve: np.ndarray[Any, Any],
    *,
    corpus: str = "simulated",
    n_items: int = N_ITEMS,
    of_telugu: np.ndarray[Any, Any] | None = None,
) -> Run:
    """A Run where other languages move from the pivot's own distribution to another one by ``curve`` per layer."""
    routers = (RouterSpec(layer, N_EXPERTS, TOP_K) for layer in LAYERS)
    manifest = drawn_manifest(routers, n_items, corpus={"name": corpus, "source": "drawn", "licence": "none"})
    generator, writer = np.random.default_rng(0), RunWriter(path, manifest)
    own = 0.5 * generator.dirichlet(np.full(N_EXPERTS, 20.0), size=(n_items, len(LAYERS))) + 0.5 / N_EXPERTS
    # Every other language moves towards the last three experts, which the pivot uses no more than others.
    away = np.array([0, 0, 0, 0, 0, 0.3, 0.3, 0.4])
    for place, language in enumerate(("deu_Latn", "eng_Latn", "swh_Latn", "tel_Telu")):
        own_curve = of_telugu if of_telugu is not None and language == "tel_Telu" else curve
        pull = 0 * curve if language == "eng_Latn" else own_curve * (1 - 0.1 * place)
        moved = (1 - pull)[:, None] * own + pull[:, None] * away
        moved *= generator.uniform(0.95, 1.05, size=moved.shape) if language != "eng_Latn" else 1.0
        writer.write(language, routing_of(moved / moved.sum(axis=-1, keepdims=True), place), "0" * 64)
    return writer.finish()


@pytest.fixture(scope="session")
def u_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Routed layers 2-13; the middle, 5-10, is close to the pivot."""
    return simulate(tmp_path_factory.mktemp("runs") / "u", CURVE)


@pytest.fixture(scope="session")
def counts(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Published counts of Qwen3-30B-A3B on MGSM prompts, imported."""
    folder = shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm"
    return import_counts_json(folder, tmp_path_factory.mktemp("runs") / "counts", model="Qwen/Qwen3-30B-A3B")


def test_planted_middle_layers_are_found_as_decoder_layers(u_run: Run):
    """The planted U is found, with its edges in the decoder stack, although layers 0 and 1 are dense."""
    found = analyze_curves(u_run, resampling=FAST)
    assert found.middle_layers is not None
    assert (found.middle_layers.start, found.middle_layers.end) == (5, 10)
    assert found.middle_layers.is_u_shape
    assert found.middle_layers.depth.low > 0
    assert found.middle_layers.depth.n == N_ITEMS
    assert found.refused == {}


def test_every_language_has_its_own_middle(u_run: Run):
    """The planted edges in every curve, with intervals, and the depth of that curve."""
    found = analyze_curves(u_run, resampling=FAST)
    assert found.middle_by_language.keys() == found.divergence.keys()
    for language, middle in found.middle_by_language.items():
        values = [point.value for point in found.divergence[language]]
        assert middle.depth.value == pytest.approx(np.mean(values[:3] + values[9:]) - np.mean(values[3:9]))
        assert (middle.start, middle.end, middle.start_interval, middle.end_interval) == (5, 10, (5, 5), (10, 10))
        assert middle.is_u_shape
        assert middle.depth.n == N_ITEMS
    raw = found.to_json()["middle_by_language"]
    edges = {"start", "end", "start_interval", "end_interval"}
    assert raw["deu_Latn"].keys() == {*edges, "is_u_shape", "depth", "p_value", "rise"}


def test_languages_with_other_edges_keep_them(tmp_path: Path):
    """A language whose middle is shorter than that of the others is found with its own edges."""
    shorter = np.repeat([0.6, 0.1, 0.5], [5, 3, 4])
    found = analyze_curves(simulate(tmp_path / "mixed", CURVE, of_telugu=shorter), resampling=FAST)
    edges = {language: (middle.start, middle.end) for language, middle in found.middle_by_language.items()}
    assert edges == {"deu_Latn": (5, 10), "swh_Latn": (5, 10), "tel_Telu": (7, 9)}


def test_a_hump_is_said_not_to_be_a_u(tmp_path: Path):
    """Divergence that is highest in the middle gives a middle, a negative depth and a plain no."""
    raw = analyze_curves(simulate(tmp_path / "hump", 0.7 - CURVE), resampling=FAST).to_json()
    assert raw["middle_layers"]["start"] == 5
    assert raw["u_shape"]["is_u_shape"] is False
    assert raw["u_shape"]["depth"]["high"] < 0


def test_analysis_is_strict_json_with_the_documented_fields(u_run: Run):
    """Fields that others rely on; every curve has one point per routed layer, named by decoder layer."""
    raw = analyze_curves(u_run, resampling=FAST).to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert raw.keys() >= RUN_FIELDS
    assert (raw["n_layers"], raw["n_experts"], raw["pivot"], raw["granularity"]) == (12, 8, "eng_Latn", "items")
    assert raw["middle_layers"].keys() >= {"start", "end", "start_interval", "end_interval"}
    assert raw["divergence"].keys() == {"deu_Latn", "swh_Latn", "tel_Telu"}
    assert raw["entropy"].keys() == raw["consistency"].keys() == raw["shuffled"].keys() == set(u_run.languages)
    for curve in (*raw["divergence"].values(), *raw["entropy"].values(), *raw["consistency"].values()):
        assert [point["layer"] for point in curve] == list(LAYERS)
        assert all(point.keys() == {"layer", "value", "low", "high", "n"} for point in curve)


def test_shuffled_items_diverge_more_than_translations(u_run: Run):
    """Items of the pivot differ among themselves, so that shuffled pairing lies above the middle's divergence."""
    found = analyze_curves(u_run, resampling=FAST)
    for language, curve in found.divergence.items():
        middle = slice(3, 9)
        assert np.mean([point.value for point in curve[middle]]) < np.mean(
            [point.value for point in found.shuffled[language][middle]]
        )
    assert all(point.value > 0 for point in found.shuffled["eng_Latn"])


def test_another_pivot_gives_the_same_divergence_of_the_pair(u_run: Run):
    """Divergence is symmetric also through a whole analysis."""
    forth, back = analyze_curves(u_run, resampling=FAST), analyze_curves(u_run, pivot="swh_Latn", resampling=FAST)
    assert forth.divergence["swh_Latn"] == back.divergence["eng_Latn"]
    assert back.divergence.keys() == {"deu_Latn", "eng_Latn", "tel_Telu"}


def test_selections_can_be_compared_instead_of_profiles(u_run: Run):
    """The result says which distribution was compared."""
    raw = analyze_curves(u_run, quantity="selection", resampling=FAST).to_json()
    assert raw["quantity"] == "selection"
    assert raw["divergence"] != analyze_curves(u_run, resampling=FAST).to_json()["divergence"]


def test_accuracies_are_correlated_with_divergence(counts: Run):
    """Accuracies that fall with divergence in a layer correlate by -1 there; n languages is said."""
    divergence = analyze_curves(counts).divergence
    accuracy = {language: 1 - curve[20].value for language, curve in divergence.items()}
    raw = analyze_curves(counts, accuracy=accuracy).to_json()
    assert raw["correlation"][20]["layer"] == 20
    assert raw["correlation"][20]["pearson"]["value"] == pytest.approx(-1)
    assert raw["correlation"][0]["pearson"]["n"] == 7


def test_unknown_or_lonely_pivot_is_refused(u_run: Run, tmp_path: Path):
    """The message lists the languages there are, or asks for another one."""
    with pytest.raises(LanguageError, match="pivot fra_Latn is not in this run; it holds deu_Latn"):
        analyze_curves(u_run, pivot="fra_Latn")
    writer = RunWriter(tmp_path / "lonely", u_run.manifest)
    writer.copy(u_run, "eng_Latn")
    with pytest.raises(LanguageError, match="holds only the pivot"):
        analyze_curves(writer.finish())


def test_one_item_gives_values_and_names_what_it_cannot_give(tmp_path: Path):
    """A single item has no intervals and no partner, and the rest is still there."""
    found = analyze_curves(simulate(tmp_path / "single", CURVE, n_items=1), resampling=FAST)
    assert found.refused.keys() == {"shuffled", "intervals"}
    assert found.to_json()["divergence"]["deu_Latn"][0]["low"] is None
    assert found.middle_layers is not None


def test_a_run_with_few_layers_keeps_everything_but_the_middle(u_run: Run, tmp_path: Path):
    """Three routed layers have no middle of their own; the reason is named and the curves are there."""
    manifest = Manifest(
        **{**vars(u_run.manifest), "routers": u_run.manifest.routers[:3], "languages": {}, "status": "partial"}
    )
    writer = RunWriter(tmp_path / "short", manifest)
    for language in u_run.languages:
        whole = u_run.load(language)
        cut = {name: whole.arrays()[name][:, :3] for name in ("profiles", "selections", "consistency", "entropy")}
        writer.write(language, LanguageRouting(tokens=whole.tokens, **cut), "0" * 64)
    raw = analyze_curves(writer.finish(), resampling=FAST).to_json()
    assert raw["middle_layers"] is None
    assert raw["middle_by_language"] == {}
    assert "3 segments of at least 2" in raw["refused"]["middle_layers"]
    assert len(raw["divergence"]["deu_Latn"]) == 3


def test_language_experts_are_those_that_the_language_moves_to(u_run: Run):
    """In the outer layers the last three experts, by parallel items; never the pivot against itself."""
    table = language_experts(u_run, "deu_Latn", pivot="eng_Latn", rule=DeltaRule(0.15), resampling=FAST)
    assert {row.expert for row in table.experts} == {5, 6, 7}
    assert {row.layer for row in table.experts} == {2, 3, 4, 11, 12, 13}
    assert table.parameters["paired"] is True
    assert (table.parameters["language"], table.parameters["pivot"]) == ("deu_Latn", "eng_Latn")
    assert all(row.low > 0 for row in table.experts)
    with pytest.raises(LanguageError, match="both are eng_Latn"):
        language_experts(u_run, "eng_Latn", pivot="eng_Latn", rule=DeltaRule(0.2))
    with pytest.raises(LanguageError, match="fra_Latn not in this run"):
        language_experts(u_run, "fra_Latn", pivot="eng_Latn", rule=DeltaRule(0.2))


def test_task_experts_compare_two_runs_of_one_model(u_run: Run, tmp_path: Path):
    """Other items in the base; the table names both corpora, and another router is refused."""
    base = simulate(tmp_path / "base", 0 * CURVE, corpus="generic", n_items=30)
    table = task_experts(u_run, base, language="deu_Latn", rule=DeltaRule(0.15, layers=(2, 4)), resampling=FAST)
    assert {row.expert for row in table.experts} == {5, 6, 7}
    assert {row.layer for row in table.experts} == {2, 3, 4}
    assert (table.parameters["corpus"], table.parameters["base"]) == ("simulated", "generic")
    assert (table.parameters["n_items"], table.parameters["n_base_items"]) == (20, 30)
    sigmoid = tuple(RouterSpec(layer, N_EXPERTS, TOP_K, scoring="sigmoid") for layer in LAYERS)
    other = Run(base.path, Manifest(**{**vars(base.manifest), "routers": sigmoid}))
    with pytest.raises(RunError, match=r"different models.* routers \(value 1"):
        task_experts(u_run, other, language="deu_Latn", rule=DeltaRule(0.2))


def test_shares_of_a_run_have_intervals_and_a_chance_count(u_run: Run):
    """With items, every expert has an interval around its statistic."""
    rule = ShareRule("exclusive", ("eng_Latn", "deu_Latn"), ("deu_Latn",), top=4, threshold=0.9, layers=(2, 4))
    table = experts_among_languages(u_run, rule, resampling=FAST)
    assert {row.expert for row in table.experts} <= {5, 6, 7}
    assert table.n > 0
    assert all(row.low <= row.statistic <= row.high for row in table.experts)
    assert table.expected_by_chance is not None
    with pytest.raises(LanguageError, match="fra_Latn not in this run"):
        experts_among_languages(u_run, ShareRule("common", ("eng_Latn", "fra_Latn")))


def test_published_counts_show_a_u_for_every_language(counts: Run):
    """Qwen3-30B-A3B: the middle layers are closer to English than both ends, whichever distribution is compared."""
    for quantity in ("selection", "profile"):
        found = analyze_curves(counts, quantity=quantity)  # type: ignore[arg-type]
        assert found.middle_layers is not None
        assert found.middle_layers.is_u_shape
        assert all(middle.is_u_shape for middle in found.middle_by_language.values())
        middle = slice(found.middle_layers.start, found.middle_layers.end + 1)
        for curve in found.divergence.values():
            values = np.array([point.value for point in curve])
            inside = values[middle].mean()
            assert inside < min(values[: middle.start].mean(), values[middle.stop :].mean())


def test_pooled_runs_say_what_they_refuse(counts: Run):
    """No intervals, no consistency, no shuffled pairing, no delta rule: each refused by name; the rest is there."""
    raw = analyze_curves(counts).to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert (raw["granularity"], raw["quantity"], raw["consistency"]) == ("pooled", "selection", {})
    assert raw["refused"].keys() == {"consistency", "shuffled", "intervals"}
    assert raw["middle_layers"]["start_interval"] is None
    point = raw["divergence"]["swh_Latn"][0]
    assert (point["low"], point["high"], point["n"]) == (None, None, 1)
    with pytest.raises(RunError, match=r"delta rule .* needs one record per item"):
        language_experts(counts, "swh_Latn", pivot="eng_Latn", rule=DeltaRule(0.3))


def test_published_counts_have_420_common_experts(counts: Run):
    """Paper B's setting, through the import: English and Chinese, top 20, threshold 0.7, layers 10-39."""
    rule = ShareRule("common", ("eng_Latn", "zho_Hans"), top=20, threshold=0.7, layers=(10, 39))
    raw = experts_among_languages(counts, rule).to_json()
    assert raw["n"] == 420
    assert all(10 <= row["layer"] <= 39 and row["low"] is None for row in raw["experts"])
    assert raw["expected_by_chance"] is None
