"""A plan that was really learned, in seconds, from a few examples in four languages."""

from __future__ import annotations

import json

from isogloss.learning import LearnOptions, gather_data, learn_plan

__all__ = ["LEARNED_LANGUAGES", "learned_plan"]

LEARNED_LANGUAGES = {"swh_Latn": "Ng'ombe", "deu_Latn": "Fluss", "ben_Beng": "নদী", "tha_Thai": "แม่น้ำ"}
"""The languages, and a word that is the answer in each."""


def learned_plan(loaded, folder, *, shared=False):
    """Learn offsets for a model, and write plan.json and what else `learn` writes into a folder that is not there.

    Args:
        loaded: a `HuggingFaceModel`.
        folder: of the result.
        shared: one set of offsets for every request, else one for the requests of each language.
    """
    rows = [
        {"language": code, "prompt": f"{code} {number}?", "answer": f" {word}", "id": f"{number}"}
        for code, word in LEARNED_LANGUAGES.items()
        for number in range(8)
    ]
    examples = folder.with_suffix(".jsonl")
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = gather_data(None, examples=str(examples), languages=list(LEARNED_LANGUAGES))
    options = LearnOptions(steps=4, dev_every=4, batch_size=8, learning_rate=0.3, shared=shared)
    return learn_plan(loaded, data, out=folder, options=options).plan
