"""`bake`: what any engine serves, steered, without a plugin."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
import functools
import operator
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.backends.bake_forms import FORMS
from isogloss.cli.options import Subparsers, add_json, add_loading, add_output, number
from isogloss.cli.output import print_json, print_line

if TYPE_CHECKING:
    from isogloss.backends.bake import Baked
    from isogloss.steering import Plan, RouterAdapter

__all__ = ["register_bake"]

_SHOWN = 5e-5  # of what is shown in hundredths of a percent
_ADDED_TO = {"logit bias": "logit", "selection bias": "score"}
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def register_bake(subparsers: Subparsers) -> None:
    """Add `bake`."""
    parser = subparsers.add_parser("bake", help="write a plan or an adapter in a form that any engine serves")
    parser.add_argument("model", metavar="MODEL", help="hub id or folder of a model, or its GGUF file")
    parser.add_argument(
        "--plan",
        "--adapter",
        dest="changes",
        type=Path,
        action="append",
        required=True,
        metavar="PLAN",
        help="an adapter, several of which add up; or a plan for all requests: of kind offset for a model whose router "
        "logits have a bias, of kind select for one with a selection bias (`isogloss models` says which has what)",
    )
    parser.add_argument("--scale", type=number(), default=1.0, help="factor on the adapter (default 1)")
    parser.add_argument(
        "--as",
        dest="form",
        choices=tuple(FORMS),
        help="the whole checkpoint (default), an adapter for PEFT, vLLM or llama.cpp, or the whole GGUF file (default "
        "for a GGUF file)",
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="checkpoint: only check the files, without loading and comparing the model and its copy",
    )
    add_loading(parser)
    add_output(parser, "folder, new or empty; of GGUF a file that does not exist")
    add_json(parser)
    parser.set_defaults(command=_bake)


def _bake(options: argparse.Namespace) -> None:
    from isogloss.backends.bake import bake
    from isogloss.progress import busy

    loading = {name: getattr(options, name) for name in ("dtype", "device", "dequantize")}
    verify = not options.no_verify
    baked = bake(
        options.model, _change(options), options.output, form=options.form, verify=verify, loading=loading, busy=busy
    )
    if options.json:
        print_json(baked.to_json())
    else:
        _show(baked)


def _change(options: argparse.Namespace) -> Plan | RouterAdapter:
    """Read what is to be baked: a plan, or the sum of all adapters, scaled."""
    from isogloss.errors import PlanError
    from isogloss.steering import Plan, read_steering

    first, *more = [read_steering(path) for path in options.changes]
    adapters = [each for each in (first, *more) if not isinstance(each, Plan)]
    if isinstance(first, Plan) and not more:
        if options.scale != 1:
            raise PlanError("--scale is a factor on an adapter; found a plan: give the strength to `isogloss plan`")
        return first
    if len(adapters) <= len(more):
        raise PlanError("--plan names a plan beside others; expected one plan, or adapters: unite plans by `--into`")
    return functools.reduce(operator.add, adapters).scaled(options.scale)


def _show(baked: Baked) -> None:
    """Print how exact what was written is, what it lacks, and its path, last."""
    dtype, rounding, loader = _DTYPES[baked.dtype], baked.largest_rounding, FORMS[baked.form]
    how = f"exact up to rounding to {dtype}" if rounding else "exact"
    if rounding and baked.change == "plan":
        how += f", at most {rounding:.2g} of a {' or '.join(_ADDED_TO[part] for part in baked.parts)}"
    if baked.lost_share >= _SHOWN:
        how += f", which loses {baked.lost_share:.2%} of the change"
    place = f"written for {loader}, for the {_tensors(baked)}" if loader else f"in the {dtype} {_tensors(baked)}"
    print_line(f"{baked.change} {baked.sha256[:12]} is {place} of {baked.n_layers} routers: {how}")
    if baked.form == "checkpoint":
        _show_verification(baked)
    if baked.left_out:
        print_line(f"left out, since these weights are not steered: {', '.join(baked.left_out)}")
    if baked.serve is not None:
        print_line(f"serve it: {baked.serve}")
    print_line(str(baked.path))


def _tensors(baked: Baked) -> str:
    return " and ".join(part.replace("bias", "biase") + "s" for part in baked.parts)


def _show_verification(baked: Baked) -> None:
    if (check := baked.verification) is None:
        print_line(f"not verified: the written {_tensors(baked)} were read back, but no model was loaded")
        return
    print_line(
        f"verified on {check.n_texts} texts ({check.n_tokens} tokens): the {baked.change} changes router logits by up "
        f"to {check.largest_change:.2g} and {check.changed_choices:.2%} of the choices of experts; the copy differs "
        f"from that by at most {check.largest_difference:.2g} and in {check.different_choices:.2%}, by rounding alone"
    )
