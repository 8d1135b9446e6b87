"""A number of threads for torch that holds inside a context, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Let torch compute on ``n`` threads inside, and on as many as before afterwards; None changes nothing.

    How many threads share a sum decides the order of its terms, and so its last digits.
    """
    before = torch.get_num_threads()
    if n is None or n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
