"""Names on the Hugging Face hub: which names are none, and what happens where the hub cannot be reached."""
# ruff: noqa: PLC0415 - the hub's library takes a third of a second, and most commands ask the hub nothing

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from isogloss.errors import IsoglossError

__all__ = [
    "address_of",
    "asking_hub",
    "fetched",
    "refuse_revision_of_path",
    "refusing_hub",
    "require_hub_name",
    "split_revision",
    "what_is_there",
]

_SUFFIXES = (
    *(".json", ".jsonl", ".toml", ".tsv", ".csv", ".txt", ".html", ".parquet", ".arrow"),
    *(".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".zip", ".tar", ".gz"),
)
_MARKS = ("/", ".", "~", "\\")
_HUB_PATH = re.compile(
    r"hf://(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>[^@]+))?"
)
_FETCHED = ("*.json", "*.safetensors")  # of a repository: nothing else is read here
_LISTED = 5  # names of a folder in a message
_PATIENCE = 5.0  # seconds for the first answer of the hub


def split_revision(name: str) -> tuple[str, str | None]:
    """Divide ``NAME@REVISION``, of a model or data set of the hub; a path that exists is a path, whatever its name.

    Returns:
        The name, and the branch, tag or commit; None where none is named.

    Example:
        >>> split_revision("allenai/OLMoE-1B-7B-0924@step1000-tokens4B")
        ('allenai/OLMoE-1B-7B-0924', 'step1000-tokens4B')
    """
    source, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    return source, revision or None


def refuse_revision_of_path(name: str, what: str, *, error: type[IsoglossError]) -> None:
    """Refuse ``PATH@REVISION``: files have no revisions, and it is not known whether the hub's repository is meant.

    Args:
        name: as it was given; one that exists whole is a path, and has none.
        what: was to be read, such as ``model``.
        error: to raise.

    Raises:
        IsoglossError: of the class ``error``.
    """
    source, revision = split_revision(name)
    if revision and source and Path(source).exists():
        kind = "folder" if Path(source).is_dir() else "file"
        raise error(
            f"cannot read {what} {name!r}: {source} is a {kind} on this machine, which has no revision; expected a "
            f"revision of the hub alone: leave @{revision} out to read the {kind}, or run the command where no {kind} "
            "has the name of the hub's repository"
        )


def require_hub_name(name: str, what: str, *, error: type[IsoglossError]) -> None:
    """Refuse what can only be a path: it is answered from this machine, and the hub is never asked for it.

    A path begins with a slash, a stop or a tilde, has more parts than ``OWNER/NAME``, or ends like a file.

    Args:
        name: without revision; nothing on this machine has it.
        what: was to be read, such as ``model``.
        error: to raise.

    Raises:
        IsoglossError: of the class ``error``; says what was found in its place.

    Example:
        >>> require_hub_name("Qwen/Qwen3-30B-A3B", "model", error=IsoglossError)
        >>> require_hub_name("./Qwen3", "model", error=IsoglossError)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        isogloss.errors.IsoglossError: cannot read model './Qwen3': there is no such file or folder; ...
    """
    parts = name.split("/")
    if name.startswith(_MARKS) or len(parts) > 2 or not all(parts) or Path(name).suffix.lower() in _SUFFIXES:  # noqa: PLR2004 - OWNER/NAME
        raise error(f"cannot read {what} {name!r}: there is no such file or folder; {what_is_there(Path(name))}")


def what_is_there(path: Path) -> str:
    """Say in a few words what lies where a path leads that does not exist, first of all names that are like its own."""
    if str(path).startswith("~"):
        return "only a shell reads ~: write the whole path"
    whole = path.absolute()
    folder = next(parent for parent in whole.parents if parent.is_dir())
    missing = whole.relative_to(folder).parts[0]
    try:
        names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except OSError:
        return f"{folder} cannot be read"
    if near := difflib.get_close_matches(missing, names, n=_LISTED):
        return f"{folder} holds no {missing}, but {', '.join(near)}"
    listed = f"{len(names)} others" if len(names) > _LISTED else ", ".join(names)
    return f"{folder} holds no {missing}, but {listed}" if names else f"{folder} is empty"


def address_of(path: str | os.PathLike[str]) -> str | None:
    """Return an address ``hf://…`` as it was written, also where `pathlib.Path` left out a slash; None for a path."""
    written = os.fspath(path)
    return f"hf://{written[4:].lstrip('/')}" if written.startswith("hf:/") else None


def fetched(path: str | os.PathLike[str], *, error: type[IsoglossError]) -> Path:
    """Return the path itself, or, of ``hf://OWNER/NAME[@REVISION][/FILE]``, where its copy on this machine lies.

    JSON and safetensors files of the repository are fetched, all from one commit, unless they are here. Nothing is
    believed of them: who reads them checks them as any file. Data sets are ``hf://datasets/OWNER/NAME``.

    Args:
        path: a path; one that went through `pathlib.Path`, which leaves out a slash, will do.
        error: to raise.

    Raises:
        IsoglossError: of the class ``error``; the address is none, or the hub does not give it.
    """
    if (written := address_of(path)) is None:
        return Path(path)
    match = _HUB_PATH.fullmatch(written)
    if match is None or ".." in Path(written).parts:
        raise error(f"{written} is no address on the hub; expected hf://OWNER/NAME, perhaps with @REVISION and /FILE")
    from huggingface_hub import snapshot_download

    with asking_hub() as unreachable:
        try:
            kind = "dataset" if match["kind"] else "model"
            folder = snapshot_download(
                match["name"], revision=match["revision"], repo_type=kind, allow_patterns=list(_FETCHED)
            )
        except Exception as refusal:  # the hub's library raises whatever the library below it raises
            reason = " ".join([type(refusal).__name__, *str(refusal).splitlines()[:1]])
            reason = f"{unreachable}, and this machine has kept no copy" if unreachable else reason
            raise error(
                f"cannot fetch {written}: {reason}; check the name, run `hf auth login` if it is private, or give a "
                "file or folder"
            ) from refusal
    return Path(folder) / (match["file"] or "")


@contextmanager
def asking_hub() -> Iterator[str | None]:
    """Let whatever asks the hub fail at once where it cannot be reached; it then reads what this machine has kept.

    The hub's library would else repeat every call for half a minute.

    Yields:
        Why the hub cannot be reached; None where it can.
    """
    reason = _unreachable()
    with refusing_hub() if reason else nullcontext():
        yield reason


@contextmanager
def refusing_hub() -> Iterator[None]:
    """Let the hub's libraries, as far as they are loaded, ask no network while open: by their own switch."""
    switches = _switches()
    try:
        for module, name in switches:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in switches.items():
            setattr(module, name, value)


def _unreachable() -> str | None:
    """Say why the hub cannot be reached; None where it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        _reach(constants.ENDPOINT)
    except Exception as error:  # noqa: BLE001 - of the library that makes the hub's calls, which its versions change
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{constants.ENDPOINT} does not answer: {first}"
    return None


@cache
def _reach(endpoint: str) -> None:
    """Ask once in a process whether the hub answers, whatever it says; a failure is not kept."""
    from huggingface_hub import get_session

    get_session().head(endpoint, timeout=_PATIENCE)


def _switches() -> dict[tuple[Any, str], bool]:
    """Return the switches of the libraries that are loaded, by module and name, as they are now."""
    from huggingface_hub import constants

    switches = {(constants, "HF_HUB_OFFLINE"): constants.HF_HUB_OFFLINE}
    if (config := sys.modules.get("datasets.config")) is not None:
        switches[config, "HF_HUB_OFFLINE"] = config.HF_HUB_OFFLINE
    return switches
