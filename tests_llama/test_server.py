"""`isogloss doctor --server` finds what a real llama-server does wrong, and nothing where it is started rightly."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from deadline import PATIENCE
from servers import free_port, wait_for

from adapted import adapter_of
from isogloss.backends.bake import bake
from isogloss.workflows import examine_server
from llama import SERVER, gguf_of

FAMILY = "qwen3_moe"


@contextlib.contextmanager
def serving(*options):
    """The address of a server of the tiny model."""
    port = free_port()
    command = [str(SERVER), "-m", str(gguf_of(FAMILY)), "--port", str(port), "--threads", "1", "-c", "2048", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The file of an adapter."""
    path = tmp_path_factory.mktemp("server") / "adapter.gguf"
    bake(str(gguf_of(FAMILY)), adapter_of(FAMILY), path, form="gguf-lora")
    return path


def found(address, name=None):
    """Check -> whether it held; and the sentences."""
    checks = examine_server(address, name).checks
    return {check.name: check.ok for check in checks}, {check.name: check.detail for check in checks}


def test_a_server_that_is_started_rightly(adapter):
    """Adapter off by default, no prompt cache: every check holds."""
    with serving("--lora-scaled", f"{adapter}:0", "--cache-ram", "0") as address:
        ok, detail = found(address, "adapter")
        assert ok == dict.fromkeys(("server", "acts", "default", "cache", "mixed"), True), detail
        ok, detail = found(address, "other")
        assert ok == {"server": False}
        assert "it has no other; the server has" in detail["server"]


def test_a_server_with_its_defaults(adapter):
    """The adapter is on for everybody, and the prompt cache mixes its answers with the base's."""
    with serving("--lora", str(adapter)) as address:
        ok, detail = found(address)
    assert ok["server"]
    assert ok["acts"], detail
    assert not ok["default"], detail
    assert not ok["cache"], detail
    assert "--lora-scaled" in detail["default"]
    assert "--cache-ram 0" in detail["cache"]
