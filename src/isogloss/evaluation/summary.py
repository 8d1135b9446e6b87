"""What an evaluation shows: the one type of a summary, written as ``summary.json`` and read back from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from isogloss.evaluation.arms import BASELINE, PLAN
from isogloss.evaluation.guard import Guard
from isogloss.evaluation.output_language import LEAST_JUDGED, OutputLanguage
from isogloss.evaluation.paired import SIGNIFICANT, Comparison, PairedScores
from isogloss.evaluation.random_arms import AgainstRandom
from isogloss.notebook import Shown, drawn
from isogloss.records import Name
from isogloss.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = [
    "PROBE_ITEMS",
    "SUMMARY",
    "ArmEffect",
    "BesidePlan",
    "Dose",
    "EvaluationSummary",
    "JudgedLanguage",
    "PivotDistance",
    "SummaryRow",
]

SUMMARY = "summary.json"

PROBE_ITEMS = 4
"""First prompts of each language on which is measured what a plan changes inside the model."""


_SHARES = ("accuracy", "f1")


@dataclass(frozen=True)
class PivotDistance:
    """Entropy-normalised divergence (0 to 1) of a language's prompts from the pivot's, item by item.

    Attributes:
        before: of the unsteered model, mean over items, by routed layer, ascending.
        after: the same under the plan, language and pivot each under what the plan has for it.
        change: after minus before, mean over layers; the interval is over items.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    change: Estimate


@dataclass(frozen=True)
class ArmEffect:
    """What a plan changes inside the model, on the task's first prompts; written as ``effect.json``.

    Attributes:
        changed: decoder layer to the share of tokens whose set of chosen experts the plan changes, mean over the
            languages that it steers.
        kl: language to the divergence of the next-token distribution, unsteered from steered, in nats per token; None
            where the engine gives no distributions.
        distance: language to its divergence from the pivot; without those for which nothing of it can change, and empty
            where the pivot is not asked.

    Raises:
        ValueError: on construction, where ``distance`` has other layers than ``changed``.
    """

    changed: Mapping[int, float]
    kl: Mapping[str, Estimate | None]
    distance: Mapping[str, PivotDistance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_layers(self.distance, self.changed)


@dataclass(frozen=True)
class Dose:
    """One strength of the plan.

    Attributes:
        arm: its name.
        strength: of all its interventions.
        difference: of the mean over languages like these.
        guard: of the pivot; None where the pivot was not evaluated.
    """

    arm: Name
    strength: float
    difference: Estimate
    guard: Guard | None = None


@dataclass(frozen=True)
class SteeredLanguages:
    """The languages that an arm steers, where it leaves others as they are.

    Attributes:
        languages: that some rule of its plan applies to, sorted.
        overall: mean over them, its interval over languages and items.
        overall_these_languages: the same mean, its interval over items alone.
    """

    languages: tuple[str, ...]
    overall: PairedScores
    overall_these_languages: PairedScores


@dataclass(frozen=True)
class BesidePlan:
    """A router adapter beside the plan by language that it was made from.

    Attributes:
        plan: arm of that plan.
        languages: that the plan steers, sorted.
        overall: mean over them, of the unsteered model and under the adapter; its interval over languages and items.
        from_plan: the same mean, under the plan (as ``baseline``) and under the adapter.
        others: as ``overall``, over the languages that the plan leaves as they are.
    """

    plan: Name
    languages: tuple[str, ...]
    overall: PairedScores
    from_plan: PairedScores
    others: PairedScores


class JudgedLanguage(NamedTuple):
    """Share of answers in the question's language, mean over the languages in which any could be judged."""

    baseline: Estimate
    steered: Estimate
    n_items: int
    n_languages: int

    @property
    def too_few(self) -> bool:
        """Whether so few answers could be judged that their share says nothing."""
        return self.baseline.n < LEAST_JUDGED

    @property
    def unstated(self) -> str:
        """Why no share is stated, where there are too few."""
        return f"not stated: fewer than {LEAST_JUDGED} answers could be judged ({self.judged})"

    @property
    def judged(self) -> str:
        """How many answers were judged, of how many, and in how many languages."""
        languages = f"{self.n_languages} language{'' if self.n_languages == 1 else 's'}"
        return f"n = {self.baseline.n:,} of {self.n_items:,} answers, in {languages}"


class SummaryRow(NamedTuple):
    """One arm in one language, or in all together (``language`` is then empty), in the unit of the scores."""

    arm: str
    language: str
    n: int
    baseline: float
    steered: float
    difference: float
    low: float
    high: float
    p_value: float | None = None
    p_adjusted: float | None = None
    p_bh: float | None = None
    minimum_detectable: float | None = None

    @property
    def estimate(self) -> Estimate:
        """The difference with its interval."""
        return Estimate(self.difference, self.low, self.high, self.n)

    @property
    def is_significant(self) -> bool:
        """Whether p is below 0.05 after Holm's correction."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluationSummary(Shown, Comparison):
    """The plan against the baseline, with the other arms beside it.

    The fields of `Comparison` are of the arm ``plan``. Arms come by name, ``baseline`` and ``plan`` among them.

    Attributes:
        task: its name.
        metric: of the scores.
        model: its name.
        engine: that ran the model.
        pivot: language that a plan must not harm.
        arms: mean score (share of right answers, for accuracy) by arm and language.
        controls: every arm but baseline and plan, against the baseline.
        changed_choices: arm to decoder layer to the share of tokens whose experts it changes, on the first prompts.
        kl: arm to language to the divergence of next tokens, on the first prompts; None where it was not measured.
        n: items by language.
        scoring: how answers become scores; None for tasks of lm-evaluation-harness.
        n_experts: steered by each arm.
        distance: arm to language to its prompts' divergence from the pivot's; layers as in ``changed_choices``.
        guard: by arm, whether it costs the pivot more than a margin; empty where the pivot was not evaluated.
        unparsable: share of answers that could not be read, by arm and language; empty where nothing is read.
        output_language: of generated answers, by arm and language.
        exact_match: of the metric F1, by arm and language.
        group_mean: mean over the task's groups of items, by arm and language, where a task has groups.
        corpus: score of the whole corpus, by arm and language, where a metric is no mean over items.
        where_steered: arm to the mean over the languages that it steers, for arms that leave others as they are.
        adapters: arm to what a router adapter does beside the plan by language that it was made from, where that is an
            arm, too.
        dose_response: arms that differ in strength alone, weakest first; empty where there is one strength.
        against_random: the plan minus the mean of the random plans; None where there was none.
        metrics: of lm-evaluation-harness: all that can be compared.
        left_out: of lm-evaluation-harness: metrics that are no mean over documents; None for other tasks.
        harness: its version; None for other tasks.
        versions: of its tasks.

    Raises:
        ValueError: on construction, where ``distance`` is not of arms, languages and layers that the rest is of.
    """

    task: Name
    metric: Name
    model: Name
    engine: Name
    pivot: Name
    arms: Mapping[str, Mapping[str, float]]
    controls: Mapping[str, Comparison]
    changed_choices: Mapping[str, Mapping[int, float]]
    kl: Mapping[str, Mapping[str, Estimate | None]]
    n: Mapping[str, int]
    scoring: Name | None = None
    n_experts: Mapping[str, int] = field(default_factory=dict)
    distance: Mapping[str, Mapping[str, PivotDistance]] = field(default_factory=dict)
    guard: Mapping[str, Guard] = field(default_factory=dict)
    unparsable: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    output_language: Mapping[str, Mapping[str, OutputLanguage]] = field(default_factory=dict)
    exact_match: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    group_mean: Mapping[str, Mapping[str, PairedScores]] = field(default_factory=dict)
    corpus: Mapping[str, Mapping[str, PairedScores | Estimate]] = field(default_factory=dict)
    where_steered: Mapping[str, SteeredLanguages] = field(default_factory=dict)
    adapters: Mapping[str, BesidePlan] = field(default_factory=dict)
    dose_response: tuple[Dose, ...] = ()
    against_random: AgainstRandom | None = None
    metrics: tuple[Name, ...] = ()
    left_out: tuple[Name, ...] | None = None
    harness: Name | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        compared = self.compared
        for arm, distances in self.distance.items():
            _require_layers(distances, self.changed_choices.get(arm, {}))
            known = compared[arm].per_language if arm in compared else {}
            if foreign := sorted(distances.keys() - known.keys()):
                raise ValueError(f"distance: {arm} in {foreign[0]} was not compared")

    @property
    def compared(self) -> dict[str, Comparison]:
        """Every arm against the baseline, the plan first."""
        return {PLAN: self, **self.controls}

    @property
    def is_share(self) -> bool:
        """Whether scores lie between 0 and 1 and are written in percent."""
        return self.metric in _SHARES or self.test == "mcnemar"

    @property
    def factor(self) -> float:
        """What a score is multiplied by before it is written or drawn."""
        return 100.0 if self.is_share else 1.0

    @property
    def unmeasured(self) -> str | None:
        """Why no effect can show, as where no answer is right or readable without the plan; None where one can."""
        if self.outcome is not None or any(map(self.can_fall, self.arms[BASELINE])):
            return None
        unparsable = self.mean_unparsable(BASELINE)
        if unparsable is not None and unparsable.value == 1.0:
            return "nothing was measured, since no answer of the unsteered model could be read"
        return f"nothing was measured, since the unsteered model's {self.metric} is 0 in every language"

    def can_fall(self, language: str) -> bool:
        """Whether scores of a language can get worse: not where the best is highest and all are 0 without the plan."""
        return self.better == "lower" or self.arms[BASELINE].get(language) != 0.0

    def guard_verdict(self, arm: str) -> str | None:
        """Return whether an arm costs the pivot more than the margin; None where the pivot was not evaluated."""
        if arm not in self.guard:
            return None
        return (
            self.guard[arm].verdict if self.can_fall(self.pivot) else "not measured (nothing is right without a plan)"
        )

    def mean_kl(self, arm: str) -> Estimate | None:
        """Return the divergence of next tokens under an arm, mean over languages, in nats; ``n`` counts texts.

        Here and below, the interval of a mean over languages is the mean of their intervals, as if all erred together:
        prompts of several languages are translations of each other, and it errs towards caution.
        """
        return _mean(self.kl.get(arm, {}).values())

    def mean_unparsable(self, arm: str) -> Estimate | None:
        """Return the share of answers that could not be read, mean over languages."""
        return _mean(self.unparsable.get(arm, {}).values())

    def mean_output_language(self, arm: str) -> JudgedLanguage | None:
        """Return the share of answers in the question's language, without and with an arm; None where none is known."""
        rows = self.output_language.get(arm, {}).values()
        before, after = _mean(row.baseline for row in rows), _mean(row.steered for row in rows)
        if before is None or after is None:
            return None
        n_languages = sum(row.baseline is not None for row in rows)
        return JudgedLanguage(before, after, sum(row.n_items for row in rows), n_languages)

    def rows(self) -> Iterator[SummaryRow]:
        """Yield every arm against the baseline, all languages together first."""
        for arm, comparison in self.compared.items():
            overall = comparison.overall
            yield SummaryRow(arm, "", *_numbers(overall), minimum_detectable=overall.minimum_detectable)
            for code, row in comparison.per_language.items():
                tests = (row.p_value, row.p_adjusted, row.p_bh, row.minimum_detectable)
                yield SummaryRow(arm, code, *_numbers(row), *tests)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per arm and language, and one per arm for the mean over languages (``language`` is empty).

        Columns: ``arm``, ``language``, ``n``, ``baseline``, ``steered``, ``difference`` with ``low`` and ``high``,
        ``p_value``, ``p_adjusted`` (Holm), ``p_bh``, ``minimum_detectable``; in the unit of the scores.
        """
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        return pd.DataFrame.from_records(list(self.rows()), columns=SummaryRow._fields)

    def plot(self, name: str = "difference") -> go.Figure:
        """Return one figure of the report: ``difference`` by language, ``arms`` or ``dose-response``.

        Raises:
            RunError: this evaluation has no such figure; the message names those that it has.
        """
        return drawn(self, name)

    def __repr__(self) -> str:
        verdict = self.guard_verdict(PLAN)
        guard = f", {self.pivot} guard {verdict}" if verdict else ""
        change = self.overall.difference.text("{:+.3f}".format)
        return (
            f"EvaluationSummary({self.model} on {self.task}: {self.metric} {change} over {len(self.per_language)} "
            f"languages, {len(self.significant)} significant; {len(self.controls)} other arms{guard})"
        )


def _require_layers(distances: Mapping[str, PivotDistance], changed: Mapping[int, float]) -> None:
    for code, distance in distances.items():
        if not len(distance.before) == len(distance.after) == len(changed) > 0:
            raise ValueError(f"distance of {code}: found {len(distance.after)} layers; expected {len(changed)}")


def _mean(estimates: Iterable[Estimate | None]) -> Estimate | None:
    known = [each for each in estimates if each is not None]
    if not known:
        return None
    value, low, high = (fmean(getattr(each, name) for each in known) for name in ("value", "low", "high"))
    return Estimate(value, low, high, sum(each.n for each in known))


def _numbers(scores: PairedScores) -> tuple[int, float, float, float, float, float]:
    difference = scores.difference
    means = (scores.baseline.value, scores.steered.value)
    return difference.n, *means, difference.value, difference.low, difference.high
