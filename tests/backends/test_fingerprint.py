"""One checkpoint is one model in every dtype that it is loaded in, and another checkpoint is another one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from models import FEW, checkpoint, each_family, tiny

from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import Intervention, Plan, read_plan, write_plan

DTYPES = ("float32", "bfloat16", "float16")


def loaded(folder, dtype):
    """The checkpoint in a dtype."""
    return load_model(str(folder), dtype=dtype, device="cpu")


@each_family(FEW, quick=("olmoe", "deepseek_v3"))
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_checkpoint_in_16_bits_has_one_fingerprint(tmp_path, family, stored):
    """Small weights, which float16 rounds and bfloat16 does not, included."""
    model = tiny(family)
    router = model.router_modules[0]
    with torch.no_grad():
        router.module.get_parameter(router.weight_name)[:2] *= 1e-5
    model.model.to(stored).save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    found = {dtype: loaded(tmp_path, dtype).fingerprint for dtype in DTYPES}
    for one, other in itertools.permutations(DTYPES, 2):
        assert not found[one].differences(found[other]), (one, other)


def test_a_checkpoint_in_float32_agrees_with_itself_in_16_bits(tmp_path):
    """A plan made in float32 steers in both; that of another model in neither."""
    folder = checkpoint("olmoe")
    whole = loaded(folder, "float32").fingerprint
    plan = Plan(whole, (Intervention("ban", whole.layers[0], (0,)),))
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").fingerprint.float16_sha256 == whole.float16_sha256
    for dtype in DTYPES:
        model = loaded(folder, dtype)
        assert not model.fingerprint.differences(whole)
        with steer(model, plan):
            model.generate(["Anna"], max_new_tokens=1)
        assert loaded(checkpoint("olmoe", 1), dtype).fingerprint.differences(whole)
    assert replace(whole, float16_sha256=None) == whole  # as in files of older versions
    assert "float16_sha256" not in replace(whole, float16_sha256=None).to_json()
    half = replace(whole, router_sha256="0" * 64, float16_sha256=None)
    assert set(whole.differences(half)) == set(half.differences(whole)) == {"router_sha256"}
