"""What an edit costs: how many operations a plan adds to a router."""

from __future__ import annotations

import pytest
import torch
from models import tiny

from isogloss.steering import KINDS
from operations import added_operations

MOST = {"soft": 2, "force": 7, "suppress": 2, "ban": 3, "adaptive": 2, "offset": 1, "on": 5, "off": 5, "select": 2}
"""Of one layer and one token: to edit the logits and, for force and ban, to choose by edited scores."""


@pytest.mark.parametrize(
    ("family", "dtype", "changes_of_dtype"),
    [
        ("olmoe", torch.float32, 0),
        ("olmoe", torch.bfloat16, 0),  # its router changes to float32 in any case, and back
        ("deepseek_v3", torch.float32, 0),
        ("gpt_oss", torch.bfloat16, 2),
    ],
)
def test_an_edit_takes_few_operations(family, dtype, changes_of_dtype):
    """Each kind adds at most as many as its formula needs, views included, whatever the router is."""
    loaded = tiny(family, dtype=dtype)
    found = dict(added_operations(loaded, [spec.layer for spec in loaded.routers]))
    assert found.keys() == set(KINDS)
    assert {kind: n for kind, n in found.items() if n > MOST[kind] + changes_of_dtype} == {}
    assert min(found.values()) >= 1
