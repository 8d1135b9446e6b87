"""What the organism reads in training: which languages, which kinds of document, in which shares.

Resources are unequal on purpose, as in the field: English far ahead, task text mostly English. Document number ``n`` is
drawn from its own seed, so a stopped training goes on with the next document by its number alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from isogloss.organism.realise import load_lexicon
from isogloss.organism.world import (
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
        kinds: share of each kind of document within a language.
    """

    languages: tuple[str, ...]
    share: float
    kinds: Mapping[str, float]


TIERS = MappingProxyType(
    {
        "high": Tier(("eng_Latn",), 0.40, {"problem": 0.55, "drill": 0.15, "scene": 0.24, "real": 0.06}),
        "middle": Tier(
            ("arb_Arab", "deu_Latn", "fra_Latn", "jpn_Jpan", "rus_Cyrl", "spa_Latn", "zho_Hans"),
            0.06,
            {"problem": 0.35, "scene": 0.34, "translation": 0.25, "real": 0.06},
        ),
        "low": Tier(
            ("ben_Beng", "hin_Deva", "ind_Latn", "swh_Latn", "tel_Telu", "tha_Thai"),
            0.03,
            {"problem": 0.15, "scene": 0.44, "translation": 0.35, "real": 0.06},
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
        if kind == "drill":
            return write_equations([draw_equation(rng) for _ in range(_EQUATIONS_PER_DRILL)])
        if kind == "problem":
            problem = draw_problem(number, seed=self.seed, split="train")
            return prompt(realise_problem(problem, language)) + problem.working
        if kind == "scene":
            story, question, answer = realise_scene(draw_scene(number, seed=self.seed), language)
            asked = join_sentences([story, question], load_lexicon(language))
            return prompt(asked) + answer
        if kind == "translation":
            return self._translation(rng, number, language)
        return rng.choice(self.real[language])

    def _translation(self, rng: random.Random, number: int, language: str) -> str:
        pair = ["eng_Latn", language]
        rng.shuffle(pair)
        if rng.random() < 0.5:  # noqa: PLR2004 - a coin
            problem = draw_problem(number, seed=self.seed, split="train")
            source, target = (realise_problem(problem, code) for code in pair)
        else:
            scene = draw_scene(number, seed=self.seed)
            source, target = (realise_scene(scene, code)[0] for code in pair)
        return f"{source}\n>{pair[1]}\n{target}"
