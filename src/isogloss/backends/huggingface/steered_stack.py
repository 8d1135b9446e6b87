"""The decoder stack under a plan: every forward runs the routers of the plan, and none goes on when it is left."""

from __future__ import annotations

import functools
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.watch import bypassed
from isogloss.errors import ModelError

__all__ = ["Begin", "SteeredStack"]

Begin = Callable[[tuple[Any, ...], dict[str, Any]], None]
"""Called with the arguments of every forward of the decoder stack."""


class _Forwards(threading.local):
    """This thread's forward of the decoder stack: whether one runs, and the routers that have run in it."""

    def __init__(self) -> None:
        self.is_running = False
        self.ran: set[int] = set()


class SteeredStack:
    """The decoder stack under a plan: every forward must run every router of the plan; threads have their own.

    Args:
        loaded: the model.
        routers: those of the plan.
        begin: as of `isogloss.backends.huggingface.steer.steered_by`.
    """

    def __init__(self, loaded: LoadedModel, routers: Sequence[Router], begin: Begin | None) -> None:
        self.loaded, self.routers, self.begin = loaded, routers, begin
        self.forwards = _Forwards()
        self.has_run = False
        self.running: list[int] = []  # threads inside a forward or a generation, once for each
        self.entered = threading.get_ident()
        self.others_run = False
        self.fault: BaseException | None = None  # of another thread, which nobody may have looked at

    def router_ran(self, layer: int) -> None:
        """Note the run in this thread's forward.

        Raises:
            ModelError: the edit depends on a forward, and none is running.
        """
        if self.begin is not None and not self.forwards.is_running:
            raise ModelError(
                f"the router of layer {layer} ran outside of a forward of the whole model, such as in a layer that is "
                "computed again in a backward pass; a plan with conditions on phases cannot tell there which tokens "
                "the model wrote: use a plan without"
            )
        self.has_run = True
        self.forwards.ran.add(layer)

    def forward(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the stack's forward: it fails where it ends without a router of the plan having run.

        It fails at once: when the plan is left, unsteered answers may have been kept as steered ones.
        """

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the family's signature
            self.has_run = True  # or it fails, with a reason of its own
            if self.loaded.decoder.training:
                self.loaded.require_evaluation_mode()
            if self.begin is not None:
                self.begin(args, kwargs)
            self.forwards.ran.clear()
            self.forwards.is_running = True
            try:
                output = plain(*args, **kwargs)
            finally:
                self.forwards.is_running = False
            for router in self.routers:
                if router.spec.layer not in self.forwards.ran:
                    raise bypassed(router, 0, n_forwards=1)
            return output

        return self.counted(forward)

    def counted(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Note which threads are inside a function, and what ends it in others than the one that holds the plan."""

        @functools.wraps(plain)
        def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any function's signature
            thread = threading.get_ident()
            self.running.append(thread)
            try:
                return plain(*args, **kwargs)
            except BaseException as error:
                if thread != self.entered:
                    self.fault = error
                raise
            finally:
                self.running.remove(thread)

        return run

    def note_other_threads(self) -> None:
        """Look whether another thread is running the model, be it by a function that was bound before the plan."""
        here = threading.get_ident()
        self.others_run |= any(thread != here for thread in self.running) or self._is_run_elsewhere(here)

    def _is_run_elsewhere(self, here: int) -> bool:
        """Tell whether any other thread is inside a method of the model, such as `generate` between two forwards."""
        if threading.active_count() == 1:
            return False
        models = (self.loaded, self.loaded.model, self.loaded.core, self.loaded.decoder)
        return any(
            frame.f_locals.get("self") is model
            for thread, innermost in sys._current_frames().items()  # noqa: SLF001 - nothing else in Python shows them
            if thread != here
            for frame, _line in traceback.walk_stack(innermost)
            for model in models
        )

    def require_left(self) -> None:
        """Refuse to leave the plan as if it had acted where it did not, or where not all has ended."""
        self.note_other_threads()
        if self.others_run:
            raise ModelError(
                "the plan was left while another thread was running the model, so what that thread computes may be "
                "partly unsteered; wait for every request before leaving the context of `steer`"
            )
        if isinstance(self.fault, ModelError):
            raise ModelError(f"another thread failed under the plan: {self.fault}") from self.fault
        if self.routers and not self.has_run:
            raise ModelError(
                "no router of the plan ran while it was in force, so nothing was steered; run the model inside the "
                "context of `steer`, and wait there for threads that run it"
            )
