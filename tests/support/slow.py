"""Marks the values of a parametrisation that only `make test-all` takes."""

from __future__ import annotations


def slow_but(values, quick):
    """The values, of which `make test` takes those that are among the quick ones."""
    import pytest  # noqa: PLC0415 - bench/gpu.py takes the models, and needs no pytest

    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
