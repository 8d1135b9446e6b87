"""Router adapters: checks at construction, arithmetic, and the folder that stock PEFT loads."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapters import ADAPTED_FAMILIES, change_weights, random_adapter
from models import TEXTS, tiny
from peft import PeftModel
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
