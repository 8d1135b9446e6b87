"""Writes a plan or an adapter in the form that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from isogloss.backends.bake.baked import Baked, bake_checkpoint
from isogloss.backends.bake.edits import Change, require_constants
from isogloss.backends.bake.gguf import bake_gguf, write_gguf_adapter
from isogloss.backends.bake.gguf_file import is_gguf
from isogloss.backends.bake.peft import write_peft, write_vllm
from isogloss.backends.bake_forms import FORMS
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Plan

__all__ = ["bake"]

_OF_GGUF = ("gguf-lora", "gguf")


def bake(  # noqa: PLR0913 - options that every caller names
    model: str,
    change: Change,
    output: Path,
    *,
    form: str | None = None,
    verify: bool = True,
    loading: Mapping[str, Any] | None = None,
    busy: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Baked:
    """Write a plan or an adapter in a form that engines serve without any code of ours.

    Args:
        model: hub id or folder, or ``organism``; for the forms of GGUF the model's GGUF file.
        change: an adapter; or, for the forms ``checkpoint`` and ``gguf``, a plan without conditions, of kind ``offset``
            for routers whose logits have a bias, and of kind ``select`` for those with a selection bias.
        output: a folder that does not exist or is empty; for the forms of GGUF a file that does not exist.
        form: one of `isogloss.backends.bake_forms.FORMS`; by default ``gguf`` for a GGUF file, else ``checkpoint``.
        verify: of the form ``checkpoint``: load and compare the model and its copy.
        loading: how they are then loaded: arguments of `isogloss.backends.huggingface.load_model`.
        busy: makes a context that shows what runs inside it.

    Raises:
        PlanError: the plan or adapter is for another model, or has no place in that form.
        ModelError: the model is not of the kind that the form needs, is damaged, or is being written.
        FileError: the output is in use, or cannot be written.
    """
    path = Path(model)
    of_gguf = path.is_file() and (is_gguf(path) or path.suffix == ".gguf")
    form = form or ("gguf" if of_gguf else "checkpoint")
    if form not in FORMS:
        raise ModelError(f"there is no form {form!r}; choose {', '.join(FORMS)}")
    if isinstance(change, Plan) and FORMS[form] is not None:
        raise _no_adapter(change, form)
    if (form in _OF_GGUF) != of_gguf:
        kind = "a GGUF file" if of_gguf else "no GGUF file"
        wanted = "the model's GGUF file" if form in _OF_GGUF else "a hub id or folder of a checkpoint"
        raise ModelError(f"{model} is {kind}; expected {wanted} for --as {form}")
    if of_gguf:
        _require_not_loaded(form, verify=verify, loading=loading or {})
    if form == "gguf":
        return bake_gguf(path, change, output)
    if form == "checkpoint":
        return bake_checkpoint(model, change, output, verify=verify, loading=loading, busy=busy)
    assert not isinstance(change, Plan)  # noqa: S101 - refused above
    if form == "gguf-lora":
        return write_gguf_adapter(path, change, output)
    return (write_peft if form == "peft" else write_vllm)(model, change, output)


def _no_adapter(plan: Plan, form: str) -> PlanError:
    """Say why a plan has no form of an adapter, and what to write instead."""
    if all(each.kind == "offset" for each in plan.interventions):
        return PlanError(f"a plan cannot be written as {form}; expected an adapter: make one with `isogloss adapt`")
    require_constants(plan)
    return PlanError(
        f"a plan cannot be written as {form}, and one of kind select has no adapter: write it with --as checkpoint, or "
        "with --as gguf for a GGUF file"
    )


def _require_not_loaded(form: str, *, verify: bool, loading: Mapping[str, Any]) -> None:
    """Raise a ModelError for options of loading a model: of a GGUF file none is loaded."""
    given = [f"--{name}" for name, value in loading.items() if value and (name, value) != ("dtype", "auto")]
    if given := [*given, *(() if verify else ("--no-verify",))]:
        raise ModelError(
            f"{' and '.join(given)}: of checkpoints alone, which are loaded and compared; found --as {form}, which "
            "loads no model: leave out what is not for it"
        )
