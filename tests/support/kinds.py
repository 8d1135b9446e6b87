"""One intervention of every kind, and the dtypes in which all of them must hold."""

from __future__ import annotations

import torch

from isogloss.steering import Intervention

DTYPES = [torch.float32, torch.bfloat16]
LAST = 3  # of the olmoe model

EVERY_KIND = [
    Intervention("soft", LAST, (1, 5), strength=1.0),
    Intervention("force", LAST, (6, 2)),
    Intervention("suppress", LAST, (0, 2)),
    Intervention("ban", LAST, (0, 4)),
    Intervention("adaptive", LAST, (1, 7), strength=1.0, values=(0.5, 0.9)),
    Intervention("offset", LAST, (2, 4), values=(1.5, -2.0)),
    Intervention("on", LAST, (5,)),
    Intervention("off", LAST, (0,)),
]

# Changes of every logit and of some; that forced and banned experts are obeyed has tests of its own.
LOGIT_KINDS = [each for each in EVERY_KIND if each.kind in ("soft", "offset")]
