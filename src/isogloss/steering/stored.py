"""What steers a model, as a path names it: the file of a plan, or the folder of a router adapter."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from isogloss.errors import PlanError
from isogloss.hub import address_of, fetched
from isogloss.steering.adapter import RouterAdapter
from isogloss.steering.adapter_folder import ADAPTER_FILES, read_adapter, write_adapter
from isogloss.steering.plan import Plan, read_plan, write_plan

__all__ = ["read_served_plan", "read_steering", "write_steering"]

_PLAN, _ADAPTER = "plan.json", "adapter"


def read_steering(path: str | os.PathLike[str]) -> Plan | RouterAdapter:
    """Read a plan from its file, or a router adapter from its folder, or either from ``hf://OWNER/NAME``.

    Raises:
        PlanError: there is neither, or it is damaged.
    """
    place = fetched(path, error=PlanError)
    if place != Path(path) and (place / _PLAN).is_file():
        return read_plan(place / _PLAN)
    if not place.exists():
        raise PlanError(
            f"cannot read the plan or adapter {address_of(path) or path}: no such file or folder; expected a "
            "plan's file, from `isogloss plan` or `isogloss learn`, or an adapter's folder, from `isogloss adapt` or "
            "`isogloss learn`"
        )
    if not place.is_dir():
        return read_plan(place)
    try:
        return read_adapter(place)
    except PlanError as error:
        if inside := [str(each) for each in (place / _PLAN, place / _ADAPTER) if each.exists()]:
            raise PlanError(f"{path} is a folder of results, and no adapter; give {' or '.join(inside)}") from error
        raise


def read_served_plan(path: str | os.PathLike[str]) -> Plan:
    """Read the plan that a server is told to serve: all of its processes read one file of this machine.

    Raises:
        PlanError: it is none, is on the hub, or is a router adapter; the message says what to do.
    """
    if address := address_of(path):
        raise PlanError(
            f"{address} is on the hub, and a server reads its plan from a file; fetch it: `hf download OWNER/NAME "
            "plan.json --local-dir .`"
        )
    if (Path(path) / ADAPTER_FILES[0]).is_file():
        raise PlanError(
            f"{path} is a router adapter, which is served without a plugin: `isogloss bake MODEL --adapter ADAPTER -o "
            "FOLDER` puts it into a checkpoint for any engine, or, with --as vllm, writes an adapter for vLLM"
        )
    return read_plan(path)


def write_steering(plan: Plan | RouterAdapter, folder: Path) -> None:
    """Write ``plan.json``, or the folder ``adapter``, into a folder of results; what a killed process left is replaced.

    Raises:
        FileError: the folder cannot be written.
    """
    if isinstance(plan, Plan):
        write_plan(plan, folder / _PLAN)
        return
    place = folder / _ADAPTER
    if place.is_dir():
        shutil.rmtree(place)
    write_adapter(plan, place)
