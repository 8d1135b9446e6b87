"""Share a plan, router adapter or Run on the hub, with a card that says what it does."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.errors import IsoglossError, PlanError, RunError
from isogloss.hub import address_of, asking_hub
from isogloss.learning.adapt_records import ADAPT_REPORT
from isogloss.progress import stage
from isogloss.reports.card import MARK, run_card, steering_card
from isogloss.runs import open_run
from isogloss.runs.manifest import LANGUAGE_CODE
from isogloss.steering import ADAPTER_FILES, Plan, read_steering

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Shared", "prepare_push", "push"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CARD, _PLAN, _MANIFEST = "README.md", "plan.json", "manifest.json"
_OF_AN_ADAPTER = (*ADAPTER_FILES, ADAPT_REPORT)
_OF_THE_HUB = (".gitattributes",)
_ARRAYS = ".safetensors"
_REFUSALS = range(400, 500)  # HTTP: the hub has read what was asked, and does not do it


@dataclass(frozen=True)
class Shared:
    """What is uploaded, in one commit.

    Attributes:
        repository: ``OWNER/NAME``.
        kind: of the repository: ``model`` for plans and adapters, ``dataset`` for Runs.
        files: name there to content or file; the card is among them.
    """

    repository: str
    kind: str
    files: Mapping[str, bytes | Path]

    @property
    def address(self) -> str:
        """What isogloss reads it by."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"

    @property
    def card(self) -> str:
        """Its README.md."""
        card = self.files[_CARD]
        return card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")

    def replaced(self, there: Collection[str]) -> list[str]:
        """Which files of the repository an earlier upload left, and would be read with this one, or in its place.

        Args:
            there: names of the repository's files; those that isogloss does not upload are never returned.
        """
        if self.kind == "model":
            left = {_PLAN, *(_OF_AN_ADAPTER if ADAPTER_FILES[0] in there else ())}
        else:
            left = {name for name in there if LANGUAGE_CODE.fullmatch(name.removesuffix(_ARRAYS))}
        return sorted((left & set(there)) - set(self.files))


def prepare_push(source: Path, repository: str, *, evaluation: Path | None = None) -> Shared:
    """Read and check what is to be shared, and write its card; nothing is uploaded.

    Args:
        source: file of a plan, folder of a router adapter, or folder of a finished Run.
        repository: ``OWNER/NAME``.
        evaluation: folder of an evaluation of the plan or adapter, whose numbers the card states.

    Raises:
        PlanError: there is no plan or adapter, or it is damaged.
        RunError: the source is an address on the hub, the Run is unfinished or damaged, the name is none, or the
            evaluation is of something else.
    """
    if not _NAME.fullmatch(repository):
        raise RunError(f"{repository!r} names no repository; expected OWNER/NAME of letters, digits, - _ and .")
    if address := address_of(source):
        raise RunError(f"{address} is on the hub already; give the file or folder of this machine")
    if (source / _MANIFEST).is_file():
        if evaluation is not None:
            raise RunError(f"{source} is a Run, which no evaluation is of; leave --evaluation out")
        run = open_run(source)
        if run.manifest.status != "complete":
            raise RunError(f"{source} is unfinished; repeat its capture to finish it, and push it then")
        for language in run.languages:
            run.load(language)
        names = [_MANIFEST, *(f"{language}{_ARRAYS}" for language in run.languages)]
        files: dict[str, bytes | Path] = {name: source / name for name in names}
        return Shared(repository, "dataset", files | {_CARD: run_card(run, repository).encode()})
    steering = read_steering(source)
    if isinstance(steering, Plan):
        files = {_PLAN: source}
    else:
        files = {name: source / name for name in _OF_AN_ADAPTER if (source / name).is_file()}
    card = steering_card(steering, repository, evaluation=evaluation)
    return Shared(repository, "model", files | {_CARD: card.encode()})


def push(shared: Shared, *, private: bool = False, force: bool = False) -> str:
    """Upload in one commit, so that all of it is there or nothing; return the repository's address on the web.

    The same commit removes what an earlier upload left that would be read in its place, such as the plan where there is
    an adapter now.

    Args:
        shared: what `prepare_push` returned.
        private: for a repository that is made here.
        force: upload into a repository that holds something else, and replace its card.

    Raises:
        PlanError: the repository holds something else, or the hub does not take it; the message says whether it is
            known that nothing was uploaded.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi  # noqa: PLC0415 - a third of a second

    api, name, kind = HfApi(), shared.repository, shared.kind
    with asking_hub() as unreachable:
        if unreachable:
            raise PlanError(f"cannot push to {name}: {unreachable}")
        url = ""
        try:
            made = str(api.create_repo(name, repo_type=kind, private=private, exist_ok=True))
            there = set(api.list_repo_files(name, repo_type=kind)) - set(_OF_THE_HUB)
            if not force:
                _require_ours(api, shared, there)
            added = [CommitOperationAdd(path, content) for path, content in shared.files.items()]
            removed = [CommitOperationDelete(path) for path in shared.replaced(there)]
            url = made
            stage(f"push {len(added)} files to {name}")
            api.create_commit(name, [*added, *removed], repo_type=kind, commit_message="Upload by isogloss")
        except IsoglossError:
            raise
        except Exception as error:  # the hub's library raises whatever the library below it raises
            raise _failure(shared, error, url) from error
    return url


def _failure(shared: Shared, error: Exception, url: str) -> PlanError:
    """Say what failed, and what became of the files; ``url`` is empty where no commit was asked for yet."""
    reason = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
    status = getattr(getattr(error, "response", None), "status_code", None)
    if url and status not in _REFUSALS:
        then = f"it is not known whether the files were uploaded: look at {url}, or repeat the command, which is safe"
    else:
        then = "nothing was uploaded. Run `hf auth login` with a token that may write there"
    return PlanError(f"cannot push to {shared.repository}: {reason}; {then}")


def _require_ours(api: HfApi, shared: Shared, there: Collection[str]) -> None:
    """Refuse a repository with files, but without a card that isogloss wrote."""
    if not there:
        return
    card = ""
    if _CARD in there:
        path = api.hf_hub_download(shared.repository, _CARD, repo_type=shared.kind)
        card = Path(path).read_text(encoding="utf-8")
    if MARK not in card:
        first = ", ".join(sorted(there)[:3])
        raise PlanError(
            f"{shared.repository} holds something else ({first}); choose another name, or --force to add to it and "
            "replace its README.md"
        )
