"""The model that ships with the package, and its texts: drawn from streams that training never reads."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from isogloss.corpora import Corpus
from isogloss.organism.documents import prompt
from isogloss.organism.realise import grammar_languages
from isogloss.organism.world import Scene, Split, draw_problem, draw_scene, realise_problem, realise_scene

__all__ = ["ORGANISM", "model_folder", "problem_corpus", "problem_items", "scene_corpus"]

ORGANISM = "organism"

# Training draws its documents from the stream of its recipe's seed (0); these texts come from another.
_STREAM = 2510

_LICENCE = "Apache-2.0"


def model_folder() -> Path:
    """Return the folder of the shipped checkpoint, for ``AutoModelForCausalLM.from_pretrained``."""
    return Path(str(resources.files("isogloss.organism") / "model"))


def scene_corpus(n_items: int = 200, *, languages: tuple[str, ...] | None = None) -> Corpus:
    """Tell ``n_items`` small-world scenes in every language of the organism.

    Args:
        n_items: scenes whose English wording differs; training may have met some of their sentences, in other scenes.
        languages: full codes; None for all 14.
    """
    codes = languages or tuple(grammar_languages())
    scenes: list[Scene] = []
    told: set[str] = set()
    index = 0
    while len(scenes) < n_items:
        scene = draw_scene(index, seed=_STREAM)
        story, index = realise_scene(scene, "eng_Latn")[0], index + 1
        if story not in told:
            told.add(story)
            scenes.append(scene)
    texts = {code: tuple(realise_scene(scene, code)[0] for scene in scenes) for code in codes}
    return Corpus("organism", texts, tuple(scene.item_id for scene in scenes), _LICENCE, "isogloss organism scenes")


def problem_corpus(n_items: int = 200, *, split: Split = "dev", languages: tuple[str, ...] | None = None) -> Corpus:
    """Write ``n_items`` word problems with their working, as text to capture.

    Args:
        n_items: problems.
        split: which equations they ask for.
        languages: full codes; None for all 14.
    """
    codes = languages or tuple(grammar_languages())
    problems = [draw_problem(index, seed=_STREAM, split=split) for index in range(n_items)]
    texts = {code: tuple(prompt(realise_problem(p, code)) + p.working for p in problems) for code in codes}
    ids = tuple(problem.item_id for problem in problems)
    return Corpus("organism-problems", texts, ids, _LICENCE, f"isogloss organism word problems, {split}")


def problem_items(n_items: int, language: str, *, split: Split = "test") -> list[tuple[str, str, str]]:
    """Write word problems as (item id, prompt, answer); the same ids say the same in every language."""
    problems = [draw_problem(index, seed=_STREAM, split=split) for index in range(n_items)]
    return [(p.item_id, prompt(realise_problem(p, language)), str(p.answer)) for p in problems]
