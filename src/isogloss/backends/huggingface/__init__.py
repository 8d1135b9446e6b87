"""The transformers backend: load, capture, steer."""

from isogloss.backends.huggingface.change import measure_change
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.model import HuggingFaceModel, load_model
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.steer import steer

__all__ = [
    "HuggingFaceModel",
    "LoadedModel",
    "load_model",
    "measure_change",
    "prove_routers",
    "steer",
]
