"""Probes in closed form: linear functions of what a router reads that tell languages apart.

A probe of some languages is the ridge regression of 1 on their tokens and 0 on all others: with ``S_k`` the mean of
x xᵀ over tokens of language k, ``μ_k`` the mean of x, weights ``w_k`` that sum to 1, and ``λ`` relative to the mean
diagonal of ``A = Σ w_k S_k``,

    v = (A + λ I)⁻¹ Σ w_k μ_k        summed over the probe's languages.

So it is shrunk where a language is rare among all: its mean over its own tokens is below 1. A strength above 1 on what
it multiplies makes up for that, and leaks less than a probe that reaches 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.router_inputs import Moments

__all__ = ["CONSTANT", "LanguageMeans", "ProbeFit", "some_of"]

CONSTANT = "constant"
"""Name of a rank whose probe is 1 on every token."""


@dataclass
class LanguageMeans:
    """What one router reads, over languages.

    Attributes:
        products: ``[width, width]`` float64, the weighted sum of each language's mean of x xᵀ.
        means: language to ``[width]`` float64, the mean of x.
        weights: language to its weight.
    """

    products: FloatArray | float = 0.0
    means: dict[str, FloatArray] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, language: str, weight: float, moments: Moments) -> None:
        """Add a language's moments."""
        self.products = self.products + (weight / moments.n_tokens) * moments.products
        self.means[language] = moments.total / moments.n_tokens
        self.weights[language] = weight


class ProbeFit:
    """The probes of one router, for any ridge; A is decomposed once.

    Args:
        languages: their means.
        ranks: languages of each probe; None for one that is 1 on every token.
    """

    def __init__(self, languages: LanguageMeans, ranks: Sequence[Collection[str] | None]) -> None:
        total = sum(languages.weights.values())
        self.values, self.vectors = np.linalg.eigh(np.asarray(languages.products) / total)
        targets = [
            sum((languages.weights[code] / total) * languages.means[code] for code in rank or languages.means)
            for rank in ranks
        ]
        self.targets = np.stack([np.asarray(target) for target in targets], axis=1)

    def probes(self, ridge: float) -> FloatArray:
        """Return ``[rank, width]`` float64.

        Args:
            ridge: λ as a multiple of the mean diagonal of A, above 0.
        """
        damped = np.maximum(self.values, 0.0) + ridge * self.values.mean()
        return np.asarray((self.vectors @ ((self.vectors.T @ self.targets) / damped[:, None])).T)


def some_of(names: Iterable[str], *, share: float, purpose: str) -> tuple[str, ...]:
    """Choose a share of names by their hash: at least one of two or more, the same on every machine.

    Example:
        >>> len(some_of(map(str, range(100)), share=0.25, purpose="held out"))
        25
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())
    n = max(1, round(share * len(ranked))) if len(ranked) > 1 else 0
    return tuple(sorted(ranked[:n]))
