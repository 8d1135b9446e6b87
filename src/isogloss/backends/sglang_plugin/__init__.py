"""EXPERIMENTAL: the plugin that steers SGLang, through SGLang's own hooks, without a patched file.

SGLang calls `register` in each of its processes (entry point ``sglang.srt.plugins``). It does nothing unless the
environment names a plan:

    ISOGLOSS_PLAN=plan.json python -m sglang.launch_server --model-path MODEL

One plan acts on every request of the server. Router logits are edited before SGLang chooses experts from them; where
a router could undo what the plan forces or bans, `isogloss.backends.reference_router` chooses instead. After the
weights are loaded the model is compared with the plan's fingerprint, and the server does not start where it differs or
where the plan cannot be kept.
"""

from __future__ import annotations

import os
import pkgutil

from isogloss.errors import PlanError
from isogloss.steering import Plan, read_served_plan

__all__ = ["VARIABLE", "register"]

VARIABLE = "ISOGLOSS_PLAN"
"""The environment variable that holds the path of the plan."""

_TOPK = "sglang.srt.layers.moe.topk.TopK"
_RUNNER = "sglang.srt.model_executor.model_runner.ModelRunner"
_REGISTRY = "sglang.srt.plugins.hook_registry"


def register() -> None:
    """Register the hooks that steer, where the environment names a plan.

    Raises:
        SystemExit: the plan cannot be read or served, or this SGLang lacks what the hooks need. SGLang logs every other
            exception of a plugin and then serves unsteered.
    """
    if "ISOGLOSS_PLANS" in os.environ:
        raise SystemExit(
            "isogloss: ISOGLOSS_PLANS is set, and SGLang applies one plan to all requests; unset it, and give one by "
            f"{VARIABLE}"
        )
    path = os.environ.get(VARIABLE)
    if not path:
        return
    try:
        plan = read_served_plan(path)
        _refuse_conditions(plan)
        _register_hooks(plan)
    except PlanError as error:
        raise SystemExit(f"isogloss: {VARIABLE}={path} cannot be served: {error}") from error
    except (ImportError, AttributeError) as error:
        raise SystemExit(
            f"isogloss: this SGLang has no place to steer ({error}); expected sglang 0.5.23: install it, "
            f"or unset {VARIABLE} to serve unsteered"
        ) from error


def _refuse_conditions(plan: Plan) -> None:
    """One edit acts on every token of an SGLang server, and there must be one."""
    if not plan.interventions:
        raise PlanError("it has no interventions; expected some, or no plan")
    conditions = [*plan.phases, *plan.languages]
    if conditions:
        raise PlanError(
            f"it has interventions for {', '.join(conditions)} alone, and SGLang applies one edit to all tokens of all "
            "requests; choose a language with Plan.for_request, or use an engine that tells phases and requests apart"
        )


def _register_hooks(plan: Plan) -> None:
    # Hooks that fail to apply are only logged by SGLang: look their targets up now, while the process can still stop.
    topk = pkgutil.resolve_name(_TOPK)
    runner = pkgutil.resolve_name(_RUNNER)
    registry, kinds = pkgutil.resolve_name(f"{_REGISTRY}:HookRegistry"), pkgutil.resolve_name(f"{_REGISTRY}:HookType")
    from isogloss.backends.sglang_plugin.engine import Engine  # noqa: PLC0415 - imports torch: only where a plan acts

    engine = Engine(plan, topk)
    for method in ("initialize", "forward"):
        getattr(runner, method)
    # Models also call forward_cuda or forward_native by name, past forward.
    for method in ("forward", *(name for name in vars(topk) if name.startswith("forward_"))):
        registry.register(f"{_TOPK}.{method}", engine.around_topk, kinds.AROUND)
    registry.register(f"{_RUNNER}.initialize", engine.after_initialize, kinds.AFTER)
    registry.register(f"{_RUNNER}.forward", engine.after_forward, kinds.AFTER)
