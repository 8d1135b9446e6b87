"""Puts the plugin's classes where vLLM looks for them; idempotent, since vLLM may load plugins several times."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isogloss.backends.vllm.plugin.admission import adding, admitting, opening, salted
from isogloss.backends.vllm.plugin.choices import CHOICES
from isogloss.backends.vllm.plugin.layer import SteeredLayer
from isogloss.backends.vllm.plugin.names import UNSTEERED
from isogloss.backends.vllm.plugin.orphans import end_engine_with_parent
from isogloss.backends.vllm.plugin.refusals import ending, refuse, telling
from isogloss.backends.vllm.plugin.settings import read_serving_settings
from isogloss.backends.vllm.plugin.worker import SteeredWorker
from isogloss.errors import IsoglossError, PlanError

__all__ = ["install", "is_installed"]

_LAYER = "MoERunner"


def is_installed() -> bool:
    """Whether layers that vLLM builds from now on can be steered."""
    from vllm.model_executor.custom_op import op_registry_oot  # noqa: PLC0415 - only where there is a vLLM

    return issubclass(op_registry_oot.get(_LAYER, object), SteeredLayer)


def install() -> None:
    """Replace vLLM's layer by one that can be steered, give workers the methods to do it, and keep caches apart.

    The layer goes through vLLM's registry of pluggable layers. Methods of vLLM are wrapped, for which it has no
    registry: ``init_device`` of the worker's wrapper, after which the worker is one that steers; the start of the
    engine's workers, which are then asked what they serve (a spawned engine loads plugins too late to have its own
    ``__init__`` wrapped); the engine's ``collective_rpc``, so that no cache outlives the plan it was computed under;
    the start of an engine, see `refusals`; and what a request passes on its way to the engine, see `admission`.

    Raises:
        PlanError: another plugin owns the layers.
    """
    from vllm.model_executor.custom_op import PluggableLayer, op_registry_oot  # noqa: PLC0415 - as above
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner  # noqa: PLC0415 - as above
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - as above
    from vllm.v1.engine.core import EngineCore  # noqa: PLC0415 - as above
    from vllm.v1.engine.input_processor import InputProcessor  # noqa: PLC0415 - as above
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: PLC0415 - as above
    from vllm.v1.executor.abstract import Executor  # noqa: PLC0415 - as above
    from vllm.v1.request import Request  # noqa: PLC0415 - as above
    from vllm.v1.worker.worker_base import WorkerWrapperBase  # noqa: PLC0415 - as above

    if is_installed():
        return
    if (owner := op_registry_oot.get(_LAYER)) is not None:
        raise PlanError(
            f"{owner.__module__}.{owner.__qualname__} already replaces vLLM's MoERunner; expected no other plugin "
            "that does: name the plugins to load in VLLM_PLUGINS"
        )
    PluggableLayer.register_oot(name=_LAYER)(type("SteeredMoERunner", (SteeredLayer, MoERunner), {}))
    _wrap(WorkerWrapperBase, "init_device", _steering_worker)
    _wrap(Executor, "__init__", ending)
    _wrap(Executor, "__init__", _asking)
    _wrap(EngineCore, "collective_rpc", _cache_reset)
    _wrap(AsyncLLM, "__init__", opening)
    for engine in (AsyncLLM, LLMEngine):
        _wrap(engine, "__init__", telling)
    _wrap(AsyncLLM, "add_request", adding)
    _wrap(InputProcessor, "process_inputs", admitting)
    _wrap(Request, "from_engine_core_request", salted)


def _wrap(owner: type, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = vars(owner)[name]
    is_classmethod = isinstance(original, classmethod)
    setattr(owner, name, classmethod(wrapper(original.__func__)) if is_classmethod else wrapper(original))


def _steering_worker(init_device: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(init_device)
    def steered(wrapper: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        plain = type(wrapper.worker)
        if not issubclass(plain, SteeredWorker):
            wrapper.worker.__class__ = type(f"Steered{plain.__name__}", (SteeredWorker, plain), {})
        return init_device(wrapper, *args, **kwargs)

    return steered


def _asking(init: Callable[..., Any]) -> Callable[..., Any]:
    """Ask every worker, on whatever machine, for its plan: one without the plugin would serve without it."""

    @functools.wraps(init)
    def asking(executor: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - vLLM's own
        end_engine_with_parent()
        init(executor, *args, **kwargs)
        settings = read_serving_settings()
        if settings is None or getattr(executor, "rpc_broadcast_mq", True) is None:  # another node's engine asks
            return
        try:
            _require_served(executor, {name: plan.sha256 for name, plan in settings.plans.items()})
            CHOICES.offer(_choices(executor.collective_rpc("isogloss_status")[0]))
        except IsoglossError as error:
            refuse(error)

    return asking


def _require_served(executor: Any, expected: Mapping[str, str]) -> None:  # noqa: ANN401 - vLLM's own
    try:
        served = [_hashes(status) for status in executor.collective_rpc("isogloss_status")]
    except Exception as error:
        raise PlanError(
            f"a worker does not know isogloss ({error}); expected all to serve the plan: install isogloss on every "
            "machine, and pass its variables on (Ray: VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY=ISOGLOSS_)"
        ) from error
    if wrong := next((each for each in served if each != expected), None):
        raise PlanError(f"a worker serves the plans {wrong}; expected {dict(expected)}: is one file out of date?")


def _hashes(status: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of the plans that a worker serves, by name."""
    hashes = {name: plan["plan_sha256"] for name, plan in status["plans"].items()}
    return hashes if status["plan_sha256"] is None else {"": status["plan_sha256"], **hashes}


def _choices(status: Mapping[str, Any]) -> list[str]:
    """Return what requests can name, where workers tell them apart."""
    return [*status["plans"], UNSTEERED] if status["apart"] else []


def _cache_reset(collective_rpc: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective_rpc)
    def resetting(engine: Any, method: Any, timeout: Any = None, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - vLLM's own
        if method != SteeredWorker.isogloss_load_plan.__name__:
            return collective_rpc(engine, method, timeout, args, kwargs)
        change = _Change(*(args or ()), **(kwargs or {}))
        if change.removes and (n_running := CHOICES.close(change.name)):
            return [_still_running(change.name, n_running)]
        results = collective_rpc(engine, method, timeout, args, kwargs)
        # Running requests are computed anew under the plan that now holds, so that no text is of two plans.
        engine.reset_prefix_cache(
            reset_running_requests=True, reset_connector=engine.vllm_config.kv_transfer_config is not None
        )
        _require_agreement(results)
        (status, *_) = collective_rpc(engine, SteeredWorker.isogloss_status.__name__)
        CHOICES.offer(_choices(status), loaded=None if "error" in results[0] else change.name)
        return results

    return resetting


class _Change:
    """What `SteeredWorker.isogloss_load_plan` is asked for; the workers check it."""

    def __init__(self, source: object = None, name: object = "", *_: object) -> None:
        self.name = name if isinstance(name, str) else ""
        self.removes = isinstance(source, str) and not source.strip() and bool(self.name)


def _still_running(name: str, n_running: int) -> dict[str, Any]:
    return {
        "error": f"{n_running} requests that name plan {name} still run, and end under it; no other can name it from "
        "now on: remove it again when they have ended",
        "n_running": n_running,
    }


def _require_agreement(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse that workers serve different plans, as where a path holds other files on another machine."""
    served = [None if "error" in result else _hashes(result) for result in results]
    if any(each != served[0] for each in served):
        plans = [result.get("error") or hashes for result, hashes in zip(results, served, strict=True)]
        raise PlanError(
            f"workers no longer serve the same plan ({plans}); expected one: give the plan as JSON text, or the same "
            "file on every machine, at once: until then answers are of no single plan"
        )
