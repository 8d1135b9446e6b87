"""`doctor`: what a person runs first on a checkpoint of their own."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.backends.open import BACKENDS
from isogloss.cli.against import add_against, compare_against, refuse_without_against
from isogloss.cli.options import (
    Subparsers,
    add_backend,
    add_corpus,
    add_json,
    add_loading,
    add_model,
    loading_options,
)
from isogloss.cli.output import print_json, print_line
from isogloss.errors import CorpusError, ModelError, PlanError

if TYPE_CHECKING:
    from isogloss.workflows import Diagnosis

__all__ = ["register_doctor"]

_CHECK_FAILED = 1


def register_doctor(subparsers: Subparsers) -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser("doctor", help="check that capture and steering work correctly on a model")
    add_model(parser, unless="--server")
    parser.add_argument(
        "--server",
        metavar="URL",
        help="ask a running server of vLLM or llama.cpp, such as http://localhost:8000, whether an adapter acts there, "
        "and on its own requests alone",
    )
    parser.add_argument(
        "--adapter", metavar="NAME", help="the adapter, as the server names it; default: the only one that it has"
    )
    parser.add_argument(
        "--plan", type=Path, metavar="PLAN", help="test this plan or router adapter instead of a built-in plan"
    )
    parser.add_argument("--language", metavar="L", help="test the plan's interventions for this language")
    add_corpus(parser, required=False, purpose="estimate its capture, or compare two versions on it: ")
    add_against(parser)
    add_backend(parser)
    add_loading(parser)
    add_json(parser)
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.against is not None:
        return compare_against(options)
    refuse_without_against(options)
    if options.server is not None:
        return _ask_server(options)
    if options.model is None:
        raise ModelError("expected MODEL; or --server URL, perhaps with --adapter NAME, to ask a running server")
    if options.adapter is not None:
        raise ModelError(
            f"found MODEL with --adapter, which names one of a running server's (--server URL); a folder is given as "
            f"--plan {options.adapter}"
        )
    from isogloss.languages import resolve
    from isogloss.steering import RouterAdapter, read_steering
    from isogloss.workflows import examine, open_corpus

    plan = read_steering(options.plan) if options.plan else None
    loading = loading_options(options, corpus=options.corpus, adapter=isinstance(plan, RouterAdapter))
    if options.language is not None and plan is None:
        raise PlanError("--language chooses among the rules of a plan; found none: name it by --plan")
    language = None if options.language is None else resolve(options.language)
    picked = {"languages": options.languages, "split": options.split, "n_items": options.items}
    if options.corpus is None and any(value is not None for value in picked.values()):
        raise CorpusError("--languages, --split and --items pick from a corpus; found none: name it by --corpus")
    corpus = None if options.corpus is None else open_corpus(options.corpus, **picked)
    diagnosis = examine(options.model, loading, plan=plan, language=language, corpus=corpus)
    _show(diagnosis, options)
    return 0 if diagnosis.ok else _CHECK_FAILED


def _ask_server(options: argparse.Namespace) -> int:
    from isogloss.workflows import examine_server

    if options.model is not None or options.plan is not None:
        raise ModelError("--server asks a server about an adapter that it has; leave MODEL and --plan out")
    diagnosis = examine_server(options.server, options.adapter)
    if options.json:
        print_json(diagnosis.to_json())
    else:
        _show_checks(diagnosis)
    return 0 if diagnosis.ok else _CHECK_FAILED


def _show_checks(diagnosis: Diagnosis) -> None:
    for check in diagnosis.checks:
        print_line(f"{'ok' if check.ok else 'FAILED':8}{check.name:11}{check.detail}")


def _show(diagnosis: Diagnosis, options: argparse.Namespace) -> None:
    """Print one line per check, then what to do next."""
    if options.json:
        print_json(diagnosis.to_json())
        return
    _show_checks(diagnosis)
    print_line(_advice(diagnosis, options))


def _advice(diagnosis: Diagnosis, options: argparse.Namespace) -> str:
    if failed := [check.name for check in diagnosis.checks if check.ran and not check.ok]:
        return f"next: fix the failed checks ({', '.join(failed)}), then repeat the command"
    load = ["--dtype", options.dtype] if options.dtype != "auto" else []
    load += ["--device", options.device] if options.device else []
    load += ["--dequantize"] if options.dequantize else []
    load += ["--backend", options.backend] if options.backend != BACKENDS[0] else []
    for name, value in options.engine:
        load += ["--engine", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if options.plan:
        rest = [*load, "--plan", str(options.plan), "--task", "TASK", "-o", "eval"]
        return f"next: {shlex.join(['isogloss', 'evaluate', options.model, *rest])}"
    picked = ["--corpus", options.corpus or "CORPUS"]
    for name in ("languages", "split", "items"):
        if (value := getattr(options, name)) is not None:
            picked += [f"--{name}", ",".join(value) if name == "languages" else str(value)]
    return f"next: {shlex.join(['isogloss', 'capture', options.model, *picked, *load, '-o', 'run'])}"
