"""GGUF files with a plan or an adapter inside differ in the routers' bytes alone; what does not fit is refused."""

from __future__ import annotations

import os
import random

import gguf
import numpy as np
import pytest
from adapters import random_adapter
from damage import accepted_or_refused, damaged
from gguf_files import gguf_tensors, write_gguf
from models import tiny

from isogloss.backends.bake import bake
from isogloss.backends.bake import gguf as baking
from isogloss.errors import FileError, ModelError, PlanError
from isogloss.steering import Intervention, Plan


@pytest.fixture(scope="module")
def model():
    """Its routers have no bias; the first or second layer is dense."""
    return tiny("qwen3_moe")


@pytest.fixture(scope="module")
def biased():
    """Its routers have biases."""
    return tiny("gpt_oss")


def differing(one, other):
    """Offsets of the bytes in which two files of one length differ."""
    ours, theirs = (np.frombuffer(path.read_bytes(), np.uint8) for path in (one, other))
    assert len(ours) == len(theirs)
    return np.flatnonzero(ours != theirs)


def require_within(changed, tensors, names):
    """All changed bytes lie in the tensors of these names, and some in each."""
    inside = np.zeros(len(changed), dtype=bool)
    for name in names:
        start, array = tensors[name]
        own = (changed >= start) & (changed < start + array.nbytes)
        assert own.any()
        inside |= own
    assert inside.all()


def test_an_adapter_changes_router_weights_alone(tmp_path, model):
    """They become W + B A in float32; every other byte is the same, quantised tensors too."""
    path = write_gguf(tmp_path / "model.gguf", model)
    adapter = random_adapter(model, layers=model.fingerprint.layers[:-1])
    result = bake(str(path), adapter, tmp_path / "out.gguf")
    before, after = gguf_tensors(path), gguf_tensors(tmp_path / "out.gguf")
    names = [f"blk.{layer}.ffn_gate_inp.weight" for layer in adapter.layers]
    for layer, name in zip(adapter.layers, names, strict=True):
        exact = before[name][1].astype(float) + adapter.delta(layer).astype(float)
        np.testing.assert_array_equal(after[name][1], exact.astype("f4"))
    require_within(differing(path, tmp_path / "out.gguf"), before, names)
    assert (result.form, result.dtype, result.n_layers) == ("gguf", "F32", len(adapter.layers))
    assert result.lost_share < 1e-6
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.gguf", "out.gguf"]


def test_a_plan_changes_biases_alone(tmp_path, biased):
    """Offsets are added to the biases of the logits, where a file has some."""
    path = write_gguf(tmp_path / "model.gguf", biased)
    plan = Plan(biased.fingerprint, (Intervention("offset", 1, (0, 3), values=(2.3, -1.3)),))
    result = bake(str(path), plan, tmp_path / "out.gguf")
    before, after = gguf_tensors(path), gguf_tensors(tmp_path / "out.gguf")
    name = "blk.1.ffn_gate_inp.bias"
    expected = before[name][1] + np.array([2.3, 0, 0, -1.3, 0, 0, 0, 0])
    np.testing.assert_allclose(after[name][1], expected, atol=3e-7)
    require_within(differing(path, tmp_path / "out.gguf"), before, [name])
    assert (result.change, result.n_layers) == ("plan", 1)


def test_a_plan_of_select_changes_selection_biases_alone(tmp_path):
    """Its numbers are added to the biases of the choice, where a file has some."""
    model = tiny("deepseek_v3")
    path = write_gguf(tmp_path / "model.gguf", model)
    layer = model.fingerprint.layers[1]
    plan = Plan(model.fingerprint, (Intervention("select", layer, (0, 3), values=(0.3, -0.2)),))
    result = bake(str(path), plan, tmp_path / "other.gguf")
    before, after = gguf_tensors(path), gguf_tensors(tmp_path / "other.gguf")
    name = f"blk.{layer}.exp_probs_b.bias"
    expected = before[name][1] + np.array([0.3, 0, 0, -0.2, 0, 0, 0, 0])
    np.testing.assert_allclose(after[name][1], expected, atol=3e-7)
    require_within(differing(path, tmp_path / "other.gguf"), before, [name])
    assert (result.parts, result.n_layers) == (("selection bias",), 1)
    refused(tmp_path, plan, PlanError, "made for another model", path="other.gguf")  # it cannot be added twice


def test_kinds_that_a_file_has_no_place_for_are_named(tmp_path, biased):
    """A plan of both kinds says which one the file can hold; without its biases a file is another model's."""
    write_gguf(tmp_path / "model.gguf", biased)
    rules = [Intervention(kind, 1, (0,), values=(1.0,)) for kind in ("offset", "select")]
    message = (
        "select in layer 1 of 2 .*needs a selection bias of the router; found a logit bias, which holds kind offset"
    )
    refused(tmp_path, Plan(biased.fingerprint, tuple(rules)), ModelError, message)
    model = tiny("glm4_moe")
    write_gguf(tmp_path / "model.gguf", model, biases=False)
    plan = Plan(model.fingerprint, (Intervention("select", model.fingerprint.layers[0], (0,), values=(1.0,)),))
    refused(tmp_path, plan, ModelError, "kind select needs a selection bias of the router; found no bias: serve it")


def test_layers_that_guess_later_tokens_are_no_part_of_the_model(tmp_path, model):
    """Their routers are in the file but not in the fingerprint, and are not changed."""
    path = write_gguf(tmp_path / "model.gguf", model, n_guessing=1)
    adapter = random_adapter(model)
    bake(str(path), adapter, tmp_path / "out.gguf")
    names = [f"blk.{layer}.ffn_gate_inp.weight" for layer in adapter.layers]
    require_within(differing(path, tmp_path / "out.gguf"), gguf_tensors(path), names)


def test_an_adapter_file_holds_the_change(tmp_path, model):
    """B A by alpha over the rank is the change; the names and the kind are those that llama.cpp asks for."""
    path = write_gguf(tmp_path / "model.gguf", model)
    adapter = random_adapter(model, layers=model.fingerprint.layers[:-1])
    bake(str(path), adapter, tmp_path / "adapter.gguf", form="gguf-lora")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    fields = {name: reader.get_field(name).contents() for name in ("general.type", "adapter.type")}
    assert fields == {"general.type": "adapter", "adapter.type": "lora"}
    assert reader.get_field("general.architecture").contents() == "qwen3moe"
    assert reader.get_field("adapter.lora.alpha").contents() == adapter.rank
    tensors = gguf_tensors(tmp_path / "adapter.gguf")
    assert len(tensors) == 2 * len(adapter.layers)
    for layer in adapter.layers:
        a, b = (tensors[f"blk.{layer}.ffn_gate_inp.weight.lora_{which}"][1] for which in "ab")
        np.testing.assert_allclose(b @ a, adapter.delta(layer), atol=1e-6)
        assert a.shape == adapter.router(layer).a.shape


def refused(tmp_path, change, error, message, path="model.gguf", **options):
    """Refuse in one line and leave nothing."""
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(error, match=message) as raised:
        bake(str(tmp_path / path), change, tmp_path / "out.gguf", **options)
    assert "\n" not in str(raised.value)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


FORMS = pytest.mark.parametrize("form", ["gguf", "gguf-lora"])


@FORMS
def test_files_that_are_refused(tmp_path, model, biased, form):
    """Another model, routers that are not in float32, one of several parts, no routers, no file."""
    adapter = random_adapter(model)
    write_gguf(tmp_path / "model.gguf", biased)
    refused(tmp_path, adapter, PlanError, "made for another model .*router_sha256", form=form)
    write_gguf(tmp_path / "model.gguf", model, dtype=np.float16)
    message = r"blk\.\d+\.ffn_gate_inp\.weight is stored as F16; expected F32"
    refused(tmp_path, adapter, ModelError, message, form=form)
    write_gguf(tmp_path / "model.gguf", model, split_count=3)
    refused(tmp_path, adapter, ModelError, "one of 3 parts.*llama-gguf-split --merge", form=form)
    write_gguf(tmp_path / "model.gguf", model, routers=False)
    refused(tmp_path, adapter, ModelError, "has no routers", form=form)
    refused(tmp_path, adapter, ModelError, "is no GGUF file; expected the model's GGUF file", path="none", form=form)


def test_an_edited_file_is_another_model(tmp_path, model):
    """The adapter cannot be added a second time."""
    path = write_gguf(tmp_path / "model.gguf", model)
    adapter = random_adapter(model)
    bake(str(path), adapter, tmp_path / "model2.gguf")
    refused(tmp_path, adapter, PlanError, "made for another model", path="model2.gguf")


def test_forms_that_do_not_fit_are_refused(tmp_path, model, biased):
    """A plan as an adapter, a plan without biases, a GGUF file as a checkpoint, an output that is there."""
    write_gguf(tmp_path / "model.gguf", model)
    adapter = random_adapter(model)
    plan = Plan(model.fingerprint, (Intervention("offset", model.routers[0].layer, (0,), values=(1.0,)),))
    refused(tmp_path, plan, PlanError, "a plan cannot be written as gguf-lora.*isogloss adapt", form="gguf-lora")
    select = Plan(model.fingerprint, (Intervention("select", model.routers[0].layer, (0,), values=(1.0,)),))
    refused(
        tmp_path, select, PlanError, "of kind select has no adapter: .*--as gguf for a GGUF file$", form="gguf-lora"
    )
    for options in ({"verify": False}, {"loading": {"dtype": "float32", "device": "auto"}}):
        name = "--no-verify" if "verify" in options else "--dtype and --device"
        for form in (None, "gguf-lora"):
            refused(tmp_path, adapter, ModelError, f"{name}: of checkpoints.*found --as gguf", form=form, **options)
    refused(tmp_path, plan, ModelError, "needs a logit bias of the router; found no bias: .*isogloss adapt")
    banned = Plan(biased.fingerprint, (Intervention("ban", 1, (0,)),))
    refused(tmp_path, banned, PlanError, "cannot be baked: ban in layer 1")
    refused(tmp_path, adapter, ModelError, "is a GGUF file; expected a hub id or folder", form="checkpoint")
    (tmp_path / "out.gguf").write_text("mine")
    refused(tmp_path, adapter, FileError, "out.gguf exists; choose a new name")


def test_a_plan_that_adds_the_same_to_all_experts_is_refused(tmp_path, biased):
    """No choice depends on what all scores share, and no weight by softmax on what all logits share."""
    for kind, model in (("offset", biased), ("select", tiny("deepseek_v3"))):
        write_gguf(tmp_path / "model.gguf", model)
        n = model.fingerprint.n_experts
        plan = Plan(model.fingerprint, (Intervention(kind, 1, range(n), values=[0.5] * n),))
        refused(tmp_path, plan, PlanError, f"adds the same to all experts by {kind} in layer 1, .*isogloss doctor")


def test_nothing_changes_where_the_adapter_is_too_small(tmp_path, model):
    """An adapter that vanishes when it is added is not written as if it acted."""
    write_gguf(tmp_path / "model.gguf", model)
    refused(tmp_path, random_adapter(model, size=1e-12), PlanError, "so small that no weight changes")


def test_a_file_that_is_being_written_is_refused(tmp_path, model, monkeypatch):
    """Truncated, grown while it was copied, or changed in the routers between reading and copying."""
    path = write_gguf(tmp_path / "model.gguf", model)
    adapter, content = random_adapter(model), path.read_bytes()
    for part in (0, 3, 20, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:part])
        refused(tmp_path, adapter, ModelError, "no whole GGUF file .*wait until it is written|has no routers")
    path.write_bytes(content)
    copy_edited = baking.copy_edited

    def growing(source, target, edits):
        copy_edited(source, target, edits)
        source.write_bytes(content + bytes(4))

    monkeypatch.setattr(baking, "copy_edited", growing)
    with pytest.raises(FileError, match="was changed while it was copied"):
        bake(str(path), adapter, tmp_path / "out.gguf")
    start = gguf_tensors(path)[f"blk.{adapter.layers[0]}.ffn_gate_inp.weight"][0]

    def changing(source, target, edits):
        source.write_bytes(content[:start] + bytes(4) + content[start + 4 :])
        copy_edited(source, target, edits)

    path.write_bytes(content)
    monkeypatch.setattr(baking, "copy_edited", changing)
    with pytest.raises(FileError, match="was changed while it was copied"):
        bake(str(path), adapter, tmp_path / "out.gguf")
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]


def test_a_copy_that_the_disk_did_not_keep_is_refused(tmp_path, model, monkeypatch):
    """The changed tensors are read back."""
    path, adapter = write_gguf(tmp_path / "model.gguf", model), random_adapter(model)
    start = gguf_tensors(path)[f"blk.{adapter.layers[0]}.ffn_gate_inp.weight"][0]
    monkeypatch.setattr("os.fsync", lambda file: os.pwrite(file, bytes(4), start))
    refused(tmp_path, adapter, ModelError, "the copy does not hold the new blk.*the disk may be failing")


def test_damaged_files_are_baked_or_refused_in_one_line(tmp_path, model):
    """Bytes that are cut, flipped or repeated never raise anything else, nor leave anything."""
    path = write_gguf(tmp_path / "model.gguf", model)
    adapter, content = random_adapter(model), path.read_bytes()
    for seed in range(60):
        spoilt, what = damaged("model.gguf", content, random.Random(f"gguf {seed}"))
        path.write_bytes(spoilt)
        with accepted_or_refused(f"seed {seed}: {what}"):
            bake(str(path), adapter, tmp_path / "out.gguf")
            (tmp_path / "out.gguf").unlink()
        assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"], what


def test_the_package_is_asked_for(tmp_path, model, monkeypatch):
    """Without the format's own package the message says what to install."""
    path = write_gguf(tmp_path / "model.gguf", model)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    refused(tmp_path, random_adapter(model), ModelError, r"pip install 'isogloss\[gguf\]'")
    assert path.is_file()


def test_scales_and_sums_are_in_the_file(tmp_path, model):
    """Two adapters added, one of them at another scale, are the sum of their changes."""
    path = write_gguf(tmp_path / "model.gguf", model)
    one, other = random_adapter(model), random_adapter(model, seed=5).scaled(-0.5)
    bake(str(path), one + other, tmp_path / "out.gguf")
    before, after = gguf_tensors(path), gguf_tensors(tmp_path / "out.gguf")
    for layer in one.layers:
        name = f"blk.{layer}.ffn_gate_inp.weight"
        exact = one.delta(layer) + other.delta(layer)
        np.testing.assert_allclose(after[name][1] - before[name][1], exact, atol=1e-6)
