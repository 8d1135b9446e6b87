"""How closely two computations of one router must agree."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCE", "relative_difference"]

TOLERANCE = MappingProxyType({"float64": 1e-4, "float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3})
"""By dtype of the model: scores and weights of one token may differ by what rounding to it changes."""


def relative_difference(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference, relative where the expected value is above 1."""
    difference = np.zeros(values.shape)
    np.subtract(values, expected, where=values != expected, out=difference)  # infinities may be equal
    difference = np.abs(difference) / np.maximum(1, np.abs(expected))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max())
