"""Both backends are a `Model`, nothing outside backends/ names one of them, and threads hold for the organism alone."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch
from models import checkpoint, tiny

import isogloss
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.backends.model import Model
from isogloss.backends.open import BACKENDS, checks_of, load, refuse_unsupported
from isogloss.backends.vllm.model import VLLMModel
from isogloss.cli.main import main
from isogloss.errors import ModelError, RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.files import read_json, write_json
from isogloss.organism.shipped import scene_corpus
from isogloss.runs import open_run
from isogloss.steering import Intervention, Plan
from isogloss.workflows.capture import capture_corpus

MEMBERS = sorted(name for name in vars(Model) if not name.startswith("_"))
ENGINES = [HuggingFaceModel, VLLMModel]


@pytest.fixture
def four_threads():
    """A process that computes on four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_of_the_protocol_is_there(engine, name):
    """Of its own, or made of others; methods take at least the same parameters."""
    promised, member = inspect.getattr_static(Model, name), inspect.getattr_static(engine, name)
    refused = {"route_tokens", "route_texts", "held_bytes"} if engine is VLLMModel else set()
    inherited = {"generate", "log_likelihoods"} | refused
    assert (member is not promised) == (name not in inherited)
    assert callable(member) == callable(promised)
    if callable(promised):
        expected, parameters = (
            [(each.name, each.kind, each.default) for each in list(inspect.signature(function).parameters.values())[1:]]
            for function in (promised, member)
        )
        assert [each for each in parameters if each in expected] == expected


@pytest.mark.parametrize("name", Model.__annotations__)
def test_every_attribute_of_the_protocol_is_there(name):
    """As the constructor sets it, or the class."""
    assert hasattr(tiny("olmoe"), name)


@pytest.mark.parametrize("with_plan", [False, True])
def test_the_checks_that_a_backend_promises_are_those_that_it_has(with_plan):
    """Names and order; of the transformers backend, whose model is at hand."""
    loaded = tiny("olmoe")
    plan = Plan(loaded.fingerprint, (Intervention("ban", 1, (0,)),)) if with_plan else None
    assert tuple(loaded.checks(plan)) == checks_of("huggingface", with_plan=with_plan)


def test_only_backends_name_a_backend():
    """No module elsewhere imports `isogloss.backends.huggingface` or `isogloss.backends.vllm`, apart from learning."""
    root = Path(isogloss.__file__).parent
    named = set()
    for path in root.rglob("*.py"):
        if path.is_relative_to(root / "backends") or path.is_relative_to(root / "learning"):
            continue  # gradients are of transformers alone
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(
                module.startswith(("isogloss.backends.huggingface", "isogloss.backends.vllm")) for module in modules
            ):
                named.add(path.relative_to(root).as_posix())
    assert not named


def test_an_unknown_backend_is_refused():
    """With those that there are."""
    for call in (lambda: load("organism", backend="tpu"), lambda: refuse_unsupported("tpu")):
        with pytest.raises(ModelError, match=f"there is no backend 'tpu'; choose {' or '.join(BACKENDS)}"):
            call()


@pytest.mark.parametrize(
    ("argument", "instead"),
    [("dtype", "such as --dtype"), ("model", "name it as the model"), ("worker_extension_cls", "isogloss needs it")],
)
def test_what_isogloss_tells_vllm_itself_is_refused_wherever_it_is_written(tmp_path, capsys, argument, instead):
    """By an option of a command, in a file of settings, and in Python."""
    (tmp_path / "study.toml").write_text(f'model = "me/x"\nbackend = "vllm"\nengine = {{ {argument} = "x" }}')
    given = ("--backend", "vllm", "--engine", f"{argument}=x")
    assert main(["capture", "me/x", "--corpus", "organism", *given, "-o", str(tmp_path / "run")]) == 2
    assert main(["study", str(tmp_path / "study.toml"), "-o", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(f"{argument} is no argument to give to vLLM" in line and instead in line for line in errors)
    with pytest.raises(ModelError, match=instead):
        load("me/x", backend="vllm", engine={argument: "x"})
    assert not (tmp_path / "run").exists()


def test_loading_takes_a_folder_and_its_options():
    """What a manifest says of it is that of the loaded checkpoint."""
    model = load(str(checkpoint("olmoe")), dtype="bfloat16", device="cpu")
    assert (model.name, model.backend, model.dtype) == (checkpoint("olmoe").name, "huggingface", "bfloat16")
    assert model.fingerprint == tiny("olmoe").fingerprint


@pytest.mark.usefixtures("four_threads")
def test_the_organism_computes_on_one_thread_and_the_process_keeps_its_own():
    """While any method runs, and not when it is loaded, steered or left by an exception."""
    model = load("organism")
    other = tiny("olmoe")
    assert (model.threads, other.threads, torch.get_num_threads()) == (1, 4, 4)
    seen = []
    model.decoder.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    texts = list(scene_corpus(2, languages=("eng_Latn",)).texts["eng_Latn"])
    plan = Plan(model.fingerprint, (Intervention("ban", 2, (0, 1)),))
    model.prove(texts[0])
    model.capture(texts, ["a", "b"])
    with model.steer(plan):
        model.answer(texts, max_new_tokens=2)
        assert torch.get_num_threads() == 4
    model.log_likelihoods([("", text) for text in texts])
    model.change(plan, texts)
    for check in model.checks().values():
        check()
    assert set(seen) == {1}
    with pytest.raises(TypeError):
        model.capture(None, ["a"])
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_a_capture_under_other_threads_is_not_gone_on_with(tmp_path):
    """The message names the variable; a manifest that does not say on how many threads it was made is taken up."""
    model, corpus = tiny("olmoe"), scene_corpus(2, languages=("eng_Latn", "deu_Latn"))
    capture_corpus(model, corpus, tmp_path / "run")
    assert open_run(tmp_path / "run").manifest.threads == 4
    torch.set_num_threads(2)
    with pytest.raises(RunError, match=r"on 4 threads, and this process computes on 2.*set OMP_NUM_THREADS=4"):
        capture_corpus(model, corpus, tmp_path / "run")
    manifest = read_json(tmp_path / "run" / "manifest.json")
    del manifest["threads"]
    write_json(tmp_path / "run" / "manifest.json", manifest)
    assert capture_corpus(model, corpus, tmp_path / "run").manifest.threads is None


@pytest.mark.usefixtures("four_threads")
def test_an_evaluation_under_other_threads_is_not_gone_on_with(tmp_path):
    """As a capture; settings without the number are taken up."""
    model = load("organism")
    task = load_task("organism", languages=["en"], n_items=2)
    plans = {"plan": Plan(model.fingerprint, (Intervention("ban", 2, (0, 1, 2, 3)),))}
    out, options = tmp_path / "eval", RunOptions(batch_size=2)
    run_evaluation(model, task, plans, out=out, options=options)
    settings = read_json(out / "settings.json")
    assert settings["threads"] == 1
    other = HuggingFaceModel(model.model, model.tokenizer, name="organism", threads=2)
    with pytest.raises(RunError, match=r"on 1 threads, and this process computes on 2.*set OMP_NUM_THREADS=1"):
        run_evaluation(other, task, plans, out=out, options=options)
    write_json(out / "settings.json", {name: value for name, value in settings.items() if name != "threads"})
    run_evaluation(other, task, plans, out=out, options=options)
