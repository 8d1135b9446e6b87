"""llama.cpp computes by an adapter what transformers computes with the weights changed, and not what the base does."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from adapters import ADAPTED_FAMILIES

from adapted import adapter_of, baked, base, changed, expected, largest, loaded
from checkpoints import checkpoint, prompts
from isogloss.backends.bake import bake
from isogloss.backends.huggingface import steer
from isogloss.steering import Intervention, Plan
from llama import TOLERANCE, convert, gguf_of, log_probs, quantised

EFFECT = 0.1  # least of what an adapter must change somewhere: an ignored one changes nothing
SHARE = 0.1  # of the effect, that two ways to the same sum may be apart in quantised files


@pytest.mark.parametrize("family", ADAPTED_FAMILIES)
def test_an_adapter_file_acts(family, record_property):
    """With scale 1, 0.5, and added twice; without it the base is answered."""
    file = baked(family, "gguf-lora")
    assert largest(changed(family), base(family)) > EFFECT
    found = {
        "base": largest(log_probs(gguf_of(family), prompts()), base(family)),
        "adapter": largest(log_probs(gguf_of(family), prompts(), adapters=[(file, 1.0)]), changed(family)),
        "half": largest(log_probs(gguf_of(family), prompts(), adapters=[(file, 0.5)]), changed(family, 0.5)),
        "twice": largest(log_probs(gguf_of(family), prompts(), adapters=[(file, 0.5)] * 2), changed(family)),
    }
    record_property("largest", found)
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("family", ADAPTED_FAMILIES)
def test_an_edited_file_acts(family):
    """The adapter inside the file is the adapter in the weights."""
    assert largest(log_probs(baked(family, "gguf"), prompts()), changed(family)) < TOLERANCE


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K_M"])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_an_edited_quantised_file_acts(family, kind):
    """It answers as the quantised base with the adapter beside it, whose products llama.cpp computes apart."""
    beside = log_probs(quantised(family, kind), prompts(), adapters=[(baked(family, "gguf-lora"), 1.0)])
    inside = log_probs(baked(family, "gguf", kind), prompts())
    base = log_probs(quantised(family, kind), prompts())
    assert largest(inside, base) > EFFECT
    # Products of 8 bits round what they read, so that last bits of a router's logits show later, now and then.
    apart, effect = (
        np.mean([np.abs(one - two).mean() for one, two in zip(inside, other, strict=True)]) for other in (beside, base)
    )
    assert apart < SHARE * effect, apart / effect


def test_offsets_in_a_file_act(tmp_path):
    """A plan in the biases of GPT-OSS is the plan of transformers."""
    model = loaded("gpt_oss")
    offsets = (Intervention("offset", 0, (1,), values=(-1.7,)), Intervention("offset", 2, (0, 3), values=(2.3, -1.3)))
    plan = Plan(model.fingerprint, offsets)
    path = tmp_path / "plan.gguf"
    bake(str(gguf_of("gpt_oss")), plan, path)
    with steer(model, plan):
        steered = expected(model)
    assert largest(steered, base("gpt_oss")) > EFFECT
    assert largest(log_probs(path, prompts()), steered) < TOLERANCE


@pytest.mark.parametrize("family", ["qwen3_moe", "granitemoe"])
def test_llama_cpp_converts_the_folder_to_the_same_file(family, tmp_path):
    """Our file has the names and numbers that llama.cpp's own converter makes of the adapter's folder of PEFT."""
    folder = checkpoint(family, for_llama=True)
    bake(str(folder), adapter_of(family), tmp_path / "peft", form="peft")
    convert(
        "convert_lora_to_gguf.py", tmp_path / "peft", "--base", folder, "--outtype", "f32", "--outfile", tmp_path / "a"
    )
    ours, theirs = (
        {each.name: np.array(each.data) for each in gguf.GGUFReader(path).tensors}
        for path in (baked(family, "gguf-lora"), tmp_path / "a")
    )
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=0, atol=1e-6)
