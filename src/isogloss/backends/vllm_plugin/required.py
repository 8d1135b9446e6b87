"""A worker extension for vLLM that lets no worker start without the plugin."""

from __future__ import annotations

from isogloss.backends.vllm_plugin.install import is_installed
from isogloss.errors import PlanError

__all__ = ["Required"]


class Required:
    """Adds nothing: that vLLM can import it is the point."""


if not is_installed():
    raise PlanError(
        "this worker is to serve a plan, but the isogloss plugin is not active in it; set ISOGLOSS_PLAN, and leave "
        "isogloss in VLLM_PLUGINS where that is set"
    )
