"""Finds the routers of a model that vLLM has loaded, and refuses those that a plan would not reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from isogloss.backends.families import plain_scoring
from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.backends.vllm.plugin.layer import SteeredLayer
from isogloss.errors import ModelError, PlanError
from isogloss.routing import Fingerprint, RouterSpec, Scoring

__all__ = ["ServedRouter", "find_served_routers", "fingerprint_of"]


@dataclass(frozen=True)
class ServedRouter:
    """One routed layer of a loaded model.

    Attributes:
        layer: 0-based position in the whole decoder stack.
        block: module that holds the router and the runner.
        runner: vLLM's module that runs the experts.
        weight: ``[n_experts, hidden_size]`` of the router.
        linear_bias: ``[n_experts]`` that is added to its product; None where there is none.
        top_k: experts chosen per token.
    """

    layer: int
    block: torch.nn.Module
    runner: Any
    weight: torch.Tensor
    linear_bias: torch.Tensor | None
    top_k: int

    @property
    def n_experts(self) -> int:
        """Routed experts."""
        return int(self.weight.shape[0])

    @property
    def selection_bias(self) -> torch.Tensor | None:
        """``[n_experts]`` that is added to the scores it ranks; None where there is none."""
        bias: torch.Tensor | None = getattr(self.runner.router, "e_score_correction_bias", None)
        return None if bias is None else bias.detach()

    @property
    def kernel(self) -> str:
        """Name of the class that runs the experts."""
        method = self.runner.routed_experts.quant_method
        experts = getattr(getattr(method, "moe_kernel", None), "fused_experts", None)
        return type(method if experts is None else experts).__name__

    def reference(self, model_type: str, *, always: bool = False) -> tuple[RouterSpec, torch.Tensor | None] | None:
        """Return the spec and bias of a router that adds a bias to its scores or leaves groups out; None for another.

        Args:
            model_type: of the model; its family says whether a router without a bias ranks scores or logits.
            always: return those of every router.

        Raises:
            ModelError: it chooses in a way that is not known here.
        """
        router = self.runner.router
        bias = self.selection_bias
        grouped = getattr(router, "use_grouped_topk", True) and getattr(router, "num_expert_group", None)
        n_groups = int(grouped or 1)
        if bias is None and n_groups == 1 and not always:
            return None
        if getattr(router, "custom_routing_function", None) is not None:
            raise self._unknown("brings a routing function of its own")
        fused = getattr(router, "num_fused_shared_experts", 0) or getattr(self.runner, "_fse_fuse_gate", False)
        if fused or getattr(router, "_hash_indices_table", None) is not None:
            raise self._unknown("fuses shared experts or routes by token ids")
        plain = bias is None and n_groups == 1
        spec = RouterSpec(
            layer=self.layer,
            n_experts=self.n_experts,
            top_k=self.top_k,
            scoring=self._plain_scoring(model_type) if plain else router.scoring_func,
            renormalise=bool(router.renormalize),
            selection_bias=bias is not None,
            n_groups=n_groups,
            top_groups=int(router.topk_group) if n_groups > 1 else 1,
            group_score="max" if bias is None else "top2_sum",
            scaling=float(getattr(router, "routed_scaling_factor", 1.0)),
        )
        return spec, bias

    def _plain_scoring(self, model_type: str) -> Scoring:
        router = self.runner.router
        try:
            return plain_scoring(model_type, router.scoring_func, renormalises=bool(router.renormalize))
        except ModelError as error:
            raise self._unknown(str(error)) from None

    def _unknown(self, what: str) -> ModelError:
        return ModelError(
            f"layer {self.layer}: {type(self.runner.router).__name__} {what}; expected a router that chooses by logits "
            "alone in a way known here, to force, ban or select experts there"
        )


def find_served_routers(model: torch.nn.Module) -> dict[int, ServedRouter]:
    """Find every routed layer of a model, by decoder layer, ascending.

    Args:
        model: as vLLM has loaded it; of a pipeline, the stage of this process.

    Raises:
        ModelError: there is none, or one is run by a class that edits do not reach.
    """
    routers: dict[int, ServedRouter] = {}
    for name, module in model.named_modules():
        if not any(cls.__name__ == "MoERunner" for cls in type(module).__mro__):
            continue
        runner: Any = module
        layer = int(runner.layer_id)
        if SteeredLayer not in type(runner).__mro__:
            raise ModelError(
                f"layer {layer} is run by {type(runner).__name__}, which plans do not reach; expected vLLM's "
                "MoERunner: serve the model with vLLM's own implementation (--model-impl vllm)"
            )
        if not hasattr(runner.router, "_compute_routing") or "Simulator" in type(runner.router).__name__:
            raise ModelError(f"layer {layer} is routed by {type(runner.router).__name__}; expected a router of logits")
        if layer in routers:
            raise ModelError(f"layer {layer} has two routed parts, {name} the second; expected one per layer")
        block = model.get_submodule(name.rpartition(".")[0])
        gate = _gate(block, runner, layer)
        routers[layer] = ServedRouter(
            layer, block, runner, _matrix(gate), gate.bias, int(runner.moe_config.experts_per_token)
        )
    if not routers:
        raise ModelError(
            f"{type(model).__name__} has no layer that vLLM's MoERunner runs; expected a Mixture-of-Experts model"
        )
    return dict(sorted(routers.items()))


def _gate(block: torch.nn.Module, runner: Any, layer: int) -> Any:  # noqa: ANN401 - vLLM's own
    """Return the one linear layer beside the experts that has an output for each of them."""
    n_experts = int(runner.moe_config.num_logical_experts)
    experts = set(runner.routed_experts.modules())
    gates: list[Any] = [
        module
        for module in block.modules()
        if getattr(module, "output_size", None) == n_experts and module not in experts
    ]
    if len(gates) != 1 or "Unquantized" not in type(gates[0].quant_method).__name__:
        methods = ", ".join(type(gate.quant_method).__name__ for gate in gates) or "none"
        raise ModelError(
            f"layer {layer}: found {methods} beside the experts; expected one linear layer with {n_experts} outputs, "
            "the router, not quantised: leave routers out of the quantisation"
        )
    return gates[0]


@torch.inference_mode()
def _matrix(linear: Any) -> torch.Tensor:  # noqa: ANN401 - vLLM's own
    """Return the matrix ``[n_outputs, n_inputs]`` of a linear layer, also where its kernel keeps only a packed one."""
    weight: torch.Tensor = linear.weight.detach()
    if weight.shape == (linear.output_size, linear.input_size):
        return weight
    # Products with unit vectors give the columns exactly: one factor is 1, all other terms are 0.
    units = torch.eye(linear.input_size, dtype=linear.params_dtype, device=weight.device)
    columns: torch.Tensor = linear.quant_method.apply(linear, units, None)
    return columns.T.contiguous()


def fingerprint_of(model_type: str, routers: Mapping[int, ServedRouter]) -> Fingerprint:
    """Return what a plan must agree with, over all stages of a pipeline.

    Raises:
        PlanError: layers differ in n_experts or top_k.
    """
    rows = [
        (layer, router.n_experts, router.top_k, router_bytes(router.weight, router.linear_bias, router.selection_bias))
        for layer, router in routers.items()
    ]
    rows = sorted(_of_all_stages(rows), key=lambda row: row[0])
    sizes = {(n_experts, top_k) for _, n_experts, top_k, _ in rows}
    if len(sizes) != 1:
        raise PlanError(f"layers have (n_experts, top_k) {sorted(sizes)}; a plan needs one for all")
    n_experts, top_k = sizes.pop()
    layers, contents = [row[0] for row in rows], (row[-1] for row in rows)
    return router_fingerprint(model_type, layers, n_experts=n_experts, top_k=top_k, contents=contents)


def _of_all_stages(rows: list[Any]) -> list[Any]:
    """Gather what every stage of a pipeline has."""
    from vllm.distributed import get_pp_group  # noqa: PLC0415 - there is a vLLM only where a model is served

    group = get_pp_group()
    if group.world_size == 1:
        return rows
    gathered: list[Any] = [None] * group.world_size
    torch.distributed.all_gather_object(gathered, rows, group=group.cpu_group)
    return [row for stage in gathered for row in stage]
