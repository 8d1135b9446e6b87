"""A baked checkpoint computes what steering computes, in stock transformers, and differs in the biases' bytes alone."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import shutil

import numpy as np
import pytest
import torch
from damage import accepted_or_refused, damaged
from hypothesis import given
from hypothesis import strategies as st
from models import TEXTS, each_family, row_for, tiny, tokenizer
from safetensors import safe_open
from stored_bytes import stored_bytes

from isogloss.backends.bake import bake
from isogloss.backends.bake import baked as baking
from isogloss.backends.bake.edits import Edit
from isogloss.backends.huggingface import load_model, prove_routers, steer
from isogloss.backends.stored_tensors import StoredTensor, read_places, read_tensor
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Intervention, Plan

OFFSETS = (
    Intervention("offset", 0, (1,), values=(-1.7,)),
    Intervention("offset", 1, (0, 3), values=(2.3, -1.3)),
    Intervention("offset", 3, tuple(range(8)), values=tuple(np.linspace(-2, 2, 8).tolist())),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save(folder, dtype="float32", *, shards=False):
    """A gpt_oss checkpoint with its tokenizer; returns the folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        model = tiny("gpt_oss").model.to(DTYPES[dtype])
        model.save_pretrained(folder, **({"max_shard_size": "60KB"} if shards else {}))
    tokenizer().save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").is_file() is shards
    return folder


def load(folder, dtype="auto"):
    """A checkpoint on the processor."""
    with contextlib.redirect_stderr(io.StringIO()):
        return load_model(str(folder), dtype=dtype, device="cpu")


def plan_of(loaded, *interventions):
    """A plan for this model."""
    return Plan(loaded.fingerprint, interventions or OFFSETS, {"test": "test"})


def baked(folder, output, *interventions, **options):
    """Bake; return the result and both models in float32."""
    plan = plan_of(load(folder), *interventions)
    with contextlib.redirect_stderr(io.StringIO()):
        result = bake(str(folder), plan, output, loading={"device": "cpu"}, **options)
    return result, load(folder, "float32"), load(output, "float32"), plan


@torch.inference_mode()
def answers(loaded, plan=None):
    """Logits of every text, and greedy continuations, in stock transformers or steered."""
    with contextlib.nullcontext() if plan is None else steer(loaded, plan):
        batches = [loaded.tokenizer(text, return_tensors="pt") for text in TEXTS]
        logits = [loaded.model(**batch).logits for batch in batches]
        some = batches[::3]
        written = [loaded.model.generate(**batch, max_new_tokens=8, do_sample=False).tolist() for batch in some]
    return torch.cat(logits, dim=1), written


@pytest.mark.parametrize(
    ("dtype", "shards"),
    [
        ("float32", False),
        pytest.param("float32", True, marks=pytest.mark.slow),
        ("bfloat16", True),
        pytest.param("float16", False, marks=pytest.mark.slow),
    ],
)
def test_equals_steering_with_the_stored_offsets(tmp_path, dtype, shards):
    """Output logits and greedy tokens are those of steering by what the files hold: exact in float32, else rounded."""
    folder = save(tmp_path / "model", dtype, shards=shards)
    result, original, copy, plan = baked(folder, tmp_path / "out")
    stored = []
    for asked in OFFSETS:
        before, after = (model.router_modules[asked.layer].module.bias.double() for model in (original, copy))
        realised = (after - before)[list(asked.experts)].tolist()
        stored.append(dataclasses.replace(asked, values=tuple(realised)))
        off = np.abs(np.float32(asked.values) - np.array(realised)).max()
        assert off <= result.largest_rounding <= {"float32": 3e-7, "bfloat16": 2**-7, "float16": 2**-10}[dtype]
        if dtype == "float32":
            np.testing.assert_allclose(realised, asked.values, atol=3e-7)
    plain, _ = answers(original)
    found, ours = answers(copy)
    # (Wh + b) + c and Wh + (b + c) are two roundings of the same number.
    for expected, tolerance in ((plan_of(original, *stored), 2e-6), (plan, 2e-6 if dtype == "float32" else 0.2)):
        logits, written = answers(original, expected)
        torch.testing.assert_close(found, logits, rtol=0, atol=tolerance)
        if tolerance < 1e-3:
            assert ours == written
    assert (found - plain).abs().max() > 0.5
    prove_routers(copy, TEXTS[1])
    assert result.verification.n_texts == 6
    assert result.verification.largest_difference <= result.largest_rounding + 1e-5


def test_the_plan_is_refused_on_its_own_copy(tmp_path):
    """Offsets cannot be added a second time: the copy is another model than the one that the plan was made for."""
    folder = save(tmp_path / "model")
    _, _, copy, plan = baked(folder, tmp_path / "out")
    with pytest.raises(PlanError, match="made for another model"), steer(copy, plan):
        pass


@pytest.mark.parametrize("shards", [False, True])
def test_every_other_byte_is_the_same(tmp_path, shards):
    """Headers, metadata, order, dtypes and every other tensor are bit-identical; so are all other files."""
    folder = save(tmp_path / "model", "bfloat16", shards=shards)
    (folder / "chat_templates").mkdir()
    (folder / "chat_templates" / "tool.jinja").write_text("{{ messages }}")
    baked(folder, tmp_path / "out")
    (before, headers), (after, others) = stored_bytes(folder), stored_bytes(tmp_path / "out")
    assert headers == others
    assert len(headers) > 3 or not shards
    assert [each[:3] for each in before] == [each[:3] for each in after]
    changed = {old.name for old, new in zip(before, after, strict=True) if old.content != new.content}
    assert changed == {f"model.layers.{layer}.mlp.router.bias" for layer in (0, 1, 3)}
    files, copies = ({p.relative_to(d) for p in d.rglob("*") if p.is_file()} for d in (folder, tmp_path / "out"))
    assert {path.as_posix() for path in copies ^ files} == {"isogloss.json"}
    for path in files:
        if path.suffix != ".safetensors":
            assert (folder / path).read_bytes() == (tmp_path / "out" / path).read_bytes()
        assert not (folder / path).samefile(tmp_path / "out" / path)
    # The written places are the files' own: the library reads the same tensors there.
    for path in sorted((tmp_path / "out").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                place = read_places(tmp_path / "out")[name]
                assert torch.equal(read_tensor(tmp_path / "out", place), file.get_tensor(name))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A checkpoint of several files, and a plan for it."""
    folder = save(tmp_path_factory.mktemp("shards") / "model", "float16", shards=True)
    return folder, plan_of(load(folder))


def require_baked_or_refused(shards, place, seed):
    """Damage the configuration, the index, or a file of weights; where `bake` refuses it, nothing is left."""
    (folder, plan), draws = shards, random.Random(f"bake {seed}")
    shutil.rmtree(place, ignore_errors=True)
    copy, out = shutil.copytree(folder, place / "model"), place / "out"
    files = [copy / "config.json", copy / "model.safetensors.index.json", *sorted(copy.glob("*.safetensors"))]
    path = files[seed % len(files)]
    content, what = damaged(path.name, path.read_bytes(), draws)
    path.write_bytes(content)
    with accepted_or_refused(f"seed {seed}, {path.name}: {what}") as refused:
        bake(str(copy), plan, out, verify=False)
    assert {each.name for each in place.iterdir()} == {"model"} | (set() if refused else {"out"}), what


def test_a_damaged_checkpoint_is_baked_or_refused_in_one_line(shards, tmp_path):
    """A few damages of every file."""
    for seed in range(12):
        require_baked_or_refused(shards, tmp_path / "one", seed)


@pytest.mark.slow
def test_many_damaged_checkpoints_are_baked_or_refused_in_one_line(shards, tmp_path):
    """Many damages of every file."""
    for seed in range(12, 400):
        require_baked_or_refused(shards, tmp_path / "one", seed)


def test_packed_experts_stay_packed(mxfp4_folders, tmp_path):
    """A checkpoint stored as openai/gpt-oss-20b is keeps its four-bit experts, and equals its steered self."""
    packed, _ = mxfp4_folders
    result, original, copy, plan = baked(packed, tmp_path / "out")
    before, after = ({each.name: each for each in stored_bytes(folder)[0]} for folder in (packed, tmp_path / "out"))
    assert after["model.layers.1.mlp.experts.gate_up_proj_blocks"].dtype == "U8"
    assert {name for name in before if before[name] != after[name]} == {
        f"model.layers.{layer}.mlp.router.bias" for layer in (0, 1, 3)
    }
    logits, written = answers(original, plan)
    found, ours = answers(copy)
    torch.testing.assert_close(found, logits, rtol=0, atol=2e-5)
    assert ours == written
    assert result.verification.largest_difference < 1e-5


def test_record_says_what_was_baked(tmp_path):
    """The record names plan, original, tensors and fingerprints, and is the same each time."""
    folder = save(tmp_path / "model")
    result, original, copy, plan = baked(folder, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "isogloss.json").read_text(encoding="utf-8"))
    assert Plan.from_json(record["plan"]) == plan
    assert record["plan_sha256"] == result.sha256 == plan.sha256
    assert record["source"] == "model"
    assert record["fingerprint_before"] == original.fingerprint.to_json()
    assert record["fingerprint_after"] == copy.fingerprint.to_json()
    assert set(record["tensors"]) == {f"model.layers.{layer}.mlp.router.bias" for layer in (0, 1, 3)}
    assert (record["verified"], record["dtype"], record["n_layers"]) == (True, "F32", 3)
    assert str(tmp_path) not in json.dumps(record)
    baked(folder, tmp_path / "again")
    assert (tmp_path / "again" / "isogloss.json").read_bytes() == (tmp_path / "out" / "isogloss.json").read_bytes()


def test_unsteered_weights_are_left_out(tmp_path):
    """Weights in other formats, and folders of them, would serve unsteered: they are named and not copied."""
    folder = save(tmp_path / "model")
    for name in ("pytorch_model.bin", "consolidated.safetensors", "model.gguf", ".gitattributes", "README.md"):
        (folder / name).write_bytes(b"x")
    for name in ("original/dtypes.json", "original/model.safetensors", ".git/config", "metal/model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    result, *_ = baked(folder, tmp_path / "out", verify=False)
    assert result.left_out == ("consolidated.safetensors", "metal/", "model.gguf", "original/", "pytorch_model.bin")
    copied = {path.name for path in (tmp_path / "out").rglob("*")}
    assert copied >= {"README.md", "model.safetensors", "config.json", "tokenizer.json"}
    assert not copied & {"original", "metal", ".git", ".gitattributes", *result.left_out}


def test_verification_finds_a_wrong_bias(tmp_path, monkeypatch):
    """Offsets that are written to the neighbouring experts are found, and nothing is left behind."""
    edits_of = baking.edits_of

    def shifted(checkpoint, plan):
        edits = edits_of(checkpoint, plan)
        return (*edits[:-1], dataclasses.replace(edits[-1], after=edits[-1].after.roll(1)))

    monkeypatch.setattr(baking, "edits_of", shifted)
    folder = save(tmp_path / "model")
    with pytest.raises(ModelError, match=r"layer 3 computes logits that differ from the steered ones by up to [\d.]+"):
        baked(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_verification_finds_a_bias_that_the_model_does_not_load(tmp_path, monkeypatch):
    """A model whose biases are not those of the files is not compared with them."""
    folder = save(tmp_path / "model")
    load_ = baking.load_model

    def other(*arguments, **options):
        loaded = load_(*arguments, **options)
        with torch.no_grad():
            loaded.router_modules[1].module.bias += 0.5
        return loaded

    monkeypatch.setattr(baking, "load_model", other)
    with pytest.raises(
        ModelError, match=r"logit bias of layer 1 is not model\.layers\.1\.mlp\.router\.bias of its files"
    ):
        baked(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verification_finds_a_bias_that_has_no_effect(tmp_path, monkeypatch):
    """A router that ignores its bias is found, though the files are right."""
    folder = save(tmp_path / "model")
    plan = plan_of(load(folder))
    loads = baking.load_model
    seen = []

    def deaf(*arguments, **options):
        loaded = loads(*arguments, **options)
        seen.append(loaded)
        if len(seen) == 2:  # the copy
            router = loaded.router_modules[1].module
            router.forward = lambda hidden: _choose(torch.nn.functional.linear(hidden, router.weight), router.top_k)
        return loaded

    monkeypatch.setattr(baking, "load_model", deaf)
    with pytest.raises(ModelError, match="layer 1 computes logits that differ from the steered ones"):
        bake(str(folder), plan, tmp_path / "out", loading={"device": "cpu"})


def _choose(logits, top_k):
    values, ids = logits.topk(top_k)
    return logits, values.softmax(-1), ids


@each_family()
def test_gpt_oss_alone_has_a_logit_bias(family):
    """Of all families that transformers has, one has a bias of its router logits, as its row says."""
    found = {router.linear_bias_name is not None for router in tiny(family).router_modules}
    assert found == {family == "gpt_oss"} == {row_for(family).logit_bias}


@given(
    bias=st.floats(-4, 4, width=32),
    offset=st.floats(-30, 30, width=32),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_rounding_is_the_distance_to_the_exact_sum(bias, offset, dtype):
    """What a stored sum is off by is at most half a unit in its last place, and is counted in logits."""
    before = torch.tensor([bias]).to(DTYPES[dtype])
    exact = before.double() + float(np.float32(offset))
    after = exact.to(DTYPES[dtype])
    edit = Edit(0, "logit bias", StoredTensor("b", "f", "F32", (1,), 0, 4), before, torch.tensor([offset]), after)
    assert edit.rounding == abs(after.item() - exact.item())
    least = torch.finfo(DTYPES[dtype]).smallest_normal * torch.finfo(DTYPES[dtype]).eps
    for loaded in DTYPES.values():
        asked = before.to(loaded).double() + edit.change.double()
        assert (after.to(loaded).double() - asked).abs() <= edit.allowance(loaded) + 4 * least + 1e-7
