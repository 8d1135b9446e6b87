"""The transformers backend: load, capture, steer, and what learning with gradients takes."""

from isogloss.backends.huggingface.change import measure_change
from isogloss.backends.huggingface.discovery import Router, find_routers
from isogloss.backends.huggingface.loading import LoadedModel, fingerprint_of, unwrapped
from isogloss.backends.huggingface.losses import (
    Divergence,
    RoutedProfiles,
    answer_loss,
    divergence_loss,
    divergences,
    leash_loss,
    profiles_of,
    without_rounding,
)
from isogloss.backends.huggingface.model import HuggingFaceModel, load_model
from isogloss.backends.huggingface.offsets import Offsets, RouterChange, Selections, WeightChanges, offsets_applied
from isogloss.backends.huggingface.padded_batches import by_length, reader_of
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.recorder import RoutedForward, RouterRecorder
from isogloss.backends.huggingface.steer import steer

__all__ = [
    "Divergence",
    "HuggingFaceModel",
    "LoadedModel",
    "Offsets",
    "RoutedForward",
    "RoutedProfiles",
    "Router",
    "RouterChange",
    "RouterRecorder",
    "Selections",
    "WeightChanges",
    "answer_loss",
    "by_length",
    "divergence_loss",
    "divergences",
    "find_routers",
    "fingerprint_of",
    "leash_loss",
    "load_model",
    "measure_change",
    "offsets_applied",
    "profiles_of",
    "prove_routers",
    "reader_of",
    "steer",
    "unwrapped",
    "without_rounding",
]
