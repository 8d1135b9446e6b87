"""Shows on a forward of random hidden states that a plan changes the experts that a served model chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from isogloss.backends.vllm.plugin.layer import LayerSteering, Observation
from isogloss.errors import ModelError, PlanError
from isogloss.steering import LayerEdit

__all__ = ["observe_layers", "require_effect"]

_PROBE_TOKENS = 256


@torch.inference_mode()
def observe_layers(
    worker: Any,  # noqa: ANN401 - vLLM's own
    layers: Mapping[int, LayerSteering],
    blocks: Sequence[torch.nn.Module],
) -> dict[int, Observation]:
    """Run the model uncompiled, without touching any cache, and observe each routed layer on random hidden states.

    Attention has no earlier tokens and leaves its output unset, so its output is not passed on.

    Args:
        worker: of vLLM, its model loaded.
        layers: to observe.
        blocks: the modules that hold them.

    Raises:
        ModelError: a layer did not run, or its kernel chose for itself.
    """
    random = torch.Generator().manual_seed(0)
    hooks = [block.register_forward_pre_hook(partial(_randomise, random), with_kwargs=True) for block in blocks]
    seen = {layer: Observation() for layer in layers}
    for layer, steering in layers.items():
        steering.observation = seen[layer]
    try:
        _forward(worker, random)
    finally:
        for steering in layers.values():
            steering.observation = None
        for hook in hooks:
            hook.remove()
    for layer, observation in seen.items():
        if observation.plain is None:
            raise ModelError(f"layer {layer} did not run in a probe forward, so no plan can act there")
        if observation.chosen is None:
            raise ModelError(
                f"the kernel of layer {layer} chooses experts itself, so a plan's effect cannot be proven there; "
                "use one that receives expert ids, by --moe-backend (triton, marlin, cutlass)"
            )
    return seen


def _randomise(
    random: torch.Generator, _module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> Any:  # noqa: ANN401 - torch's signature
    """Replace the hidden states that a block is about to read by normal ones, as a norm leaves them."""

    def draw(value: Any) -> Any:  # noqa: ANN401 - any argument
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=random).to(value)

    return tuple(map(draw, inputs)), {name: draw(value) for name, value in named.items()}


def _forward(worker: Any, random: torch.Generator) -> None:  # noqa: ANN401 - vLLM's own
    from vllm.distributed import get_pp_group  # noqa: PLC0415 - there is a vLLM only where a model is served
    from vllm.forward_context import set_forward_context  # noqa: PLC0415 - as above

    config, runner = worker.vllm_config, worker.model_runner
    n_tokens = min(_PROBE_TOKENS, config.scheduler_config.max_num_batched_tokens)
    ids = torch.randint(config.model_config.get_vocab_size(), (n_tokens,), generator=random).to(worker.device)
    positions = torch.arange(n_tokens, device=worker.device) % config.model_config.max_model_len
    if getattr(runner, "uses_mrope", False):
        positions = positions.expand(3, -1).contiguous()
    model, between = runner.get_model(), None
    if not get_pp_group().is_first_rank:
        between = model.make_empty_intermediate_tensors(n_tokens, config.model_config.dtype, worker.device)
    with set_forward_context(None, config, num_tokens=n_tokens, skip_compiled=True):
        model(input_ids=ids, positions=positions, intermediate_tensors=between, inputs_embeds=None)


def require_effect(
    seen: Mapping[int, Observation], edits: Mapping[int, LayerEdit], name: str, *, everywhere: bool
) -> dict[int, float]:
    """Check what was observed under one row of a plan.

    Args:
        seen: by layer.
        edits: of that row, by layer; those of other stages of a pipeline are left out.
        name: of the row.
        everywhere: whether this process has all layers, so that some must change.

    Returns:
        Layer with an edit -> share of tokens whose set of chosen experts is not the one of the unedited logits.

    Raises:
        PlanError: no chosen expert changed, a token chose a banned expert, or did not choose a forced one.
    """
    changed: dict[int, float] = {}
    for layer, edit in edits.items():
        if edit.is_empty or layer not in seen:
            continue
        plain, chosen = (_ids(seen[layer].plain), _ids(seen[layer].chosen))
        changed[layer] = (plain != chosen).any(-1).float().mean().item()
        _require_promises(layer, edit, chosen)
    if changed and everywhere and not any(changed.values()):
        raise PlanError(
            f"the plan changed no chosen expert of {_PROBE_TOKENS} random tokens ({name}); expected some token to be "
            "routed otherwise: raise the strength, or check layers and experts"
        )
    return changed


def _ids(ids: torch.Tensor | None) -> torch.Tensor:
    assert ids is not None  # noqa: S101 - `observe_layers` has checked it
    return ids.long().sort(-1).values.cpu()


def _require_promises(layer: int, edit: LayerEdit, chosen: torch.Tensor) -> None:
    banned = None if edit.ban is None else edit.ban < 0
    for name, array, expected in (("forced", edit.force_rank, 1.0), ("banned", banned, 0.0)):
        for expert in () if array is None else array.nonzero()[0].tolist():
            share = (chosen == expert).any(-1).float().mean().item()
            if share != expected:
                raise PlanError(
                    f"in layer {layer}, {share:.1%} of random tokens chose expert {expert}, which is {name}; expected "
                    f"{expected:.0%}: this engine undoes the plan, serve another way"
                )
