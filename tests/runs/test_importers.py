"""Published counts become a pooled Run that says what its numbers are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from written import contents

from isogloss.errors import RunError
from isogloss.runs import import_counts_json, merge, open_run

PUBLISHED = "routing/conctsai_qwen3-30b-a3b_mgsm"


def layer(counts, *, tokens=10, weights=True):
    """One layer's record: expert -> count, weights in proportion to counts and summing to the tokens."""
    total = sum(counts.values())
    record = {str(expert): {"activation_tokens": count} for expert, count in counts.items()}
    if weights:
        for expert, count in counts.items():
            record[str(expert)]["gate_values_sum"] = tokens * count / total
    return {**record, "total_tokens": tokens}


def example(**options):
    """Two layers of five experts, top 2, ten tokens; expert 3 has no entry."""
    return {"0": layer({0: 10, 1: 4, 2: 3, 4: 3}, **options), "2": layer({0: 2, 1: 8, 2: 5, 4: 5}, **options)}


def write_counts(folder: Path, **files) -> Path:
    """Write one JSON file per keyword."""
    folder.mkdir(exist_ok=True)
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_imports_counts_exactly(tmp_path):
    """Selections are the published counts; an expert without entry counts 0; layers keep their numbers."""
    run = import_counts_json(write_counts(tmp_path / "counts", mgsm_en=example()), tmp_path / "run")
    assert run.manifest.granularity == "pooled"
    assert run.manifest.status == "complete"
    assert run.manifest.model == "unknown"
    assert [(r.layer, r.n_experts, r.top_k, r.renormalise) for r in run.manifest.routers] == [
        (0, 5, 2, True),
        (2, 5, 2, True),
    ]
    routing = run.load("en")
    np.testing.assert_array_equal(routing.selections, [[[10, 4, 3, 0, 3], [2, 8, 5, 0, 5]]])
    np.testing.assert_array_equal(routing.tokens, [10])
    np.testing.assert_allclose(routing.profiles[0, 0], np.array([10, 4, 3, 0, 3]) / 20, rtol=1e-6)
    assert np.isnan(routing.consistency).all()
    assert np.isnan(routing.entropy).all()


def test_profiles_come_from_the_weights(tmp_path):
    """Profiles are summed gate values normalised per layer, which the notes say, not the counts."""
    record = example()
    record["0"]["0"]["gate_values_sum"] = 0.0
    run = import_counts_json(write_counts(tmp_path / "counts", en=record), tmp_path / "run")
    profile = run.load("en").profiles[0, 0]
    np.testing.assert_allclose(profile, [0, 0.4, 0.3, 0, 0.3], rtol=1e-6)
    assert "profiles are mean combine weights over the chosen experts, not the softmax over all experts" in (
        run.manifest.notes
    )


def test_without_weights_profiles_are_counts(tmp_path):
    """Where no weights were published, normalised counts stand in, without NaN, and the notes say so."""
    run = import_counts_json(write_counts(tmp_path / "counts", en=example(weights=False)), tmp_path / "run")
    np.testing.assert_allclose(run.load("en").profiles[0, 1], np.array([2, 8, 5, 0, 5]) / 20, rtol=1e-6)
    assert any(note.startswith("profiles are selection counts") for note in run.manifest.notes)
    assert run.manifest.backend == "counts-json-without-weights"


def test_more_experts_than_have_entries(tmp_path):
    """The number of experts can be given where the last ones were never chosen."""
    folder = write_counts(tmp_path / "counts", en=example())
    assert import_counts_json(folder, tmp_path / "run", n_experts=8).load("en").selections.shape == (1, 2, 8)
    for n_experts in (0, 4):
        with pytest.raises(RunError, match="has expert 4; expected below"):
            import_counts_json(folder, tmp_path / "refused", n_experts=n_experts)


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("en", "eng_Latn"),
        ("mgsm_sw", "swh_Latn"),
        ("mgsm_zho_Hant", "zho_Hant"),
        ("mgsm-zh-Hant", "zho_Hant"),
        ("run.deu_Latn", "deu_Latn"),
        ("test_Bengali", "ben_Beng"),
        ("fr_counts", "fra_Latn"),
        ("Thai", "tha_Thai"),
    ],
)
def test_reads_languages_off_file_names(tmp_path, name, language):
    """Codes and English names are found at the end or the beginning of a file's name."""
    run = import_counts_json(write_counts(tmp_path / "counts", **{name: example()}), tmp_path / "run")
    assert run.languages == (language,)


def test_reports_a_small_mismatch(tmp_path):
    """Counts off by up to 0.1 % are kept as published, and the notes tell by how much and where."""
    record = {"0": layer({0: 2000, 1: 2000}, tokens=2000), "1": layer({0: 2000, 1: 1998}, tokens=2000)}
    run = import_counts_json(write_counts(tmp_path / "counts", en=record), tmp_path / "run")
    np.testing.assert_array_equal(run.load("en").selections[0, 1], [2000, 1998])
    expected = "eng_Latn: Σ activation_tokens differs from top_k x total_tokens by up to 0.0500% (layer 1)"
    assert any(note.startswith(expected) for note in run.manifest.notes)


def altered(*keys, value):
    """The example with one value replaced."""
    record = example()
    target = record
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"expected an object with one entry per layer"),
        ([], r"expected an object with one entry per layer"),
        ({"0": {}}, r"layer 0: expected an object with experts and total_tokens"),
        ({"0": {"total_tokens": 3}}, r"layer 0: 3 tokens and 0 experts"),
        (altered("first", value={}), r"layer 'first'; expected an integer|layer first: expected"),
        (altered("0", "x", value={"activation_tokens": 0}), r"layer 0: expert 'x'; expected an integer"),
        (altered("0", "01", value={"activation_tokens": 0}), r"expert '01'; expected an integer"),
        (altered("0", "0", value=3), r"layer 0, expert 0: expected an object with activation_tokens"),
        (altered("0", "0", "activation_tokens", value=10.0), r"activation_tokens is 10.0; expected a whole number"),
        (altered("0", "0", "activation_tokens", value=True), r"activation_tokens is True"),
        (altered("0", "0", "activation_tokens", value=-1), r"activation_tokens is -1"),
        (altered("0", "0", "activation_tokens", value=2**31), r"activation_tokens is 2147483648; .* to 2147483647"),
        (altered("0", "0", "activation_tokens", value=12), r"layer 0: Σ activation_tokens is 22, not a multiple"),
        (altered("0", "0", value={"activation_tokens": 10}), r"only some experts have gate_values_sum"),
        (altered("0", "0", "gate_values_sum", value="1"), r"gate_values_sum is '1'"),
        (altered("0", "0", "gate_values_sum", value=-0.5), r"gate_values_sum is -0.5"),
        (altered("0", "0", "gate_values_sum", value=float("nan")), r"is not valid JSON \(NaN is not allowed\)"),
        (altered("0", "total_tokens", value=0), r"0 tokens and"),
        (altered("0", "total_tokens", value=20), r"total_tokens differs between layers \(10 and 20\)"),
        ({"0": layer({0: 11, 1: 9})}, r"expert 0 was chosen by 11 of 10 tokens"),
        ({"0": layer({0: 1, 1: 1}, tokens=100)}, r"not a multiple of total_tokens \(100\)"),
        (
            {"0": {"0": {"activation_tokens": 5, "gate_values_sum": 0}, "total_tokens": 5}},
            r"no gate_values_sum above 0",
        ),
    ],
)
def test_refuses_malformed_counts(tmp_path, record, message):
    """The error names the file and the place, and no Run is begun."""
    folder = write_counts(tmp_path / "counts", mgsm_en=record)
    with pytest.raises(RunError, match=f"mgsm_en.json.*({message})"):
        import_counts_json(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "{", '{"0": 1, "0": 2}', "\xff"])
def test_refuses_what_is_no_json(tmp_path, text):
    """Cut off, ambiguous and badly encoded files are named."""
    folder = write_counts(tmp_path / "counts", mgsm_en={})
    (folder / "mgsm_en.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"mgsm_en.json: is not valid JSON"):
        import_counts_json(folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no .json file"),
        ({"summary": example()}, r"summary.json: no language in the file name"),
        ({"a_en": example(), "b_eng_Latn": example()}, r"a_en.json and .*b_eng_Latn.json are both eng_Latn"),
        ({"en": example(), "de": {"0": example()["0"]}}, r"differ in layers or experts per token"),
        ({"en": example(), "de": example(weights=False)}, r"en.json has gate_values_sum, .*de.json has none"),
    ],
)
def test_refuses_folders_that_are_no_set_of_languages(tmp_path, files, message):
    """A Run never depends on which stray files lie in a folder: each must be a language of one model."""
    with pytest.raises(RunError, match=message):
        import_counts_json(write_counts(tmp_path / "counts", **files), tmp_path / "run")


def test_refuses_a_missing_folder(tmp_path):
    """A folder that is not there is named."""
    with pytest.raises(RunError, match="nothing: no such folder"):
        import_counts_json(tmp_path / "nothing", tmp_path / "run")


def test_ignores_other_files(tmp_path):
    """Hidden files and other endings are no counts."""
    folder = write_counts(tmp_path / "counts", en=example())
    for name in ("LICENSE", "README.md", ".de.json"):
        (folder / name).write_text("-", encoding="utf-8")
    assert import_counts_json(folder, tmp_path / "run").languages == ("eng_Latn",)


def test_imported_parts_merge(tmp_path):
    """Languages imported apart merge to the Run of importing them together."""
    for path, names in (("x/counts", ["en"]), ("y/counts", ["de"]), ("z/counts", ["de", "en"])):
        (tmp_path / path).parent.mkdir()
        write_counts(tmp_path / path, **{name: example() for name in names})
        import_counts_json(tmp_path / path, tmp_path / path[0] / "run")
    merge([tmp_path / "x" / "run", tmp_path / "y" / "run"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "z" / "run")


def test_imports_the_published_counts(tmp_path, shared_data):
    """Qwen3-30B-A3B on MGSM: 48 layers, 128 experts, top 8, eight languages, every count exact."""
    run = import_counts_json(shared_data / PUBLISHED, tmp_path / "run", model="Qwen/Qwen3-30B-A3B")
    again = open_run(tmp_path / "run")
    assert again.manifest == run.manifest
    languages = ("ben_Beng", "deu_Latn", "eng_Latn", "fra_Latn", "jpn_Jpan", "spa_Latn", "swh_Latn", "zho_Hans")
    assert run.languages == languages
    assert run.manifest.shape == (1, 48, 128)
    assert {(router.top_k, router.renormalise) for router in run.manifest.routers} == {(8, True)}
    assert sum("differs from top_k x total_tokens by up to 0.0" in note for note in run.manifest.notes) == 8
    raw = json.loads((shared_data / PUBLISHED / "mgsm_sw.json").read_text(encoding="utf-8"))
    routing = run.load("sw")
    assert routing.tokens.tolist() == [29543]
    published = [[raw[str(i)][str(k)]["activation_tokens"] for k in range(128)] for i in range(48)]
    np.testing.assert_array_equal(routing.selections[0], published)
    np.testing.assert_allclose(routing.profiles.sum(axis=-1), 1, atol=1e-6)
