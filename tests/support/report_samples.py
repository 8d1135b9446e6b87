"""Results as the commands print them, for tests of the report, and a reader of the page that a browser would see."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

from isogloss.analysis import Analysis, ExpertTable
from isogloss.evaluation.guard import Guard
from isogloss.evaluation.output_language import OutputLanguage
from isogloss.evaluation.paired import Comparison, LanguageComparison, PairedScores
from isogloss.evaluation.summary import Dose, EvaluationSummary, PivotDistance
from isogloss.reports import Report
from isogloss.statistics import Estimate

ATTACK = "<script>alert(1)</script>"
CODES = ("eng_Latn", "swh_Latn", "ben_Beng", "zho_Hans")
N_LAYERS, N_EXPERTS = 6, 16


def curve(height: float, *, with_interval: bool = True, n: int = 40) -> list[dict[str, object]]:
    """A U-shaped curve as `isogloss analyze` prints it."""
    values = [height + 0.02 * (layer - 2.5) ** 2 for layer in range(N_LAYERS)]
    ends = [(value - 0.01, value + 0.01) if with_interval else (None, None) for value in values]
    return [
        {"layer": layer, "value": value, "low": low, "high": high, "n": n}
        for layer, (value, (low, high)) in enumerate(zip(values, ends, strict=True))
    ]


def analysis(codes: tuple[str, ...] = CODES, **fields: object) -> dict[str, object]:
    """An analysis as printed, with all optional fields."""
    pivot, *others = codes
    depth = {"value": 0.08, "low": 0.07, "high": 0.09, "n": 40}
    return {
        "n_layers": N_LAYERS,
        "n_experts": N_EXPERTS,
        "pivot": pivot,
        "middle_layers": {"start": 2, "end": 4, "start_interval": [1, 2], "end_interval": [4, 4]},
        "u_shape": {"is_u_shape": True, "depth": depth},
        "divergence": {code: curve(0.1 + 0.01 * place) for place, code in enumerate(others)},
        "divergence_ceiling": {code: [0.8] * N_LAYERS for code in others},
        "shuffled": {code: curve(0.3) for code in codes},
        "entropy": {code: curve(2.0) for code in codes},
        "consistency": {code: curve(0.2) for code in codes},
        "consistency_chance": [0.07] * N_LAYERS,
        "correlation": [
            {"layer": layer, "pearson": depth, "spearman": depth, "leave_one_out": [-0.9, None]}
            for layer in range(N_LAYERS)
        ],
        "granularity": "items",
        "quantity": "profile",
        "layers": list(range(N_LAYERS)),
        "refused": {},
        "resampling": {"n_resamples": 1000, "n_permutations": 100, "level": 0.95, "seed": 0},
        **fields,
    }


def comparison(codes: tuple[str, ...] = CODES, shift: float = 0.02) -> Comparison:
    """An arm against the baseline; differences grow with the place of the code."""

    def scores(difference: float, n: int, detectable: float, spread: float = 0.01) -> PairedScores:
        means = (Estimate(value, value - spread, value + spread, n) for value in (0.5, 0.5 + difference, difference))
        return PairedScores(*means, detectable)

    each = {
        code: LanguageComparison(**vars(scores(shift * place, 250, 0.071)), p_value=0.004, p_adjusted=0.012, p_bh=0.008)
        for place, code in enumerate(codes)
    }
    return Comparison(each, scores(shift, len(codes), 0.033), scores(shift, len(codes), 0.033, 0.005))


def evaluation(codes: tuple[str, ...] = CODES, **fields: object) -> EvaluationSummary:
    """An evaluation of a plan alone, of which nothing but scores was measured."""
    summary = EvaluationSummary(
        **vars(comparison(codes)),
        task="problems",
        metric="accuracy",
        model="organism",
        engine="huggingface",
        pivot=codes[0],
        arms={arm: dict.fromkeys(codes, 0.5) for arm in ("baseline", "plan")},
        controls={},
        changed_choices={},
        kl={},
        n=dict.fromkeys(codes, 250),
    )
    return replace(summary, **fields)


def arms_evaluation(codes: tuple[str, ...] = CODES, **fields: object) -> EvaluationSummary:
    """An evaluation with every field that `isogloss evaluate` writes, of the plan and five other arms."""
    named = ("random-0", "random-1", "early", "strength-0.25", "multilingual")
    controls = {
        arm: comparison(codes, shift) for arm, shift in zip(named, (0.001, -0.002, 0.003, 0.01, 0.004), strict=True)
    }
    share = Estimate(0.1, 0.05, 0.2, 250)
    guard = Guard("undecided", -0.004, -0.03, 0.02, 0.01, 0.95, 250)
    arms = ("plan", *named)
    output = OutputLanguage(share, replace(share, value=0.3), replace(share, value=0.2), 250, 250, 250)
    moved = PivotDistance((0.25, 0.375), (0.125, 0.25), Estimate(-0.125, -0.25, -0.0625, 16))
    unjudged = OutputLanguage(None, None, None, 250, 0, 0)
    dose = Dose("strength-0.25", 0.25, controls["strength-0.25"].overall.difference, replace(guard, verdict="pass"))
    told = evaluation(
        codes,
        controls=controls,
        n_experts=dict.fromkeys(arms, 9),
        guard=dict.fromkeys(arms, guard),
        kl={arm: dict.fromkeys(codes, replace(share, value=0.0125)) for arm in arms},
        changed_choices={arm: {0: 0.1, 1: 0.423} for arm in arms},
        distance={arm: {codes[1]: moved, codes[2]: replace(moved, after=(0.1, 0.25))} for arm in arms},
        unparsable={arm: dict.fromkeys(codes, share) for arm in ("baseline", *arms)},
        output_language={arm: {codes[0]: output, codes[1]: unjudged} for arm in arms},
        dose_response=(dose, replace(dose, arm="plan", strength=0.5, guard=replace(guard, verdict="fail"))),
    )
    return replace(told, **fields)


def manifest(**fields: object) -> dict[str, object]:
    """The manifest of a run."""
    routers = [{"layer": layer, "n_experts": N_EXPERTS, "top_k": 2, "scoring": "softmax"} for layer in range(N_LAYERS)]
    return {
        "schema_version": 1,
        "status": "complete",
        "model": "organism",
        "corpus": {"name": "small world", "licence": "CC0-1.0"},
        "routers": routers,
        "item_ids": ["a", "b", "c"],
        "dtype": "float32",
        "packages": {"numpy": "2.4.6"},
        "languages": {code: {"tokens": 12345, "file_sha256": "ab", "corpus_sha256": "cd"} for code in CODES},
        **fields,
    }


def expert_table(**fields: object) -> dict[str, object]:
    """The experts of one rule as printed."""
    rows = [{"layer": 2, "expert": 3, "statistic": 0.41, "low": 0.35, "high": 0.47}]
    parameters = {"kind": "task", "threshold": 0.3, "layers": [2, 4], "n_items": 40, "n_resamples": 1000, "level": 0.9}
    return {"rule": "delta", "parameters": parameters, "experts": rows, "n": 1, "expected_by_chance": 0.25, **fields}


def typed(raw: dict[str, object]) -> Analysis:
    """An analysis as it is read from its file."""
    return Analysis.from_json(raw, "analysis.json")


def typed_table(**fields: object) -> ExpertTable:
    """The experts of one rule as they are read from their file."""
    return ExpertTable.from_json(expert_table(**fields), "experts.json")


def full() -> Report:
    """A report with every section."""
    return Report(
        title="Routing of the organism",
        findings=("The middle layers are shared.",),
        manifest=manifest(),
        analysis=typed(analysis()),
        experts=(typed_table(),),
        evaluation=evaluation(controls={"random experts": comparison(shift=-0.01)}),
    )


class Numbers:
    """Gives numbers that differ in their written form, and remembers them."""

    def __init__(self) -> None:
        self.given: list[float] = []

    def __call__(self) -> float:
        self.given.append(1 + (len(self.given) + 1) / 1000)
        return self.given[-1]

    def estimate(self, n: int = 40) -> dict[str, object]:
        """An Estimate as printed."""
        return {"value": self(), "low": self(), "high": self(), "n": n}

    def by_layer(self) -> list[dict[str, object]]:
        """A curve as printed."""
        return [{"layer": layer, **self.estimate()} for layer in range(N_LAYERS)]

    def correlation(self) -> dict[str, object]:
        """A correlation over languages as printed."""
        ends = [self(), self()]
        return {"pearson": self.estimate(), "spearman": self.estimate(), "leave_one_out": ends}

    def mantel(self, controls: tuple[str, ...] = ()) -> dict[str, object]:
        """A Mantel test as printed."""
        ends = [self(), self()]
        fields = {"correlation": self.estimate(), "leave_one_out": ends, "p_value": self(), "n_permutations": 999}
        return {**fields, "controls": list(controls), "method": "pearson", "alternative": "greater"}


BANDS = {"early": [0, 1], "middle": [2, 4], "late": [5, 5]}


def _pairs(numbers: Numbers, codes: tuple[str, ...], bands: dict[str, list[int]]) -> dict[str, object]:
    n = len(codes)
    matrices = {band: [[0.0] * n for _ in codes] for band in bands}
    for matrix in matrices.values():
        for row in range(n):
            for column in range(row + 1, n):
                matrix[row][column] = matrix[column][row] = numbers()
    return {"languages": list(codes), "by": "means", "bands": matrices}


def _structure(
    numbers: Numbers, codes: tuple[str, ...], bands: dict[str, list[int]], references: tuple[str, ...]
) -> dict[str, object]:
    n, rival = len(codes), references[-1]
    caterpillar = [[0 if step == 0 else n + step - 1, step + 1, numbers(), step + 2] for step in range(n - 1)]
    tree = {"languages": list(reversed(codes)), "linkage": caterpillar, "cophenetic": numbers(), "method": "average"}

    def tests() -> dict[str, object]:
        return {
            name: {
                "plain": numbers.mantel(),
                "p_adjusted": numbers(),
                "partial": None if name == rival else numbers.mantel((rival,)),
                "partial_p_adjusted": None if name == rival else numbers(),
                "left_out": [codes[0]],
            }
            for name in references
        }

    def matches(names: tuple[str, ...], controls: list[str]) -> dict[str, object]:
        return {
            name: {
                "layer": 3,
                "p_value": numbers(),
                "p_adjusted": numbers(),
                "correlations": [numbers() for _ in range(N_LAYERS)],
                "p_values": [numbers() for _ in range(N_LAYERS)],
                "n": n,
                "n_permutations": 999,
                "controls": controls,
            }
            for name in names
        }

    return {
        "languages": list(codes),
        "layers": list(range(N_LAYERS)),
        "rivals": [rival],
        "bands": {name: {"first": a, "last": b, "tree": tree, "tests": tests()} for name, (a, b) in bands.items()},
        "matches": matches(references, []),
        "partial_matches": matches(references[:-1], [rival]),
        "refused": {"syntax": "4 of 9 languages are known."},
    }


def _resources(numbers: Numbers, codes: tuple[str, ...], bands: dict[str, list[int]]) -> dict[str, object]:
    columns = ("exclusive", "common", "exclusive_load", "common_load", "coverage", "consistency")
    rule = {"languages": list(codes), "top": 4, "exclusive_threshold": 0.4, "common_threshold": 0.7, "coverage": 0.8}
    rows = [
        {"language": code, "band": band, **{name: numbers.estimate() for name in columns}}
        for band in bands
        for code in codes
    ]
    settings = {"n_resamples": 1000, "level": 0.95}
    return {
        "rule": {**rule, "neutral_share": 1 / len(codes)},
        "bands": bands,
        "rows": rows,
        "refused": {},
        "resampling": settings,
    }


def _domain(numbers: Numbers, corpus: str) -> dict[str, object]:
    hump = {"start": 2, "end": 4, "start_interval": [1, 2], "end_interval": [4, 5], "is_hump": True}
    curves = {name: [numbers.estimate() for _ in range(N_LAYERS)] for name in ("raw", "floor", "excess")}
    return {
        "language": "eng_Latn",
        "corpus": corpus,
        "base": "generic",
        "layers": list(range(N_LAYERS)),
        **curves,
        "hump": {**hump, "height": numbers.estimate()},
        "middle_range": [2, 4],
        "rise": numbers.estimate(),
        "resampling": {"n_resamples": 1000, "level": 0.95},
    }


def _overlap(numbers: Numbers, codes: tuple[str, ...]) -> dict[str, object]:
    points = [
        {
            "threshold": numbers(),
            "n_task": 7,
            "n_multilingual": 9,
            "overlap": numbers.estimate(),
            "jaccard": numbers.estimate(),
            "expected": numbers(),
            "p_fewer": numbers(),
            "p_more": numbers(),
        }
        for _ in range(3)
    ]
    names = {"pivot": codes[0], "corpus": "problems", "base": "generic"}
    return {**names, "languages": list(codes[1:]), "layers": [2, 3, 4], "points": points, "resampling": {}}


def parts(codes: tuple[str, ...] = CODES, *, word: str = "", numbers: Numbers | None = None) -> dict[str, object]:
    """What `isogloss analyze` prints besides the fields of `analysis`; ``word`` is added to every name from outside."""
    numbers = numbers or Numbers()
    bands = {f"{name}{word}": ends for name, ends in BANDS.items()}
    others, references = codes[1:], tuple(f"{name}{word}" for name in ("genealogical", "script", "token_overlap"))
    edges = {"start": 2, "end": 4, "start_interval": [1, 2], "end_interval": [4, 5]}
    return {
        "bands": bands,
        "divergence_by_band": {code: {band: numbers.estimate() for band in bands} for code in others},
        "middle_by_language": {
            code: {**edges, "is_u_shape": bool(place % 2), "depth": numbers.estimate()}
            for place, code in enumerate(others)
        },
        "pairs": _pairs(numbers, codes, bands),
        "structure": _structure(numbers, codes, bands, references),
        "resources": _resources(numbers, codes, bands),
        "accuracy": {band: numbers.correlation() for band in bands},
        "related": {f"resource{word}": {band: {"coverage": numbers.correlation()} for band in bands}},
        "controls": {
            "distinct": {
                "divergence": {code: numbers.by_layer() for code in others},
                "share": {code: numbers() for code in others},
            },
            "hidden": {
                "cosine": {code: numbers.by_layer() for code in others},
                "cka": {code: numbers.by_layer() for code in others},
                "mirror": [{"layer": layer, **numbers.correlation()} for layer in range(N_LAYERS)],
            },
            "phases": {code: numbers.by_layer() for code in codes},
        },
        "domain": _domain(numbers, f"problems{word}"),
        "overlap": _overlap(numbers, codes),
    }


class Page(HTMLParser):
    """What a browser would see: elements with attributes, text, drawings, and scripts that would run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.visible: list[str] = []
        self.drawings: list[dict[str, object]] = []
        self.scripts = 0
        self._script: dict[str, str | None] | None = None
        self._style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._style = tag == "style"
        if tag == "script":
            self._script = dict(attrs)
            self.scripts += "type" not in self._script

    def handle_endtag(self, tag: str) -> None:
        self._style = False
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            if self._script.get("class") == "drawing":
                self.drawings.append(json.loads(data))
        elif not self._style:
            self.visible.append(data)

    @property
    def text(self) -> str:
        """Visible words, in order."""
        return re.sub(r"\s+", " ", "".join(self.visible))


def hostile() -> Report:
    """A report in which every text from outside is markup."""
    codes = (ATTACK, f"{ATTACK}2", *CODES)
    table = typed_table(rule=ATTACK, parameters={"kind": ATTACK, ATTACK: ATTACK})
    outside = evaluation(codes, arms={ATTACK: {ATTACK: 0.5}}, controls={ATTACK: comparison(codes)})
    return Report(
        title=ATTACK,
        findings=(ATTACK,),
        manifest=manifest(model=ATTACK, corpus={ATTACK: ATTACK}, languages={ATTACK: {"tokens": 1, ATTACK: ATTACK}}),
        analysis=typed(analysis(codes, refused={ATTACK: ATTACK})),
        experts=(table,),
        evaluation=outside,
    )
