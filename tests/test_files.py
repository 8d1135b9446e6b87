"""Files are written whole, where a link leads."""

from __future__ import annotations

from pathlib import Path

from isogloss.files import write_atomically


def test_a_link_keeps_its_target(tmp_path: Path) -> None:
    """Whoever reads the target, such as a server of a plan, reads what was written through a chain of links."""
    target, near, far = (tmp_path / name for name in ("a/target.json", "b/near.json", "c/far.json"))
    for path in (target, near, far):
        path.parent.mkdir()
    target.write_text("old")
    near.symlink_to("../a/target.json")
    far.symlink_to(near)
    write_atomically(far, b"new")
    assert target.read_text() == "new"
    assert near.is_symlink()
    assert far.is_symlink()
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["far.json", "near.json", "target.json"]
