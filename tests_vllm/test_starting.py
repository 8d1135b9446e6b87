"""An engine starts steered, or not at all."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import vllm
from hub_cache import COMMITS, add_snapshot, hub_cache

from checkpoints import checkpoint, prompts
from engines import vllm_answers
from isogloss.backends.huggingface import load_model, steer
from isogloss.backends.open import load
from isogloss.errors import IsoglossError, ModelError, PlanError
from isogloss.steering import Intervention, Plan, write_plan
from oracle import require_equal, transformers_answers
from plans import hand, make_plan

FAMILY = "qwen3_moe"
VARIABLES = ("ISOGLOSS_PLAN", "ISOGLOSS_PLANS", "ISOGLOSS_KINDS", "ISOGLOSS_SLOTS", "ISOGLOSS_RECORD", "ISOGLOSS_USAGE")


@pytest.fixture
def loaded():
    """The checkpoint as transformers loads it."""
    return load_model(str(checkpoint(FAMILY)), dtype="float32")


@pytest.fixture
def start(engines, tmp_path, monkeypatch):
    """Start an engine with a plan in the environment and nothing else."""
    engines.free()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def started(plan, **options):
        write_plan(plan, tmp_path / "plan.json")
        monkeypatch.setenv("ISOGLOSS_PLAN", str(tmp_path / "plan.json"))
        return engines.get(FAMILY, "eager", seed=1, **options)

    yield started
    engines.free()


def test_the_plan_of_the_environment_is_active(start, loaded):
    """Without any call; and the engine can do what the plan does, no more."""
    plan = make_plan(loaded.fingerprint, "together")
    llm = start(plan)
    with steer(loaded, plan):
        require_equal(vllm_answers(llm, prompts(), 8), transformers_answers(loaded, prompts(), 8), 5e-5)
    (status,) = llm.collective_rpc("isogloss_status")
    assert (status["plan_sha256"], set(status["kinds"])) == (plan.sha256, {"soft", "offset", "force", "ban"})
    assert all(status["changed"]["all"][str(layer)] > 0 for layer in plan.layers)
    assert "isogloss" in llm.llm_engine.vllm_config.additional_config  # part of the hash of compiled graphs
    other = make_plan(loaded.fingerprint, "suppress")
    (answer,) = hand(llm, other)
    assert "ISOGLOSS_KINDS=all" in answer["error"]


def test_vllm_reads_the_commit_that_is_asked_for(tmp_path, monkeypatch):
    """Of the weights and of the tokenizer, also where a branch or tag stands for it."""
    cache = hub_cache(monkeypatch, tmp_path)
    for ref in COMMITS:
        add_snapshot(cache, "me/moe", checkpoint(FAMILY), ref)
    given = []

    def start(*arguments, **options):
        given.append((arguments, {name: options[name] for name in ("revision", "tokenizer_revision")}))
        raise ValueError("started")

    monkeypatch.setattr("vllm.LLM.__init__", functools.wraps(vllm.LLM.__init__)(lambda _llm, *a, **k: start(*a, **k)))
    for name, ref in (("me/moe", "main"), ("me/moe@v1", "v1"), (f"me/moe@{COMMITS['v1']}", "v1")):
        with pytest.raises(ModelError, match="started"):
            load(name, backend="vllm")
        commit = COMMITS[ref]
        assert given.pop() == (("me/moe",), {"revision": commit, "tokenizer_revision": commit})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda plan: Plan(
                dataclasses.replace(plan.fingerprint, router_sha256="0" * 64, float16_sha256=None),
                plan.interventions,
                {},
            ),
            "made for another model",
        ),
        (
            lambda plan: Plan(dataclasses.replace(plan.fingerprint, layers=(0, 1, 2)), plan.interventions[:1], {}),
            "made for another model",
        ),
        (
            lambda plan: Plan(plan.fingerprint, (Intervention("offset", 1, (5,), values=(1e-9,)),), {}),
            "changed no chosen expert",
        ),
    ],
)
def test_plans_that_do_not_hold_stop_the_start(start, loaded, spoil, message):
    """No engine comes up, and the error says why."""
    with pytest.raises(PlanError, match=message):
        start(spoil(make_plan(loaded.fingerprint, "ban")))


def test_adapters_stop_the_start(start, loaded):
    """They wrap the routers: the reason is not the one that the wrapped router would suggest."""
    with pytest.raises(PlanError, match="--enable-lora"):
        start(make_plan(loaded.fingerprint, "ban"), enable_lora=True)


def test_layers_of_another_class_stop_the_start(start, loaded, monkeypatch):
    """A layer that the plugin does not stand in for would be served unsteered."""
    from vllm.model_executor import custom_op  # noqa: PLC0415 - vLLM reads the environment when it is imported

    from isogloss.backends.vllm.plugin.install import is_installed  # noqa: PLC0415 - as above

    plan = make_plan(loaded.fingerprint, "ban")
    start(plan)
    assert is_installed()
    monkeypatch.setitem(custom_op.op_registry_oot, "MoERunner", _plain_runner())
    with pytest.raises(IsoglossError, match="which plans do not reach"):
        start(plan, max_num_seqs=7)


def _plain_runner():
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner  # noqa: PLC0415 - as above

    return type("SomebodysMoERunner", (MoERunner,), {})


def test_another_plugin_that_owns_the_layers_is_refused(monkeypatch):
    """Two cannot stand in for one class; the first would go unsteered."""
    from vllm.model_executor import custom_op  # noqa: PLC0415 - as above

    from isogloss.backends.vllm.plugin import register  # noqa: PLC0415 - as above

    monkeypatch.setenv("ISOGLOSS_KINDS", "all")
    monkeypatch.setitem(custom_op.op_registry_oot, "MoERunner", _plain_runner())
    with pytest.raises(PlanError, match="already replaces vLLM's MoERunner"):
        register()


def test_a_router_that_goes_its_own_way_stops_the_start(start, loaded, monkeypatch):
    """If choices do not follow the edited logits, no plan can hold."""
    from isogloss.backends.vllm.plugin.layer import LayerSteering  # noqa: PLC0415 - as above

    monkeypatch.setattr(LayerSteering, "edit", lambda _self, router_logits: router_logits)
    with pytest.raises(PlanError, match=r"of random tokens chose expert 7, which is forced; expected 100%"):
        start(make_plan(loaded.fingerprint, "together"))


def test_workers_that_never_heard_of_the_plan_stop_the_start(start, loaded, monkeypatch):
    """A worker on another machine may lack the plugin: then nobody but the engine can tell."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase  # noqa: PLC0415 - as above

    from isogloss.backends.vllm.plugin import register  # noqa: PLC0415 - as above

    monkeypatch.setenv("ISOGLOSS_KINDS", "all")
    register()  # where this test is the first
    steering = WorkerWrapperBase.init_device
    monkeypatch.setattr(WorkerWrapperBase, "init_device", getattr(steering, "__wrapped__", steering))
    with pytest.raises(PlanError, match="a worker does not know isogloss"):
        start(make_plan(loaded.fingerprint, "ban"))
