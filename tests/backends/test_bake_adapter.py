"""An adapter in a checkpoint: only router weights change, and stock transformers computes W + B A."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from adapters import ADAPTED_FAMILIES, change_weights, random_adapter
from models import TEXTS, checkpoint, tokenizer
from safetensors.torch import load_file, save_file
from slow import slow_but
from stored_bytes import stored_bytes

from isogloss.backends.bake import bake
from isogloss.backends.bake import baked as baking
from isogloss.backends.huggingface import load_model
from isogloss.errors import ModelError, PlanError
from isogloss.steering import read_adapter


def loaded(folder, dtype="float32"):
    """A checkpoint on the processor."""
    with contextlib.redirect_stderr(io.StringIO()):
        return load_model(str(folder), dtype=dtype, device="cpu")


def baked(folder, adapter, output, **options):
    """Bake on the processor."""
    with contextlib.redirect_stderr(io.StringIO()):
        return bake(str(folder), adapter, output, loading={"device": "cpu"}, **options)


@torch.inference_mode()
def logits(model):
    """Logits of every text, at all positions."""
    return torch.cat([model.model(**model.tokenizer(text, return_tensors="pt")).logits for text in TEXTS], dim=1)


# Routers that take batches and the bias of their block, and those that leave the choice to their block.
RUN_OTHERWISE = ("afmoe", "dbrx")


@pytest.mark.parametrize(
    "family", slow_but((*ADAPTED_FAMILIES, *RUN_OTHERWISE), ("mixtral", "granitemoe", *RUN_OTHERWISE))
)
def test_equals_the_changed_weights(tmp_path, family):
    """Logits are those of W + B A, far from the base, and every other byte is the same."""
    folder, out = checkpoint(family), tmp_path / "out"
    original = loaded(folder)
    adapter = random_adapter(original, layers=original.fingerprint.layers[:-1])
    base = logits(original)
    result = baked(folder, adapter, out)
    change_weights(original, adapter)
    expected = logits(original)
    assert (expected - base).abs().max() > 0.3
    torch.testing.assert_close(logits(loaded(out)), expected, rtol=0, atol=2e-5)
    (before, headers), (after, others) = stored_bytes(folder), stored_bytes(out)
    assert headers == others
    changed = {old.name for old, new in zip(before, after, strict=True) if old != new}
    assert len(changed) == len(adapter.layers) == result.n_layers
    assert all(any(f".{layer}." in name for name in changed) for layer in adapter.layers)
    assert result.verification.largest_change > 0.5
    assert result.verification.largest_difference < 1e-5
    assert (result.form, result.change, result.sha256) == ("checkpoint", "adapter", adapter.sha256)
    assert result.lost_share < 1e-5


def test_what_bfloat16_loses_is_measured(tmp_path):
    """The share that is lost is that of the stored tensors, found again by hand; the copy computes by what it holds."""
    small = loaded(checkpoint("olmoe"), "bfloat16")
    small.model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    adapter = random_adapter(loaded(tmp_path / "model", "bfloat16"), size=0.02)
    result = baked(tmp_path / "model", adapter, tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "out"))
    errors, changes = [], []
    for router in adapter.routers:
        stored = (after[router.parameter].double() - before[router.parameter].double()).numpy()
        exact = adapter.delta(router.layer).astype(float)
        errors.append(stored - exact)
        changes.append(exact)
    lost = np.linalg.norm(np.stack(errors)) / np.linalg.norm(np.stack(changes))
    assert result.lost_share == pytest.approx(lost, rel=1e-6)
    assert 0.005 < lost < 0.5
    assert result.largest_rounding == pytest.approx(np.abs(errors).max(), rel=1e-6)
    weak = random_adapter(loaded(tmp_path / "model", "bfloat16"), size=1e-10)
    with pytest.raises(PlanError, match="so small that no weight changes when the sum is stored as BF16"):
        baked(tmp_path / "model", weak, tmp_path / "weak")
    assert baked(tmp_path / "model", weak, tmp_path / "weak", form="peft").lost_share == 0
    check = result.verification
    assert 0 < check.largest_difference < 0.2 * check.largest_change


def test_verification_finds_a_wrong_weight(tmp_path, monkeypatch):
    """A change that is written to the neighbouring experts is found, and nothing is left behind."""
    edits_of = baking.edits_of

    def shifted(stored, change):
        first, *rest = edits_of(stored, change)
        wrong = first.before + first.change.roll(1, 0)
        return (dataclasses.replace(first, after=wrong), *rest)

    monkeypatch.setattr(baking, "edits_of", shifted)
    folder = checkpoint("olmoe")
    with pytest.raises(ModelError, match="layer 0 has another weight than the sum with the adapter"):
        baked(folder, random_adapter(loaded(folder)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_verification_finds_a_weight_that_is_not_loaded(tmp_path, monkeypatch):
    """A copy whose router is loaded from elsewhere is found, though the files are right."""
    load_, seen = baking.load_model, []

    def other(*arguments, **options):
        model = load_(*arguments, **options)
        seen.append(model)
        if len(seen) == 2:  # the copy
            with torch.no_grad():
                model.router_modules[1].module.weight.copy_(seen[0].router_modules[2].module.weight)
        return model

    monkeypatch.setattr(baking, "load_model", other)
    folder = checkpoint("olmoe")
    with pytest.raises(ModelError, match="the baked router of layer 1"):
        baked(folder, random_adapter(loaded(folder)), tmp_path / "out")


def test_quantised_routers_are_refused(tmp_path):
    """Scales beside the weight, or a dtype that is no floating point, say that the weight is not what is multiplied."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in checkpoint("olmoe").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    adapter = random_adapter(loaded(folder))
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.gate.weight"
    beside = weights | {"model.layers.1.mlp.gate.weight_scale": torch.ones(1)}
    packed = weights | {name: weights[name].to(torch.float8_e4m3fn)}
    for tensors, message in ((beside, "so the router is quantised"), (packed, f"F8_E4M3 of shape .* as {name}")):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            baked(folder, adapter, tmp_path / "out", verify=False)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_adapter_is_refused_on_its_own_copy(tmp_path):
    """It cannot be added a second time, nor can another one unseen."""
    folder = checkpoint("olmoe")
    adapter = random_adapter(loaded(folder))
    baked(folder, adapter, tmp_path / "out", verify=False)
    with pytest.raises(ModelError, match=r"already baked with adapter .*give --adapter twice"):
        baked(tmp_path / "out", adapter, tmp_path / "again")
    (tmp_path / "out" / "isogloss.json").unlink()
    with pytest.raises(PlanError, match="made for another model"):
        baked(tmp_path / "out", adapter, tmp_path / "again")


@pytest.mark.parametrize("form", ["peft", "vllm"])
def test_adapter_folders_hold_the_change(tmp_path, form):
    """B A of what is written, by alpha over the rank, is the change, under the engine's own names."""
    folder = checkpoint("granitemoe")
    adapter = random_adapter(loaded(folder))
    result = baked(folder, adapter, tmp_path / "out", form=form)
    assert (result.form, result.n_layers) == (form, len(adapter.layers))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert config["lora_alpha"] == config["r"] == adapter.rank
    path = {"peft": "block_sparse_moe.router", "vllm": "block_sparse_moe.gate"}[form]
    for layer in adapter.layers:
        module = f"base_model.model.model.layers.{layer}.{path}"
        a, b = (tensors.pop(f"{module}.lora_{which}.weight").numpy() for which in "AB")
        np.testing.assert_allclose(b @ a, adapter.delta(layer), atol=1e-6)
    assert not tensors
    assert config["target_modules"] == ({"peft": [], "vllm": ["gate"]}[form])
    if form == "peft":
        assert read_adapter(tmp_path / "out").delta(0) == pytest.approx(adapter.delta(0), abs=1e-6)


@pytest.mark.parametrize("form", ["peft", "vllm", "checkpoint"])
def test_adapters_that_change_nothing_are_refused(tmp_path, form):
    """At scale 0, and where two cancel: an engine would serve the plain model under the adapter's name."""
    adapter = random_adapter(loaded(checkpoint("olmoe")))
    for nothing in (adapter.scaled(0.0), adapter + adapter.scaled(-1.0)):
        with pytest.raises(PlanError, match=r"changes no weight of the model|no weight changes when the sum"):
            baked(checkpoint("olmoe"), nothing, tmp_path / "out", form=form)
    assert not list(tmp_path.iterdir())


def test_families_that_vllm_may_pass_over_are_refused(tmp_path):
    """An adapter under a name that vLLM does not know would change nothing there, in silence."""
    folder = checkpoint("phimoe")
    with pytest.raises(ModelError, match=r"not known to act on phimoe.*--as checkpoint"):
        baked(folder, random_adapter(loaded(folder)), tmp_path / "out", form="vllm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "most"), [(1, 1), (2, 8), (16, 16), (17, 32), (128, 128), (257, 320), (512, 512)])
def test_the_command_for_vllm_has_the_smallest_sufficient_rank(tmp_path, rank, most):
    """Its default is 16, and it takes certain values alone."""
    folder, out = checkpoint("olmoe"), tmp_path / "out"
    result = baked(folder, random_adapter(loaded(folder), rank=rank), out, form="vllm")
    assert result.serve == (
        f"vllm serve {folder} --enable-lora --lora-target-modules gate --max-loras 2 --max-lora-rank {most} "
        f"--lora-modules adapter={out}"
    )


def test_ranks_that_vllm_cannot_serve_are_refused(tmp_path):
    """As PEFT it can be written all the same."""
    folder = checkpoint("olmoe")
    adapter = random_adapter(loaded(folder), rank=513)
    with pytest.raises(ModelError, match=r"rank 513; expected at most 512.*--as checkpoint"):
        baked(folder, adapter, tmp_path / "out", form="vllm")
    assert not list(tmp_path.iterdir())
    assert baked(folder, adapter, tmp_path / "out", form="peft").serve is None


def with_names(adapter, old, new):
    """The adapter under other names of parameters."""
    routers = (dataclasses.replace(each, parameter=each.parameter.replace(old, new)) for each in adapter.routers)
    return dataclasses.replace(adapter, routers=tuple(routers))


@pytest.mark.parametrize("form", ["peft", "vllm", "checkpoint"])
@pytest.mark.parametrize(("old", "new"), [(".gate.", ".foo."), ("layers.1.", "layers.2."), (".layers.", ".blocks.")])
def test_names_that_are_no_router_of_the_model_are_refused(tmp_path, form, old, new):
    """PEFT would raise, or change another layer."""
    folder = checkpoint("olmoe")
    adapter = with_names(random_adapter(loaded(folder), layers=(1,)), old, new)
    wrong = adapter.routers[0].parameter
    with pytest.raises(PlanError, match=rf"layer 1 .* {wrong}; expected model.layers.1.mlp.gate.weight, as the model"):
        baked(folder, adapter, tmp_path / "out", form=form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["peft", "vllm", "checkpoint"])
def test_names_of_another_class_become_those_of_the_model(tmp_path, form):
    """The same router has a longer name inside a multimodal class: what is written has the model's own."""
    folder = checkpoint("olmoe")
    own = random_adapter(loaded(folder))
    other = with_names(own, "model.layers", "model.language_model.layers")
    for adapter, name in ((own, "own"), (other, "other")):
        baked(folder, adapter, tmp_path / name, form=form, verify=False)
    file = "model.safetensors" if form == "checkpoint" else "adapter_model.safetensors"
    written = [load_file(tmp_path / name / file) for name in ("own", "other")]
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(written[0][name], written[1][name]) for name in written[0])
    if form == "peft":
        assert [each.parameter for each in read_adapter(tmp_path / "other").routers] == [
            each.parameter for each in own.routers
        ]
