"""Corpora of the Hugging Face hub, known by name and fetched through `datasets`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from isogloss.corpora.corpus import (
    Corpus,
    add_text,
    align,
    check_language,
    check_text,
    full_code,
    item_id,
    require_languages,
)
from isogloss.errors import CorpusError
from isogloss.hub import asking_hub, refusing_hub, what_is_there

__all__ = ["DEFAULT_CONFIG", "HUB_CORPORA", "Hub", "HubRow", "load_hub"]

HubRow = Mapping[str, Any]

DEFAULT_CONFIG = "default"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub, or a local copy of it, whose configurations are languages.

    Attributes:
        repository: on the hub.
        copy: folder with a copy of the repository; None for the hub.
        name: what users write before ``:FOLDER``, for messages.
        prefix: what precedes the language in a configuration's name.
        renamed: configuration -> language, if its name is not the language's code.
        alternative: what a folder may hold in place of a copy of the repository, for messages; empty for nothing.
        revision: branch, tag or commit on the hub; None for its main branch.
        commits: that rows were read from so far.
    """

    repository: str
    copy: Path | None
    name: str
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    alternative: str = "the original release"
    revision: str | None = None
    commits: set[str] = field(default_factory=set, compare=False)

    @property
    def where(self) -> str:
        """The folder or repository, for messages."""
        return str(self.copy or self.repository)

    def configs(self) -> dict[str, str]:
        """Return full language code -> configuration; those that name no language are left out.

        Raises:
            CorpusError: not reachable, or two configurations are of the same language.
        """
        datasets = _datasets()
        with self._reading(self.where):
            names = list(datasets.get_dataset_config_names(self.where, revision=self.revision))
        configs: dict[str, str] = {}
        for name in names:
            code = self.renamed.get(name) or full_code(name.removeprefix(self.prefix))
            if code is not None and code in configs:
                raise CorpusError(f"{self.where}: configurations {configs[code]} and {name} are both {code}")
            if code is not None:
                configs[code] = name
        return configs

    def rows(
        self,
        config: str,
        split: str,
        columns: Sequence[str | tuple[str, ...]],
        *,
        optional: Sequence[str | tuple[str, ...]] = (),
    ) -> list[HubRow]:
        """Return the rows of one configuration and split, with these columns.

        A column of several spellings is the first of them that the data set has, and is named by its first spelling.
        Those that are ``optional`` may be missing.

        Raises:
            CorpusError: not reachable, no such split, or a column is missing; the message lists those available.
        """
        where, datasets = f"{self.where}, split {split}", _datasets()
        with self._reading(where):
            table = datasets.load_dataset(self.where, config, split=split, revision=self.revision)
            names = {column: _spelling(column, table.column_names) for column in columns}
            missing = [column for column, name in names.items() if name is None and column not in optional]
            kept = {name: column if isinstance(column, str) else column[0] for column, name in names.items() if name}
            rows = [] if missing else list(table.select_columns(list(kept)))
        if missing:
            wanted = ", ".join(column if isinstance(column, str) else " or ".join(column) for column in missing)
            raise CorpusError(f"{where}, {config}: no column {wanted}; it has {table.column_names}")
        if self.copy is None:
            self._note_commit(table)
        if all(name == column for name, column in kept.items()):
            return rows
        return [{column: row[name] for name, column in kept.items()} for row in rows]

    @property
    def commit(self) -> str | None:
        """The commit that the rows were read from; None for a local copy, or where `datasets` does not tell."""
        return next(iter(self.commits), None)

    def _note_commit(self, table: Any) -> None:  # noqa: ANN401 - of `datasets`
        """Find the commit in the name of the folder that `datasets` keeps a table in; refuse another than the first.

        Without a network, `datasets` takes the last one that it has kept, whatever revision was asked for.
        """
        folders = {Path(file["filename"]).parent.name for file in table.cache_files}
        self.commits.update(name for name in folders if _COMMIT.fullmatch(name))
        if len(self.commits) > 1:
            raise CorpusError(
                f"{self.where}: languages are of two commits ({' and '.join(sorted(self.commits))}); name one of them "
                f"as {self.name}@COMMIT, or fetch the data set anew"
            )
        if self.revision is not None and self.commit != _resolve(self.repository, self.revision):
            raise CorpusError(
                f"{self.where}: revision {self.revision} was asked for, and commit {self.commit or 'unknown'} was "
                "kept on this machine; fetch it where there is a network, or leave the revision out"
            )

    @contextmanager
    def _reading(self, where: str) -> Iterator[None]:
        """Turn what the library raises into a CorpusError of one line; a copy is read without asking any network.

        Raises:
            CorpusError: there is no such copy, or what was read is not as expected.
        """
        if self.copy is not None and not self.copy.exists():
            there = what_is_there(self.copy)
            raise CorpusError(f"{self.name}:{self.copy}: there is no such file or folder; {there}")
        with asking_hub() if self.copy is None else refusing_hub() as unreachable:
            try:
                yield
            except Exception as error:  # the library raises whatever its readers of damaged files raise
                raise self._refusal(where, error, unreachable) from error

    def _refusal(self, where: str, error: Exception, unreachable: str | None) -> CorpusError:
        first = str(error).partition("\n")[0]  # the library lists every file after it
        reason = f"{type(error).__name__}: {first}"
        if self.copy is not None:
            either = f"{self.alternative}, or " if self.alternative else ""
            remedy = f"expected {either}a full copy of {self.repository}, README.md included"
        elif unreachable:
            reason = f"{unreachable}, and this machine has kept no copy"
            remedy = f"fetch it where there is a network, or copy the repository and name it as {self.name}:FOLDER"
        else:
            remedy = (
                f"check the network, accept the terms at huggingface.co/datasets/{self.repository}, run `hf auth "
                f"login`, or copy the repository and name it as {self.name}:FOLDER"
            )
        return CorpusError(f"{where}: cannot be loaded ({reason}); {remedy}")


@dataclass(frozen=True)
class _HubCorpus:
    """How one data set of the hub names its languages, items and texts.

    Attributes:
        hub: its repository.
        licence: SPDX identifier.
        split: read by default.
        language: columns that, joined by ``_``, name the language of a row.
        item: column that names the item in every language; None where rows are items in the same order.
        text: column with the text.
        rank: column that says which row of an item to keep (the lowest), or None where an item has one row.
        sort_key: order of items.
    """

    hub: Hub
    licence: str
    split: str
    language: tuple[str, ...]
    item: str | None
    text: str
    rank: str | None
    sort_key: Callable[[str], Any]


# Configurations that FLORES+ names otherwise than FLORES-200, for the same text. kon_Latn and tzm_Tfng are not among
# them: their texts were found to be in other languages (ktu_Latn, zgh_Tfng).
# Source: github.com/openlanguagedata/flores, CHANGELOG.md, 2.0-rc.1 and 2.0-rc.2.
_FLORES_PLUS_CONFIGS = {
    "apc_Arab_sout3123": "ajp_Arab",
    "twi_Latn_asan1239": "aka_Latn",
    "apc_Arab_nort3139": "apc_Arab",
    "ekk_Latn": "est_Latn",
    "gug_Latn": "grn_Latn",
    "fil_Latn": "tgl_Latn",
    "twi_Latn_akua1239": "twi_Latn",
    "cmn_Hans": "zho_Hans",
    "cmn_Hant": "zho_Hant",
}

_HUB = {
    "flores_plus": _HubCorpus(
        Hub("openlanguagedata/flores_plus", None, "flores_plus", renamed=_FLORES_PLUS_CONFIGS, alternative=""),
        licence="CC-BY-SA-4.0",
        split="dev",
        language=("iso_639_3", "iso_15924"),
        item="id",
        text="text",
        rank=None,
        sort_key=int,
    ),
    "belebele": _HubCorpus(
        Hub(
            "facebook/belebele",
            None,
            "belebele",
            alternative="belebele/passage_to_flores200.json beside flores200/",
        ),
        licence="CC-BY-SA-4.0",
        split="test",
        language=("dialect",),
        item="link",
        text="flores_passage",
        rank="question_number",
        sort_key=str,
    ),
    "mgsm": _HubCorpus(
        Hub("juletxara/mgsm", None, "mgsm", alternative="mgsm_xx.tsv files"),
        licence="CC-BY-SA-4.0",
        split="test",
        language=(),
        item=None,
        text="question",
        rank=None,
        sort_key=int,
    ),
}

HUB_CORPORA = frozenset(_HUB)
"""Names that `load_corpus` fetches from the Hugging Face hub."""


def load_hub(
    name: str, local: str, wanted: tuple[str, ...] | None, split: str | None, *, revision: str | None = None
) -> Corpus:
    """Load a data set of the hub (``local`` is empty), or a local copy of its repository, through the same calls.

    ``revision`` is a branch, tag or commit of the hub's. Where the repository has one configuration per language, only
    those wanted are fetched; where it has none, its default configuration is read and divided by its language columns.

    Raises:
        CorpusError: not reachable, no such language or split, or the items of the languages differ.
    """
    layout = _HUB[name]
    hub = replace(layout.hub, copy=Path(local) if local else None, revision=revision, commits=set())
    split = split or layout.split
    configs = hub.configs()
    parts: list[tuple[str, str | None]] = [(DEFAULT_CONFIG, None)]
    if configs:
        parts = [(configs[code], code) for code in require_languages(configs, wanted, hub.where)]
    texts: dict[str, dict[str, str]] = {}
    for config, code in parts:
        texts |= _read(hub, layout, config, code, split=split)
    where = f"{hub.where}, split {split}"
    try:
        order = sorted({item for rows in texts.values() for item in rows}, key=layout.sort_key)
    except ValueError as error:
        raise CorpusError(
            f"{where}: {layout.item} is not an integer ({error}); expected the layout of FLORES+"
        ) from error
    aligned, ids = align(texts, order, wanted, where)
    return Corpus(name, aligned, ids, layout.licence, f"{hub.repository}, split {split}", revision=hub.commit)


def _read(hub: Hub, layout: _HubCorpus, config: str, code: str | None, *, split: str) -> dict[str, dict[str, str]]:
    """Read one configuration: language -> item id -> text; without ``code``, rows name their languages."""
    rank = () if layout.rank is None else (layout.rank,)
    named = () if layout.item is None else (layout.item,)
    rows = hub.rows(config, split, (*named, layout.text, *rank, *(() if code else layout.language)))
    if rank:
        try:
            rows.sort(key=lambda row: row[rank[0]])
        except TypeError as error:
            where = f"{hub.where}, split {split}, {config}"
            raise CorpusError(f"{where}: {rank[0]} is not a number in every row ({error})") from error
    texts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for number, row in enumerate(rows, start=1):
        where = f"{hub.where}, split {split}, {config}, row {number}"
        language = code or check_language("_".join(str(row[column]) for column in layout.language), where)
        item = str(number - 1) if layout.item is None else item_id(row[layout.item], where)
        if not rank or item not in texts[language]:
            add_text(texts[language], item, check_text(row[layout.text], where), where)
    return texts


def _resolve(repository: str, revision: str) -> str | None:
    """Return the commit that a branch or tag of a data set stands for; None where that is not known here."""
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - half a second, as below
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - as above

    try:
        with asking_hub():
            card = hf_hub_download(repository, "README.md", repo_type="dataset", revision=revision)
    except (OSError, HfHubHTTPError):
        return None
    return Path(card).parent.name


def _spelling(column: str | tuple[str, ...], available: Sequence[str]) -> str | None:
    """Return the first spelling of a column that is available."""
    spellings = (column,) if isinstance(column, str) else column
    return next((name for name in spellings if name in available), None)


def _datasets() -> ModuleType:
    import datasets  # noqa: PLC0415 - loading takes over a second, and only hub data sets need it

    module: ModuleType = datasets
    return module
