"""The one kernel into which a layer's edit is compiled on a GPU: here by the same compiler, for the processor."""

from __future__ import annotations

import pytest
import torch

from isogloss.backends.vllm.plugin.layer import LayerSteering
from isogloss.steering import KINDS, Intervention
from isogloss.steering.layer_edits import edit_layer

N_EXPERTS = 64
SOFT = Intervention("soft", 0, (1, 2), strength=0.5)
ALL = (
    SOFT,
    Intervention("adaptive", 0, (3,), strength=0.5, values=(2.0,)),
    Intervention("offset", 0, (4,), values=(1.0,)),
    Intervention("suppress", 0, (5,)),
    Intervention("on", 0, (6,)),
    Intervention("off", 0, (7,)),
    Intervention("force", 0, (9,)),
    Intervention("ban", 0, (10,)),
)


@pytest.mark.parametrize("n_slots", [1, 2])
@pytest.mark.parametrize("kinds", [("soft",), KINDS])
def test_the_fused_edit_is_the_edit(n_slots, kinds):
    """For any number of tokens, of one row or several, choices are the same and logits equal up to rounding."""
    every = ALL if kinds == KINDS else (SOFT,)
    rules = [every] if n_slots == 1 else [(SOFT,), every]
    token_slots = None if n_slots == 1 else torch.arange(80) % 2
    options = {"kinds": kinds, "n_slots": n_slots, "token_slots": token_slots}
    fused, plain = (LayerSteering(N_EXPERTS, fused=fused, **options) for fused in (True, False))
    for steering in (fused, plain):
        steering.load([edit_layer(each, N_EXPERTS) for each in rules])
    random = torch.Generator().manual_seed(0)
    for n_tokens in (1, 2, 7, 64):
        logits = torch.randn((n_tokens, N_EXPERTS), generator=random).bfloat16()
        with torch.inference_mode():
            found, expected = fused.edit(logits), plain.edit(logits)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.equal(found.topk(8).indices, expected.topk(8).indices)
        assert not torch.equal(found, logits.float())
