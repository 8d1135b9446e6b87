"""Models that no single device holds: placed by accelerate, captured and steered as on one device."""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from kinds import everywhere
from models import FAMILIES, FEW, ITEM_IDS, TEXTS, checkpoint, each_family, generate, tokenizer
from transformers.utils import logging

from isogloss.backends.huggingface import HuggingFaceModel, load_model, prove_routers, steer
from isogloss.backends.huggingface import devices as devices_module
from isogloss.errors import ModelError
from isogloss.steering import Intervention

# They read weights of a module that they do not call, which are therefore never fetched.
UNFETCHED = {"dbrx", "jetmoe", "longcat_flash"}
# Routers of every shape: bare parameter, bias on the router, bias on the block, child layer, scale per expert, scores.
SHAPES = ["olmoe", "deepseek_v3", "minimax_m2", "ernie4_5_moe", "afmoe", "gpt_oss", "gemma4", "llama4", "nemotron_h"]
GPUS = torch.cuda.device_count()

# accelerate says so of single tensors, which it then places all the same.
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")


@pytest.fixture(autouse=True)
def quiet():
    """Keep progress bars and the remark that some weights are offloaded out of the tests' output."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    with contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.set_verbosity(level)


def decoder_layers(loaded):
    """Names of the decoder layers, found above their routers."""
    names = {module: name for name, module in loaded.model.named_modules()}
    parts = names[loaded.router_modules[0].module].split(".")
    stack = ".".join(parts[: next(i for i, part in enumerate(parts) if part.isdecimal())])
    return [f"{stack}.{index}" for index in range(len(loaded.model.get_submodule(stack)))]


def placed(loaded, layers, *, other):
    """A device map: each decoder layer where ``layers`` says, every other module at ``other``."""
    names = dict(zip(decoder_layers(loaded), layers, strict=True))
    stack = next(iter(names)).rpartition(".")[0]
    for name, module in loaded.model.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if f"{stack}.".startswith(f"{name}.") or not name:
            names |= {f"{name}.{tensor}": other for tensor, _ in tensors}  # above the layers: by tensor
        elif tensors and not name.startswith(f"{stack}."):
            names[name] = other
    return names


def half_on_disk(family):
    """(the plain model, the same with every second decoder layer, and the last, on disk)."""
    plain = load_model(str(checkpoint(family)), device="cpu")
    n = len(decoder_layers(plain))
    layers = ["disk" if index % 2 or index == n - 1 else "cpu" for index in range(n)]
    return plain, load_model(str(checkpoint(family)), device=placed(plain, layers, other="cpu"))


def every_layer(loaded):
    """A plan that forces, bans and softly favours experts in all layers."""
    soft = Intervention("soft", 0, (1,), strength=0.5)
    return everywhere(loaded, soft, Intervention("force", 0, (5,)), Intervention("ban", 0, (0, 3)))


def require_same(spread, plain):
    """Fingerprint, biases, capture, steering and generation of both agree; afterwards nothing is left behind."""
    assert spread.fingerprint == plain.fingerprint
    for ours, theirs in zip(spread.router_modules, plain.router_modules, strict=True):
        assert torch.equal(ours.weight().cpu(), theirs.weight().cpu())
        for found, expected in (
            (ours.selection_bias(), theirs.selection_bias()),
            (ours.expert_scale(), theirs.expert_scale()),
        ):
            np.testing.assert_array_equal(found, expected)
    prove_routers(spread, TEXTS[1])
    before = [(parameter.device, parameter.shape) for parameter in spread.model.parameters()]
    unsteered, expected = (loaded.capture(TEXTS, ITEM_IDS) for loaded in (spread, plain))
    np.testing.assert_array_equal(unsteered.selections, expected.selections)
    np.testing.assert_allclose(unsteered.profiles, expected.profiles, atol=1e-6)
    steered, answers = [], []
    for loaded in (spread, plain):
        with steer(loaded, every_layer(plain)):
            steered.append(loaded.capture(TEXTS, ITEM_IDS).selections)
            answers.append(generate(loaded, TEXTS[:2], max_new_tokens=3))
    np.testing.assert_array_equal(*steered)
    assert (steered[0] != unsteered.selections).any()
    assert answers[0] == answers[1]
    assert [(parameter.device, parameter.shape) for parameter in spread.model.parameters()] == before
    np.testing.assert_array_equal(spread.capture(TEXTS, ITEM_IDS).selections, expected.selections)
    for module in (spread.decoder, *(router.module for router in spread.router_modules)):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@each_family(SHAPES, quick=FEW)
def test_half_on_disk_equals_one_device(family):
    """With routers whose weights exist only while they run, everything is as with all weights in memory."""
    plain, spread = half_on_disk(family)
    weights = [router.module.get_parameter(router.weight_name) for router in spread.router_modules]
    assert any(weight.is_meta for weight in weights)
    assert spread.device == torch.device("cpu")
    require_same(spread, plain)


@each_family(sorted(set(FAMILIES) - UNFETCHED - set(SHAPES)), quick=FEW)
def test_every_family_is_captured_from_disk(family):
    """The proof and the selections of a model that lies half on disk are those of the whole."""
    plain, spread = half_on_disk(family)
    assert spread.fingerprint == plain.fingerprint
    prove_routers(spread, TEXTS[1])
    found, expected = (loaded.capture(TEXTS, ITEM_IDS).selections for loaded in (spread, plain))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("family", sorted(UNFETCHED))
def test_weights_read_past_their_module_are_refused(family):
    """A family that computes with weights that are not there is refused: torch would use what the memory holds."""
    _, spread = half_on_disk(family)
    with pytest.raises(ModelError, match=r"offloaded and used without being fetched.* --device cpu"):
        prove_routers(spread, TEXTS[1])
    with pytest.raises(ModelError, match="offloaded"):
        spread.capture(TEXTS, ITEM_IDS)


def test_embeddings_on_disk():
    """Input ids go to where the embeddings are brought to, not to where their weight is stored."""
    plain = load_model(str(checkpoint("olmoe")), device="cpu")
    spread = load_model(str(checkpoint("olmoe")), device=placed(plain, ["cpu"] * 4, other="disk"))
    assert spread.model.get_input_embeddings().weight.is_meta
    assert spread.device == torch.device("cpu")
    require_same(spread, plain)


@each_family(["deepseek_v3", "minimax_m2", "ernie4_5_moe", "afmoe"], quick=FEW)
def test_buffers_may_be_offloaded_too(family):
    """A model that its caller has offloaded, buffers and all, is read and captured right."""
    plain, other = (load_model(str(checkpoint(family)), device="cpu") for _ in range(2))
    cpu_offload(other.model, torch.device("cpu"), offload_buffers=True)
    spread = HuggingFaceModel(other.model, tokenizer(), name="offloaded")
    router = spread.router_modules[-1]
    assert router.module.get_parameter(router.weight_name).is_meta
    require_same(spread, plain)


def test_auto_needs_no_gpu():
    """``auto`` on a machine whose memory holds the model gives the plain model."""
    plain, spread = (load_model(str(checkpoint("olmoe")), device=device) for device in ("cpu", "auto"))
    np.testing.assert_allclose(
        spread.capture(TEXTS, ITEM_IDS).profiles, plain.capture(TEXTS, ITEM_IDS).profiles, atol=1e-3 if GPUS else 0
    )


def test_without_accelerate_it_says_what_to_install(monkeypatch):
    """Spreading is refused by name where accelerate is missing; one device needs none."""
    monkeypatch.setattr(devices_module, "is_accelerate_available", lambda: False)
    with pytest.raises(ModelError, match=r"device 'auto' needs .* pip install 'isogloss\[multi-gpu\]'"):
        load_model(str(checkpoint("olmoe")), device="auto")
    load_model(str(checkpoint("olmoe")), device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:63"])
def test_unknown_device_is_refused(device):
    """A device that is none, or is not here, is an error that names those that may be given."""
    with pytest.raises(ModelError, match=f"cannot be put on '{device}'.*'auto' to spread"):
        load_model(str(checkpoint("olmoe")), device=device)


def test_map_with_a_gap_is_refused():
    """A device map that forgets a part of the model is an error of ours."""
    with pytest.raises(ModelError, match="cannot load model"):
        load_model(str(checkpoint("olmoe")), device={"model.layers.0": "cpu", "model.layers.1": "disk"})


def test_offloaded_weights_go_with_the_model(monkeypatch, tmp_path):
    """The folder of weights on disk exists as long as the model, and not where loading fails."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, spread = half_on_disk("olmoe")
    assert any(path.suffix == ".safetensors" for path in Path(tmp_path).rglob("*"))
    del spread
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError):
        load_model(str(checkpoint("olmoe")), device={"model.layers.0": "disk"})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("family", [*SHAPES, *sorted(UNFETCHED)])
def test_two_gpus_equal_one(family):
    """Layers on two GPUs, by turns, give what one GPU gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of drivers
        plain = load_model(str(checkpoint(family)), device="cuda:0")
        layers = [index % 2 for index in range(len(decoder_layers(plain)))]
        spread = load_model(str(checkpoint(family)), device=placed(plain, layers, other=0))
    assert len({router.weight().device for router in spread.router_modules}) > 1
    require_same(spread, plain)


@pytest.mark.skipif(GPUS < 1, reason="needs a CUDA device")
@pytest.mark.parametrize("family", SHAPES)
def test_gpu_with_memory_and_disk_equals_gpu(family):
    """Layers on a GPU, in memory and on disk give what the GPU alone gives."""
    plain = load_model(str(checkpoint(family)), device="cuda:0")
    layers = [(0, "cpu", "disk")[index % 3] for index in range(len(decoder_layers(plain)))]
    spread = load_model(str(checkpoint(family)), device=placed(plain, layers, other=0))
    assert spread.device == torch.device("cuda:0")
    require_same(spread, plain)
