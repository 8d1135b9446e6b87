"""A path never goes to the hub, and where the hub cannot be reached, one line says so at once."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from deadline import PATIENCE
from hub_server import COMMIT, serving
from huggingface_hub import constants
from huggingface_hub.utils import _http
from run_examples import LANGUAGES, write

from isogloss.analysis import ExpertRow, ExpertTable
from isogloss.backends.bake.folder import checkpoint_folder
from isogloss.backends.reading import find_checkpoint, reading
from isogloss.corpora import load_corpus
from isogloss.errors import CorpusError, IsoglossError, ModelError, PlanError
from isogloss.evaluation import load_task, make_arms
from isogloss.hub import asking_hub, refusing_hub, require_hub_name, what_is_there
from isogloss.organism import adapter_folder, learned_plan_file
from isogloss.runs import open_run
from isogloss.steering import Intervention, Plan, read_plan, read_steering

PATHS = ("./moe", "../moe", "/models/moe", "~/moe", "a/b/c", "me/", "moe.safetensors", "me/plan.json", "x\\y/../z")


def raising(*_arguments, **_named):
    """Stand for what must not be called."""
    raise AssertionError("the hub was asked, or a call repeated")


@pytest.fixture
def closed(monkeypatch, tmp_path):
    """Let the hub be a port of this machine at which nobody listens, and any wait before a repetition be a failure."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=False)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=raising))
        yield


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_refused_before_the_hub_is_asked(name, monkeypatch):
    """Wherever a model is read, with what was found in one line."""
    monkeypatch.setattr(_http, "http_backoff", raising)
    monkeypatch.setattr("isogloss.backends.bake.folder.snapshot_download", raising)
    monkeypatch.setattr("transformers.utils.hub.cached_file", raising)
    for read in (find_checkpoint, checkpoint_folder):
        with pytest.raises(ModelError, match="there is no such file or folder") as refused:
            read(name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-0.5B", "microsoft/Phi-3.5-MoE-instruct", "me/model.v2"])
def test_names_of_the_hub_are_no_paths(name):
    """Stops and hyphens are part of them."""
    require_hub_name(name, "model", error=IsoglossError)


@pytest.mark.parametrize("load", [load_corpus, load_task])
def test_a_copy_that_is_not_there_is_refused_at_once(load, tmp_path, monkeypatch):
    """Of a corpus or a task; the library would take the folder's name for one of the hub."""
    monkeypatch.setattr(_http, "http_backoff", raising)
    for name in ("flores_plus", "gsm8k_instruct") if load is load_corpus else ("mgsm",):
        with pytest.raises(CorpusError, match=r"neither|there is no such file or folder"):
            load(f"{name}:{tmp_path}/nothing")


def test_the_nearest_names_are_listed(tmp_path):
    """Of the first folder on the way that exists; of many others only their number is."""
    for name in ("qwen3-moe", "notes"):
        (tmp_path / name).mkdir()
    assert what_is_there(tmp_path / "qwen-moe" / "x") == f"{tmp_path} holds no qwen-moe, but qwen3-moe"
    assert what_is_there(tmp_path / "zzz") == f"{tmp_path} holds no zzz, but notes, qwen3-moe"
    assert what_is_there(tmp_path / "notes" / "a") == f"{tmp_path / 'notes'} is empty"
    for number in range(9):
        (tmp_path / f"f{number}").mkdir()
    assert what_is_there(tmp_path / "zzz") == f"{tmp_path} holds no zzz, but 11 others"


@pytest.mark.usefixtures("closed")
def test_without_a_network_nothing_is_repeated():
    """A model and a data set: one line each, which says that the hub does not answer."""
    with (
        pytest.raises(ModelError, match=r"does not answer.*hf download me/none") as model,
        reading("me/none", expected=""),
    ):
        find_checkpoint("me/none")
    with pytest.raises(ModelError, match="does not answer") as baked:
        checkpoint_folder("me/none")
    with pytest.raises(CorpusError, match=r"does not answer.*flores_plus:FOLDER") as corpus:
        load_corpus("flores_plus", languages=["en"])
    assert all("\n" not in str(each.value) for each in (model, baked, corpus))


@pytest.mark.usefixtures("closed")
def test_the_switch_of_the_library_is_put_back():
    """Also where what runs inside fails."""
    with asking_hub() as reason:
        assert constants.HF_HUB_OFFLINE
    assert reason
    assert not constants.HF_HUB_OFFLINE
    with pytest.raises(KeyError), refusing_hub():
        raise KeyError
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked_once(monkeypatch):
    """Whatever it says to the first call."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_arguments):
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=False)
        monkeypatch.setattr("isogloss.hub._PATIENCE", PATIENCE)
        for _ in range(2):
            with asking_hub() as reason:
                assert reason is None
                assert not constants.HF_HUB_OFFLINE
        server.shutdown()
        thread.join()
    assert len(asked) == 1


def test_the_switch_of_the_user_is_obeyed(monkeypatch):
    """HF_HUB_OFFLINE=1 asks nothing."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=True)
    monkeypatch.setattr("huggingface_hub.get_session", raising)
    with asking_hub() as reason:
        assert reason == "HF_HUB_OFFLINE is set"


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """A hub with a plan, an adapter, a table and a Run, and files that nobody should fetch."""
    write(tmp_path / "run", LANGUAGES[:2])
    folders = {"models/me/adapter": adapter_folder(), "datasets/me/run": tmp_path / "run"}
    files = {name: {each.name: each.read_bytes() for each in folder.iterdir()} for name, folder in folders.items()}
    plan = {"plan.json": learned_plan_file().read_bytes(), "README.md": b"# Plan", "own.py": b"raise SystemExit"}
    table = {"experts.json": json.dumps(ExpertTable("delta", {}, (ExpertRow(4, 1, 0.5, 0.4, 0.6),), None).to_json())}
    files |= {"models/me/plan": plan, "models/me/table": {name: text.encode() for name, text in table.items()}}
    files["models/me/broken"] = {"plan.json": b"{}"}
    with serving(monkeypatch, tmp_path, files) as hub:
        yield hub


def test_what_others_share_is_read_by_its_address(shared, tmp_path):
    """A plan, an adapter, a Run, a table of experts: the same as from files; nothing else is fetched."""
    plan = read_plan(learned_plan_file())
    assert read_steering("hf://me/plan") == plan
    assert read_plan(Path("hf://me/plan@main/plan.json")) == plan
    assert read_steering(f"hf://me/plan@{COMMIT}") == plan
    assert read_steering("hf://me/adapter").sha256 == read_steering(adapter_folder()).sha256
    assert open_run("hf://datasets/me/run").manifest == open_run(tmp_path / "run").manifest
    assert open_run("hf://datasets/me/run").read("eng_Latn") == open_run(tmp_path / "run").read("eng_Latn")
    banned = Plan(plan.fingerprint, (Intervention("ban", 4, (0,)),))
    assert set(make_arms(banned, ["experts=theirs:hf://me/table/experts.json"])) == {"plan", "theirs"}
    assert not any("own.py" in request or "README" in request for request in shared.requests)


def test_what_was_fetched_is_read_where_the_hub_does_not_answer(shared, monkeypatch):
    """From this machine."""
    plan = read_steering("hf://me/plan")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=True)
    n_requests = len(shared.requests)
    assert read_steering("hf://me/plan") == plan
    with pytest.raises(PlanError, match="HF_HUB_OFFLINE is set"):
        read_steering("hf://me/adapter")
    assert len(shared.requests) == n_requests


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/none", "cannot fetch hf://me/none"),
        ("hf://me/plan@other", "cannot fetch hf://me/plan@other"),
        ("hf://plan", "expected hf://OWNER/NAME"),
        ("hf://me/plan/../../secret.json", "expected hf://OWNER/NAME"),
        ("hf://me/plan/other.json", "cannot read the plan or adapter hf://me/plan/other.json: no such"),
        ("hf://me/broken", "plan.json: "),
        ("hf://me/table", "has no isogloss_adapter.json"),
    ],
)
def test_what_is_shared_is_refused_as_any_file_is(address, message):
    """In one line: an address that is none, a repository or file that is not there, a damaged plan."""
    with pytest.raises(PlanError, match=message) as refused:
        read_steering(Path(address))  # as commands read it
    assert "\n" not in str(refused.value)
