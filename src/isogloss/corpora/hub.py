"""Corpora of the Hugging Face hub, known by name and fetched through `datasets`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

__all__ = ["HUB_CORPORA", "Hub", "Row", "load_hub"]

Row = Mapping[str, Any]

_DEFAULT_CONFIG = "default"


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
    """

    repository: str
    copy: Path | None
    name: str
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    alternative: str = "the original release"

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
        try:
            names = list(datasets.get_dataset_config_names(self.where))
        except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._unreachable(self.where, error) from error
        configs: dict[str, str] = {}
        for name in names:
            code = self.renamed.get(name) or full_code(name.removeprefix(self.prefix))
            if code is not None and code in configs:
                raise CorpusError(f"{self.where}: configurations {configs[code]} and {name} are both {code}")
            if code is not None:
                configs[code] = name
        return configs

    def rows(self, config: str, split: str, columns: Sequence[str]) -> list[Row]:
        """Return the rows of one configuration and split, with these columns.

        Raises:
            CorpusError: not reachable, no such split, or a column is missing; the message lists those available.
        """
        where, datasets = f"{self.where}, split {split}", _datasets()
        try:
            table = datasets.load_dataset(self.where, config, split=split)
        except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._unreachable(where, error) from error
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise CorpusError(f"{where}, {config}: no column {', '.join(missing)}; it has {table.column_names}")
        return list(table.select_columns(list(columns)))

    def _unreachable(self, where: str, error: Exception) -> CorpusError:
        if self.copy is not None and self.copy.exists():
            either = f"{self.alternative}, or " if self.alternative else ""
            remedy = f"expected {either}a full copy of {self.repository}, README.md included"
        else:
            remedy = (
                f"check the network, accept the terms at huggingface.co/datasets/{self.repository}, run `hf auth "
                f"login`, or copy the repository and name it as {self.name}:FOLDER"
            )
        first = str(error).partition("\n")[0]  # the library lists every file after it
        return CorpusError(f"{where}: cannot be loaded ({type(error).__name__}: {first}); {remedy}")


@dataclass(frozen=True)
class _HubCorpus:
    """How one data set of the hub names its languages, items and texts.

    Attributes:
        repository: on the hub.
        licence: SPDX identifier.
        split: read by default.
        language: columns that, joined by ``_``, name the language of a row.
        item: column that names the item in every language.
        text: column with the text.
        rank: column that says which row of an item to keep (the lowest), or None where an item has one row.
        sort_key: order of items.
        renamed: configuration -> language, if its name is not the language's code.
        alternative: another folder that can be read in place of a copy of the repository; empty for none.
    """

    repository: str
    licence: str
    split: str
    language: tuple[str, ...]
    item: str
    text: str
    rank: str | None
    sort_key: Callable[[str], Any]
    renamed: Mapping[str, str] = field(default_factory=dict)
    alternative: str = ""


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
        repository="openlanguagedata/flores_plus",
        licence="CC-BY-SA-4.0",
        split="dev",
        language=("iso_639_3", "iso_15924"),
        item="id",
        text="text",
        rank=None,
        sort_key=int,
        renamed=_FLORES_PLUS_CONFIGS,
    ),
    "belebele": _HubCorpus(
        repository="facebook/belebele",
        licence="CC-BY-SA-4.0",
        split="test",
        language=("dialect",),
        item="link",
        text="flores_passage",
        rank="question_number",
        sort_key=str,
        alternative="belebele/passage_to_flores200.json beside flores200/",
    ),
}

HUB_CORPORA = frozenset(_HUB)
"""Names that `load_corpus` fetches from the Hugging Face hub."""


def load_hub(name: str, local: str, wanted: tuple[str, ...] | None, split: str | None) -> Corpus:
    """Load a data set of the hub, or a local copy of its repository, through the same calls.

    Where the repository has one configuration per language, only those wanted are fetched; where it has none, its
    default configuration is read and divided by its language columns.

    Args:
        name: one of `HUB_CORPORA`.
        local: folder with a copy of the repository; empty for the hub.
        wanted: full codes; None for all.
        split: None for the data set's usual one.

    Returns:
        The corpus.

    Raises:
        CorpusError: not reachable, no such language or split, or the items of the languages differ.
    """
    layout = _HUB[name]
    hub = Hub(
        layout.repository,
        Path(local) if local else None,
        name,
        renamed=layout.renamed,
        alternative=layout.alternative,
    )
    split = split or layout.split
    configs = hub.configs()
    parts: list[tuple[str, str | None]] = [(_DEFAULT_CONFIG, None)]
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
    return Corpus(name, aligned, ids, layout.licence, f"{layout.repository}, split {split}")


def _read(hub: Hub, layout: _HubCorpus, config: str, code: str | None, *, split: str) -> dict[str, dict[str, str]]:
    """Read one configuration: language -> item id -> text; without ``code``, rows name their languages."""
    rank = () if layout.rank is None else (layout.rank,)
    rows = hub.rows(config, split, (layout.item, layout.text, *rank, *(() if code else layout.language)))
    if rank:
        rows.sort(key=lambda row: row[rank[0]])
    texts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for number, row in enumerate(rows, start=1):
        where = f"{hub.where}, split {split}, {config}, row {number}"
        language = code or check_language("_".join(str(row[column]) for column in layout.language), where)
        item = item_id(row[layout.item], where)
        if not rank or item not in texts[language]:
            add_text(texts[language], item, check_text(row[layout.text], where), where)
    return texts


def _datasets() -> ModuleType:
    import datasets  # noqa: PLC0415 - loading takes over a second, and only hub data sets need it

    module: ModuleType = datasets
    return module
