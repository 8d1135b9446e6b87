"""Versions of a model as a comparison describes them."""

from __future__ import annotations

from isogloss.evaluation.versions import ModelVersion, WeightBytes


def model_version(*weights, quantisation=None):
    """Return a version with weights, each a part, a dtype, and its bytes in files and in memory."""
    weights = tuple(WeightBytes(*each) for each in weights)
    return ModelVersion("m", None, "bfloat16", "in words", quantisation, weights, "ab", 0.0, 1, {"torch": "2"})
