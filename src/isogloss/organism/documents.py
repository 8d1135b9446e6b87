"""The training documents of the organism: their languages, their kinds, and their shares.

Resources are unequal on purpose, as in real corpora: English has by far the most, and task text is mostly English and
absent from the scarcest languages but for a few translations, so that their ability on a task is transferred from other
languages. Document ``n`` is drawn from its own seed, so an interrupted training resumes with the next document.
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
    """Format a question as in training: the answer follows on the next line."""
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
        source = target = language
        if kind not in ("problem", "scene"):
            source, target = rng.sample(["eng_Latn", language], 2)
        if kind.endswith("problem"):
            problem = draw_problem(number, seed=self.seed, split="train")
            return _problem_document(problem, source=source, target=target)
        return _scene_document(draw_scene(number, seed=self.seed), kind, source=source, target=target)


def _problem_document(problem: Problem, *, source: str, target: str) -> str:
    """Write a problem and its working, or the problem in two languages."""
    if source == target:
        return prompt(realise_problem(problem, source)) + problem.working
    return _translation(realise_problem(problem, source), realise_problem(problem, target), target=target)


def _scene_document(scene: Scene, kind: str, *, source: str, target: str) -> str:
    """Write a scene with question and answer, both in ``target``; or the story in two languages."""
    story, *_ = realise_scene(scene, source)
    translated, question, answer = realise_scene(scene, target)
    if kind == "translated scene":
        return _translation(story, translated, target=target)
    return prompt(join_sentences([story, question], load_lexicon(source))) + answer


def _translation(text: str, translated: str, *, target: str) -> str:
    """Write a text and its translation; the first line asks for it, so that a problem alone never does."""
    return f">{target}\n{text}\n{translated}"
