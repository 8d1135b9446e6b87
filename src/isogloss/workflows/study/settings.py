"""The settings of a study, as in STUDY.toml, in a recipe and in ``study.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from isogloss.analysis import DeltaRule, ExpertQuery, Rule
from isogloss.backends.model import Sampling
from isogloss.errors import RunError
from isogloss.evaluation import N_RANDOM
from isogloss.languages import resolve
from isogloss.organism import ORGANISM
from isogloss.reports import Published
from isogloss.steering import STRENGTH_KINDS, Kind
from isogloss.workflows.ablation.settings import LEAST_NULL, Ablation
from isogloss.workflows.settings import Layers, LayersOrMiddle, StudySettings, require_strength
from isogloss.workflows.study.arms import require_arms

__all__ = ["DEMO", "OF_TASK_TEXTS", "Study"]

OF_TASK_TEXTS = ("delta", "contrast")
"""Rules that compare task texts with generic ones; the others compare languages of the generic texts."""


@dataclass(frozen=True)
class Study(StudySettings):
    """The settings of a study, as in STUDY.toml and ``study.json``.

    Attributes:
        steer: whether experts are looked for and a plan is evaluated; without it, texts are captured and analysed.
        rule: that finds the experts: ``delta`` and ``contrast`` compare the task texts with the generic ones, ``share``
            and ``specificity`` the languages of the generic texts.
        threshold: of the rule.
        top: of the rules that take one; 0 for none.
        expert_kind: ``common``, ``exclusive``, ``specific`` or ``overlap``, of the rules that have kinds; empty for the
            rule's own.
        rule_languages: of the rules among languages; empty for all that were captured.
        target: language or languages whose exclusive or specific experts are looked for.
        kind: of the interventions.
        strength: of the kinds that take one: soft, adaptive, offset, select.
        layers: to steer: ``A-B``, first and last decoder layer, both included; ``middle`` or nothing for the middle
            layers, if the analysis finds a middle.
        layers_base: number of the first decoder layer in ``layers``, ``bands`` and arms: 0, or 1 as some papers print
            them.
        more_tasks: further tasks, that the plan is evaluated on beside ``task``, with the same arms or bans.
        more_languages: of the further tasks; empty for ``eval_languages``. Translations from English have no English.
        accuracy_task: task whose accuracy without a plan is related to divergence, by language; empty for none.
        arms: what the plan is compared with, as `isogloss evaluate` takes it, or made by the study: ``multilingual``
            (as many experts per layer, those that other languages use more than the pivot), ``shifted=4,-4`` (the
            rule's experts in the layers moved by so many), ``threshold=0.3,0.5`` (the rule's experts at other
            thresholds), ``rule-early``, ``rule-late`` (the rule's experts before or after the layers).
        bands: name to ``A-B``, first and last decoder layer. Where there are some, nothing is steered: in each band the
            experts of every language that a task evaluates are banned, by the rule, as by `isogloss ablate`, and all
            tasks are measured.
        n_controls: random plans with as many experts per layer, to compare with; for ``bands`` at least 10.
        learned: plan or router adapter of `isogloss learn` that is evaluated beside the rule's, as the arm ``learned``;
            ``organism`` for the plan that ships with the package, with its router adapter as the arm ``adapter``; empty
            for none.
        sampling: how answers are drawn; None for greedy ones.
        batch_size: items that are answered together.
        title: what the study repeats, for `isogloss study --list`.
        published: numbers of a paper that the result is shown beside.
        conditions: name to what the paper states of how they were measured.
        remarks: on what the paper leaves open, for the report.

    Raises:
        RunError: on construction, where a number is out of its range, or an arm is unknown.
    """

    steer: bool = True
    rule: Rule = "delta"
    threshold: float = 0.3
    top: int = 0
    expert_kind: str = ""
    rule_languages: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    kind: Kind = "soft"
    strength: float = 0.5
    layers: LayersOrMiddle = None
    layers_base: int = 0
    more_tasks: tuple[str, ...] = ()
    more_languages: tuple[str, ...] = ()
    accuracy_task: str = ""
    arms: tuple[str, ...] = ()
    bands: dict[str, Layers] = field(default_factory=dict)
    n_controls: int = N_RANDOM
    learned: str = ""
    sampling: Sampling | None = None
    batch_size: int = 64
    title: str = ""
    published: tuple[Published, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    shown: ClassVar[tuple[str, ...]] = ("title", "published", "conditions", "remarks")
    """Settings that decide no number: they are only shown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("n_controls", "top", least=0)
        self.require("batch_size", least=1)
        if self.layers_base not in (0, 1):
            raise RunError(f"layers_base is {self.layers_base}; expected 0, or 1 where layers are counted from 1")
        if self.layers is not None and not self.layers_base <= self.layers[0] <= self.layers[1]:
            raise RunError(
                f"layers is {list(self.layers)}; expected the first and the last, {self.layers_base}-based, in this "
                "order"
            )
        if self.rule in ("delta", "contrast", "share"):
            try:
                DeltaRule(self.threshold)
            except ValueError as error:
                raise RunError(str(error)) from error
        if self.kind in STRENGTH_KINDS:
            require_strength("strength", self.kind, self.strength)
        require_arms(self.arms)
        if self.bands:
            self._require_bands()
        if self.steer and self.rule in OF_TASK_TEXTS and not self.task_corpus:
            raise RunError(f"task_corpus is empty; rule {self.rule} looks for task experts in it: name a corpus")

    def _require_bands(self) -> None:
        """Refuse bands where a plan is evaluated, too, or with too few random families; RunError."""
        if self.steer:
            raise RunError("bands are given and steer is true; set steer = false, or leave out the bands")
        if self.n_controls < LEAST_NULL:
            raise RunError(f"n_controls is {self.n_controls}; expected at least {LEAST_NULL} where bands are given")
        self.ablation  # noqa: B018 - refuses bands that are none, and a rule that lacks a setting

    @property
    def ablation(self) -> Ablation | None:
        """The ablation of ``bands``, layers counted from 0; None where there are none."""
        if not self.bands:
            return None
        common = {each.name for each in fields(self)} & {each.name for each in fields(Ablation)}
        base = self.layers_base
        changed = {
            "task": "",
            "task_corpus": "",
            "tasks": self.tasks,
            "bands": {name: (first - base, last - base) for name, (first, last) in self.bands.items()},
            "n_null": self.n_controls,
        }
        return Ablation(**{name: getattr(self, name) for name in common} | changed)

    @property
    def decoder_layers(self) -> tuple[int, int] | None:
        """``layers`` counted from 0."""
        return self.layers and (self.layers[0] - self.layers_base, self.layers[1] - self.layers_base)

    @property
    def layers_remark(self) -> str:
        """Which layers a printed range means, where it is counted from 1; else empty."""
        if not self.layers_base:
            return ""
        printed = [self.layers, *self.bands.values()] if self.layers else list(self.bands.values())
        ranges = ", ".join(f"{first}-{last} is {first - 1}-{last - 1} here" for first, last in printed)
        return f"Layers of this study are counted from 1, as printed: {ranges}, where the first is 0." if ranges else ""

    def languages_of(self, task: str) -> tuple[str, ...] | None:
        """Return the languages that a task is asked in; None for all that it has."""
        further = self.more_languages if task in self.more_tasks else ()
        return further or self.eval_languages or None

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks that the plan or the bans are evaluated on, the first one first."""
        return (self.task, *self.more_tasks)

    def query(self, layers: tuple[int, int] | None, threshold: float | None = None) -> ExpertQuery:
        """Return what experts are looked for in some layers, 0-based; None is the study's own threshold."""
        return ExpertQuery(
            self.rule,
            self.threshold if threshold is None else threshold,
            layers,
            kind=self.expert_kind or None,  # type: ignore[arg-type] # the rule refuses what it does not know
            languages=tuple(self.rule_languages),
            target=tuple(self.target),
            top=self.top or None,
            pivot=resolve(self.pivot),
        )

    def changed_from(self, other: Study) -> dict[str, tuple[Any, Any]]:
        """Return the settings that decide numbers and differ from another study's, with its value and ours."""
        names = [each.name for each in fields(self) if each.name not in self.shown]
        pairs = ((name, getattr(other, name), getattr(self, name)) for name in names)
        return {name: (theirs, ours) for name, theirs, ours in pairs if theirs != ours}

    def with_settings(self, settings: Sequence[str]) -> Self:
        """Return the study with ``KEY=VALUE`` replaced, values as in TOML; text need not be quoted.

        Raises:
            RunError: not of this form, or the result is no study; names the setting.
        """
        return self.from_settings({**self.to_json(), **dict(map(_assignment, settings))}, "--set") if settings else self


def _assignment(text: str) -> tuple[str, Any]:
    import tomllib  # noqa: PLC0415 - only where settings are given

    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise RunError(f"--set {text}: expected KEY=VALUE, such as dtype=bfloat16 or languages=['en', 'sw']")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        if value.lstrip().startswith(("[", "{", "'", '"')):
            raise RunError(
                f"--set {text}: not TOML ({error}); texts in a list or table are quoted, and the whole for the shell: "
                "--set \"languages=['en', 'sw']\""
            ) from error
        return name.strip(), value.strip()


# Of the organism's 32 experts none passes the papers' threshold of 0.3. Three to five in each of layers 4-9 pass 0.1;
# it rests on routing counts alone. These layers fit best, though 12 layers are too few to call them a middle.
DEMO = Study(corpus_items=120, task_items=50, threshold=0.1, layers=(4, 9), learned=ORGANISM)
