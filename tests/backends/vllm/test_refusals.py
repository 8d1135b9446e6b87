"""What is said when a start is refused in another process, and what ends when a command is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deadline import PATIENCE

from isogloss.backends.vllm.plugin.refusals import RefusedError, refuse, telling
from isogloss.errors import PlanError

# As vLLM does: the command starts an engine, the engine a worker, each a process; both report what they catch.
STARTING = """
import logging, multiprocessing, sys
from isogloss.backends.vllm.plugin.refusals import ending, expect_refusals, refuse, telling
from isogloss.errors import PlanError

def worker():
    expect_refusals()
    refuse(PlanError("the \\x1b[2Jreason"))

def run(target):
    process = multiprocessing.get_context(sys.argv[2]).Process(target=target)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("initialization failed, see above")

def engine():
    expect_refusals()
    ending(run)(worker)

if __name__ == "__main__":
    expect_refusals()
    expect_refusals()  # vLLM may load plugins several times
    {"caught": telling(run), "other": run}[sys.argv[1]](engine)
"""
ORPHAN = f"""
import multiprocessing, time
from isogloss.backends.vllm.plugin.orphans import end_engine_with_parent

def engine():
    end_engine_with_parent()
    time.sleep({PATIENCE})

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=engine, name="EngineCore_0")
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


def start(folder, code, *arguments):
    """Start Python on a file, whose processes can import it again."""
    (folder / "started.py").write_text(code, encoding="utf-8")
    command = [sys.executable, str(folder / "started.py"), *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "ISOGLOSS_REFUSAL"}
    environ["TMPDIR"] = str(folder)
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("how", ["caught", "other"])
def test_the_reason_stands_last_and_once(tmp_path, how, method):
    """Whatever process refuses; where nothing of ours catches the error, it is said behind that error."""
    started = start(tmp_path, STARTING, how, method)
    _, error = started.communicate(timeout=PATIENCE)
    assert started.returncode == 1
    assert error.splitlines()[-1] == r"isogloss: the \u001b[2Jreason"
    assert error.count("2Jreason") == 1
    assert error.count("Traceback") == (how == "other")
    assert not list(tmp_path.glob("isogloss-refusal-*"))


def test_in_one_process_the_error_is_raised(monkeypatch, tmp_path):
    """A program that starts an engine in its own process can catch it, and so it can where no file can be written."""
    for place in (tmp_path / "reason", tmp_path / "no" / "reason"):
        monkeypatch.setenv("ISOGLOSS_REFUSAL", str(place))
        with pytest.raises(PlanError, match="why"):
            refuse(PlanError("why"))
        monkeypatch.setattr(multiprocessing, "parent_process", object)
        with pytest.raises(PlanError, match="why"):
            refuse(PlanError("why"))
        monkeypatch.undo()


def test_other_errors_of_a_start_stay_as_they_are(monkeypatch, tmp_path):
    """Only a reason that was left takes an error's place, and only once."""

    def fail():
        raise RuntimeError("out of memory")

    (tmp_path / "reason").write_text("why", encoding="utf-8")
    monkeypatch.setenv("ISOGLOSS_REFUSAL", str(tmp_path / "reason"))
    with pytest.raises(RefusedError, match="isogloss: why"):
        telling(fail)()
    with pytest.raises(RuntimeError, match="out of memory"):
        telling(fail)()


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run there")
def test_an_engine_ends_with_the_command_that_was_killed(tmp_path):
    """It would keep the model in memory for ever."""
    started = start(tmp_path, ORPHAN)
    engine = int(started.stdout.readline())
    started.send_signal(signal.SIGKILL)
    started.communicate(timeout=PATIENCE / 2)  # the engine holds the other end until it has ended
    for _ in range(100):
        if not Path(f"/proc/{engine}").exists() or "Z (zombie)" in Path(f"/proc/{engine}/status").read_text():
            return
        time.sleep(0.1)
    os.kill(engine, signal.SIGKILL)
    pytest.fail("the engine runs on")
