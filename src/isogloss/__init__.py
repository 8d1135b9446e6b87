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
    from isogloss.backends.capture_options import CaptureOptions
    from isogloss.backends.model import Model
    from isogloss.backends.open import load
    from isogloss.evaluation import RunOptions
    from isogloss.evaluation import load_task as task
    from isogloss.face import analyze, find_experts, inspect, report, steer
    from isogloss.learning import AdaptOptions, LearnOptions
    from isogloss.runs import Run, open_run
    from isogloss.steering import Intervention, Plan, RouterAdapter, read_adapter, read_plan, write_adapter, write_plan
    from isogloss.workflows import Ablation, VersionSource, ablate, adapt, compare_models, learn
    from isogloss.workflows import capture_corpus as capture
    from isogloss.workflows import evaluate_plan as evaluate
    from isogloss.workflows import open_corpus as corpus
    from isogloss.workflows import show_texts as show

__version__ = "0.1.0"

__all__ = [
    "Ablation",
    "AdaptOptions",
    "CaptureOptions",
    "Intervention",
    "LearnOptions",
    "Model",
    "Plan",
    "RouterAdapter",
    "Run",
    "RunOptions",
    "VersionSource",
    "__version__",
    "ablate",
    "adapt",
    "analyze",
    "capture",
    "compare_models",
    "corpus",
    "evaluate",
    "find_experts",
    "inspect",
    "learn",
    "load",
    "open_run",
    "read_adapter",
    "read_plan",
    "report",
    "show",
    "steer",
    "task",
    "write_adapter",
    "write_plan",
]

_WHERE = {
    "AdaptOptions": "isogloss.learning",
    "adapt": "isogloss.workflows",
    "Ablation": "isogloss.workflows",
    "ablate": "isogloss.workflows",
    "CaptureOptions": "isogloss.backends.capture_options",
    "capture": "isogloss.workflows:capture_corpus",
    "evaluate": "isogloss.workflows:evaluate_plan",
    "Intervention": "isogloss.steering",
    "LearnOptions": "isogloss.learning",
    "learn": "isogloss.workflows",
    "Model": "isogloss.backends.model",
    "Plan": "isogloss.steering",
    "RouterAdapter": "isogloss.steering",
    "Run": "isogloss.runs",
    "RunOptions": "isogloss.evaluation",
    "VersionSource": "isogloss.workflows",
    "compare_models": "isogloss.workflows",
    "corpus": "isogloss.workflows:open_corpus",
    "load": "isogloss.backends.open",
    "open_run": "isogloss.runs",
    "read_adapter": "isogloss.steering",
    "read_plan": "isogloss.steering",
    "show": "isogloss.workflows:show_texts",
    "task": "isogloss.evaluation:load_task",
    "write_adapter": "isogloss.steering",
    "write_plan": "isogloss.steering",
    **dict.fromkeys(("analyze", "find_experts", "inspect", "report", "steer"), "isogloss.face"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _WHERE:
        raise AttributeError(f"module 'isogloss' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return __all__
