"""A new file or folder appears whole, or not at all."""

from __future__ import annotations

import pytest

from isogloss.errors import FileError
from isogloss.folders import new_file, new_folder


def write(new, output, meanwhile=lambda: None):
    """Write a new file or folder, while something else happens."""
    with new(output) as path:
        (path / "inside" if path.is_dir() else path).write_text("whole")
        assert not output.exists()
        meanwhile()


def names(folder):
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_it_appears_whole_or_not_at_all(tmp_path, new):
    """Nothing is seen before the end, nor left where writing fails; what killed processes left goes."""
    output = tmp_path / "out"
    (tmp_path / ".out.unfinished-0").write_text("of a killed process")
    (tmp_path / ".out.unfinished-1").mkdir()
    (tmp_path / ".out.unfinished-1" / "inside").write_text("of another")
    (tmp_path / ".outer.unfinished-2").write_text("not ours")
    with pytest.raises(ZeroDivisionError):
        write(new, output, lambda: 1 / 0)
    assert names(tmp_path) == [".outer.unfinished-2"]
    write(new, output)
    assert names(tmp_path) == [".outer.unfinished-2", "out"]
    assert (output / "inside" if new is new_folder else output).read_text() == "whole"


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_what_others_put_there_meanwhile_stays(tmp_path, new):
    """It is not replaced; nor is a place that is gone made again."""
    output = tmp_path / "out"
    with pytest.raises(FileError, match="choose a new"):
        write(new, output, lambda: output.write_text("theirs"))
    assert output.read_text() == "theirs"
    assert names(tmp_path) == ["out"]
    with pytest.raises(FileError, match="cannot write beside"):
        write(new, tmp_path / "absent" / "out")
    assert names(tmp_path) == ["out"]
