"""Two versions of a model, run one after the other: what is refused before, what differs, and what a stop leaves."""

from __future__ import annotations

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from fp8_checkpoints import fp8_folders, set_quantisation
from hub_cache import add_snapshot, hub_cache
from hub_server import serving
from models import ITEM_IDS, TEXTS, checkpoint, tokenizer
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save as save_numpy
from safetensors.torch import load_file, save_file

from isogloss.backends.huggingface import load_model
from isogloss.corpora import Corpus
from isogloss.errors import ModelError, RunError
from isogloss.organism.threads import torch_threads
from isogloss.organism.tokenizer import train_tokenizer
from isogloss.workflows import versions
from isogloss.workflows.versions import VersionSource, compare_models

FAMILY = "qwen3_moe"
CORPUS = Corpus(
    "tiny", {"eng_Latn": TEXTS[:4], "rus_Cyrl": (TEXTS[2], TEXTS[4], TEXTS[5], TEXTS[1])}, ITEM_IDS[:4], "none", "test"
)


def source(folder, **options):
    """A version on the processor."""
    return VersionSource(str(folder), device="cpu", **options)


def changed(folder, change, family=FAMILY):
    """A copy of the tiny checkpoint with other weights."""
    shutil.copytree(checkpoint(family), folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: change(name, each) for name, each in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """A version whose experts are rounded to 4 bits."""

    def to_four_bits(name, weight):
        if "experts" not in name:
            return weight
        step = weight.abs().amax(-1, keepdim=True) / 7
        return (weight / step).round() * step

    return changed(tmp_path_factory.mktemp("versions") / "rounded", to_four_bits)


@pytest.fixture
def refuse_to_load(monkeypatch):
    """Nothing may be loaded: what is refused is refused before."""

    def fail(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(versions, "load", fail)


def test_a_model_against_itself_differs_in_nothing():
    """Exactly 0 in every number and every interval, and when it reads a text twice."""
    result = compare_models(source(checkpoint(FAMILY)), source(checkpoint(FAMILY)), CORPUS)
    assert (result.first.repeated, result.second.repeated) == (0, 0)
    assert result.first.weights_sha256 == result.second.weights_sha256
    numbers = result.to_frame()[["value", "low", "high"]].to_numpy()
    assert (numbers == 0).all()
    assert result.unlike_others == ()
    assert result.overall.n_tokens == sum(each.n_tokens for each in result.languages.values())


def test_differences_are_those_of_single_texts(rounded):
    """An independent way to the same numbers: each text alone, all tokens, as `isogloss show` reads it."""
    result = compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, token_scope="all")
    one, other = (load_model(str(folder), device="cpu") for folder in (checkpoint(FAMILY), rounded))
    assert one.routers == other.routers
    top_k = one.routers[0].top_k
    for code, texts in CORPUS.texts.items():
        pairs = [(one.route_tokens(text), other.route_tokens(text)) for text in texts]
        own = np.array(
            [
                [
                    np.mean([1 - len({*a} & {*b}) / top_k for a, b in zip(*layer, strict=True)])
                    for layer in zip(before.expert_ids.tolist(), after.expert_ids.tolist(), strict=True)
                ]
                for before, after in pairs
            ]
        )
        found = [each.value for each in result.languages[code].layers["choices"]]
        assert max(found) > 0.01
        np.testing.assert_allclose(found, own.mean(0), atol=1e-12)
        first = np.mean([(a.expert_ids[..., 0] != b.expert_ids[..., 0]).mean(-1) for a, b in pairs], axis=0)
        np.testing.assert_allclose([each.value for each in result.languages[code].layers["first"]], first, atol=1e-12)


def test_next_tokens_are_those_of_the_model(rounded):
    """The likeliest token after each, and a divergence below that of whole distributions, near it."""
    result = compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, token_scope="all")
    one, other = (load_model(str(folder), device="cpu") for folder in (checkpoint(FAMILY), rounded))
    unlike, divergences = [], []
    for text in CORPUS.texts["eng_Latn"]:
        ids = torch.tensor([one.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            before, after = (model.model(input_ids=ids).logits[0].log_softmax(-1) for model in (one, other))
        unlike.append((before.argmax(-1) != after.argmax(-1)).double().mean().item())
        divergences.append((before.exp() * (before - after)).sum(-1).mean().item())
    means = result.languages["eng_Latn"].means
    assert means["next_token"].value == pytest.approx(np.mean(unlike), abs=1e-9)
    assert np.mean(unlike) > 0
    assert 0.3 * np.mean(divergences) < means["kl"].value <= np.mean(divergences)


def test_rounding_to_bfloat16_is_a_small_difference(rounded):
    """One checkpoint in two dtypes: something moves, and less than 4 bits move."""
    floor = compare_models(source(checkpoint(FAMILY)), source(checkpoint(FAMILY), dtype="bfloat16"), CORPUS)
    assert (floor.first.dtype, floor.second.dtype) == ("float32", "bfloat16")
    four_bits = compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS)
    sizes = [each.overall.means["choices"].value for each in (floor, four_bits)]
    assert 0 < sizes[0] < sizes[1]


@pytest.mark.parametrize("turn", [1, -1])
def test_versions_compute_on_as_many_threads(tmp_path, monkeypatch, turn):
    """The included model has a number of its own, which holds for what it is compared with, in either order."""
    copy = shutil.copytree(checkpoint(FAMILY), tmp_path / "copy")
    monkeypatch.setattr("isogloss.organism.model_folder", lambda: checkpoint(FAMILY))
    with torch_threads(2):
        sources = (VersionSource("organism", "float32", "cpu"), source(copy))[::turn]
        result = compare_models(*sources, CORPUS, out=tmp_path / "out")
        assert torch.get_num_threads() == 2
    assert (result.first.threads, result.second.threads) == (1, 1)
    assert result.overall.means["kl"].value == 0


def test_one_version_is_in_memory_at_a_time(monkeypatch):
    """The first is gone when the second is loaded."""
    alive, load = [], versions.load

    def watched(*arguments, **options):
        assert not [each for each in alive if each() is not None]
        model = load(*arguments, **options)
        model.model._old_forward = model.model.forward  # a circle, as accelerate's hooks make
        alive.append(weakref.ref(model.model))
        return model

    monkeypatch.setattr(versions, "load", watched)
    collector = gc.isenabled()
    gc.disable()  # what is freed is freed on purpose
    try:
        compare_models(source(checkpoint(FAMILY)), source(checkpoint(FAMILY)), CORPUS)
    finally:
        if collector:
            gc.enable()
    assert len(alive) == 2


def test_fp8_checkpoint_is_compared_as_its_weights(tmp_path):
    """A checkpoint with experts in 8-bit floats gives what its weights give, and says what it is."""
    packed, dense = fp8_folders(FAMILY, tmp_path)
    original = source(checkpoint(FAMILY))
    found, expected = (
        compare_models(original, source(folder, dtype="float32", dequantize=True), CORPUS) for folder in (packed, dense)
    )
    assert found.overall == expected.overall
    assert found.overall.means["choices"].value > 0
    assert found.second.quantisation == "fp8"
    assert found.second.dequantised
    assert not found.second.experts_unquantised
    assert {(each.part, each.dtype) for each in found.second.weights if each.stored} >= {("experts", "float8_e4m3fn")}
    assert {each.dtype for each in found.second.weights if each.held} == {"float32"}
    assert expected.second.quantisation is None


@pytest.mark.usefixtures("refuse_to_load")
def test_other_shapes_are_refused(tmp_path):
    """Another family, or other routers of one family: no versions of one model."""
    with pytest.raises(ModelError, match="no versions of one model: qwen3_moe and olmoe"):
        compare_models(source(checkpoint(FAMILY)), source(checkpoint("olmoe")), CORPUS)
    other = shutil.copytree(checkpoint(FAMILY), tmp_path / "other")
    settings = json.loads((other / "config.json").read_text(encoding="utf-8"))
    settings["num_experts_per_tok"] += 1
    (other / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=r"their routers differ in value 1: top_k: \d and \d; expected"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)


@pytest.mark.usefixtures("refuse_to_load")
def test_other_tokens_are_refused(tmp_path):
    """Another tokenizer is refused with the text that it reads otherwise."""
    other = shutil.copytree(checkpoint(FAMILY), tmp_path / "other")
    train_tokenizer(("another text, over and over",) * 9, vocab_size=300).save_pretrained(other)
    with pytest.raises(
        ModelError, match=r"eng_Latn \(corpus tiny\), item item-0, as other tokens: .*expected one token"
    ):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)


def test_a_tokenizer_with_more_tokens_that_no_text_uses_is_another_and_will_do(tmp_path, capsys):
    """As of a fine-tune for chats."""
    other = shutil.copytree(checkpoint(FAMILY), tmp_path / "other")
    mine = tokenizer().__class__.from_pretrained(other)
    mine.pad_token = mine.eos_token
    mine.save_pretrained(other)
    result = compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)
    assert result.overall.means["choices"].value == 0
    assert "the same tokens" in capsys.readouterr().err


@pytest.mark.usefixtures("refuse_to_load")
def test_missing_loader_is_refused_before_anything_runs(tmp_path):
    """By name, and with the way to install it."""
    other = shutil.copytree(checkpoint(FAMILY), tmp_path / "other")
    set_quantisation(other, {"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match=r"gptq, 4 bits.*pip install optimum"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)


@pytest.mark.usefixtures("refuse_to_load")
def test_a_quantisation_without_a_method_is_refused_before_anything_runs(tmp_path):
    """Of which transformers takes even an empty one for a quantised checkpoint."""
    other = edited(tmp_path / "other", quantization_config={})
    with pytest.raises(ModelError, match=r"quantised by None; transformers knows"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)


@pytest.mark.usefixtures("refuse_to_load")
@pytest.mark.parametrize("fetched", [False, True])
@pytest.mark.parametrize("stored", ["weight", "_weight_qdata", "qweight"])
def test_quantised_routers_are_refused_before_anything_runs(tmp_path, monkeypatch, stored, fetched):
    """Found in the headers of a folder, or of what the hub brought, under the names that methods give."""
    other = shutil.copytree(checkpoint(FAMILY), tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.gate.weight"))
    weights[name.removesuffix("weight") + stored] = weights.pop(name).to(torch.int8)
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    if fetched:
        add_snapshot(hub_cache(monkeypatch, tmp_path / "hub"), "me/other", other)
        other = "me/other"
    with pytest.raises(ModelError, match=rf"mlp\.gate\.{stored} is stored as I8, so the router is quantised"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)


@pytest.mark.usefixtures("refuse_to_load")
@pytest.mark.parametrize("damage", ["gone", "cut", "named in an index alone"])
def test_absent_or_damaged_weights_are_refused_before_anything_runs(tmp_path, damage):
    """Not after hours in which the first version has read all texts, and the folder stays free."""
    other = shutil.copytree(checkpoint(FAMILY), tmp_path / "other")
    weights = other / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        weights.unlink()
    if damage == "named in an index alone":
        index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
        (other / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    found = "holds neither" if damage == "gone" else "is no whole safetensors file"
    with pytest.raises(ModelError, match=rf"{found}.*fetch the checkpoint again"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def edited(folder, **settings):
    """A copy of the tiny checkpoint with other settings in its configuration."""
    shutil.copytree(checkpoint(FAMILY), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **settings}), encoding="utf-8")
    return folder


CONFIGURED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def published(folder, **others):
    """What a stand-in for the hub has: a folder's configuration and tokenizer, and other files."""
    files = {name: (folder / name).read_bytes() for name in CONFIGURED}
    return {"models/me/other": {**files, **others}}


@pytest.mark.usefixtures("refuse_to_load")
@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"num_hidden_layers": 3}, "their routers differ in"),
        ({"num_experts": 12, "num_local_experts": 12}, r"value 1: n_experts: \d+ and 12"),
        ({"num_experts_per_tok": 3}, r"value 1: top_k: \d and 3"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "qwen3"),
        ({"model_type": "none of ours"}, r"cannot load model 'me/other'"),
    ],
)
def test_a_model_of_the_hub_is_judged_by_its_configuration(tmp_path, monkeypatch, settings, refused):
    """Before the first is loaded, and no weight is fetched to know it."""
    files = published(edited(tmp_path / "other", **settings), **{"model.safetensors": b"not read"})
    with serving(monkeypatch, tmp_path, files) as hub:
        with pytest.raises(ModelError, match=refused) as caught:
            compare_models(source(checkpoint(FAMILY)), source("me/other"), CORPUS)
        assert "\n" not in str(caught.value)
        assert not [each for each in hub.requests if "safetensors" in each]


@pytest.mark.usefixtures("refuse_to_load")
@pytest.mark.parametrize("kept", ["none", "one of two"])
def test_weights_that_no_network_can_bring_are_refused_before_anything_runs(tmp_path, monkeypatch, kept):
    """Of a repository whose configuration this machine has kept."""
    copy = add_snapshot(hub_cache(monkeypatch, tmp_path / "hub"), "me/other", checkpoint(FAMILY), names=CONFIGURED)
    if kept == "one of two":
        files = {
            "lm_head.weight": "model-00001-of-00002.safetensors",
            "norm.weight": "model-00002-of-00002.safetensors",
        }
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}), encoding="utf-8")
        shutil.copy(checkpoint(FAMILY) / "model.safetensors", copy / files["norm.weight"])
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set, and this machine has not kept all of it; fetch it"):
        compare_models(source(checkpoint(FAMILY)), source("me/other"), CORPUS)


@pytest.mark.usefixtures("refuse_to_load")
def test_a_repository_without_weights_is_refused_before_anything_runs(tmp_path, monkeypatch):
    """Such as one of GGUF files; no weight is fetched to know it."""
    files = published(checkpoint(FAMILY), **{"other-Q4_K_M.gguf": b"GGUF", "README.md": b""})
    with serving(monkeypatch, tmp_path, files) as hub:
        with pytest.raises(
            ModelError, match=r"'me/other' holds no weights .* 5 files ends in \.safetensors or \.bin; expected"
        ):
            compare_models(source(checkpoint(FAMILY)), source("me/other"), CORPUS)
        assert not [each for each in hub.requests if "gguf" in each]


def test_weights_that_the_hub_brought_before_are_read_from_there(tmp_path, monkeypatch):
    """By the commit that is here; no network is asked."""
    add_snapshot(hub_cache(monkeypatch, tmp_path / "hub"), "me/other", checkpoint(FAMILY))
    result = compare_models(source(checkpoint(FAMILY)), source("me/other"), CORPUS)
    assert result.overall.means["choices"].value == 0


@pytest.mark.usefixtures("refuse_to_load")
def test_tokens_without_an_embedding_are_refused_before_anything_runs(tmp_path):
    """As the loader does, which is too late where another model runs before."""
    other = edited(tmp_path / "other", vocab_size=99)
    with pytest.raises(ModelError, match=r"tokens that the model has no embedding for .* has 99\)"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS)


def pickled(folder, *, sharded=False):
    """A version whose weights are pickles, one file or two."""
    shutil.copytree(checkpoint(FAMILY), folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if not sharded:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    files = {name: f"pytorch_model-0000{1 + (name == 'lm_head.weight')}-of-00002.bin" for name in weights}
    for file in {*files.values()}:
        torch.save({name: each for name, each in weights.items() if files[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_weights_of_pickles_are_compared(tmp_path):
    """Of which no header is read before."""
    result = compare_models(source(checkpoint(FAMILY)), source(pickled(tmp_path / "other")), CORPUS)
    assert result.overall.means["choices"].value == 0
    assert {each.stored for each in result.second.weights} == {None}


@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_that_were_changed_meanwhile_are_refused(tmp_path, monkeypatch, sharded):
    """The numbers of the old ones are not shown for those of the new ones; nothing is unpickled to know it."""
    other, out = pickled(tmp_path / "other", sharded=sharded), tmp_path / "out"
    expected = compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=out)
    monkeypatch.setattr(versions, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    assert compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=out) == expected
    changed_file = max(other.glob("*.bin"))
    content = changed_file.read_bytes()
    changed_file.write_bytes(content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:])
    with pytest.raises(RunError, match=r"other settings \(checkpoints"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=out)
    changed_file.unlink()
    with pytest.raises(ModelError, match="fetch the checkpoint again"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=out)


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(("at", "n_left"), [(1, 8), (3, 8), (4, 7), (5, 4), (7, 4), (8, 3)])
def test_a_stopped_comparison_goes_on(rounded, tmp_path, monkeypatch, at, n_left):
    """Killed in any reading, the next call reads what is missing, and ends with the same bytes.

    Each version reads its first texts twice, then two languages: eight readings.
    """
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, out=whole)
    load, readings = versions.load, []

    def watched(name, **options):
        model = load(name, **options)
        route_texts = model.route_texts

        def reading(*arguments, **named):
            readings.append(name)
            if len(readings) == at:
                raise KilledError
            return route_texts(*arguments, **named)

        model.route_texts = reading
        return model

    monkeypatch.setattr(versions, "load", watched)
    with pytest.raises(KilledError):
        compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, out=stopped)
    assert not (stopped / "comparison.json").exists()
    assert compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, out=stopped) == expected
    assert len(readings) == at + n_left
    assert not (stopped / "first").exists()
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file() and path.name != ".lock"]
    assert len(names) == 6
    assert all((whole / name).read_bytes() == (stopped / name).read_bytes() for name in names)


def test_a_finished_comparison_loads_nothing(rounded, tmp_path, monkeypatch):
    """The same command reads its files; another one is refused; so is a checkpoint that was changed meanwhile."""
    other = shutil.copytree(rounded, tmp_path / "other")
    expected = compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=tmp_path / "out")
    monkeypatch.setattr(versions, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=tmp_path / "out") == expected
    with pytest.raises(RunError, match="other settings"):
        compare_models(source(checkpoint(FAMILY)), source(other, dtype="bfloat16"), CORPUS, out=tmp_path / "out")
    shutil.copy(checkpoint(FAMILY) / "model.safetensors", other)
    with pytest.raises(RunError, match=r"other settings \(checkpoints"):
        compare_models(source(checkpoint(FAMILY)), source(other), CORPUS, out=tmp_path / "out")


def test_a_damaged_file_is_named(rounded, tmp_path):
    """With what to do."""
    compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, out=tmp_path / "out")
    path = tmp_path / "out" / "values" / "eng_Latn.safetensors"
    whole = load_numpy(path)
    for name, damaged, why in (
        ("choices", whole["choices"][1:], r"choices is float64 \(3, \d+\); expected floats \(4, \d+\)"),
        ("kl", np.array([0.1, np.nan, 0.1, 0.1]), "kl holds a value that is not finite"),
        ("tokens", whole["tokens"].astype(np.float64), "tokens is float64"),
    ):
        path.write_bytes(save_numpy({**whole, name: damaged}))
        with pytest.raises(RunError, match=rf"eng_Latn\.safetensors is damaged \({why}.*delete it"):
            compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, out=tmp_path / "out")
    path.write_bytes(b"no")
    with pytest.raises(RunError, match=r"eng_Latn\.safetensors is damaged .*delete it"):
        compare_models(source(checkpoint(FAMILY)), source(rounded), CORPUS, out=tmp_path / "out")


def test_a_start_that_fails_leaves_the_folder_free(tmp_path):
    """Where nothing was read: the next command may have other settings. What was read stays, under its settings."""
    out = tmp_path / "out"
    original = source(checkpoint(FAMILY))
    with pytest.raises(ModelError):
        compare_models(VersionSource(original.name, device="cuda:77"), original, CORPUS, out=out)
    assert not out.exists()
    with pytest.raises(ModelError):
        compare_models(original, VersionSource(original.name, device="cuda:77"), CORPUS, out=out)
    assert {path.name for path in (out / "first").iterdir()} == {f"{code}.safetensors" for code in CORPUS.languages}
    with pytest.raises(RunError, match="other settings"):
        compare_models(original, original, CORPUS, out=out)
