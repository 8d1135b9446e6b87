"""Marks the values of a parametrisation that only `make test-all` takes."""

from __future__ import annotations

import pytest


def slow_but(values, quick):
    """The values, of which `make test` takes those that are among the quick ones."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
