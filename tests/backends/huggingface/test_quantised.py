"""Quantised checkpoints and training mode: proven right, or refused with the way out."""

from __future__ import annotations

import shutil
import tempfile

import numpy as np
import pytest
import torch
from configs import randomise, tiny_config
from fp8_checkpoints import fp8_folders, set_quantisation
from kinds import forced_and_banned
from models import ITEM_IDS, TEXTS, checkpoint, generate, tiny, tokenizer
from safetensors.torch import load_file
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations import mxfp4

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import (
    HuggingFaceModel,
    load_model,
    measure_change,
    prove_routers,
    steer,
)
from isogloss.backends.huggingface import devices as devices_module
from isogloss.backends.huggingface.checks import try_padding
from isogloss.cli import main
from isogloss.errors import ModelError
from isogloss.runs import open_run


def steered(loaded):
    """Selections under the plan."""
    with steer(loaded, forced_and_banned(loaded)):
        return loaded.capture(TEXTS, ITEM_IDS).selections


def require_same(found, expected):
    """Capture and steering of both models agree exactly."""
    assert found.fingerprint == expected.fingerprint
    prove_routers(found, TEXTS[1])
    ours, theirs = (loaded.capture(TEXTS, ITEM_IDS) for loaded in (found, expected))
    np.testing.assert_array_equal(ours.selections, theirs.selections)
    np.testing.assert_allclose(ours.profiles, theirs.profiles, atol=1e-6)
    np.testing.assert_array_equal(steered(found), steered(expected))
    assert generate(found, TEXTS[:2], max_new_tokens=3) == generate(expected, TEXTS[:2], max_new_tokens=3)


@pytest.mark.parametrize("dequantize", [False, True])
def test_mxfp4_checkpoint_equals_its_dequantised_weights(mxfp4_folders, dequantize):
    """Without kernels transformers dequantises on load, asked or not; capture and steering are those of the weights."""
    packed, dense = mxfp4_folders
    assert "model.layers.0.mlp.experts.gate_up_proj_blocks" in load_file(packed / "model.safetensors")
    loaded, expected = (
        load_model(str(packed), device="cpu", dequantize=dequantize),
        load_model(str(dense), device="cpu"),
    )
    weights = expected.model.state_dict()
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    require_same(loaded, expected)
    assert loaded.config_sha256 == load_model(str(packed), device="cpu", dequantize=not dequantize).config_sha256


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "minimax_m2"])
def test_fp8_checkpoint_equals_its_dequantised_weights(family, tmp_path):
    """Checkpoints in 8-bit floats with a scale per block, as DeepSeek-V3's are, give what their weights give."""
    packed, dense = fp8_folders(family, tmp_path)
    loaded = load_model(str(packed), device="cpu", dequantize=True)
    require_same(loaded, load_model(str(dense), device="cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_fp8_checkpoint_whose_other_matrices_are_bfloat16(dtype, device, tmp_path):
    """As published ones are: all parameters have the dtype that is asked for, by default the configuration's."""
    packed, dense = fp8_folders("qwen3_moe", tmp_path, plain=torch.bfloat16)
    loaded = load_model(str(packed), device=device, dtype=dtype, dequantize=True)
    expected = load_model(str(dense), device="cpu", dtype="float32" if dtype == "auto" else dtype)
    wanted = loaded.model.config.dtype if dtype == "auto" else getattr(torch, dtype)
    assert {each.dtype for each in loaded.model.parameters()} == {wanted}
    if dtype == "auto":
        expected.model.to(wanted)
    require_same(loaded, expected)


def test_mxfp4_without_accelerate(mxfp4_folders, monkeypatch):
    """For MXFP4 transformers wants accelerate, which is said by name; dequantising needs none."""
    monkeypatch.setattr(devices_module, "is_accelerate_available", lambda: False)
    with pytest.raises(ModelError, match=r"quantised needs the package accelerate.*isogloss\[multi-gpu\]"):
        load_model(str(mxfp4_folders[0]), device="cpu")
    load_model(str(mxfp4_folders[0]), device="cpu", dequantize=True)


def test_dequantize_on_the_command_line(mxfp4_folders, tmp_path, monkeypatch):
    """``capture --dequantize`` asks transformers to dequantise, and captures what the dense weights give."""
    asked = []
    set_up = mxfp4.replace_with_mxfp4_linear

    def listen(model, **kwargs):
        asked.append(kwargs["quantization_config"].dequantize)
        return set_up(model, **kwargs)

    monkeypatch.setattr("transformers.integrations.replace_with_mxfp4_linear", listen)
    # As on a machine that has the kernels and a GPU: transformers then dequantises only where it is told to.
    quantizer = "transformers.quantizers.quantizer_mxfp4"
    monkeypatch.setattr(f"{quantizer}.Mxfp4HfQuantizer.validate_environment", lambda *_a, **_k: None)
    monkeypatch.setattr(f"{quantizer}.get_current_accelerator", lambda: torch.device("cuda"))
    options = ["--corpus", "organism", "--languages", "eng_Latn", "--items", "3", "--device", "cpu"]
    for folder, extra in zip(mxfp4_folders, (["--dequantize"], []), strict=True):
        assert main(["capture", str(folder), *options, *extra, "-o", str(tmp_path / folder.name)]) == 0
    assert asked == [True]
    runs = [open_run(tmp_path / folder.name).load("eng_Latn").selections for folder in mxfp4_folders]
    np.testing.assert_array_equal(*runs)


def test_dequantize_is_refused_where_transformers_cannot(tmp_path):
    """A method without the switch is refused before any weight is read, with those that have it."""
    tokenizer().save_pretrained(tmp_path)
    config = tiny_config("olmoe")
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot dequantise .* 'gptq' .*fp8.*mxfp4"):
        load_model(str(tmp_path), device="cpu", dequantize=True)


def test_dequantize_leaves_a_plain_checkpoint_alone():
    """What is stored in floating point loads as without the option."""
    plain, asked = (load_model(str(checkpoint("olmoe")), device="cpu", dequantize=flag) for flag in (False, True))
    assert plain.fingerprint == asked.fingerprint


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_router_is_refused(dtype):
    """A router whose matrix is no 16 or 32 bit number is refused on loading, with the option that leaves it out."""
    model = tiny("afmoe").model
    weight = model.model.layers[2].mlp.router.gate.weight
    model.model.layers[2].mlp.router.gate.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    with pytest.raises(ModelError, match=r"router's gate\.weight is quantised.*llm_int8_skip_modules"):
        HuggingFaceModel(model, tokenizer(), name="quantised")


def test_router_in_a_wrapping_tensor_is_refused():
    """As torchao and quanto quantise: a tensor that calls itself float32, and holds its numbers in others."""
    model = tiny("afmoe").model
    gate = model.model.layers[2].mlp.router.gate
    wrapped = TwoTensor(gate.weight.detach(), gate.weight.detach())
    assert wrapped.dtype == torch.float32
    gate.weight = torch.nn.Parameter(wrapped, requires_grad=False)
    with pytest.raises(ModelError, match=r"router's gate\.weight is quantised"):
        HuggingFaceModel(model, tokenizer(), name="wrapped")


@pytest.mark.parametrize(
    ("quantisation", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"gptq, 4 bits.*pip install optimum"),
        ({"quant_method": "awq", "bits": 4}, r"awq, 4 bits.*pip install gptqmodel"),
        ({"quant_method": "aqlm"}, r"aqlm.*pip install aqlm"),
        ({"quant_method": "of tomorrow"}, r"quantised by 'of tomorrow'; transformers knows .*fp8"),
    ],
)
def test_missing_loader_is_named(quantisation, named, tmp_path):
    """What loads a method and is not installed is named in one line, with the way to install it."""
    folder = shutil.copytree(checkpoint("olmoe"), tmp_path / "quantised")
    set_quantisation(folder, quantisation)
    with pytest.raises(ModelError, match=named) as refused:
        load_model(str(folder), device="cpu")
    assert "\n" not in str(refused.value)


def with_bitsandbytes(family, bits):
    """A model whose linear layers bitsandbytes has quantised; sizes are multiples of its kernels' blocks."""
    pytest.importorskip("bitsandbytes")
    config = tiny_config(family)
    config.hidden_size = config.intermediate_size = 128
    config.head_dim = 32
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        randomise(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).save_pretrained(folder)
        settings = BitsAndBytesConfig(
            load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_compute_dtype=torch.float32
        )
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"}
        )


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["mixtral", "olmoe", "phimoe"])
def test_bitsandbytes_leaves_these_routers_alone(family, bits, tmp_path):
    """Routers that are no plain linear layer stay in floating point: proven, captured and steered, also once saved."""
    model = with_bitsandbytes(family, bits)
    assert {type(parameter).__name__ for parameter in model.parameters()} & {"Int8Params", "Params4bit"}
    loaded = HuggingFaceModel(model, tokenizer(), name="bitsandbytes")
    prove_routers(loaded, TEXTS[1])
    assert steered(loaded)[..., 0].sum() == 0
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    again = load_model(str(tmp_path), device="cpu")
    prove_routers(again, TEXTS[1])
    assert again.fingerprint == loaded.fingerprint
    with pytest.raises(ModelError, match=r"cannot dequantise .* 'bitsandbytes'"):
        load_model(str(tmp_path), device="cpu", dequantize=True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["afmoe", "hunyuan_v1_moe", "longcat_flash"])
def test_routers_that_bitsandbytes_quantises_are_refused(family, bits):
    """A router with a plain linear layer is quantised with the rest."""
    model = with_bitsandbytes(family, bits)
    with pytest.raises(ModelError, match=r"is quantised.*llm_int8_skip_modules"):
        HuggingFaceModel(model, tokenizer(), name="bitsandbytes")


@pytest.mark.parametrize("family", ["phimoe", "dbrx", "minimax", "olmoe"])
def test_training_mode_is_refused(family):
    """A model, or one part of it, that was put back into training mode is neither captured nor proven nor tried."""
    loaded = tiny(family)
    plan = forced_and_banned(loaded)
    loaded.model.train()
    for use in (
        lambda: prove_routers(loaded, TEXTS[1]),
        lambda: loaded.capture(TEXTS, ITEM_IDS),
        lambda: measure_change(loaded, plan, TEXTS),
    ):
        with pytest.raises(ModelError, match=r"the model is in training mode.*model\.eval\(\)"):
            use()
    loaded.model.eval()
    loaded.router_modules[-1].module.train()
    with pytest.raises(ModelError, match=r"(gate|router) is in training mode"):
        loaded.capture(TEXTS, ITEM_IDS)
    loaded.model.eval()
    prove_routers(loaded, TEXTS[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_activations_that_are_quantised_at_every_call_depend_on_the_batch():
    """One scale for all that a call reads: alone and together other experts are chosen, which `doctor` refuses."""
    plain = tiny("olmoe")
    model = torch.ao.quantization.quantize_dynamic(plain.model, {torch.nn.Linear}, dtype=torch.qint8)
    loaded = HuggingFaceModel(model, plain.tokenizer, name="int8")
    alone, together = (
        loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(batch_tokens=size)).selections for size in (1, 10**6)
    )
    assert (alone != together).any()
    with pytest.raises(ModelError, match="padding on the right changes"):
        try_padding(loaded)
