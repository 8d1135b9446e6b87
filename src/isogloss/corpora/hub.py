"""Corpora of the Hugging Face hub, known by name and fetched through `datasets`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from isogloss.corpora.corpus import Corpus, add_text, align, check_language, check_text, item_id, require_language
from isogloss.errors import CorpusError, LanguageError
from isogloss.languages import resolve

__all__ = ["HUB_CORPORA", "load_hub"]

_DEFAULT_CONFIG = "default"


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
        configs: language -> name of its configuration, where it is not the language's code.
    """

    repository: str
    licence: str
    split: str
    language: tuple[str, ...]
    item: str
    text: str
    rank: str | None
    sort_key: Callable[[str], Any]
    configs: Mapping[str, str]


# Configurations that FLORES+ names otherwise than FLORES-200, for the same text. kon_Latn and tzm_Tfng are not among
# them: their texts were found to be in other languages (ktu_Latn, zgh_Tfng).
# Source: github.com/openlanguagedata/flores, CHANGELOG.md, 2.0-rc.1 and 2.0-rc.2.
_FLORES_PLUS_CONFIGS = {
    "ajp_Arab": "apc_Arab_sout3123",
    "aka_Latn": "twi_Latn_asan1239",
    "apc_Arab": "apc_Arab_nort3139",
    "est_Latn": "ekk_Latn",
    "grn_Latn": "gug_Latn",
    "tgl_Latn": "fil_Latn",
    "twi_Latn": "twi_Latn_akua1239",
    "zho_Hans": "cmn_Hans",
    "zho_Hant": "cmn_Hant",
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
        configs=_FLORES_PLUS_CONFIGS,
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
        configs={},
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
    hub = _HUB[name]
    reader = _Reader(name, hub, local or hub.repository, split or hub.split)
    texts: dict[str, dict[str, str]] = {}
    for config, code in reader.plan(wanted):
        texts |= reader.read(config, code)
    try:
        order = sorted({item for rows in texts.values() for item in rows}, key=hub.sort_key)
    except ValueError as error:
        raise CorpusError(
            f"{reader.where}: {hub.item} is no whole number ({error}); expected FLORES+ layout"
        ) from error
    aligned, ids = align(texts, order, wanted, reader.where)
    return Corpus(name, aligned, ids, hub.licence, f"{hub.repository}, split {reader.split}")


@dataclass(frozen=True)
class _Reader:
    """One repository and split, read through `datasets`."""

    name: str
    hub: _HubCorpus
    path: str
    split: str

    @property
    def where(self) -> str:
        return f"{self.path}, split {self.split}"

    def plan(self, wanted: tuple[str, ...] | None) -> list[tuple[str, str | None]]:
        """Pair each configuration to read with its language, or with None where its rows name their languages."""
        renamed = {config: code for code, config in self.hub.configs.items()}
        by_language: dict[str, str] = {}
        for config in self._configs():
            code = renamed.get(config) or _code(config)
            if code is not None and code in by_language:
                raise CorpusError(f"{self.path}: configurations {by_language[code]} and {config} are both {code}")
            if code is not None:
                by_language[code] = config
        if not by_language:
            return [(_DEFAULT_CONFIG, None)]
        codes = sorted(by_language) if wanted is None else wanted
        return [(by_language[require_language(by_language, code, self.path)], code) for code in codes]

    def read(self, config: str, code: str | None) -> dict[str, dict[str, str]]:
        """Read one configuration: language -> item id -> text."""
        texts: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for number, row in enumerate(self._rows(config, with_languages=code is None), start=1):
            where = f"{self.where}, {config}, row {number}"
            language = code or check_language("_".join(str(row[column]) for column in self.hub.language), where)
            item = item_id(row[self.hub.item], where)
            if self.hub.rank is None or item not in texts[language]:
                add_text(texts[language], item, check_text(row[self.hub.text], where), where)
        return texts

    def _configs(self) -> list[str]:
        datasets = _datasets()

        try:
            return list(datasets.get_dataset_config_names(self.path))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._unreachable(error) from error

    def _rows(self, config: str, *, with_languages: bool) -> Iterable[Mapping[str, Any]]:
        datasets = _datasets()

        try:
            table = datasets.load_dataset(self.path, config, split=self.split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._unreachable(error) from error
        rank = () if self.hub.rank is None else (self.hub.rank,)
        needed = [self.hub.item, self.hub.text, *rank, *(self.hub.language if with_languages else ())]
        missing = [column for column in needed if column not in table.column_names]
        if missing:
            raise CorpusError(f"{self.where}, {config}: no column {', '.join(missing)}; it has {table.column_names}")
        rows: Iterable[Mapping[str, Any]] = table.select_columns(needed)
        return sorted(rows, key=lambda row: row[rank[0]]) if rank else rows

    def _unreachable(self, error: Exception) -> CorpusError:
        if Path(self.path).exists():
            remedy = f"expected a full copy of {self.hub.repository}, README.md included"
            if self.name == "belebele":
                remedy += ", or belebele/passage_to_flores200.json beside flores200/"
        else:
            remedy = (
                f"check the network, accept the terms at huggingface.co/datasets/{self.hub.repository}, run `hf auth "
                f"login`, or copy the repository and name it as {self.name}:FOLDER"
            )
        first = str(error).partition("\n")[0]  # the library lists every file after it
        return CorpusError(f"{self.where}: cannot be loaded ({type(error).__name__}: {first}); {remedy}")


def _datasets() -> ModuleType:
    import datasets  # noqa: PLC0415 - loading takes over a second, and only hub corpora need it

    module: ModuleType = datasets
    return module


def _code(config: str) -> str | None:
    try:
        return resolve(config)
    except LanguageError:
        return None
