"""The report on an adapter that was made from a plan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from isogloss.errors import PlanError, RunError
from isogloss.learning import ADAPT_REPORT, AdaptReport
from isogloss.learning.adapt_records import CurvePoint, PlanAgreement, ProbeReading
from isogloss.records import write_typed
from isogloss.reports.adapters import adapter_section, describe_adapter
from isogloss.reports.folders import report_on
from isogloss.routing import Fingerprint
from isogloss.steering import AdaptedRouter, RouterAdapter, write_adapter

ROUTER = AdaptedRouter(0, "model.layers.0.mlp.gate.weight", np.ones((8, 1)), np.ones((1, 4)))
ADAPTER = RouterAdapter(Fingerprint("qwen3_moe", (0,), 8, 2, "ab12"), (ROUTER,), ("swh_Latn",), {"model_name": "tiny"})
REPORT = AdaptReport(
    plan_sha256="cd34",
    layers=(0,),
    ranks=("swh_Latn",),
    targets=("swh_Latn",),
    protected=("deu_Latn", "eng_Latn"),
    left_out=("deu_Latn",),
    bound_on="kl",
    bound=0.02,
    metric="accuracy",
    dev_task="mgsm",
    ridge=0.01,
    strength=1.5,
    before={"swh_Latn": 0.1},
    plan={"swh_Latn": 0.5},
    curve=(
        CurvePoint(0.01, 1.0, {"deu_Latn": 0.004, "eng_Latn": 0.001}, keeps_bound=True, value={"swh_Latn": 0.3}),
        CurvePoint(0.01, 1.5, {"deu_Latn": 0.013, "eng_Latn": 0.002}, keeps_bound=True, value={"swh_Latn": 0.4}),
        CurvePoint(0.01, 3.0, {"deu_Latn": 0.07, "eng_Latn": 0.01}, keeps_bound=False, value={}),
    ),
    probes=(
        ProbeReading("swh_Latn", "swh_Latn", "text", fitted=True, mean=(0.56,), deviation=(0.2,)),
        ProbeReading("swh_Latn", "deu_Latn", "text", fitted=True, mean=(0.05,), deviation=(0.1,)),
        ProbeReading("swh_Latn", "deu_Latn", "text", fitted=False, mean=(0.21,), deviation=(0.1,)),
    ),
    agreement=(PlanAgreement("swh_Latn", 0.43, 0.06, 0.09, 0.47),),
)


def test_sentences_say_what_was_chosen_and_what_it_costs():
    """The bound, the largest move, dev values of adapter, plan and neither, and the agreement with the plan."""
    chosen, gained, agreed = describe_adapter(REPORT)
    assert "Ridge 0.01 and strength 1.5" in chosen
    assert "a bound of 0.02 nats per token; it moves 2 protected languages by at most 0.013" in chosen
    assert "Swahili is 40.0 % with the adapter, 50.0 % with the plan and 10.0 % with neither" in gained
    assert "43.0 %" in agreed
    assert "6.0 %" in agreed


def test_curves_and_tables():
    """What is beyond the bound is drawn in the first figure alone; the table tells own, other and unseen languages."""
    bound, value, probes, agreement = adapter_section(REPORT).blocks
    assert bound.data[0]["y"] == [0.004, 0.013, 0.07]
    assert bound.layout["shapes"][0]["y0"] == 0.02
    assert (value.data[0]["x"], value.data[0]["y"]) == ([1.0, 1.5], [0.3, 0.4])
    assert probes.rows == [("swh_Latn", "text", "0.56 (Swahili)", "0.05 (German)", "0.21 (German)")]
    assert agreement.rows[0][1:3] == ("6.0", "43.0")


def test_without_protected_languages_there_is_no_bound():
    """As of a plan for every token."""
    point = CurvePoint(0.01, 1.5, {}, keeps_bound=True, value={"swh_Latn": -0.02})
    report = dataclasses.replace(REPORT, protected=(), metric="-kl", dev_task=None, curve=(point,), ranks=("constant",))
    assert "acts on every token of every language, as the plan does" in describe_adapter(report)[0]
    assert len(describe_adapter(report)) == 2
    section = adapter_section(report)
    assert "a linear probe that is 1 on every token" in section.paragraphs[0]
    value, *_ = section.blocks
    assert value.data[0]["y"] == [0.02]
    assert "bound" not in value.caption


def test_report_on_the_folder(tmp_path):
    """One page from the adapter's folder; a damaged file, or one without its adapter, is refused in one line."""
    write_adapter(ADAPTER, tmp_path / "a")
    write_typed(tmp_path / "a" / ADAPT_REPORT, REPORT)
    page = report_on(tmp_path / "a", tmp_path / "a.html").read_text(encoding="utf-8")
    for text in ("A router adapter for tiny", "What the probes do", "0.21 (German)", ADAPTER.sha256[:12]):
        assert text in page
    (tmp_path / "a" / ADAPT_REPORT).write_text("{}")
    with pytest.raises(RunError, match="missing"):
        report_on(tmp_path / "a", tmp_path / "a.html")
    (tmp_path / "a" / "isogloss_adapter.json").unlink()
    with pytest.raises(PlanError, match="still being written"):
        report_on(tmp_path / "a", tmp_path / "a.html")
