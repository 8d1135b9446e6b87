"""Measures capture, steering and learning on a GPU, and proves that both are right there, in at most 8 minutes.

Needs torch, transformers 5.19 or later, and three packages if these did not bring them: scipy, array-api-compat, rich
(`python -m pip install "transformers>=5.19" scipy array-api-compat rich`); isogloss itself is taken from this checkout.
Nothing is fetched: the model has the shape of Qwen3-30B-A3B and random weights, made on the GPU; families are the tiny
models of the tests. What has been measured stands in the JSON file at any moment; each part ends at its time.

    python bench/gpu.py docs/performance-gpu.md             # on a GPU; `make bench-gpu` installs all first
    python bench/gpu.py --shape tiny --device cpu           # what the tests run

By arithmetic, for Qwen3-30B-A3B in bfloat16: a decoder layer is 1.25 GB, embedding and head 1.24 GB, so 48 layers are
61 GB, and a step of learning of 4,096 tokens with a leash takes 13 GB more when layers are computed again: 74 GB. A GPU
of 141 GB also holds what the layers keep otherwise (34 GB); one of 80 GB (85e9 bytes) holds the 48 layers, one of 40 GB
20 or so, one of 24 GB 9; `--layers` is what fits, and is printed. In time, where 400 of 990 TFLOP/s are reached:

* a capture of 3 * 8,192 tokens, 3.0e9 numbers a token without the head: 0.4 s; a round of its five sides 2 s;
* an answer of 24 tokens is bound by the host, about 2,500 kernels a token, 40 ms: 1 s; a round of seven sides 7 s;
* a step of learning is three forwards of 4,096 tokens, five or six with a leash: 0.2 s; all five ways 10 s;
* a tiny model takes about a second for each family and dtype: 120 s for all.

Ends with code 1 where something is not equal or a part fails, not where an aim is missed; 2 where it cannot begin.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "scipy": "scipy",
    "array_api_compat": "array-api-compat",
    "rich": "rich",
}
LOWEST = (5, 19)
SHARES = {"capture": 0.14, "steered answers": 0.27, "learning": 0.2, "families": 0.27, "only on a GPU": 0.12}
"""Of the whole time; what a part leaves is the next one's."""


def require_packages() -> None:
    """Leave with one line where something is missing."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if "transformers" not in missing and tuple(map(int, version("transformers").split(".")[:2])) < LOWEST:
        missing.append(f"transformers>={LOWEST[0]}.{LOWEST[1]} (found {version('transformers')})")
    if missing:
        print(f"bench/gpu.py needs {', '.join(missing)}: install with python -m pip install", file=sys.stderr)
        raise SystemExit(2)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description="Measure and prove on a GPU.")
    parser.add_argument("page", type=Path, nargs="?", help="Markdown file to write")
    parser.add_argument("--json", type=Path, default=Path("build/gpu.json"), help="written anew at every number")
    parser.add_argument("--shape", choices=("qwen3-30b-a3b", "tiny"), default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, help="by default as many as the GPU's free memory holds")
    parser.add_argument("--device", default="cuda", help="such as cuda:0 or cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), default=tuple(SHARES))
    parser.add_argument("--families", nargs="+", default=(), help="by default all")
    options = parser.parse_args(arguments)
    if options.page is not None and not options.page.parent.is_dir():
        parser.error(f"the folder of {options.page} does not exist; make it first")
    if options.layers is not None and options.layers < 1:
        parser.error(f"--layers is {options.layers}; expected 1 or more")
    return options


class OutOfTimeError(Exception):
    """A part ran on after its end."""


@contextmanager
def ending(seconds: float) -> Iterator[None]:
    """Interrupt what runs on so long."""

    def ring(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(results: Any, name: str, rows: Callable[[float], Iterator[Any]], until: float) -> bool:  # noqa: ANN401
    """Add the rows of a part until its end; return whether it came there without a fault."""
    results.begin(name)
    over = until - time.monotonic()
    try:
        with ending(over + 0.25 * max(over, 0) + 5):
            for row in rows(until):
                results.add(name, row)
    except OutOfTimeError:
        return True  # it is named as cut off
    except Exception as error:  # noqa: BLE001 - the other parts are measured all the same
        from gpu_results import Row  # noqa: PLC0415 - after the packages are known to be there

        results.add(name, Row("failed", note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        results.end(name)
        return False
    results.end(name)
    return True


def conditions_of(device: Any, shape: str, n_layers: int, of_layers: int) -> dict[str, Any]:  # noqa: ANN401 - torch's
    """Say what is measured on."""
    import torch  # noqa: PLC0415 - after the packages are known to be there

    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        machine = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    model = f"{shape}, {n_layers} of {of_layers} layers, random weights in bfloat16"
    return {"machine": machine, "versions": f"Python {platform.python_version()}, {versions}", "model": model}


def main(arguments: list[str] | None = None) -> int:
    """Measure part by part; return the exit code."""
    options = options_of(arguments)
    require_packages()
    sys.path[:0] = [str(ROOT / each) for each in ("src", "tests/support", "bench")]
    import torch  # noqa: PLC0415 - after the packages are known to be there

    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        print(f"--device is {options.device!r}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "bench/gpu.py found no GPU that torch can use; --shape tiny --device cpu tries the script", file=sys.stderr
        )
        return 2
    return measured(options, device, time.monotonic())


def measured(options: argparse.Namespace, device: Any, began: float) -> int:  # noqa: ANN401 - torch's
    """Run the parts, and write what they found."""
    import torch  # noqa: PLC0415 - after the packages are known to be there
    from models import FAMILIES  # noqa: PLC0415 - as above

    from gpu_equality import family_rows, trap_rows  # noqa: PLC0415 - as above
    from gpu_model import SHAPES, TINY_SIZES, Sizes, build, fitting_layers  # noqa: PLC0415 - as above
    from gpu_results import Results  # noqa: PLC0415 - as above
    from gpu_speed import Bench, capture_rows, decode_rows, learning_rows  # noqa: PLC0415 - as above

    if unknown := sorted(set(options.families) - set(FAMILIES)):
        print(f"--families has {', '.join(unknown)}; expected some of {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    shape, sizes = SHAPES[options.shape], TINY_SIZES if options.shape == "tiny" else Sizes()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize
    n_layers = options.layers or fitting_layers(shape, free, sizes)
    results = Results(
        conditions_of(device, options.shape, n_layers, shape["num_hidden_layers"]), options.json, began=began
    )
    results.say("; ".join(results.conditions.values()))
    of_model = {"capture": capture_rows, "steered answers": decode_rows, "learning": learning_rows}
    others = {
        "families": lambda until: family_rows(device, until, options.families),
        "only on a GPU": lambda until: trap_rows(device, until),
    }
    loaded, fine, end = None, True, began
    for name, share in SHARES.items():
        end += share * options.minutes * 60
        if name not in options.parts:
            continue
        if name in of_model:
            loaded = loaded or build(shape, n_layers, device)
            bench = Bench(loaded, sizes, end)
            fine &= run_part(results, name, lambda _, bench=bench, rows=of_model[name]: rows(bench), end)
            continue
        loaded = bench = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.backends.cudnn.allow_tf32 = False  # or convolutions of float32 models round to 10 bits
        fine &= run_part(results, name, others[name], end)
    print(f"\n{results.page()}")
    if options.page is not None:
        options.page.write_text(results.page(), encoding="utf-8")
    for failed in results.failed:
        print(f"NOT EQUAL: {failed}", file=sys.stderr)
    return int(bool(results.failed) or not fine)


if __name__ == "__main__":
    sys.exit(main())
