"""What files from others can do: each claim of SECURITY.md, tried."""

from __future__ import annotations

import ast
import html
import json
import os
import pickle
import shutil
import socket
import threading
from pathlib import Path

import pytest
import torch
from commands import run
from models import checkpoint
from published_layouts import write_repository
from run_examples import LANGUAGES, write

import isogloss
from isogloss.backends.huggingface import load_model
from isogloss.corpora import load_corpus
from isogloss.errors import CorpusError, IsoglossError, ModelError
from isogloss.steering import read_steering

PAGE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path):
    """A file that is there only if code of an untrusted file ran."""
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists()


@pytest.fixture
def model(tmp_path):
    """A copy of a checkpoint."""
    return Path(shutil.copytree(checkpoint("olmoe"), tmp_path / "model"))


def test_the_source_neither_unpickles_nor_unpacks_nor_evaluates():
    """No module that does so is imported, and no such function is called."""
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "zipfile", "tarfile", "runpy"}
    for path in Path(isogloss.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert not modules & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile"}, path


@pytest.mark.parametrize("written", ["engine", "--engine"])
def test_vllm_is_not_told_to_run_code_of_a_checkpoint(tmp_path, capsys, written):
    """Neither by a file of settings nor by an option."""
    given = ["--engine", "trust_remote_code=true"] if written == "--engine" else []
    if given:
        assert run("doctor", "me/model", "--backend", "vllm", *given) == 2
    else:
        text = 'model = "me/model"\nbackend = "vllm"\nengine = { trust_remote_code = true }'
        (tmp_path / "study.toml").write_text(text, encoding="utf-8")
        assert run("study", tmp_path / "study.toml", "-o", tmp_path / "out") == 2
    assert "it would run code of the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_pickled_weights_run_nothing(marker, model, whole):
    """Whether the whole file is foreign or one value of it: transformers reads weights alone."""
    (model / "model.safetensors").unlink()
    content = Code(marker) if whole else {"lm_head.weight": Code(marker)}
    torch.save(content, model / "pytorch_model.bin")
    with pytest.raises(ModelError) as refused:
        load_model(str(model))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
def test_code_of_a_checkpoint_does_not_run(marker, model, part, monkeypatch):
    """Of its own classes; nothing is asked on stdin, whose answer could be yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (model / "own.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    name = "tokenizer_config.json" if part == "AutoTokenizer" else "config.json"
    config = json.loads((model / name).read_text(encoding="utf-8"))
    config["auto_map"] = {part: ["own.Own", None] if part == "AutoTokenizer" else "own.Own"}
    config |= {"tokenizer_class": "Own"} if part == "AutoTokenizer" else {"model_type": "own", "architectures": ["Own"]}
    (model / name).write_text(json.dumps(config), encoding="utf-8")
    try:
        load_model(str(model))
    except ModelError as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - refused, or read without that code: either will do


def test_a_chat_template_reaches_nothing_outside_itself(marker, model, tmp_path, capsys):
    """It is filled in a sandbox; what it tries is refused in one line."""
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{{{{ open('{marker}', 'w') }}}}"
    (model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "eng_Latn.txt").write_text("A text.\n", encoding="utf-8")
    assert run("capture", model, "--corpus", tmp_path / "texts", "--chat", "-o", tmp_path / "run") == 2
    assert "SecurityError" in capsys.readouterr().err.splitlines()[-1]


def test_a_pickle_in_place_of_a_plan_or_adapter_runs_nothing(marker, tmp_path):
    """Plans are JSON, and adapters JSON and safetensors: a pickled one beside them is not opened."""
    (tmp_path / "plan.json").write_bytes(pickle.dumps(Code(marker)))
    (tmp_path / "adapter").mkdir()
    torch.save(Code(marker), tmp_path / "adapter" / "adapter_model.bin")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    for path in (tmp_path / "plan.json", tmp_path / "adapter"):
        with pytest.raises(IsoglossError) as refused:
            read_steering(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("code", ["../../stolen", "/etc/passwd", "eng_Latn/../../stolen"])
def test_a_run_reads_no_file_outside_its_folder(tmp_path, code, capsys):
    """A language is a code, so no path."""
    folder = tmp_path / "a" / "run"
    write(folder, LANGUAGES[:2])
    shutil.copy(folder / "eng_Latn.safetensors", tmp_path / "stolen.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name in ("languages", "texts_sha256"):
        if "eng_Latn" in manifest.get(name, {}):
            manifest[name][code] = manifest[name].pop("eng_Latn")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert run("merge", folder, "-o", tmp_path / "merged", "--quiet") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_names_in_a_run_are_text_in_a_report(tmp_path):
    """Markup of a model, a corpus and a note is shown, and does not act; scripts are named by their hash."""
    write(tmp_path / "run", LANGUAGES[:3])
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest |= {"model": PAGE, "corpus": {**manifest["corpus"], "name": PAGE, "source": PAGE}}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert run("report", tmp_path / "run", "-o", tmp_path / "report.html", "--quiet") == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(page)


def test_a_copy_of_a_data_set_runs_no_script(marker, tmp_path):
    """A loading script of its name beside it."""
    rows = [{"id": 0, "iso_639_3": "eng", "iso_15924": "Latn", "text": "A text.", "url": "-"}]
    folder = write_repository(tmp_path / "flores", "dev", {"eng_Latn": rows})
    for name in ("flores.py", "dataset.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    try:
        assert load_corpus(f"flores_plus:{folder}").texts == {"eng_Latn": ("A text.",)}
    except CorpusError as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - read or refused, either will do


@pytest.mark.parametrize("name", ["http://127.0.0.1:{}/rows.jsonl", "hf://datasets/me/other/rows.jsonl"])
def test_a_copy_of_a_data_set_asks_no_network(tmp_path, name, monkeypatch):
    """Though its card names files elsewhere: it is refused in one line."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        server.settimeout(0.2)

        def listen():
            while not done.is_set():
                try:
                    asked.append(server.accept())
                except OSError:
                    continue

        done = threading.Event()
        thread = threading.Thread(target=listen)
        thread.start()
        folder = tmp_path / "copy"
        folder.mkdir()
        files = f"configs:\n- config_name: eng_Latn\n  data_files:\n  - split: dev\n    path: {name.format(port)}\n"
        (folder / "README.md").write_text(f"---\n{files}---\n", encoding="utf-8")
        with pytest.raises(CorpusError) as refused:
            load_corpus(f"flores_plus:{folder}", languages=["en"])
        done.set()
        thread.join()
    assert "\n" not in str(refused.value)
    assert not asked


def test_a_link_in_place_of_an_output_is_followed_to_a_file_of_the_same_kind_alone(tmp_path):
    """What it leads to is replaced only where the output itself could be."""
    secret = tmp_path / "secret.txt"
    secret.write_text("kept", encoding="utf-8")
    write(tmp_path / "run", LANGUAGES[:2])
    (tmp_path / "report.html").symlink_to(secret)
    assert run("report", tmp_path / "run", "-o", tmp_path / "report.html", "--quiet") == 2
    assert secret.read_text(encoding="utf-8") == "kept"
