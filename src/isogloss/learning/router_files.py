"""Trained routers alone, as a small file that fits the model they were trained on and no other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from isogloss.backends.huggingface import Router, find_routers, fingerprint_of, unwrapped
from isogloss.errors import ModelError, RunError
from isogloss.files import sha256, write_atomically
from isogloss.routing import Fingerprint

__all__ = ["load_routers", "trainable", "write_routers"]

_KIND = "isogloss_routers"


def trainable(model: Any, what: str) -> tuple[str, ...]:  # noqa: ANN401 - of transformers, or a wrapper
    """Choose which weights are trained; all others are frozen.

    Args:
        model: of transformers, of a supported family, perhaps inside PEFT.
        what: ``routers``, ``routers:A-B`` for those of decoder layers A to B, inclusive, or ``all``. A router's
            selection bias, which has no gradient, stays frozen.

    Returns:
        Names of the parameters that are trained.

    Raises:
        ModelError: as of `RoutingAlignment`.
        RunError: ``what`` is none of these, or no routed layer lies in the range.
    """
    core = unwrapped(model)
    routers = find_routers(core)
    kind, _, span = what.partition(":")
    if kind not in ("routers", "all") or (span and kind == "all"):
        raise RunError(f"trainable {what!r}; expected 'routers', 'routers:A-B' with decoder layers, or 'all'")
    first, last = _span(what, span) if span else (routers[0].spec.layer, routers[-1].spec.layer)
    chosen = [router for router in routers if first <= router.spec.layer <= last]
    if not chosen:
        raise RunError(
            f"no routed layer from {first} to {last}; the model routes {routers[0].spec.layer} to "
            f"{routers[-1].spec.layer}"
        )
    own = {id(parameter) for router in chosen for _, parameter in _parameters(router)}
    biases = {id(parameter) for router in routers for parameter in _biases(router)}
    names = []
    for name, parameter in core.named_parameters():
        trained = id(parameter) in own if kind == "routers" else id(parameter) not in biases
        parameter.requires_grad_(trained and parameter.is_floating_point())
        if parameter.requires_grad:
            names.append(name)
    return tuple(names)


def write_routers(path: Path, model: torch.nn.Module, routers: Sequence[Router], before: Fingerprint) -> None:
    """Write all routers of a model of which nothing else is trained.

    Args:
        path: of the file.
        model: the class of transformers itself.
        routers: its routers.
        before: fingerprint before they were trained.

    Raises:
        ModelError: other weights are trained too.
        FileError: the file cannot be written.
    """
    own = {id(parameter) for router in routers for _, parameter in _parameters(router)}
    others = [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in own]
    if others:
        raise ModelError(
            f"{len(others)} other weights are trained too, {others[0]} first, so the routers alone are not this model; "
            "save the model itself (save_pretrained)"
        )
    tensors = {
        f"{router.spec.layer}.{name}": parameter.detach().cpu().contiguous().clone()
        for router in routers
        for name, parameter in _parameters(router)
    }
    after = fingerprint_of(routers)
    described = {"before": before.to_json(), "after": after.to_json(), "sha256": sha256(save(tensors))}
    # One entry, since the library writes several in no fixed order.
    write_atomically(path, save(tensors, metadata={_KIND: json.dumps(described)}))


def load_routers(model: Any, path: Path | str) -> None:  # noqa: ANN401 - of transformers, or a wrapper
    """Put routers that `RoutingAlignment.save_routers` has written into the model that they were trained on.

    Args:
        model: as it was before the training, in any dtype.
        path: of the file.

    Raises:
        RunError: the file is missing, damaged, or holds something else.
        ModelError: the model's routers are not those that were trained; nothing has changed then.
    """
    before, after, tensors = _read(Path(path))
    routers = find_routers(unwrapped(model))
    differences = before.differences(fingerprint_of(routers))
    if differences:
        raise ModelError(
            f"{path}: these routers were trained on another model, differing in {', '.join(differences)}; load the "
            "checkpoint that was trained"
        )
    own = {f"{router.spec.layer}.{name}": each for router in routers for name, each in _parameters(router)}
    shapes = {name: tuple(each.shape) for name, each in own.items()}
    if shapes != {name: tuple(each.shape) for name, each in tensors.items()}:
        raise RunError(f"{path} does not hold the router weights of this model; expected {', '.join(shapes)}")
    untrained = {name: parameter.detach().clone() for name, parameter in own.items()}
    _put(own, tensors)
    if differences := after.differences(fingerprint_of(routers)):
        _put(own, untrained)
        raise ModelError(
            f"{path}: the routers differ after loading in {', '.join(differences)}; load the model in the dtype that "
            "was trained"
        )


def _put(own: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def _read(path: Path) -> tuple[Fingerprint, Fingerprint, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(_KIND)
            if written is None:
                raise RunError(f"{path} holds no routers of isogloss; expected a file of RoutingAlignment.save_routers")
            described = json.loads(written)
            before, after = (Fingerprint.from_json(described[name]) for name in ("before", "after"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if sha256(save(tensors)) != described["sha256"]:
                raise RunError(f"{path} is damaged: its weights are not those that were written; fetch it again")
            return before, after, tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read as routers: {error}; expected a file of RoutingAlignment.save_routers"
        ) from error


def _span(what: str, span: str) -> tuple[int, int]:
    first, dash, last = span.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise RunError(f"trainable {what!r}; expected layers as in 'routers:4-9'")
    return int(first), int(last)


def _biases(router: Router) -> list[torch.nn.Parameter]:
    holders = (router.module, router.block)
    own = [dict(holder.named_parameters(recurse=holder is router.module)) for holder in holders]
    return [named[router.bias_name] for named in own if router.bias_name in named]


def _parameters(router: Router) -> list[tuple[str, torch.nn.Parameter]]:
    """Return a router's parameters that a gradient can reach, by name."""
    biases = {id(bias) for bias in _biases(router)}
    return [
        (name, each)
        for name, each in router.module.named_parameters()
        if each.is_floating_point() and id(each) not in biases
    ]
