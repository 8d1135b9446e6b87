"""Stock vLLM serves adapters: inside a checkpoint, and beside one, mixed with rows that have none.

Two families are run by default; ``make test-vllm ADAPTERS=all`` runs all eight both ways, but
Granite-MoE where vLLM's version of transformers is one whose routers isogloss does not read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from adapters import ADAPTED_FAMILIES, change_weights, random_adapter
from packaging.version import Version
from transformers import __version__ as transformers_version
from vllm.config.lora import MaxLoRARanks

from checkpoints import checkpoint, prompts
from isogloss.backends.bake import bake
from isogloss.backends.bake.peft import VLLM_RANKS
from isogloss.backends.families import FAMILIES as ROWS
from isogloss.backends.huggingface import load_model
from oracle import TOLERANCE, Answers, require_equal, transformers_answers
from serve_adapters import N_NEW

# Those whose routers isogloss knows in the version of transformers that is installed beside vLLM.
KNOWN = [name for name in ADAPTED_FAMILIES if Version(ROWS[name].since) <= Version(transformers_version)]
ALL = os.environ.get("ADAPTERS") == "all"
EFFECT = 0.1  # least of what an adapter must change somewhere: an ignored one changes nothing


def test_ranks_are_those_that_vllm_takes():
    """Its own list; `bake --as vllm` names one of them."""
    assert get_args(MaxLoRARanks) == VLLM_RANKS


def served(folder, output, adapter=None):
    """Answers of an engine that loads no plugin at all: [without the adapter, with it], or one of the two."""
    environment = os.environ | {
        "VLLM_PLUGINS": "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("serve_adapters.py")), str(folder), json.dumps(prompts())]
    done = subprocess.run(
        [*command, str(output), *([] if adapter is None else [str(adapter)])],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        Answers([tokens for tokens, _ in rows], [np.array(log_probs) for _, log_probs in rows])
        for rows in json.loads(output.read_text())
    ]


def expected(family):
    """The adapter, and the answers of transformers without it and with the weights changed."""
    loaded = load_model(str(checkpoint(family)), dtype="float32", device="cpu")
    adapter = random_adapter(loaded, size=0.2)
    base = transformers_answers(loaded, prompts(), N_NEW)
    change_weights(loaded, adapter)
    changed = transformers_answers(loaded, prompts(), N_NEW)
    pairs = [(len(prompt), *both) for prompt, *both in zip(prompts(), base.log_probs, changed.log_probs, strict=True)]
    assert max(np.abs(one - other)[: length - 1].max(initial=0) for length, one, other in pairs) > EFFECT
    return adapter, base, changed


@pytest.mark.parametrize("family", KNOWN if ALL else ["mixtral"])
def test_an_adapter_acts_on_its_own_rows_alone(family, tmp_path):
    """Rows with the adapter answer as the changed weights do, rows without as the base, in one batch."""
    adapter, base, changed = expected(family)
    bake(str(checkpoint(family)), adapter, tmp_path / "adapter", form="vllm")
    without, with_it = served(checkpoint(family), tmp_path / "answers.json", tmp_path / "adapter")
    require_equal(without, base, TOLERANCE)
    require_equal(with_it, changed, TOLERANCE)


@pytest.mark.parametrize("family", KNOWN if ALL else ["qwen2_moe"])
def test_a_checkpoint_with_an_adapter_inside_acts(family, tmp_path):
    """The engine answers as the changed weights do."""
    adapter, _, changed = expected(family)
    bake(str(checkpoint(family)), adapter, tmp_path / "baked", verify=False)
    (answers,) = served(tmp_path / "baked", tmp_path / "answers.json")
    require_equal(answers, changed, TOLERANCE)
