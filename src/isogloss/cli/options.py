"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from isogloss.backends.open import BACKENDS, refuse_unsupported
from isogloss.errors import IsoglossError

__all__ = [
    "SEED",
    "Subparsers",
    "add_backend",
    "add_codes",
    "add_configured",
    "add_corpus",
    "add_count",
    "add_example",
    "add_expert_kind",
    "add_expert_options",
    "add_force",
    "add_json",
    "add_loading",
    "add_model",
    "add_output",
    "add_pivot",
    "add_task",
    "codes",
    "engine_argument",
    "loading_options",
    "number",
    "parse_layers",
    "whole_number",
]

Kind = TypeVar("Kind", int, float)
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - its only name


def codes(text: str) -> tuple[str, ...]:
    """Split ``a,b,c``."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty part; expected codes such as eng_Latn,deu_Latn")
    return parts


def parse_layers(text: str) -> tuple[int, int]:
    """Read ``A-B``, inclusive."""
    if text == "middle":
        raise argparse.ArgumentTypeError(
            "'middle' is found in a Run, and none is read here; give A-B, as `isogloss analyze RUN` prints the middle"
        )
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a range of layers; expected A-B such as 10-39, 0-based, inclusive"
        )
    return int(match[1]), int(match[2])


def _layers_or_middle(text: str) -> tuple[int, int] | Literal["middle"]:
    """Read ``A-B``, or the word ``middle``."""
    return "middle" if text == "middle" else parse_layers(text)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what reads an integer from ``least`` to ``most``, both included, and refuses any other by its range."""

    def read(text: str) -> int:
        value = _read(int, text, least, most)
        if value is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {_range(least, most)}")
        return value

    return read


def number(
    least: float | None = None, most: float | None = None, *, above: float | None = None
) -> Callable[[str], float]:
    """Return what reads a finite number from ``least``, or above ``above``, to ``most``, and refuses any other."""

    def read(text: str) -> float:
        value = _read(float, text, least, most)
        if value is None or not math.isfinite(value) or (above is not None and value <= above):
            bounds = _range(least, most) if above is None else f"above {above:g}"
            bounds += f" and at most {most:g}" if above is not None and most is not None else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {bounds}")
        return value

    return read


def _read(kind: type[Kind], text: str, least: float | None, most: float | None) -> Kind | None:
    """Return a number inside a range, else None."""
    try:
        value = kind(text)
    except ValueError:
        return None
    return value if (least is None or value >= least) and (most is None or value <= most) else None


def _range(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "that is finite" if least is None else f"of at least {least:g}"
    return f"from {least:g} to {most:g}"


SEED = whole_number(0, 2**32 - 1)
"""Reads a seed, of the size that every generator of random numbers takes."""


def engine_argument(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``; the value is JSON where it can be read so, else text.

    Example:
        >>> engine_argument("max_model_len=4096"), engine_argument("load_format=dummy")
        (('max_model_len', 4096), ('load_format', 'dummy'))
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not value:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an argument of vLLM; expected KEY=VALUE such as tensor_parallel_size=8"
        )
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def add_model(parser: argparse.ArgumentParser, *, unless: str | None = None) -> None:
    """Add ``MODEL``, which may be absent beside the option ``unless``."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?" if unless else None,
        help="hub id (ID@REVISION for a commit, tag or branch), folder, or 'organism'"
        + (f"; none with {unless}" if unless else ""),
    )


def add_codes(
    parser: argparse.ArgumentParser, option: str, about: str, *, default: tuple[str, ...] | None = None
) -> None:
    """Add an option that takes languages."""
    parser.add_argument(option, type=codes, default=default, metavar="L,L", help=about)


def add_count(
    parser: argparse.ArgumentParser, option: str, about: str, *, metavar: str = "N", default: int | None = None
) -> None:
    """Add an option that takes a number of at least one."""
    parser.add_argument(option, type=whole_number(1), default=default, metavar=metavar, help=about)


def add_task(parser: argparse.ArgumentParser, about: str, *, required: bool = False) -> None:
    """Add ``--task``."""
    parser.add_argument("--task", required=required, metavar="NAME[:VARIANT][:PATH]", help=about)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def add_corpus(parser: argparse.ArgumentParser, *, required: bool, purpose: str = "") -> None:
    """Add which texts are read: ``--corpus``, ``--languages``, ``--split``, ``--items``."""
    parser.add_argument(
        "--corpus",
        required=required,
        help=f"{purpose}folder, .jsonl, .tsv, organism, or from the hub flores_plus, belebele, mgsm, gsm8k_instruct or "
        "medinstruct (NAME:DIR for a copy; belebele also from a DIR with flores200/ and "
        "belebele/passage_to_flores200.json)",
    )
    add_codes(parser, "--languages", "default: all of the corpus")
    parser.add_argument("--split", help="split to read, if the corpus has splits")
    add_count(parser, "--items", "only the first N items")


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add how a model is loaded: ``--dtype``, ``--device``, ``--dequantize``."""
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument(
        "--device", help="such as cuda:0; 'auto' spreads the model over all GPUs, memory and disk (isogloss[multi-gpu])"
    )
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="load quantised weights as floating point; others stay as they are",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add what runs the model: ``--backend``, ``--engine``; read them by `loading_options`."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="what runs the model: transformers in this process, or vLLM, on several GPUs or machines "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--engine",
        type=engine_argument,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="vllm: an argument of vLLM's LLM, such as tensor_parallel_size=8; repeatable",
    )


def loading_options(options: argparse.Namespace, **asked: object) -> dict[str, Any]:
    """Return the arguments of `isogloss.backends.open.load` that a command line gives.

    Args:
        options: of a parser with `add_backend` and `add_loading`.
        **asked: what else the backend must support, as `isogloss.backends.open.refuse_unsupported` takes it.

    Raises:
        IsoglossError: an option has no meaning for the backend, or an argument came twice.
    """
    given = [name for name, _ in options.engine]
    loading = {name: getattr(options, name) for name in ("backend", "dtype", "device", "dequantize")}
    loading["engine"] = dict(options.engine)
    refuse_unsupported(**{**loading, **asked})
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise IsoglossError(f"--engine gives {', '.join(twice)} more than once; expected every argument once")
    return loading


def add_output(parser: argparse.ArgumentParser, what: str, *, default: str | None = None) -> None:
    """Add ``-o``."""
    parser.add_argument(
        "-o", "--output", type=Path, required=default is None, default=default and Path(default), help=what
    )


def add_configured(subparsers: Subparsers, name: str, what: str, about: str) -> argparse.ArgumentParser:
    """Add a command that works in a folder as a TOML file says; return its parser."""
    parser = subparsers.add_parser(name, help=about)
    parser.add_argument(what, type=Path, metavar=f"{what.upper()}.toml")
    add_example(parser, what)
    add_output(parser, f"folder of the {what}; repeat the command to resume a stopped one")
    add_json(parser)
    return parser


def add_example(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--example``, for the settings of ``what``."""
    parser.add_argument(
        "--example",
        action=_PrintExample,
        nargs=0,
        const=what.capitalize(),
        help="print an example of the file, with every setting, its type and its default, and end",
    )


class _PrintExample(argparse.Action):
    """Prints the example of a class of `isogloss.workflows` and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it; arguments are argparse's."""
        from isogloss import workflows  # noqa: PLC0415 - help is instant
        from isogloss.cli.output import print_line  # noqa: PLC0415 - as above
        from isogloss.workflows.example import example_toml  # noqa: PLC0415 - as above

        print_line(example_toml(getattr(workflows, str(self.const))))
        parser.exit()


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``."""
    parser.add_argument("--force", action="store_true", help="replace what -o names although it is of another kind")


def add_pivot(parser: argparse.ArgumentParser) -> None:
    """Add ``--pivot``."""
    parser.add_argument("--pivot", default="eng_Latn", help="reference language (default %(default)s)")


def add_expert_options(parser: argparse.ArgumentParser) -> None:
    """Add what chooses experts, for `experts` and `plan`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a Run")
    rules = ("delta", "share", "contrast", "specificity")
    parser.add_argument("--rule", choices=rules, required=True, help="how experts are selected")
    parser.add_argument(
        "--threshold",
        type=number(0),
        help="of the rule's statistic: a difference or share between 0 and 1, or a specificity; contrast and "
        "specificity may do with --top alone",
    )
    parser.add_argument(
        "--layers",
        type=_layers_or_middle,
        metavar="A-B|middle",
        help="decoder layers, 0-based, inclusive (papers often count from 1); middle: the layers in which `isogloss "
        "analyze` finds that the languages of the base, or of RUN, meet",
    )
    parser.add_argument(
        "--base", type=Path, metavar="RUN", help="delta, contrast: Run of other texts, such as generic ones"
    )
    add_codes(
        parser,
        "--languages",
        "share, specificity: those present; delta: the one compared with the pivot; contrast: that one, or two "
        "compared with each other; with --base: the one that both Runs are compared in (default: the pivot)",
        default=(),
    )
    add_codes(parser, "--target", "exclusive share, specificity: whose experts", default=())
    add_count(
        parser,
        "--top",
        "share: experts kept per language and layer; contrast, specificity: the K greatest over all layers",
        metavar="K",
    )
    parser.add_argument("--alpha", type=number(0), help="specificity: how much frequent use counts (default 10)")
    parser.add_argument(
        "--sign",
        choices=("both", "positive", "negative"),
        help="contrast: experts used more (positive) or less by the first set (default both: a plan of kind soft or "
        "offset then pushes the negative ones the other way, and force suppresses them)",
    )
    add_pivot(parser)


def add_expert_kind(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Add which experts of the share or specificity rule are meant."""
    parser.add_argument(
        *flags,
        dest="expert_kind",
        choices=("common", "exclusive", "specific", "overlap"),
        help="share: common (default) or exclusive; specificity: specific (default) or overlap",
    )
