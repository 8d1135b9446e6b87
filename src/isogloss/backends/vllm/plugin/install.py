"""Puts the plugin's classes where vLLM looks for them; idempotent, since vLLM may load plugins several times."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isogloss.backends.vllm.plugin.layer import SteeredLayer
from isogloss.backends.vllm.plugin.settings import read_settings
from isogloss.backends.vllm.plugin.slots import language_of
from isogloss.backends.vllm.plugin.worker import SteeredWorker
from isogloss.errors import PlanError

__all__ = ["install", "is_installed"]

_LAYER = "MoERunner"


def is_installed() -> bool:
    """Whether layers that vLLM builds from now on can be steered."""
    from vllm.model_executor.custom_op import op_registry_oot  # noqa: PLC0415 - only where there is a vLLM

    return issubclass(op_registry_oot.get(_LAYER, object), SteeredLayer)


def install() -> None:
    """Replace vLLM's layer by one that can be steered, give workers the methods to do it, and keep caches apart.

    The layer goes through vLLM's registry of pluggable layers. Four methods of vLLM are wrapped, for which it has no
    registry: ``init_device`` of the worker's wrapper, after which the worker is one that steers; the engine's
    ``__init__``, which then asks every worker what it serves; the engine's ``collective_rpc``, so that no cache
    outlives the plan it was computed under; and the making of a request, so that requests in different languages share
    no cache.

    Raises:
        PlanError: another plugin owns the layers.
    """
    from vllm.model_executor.custom_op import PluggableLayer, op_registry_oot  # noqa: PLC0415 - as above
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner  # noqa: PLC0415 - as above
    from vllm.v1.engine.core import EngineCore  # noqa: PLC0415 - as above
    from vllm.v1.request import Request  # noqa: PLC0415 - as above
    from vllm.v1.worker.worker_base import WorkerWrapperBase  # noqa: PLC0415 - as above

    if is_installed():
        return
    if (owner := op_registry_oot.get(_LAYER)) is not None:
        raise PlanError(
            f"{owner.__module__}.{owner.__qualname__} already stands in for vLLM's MoERunner; expected no other plugin "
            "that does: name the plugins to load in VLLM_PLUGINS"
        )
    PluggableLayer.register_oot(name=_LAYER)(type("SteeredMoERunner", (SteeredLayer, MoERunner), {}))
    _wrap(WorkerWrapperBase, "init_device", _steering_worker)
    _wrap(EngineCore, "__init__", _asking)
    _wrap(EngineCore, "collective_rpc", _cache_reset)
    _wrap(Request, "from_engine_core_request", _salted)


def _wrap(owner: type, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = vars(owner)[name]
    if isinstance(original, classmethod):
        setattr(owner, name, classmethod(wrapper(original.__func__)))
    else:
        setattr(owner, name, wrapper(original))


def _steering_worker(init_device: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(init_device)
    def steered(wrapper: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        plain = type(wrapper.worker)
        if not issubclass(plain, SteeredWorker):
            wrapper.worker.__class__ = type(f"Steered{plain.__name__}", (SteeredWorker, plain), {})
        return init_device(wrapper, *args, **kwargs)

    return steered


def _asking(init: Callable[..., Any]) -> Callable[..., Any]:
    """Ask every worker, on whatever machine: one that never heard of the plan would serve without it."""

    @functools.wraps(init)
    def asking(engine: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - vLLM's own
        init(engine, *args, **kwargs)
        settings = read_settings()
        if settings is None:
            return
        expected = None if settings.plan is None else settings.plan.sha256
        try:
            found = [status["plan_sha256"] for status in engine.collective_rpc("isogloss_status")]
        except Exception as error:
            raise PlanError(
                f"a worker does not know isogloss ({error}); expected all to serve the plan: install isogloss on every "
                "machine, and pass its variables on (Ray: VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY=ISOGLOSS_)"
            ) from error
        if set(found) != {expected}:
            raise PlanError(
                f"workers serve the plans {found}; expected {expected} everywhere: is one file out of date?"
            )

    return asking


def _cache_reset(collective_rpc: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective_rpc)
    def resetting(engine: Any, method: Any, timeout: Any = None, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - vLLM's own
        if method != SteeredWorker.isogloss_load_plan.__name__:
            return collective_rpc(engine, method, timeout, args, kwargs)
        results = collective_rpc(engine, method, timeout, args, kwargs)
        # Running requests are computed anew under the plan that now holds, so that no text is of two plans.
        engine.reset_prefix_cache(
            reset_running_requests=True, reset_connector=engine.vllm_config.kv_transfer_config is not None
        )
        _require_agreement(results)
        return results

    return resetting


def _require_agreement(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse that some workers serve one plan and some another, as where a path holds other files elsewhere."""
    if len({result.get("plan_sha256") for result in results}) > 1:
        found = [result.get("error") or result["plan_sha256"] for result in results]
        raise PlanError(
            f"workers no longer serve the same plan ({found}); expected one: give the plan as JSON text, or the same "
            "file on every machine, at once: until then answers are of no single plan"
        )


def _salted(from_engine_core_request: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(from_engine_core_request)
    def salted(cls: type, request: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        language = language_of(getattr(request.sampling_params, "extra_args", None))
        if language is not None:
            request.cache_salt = f"{request.cache_salt or ''}|isogloss:{language}"
        return from_engine_core_request(cls, request, *args, **kwargs)

    return salted
