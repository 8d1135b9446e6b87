"""The small multilingual Mixture-of-Experts model that ships with isogloss: its texts, its training, its files.

What needs torch (`train`, `threads`, `tokenizer`) is imported from its module.
"""

from __future__ import annotations

from isogloss.organism.documents import TIERS, Mixture
from isogloss.organism.realise import grammar_languages
from isogloss.organism.shipped import (
    ORGANISM,
    adapter_folder,
    learned_plan_file,
    model_folder,
    problem_corpus,
    problem_items,
    scene_corpus,
)

__all__ = [
    "ORGANISM",
    "TIERS",
    "Mixture",
    "adapter_folder",
    "grammar_languages",
    "learned_plan_file",
    "model_folder",
    "problem_corpus",
    "problem_items",
    "scene_corpus",
]
