"""In the engine: which plans requests can choose, and which requests have chosen one and still run.

A plan that some request names is never taken away, so that no answer is written without the plan that was asked for.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from isogloss.backends.vllm.plugin.names import offer
from isogloss.backends.vllm.plugin.requests import require_offered

__all__ = ["CHOICES", "Choices"]


class Choices:
    """Requests enter in one thread of the engine, and plans change in another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: frozenset[str] | None = None  # nothing was offered yet
        self._closed: set[str] = set()
        self._entered: list[tuple[weakref.ref[Any], str]] = []

    def offer(self, names: Iterable[str], *, loaded: str | None = None) -> None:
        """Let requests choose these names, but for those that are closed, and no others.

        Args:
            names: of all plans that the workers have.
            loaded: name of a plan that was just loaded, so that it is no longer closed.
        """
        with self._lock:
            self._closed = (self._closed & set(names)) - {loaded}
            self._set(frozenset(names) - self._closed)

    def _set(self, names: frozenset[str]) -> None:
        if names != self._names:
            offer(names)
        self._names = names

    def enter(self, name: str | None, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - vLLM's own
        """Make a request of vLLM that names a plan, None for none, and note that it runs.

        Raises:
            RequestError: no request can choose that name.
        """
        if name is None:
            return make()
        with self._lock:
            require_offered(name, self._names or frozenset())
            request = make()
            self._entered = [each for each in self._entered if _runs(each[0])]
            self._entered.append((weakref.ref(request), name))
            return request

    def close(self, name: str) -> int:
        """Let no further request choose a name; return how many that have done so still run."""
        with self._lock:
            self._closed.add(name)
            self._set((self._names or frozenset()) - {name})
            return sum(chosen == name and _runs(request) for request, chosen in self._entered)


def _runs(reference: weakref.ref[Any]) -> bool:
    request = reference()
    return request is not None and not request.is_finished()


CHOICES = Choices()
"""Of the engine of this process."""
