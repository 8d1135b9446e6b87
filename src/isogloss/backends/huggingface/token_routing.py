"""Reads the routing of one text token by token, as it is, or under a plan that is active."""

from __future__ import annotations

import numpy as np
import torch

from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import require_one_call_each, watch_routers
from isogloss.backends.joint_texts import encode_texts
from isogloss.backends.token_routing import TokenRouting

__all__ = ["route_tokens"]


@computing
def route_tokens(loaded: LoadedModel, text: str, *, add_special_tokens: bool = True) -> TokenRouting:
    """Run one text and keep what every router computed for every token; see `isogloss.backends.model.Model`."""
    (ids,) = encode_texts(loaded.tokenizer, [text], add_special_tokens=add_special_tokens)
    outputs: list[RouterOutput] = []

    def keep(_index: int, output: RouterOutput) -> None:
        weights, order = output.combine_weights.float().sort(dim=-1, descending=True, stable=True)
        ids_of = output.expert_ids.gather(-1, order)
        outputs.append(RouterOutput(output.router_logits.float().cpu(), weights.cpu(), ids_of.cpu()))

    with torch.no_grad(), watch_routers(loaded, keep) as calls:
        input_ids = torch.tensor([ids], device=loaded.device)
        logits = loaded.model(input_ids=input_ids, use_cache=False).logits[0, -1]
    require_one_call_each(loaded, calls, n_forwards=1)
    shape = (len(outputs), len(ids), -1)
    return TokenRouting(
        np.array(ids, dtype=np.int64),
        torch.stack([each.router_logits for each in outputs]).view(shape).numpy(),
        torch.stack([each.expert_ids for each in outputs]).view(shape).numpy(),
        torch.stack([each.combine_weights for each in outputs]).view(shape).numpy(),
        logits.float().softmax(-1).cpu().numpy(),
    )
