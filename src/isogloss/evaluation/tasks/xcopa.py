"""XCOPA: which of two alternatives is the cause or the effect of a premise."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from isogloss.corpora import full_code
from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.parse import parse_letter
from isogloss.evaluation.tasks.reading import DataSet, Request, published, text_of
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


_XCOPA_DATA = DataSet(
    "cambridgeltl/xcopa",
    ("premise", "choice1", "choice2", "question", "label"),
    "CC-BY-4.0",
    "cambridgeltl/xcopa, validation (dev) and test",
    patterns=("*/{split}.*.jsonl", "data/*/{split}.*.jsonl"),
    code=lambda path: code if (code := full_code(path.parent.name)) in _CONNECTORS else None,
)
_XCOPA_SPLITS = {"dev": ["validation"], "test": ["test"], None: ["validation", "test"]}


def load_xcopa(request: Request) -> Task:
    """Load XCOPA: 100 (dev) and 500 (test) premises with two alternatives, in 11 languages.

    Layouts: the hub's (one configuration per language; splits ``validation`` and ``test``; columns ``premise``,
    ``choice1``, ``choice2``, ``question``, ``label``) and the original release's ``xx/val.xx.jsonl`` and
    ``xx/test.xx.jsonl``, also under ``data/``.
    """
    items: defaultdict[str, list[Item]] = defaultdict(list)
    for split in _XCOPA_SPLITS[request.split]:
        for code, rows in _XCOPA_DATA.rows(request, split, file_split={"validation": "val"}.get(split, split)):
            items[code] += [_xcopa_item(row, code, f"{split}/{i}", where) for i, (where, row) in enumerate(rows)]
    return _XCOPA_DATA.task(request, dict(items), parse_letter, max_new_tokens=0, scoring="options", protocol=_XCOPA)


def _xcopa_item(row: Any, code: str, item_id: str, where: str) -> Item:  # noqa: ANN401 - a row as it was published
    asked, label = text_of(row, "question", where), text_of(row, "label", where)
    if asked not in ("cause", "effect") or label not in ("0", "1"):
        raise CorpusError(f"{where}: question {asked!r} and label {label!r}; expected cause or effect, and 0 or 1")
    premise = text_of(row, "premise", where)
    if not premise[-1].isalnum() and premise[-1] in ".!?。！？…":
        premise = premise[:-1]
    options = [text_of(row, column, where) for column in ("choice1", "choice2")]
    lowered = tuple(option[0].lower() + option[1:] for option in options)
    connectors = published(_CONNECTORS, code, "words for because and therefore", where)
    prompt = f"{premise} {connectors[0 if asked == 'cause' else 1]}"
    return Item(item_id, prompt, lowered[int(label)], lowered, int(label), "", asked)
