"""Worlds of simulated routing: what is planted in them, and so what a method should find.

In a simulated world an item has a topic that all languages share, a language has a voice that is loud in the outer
layers and quiet in the middle, and some experts are planted: they are chosen at a known rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.languages import resolve

__all__ = ["PlantedExpert", "SimulatedLanguage", "SimulatedWorld"]

Expert = tuple[int, int]

LEAST_TOKENS = 2
"""A pair of tokens, so that every item has a consistency."""


@dataclass(frozen=True)
class SimulatedLanguage:
    """One language of a simulated world.

    Attributes:
        code: as `isogloss.languages.resolve` accepts it; kept in full.
        distance: factor on the strength of the world; 0 is routed as the pivot is.
        fertility: tokens that it needs for a text, relative to the pivot; above 0.
        family: languages with the same name here have voices in common; None for a language on its own.
    """

    code: str
    distance: float = 1.0
    fertility: float = 1.0
    family: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", resolve(self.code))
        if self.distance < 0 or self.fertility <= 0:
            raise ValueError(f"{self.code}: distance {self.distance}, fertility {self.fertility}; expected >= 0, > 0")


@dataclass(frozen=True)
class PlantedExpert:
    """An expert that tokens choose at a known rate, whatever their topic.

    Attributes:
        layer: 0-based.
        expert: id within the layer.
        languages: full codes of those that choose it at ``rate``.
        rate: mean share of their tokens that choose it.
        elsewhere: the same in all other languages.
        task: the same in task text, in every language; None where task text is like any other.
    """

    layer: int
    expert: int
    languages: tuple[str, ...] = ()
    rate: float = 0.6
    elsewhere: float = 0.05
    task: float | None = None

    def __post_init__(self) -> None:
        if not all(0 <= rate <= 1 for rate in (self.rate, self.elsewhere, self.task or 0.0)):
            raise ValueError(f"{self}: rates lie between 0 and 1")

    def rate_in(self, language: str, *, task: bool = False) -> float:
        """Give the population's selection rate in a language, in generic or in task text."""
        if task and self.task is not None:
            return self.task
        return self.rate if language in self.languages else self.elsewhere


FOUR = (
    SimulatedLanguage("eng_Latn", distance=0.0),
    SimulatedLanguage("deu_Latn", distance=0.7, family="germanic"),
    SimulatedLanguage("swh_Latn", fertility=1.5),
    SimulatedLanguage("tel_Telu", distance=1.3, fertility=2.0),
)


@dataclass(frozen=True, kw_only=True)
class SimulatedWorld:
    """What is known about simulated routing before it is drawn.

    The router logits of a token are the layer's base, plus ``topic`` times the topic of its item, plus strength times
    distance times the voice of its language, plus standard Gumbel noise: its choice is then a draw of ``top_k`` experts
    without replacement, in proportion to the softmax of the rest. Every layer has the same base and voices under
    another numbering of the experts, so that curves over layers are flat but for the strength.

    Attributes:
        languages: the first is the pivot.
        n_items: parallel items.
        n_layers: routed layers, all of the decoder.
        n_experts: per layer.
        top_k: experts that a token chooses.
        tokens: mean tokens of an item in a language of fertility 1, at least 2; items vary by 40 % both ways.
        middle: first and last layer of the middle, inclusive.
        strength: of language-specific routing outside the middle; 0 makes all layers middle.
        middle_strength: the same inside.
        topic: spread of the logits over items, shared by the languages of an item.
        peak: spread of the logits over experts, shared by all.
        kinship: share of a voice's variance that a family has in common, 0 to 1.
        spread: how far the rate of a planted expert varies over items: 0 not at all, 1 as far as its mean allows.
        shared_tokens: share of a language's tokens whose ids are from the pivot's vocabulary.
        planted: experts with known rates.
        seed: of base, voices and draws.

    Raises:
        ValueError: on construction, where the parts contradict each other.
    """

    languages: tuple[SimulatedLanguage, ...] = FOUR
    n_items: int = 50
    n_layers: int = 12
    n_experts: int = 16
    top_k: int = 2
    tokens: float = 20.0
    middle: tuple[int, int] = (3, 8)
    strength: float = 0.8
    middle_strength: float = 0.0
    topic: float = 0.5
    peak: float = 0.5
    kinship: float = 0.7
    spread: float = 0.5
    shared_tokens: float = 0.2
    planted: tuple[PlantedExpert, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        first, last = self.middle
        if len(set(self.codes)) < len(self.codes) or not self.codes:
            raise ValueError(f"languages {self.codes}; expected at least one, none twice")
        if (
            min(self.n_items, self.n_layers, self.top_k) < 1
            or self.n_experts <= self.top_k
            or self.tokens < LEAST_TOKENS
        ):
            raise ValueError(f"{self}: expected counts from 1, tokens from 2, and more experts than top_k")
        if not 0 <= first <= last < self.n_layers:
            raise ValueError(f"middle {self.middle}; expected layers of 0 to {self.n_layers - 1}, ascending")
        if not (0 <= self.kinship <= 1 and 0 <= self.spread <= 1 and 0 <= self.shared_tokens <= 1):
            raise ValueError(
                f"kinship {self.kinship}, spread {self.spread}, shared_tokens {self.shared_tokens}: 0 to 1"
            )
        self._check_planted()

    def _check_planted(self) -> None:
        places = [(expert.layer, expert.expert) for expert in self.planted]
        if len(set(places)) < len(places):
            raise ValueError(f"planted experts {places}; expected none twice")
        for layer, expert in places:
            if not (0 <= layer < self.n_layers and 0 <= expert < self.n_experts):
                raise ValueError(
                    f"planted expert {expert} of layer {layer}; there are {self.n_layers} x {self.n_experts}"
                )
            beside = sum(other == layer for other, _ in places)
            if beside > min(self.top_k, self.n_experts - self.top_k):
                raise ValueError(
                    f"layer {layer} has {beside} planted experts; a token that chooses all of them, or none, needs at "
                    f"most {min(self.top_k, self.n_experts - self.top_k)} with top_k {self.top_k}"
                )
        strangers = {code for expert in self.planted for code in expert.languages} - set(self.codes)
        if strangers:
            raise ValueError(f"planted experts name {', '.join(sorted(strangers))}; expected {', '.join(self.codes)}")

    @property
    def codes(self) -> tuple[str, ...]:
        """Full codes of the languages, the pivot first."""
        return tuple(language.code for language in self.languages)

    @property
    def pivot(self) -> str:
        """The first language."""
        return self.codes[0]

    def exclusive_experts(self, language: str) -> frozenset[Expert]:
        """List (layer, expert) of those planted in this language alone."""
        return frozenset((expert.layer, expert.expert) for expert in self.planted if expert.languages == (language,))

    def common_experts(self) -> frozenset[Expert]:
        """List (layer, expert) of those planted in all languages."""
        return frozenset((one.layer, one.expert) for one in self.planted if set(one.languages) == set(self.codes))

    def task_experts(self) -> frozenset[Expert]:
        """List (layer, expert) of those that task text raises."""
        return frozenset((one.layer, one.expert) for one in self.planted if one.task is not None)

    def strengths(self) -> FloatArray:
        """Give the strength of every layer, ``[n_layers]``."""
        layers = np.arange(self.n_layers)
        inside = (layers >= self.middle[0]) & (layers <= self.middle[1])
        return np.where(inside, self.middle_strength, self.strength)
