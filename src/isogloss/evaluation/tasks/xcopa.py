"""Causes and effects: XCOPA."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from isogloss.corpora.corpus import full_code
from isogloss.corpora.hub import Hub
from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.parse import parse_letter
from isogloss.evaluation.tasks.reading import Request, glob_languages, read_languages, text_of
from isogloss.evaluation.tasks.task import Item, Task

__all__ = ["load_xcopa"]

# Source: lm-evaluation-harness, tasks/xcopa/utils.py: before a cause, before an effect.
_CONNECTORS = {
    "est_Latn": ("sest", "seetõttu"),
    "hat_Latn": ("poukisa", "donk sa"),
    "ita_Latn": ("perché", "quindi"),
    "ind_Latn": ("karena", "maka"),
    "quy_Latn": ("imataq", "chaymi"),
    "swh_Latn": ("kwa sababu", "kwa hiyo"),
    "zho_Hans": ("因为", "所以"),
    "tam_Taml": ("காரணமாக", "எனவே"),
    "tha_Thai": ("เพราะ", "ดังนั้น"),
    "tur_Latn": ("çünkü", "bu yüzden"),
    "vie_Latn": ("bởi vì", "vì vậy"),
}
_XCOPA = (
    "zero-shot, plain: the premise without its last punctuation mark, a space, the language's word for because or "
    "therefore; the more likely of the two alternatives, first letter in lower case, is chosen, likelihoods as they "
    "are (acc). As lm-evaluation-harness, xcopa version 1, which drops the premise's last character whatever it is"
)


def load_xcopa(request: Request) -> Task:
    """Load XCOPA: 100 (dev) and 500 (test) premises with two alternatives, in 11 languages.

    Layouts: the hub's (one configuration per language; splits ``validation`` and ``test``; columns ``premise``,
    ``choice1``, ``choice2``, ``question``, ``label``) and the original release's ``xx/val.xx.jsonl`` and
    ``xx/test.xx.jsonl``, also under ``data/``.
    """
    hub = Hub("cambridgeltl/xcopa", request.path, request.title)
    items: defaultdict[str, list[Item]] = defaultdict(list)
    columns = ("premise", "choice1", "choice2", "question", "label")
    for split in {"dev": ["validation"], "test": ["test"], None: ["validation", "test"]}[request.split]:
        files = _xcopa_files(request.path, split)
        for code, where, rows in read_languages(request, hub, files, split=split, columns=columns):
            if code not in _CONNECTORS:
                raise CorpusError(
                    f"{where}: no words for because and therefore in {code}; known: {', '.join(_CONNECTORS)}"
                )
            items[code] += [_xcopa_item(row, code, f"{split}/{i}", f"{where}:{i + 1}") for i, row in enumerate(rows)]
    return Task(
        request.title,
        dict(items),
        parse_letter,
        max_new_tokens=0,
        scoring="options",
        protocol=_XCOPA,
        licence="CC-BY-4.0",
        source="cambridgeltl/xcopa, validation (dev) and test",
        split=request.split,
    )


def _xcopa_files(folder: Path | None, split: str) -> dict[str, Path]:
    stem = {"validation": "val", "test": "test"}[split]
    for pattern in () if folder is None else (f"*/{stem}.*.jsonl", f"data/*/{stem}.*.jsonl"):
        files = glob_languages(Path(str(folder)), pattern, lambda path: full_code(path.parent.name))
        found = {code: path for code, path in files.items() if code in _CONNECTORS}
        if found:
            return found
    return {}


def _xcopa_item(row: Any, code: str, item_id: str, where: str) -> Item:  # noqa: ANN401 - a row as it was published
    asked, label = text_of(row, "question", where), text_of(row, "label", where)
    if asked not in ("cause", "effect") or label not in ("0", "1"):
        raise CorpusError(f"{where}: question {asked!r} and label {label!r}; expected cause or effect, and 0 or 1")
    premise = text_of(row, "premise", where)
    if not premise[-1].isalnum() and premise[-1] in ".!?。！？…":
        premise = premise[:-1]
    options = [text_of(row, column, where) for column in ("choice1", "choice2")]
    lowered = tuple(option[0].lower() + option[1:] for option in options)
    prompt = f"{premise} {_CONNECTORS[code][0 if asked == 'cause' else 1]}"
    return Item(item_id, prompt, lowered[int(label)], lowered, int(label), "", asked)
