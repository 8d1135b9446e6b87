"""Results as the commands print them, for tests of the report, and a reader of the page that a browser would see."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from isogloss.report import Report

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


def evaluation(codes: tuple[str, ...] = CODES, shift: float = 0.02) -> dict[str, object]:
    """An evaluation as printed; differences grow with the place of the code."""

    def row(difference: float) -> dict[str, object]:
        def estimate(value: float) -> dict[str, object]:
            return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 250}

        arms = {"baseline": estimate(0.5), "steered": estimate(0.5 + difference), "difference": estimate(difference)}
        return {**arms, "p_value": 0.004, "p_adjusted": 0.012}

    each = {code: row(shift * place) for place, code in enumerate(codes)}
    overall = {name: {**row(shift)[name], "n": len(codes)} for name in ("baseline", "steered", "difference")}
    return {"arms": {"steered": {"plan_sha256": "9f"}}, "per_language": each, "overall": overall}


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


def full() -> Report:
    """A report with every section."""
    return Report(
        title="Routing of the organism",
        findings=("The middle layers are shared.",),
        manifest=manifest(),
        analysis=analysis(),
        experts=(expert_table(),),
        evaluation={**evaluation(), "controls": {"random experts": evaluation(shift=-0.01)}},
    )


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
    table = expert_table(rule=ATTACK, parameters={"kind": ATTACK, ATTACK: ATTACK})
    outside = {**evaluation(codes), "arms": {ATTACK: ATTACK}, "controls": {ATTACK: evaluation(codes)}}
    return Report(
        title=ATTACK,
        findings=(ATTACK,),
        manifest=manifest(model=ATTACK, corpus={ATTACK: ATTACK}, languages={ATTACK: {"tokens": 1, ATTACK: ATTACK}}),
        analysis=analysis(codes, quantity=ATTACK, refused={ATTACK: ATTACK}),
        experts=(table,),
        evaluation=outside,
    )
