"""The transformers backend: load, capture, steer, generate."""

from isogloss.backends.huggingface.capture import CaptureOptions, capture
from isogloss.backends.huggingface.generate import bits_per_byte, generate
from isogloss.backends.huggingface.loading import LoadedModel, load_model
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.steer import Effect, measure_effect, steer

__all__ = [
    "CaptureOptions",
    "Effect",
    "LoadedModel",
    "bits_per_byte",
    "capture",
    "generate",
    "load_model",
    "measure_effect",
    "prove_routers",
    "steer",
]
