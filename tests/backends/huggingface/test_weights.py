"""The hash of a model's weights, in memory and in files, sees one changed tensor and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from models import checkpoint, tiny
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from isogloss.backends.huggingface.weights import hash_weights
from isogloss.backends.stored_tensors import hash_files


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sees_one_expert(family, dtype):
    """One expert's matrix negated or replaced is another model; a copy is the same one, compiled or not."""
    model = tiny(family, dtype=dtype).model
    before = hash_weights(model)
    assert hash_weights(copy.deepcopy(model)) == before
    model.compile(backend="eager")
    assert hash_weights(torch.compile(model, backend="eager")) == before
    fused = [parameter for name, parameter in model.named_parameters() if "experts" in name and parameter.ndim == 3]
    for parameter in fused:
        for place in (0, len(parameter) - 1):
            with torch.no_grad():
                parameter[place] *= -1
            assert hash_weights(model) != before
            with torch.no_grad():
                parameter[place] *= -1
    assert fused
    assert hash_weights(model) == before


def test_large_matrices_are_seen_wherever_they_change():
    """A contiguous thousandth anywhere, and a hundredth of the values at random, change the hash."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Linear(1024, 512, bias=False, dtype=torch.bfloat16)
    nn.init.normal_(module.weight, generator=generator)
    before, flat = hash_weights(module), module.weight.data.view(-1)
    length = len(flat) // 1000
    for start in torch.randint(len(flat) - length, (20,), generator=generator).tolist():
        flat[start : start + length] *= -1
        assert hash_weights(module) != before
        flat[start : start + length] *= -1
    flat[torch.randperm(len(flat), generator=generator)[: len(flat) // 100]] *= -1
    assert hash_weights(module) != before


def test_names_shapes_dtypes_and_strides():
    """Swapped tensors, another shape and another dtype are other weights; how a tensor lies in memory is not."""
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    before = hash_weights(module)
    assert hash_weights(nn.Sequential(module[1], module[0])) != before
    assert hash_weights(copy.deepcopy(module).to(torch.bfloat16)) != before
    strided = copy.deepcopy(module)
    strided[0].weight.data = strided[0].weight.data.t().contiguous().t()
    assert hash_weights(strided) == before
    for each in strided:
        each.weight.data = each.weight.data.reshape(2, 8)
    assert hash_weights(strided) != before


def test_every_dtype_is_hashed():
    """Bytes of 8-bit floats, integers and booleans are sampled like others; without data the hash is unknown."""
    for dtype in (torch.float8_e4m3fn, torch.int8, torch.uint8, torch.bool, torch.int64, torch.float16):
        module = nn.Module()
        module.register_buffer("codes", torch.arange(2).to(dtype))
        before = hash_weights(module)
        module.codes = torch.tensor([0, 0]).to(dtype)
        assert hash_weights(module) != before
    assert hash_weights(nn.Linear(2, 2, device="meta")) is None


def test_offloaded_weights_are_the_same(tmp_path):
    """A model spread over memory and disk has the hash that it has in memory."""
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint("olmoe"))
    parts = [name for name, _ in loaded.model.named_children() if name != "layers"]
    layers = {f"model.layers.{number}": "disk" for number in range(len(loaded.model.layers))}
    places = {**{f"model.{name}": "cpu" for name in parts}, **layers, "lm_head": "cpu"}
    spread = AutoModelForCausalLM.from_pretrained(
        checkpoint("olmoe"), device_map=places, offload_folder=tmp_path, offload_state_dict=True
    )
    assert any(parameter.is_meta for parameter in spread.parameters())
    assert hash_weights(spread) == hash_weights(loaded)


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss"])
def test_files_of_one_expert(tmp_path, family):
    """One expert's matrix negated in one of several files is another checkpoint."""
    state = load_file(checkpoint(family) / "model.safetensors")
    save_torch_state_dict(state, tmp_path, max_shard_size=sum(t.nbytes for t in state.values()) // 3)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    before = hash_files(tmp_path)
    for file in files:
        tensors = load_file(file)
        for name in [name for name in tensors if "experts" in name]:
            whole = tensors[name]
            for part in whole if whole.ndim == 3 else [whole]:
                part.neg_()
                save_file(tensors, file, {"format": "pt"})
                assert hash_files(tmp_path) != before, name
                part.neg_()
        save_file(tensors, file, {"format": "pt"})
        assert hash_files(tmp_path) == before


def test_files_large_and_small(tmp_path):
    """Of large tensors, any 256 KiB and any eighth; of small ones every byte; names, shapes and dtypes too."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(1200, 1000, generator=generator)
    small = torch.randn(3, 5, generator=generator)
    file = tmp_path / "model.safetensors"

    def hashed(**tensors):
        save_file(tensors, file, {"format": "pt"})
        return hash_files(tmp_path)

    before = hashed(large=large, small=small)
    for start in torch.randint(large.numel() - 2**16, (5,), generator=generator).tolist():
        changed = large.clone()
        changed.view(-1)[start : start + 2**16] += 1
        assert hashed(large=changed, small=small) != before
    for place in range(small.numel()):
        changed = small.clone()
        changed.view(-1)[place] += 1
        assert hashed(large=large, small=changed) != before
    assert hashed(large=large, small=small.reshape(5, 3)) != before
    assert hashed(large=large, other=small) != before
    assert hashed(large=large, small=small.view(torch.int32)) != before
    assert hashed(large=large, small=small) == before
