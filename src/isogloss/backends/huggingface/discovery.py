"""Finds the routers of a loaded model by its structure, and reads how they choose.

The library declares which modules record router logits; where they lie in the decoder stack, what they weigh and which
flags, biases, groups and factors they carry is read from the modules and the configuration. The family's row must
agree; where it does not, the model is refused, since one of the two is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from packaging.version import Version
from transformers import PretrainedConfig, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.utils.output_capturing import OutputRecorder

from isogloss.backends.families import FAMILIES, REFUSED, Family
from isogloss.backends.huggingface.classes import class_of
from isogloss.backends.huggingface.devices import fetched
from isogloss.backends.huggingface.weights import is_wrapped
from isogloss.errors import ModelError
from isogloss.routing import RouterSpec

__all__ = ["Router", "find_routers", "model_without_weights", "refuse_known"]

_TOP_K = ("top_k", "top_k_experts")
_SCALINGS = ("routed_scaling_factor", "route_scale", "router_scaling_factor")
_SCORINGS = {"softmax": "topk_softmax", "sigmoid": "topk_sigmoid"}


@dataclass(frozen=True)
class Router:
    """One router module and how it chooses.

    Attributes:
        module: the router.
        block: the module that holds it and, mostly, its experts.
        spec: how it chooses.
        family: the row it agrees with.
        weight_name: of the parameter whose product with the hidden states gives the logits.
        bias_name: of the selection bias, on the router or the block; None for none.
    """

    module: torch.nn.Module
    block: torch.nn.Module
    spec: RouterSpec
    family: Family
    weight_name: str
    bias_name: str | None

    @cached_property
    def weight_shape(self) -> torch.Size:
        """Shape of the weight, known also where it is offloaded."""
        return self.module.get_parameter(self.weight_name).shape

    @property
    def device(self) -> torch.device | None:
        """Where the weight lies; None where it is offloaded."""
        weight = self.module.get_parameter(self.weight_name)
        return None if weight.is_meta else weight.device

    def weight(self) -> torch.Tensor:
        """Return the router's weight ``[n_experts (+ n_extra), hidden]``, fetched where it is offloaded."""
        return self._parameter(self.weight_name)

    @property
    def linear_bias_name(self) -> str | None:
        """Name, in the router, of a bias that is added to that product; None where there is none."""
        owner, _, _ = self.weight_name.rpartition(".")
        name = f"{owner}.bias" if owner else "bias"
        tensor = _tensor(self.module, name)
        return name if tensor is not None and tensor.shape == self.weight_shape[:1] else None

    def linear_bias(self) -> torch.Tensor | None:
        """Return ``[n_experts (+ n_extra)]``, or None, fetched where it is offloaded."""
        return None if self.linear_bias_name is None else self._parameter(self.linear_bias_name)

    def selection_bias(self) -> npt.NDArray[np.float32] | None:
        """Return ``[n_experts]``, or None."""
        return None if self.bias_name is None else self._vector(self.bias_name)

    @property
    def held_bias(self) -> torch.Tensor | None:
        """The tensor of the selection bias that the router's forward reads now; an offloaded one is another each time.

        None where the router has no selection bias.
        """
        if self.bias_name is None:
            return None
        bias: torch.Tensor = getattr(self._bias_owner, self.bias_name.rpartition(".")[2])
        return bias

    @cached_property
    def _bias_owner(self) -> torch.nn.Module:
        return self._owner(self.bias_name or "")

    def expert_scale(self) -> npt.NDArray[np.float32] | None:
        """Return ``[n_experts]``, or None; 0 for a class that skips the layer."""
        if self.family.returns == "skipping":
            return np.append(np.ones(self.spec.n_experts - 1, dtype=np.float32), np.float32(0))
        return None if self.family.expert_scale is None else self._vector(self.family.expert_scale)

    def _parameter(self, name: str) -> torch.Tensor:
        with fetched(self._owner(name)):
            parameter = self.module.get_parameter(name).detach()
            if parameter.is_meta:
                raise ModelError(f"the router of layer {self.spec.layer} has no weights (meta device); load them first")
            return parameter.clone()

    def holder(self, name: str) -> torch.nn.Module:
        """Return the module under which a tensor has this name: the router, or the block where the router has none."""
        return self.module if _tensor(self.module, name) is not None else self.block

    def tensor(self, name: str) -> torch.Tensor:
        """Return the router's or block's own tensor, as it is."""
        tensor = _tensor(self.holder(name), name)
        assert tensor is not None  # noqa: S101 - `find_routers` saw it
        return tensor

    def _vector(self, name: str) -> npt.NDArray[np.float32]:
        with fetched(self._owner(name)):
            return self.tensor(name).detach().float().reshape(-1).cpu().numpy()

    def _owner(self, name: str) -> torch.nn.Module:
        return self.holder(name).get_submodule(name.rpartition(".")[0])


def _family_of(model: PreTrainedModel) -> Family:
    """Return the row of a model.

    Raises:
        ModelError: the model has no routers, or is of a family that is refused or unknown.
    """
    model_type = model.config.get_text_config().model_type
    if (family := FAMILIES.get(model_type)) is not None:
        if Version(transformers_version) < Version(family.since):
            raise ModelError(
                f"transformers {transformers_version} has other routers for {model_type}; expected {family.since} or "
                "later: install it"
            )
        return family
    refuse_known(model.config)
    declared = sorted(_declared_classes(model))
    known = f"it declares routers of class {', '.join(declared)}, but no row says how they choose"
    raise ModelError(
        f"model type {model_type!r} is not supported: {known if declared else 'it has no routers'}; "
        f"supported are {', '.join(sorted(FAMILIES))}"
    )


def refuse_known(config: PretrainedConfig) -> None:
    """Refuse a model type that is known and not supported, before its weights are read.

    Raises:
        ModelError: says why.
    """
    for model_type in (config.model_type, config.get_text_config().model_type):
        if model_type in REFUSED:
            raise ModelError(
                f"model type {model_type!r} is not supported: {REFUSED[model_type]}; see `isogloss models`"
            )


def model_without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """Build the model of a configuration on the meta device, in which `find_routers` finds what needs no weight.

    Raises:
        ModelError: as of `refuse_known`.
    """
    refuse_known(config)
    auto, part = class_of(config)
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(part)
    return model


def find_routers(model: PreTrainedModel) -> tuple[Router, ...]:
    """Find every router of the decoder stack, at least one, by decoder layer; dense layers have none.

    Raises:
        ModelError: the model is of a family that is refused or unknown; or what it declares or holds is not what the
            family's row says.
    """
    family = _family_of(model)
    declared = _declared_classes(model)
    inside = (child for module in model.modules() if type(module).__name__ in declared for child in module.modules())
    if family.router_class not in {type(child).__name__ for child in inside}:
        raise _disagreement(family, f"the library declares {sorted(declared)}", f"router class {family.router_class}")
    stacks: set[str] = set()
    routers = []
    for name, module in model.named_modules():
        if type(module).__name__ != family.router_class:
            continue
        stack, layer, path = _place(name, family)
        if path in family.other_routers:
            continue
        if path != family.path:
            raise _disagreement(family, f"a router lies at {path} of layer {layer}", family.path)
        stacks.add(stack)
        block = model.get_submodule(name.rpartition(".")[0])
        routers.append(_read_router(module, block, family, model.config.get_text_config(), layer=layer))
    if not routers:
        raise ModelError(f"no {family.router_class} in any layer: this {family.model_type} checkpoint is all dense")
    if len(stacks) > 1:
        raise _disagreement(family, f"routers lie in {sorted(stacks)}", "one decoder stack")
    _require_equal_sizes(routers)
    return tuple(sorted(routers, key=lambda router: router.spec.layer))


def _declared_classes(model: PreTrainedModel) -> set[str]:
    """Names of the classes whose output the library records as router logits."""
    names = set()
    for module in model.modules():
        recorders = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits", ())
        for recorder in recorders if isinstance(recorders, list | tuple) else (recorders,):
            target = recorder.target_class if isinstance(recorder, OutputRecorder) else recorder
            names.add(target.__name__)
    return names


def _place(name: str, family: Family) -> tuple[str, int, str]:
    """Split a module's name at the outermost index: decoder stack, layer, path inside the layer."""
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[:position]), int(part), ".".join(parts[position + 1 :])
    raise _disagreement(family, f"the router {name} lies in no list of layers", "decoder layers")


def _read_router(module: Any, block: Any, family: Family, config: Any, *, layer: int) -> Router:  # noqa: ANN401
    """Read one router's sizes, flags, bias, groups and factors; attributes differ by family."""
    weight_name = _weight_name(module, family)
    n_experts = module.get_parameter(weight_name).shape[0] - (getattr(module, family.n_extra) if family.n_extra else 0)
    bias_name = _bias_name(module, block, family, n_experts)
    n_groups, top_groups = _groups(module, family)
    spec = RouterSpec(
        layer=layer,
        n_experts=n_experts,
        top_k=_first(_TOP_K, module, block, config),
        scoring=family.scoring or _scoring(module, config, family),
        renormalise=_renormalise(module, block, family),
        selection_bias=bias_name is not None,
        n_groups=n_groups,
        top_groups=top_groups,
        group_score=family.group_score or "max",
        others_score_zero=family.others_score_zero and n_groups > 1,
        scaling=1.0 if family.returns == "shared" else float(_first(_SCALINGS, module, default=1.0)),
        expert_scale=family.expert_scale is not None or family.returns == "skipping",
        jitter=float(getattr(module, "router_jitter_noise", 0.0)) if family.scoring == "sparsemixer" else 0.0,
    )
    return Router(module, block, spec, family, weight_name, bias_name)


def _weight_name(module: torch.nn.Module, family: Family) -> str:
    matrices = [name for name, parameter in module.named_parameters() if parameter.ndim == 2]  # noqa: PLR2004
    if family.weight is None and len(matrices) == 1:
        name = matrices[0]
    elif family.weight in matrices:
        name = family.weight
    else:
        raise _disagreement(family, f"the router's matrices are {matrices}", family.weight or "one matrix")
    weight = module.get_parameter(name)
    # 8-bit floats have scales apart; torchao and quanto wrap what they quantise in a tensor that calls itself a float.
    if is_wrapped(weight) or not weight.is_floating_point() or weight.itemsize == 1:
        raise ModelError(
            f"the router's {name} is quantised; expected floating point, which alone can be read and steered: leave "
            "routers out of the quantisation (llm_int8_skip_modules of bitsandbytes, modules_to_not_convert elsewhere)"
        )
    return name


def _bias_name(module: torch.nn.Module, block: torch.nn.Module, family: Family, n_experts: int) -> str | None:
    """Find vectors named as a bias on the router or directly on its block, apart from that of a linear layer."""
    names = {name for name, tensor in _tensors(module, recurse=True) if _is_bias(name, tensor, n_experts)}
    names |= {name for name, tensor in _tensors(block, recurse=False) if _is_bias(name, tensor, n_experts)}
    if names - {family.selection_bias}:
        raise _disagreement(family, f"the router has the bias {sorted(names)}", str(family.selection_bias))
    return names.pop() if names else None


def _is_bias(name: str, tensor: torch.Tensor, n_experts: int) -> bool:
    return "bias" in name and name.rpartition(".")[2] != "bias" and tensor.numel() == n_experts


def _groups(module: Any, family: Family) -> tuple[int, int]:  # noqa: ANN401 - attributes differ by family
    n_groups = getattr(module, "num_group", None) or 1
    if n_groups == 1 or getattr(module, "topk_method", None) == "greedy":
        return 1, 1
    if family.group_score is None:
        raise _disagreement(family, f"the router has {n_groups} groups of experts", "none")
    return int(n_groups), int(module.topk_group)


def _renormalise(module: Any, block: Any, family: Family) -> bool:  # noqa: ANN401 - attributes differ by family
    flag = getattr(module, "norm_topk_prob", None)
    if hasattr(block, "moe_normalize_expert_weights"):
        flag = block.moe_normalize_expert_weights is not None
        if flag and block.moe_normalize_expert_weights != 1:
            raise _disagreement(family, f"weights are divided by norm {block.moe_normalize_expert_weights}", "norm 1")
    if (flag is None) == (family.renormalise is None):
        raise _disagreement(family, f"the router's flag for renormalising is {flag}", str(family.renormalise))
    return bool(flag if family.renormalise is None else family.renormalise)


def _scoring(module: Any, config: Any, family: Family) -> Any:  # noqa: ANN401 - attributes differ by family
    if (name := getattr(module, "expert_selection_fn", None)) is not None:
        return _SCORINGS[name]
    name = getattr(config, "scoring_func", None)
    if name not in ("softmax", "sigmoid", "sqrtsoftplus"):
        raise _disagreement(family, f"scoring_func is {name!r}", "softmax, sigmoid or sqrtsoftplus")
    return name


def _first(names: tuple[str, ...], *holders: Any, default: Any = None) -> Any:  # noqa: ANN401 - as above
    values = (getattr(holder, name, None) for holder in holders for name in names)
    return next((value for value in values if value is not None), default)


def _require_equal_sizes(routers: list[Router]) -> None:
    sizes = {(router.spec.n_experts, router.spec.top_k) for router in routers}
    if len(sizes) > 1:
        raise ModelError(
            f"the layers have different numbers of experts or choices (n_experts, top_k): {sorted(sizes)}; "
            "a Run holds one number for all layers"
        )


def _disagreement(family: Family, observed: str, expected: str) -> ModelError:
    return ModelError(
        f"this {family.model_type} is not the family that isogloss knows: {observed}; expected {expected}. "
        "Another version of transformers may have changed it; `isogloss models` names the versions that are proven"
    )


def _tensors(module: torch.nn.Module, *, recurse: bool) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)


def _tensor(module: torch.nn.Module, name: str) -> torch.Tensor | None:
    return dict(_tensors(module, recurse=True)).get(name)
