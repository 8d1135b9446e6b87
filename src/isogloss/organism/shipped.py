"""The model that ships with the package, and its texts: drawn from other random streams than the training documents."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from isogloss.corpora import Corpus
from isogloss.organism.documents import prompt
from isogloss.organism.realise import grammar_languages
from isogloss.organism.world import ProblemSplit, Scene, draw_problem, draw_scene, realise_problem, realise_scene

__all__ = [
    "ORGANISM",
    "adapter_folder",
    "learned_plan_file",
    "model_folder",
    "problem_corpus",
    "problem_items",
    "scene_corpus",
]

ORGANISM = "organism"

# Training draws its documents from the stream of its recipe's seed (0); these texts come from another.
_STREAM = 2510

_LICENCE = "Apache-2.0"


def model_folder() -> Path:
    """Return the folder of the shipped checkpoint, for ``AutoModelForCausalLM.from_pretrained``."""
    return Path(str(resources.files("isogloss.organism") / "model"))


def learned_plan_file() -> Path:
    """Return the plan that was learned on the shipped checkpoint for the languages that have seen fewest problems.

    Its provenance says how; docs/decisions/0013 has the command. It has learned from the dev split alone.
    """
    return Path(str(resources.files("isogloss.organism") / "learned.json"))


def adapter_folder() -> Path:
    """Return the folder of the router adapter that was made from the plan of `learned_plan_file`.

    docs/adapters.md has the command. Ridge and strength were chosen on dev items.
    """
    return Path(str(resources.files("isogloss.organism") / "adapter"))


def scene_corpus(n_items: int = 200, *, languages: tuple[str, ...] | None = None) -> Corpus:
    """Write small-world scenes whose English wording differs, by default in all 14 languages of the organism.

    Some of their sentences may occur in training, in other scenes.
    """
    codes = languages or tuple(grammar_languages())
    scenes: list[Scene] = []
    stories: set[str] = set()
    index = 0
    while len(scenes) < n_items:
        scene = draw_scene(index, seed=_STREAM)
        story, index = realise_scene(scene, "eng_Latn")[0], index + 1
        if story not in stories:
            stories.add(story)
            scenes.append(scene)
    texts = {code: tuple(realise_scene(scene, code)[0] for scene in scenes) for code in codes}
    return Corpus("organism", texts, tuple(scene.item_id for scene in scenes), _LICENCE, "isogloss organism scenes")


def problem_corpus(
    n_items: int = 200, *, split: ProblemSplit = "dev", languages: tuple[str, ...] | None = None
) -> Corpus:
    """Write word problems with their working, as text to capture; by default in all 14 languages."""
    codes = languages or tuple(grammar_languages())
    problems = [draw_problem(index, seed=_STREAM, split=split) for index in range(n_items)]
    texts = {code: tuple(prompt(realise_problem(p, code)) + p.working for p in problems) for code in codes}
    ids = tuple(problem.item_id for problem in problems)
    return Corpus("organism-problems", texts, ids, _LICENCE, f"isogloss organism word problems, {split}")


def problem_items(n_items: int, language: str, *, split: ProblemSplit = "test") -> list[tuple[str, str, str]]:
    """Write word problems as (item id, prompt, answer); an id has the same meaning in every language."""
    problems = [draw_problem(index, seed=_STREAM, split=split) for index in range(n_items)]
    return [(p.item_id, prompt(realise_problem(p, language)), str(p.answer)) for p in problems]
