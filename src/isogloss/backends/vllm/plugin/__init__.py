"""The plugin that steers vLLM: no patched file, no copied model; a plan runs inside vLLM's own layers.

vLLM calls `register` in each of its processes (entry point ``vllm.general_plugins``). It does nothing unless the
environment names one of the variables of `isogloss.backends.vllm.plugin.settings`. Then every layer that vLLM builds
can be steered, and a worker fails to start where the plan is not proven to act.

    ISOGLOSS_PLAN=plan.json vllm serve MODEL --worker-extension-cls isogloss.backends.vllm.plugin.required.Required

The last option is a second lock: vLLM only logs a plugin that it cannot load, but stops without its worker extension.
"""

from __future__ import annotations

from isogloss.backends.vllm.plugin.refusals import RefusedError, expect_refusals
from isogloss.errors import IsoglossError

__all__ = ["RefusedError", "register"]


def register() -> None:
    """Let vLLM build layers that can be steered, and workers that steer them.

    Raises:
        RefusedError: the environment asks for something that cannot be served, or another plugin owns the layers.
    """
    from isogloss.backends.vllm.plugin.install import install  # noqa: PLC0415 - vLLM loads this in every process
    from isogloss.backends.vllm.plugin.names import expect_names  # noqa: PLC0415 - as above
    from isogloss.backends.vllm.plugin.settings import pass_on, read_serving_settings  # noqa: PLC0415 - as above

    try:
        settings = read_serving_settings()
        if settings is not None:
            pass_on()
            expect_refusals()
            expect_names()
            install()
    except IsoglossError as error:
        raise RefusedError(f"isogloss: {error}") from None
