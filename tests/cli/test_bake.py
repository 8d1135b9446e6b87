"""`isogloss bake` writes a whole folder or none, and refuses in one line what it cannot bake exactly."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from learned import LEARNED_LANGUAGES, learned_plan
from models import checkpoint, tokenizer
from safetensors.torch import load_file, save_file

from isogloss.backends.bake import folder as folder_module
from isogloss.backends.huggingface import load_model
from isogloss.backends.open import load
from isogloss.cli import main
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan, write_plan

OFFSET = Intervention("offset", 1, (0, 3), values=(2.3, -1.3))
SERVE = "serve it with the vLLM plugin instead: `ISOGLOSS_PLAN=plan.json vllm serve MODEL`"


def run(*arguments):
    """Run `bake` in this process; return its exit code."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(["bake", *map(str, arguments), "--device", "cpu", "--quiet"])
    sys.stderr.write("".join(line for line in errors.getvalue().splitlines(keepends=True) if "isogloss:" in line))
    return code


def plan_for(path, model, *interventions):
    """Write a plan for the model in a folder; return its path."""
    with contextlib.redirect_stderr(io.StringIO()):
        loaded = load(str(model), device="cpu")
    first = loaded.routers[-1].layer
    write_plan(Plan(loaded.fingerprint, interventions or (Intervention("offset", first, (0,), values=(1.0,)),)), path)
    return path


@pytest.fixture
def model(tmp_path):
    """A copy of the float32 checkpoint that a test may damage."""
    shutil.copytree(checkpoint("gpt_oss"), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def plan(tmp_path):
    """The file of a plan for it."""
    return plan_for(tmp_path / "plan.json", checkpoint("gpt_oss"), OFFSET)


def require_refusal(capsys, folder, code, *parts):
    """Exit code 2, one line with these parts, nothing on stdout, and nothing beside model and plan."""
    streams = capsys.readouterr()
    assert code == 2
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1
    for part in parts:
        assert part in streams.err
    assert {path.name for path in folder.iterdir()} <= {"model", "plan.json", "used"}


@pytest.mark.parametrize("options", [(), ("--no-verify",)])
def test_prints_and_reports(tmp_path, model, plan, capsys, options):
    """The text says how exact it is and ends with the path; the JSON has the promised fields."""
    assert run(model, "--plan", plan, "-o", tmp_path / "out", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "in the float32 logit biases of 1 routers: exact" in lines[0]
    assert lines[1].startswith("not verified" if options else "verified on 6 texts (510 tokens): the plan changes")
    assert lines[-1] == str(tmp_path / "out")
    assert run(model, "--plan", plan, "-o", tmp_path / "other", "--json", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "path", "form", "plan_sha256", "parts", "n_layers", "dtype", "largest_rounding", "lost_share", "verified",
        "largest_difference", "largest_change", "different_choices", "changed_choices", "left_out",
    }  # fmt: skip
    assert (found["path"], found["n_layers"], found["dtype"]) == (str(tmp_path / "other"), 1, "F32")
    assert found["verified"] is not bool(options)
    assert found["largest_rounding"] < 3e-7
    assert bool(options) or found["largest_difference"] < 1e-5


def test_bfloat16_says_how_far_it_rounds(tmp_path, capsys):
    """Sums that bfloat16 cannot hold are said to be rounded, with the largest error in logits."""
    with contextlib.redirect_stderr(io.StringIO()):
        small = load_model(str(checkpoint("gpt_oss")), dtype="bfloat16", device="cpu").model
        small.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    path = plan_for(tmp_path / "plan.json", tmp_path / "model", OFFSET)
    assert run(tmp_path / "model", "--plan", path, "-o", tmp_path / "out", "--json") == 0
    before, after = (
        load_file(tmp_path / name / "model.safetensors")["model.layers.1.mlp.router.bias"] for name in ("model", "out")
    )
    off = (after.double() - before.double())[[0, 3]] - torch.tensor([2.3, -1.3], dtype=torch.float32).double()
    found = json.loads(capsys.readouterr().out)
    assert found["largest_rounding"] == off.abs().max().item() > 1e-4
    assert run(tmp_path / "model", "--plan", path, "-o", tmp_path / "second") == 0
    assert (
        f"exact up to rounding to bfloat16, at most {off.abs().max().item():.2g} of a logit" in capsys.readouterr().out
    )


OTHER_KINDS = [
    Intervention("soft", 1, (1,), strength=0.5),
    Intervention("adaptive", 1, (1,), strength=0.5, values=(1.0,)),
    Intervention("force", 1, (1,)),
    Intervention("suppress", 1, (1,)),
    Intervention("ban", 1, (1,)),
    Intervention("on", 1, (1,)),
    Intervention("off", 1, (1,)),
]


@pytest.mark.parametrize("other", OTHER_KINDS, ids=lambda each: each.kind)
def test_other_kinds_are_refused(tmp_path, model, capsys, other):
    """Even one intervention of another kind is refused, named, with the way out."""
    path = plan_for(tmp_path / "plan.json", model, OFFSET, other)
    code = run(model, "--plan", path, "-o", tmp_path / "out")
    parts = (
        f"cannot be baked: {other.kind} in layer 1 of 2 interventions",
        "expected kinds offset and select alone",
        SERVE,
    )
    require_refusal(capsys, tmp_path, code, *parts)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"phase": "generation"}, "layer 2 for generation"),
        ({"languages": ("sw", "de")}, "layer 2 for deu_Latn and swh_Latn"),
    ],
)
def test_conditions_are_refused(tmp_path, model, capsys, conditions, words):
    """A bias acts on every token, so a plan that does not is refused."""
    path = plan_for(tmp_path / "plan.json", model, OFFSET, Intervention("offset", 2, (0,), values=(1.0,), **conditions))
    code = run(model, "--plan", path, "-o", tmp_path / "out")
    require_refusal(capsys, tmp_path, code, f"cannot be baked: {words} of 2 interventions have conditions", SERVE)


def test_empty_plan_is_refused(tmp_path, model, capsys):
    """A plan without interventions has nothing to bake."""
    with contextlib.redirect_stderr(io.StringIO()):
        fingerprint = load_model(str(model), device="cpu").fingerprint
    write_plan(Plan(fingerprint), tmp_path / "plan.json")
    code = run(model, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out")
    require_refusal(capsys, tmp_path, code, "the plan is empty")


@pytest.mark.parametrize("options", [(), ("--no-verify",)])
def test_plan_for_another_model_is_refused(tmp_path, model, capsys, options):
    """The fingerprint is checked by the files, whether or not the model is loaded."""
    with contextlib.redirect_stderr(io.StringIO()):
        mine = load_model(str(model), device="cpu").fingerprint
    other = Fingerprint(mine.model_type, mine.layers, mine.n_experts, mine.top_k, "0" * 64)
    write_plan(Plan(other, (OFFSET,)), tmp_path / "plan.json")
    code = run(model, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out", *options)
    require_refusal(capsys, tmp_path, code, "made for another model", "router_sha256", mine.router_sha256)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe", "phimoe", "gemma4_text"])
def test_models_without_a_bias_are_refused(tmp_path, capsys, family):
    """Where the logits have no bias, the way out is named."""
    path = plan_for(tmp_path / "plan.json", checkpoint(family))
    code = run(checkpoint(family), "--plan", path, "-o", tmp_path / "out")
    parts = (
        f"the plan cannot be baked into {family}: offset in layer",
        "needs a logit bias of the router; found no bias",
        SERVE,
    )
    require_refusal(capsys, tmp_path, code, *parts)


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "minimax_m2", "zaya"])
def test_selection_biases_are_not_used(tmp_path, capsys, family):
    """A bias that moves the choice alone means another thing than an offset: it holds another kind, and is said to."""
    path = plan_for(tmp_path / "plan.json", checkpoint(family))
    code = run(checkpoint(family), "--plan", path, "-o", tmp_path / "out")
    require_refusal(
        capsys, tmp_path, code, "needs a logit bias", "found a selection bias, which holds kind select alone", SERVE
    )


def test_organism_is_refused(tmp_path, capsys):
    """The shipped model's routers have no bias."""
    path = plan_for(tmp_path / "plan.json", "organism")
    code = run("organism", "--plan", path, "-o", tmp_path / "out")
    require_refusal(capsys, tmp_path, code, "cannot be baked into", "found no bias", SERVE)


def test_baked_checkpoint_is_not_baked_again(tmp_path, model, plan, capsys):
    """Offsets would add up unseen, since the fingerprint is of the weights: the second plan is refused."""
    assert run(model, "--plan", plan, "-o", tmp_path / "used", "--no-verify") == 0
    sha256 = json.loads((tmp_path / "used" / "isogloss.json").read_text())["plan_sha256"]
    capsys.readouterr()
    code = run(tmp_path / "used", "--plan", plan, "-o", tmp_path / "out")
    parts = f"already baked with plan {sha256[:12]}", "offsets would add up", "bake into model"
    require_refusal(capsys, tmp_path, code, *parts)


def used(folder, _model):
    """A folder with a file of somebody's."""
    (folder / "used").mkdir()
    (folder / "used" / "note.txt").write_text("mine")
    return folder / "used"


def a_file(folder, _model):
    """A file."""
    (folder / "used").write_text("mine")
    return folder / "used"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (used, "exists and is not empty"),
        (a_file, "exists and is not empty"),
        (lambda _folder, model: model, "lies in the model's own folder"),
        (lambda _folder, model: model / "baked", "lies in the model's own folder"),
        (lambda _folder, model: model / ".." / "model" / "baked", "lies in the model's own folder"),
        (lambda folder, _model: folder / "nowhere" / "out", "nowhere is no folder"),
        (lambda _folder, _model: Path("/proc/isogloss"), "cannot make the folder /proc/isogloss"),
    ],
    ids=["used", "file", "model", "inside", "dots", "nowhere", "read-only"],
)
def test_outputs_that_are_refused(tmp_path, model, plan, capsys, output, message):
    """What exists is never touched."""
    place = output(tmp_path, model)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    require_refusal(capsys, tmp_path, run(model, "--plan", plan, "-o", place), message)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_empty_folder_is_filled(tmp_path, model, plan):
    """A folder that exists and is empty may be the output."""
    (tmp_path / "out").mkdir()
    assert run(model, "--plan", plan, "-o", tmp_path / "out", "--no-verify") == 0
    assert (tmp_path / "out" / "isogloss.json").is_file()


def test_full_disk_is_refused_before_writing(tmp_path, model, plan, capsys, monkeypatch):
    """The copy's size and the room left are compared and said."""
    room = namedtuple("room", "total used free")(10**12, 0, 2**20)  # noqa: PYI024 - as shutil returns
    monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda _path: room)
    monkeypatch.setattr(folder_module.shutil, "copyfile", pytest.fail)
    code = run(model, "--plan", plan, "-o", tmp_path / "out")
    require_refusal(capsys, tmp_path, code, "GiB; 0.000977 GiB are free", "make room")


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e-9, "float32", "so small that no logit bias changes when the sum is stored as F32"),
        (1e-4, "bfloat16", "so small that no logit bias changes when the sum is stored as BF16"),
        (1e5, "float16", "do not add up to numbers that F16 can hold (at most 6.55e+04)"),
    ],
)
def test_offsets_that_cannot_be_stored_are_refused(tmp_path, model, capsys, value, dtype, message):
    """A plan whose sums all vanish in rounding, or overflow, is not baked as if it were."""
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.router.bias"
    weights[name] = torch.ones(8)
    stored = {key: tensor.to(getattr(torch, dtype)) for key, tensor in weights.items()}
    save_file(stored, model / "model.safetensors", metadata={"format": "pt"})
    path = plan_for(tmp_path / "plan.json", model, Intervention("offset", 1, (2,), values=(value,)))
    require_refusal(capsys, tmp_path, run(model, "--plan", path, "-o", tmp_path / "out"), message)


def rename(weights):
    """Store a bias under another name."""
    weights["model.layers.1.mlp.gate.bias"] = weights.pop("model.layers.1.mlp.router.bias")


def reshape(weights):
    """Store a bias in another shape."""
    weights["model.layers.1.mlp.router.bias"] = weights["model.layers.1.mlp.router.bias"].view(1, 8)


def widen(weights):
    """Store a bias in float64."""
    weights["model.layers.1.mlp.router.bias"] = weights["model.layers.1.mlp.router.bias"].double()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(rename, "hold no such tensor"), (reshape, "F32 of shape [1, 8]"), (widen, "F64 of shape [8]")],
)
def test_biases_that_lie_otherwise_are_refused(tmp_path, model, plan, capsys, damage, message):
    """What is stored in another way than transformers names it is not patched by guess."""
    weights = load_file(model / "model.safetensors")
    damage(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    code = run(model, "--plan", plan, "-o", tmp_path / "out", "--no-verify")
    require_refusal(capsys, tmp_path, code, f"{message} as model.layers.1.mlp.router.bias", "in place")


def cut(model):
    """Lose the end of the weights."""
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble(model):
    """Claim a header of 2^60 bytes."""
    path = model / "model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


def both(model):
    """An index beside the single file."""
    (model / "model.safetensors.index.json").write_text("{}")


def pickled(model):
    """Only weights in another format."""
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def wrong_index(model, weight_map):
    """An index alone."""
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is no whole safetensors file"),
        (scramble, "is no whole safetensors file"),
        (both, "holds both"),
        (pickled, "holds neither model.safetensors nor model.safetensors.index.json; expected"),
        (lambda model: wrong_index(model, {"a": "../model-1.safetensors"}), "no weight_map"),
        (lambda model: wrong_index(model, {"a": "model-2.safetensors"}), "model-2.safetensors is no whole"),
        (lambda model: wrong_index(model, {"a": "model-1.safetensors"}), "a is not in model-1.safetensors"),
        (lambda model: (model / "config.json").unlink(), "holds no config.json"),
    ],
    ids=["cut", "header", "both", "pickled", "path", "absent-file", "absent-tensor", "config"],
)
def test_damaged_checkpoints_are_refused(tmp_path, model, plan, capsys, damage, message):
    """Files that cannot be trusted are not copied."""
    damage(model)
    require_refusal(capsys, tmp_path, run(model, "--plan", plan, "-o", tmp_path / "out", "--no-verify"), message)


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(("fault", "moment"), [(KeyboardInterrupt, 0), (KeyboardInterrupt, 3), (FULL, 0), (FULL, 4)])
def test_interrupted_copy_leaves_nothing(tmp_path, model, plan, monkeypatch, fault, moment):
    """Ctrl-C and a disk that fills up leave neither a folder nor a part of one."""
    calls = iter(range(100))
    plain = shutil.copyfile

    def failing(source, target):
        plain(source, target)
        if next(calls) == moment:
            raise fault

    monkeypatch.setattr(folder_module.shutil, "copyfile", failing)
    code = run(model, "--plan", plan, "-o", tmp_path / "out", "--no-verify")
    assert code == (130 if fault is KeyboardInterrupt else 2)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "plan.json"}


def test_file_that_changes_meanwhile_is_refused(tmp_path, model, plan, capsys, monkeypatch):
    """Where the copied bias is not the one that was read, nothing is written."""
    plain = shutil.copyfile

    def changing(source, target):
        plain(source, target)
        if target.suffix == ".safetensors":
            target.write_bytes(bytes(target.stat().st_size))

    monkeypatch.setattr(folder_module.shutil, "copyfile", changing)
    code = run(model, "--plan", plan, "-o", tmp_path / "out", "--no-verify")
    require_refusal(capsys, tmp_path, code, "model.safetensors was changed while it was copied")


KILLED = """
import os, shutil, signal, sys
plain = shutil.copyfile
def dying(source, target):
    plain(source, target)
    if target.suffix == ".safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfile = dying
from isogloss.backends.open import load
from isogloss.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_bake_is_absent_and_then_whole(tmp_path, model, plan):
    """SIGKILL in the middle of the copy leaves no output; the same command then writes it and clears up."""
    command = ["bake", str(model), "--plan", str(plan), "-o", str(tmp_path / "out"), "--no-verify"]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.unfinished-*"))) == 1
    assert run(*command[1:]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", "plan.json", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(p.name for p in model.iterdir()), "isogloss.json"}


def test_model_from_the_hub_is_copied_as_files(tmp_path, model, plan, monkeypatch):
    """The hub's cache holds links; the copy holds files, and its record names hub id and commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = tmp_path / "hub" / "models--someone--tiny"
    (hub / "blobs").mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(commit)
    (hub / "snapshots" / commit).mkdir(parents=True)
    for path in model.iterdir():
        shutil.copy(path, hub / "blobs" / path.name)
        (hub / "snapshots" / commit / path.name).symlink_to(hub / "blobs" / path.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=True)
    assert run("someone/tiny", "--plan", plan, "-o", tmp_path / "out", "--no-verify") == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    record = json.loads((tmp_path / "out" / "isogloss.json").read_text())
    assert (record["source"], record["revision"]) == ("someone/tiny", commit)
    name = "model.layers.1.mlp.router.bias"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (model, tmp_path / "out"))
    torch.testing.assert_close(after[[0, 3]] - before[[0, 3]], torch.tensor([2.3, -1.3]))


def learn(folder, model, **options):
    """Learn a plan for the model beside its folder; return it, and the place of its file."""
    with contextlib.redirect_stderr(io.StringIO()):
        plan = learned_plan(load(str(model), device="cpu"), folder / "learned", **options)
    return plan, folder / "learned" / "plan.json"


def test_a_learned_plan_is_baked(tmp_path, model, capsys):
    """One set of offsets for all languages is in the biases, and does what the plan does."""
    plan, path = learn(tmp_path, model, shared=True)
    assert run(model, "--plan", path, "-o", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert f"plan {plan.sha256[:12]} is in the float32 logit biases of {len(plan.layers)} routers: exact" in shown
    assert "verified on 6 texts" in shown
    assert len(plan.layers) > 1


def test_a_plan_learned_by_language_is_refused(tmp_path, model, capsys):
    """A bias acts on every request."""
    plan, path = learn(tmp_path, model)
    assert set(plan.languages) == set(LEARNED_LANGUAGES)
    assert run(model, "--plan", path, "-o", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a bias acts on every token" in line
    assert SERVE in line
    assert not (tmp_path / "out").exists()
