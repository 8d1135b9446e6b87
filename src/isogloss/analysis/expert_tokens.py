"""Which tokens an expert is chosen for more than others, by language, from a Run that counted choices by token."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import RunError
from isogloss.files import sha256
from isogloss.languages import resolve
from isogloss.notebook import Shown
from isogloss.records import Name, Number, Record
from isogloss.runs import LanguageRouting, Run, RunStatus
from isogloss.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ExpertTokens", "LanguageTokens", "TokenRow", "expert_tokens", "require_token_counts"]

_LEAST_ITEMS = 2  # with fewer there is no spread between items
_COLUMNS = ("token", "token_id", "n", "n_items", "chosen", "share", "lift", "low", "high")


@dataclass(frozen=True)
class TokenRow(Record):
    r"""One token that an expert was chosen for.

    Attributes:
        token: its text; bytes that are a part of a character as ``\\xe0``.
        token_id: of the model's vocabulary.
        n: how often it was counted.
        chosen: how often of these the expert was chosen.
        share: of all choices of the expert in this language, those for this token, from 0 to 1.
        lift: how many times as often the expert is chosen for it as for any token, see `expert_tokens`; its ``n`` are
            the items that hold it.
    """

    token: str
    token_id: int
    n: int
    chosen: int
    share: Number
    lift: Estimate


@dataclass(frozen=True)
class LanguageTokens(Record):
    """The tokens of one language that an expert was chosen for.

    Attributes:
        language: full code.
        n_tokens: counted ones.
        rate: share of them that the expert is chosen for, from 0 to 1; the interval, at the level of the whole, and
            ``n`` are of items.
        n_compared: ids that were counted often enough to be compared.
        n_above: of these, ids whose lift has an interval above 1.
        tokens: those of the greatest lower end first.
    """

    language: Name
    n_tokens: int
    rate: Estimate
    n_compared: int
    n_above: int
    tokens: tuple[TokenRow, ...]


@dataclass(frozen=True, repr=False)
class ExpertTokens(Record, Shown):
    """The tokens that one expert is chosen for most.

    Attributes:
        model: that was captured.
        layer: decoder layer, 0-based.
        expert: id within the layer.
        least: occurrences that a token needs to be compared.
        level: coverage of the intervals of all compared tokens together.
        languages: in the order asked for.
        run_sha256: hash of the Run's manifest.
        status: ``partial`` where the capture has not finished; the numbers will change.
    """

    model: Name
    layer: int
    expert: int
    least: int
    level: Number
    languages: tuple[LanguageTokens, ...]
    run_sha256: str
    status: RunStatus

    def __repr__(self) -> str:
        first = ", ".join(
            f"{each.language} {each.tokens[0].token!r} ×{each.tokens[0].lift.value:.1f}"
            for each in self.languages
            if each.tokens
        )
        return f"ExpertTokens({self.model}, {self.layer}:{self.expert}: {first or 'chosen for none'})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per language and token: its counts, the share of the expert's choices, and the lift."""
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        rows = [
            (each.language, row.token, row.token_id, row.n, row.lift.n, row.chosen, row.share, *astuple(row.lift)[:3])
            for each in self.languages
            for row in each.tokens
        ]
        return pd.DataFrame(rows, columns=["language", *_COLUMNS])


def expert_tokens(  # noqa: PLR0913 - what is listed, by name
    run: Run,
    layer: int,
    expert: int,
    *,
    languages: Sequence[str] = (),
    top: int = 20,
    least: int = 5,
    level: float = 0.95,
) -> ExpertTokens:
    """List the tokens that an expert is chosen for most, against chance, language by language.

    With ``c`` choices of the expert for a token that was counted ``n`` times, and ``C`` for all ``N`` counted tokens of
    the language, ``lift = (c / n) / (C / N)``: how many times as often the expert is chosen for the token as for any
    token. The same number is the token's share of the expert's choices, ``c / C``, divided by its share of all tokens,
    ``n / N``. It is from 0 to ``N / C``; 1 is chance.

    Items are the units, since tokens of one item are not independent:

    * ``c / n`` has Wilson's interval with ``n_eff = (sum of n_i)^2 / sum of n_i^2`` in place of n, where item i holds
      the token n_i times (Kish's effective number of clusters): as if all occurrences in an item were routed alike,
      which is the widest that items can make it.
    * ``C / N`` has that of a ratio of sums over items, by the variance of its residuals, on a logarithmic scale.
    * Both are joined by the squares of their distances on the logarithmic scale, as for the ratio of independent
      estimates; a token is itself part of N, which makes the truth a little narrower.

    The intervals of all compared tokens, of every language together, hold at once with probability ``level``
    (Bonferroni). Tokens are listed by the lower end: the greatest lift alone is that of rare tokens.

    Args:
        run: captured with ``CaptureOptions(token_counts=True)``.
        layer: decoder layer, 0-based.
        expert: id within the layer.
        languages: as `isogloss.languages.resolve` accepts them; none for all of the Run.
        top: tokens listed per language, at least 1.
        least: occurrences that a token needs to be compared, at least 1; it is fixed without looking at choices.
        level: coverage, above 0 and below 1.

    Returns:
        Listed are tokens that the expert was chosen for at least once. With a single item there are no intervals, and
        tokens are listed by their choices.

    Raises:
        RunError: the Run did not count choices by token, it has no such expert, or a file of it is damaged.
        LanguageError: a language is unknown or not in the Run.
        ValueError: a number is out of its range.

    Source:
        Wilson (1927); Kish, Survey Sampling (1965), section 5.4; Zou and Donner, Construction of confidence limits
        about effect measures (2008), on joining intervals.
    """
    if top < 1 or least < 1 or not 0 < level < 1:
        raise ValueError(f"top is {top}, least {least}, level {level}; expected at least 1, 1, and between 0 and 1")
    codes = tuple(dict.fromkeys(resolve(code) for code in languages)) or run.languages
    run.require(codes)
    require_token_counts(run)
    place = _place(run, layer, expert)
    counted = [_Counted.of(run.load(code), place, expert) for code in codes]
    n_compared = sum(int((each.n >= least).sum()) for each in counted)
    z = NormalDist().inv_cdf(1 - (1 - level) / 2 / max(n_compared, 1))
    plain_z = NormalDist().inv_cdf((1 + level) / 2)
    return ExpertTokens(
        run.manifest.model,
        layer,
        expert,
        least,
        level,
        tuple(each.listed(code, top, least, (z, plain_z)) for code, each in zip(codes, counted, strict=True)),
        sha256(run.manifest.encode()),
        run.manifest.status,
    )


def require_token_counts(run: Run) -> None:
    """Refuse a Run that did not count choices by token; RunError names the command that does."""
    manifest = run.manifest
    if not manifest.token_counts:
        captured = manifest.fingerprint is not None  # and not imported, where neither can be captured by its name
        model, corpus = (manifest.model, manifest.corpus["name"]) if captured else ("MODEL", "CORPUS")
        raise RunError(
            f"{run.path}: has no counts of choices by token; capture them into another folder: isogloss capture "
            f"{model} --corpus {corpus} --token-counts -o RUN"
        )


def _place(run: Run, layer: int, expert: int) -> int:
    """Return a layer's position among the routed ones; RunError, with what is nearest, where the expert is none."""
    layers = [router.layer for router in run.manifest.routers]
    n_experts = run.manifest.routers[0].n_experts
    if layer in layers and 0 <= expert < n_experts:
        return layers.index(layer)
    near = min(layers, key=lambda each: abs(each - layer))
    names = difflib.get_close_matches(str(expert), [str(each) for each in range(n_experts)], n=1)
    meant = expert if 0 <= expert < n_experts else next(iter(names), n_experts - 1)
    raise RunError(
        f"{run.path}: found no expert {layer}:{expert}; expected a routed layer from {layers[0]} to {layers[-1]} and "
        f"an expert from 0 to {n_experts - 1}: did you mean {near}:{meant}? `isogloss inspect RUN` names some to begin "
        "with"
    )


@dataclass(frozen=True, eq=False)
class _Counted:
    """What a language's file says about one expert, without the rest of the file.

    Attributes:
        texts: of the ids, ``[n_types]``.
        ids: ``[n_types]``.
        n: ``[n_types]``, how often each was counted.
        items: ``[n_types]``, of `TokenCounts.token_items`.
        squares: ``[n_types]``, of `TokenCounts.token_squares`.
        chosen: ``[n_types]``, how often of these the expert was chosen.
        selections: ``[n_items]``, how often it was chosen at all.
        tokens: ``[n_items]``, counted ones.
    """

    texts: Sequence[bytes]
    ids: IntArray
    n: IntArray
    items: IntArray
    squares: IntArray
    chosen: IntArray
    selections: IntArray
    tokens: IntArray

    @classmethod
    def of(cls, routing: LanguageRouting, place: int, expert: int) -> _Counted:
        counts, ids, n = routing.token_counts, routing.vocabulary, routing.vocabulary_counts
        assert counts is not None  # noqa: S101 - the manifest says so, and reading checks it
        assert ids is not None  # noqa: S101 - as above
        assert n is not None  # noqa: S101 - as above
        arrays: list[IntArray] = [ids, n, counts.token_items, counts.token_squares, counts.of_expert(place, expert)]
        arrays += [routing.selections[:, place, expert], routing.tokens]
        kept = [array.copy() for array in arrays]  # views would hold the whole file
        return cls(counts.texts(), *kept)

    def listed(self, language: str, top: int, least: int, quantiles: tuple[float, float]) -> LanguageTokens:
        """List the tokens; ``quantiles`` of the normal distribution for all intervals together, and for one."""
        z, plain_z = quantiles
        n_tokens, n_chosen = int(self.tokens.sum(dtype=np.int64)), int(self.selections.sum(dtype=np.int64))
        rate, spread, n_items = n_chosen / n_tokens, self._log_error(), len(self.tokens)
        factor = np.exp(plain_z * spread)
        compared = np.flatnonzero(self.n >= least)
        places = compared[self.chosen[compared] > 0]
        lift, low, high = _lifts(self.chosen[places], self.n[places], self.squares[places], (rate, spread), z)
        order = np.lexsort((places, -self.chosen[places], -np.nan_to_num(low)))[:top]
        rows = [
            TokenRow(
                self.texts[at].decode("utf-8", "backslashreplace"),
                int(self.ids[at]),
                int(self.n[at]),
                int(self.chosen[at]),
                int(self.chosen[at]) / n_chosen,
                Estimate(float(lift[row]), float(low[row]), float(high[row]), int(self.items[at])),
            )
            for row, at in zip(order.tolist(), places[order].tolist(), strict=True)
        ]
        own_rate = Estimate(rate, float(rate / factor), float(np.minimum(rate * factor, 1.0)), n_items)
        return LanguageTokens(language, n_tokens, own_rate, len(compared), int((low > 1).sum()), tuple(rows))

    def _log_error(self) -> float:
        """Return the standard error of the logarithm of the share of tokens that choose the expert, items as units."""
        n_items, chosen = len(self.tokens), self.selections.sum(dtype=np.float64)
        if n_items < _LEAST_ITEMS or chosen == 0:
            return float("nan")
        residuals = self.selections - chosen / self.tokens.sum(dtype=np.float64) * self.tokens
        return float(np.sqrt(n_items / (n_items - 1) * np.square(residuals).sum()) / chosen)


def _lifts(
    chosen: IntArray, n: IntArray, squares: IntArray, rate: tuple[float, float], z: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return lifts of tokens with their ends, ``[n_types]`` each.

    Args:
        chosen: ``[n_types]``, above 0.
        n: ``[n_types]``.
        squares: ``[n_types]``, of `TokenCounts.token_squares`.
        rate: of all tokens, and the standard error of its logarithm.
        z: quantile of the normal distribution.
    """
    share, size = chosen / n, np.square(n, dtype=np.float64) / squares
    shrunk = 1 + z * z / size
    high = (share + z * z / (2 * size) + z * np.sqrt(share * (1 - share) / size + np.square(z / (2 * size)))) / shrunk
    low = np.square(share) / (shrunk * high)  # the product of both ends is known, and their difference inexact
    lift, of_rate = share / rate[0], z * rate[1]
    return (
        lift,
        lift / np.exp(np.hypot(np.log(share / low), of_rate)),
        lift * np.exp(np.hypot(np.log(high / share), of_rate)),
    )
