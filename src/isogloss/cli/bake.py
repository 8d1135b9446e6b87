"""`bake`: a checkpoint that is steered in any engine, without a plugin."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_json, add_loading, add_output
from isogloss.cli.output import print_json, print_line

if TYPE_CHECKING:
    from isogloss.backends.bake import Baked

__all__ = ["register_bake"]

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def register_bake(subparsers: Subparsers) -> None:
    """Add `bake`."""
    parser = subparsers.add_parser("bake", help="write a checkpoint with a plan's offsets added to its routers' biases")
    parser.add_argument("model", metavar="MODEL", help="hub id or folder of a model whose router logits have a bias")
    parser.add_argument(
        "--plan", type=Path, required=True, metavar="PLAN.json", help="a plan with only offset interventions"
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="only check the files, without loading and comparing the model and its copy",
    )
    add_loading(parser)
    add_output(parser, "folder of the checkpoint, new or empty")
    add_json(parser)
    parser.set_defaults(command=_bake)


def _bake(options: argparse.Namespace) -> None:
    from isogloss.backends.bake import bake_plan
    from isogloss.steering import read_plan
    from isogloss.workflows.progress import busy

    plan = read_plan(options.plan)
    loading = {name: getattr(options, name) for name in ("dtype", "device", "dequantize")}
    verify = not options.no_verify
    baked = bake_plan(options.model, plan, options.output, verify=verify, loading=loading, busy=busy)
    if options.json:
        print_json(baked.to_json())
    else:
        _show(baked)


def _show(baked: Baked) -> None:
    """Say how exact the copy is, what it lacks, and where it lies, last."""
    dtype, rounding = _DTYPES[baked.dtype], baked.largest_rounding
    how = "exact" if not rounding else f"exact up to rounding to {dtype}, at most {rounding:.2g} logits"
    print_line(f"plan {baked.plan_sha256[:12]} is in the {dtype} biases of {baked.n_layers} routers: {how}")
    if (found := baked.verification) is None:
        print_line("not verified: the written biases were read back, but no model was loaded")
    else:
        print_line(
            f"verified on {found.n_texts} texts ({found.n_tokens} tokens): router logits equal the steered ones up to "
            f"rounding, the largest difference is {found.largest_difference:.2g}"
        )
    if baked.left_out:
        print_line(f"left out, since these weights are not steered: {', '.join(baked.left_out)}")
    print_line(str(baked.path))
