"""One process at a time writes into the folder of a Run, and no language file is lost without a word."""

from __future__ import annotations

import os

import pytest
from commands import run
from run_examples import LANGUAGES, MANIFEST, digest, routing, write
from written import contents

from isogloss.errors import RunError
from isogloss.folders import locked
from isogloss.runs import RunWriter, merge, open_run, run_writer

CAPTURE = ("capture", "organism", "--corpus", "organism", "--languages", "en,de", "--items", "3")


def test_the_folder_of_a_run_is_held(tmp_path):
    """A second one is refused while the first writes, and let in afterwards; nothing but an empty lock is left."""
    with run_writer(tmp_path / "run", MANIFEST) as writer:
        writer.write("eng_Latn", routing(0), digest("eng_Latn"))
        with pytest.raises(RunError, match=rf"another process is working in .*\(process {os.getpid()} on"):
            merge([tmp_path / "run"], tmp_path / "run")
    merge([tmp_path / "run"], tmp_path / "run")
    assert contents(tmp_path / "run").keys() == {"manifest.json", "eng_Latn.safetensors"}


@pytest.mark.parametrize("file", ["notes.txt", "eng_Latn.safetensors"])
def test_a_foreign_folder_is_not_even_locked(tmp_path, file):
    """It is left as it was found."""
    (tmp_path / file).touch()
    with pytest.raises(RunError, match=f"holds {file} and no manifest.json"), run_writer(tmp_path, MANIFEST):
        pass
    assert os.listdir(tmp_path) == [file]  # noqa: PTH208 - names alone


def test_work_that_fails_before_the_first_language_leaves_no_folder(tmp_path):
    """Also where a stopped one had begun; later, or where something else lies there, all of it is kept."""
    folder = tmp_path / "deep" / "run"

    def work(*languages):
        with run_writer(folder, MANIFEST) as writer:
            for place, code in enumerate(languages):
                writer.write(code, routing(place), digest(code))
            raise RunError("no")

    def fail(*languages):
        with pytest.raises(RunError, match="no"):
            work(*languages)

    fail()
    assert not folder.exists()
    RunWriter(folder, MANIFEST)
    fail()
    assert not folder.exists()
    fail("eng_Latn")
    assert open_run(folder).languages == ("eng_Latn",)
    fail()
    assert open_run(folder).languages == ("eng_Latn",)
    (folder / "eng_Latn.safetensors").rename(folder / "notes.txt")
    fail()
    assert contents(folder).keys() == {"manifest.json", "notes.txt"}


def test_a_merge_that_fails_at_once_leaves_no_folder(tmp_path):
    """Of a file that is damaged."""
    write(tmp_path / "part", ["eng_Latn"])
    (tmp_path / "part" / "eng_Latn.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError):
        merge([tmp_path / "part"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("command", ["capture", "merge", "import", "study", "demo"])
def test_commands_hold_their_folder(tmp_path, capsys, command):
    """Whatever writes a Run or a study refuses a folder that another process works in."""
    write(tmp_path / "part", ["eng_Latn"])
    (tmp_path / "counts").mkdir()
    (tmp_path / "counts" / "en.json").write_text('{"0": {"0": {"activation_tokens": 1}, "total_tokens": 1}}')
    (tmp_path / "study.toml").write_text('model = "organism"\n')
    arguments = {
        "capture": CAPTURE,
        "merge": ("merge", tmp_path / "part"),
        "import": ("import", tmp_path / "counts"),
        "study": ("study", tmp_path / "study.toml"),
        "demo": ("demo",),
    }
    record = "study.json" if command in ("study", "demo") else "manifest.json"
    with locked(tmp_path / "out", record):
        assert run(*arguments[command], "-o", tmp_path / "out") == 2
    assert "another process is working in" in capsys.readouterr().err


# --- language files that no entry names -------------------------------------------------------------------------------


def test_an_unlisted_language_is_named(tmp_path):
    """In a complete Run, such a file is what a second process wrote; reading refuses, and capturing it again mends."""
    write(tmp_path, LANGUAGES[:2])
    (tmp_path / f"{LANGUAGES[2]}.safetensors").write_bytes(b"of another process")
    with pytest.raises(RunError, match=rf"holds {LANGUAGES[2]}\.safetensors, which its manifest\.json does not list"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=f"holds {LANGUAGES[2]}"):
        write(tmp_path, LANGUAGES[:2])
    assert write(tmp_path, LANGUAGES[:3]).languages == LANGUAGES[:3]
    assert open_run(tmp_path).manifest.status == "complete"


def test_a_stopped_capture_is_readable_and_grows(tmp_path, monkeypatch):
    """Killed between a language's file and its entry, also where a complete Run grows, it is partial and resumes."""
    write(tmp_path, LANGUAGES[:1])
    writer = RunWriter(tmp_path, MANIFEST)
    with monkeypatch.context() as patch:
        saved = []

        def dies(manifest):
            saved.append(manifest.status)
            if len(saved) == 2:
                raise KeyboardInterrupt
            RunWriter._save(writer, manifest)

        patch.setattr(writer, "_save", dies)
        with pytest.raises(KeyboardInterrupt):
            writer.write(LANGUAGES[1], routing(1), digest(LANGUAGES[1]))
    assert (tmp_path / f"{LANGUAGES[1]}.safetensors").is_file()
    assert open_run(tmp_path).manifest.status == "partial"
    assert write(tmp_path, LANGUAGES[:2]).manifest.status == "complete"
