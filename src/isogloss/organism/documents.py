"""What the organism reads in training: which languages, which kinds of document, in which shares.

Resources are unequal on purpose, as in the field: English far ahead, task text mostly English, and none in the scarcest
languages but for a few translations, so that what they can do with a task came by way of other languages. Document
number ``n`` is drawn from its own seed, so a stopped training resumes with the number of the next document.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from isogloss.organism.realise import load_lexicon
from isogloss.organism.world import (
    Problem,
    Scene,
    draw_equation,
    draw_problem,
    draw_scene,
    join_sentences,
    realise_problem,
    realise_scene,
    write_equations,
)

__all__ = ["TIERS", "Mixture", "prompt"]


@dataclass(frozen=True)
class Tier:
    """Languages with the same share of documents.

    Attributes:
        languages: the languages of the tier.
        share: each language's share of all documents.
        kinds: share of each kind of document within a language. ``crossed`` is a story in one language with question
            and answer in another; translations are of a scene or a problem. The other language is English.
    """

    languages: tuple[str, ...]
    share: float
    kinds: Mapping[str, float]


TIERS = MappingProxyType(
    {
        "high": Tier(("eng_Latn",), 0.42, {"problem": 0.45, "drill": 0.25, "scene": 0.24, "real": 0.06}),
        "middle": Tier(
            ("deu_Latn", "fra_Latn", "jpn_Jpan", "rus_Cyrl", "spa_Latn", "zho_Hans"),
            0.06,
            {
                "problem": 0.25,
                "scene": 0.19,
                "crossed": 0.15,
                "translated scene": 0.20,
                "translated problem": 0.15,
                "real": 0.06,
            },
        ),
        "low": Tier(
            ("arb_Arab", "hin_Deva", "ind_Latn"),
            0.04,
            {
                "problem": 0.02,
                "scene": 0.38,
                "crossed": 0.20,
                "translated scene": 0.30,
                "translated problem": 0.04,
                "real": 0.06,
            },
        ),
        "very low": Tier(
            ("ben_Beng", "swh_Latn", "tel_Telu", "tha_Thai"),
            0.025,
            {"scene": 0.42, "crossed": 0.20, "translated scene": 0.30, "translated problem": 0.02, "real": 0.06},
        ),
    }
)

_EQUATIONS_PER_DRILL = 6


def prompt(text: str) -> str:
    """Put a question before the model as training did: the answer follows on the next line."""
    return text + "\n"


@dataclass(frozen=True)
class Mixture:
    """The stream of training documents.

    Attributes:
        seed: of the whole stream.
        real: real parallel text, language to lines; languages without any read scenes instead.
    """

    seed: int
    real: Mapping[str, Sequence[str]]

    def document(self, number: int) -> str:
        """Draw document ``number``."""
        rng = random.Random(f"document-{self.seed}-{number}")
        pairs = [(tier, language) for tier in TIERS.values() for language in tier.languages]
        tier, language = rng.choices(pairs, weights=[tier.share for tier, _ in pairs])[0]
        kind = rng.choices(list(tier.kinds), weights=list(tier.kinds.values()))[0]
        if kind == "real" and language not in self.real:
            kind = "scene"
        if kind == "real":
            return rng.choice(self.real[language])
        if kind == "drill":
            return write_equations([draw_equation(rng) for _ in range(_EQUATIONS_PER_DRILL)])
        told = wanted = language
        if kind not in ("problem", "scene"):
            told, wanted = rng.sample(["eng_Latn", language], 2)
        if kind.endswith("problem"):
            return _problem_document(draw_problem(number, seed=self.seed, split="train"), told=told, wanted=wanted)
        return _scene_document(draw_scene(number, seed=self.seed), kind, told=told, wanted=wanted)


def _problem_document(problem: Problem, *, told: str, wanted: str) -> str:
    """A problem and its working, or the problem in two languages."""
    if told == wanted:
        return prompt(realise_problem(problem, told)) + problem.working
    return _translation(realise_problem(problem, told), realise_problem(problem, wanted), wanted=wanted)


def _scene_document(scene: Scene, kind: str, *, told: str, wanted: str) -> str:
    """A scene with question and answer, both in ``wanted``; or the story in two languages."""
    story, *_ = realise_scene(scene, told)
    translated, question, answer = realise_scene(scene, wanted)
    if kind == "translated scene":
        return _translation(story, translated, wanted=wanted)
    return prompt(join_sentences([story, question], load_lexicon(told))) + answer


def _translation(text: str, translated: str, *, wanted: str) -> str:
    """A text and its translation; the first line tells that one is wanted, so that a bare problem never asks for it."""
    return f">{wanted}\n{text}\n{translated}"
