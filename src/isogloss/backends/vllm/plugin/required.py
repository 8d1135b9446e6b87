"""A worker extension for vLLM, ``Required``, that lets no worker start without the plugin.

vLLM only logs a plugin that it cannot load, or that VLLM_PLUGINS leaves out, but stops without its worker extension.
"""

from __future__ import annotations

from isogloss.backends.vllm.plugin.install import is_installed
from isogloss.errors import PlanError

__all__: list[str] = []


class _Required:
    """Adds nothing to a worker: it is enough that vLLM can import it."""


def __getattr__(name: str) -> type:
    if name != "Required":
        raise AttributeError(name)
    if not is_installed():
        raise PlanError(
            "this worker is to serve a plan, but the isogloss plugin is not active in it; set ISOGLOSS_PLAN, and leave "
            "isogloss in VLLM_PLUGINS where that is set"
        )
    return _Required
