"""Map and steer how Mixture-of-Experts language models route the world's languages.

    import isogloss as ig

    model = ig.load("organism")
    run = ig.capture(model, ig.corpus("organism"), "out/run")
    analysis = ig.analyze(run, pivot="en")

Every name is imported when it is first used, so that `import isogloss` takes milliseconds. The rooms, in the order in
which data flows: `corpora`, `backends` (capture), `runs`, `analysis`, `steering`, `backends` (steer), `evaluation`,
`reports`; `workflows` are the use cases behind the commands.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogloss.backends.model import CaptureOptions, Model
    from isogloss.backends.open import load
    from isogloss.evaluation.run import RunOptions
    from isogloss.evaluation.tasks import load_task as task
    from isogloss.face import analyze, capture, evaluate, find_experts, report, steer
    from isogloss.runs import Run, open_run
    from isogloss.steering import Intervention, Plan, read_plan, write_plan
    from isogloss.workflows.corpora import open_corpus as corpus

__version__ = "0.1.0"

__all__ = [
    "CaptureOptions",
    "Intervention",
    "Model",
    "Plan",
    "Run",
    "RunOptions",
    "__version__",
    "analyze",
    "capture",
    "corpus",
    "evaluate",
    "find_experts",
    "load",
    "open_run",
    "read_plan",
    "report",
    "steer",
    "task",
    "write_plan",
]

_WHERE = {
    "CaptureOptions": "isogloss.backends.model",
    "Intervention": "isogloss.steering",
    "Model": "isogloss.backends.model",
    "Plan": "isogloss.steering",
    "Run": "isogloss.runs",
    "RunOptions": "isogloss.evaluation.run",
    "corpus": "isogloss.workflows.corpora:open_corpus",
    "load": "isogloss.backends.open",
    "open_run": "isogloss.runs",
    "read_plan": "isogloss.steering",
    "task": "isogloss.evaluation.tasks:load_task",
    "write_plan": "isogloss.steering",
    **dict.fromkeys(("analyze", "capture", "evaluate", "find_experts", "report", "steer"), "isogloss.face"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _WHERE:
        raise AttributeError(f"module 'isogloss' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _WHERE[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
