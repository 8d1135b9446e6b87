"""What is trained, and files of trained routers: small, and of no use to another model."""

from __future__ import annotations

import json

import pytest
import torch
from models import FEW, REPRESENTATIVES, each_family, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from isogloss.errors import ModelError, RunError
from isogloss.files import sha256
from isogloss.learning import RoutingAlignment, load_routers, trainable


def moved(loaded, *, layers=""):
    """Train nothing, but move the routers' weights as training would."""
    alignment = RoutingAlignment(loaded.model)
    trainable(loaded.model, f"routers{layers}")
    with torch.no_grad():
        for each in loaded.model.parameters():
            if each.requires_grad:
                each.mul_(1.25).add_(0.125)
    return alignment


@torch.no_grad()
def logits(loaded, ids):
    """What a model computes."""
    return loaded.model(ids).logits


@each_family()
def test_trained_routers_come_back(family, tmp_path):
    """A fresh copy of the model with the file computes what the trained one does, and another seed's refuses it."""
    loaded, fresh, other = tiny(family), tiny(family), tiny(family, seed=1)
    ids = loaded.tokenizer("The river is wide.", return_tensors="pt")["input_ids"]
    before = logits(fresh, ids)
    moved(loaded).save_routers(tmp_path / "routers.safetensors")
    load_routers(fresh.model, tmp_path / "routers.safetensors")
    assert fresh.weights_sha256 == loaded.weights_sha256
    torch.testing.assert_close(logits(fresh, ids), logits(loaded, ids))
    assert not torch.equal(logits(fresh, ids), before)
    unchanged = other.weights_sha256
    with pytest.raises(ModelError, match="trained on another model, differing in router_sha256"):
        load_routers(other.model, tmp_path / "routers.safetensors")
    assert other.weights_sha256 == unchanged


@each_family(sorted(REPRESENTATIVES), quick=FEW)
def test_routers_alone_are_trained(family):
    """Their weights are, and neither a selection bias, which has no gradient, nor anything else."""
    loaded = tiny(family)
    names = trainable(loaded.model, "routers")
    of_routers = {id(each) for router in loaded.router_modules for each in router.module.parameters()}
    named = dict(loaded.model.named_parameters())
    assert {name for name, each in named.items() if each.requires_grad} == set(names)
    assert {id(named[name]) for name in names} <= of_routers
    for router in loaded.router_modules:
        assert router.module.get_parameter(router.weight_name).requires_grad
        assert router.bias_name is None or not any(name.endswith(router.bias_name) for name in names)


def test_what_is_trained_is_chosen_by_layer():
    """As decoder layers, inclusive; "all" undoes it."""
    loaded = tiny("olmoe")
    assert {name.split(".")[2] for name in trainable(loaded.model, "routers:1-2")} == {"1", "2"}
    assert len(trainable(loaded.model, "all")) == len(list(loaded.model.parameters()))
    for what in ("router", "all:1-2", "routers:2", "routers:a-b", ""):
        with pytest.raises(RunError, match="expected"):
            trainable(loaded.model, what)
    with pytest.raises(RunError, match="no routed layer from 7 to 9"):
        trainable(loaded.model, "routers:7-9")


def test_routers_alone_are_not_a_model_that_was_trained_whole(tmp_path):
    """A file that leaves out what was trained would be a lie."""
    loaded = tiny("olmoe")
    alignment = moved(loaded)
    trainable(loaded.model, "all")
    with pytest.raises(ModelError, match="other weights are trained too"):
        alignment.save_routers(tmp_path / "routers.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_that_hold_something_else_are_refused(tmp_path):
    """Missing, of another kind, cut, without a layer, with other numbers."""
    loaded, path = tiny("olmoe"), tmp_path / "routers.safetensors"
    moved(loaded).save_routers(path)
    fresh = tiny("olmoe")
    with pytest.raises(RunError, match="cannot be read as routers"):
        load_routers(fresh.model, tmp_path / "missing")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match="holds no routers"):
        load_routers(fresh.model, tmp_path / "other.safetensors")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match="cannot be read as routers"):
        load_routers(fresh.model, tmp_path / "cut")
    with safe_open(path, "pt") as file:
        written = json.loads(file.metadata()["isogloss_routers"])
    tensors = load_file(path)
    unchanged = fresh.weights_sha256
    described = {"isogloss_routers": json.dumps(written)}
    save_file({name: each + 1 for name, each in tensors.items()}, path, described)
    with pytest.raises(RunError, match="is damaged"):
        load_routers(fresh.model, path)
    fewer = dict(list(tensors.items())[1:])
    save_file(fewer, path, {"isogloss_routers": json.dumps({**written, "sha256": sha256(save(fewer))})})
    with pytest.raises(RunError, match="does not hold the router weights"):
        load_routers(fresh.model, path)
    more = {name: each + 1 for name, each in tensors.items()}
    save_file(more, path, {"isogloss_routers": json.dumps({**written, "sha256": sha256(save(more))})})
    with pytest.raises(ModelError, match="differ after loading"):
        load_routers(fresh.model, path)
    assert fresh.weights_sha256 == unchanged
