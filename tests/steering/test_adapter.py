"""Router adapters: checks at construction, arithmetic, and the folder that stock PEFT loads."""

from __future__ import annotations

import copy
import json
import re
import shutil
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from adapters import ADAPTED_FAMILIES, change_weights, random_adapter
from models import TEXTS, tiny
from peft import LoraConfig, PeftModel
from safetensors.numpy import load_file, save_file
from slow import slow_but

from isogloss.errors import FileError, PlanError
from isogloss.routing import Fingerprint
from isogloss.steering import AdaptedRouter, RouterAdapter, read_adapter, read_steering, write_adapter

MODEL = Fingerprint("qwen3_moe", (2, 3, 5), n_experts=8, top_k=3, router_sha256="ab12")
FILES = ("adapter_config.json", "adapter_model.safetensors", "isogloss_adapter.json")


def a_router(layer: int, rank: int = 2, *, seed: int = 0, n_extra: int = 0) -> AdaptedRouter:
    """Random matrices for MODEL."""
    drawn = np.random.default_rng((seed, layer))
    b, a = drawn.normal(size=(8, rank)), drawn.normal(size=(rank, 16))
    return AdaptedRouter(layer, f"model.layers.{layer}.mlp.gate.weight", b.astype("f4"), a.astype("f4"), n_extra)


def an_adapter(layers=(2, 5), rank=2, **fields) -> RouterAdapter:
    """An adapter for MODEL."""
    names = ("swh_Latn", "tel_Telu", "constant")[:rank]
    return RouterAdapter(MODEL, tuple(a_router(layer, rank) for layer in layers), names, **fields)


def test_delta_is_the_product():
    """Scale times B times A, in every layer that is changed; other layers are refused."""
    adapter = an_adapter(scale=0.5)
    router = adapter.router(5)
    expected = sum(0.5 * np.outer(router.b[:, rank], router.a[rank]) for rank in range(2))
    np.testing.assert_allclose(adapter.delta(5), expected, rtol=1e-5)
    assert adapter.delta(5).dtype == np.float32
    with pytest.raises(PlanError, match=re.escape("does not change layer 3; expected 2, 5")):
        adapter.delta(3)


def test_sum_and_scale():
    """The change of a sum is the sum of the changes, ranks beside each other, also of layers that one has alone."""
    one, other = an_adapter((2, 3), scale=2.0, provenance={"of": 1}), an_adapter((3, 5), rank=3)
    total = one + other.scaled(0.5)
    assert (total.layers, total.rank, total.scale) == ((2, 3, 5), 5, 1.0)
    assert total.ranks == (*one.ranks, *other.ranks)
    np.testing.assert_allclose(total.delta(3), one.delta(3) + 0.5 * other.delta(3), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total.delta(2), one.delta(2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total.delta(5), 0.5 * other.delta(5), rtol=1e-5, atol=1e-6)
    assert total.provenance["sum_of"][0] == {"sha256": one.sha256, "provenance": {"of": 1}}
    assert not an_adapter().scaled(0.0).delta(2).any()


def test_equal_where_all_is_equal():
    """A number, a name, the scale and the provenance count."""
    adapter = an_adapter()
    assert adapter == an_adapter()
    assert hash(adapter) == hash(an_adapter())
    changed = replace(adapter.routers[0], b=adapter.routers[0].b + np.float32(1e-3))
    others = [
        adapter.scaled(2),
        replace(adapter, ranks=("swh_Latn", "x")),
        replace(adapter, provenance={"a": 1}),
        replace(adapter, routers=(changed, adapter.routers[1])),
    ]
    assert len({adapter, *others}) == 5
    with pytest.raises(ValueError, match="read-only"):
        adapter.routers[0].b[0, 0] = 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": ()}, "rank 0"),
        ({"routers": ()}, "changes no router"),
        ({"routers": (a_router(4),)}, "layer 4 is not a routed layer of the model; expected 2, 3, 5"),
        ({"routers": (a_router(2), a_router(2))}, "layer 2 twice"),
        ({"ranks": ("one",)}, r"b of layer 2 is \[8, 2\]; expected \[8, 1\]"),
        ({"ranks": ("one", "")}, "printable"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": 1e39}, "exceeds the float32 range"),
        ({"scale": 1.7e308}, "scale is 1.7e\\+308; expected a number that is finite, also times the rank, 2"),
        ({"provenance": {"a": float("nan")}}, "cannot be written as JSON"),
        ({"base_model": "/home/someone/model"}, "expected a hub id"),
        ({"fingerprint": replace(MODEL, n_experts=7)}, r"expected \[7, 2\]"),
        ({"fingerprint": replace(MODEL, top_k=0)}, "the adapter's Fingerprint"),
    ],
)
def test_impossible_adapters_are_refused(fields, message):
    """Each with the reason."""
    with pytest.raises(PlanError, match=message):
        replace(an_adapter(), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"b": np.full((8, 2), np.nan)}, "b of layer 2 has NaN"),
        ({"a": np.full((2, 16), 1e39)}, "a of layer 2 has NaN, infinity"),
        ({"a": np.ones((2, 16), dtype=int)}, "expected a matrix of floats"),
        ({"a": np.ones(16)}, "expected a matrix of floats"),
        ({"b": np.ones((8, 0)), "a": np.ones((0, 16))}, "not empty"),
        ({"a": np.ones((3, 16))}, "of one rank"),
        ({"parameter": "weight"}, "expected a module and its parameter"),
        ({"parameter": "../gate.weight"}, "expected a module and its parameter"),
        ({"layer": True}, "expected integers"),
    ],
)
def test_impossible_routers_are_refused(fields, message):
    """Each with the reason."""
    with pytest.raises(PlanError, match=message):
        replace(a_router(2), **fields)


def test_adapters_of_other_models_do_not_add():
    """The message names what differs."""
    other = replace(an_adapter(), fingerprint=replace(MODEL, router_sha256="cd34"))
    with pytest.raises(PlanError, match=r"the adapter was made for another model .*router_sha256"):
        an_adapter() + other


def test_folder_round_trip(tmp_path):
    """What is read equals what was written, with scale, extra rows and provenance; no path of this machine is in it."""
    routers = (a_router(2, n_extra=2), a_router(5, n_extra=2))
    adapter = RouterAdapter(MODEL, routers, ("a", "b"), {"x": [1, "ü"]}, scale=1 / 3, base_model="org/model")
    write_adapter(adapter, tmp_path / "a")
    assert read_adapter(tmp_path / "a") == adapter
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)
    assert load_file(tmp_path / "a" / FILES[1])["base_model.model.model.layers.2.mlp.gate.lora_B.weight"].shape == (
        10,
        2,
    )
    assert all(str(tmp_path).encode() not in (tmp_path / "a" / name).read_bytes() for name in FILES)
    with pytest.raises(FileError, match="not empty"):
        write_adapter(adapter, tmp_path / "a")


def edit_json(path, **fields):
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def other_tensors(path):
    """Write other numbers."""
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)


OTHERWISE = (
    {"alpha_pattern": {".*gate.*": 7}},
    {"rank_pattern": {".*gate.*": 1}},
    {"modules_to_save": ["lm_head"]},
    {"trainable_token_indices": [1, 2]},
    {"layer_replication": [[0, 2], [1, 3]]},
    {"layers_pattern": "layers"},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "corda"},
    {"init_lora_weights": "mica"},
    {"lora_dropout": 0.5},
    {"fan_in_fan_out": True},
    {"lora_bias": True},
    {"use_dora": True},
    {"use_rslora": True},
    {"megatron_config": {"a": 1}},
    {"alora_invocation_tokens": [1]},
    {"arrow_config": {}},
    {"kasa_config": {}},
    {"monteclora_config": {}},
    {"use_bdlora": {}},
    {"velora_config": {}},
)
"""Fields of PEFT's configuration, each set so that PEFT computes something else from the same tensors, or raises."""

HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"),
    *("ensure_weight_tying", "exclude_modules", "layers_to_transform", "megatron_core", "runtime_config"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "qalora_group_size", "use_qalora"),
}
"""Fields that do nothing to an adapter on parameters that lies there whole."""


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (FILES[1], other_tensors, "is not the file that"),
        (FILES[1], lambda path: path.write_bytes(path.read_bytes()[:-4]), "still being written"),
        (FILES[1], lambda path: path.unlink(), "cannot be read"),
        (FILES[2], lambda path: path.unlink(), "still being written"),
        (FILES[2], lambda path: path.write_text("{"), "not valid JSON"),
        (FILES[2], lambda path: edit_json(path, schema_version=2), "reads 1"),
        (FILES[2], lambda path: edit_json(path, ranks=["one"]), "expected float32"),
        (FILES[2], lambda path: edit_json(path, ranks=[]), "it has rank 0"),
        (FILES[2], lambda path: edit_json(path, scale=2.0), "has lora_alpha 2; expected 4"),
        (FILES[2], lambda path: edit_json(path, more=1), "more: unknown field"),
        (FILES[0], lambda path: edit_json(path, lora_alpha=3), "has lora_alpha 3; expected 2"),
        (FILES[0], lambda path: edit_json(path, target_parameters=["gate.weight"]), "has target_parameters"),
        (FILES[0], lambda path: path.unlink(), "cannot be read"),
        *(
            (FILES[0], lambda path, field=field: edit_json(path, **field), f"has {next(iter(field))} .*; expected ")
            for field in OTHERWISE
        ),
    ],
)
def test_damaged_folders_are_refused(tmp_path, file, damage, message):
    """Each in one line, with the reason."""
    write_adapter(an_adapter(), tmp_path / "a")
    damage(tmp_path / "a" / file)
    with pytest.raises(PlanError, match=message) as raised:
        read_adapter(tmp_path / "a")
    assert "\n" not in str(raised.value)


def test_nothing_to_read(tmp_path):
    """What is found is said, and what was expected: one of the two where either would do, and where it lies."""
    (tmp_path / "file").touch()
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "plan.json").touch()
    (tmp_path / "ranks").mkdir()
    write_adapter(an_adapter(), tmp_path / "ranks" / "adapter")
    for read, name, message in (
        (read_adapter, "a", "cannot read the adapter .*: no such folder; .*isogloss adapt"),
        (read_adapter, "file", "cannot read the adapter .*: it is a file; .*isogloss adapt"),
        (read_steering, "a", "the plan or adapter .*: no such file or folder; .*plan` or .*isogloss adapt"),
        (read_steering, "learned", r"is a folder of results, and no adapter; give .*learned/plan\.json$"),
        (read_steering, "ranks", "is a folder of results, and no adapter; give .*ranks/adapter$"),
    ):
        with pytest.raises(PlanError, match=message):
            read(tmp_path / name)


def logits_of(model, ids):
    """Logits of the whole vocabulary at every place."""
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("family", slow_but(ADAPTED_FAMILIES, ("qwen3_moe", "granitemoe")))
def test_peft_loads_it(tmp_path, family):
    """Stock PEFT computes (W + scale · B A) x, which differs from the base; merging gives the changed weights."""
    changed, adapted = tiny(family), tiny(family)
    adapter = random_adapter(changed, layers=changed.fingerprint.layers[:-1], rank=3, size=1.0)
    write_adapter(adapter, tmp_path / "a")
    ids = torch.tensor([changed.tokenizer(TEXTS[1])["input_ids"]])
    base = logits_of(changed.model, ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # called by PEFT
        model = PeftModel.from_pretrained(adapted.model, tmp_path / "a")
    change_weights(changed, adapter)
    expected = logits_of(changed.model, ids)
    assert (expected - base).abs().max() > 0.01
    torch.testing.assert_close(logits_of(model, ids), expected, rtol=1e-5, atol=1e-5)
    merged = dict(model.merge_and_unload().named_parameters())
    for name, parameter in changed.model.named_parameters():
        torch.testing.assert_close(merged[name], parameter, rtol=1e-6, atol=1e-6)


def test_every_field_of_peft_is_checked_or_harmless():
    """One that a later PEFT has in addition is in neither list, and is to be tried."""
    required = {"peft_type", "bias", "r", "lora_alpha", "target_modules", "target_parameters"}
    refused = {name for field in OTHERWISE for name in field}
    assert {field.name for field in fields(LoraConfig)} == required | refused | HARMLESS


def test_refused_fields_are_those_by_which_peft_computes_otherwise(tmp_path):
    """Stock PEFT raises, or its logits are others; by the configuration that PEFT writes itself, they are the same."""
    loaded = tiny("qwen3_moe")
    write_adapter(random_adapter(loaded, size=1.0), tmp_path / "a")
    config = tmp_path / "a" / FILES[0]
    ids = torch.tensor([loaded.tokenizer(TEXTS[1])["input_ids"]])
    plain = json.loads(config.read_text())

    def adapted(fields):
        config.write_text(json.dumps(plain | fields))
        return PeftModel.from_pretrained(copy.deepcopy(loaded.model), tmp_path / "a")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = adapted({})
        expected = logits_of(same, ids)
        for fields_ in OTHERWISE:
            try:
                found = logits_of(adapted(fields_), ids)
            except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError):
                continue
            assert (found - expected).abs().max() > 0.01, fields_
        same.save_pretrained(tmp_path / "written")
    written = json.loads((tmp_path / "written" / FILES[0]).read_text())
    assert "alpha_pattern" in written
    written["target_parameters"] = plain["target_parameters"]  # which PEFT writes in another order
    config.write_text(json.dumps(written))
    read_adapter(tmp_path / "a")
    for harmless in ({"init_lora_weights": "gaussian"}, {"init_lora_weights": False}, {"modules_to_save": []}):
        config.write_text(json.dumps(written | harmless))
        read_adapter(tmp_path / "a")


def test_a_scale_whose_alpha_is_not_finite_is_refused(tmp_path):
    """Of zeros, any scale gives zeros, and yet alpha is its product with the rank."""
    nothing = tuple(replace(each, b=np.zeros_like(each.b)) for each in an_adapter().routers)
    write_adapter(replace(an_adapter(), routers=nothing), tmp_path / "a")
    edit_json(tmp_path / "a" / FILES[2], scale=1.7e308)
    with pytest.raises(PlanError, match=r"scale is 1.7e\+308; expected a number that is finite") as raised:
        read_adapter(tmp_path / "a")
    assert "\n" not in str(raised.value)


def test_unfinished_folders_are_not_seen(tmp_path, monkeypatch):
    """Where writing fails, nothing is left."""
    monkeypatch.setattr("isogloss.steering.adapter_folder.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_adapter(an_adapter(), tmp_path / "a")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    write_adapter(an_adapter(), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert read_adapter(tmp_path / "b") == an_adapter()
