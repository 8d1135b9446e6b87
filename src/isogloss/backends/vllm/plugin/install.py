"""Puts the plugin's classes where vLLM looks for them; idempotent, since vLLM may load plugins several times."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isogloss.backends.vllm.plugin.admission import adding, admitting, opening, salted
from isogloss.backends.vllm.plugin.layer import SteeredLayer
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
            _require_served(executor, None if settings.plan is None else settings.plan.sha256)
        except IsoglossError as error:
            refuse(error)

    return asking


def _require_served(executor: Any, expected: str | None) -> None:  # noqa: ANN401 - vLLM's own
    try:
        hashes = [status["plan_sha256"] for status in executor.collective_rpc("isogloss_status")]
    except Exception as error:
        raise PlanError(
            f"a worker does not know isogloss ({error}); expected all to serve the plan: install isogloss on every "
            "machine, and pass its variables on (Ray: VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY=ISOGLOSS_)"
        ) from error
    if set(hashes) != {expected}:
        raise PlanError(f"workers serve the plans {hashes}; expected {expected} everywhere: is one file out of date?")


def _cache_reset(collective_rpc: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective_rpc)
    def resetting(engine: Any, method: Any, timeout: Any = None, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - vLLM's own
        results = collective_rpc(engine, method, timeout, args, kwargs)
        if method != SteeredWorker.isogloss_load_plan.__name__:
            return results
        # Running requests are computed anew under the plan that now holds, so that no text is of two plans.
        engine.reset_prefix_cache(
            reset_running_requests=True, reset_connector=engine.vllm_config.kv_transfer_config is not None
        )
        _require_agreement(results)
        return results

    return resetting


def _require_agreement(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse that workers serve different plans, as where a path holds other files on another machine."""
    if len({result.get("plan_sha256") for result in results}) > 1:
        plans = [result.get("error") or result["plan_sha256"] for result in results]
        raise PlanError(
            f"workers no longer serve the same plan ({plans}); expected one: give the plan as JSON text, or the same "
            "file on every machine, at once: until then answers are of no single plan"
        )
