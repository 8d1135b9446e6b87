"""Texts as the losses of learning take them: with the place of the answer, or as a capture counts them."""

from __future__ import annotations

from models import ITEM_IDS, TEXTS

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.padded_batches import reader_of
from isogloss.backends.joint_texts import Measured
from isogloss.backends.token_batches import portions


def measured(loaded, chosen):
    """Texts whose second half is the answer, longest first.

    Args:
        loaded: a `HuggingFaceModel`.
        chosen: indices of `TEXTS`.
    """
    ids = [loaded.tokenizer(TEXTS[index])["input_ids"] for index in chosen]
    texts = [Measured(place, each, max(0, len(each) // 2 - 1), len(each) - 1) for place, each in enumerate(ids)]
    return sorted(texts, key=lambda text: -len(text.ids))


def portion(loaded, chosen):
    """The same texts as a capture counts them, in one portion."""
    texts, ids = [TEXTS[index] for index in chosen], [ITEM_IDS[index] for index in chosen]
    (only,) = portions(reader_of(loaded), texts, ids, CaptureOptions(batch_tokens=10**6))
    return only
