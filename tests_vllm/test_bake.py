"""A baked checkpoint, served by stock vLLM without any plugin, writes what the steered original writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from checkpoints import checkpoint, prompts
from isogloss.backends.bake import bake
from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import Intervention, Plan

N_NEW = 12
SERVE = f"""
import json, sys
from vllm import LLM, SamplingParams
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
engine = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=8)
greedy = SamplingParams(temperature=0, max_tokens={N_NEW}, logprobs=0, ignore_eos=True)
found = engine.generate([{{"prompt_token_ids": ids}} for ids in prompts], greedy)
answers = [list(each.outputs[0].token_ids) for each in found]
chosen = [[next(iter(step.values())).logprob for step in each.outputs[0].logprobs] for each in found]
json.dump([answers, chosen], open(sys.argv[3], "w"))
"""


def served(folder, ids, path):
    """(new token ids, their log-probabilities) of every prompt, by an engine that loads no plugin at all."""
    environment = os.environ | {
        "VLLM_PLUGINS": "",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    environment.pop("ISOGLOSS_PLAN", None)
    command = [sys.executable, "-c", SERVE, str(folder), json.dumps(ids), str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return json.loads(path.read_text())


@torch.inference_mode()
def steered(loaded, plan, ids):
    """The same of the original under the plan, in transformers."""
    answers, chosen = [], []
    for prompt in ids:
        given = torch.tensor([prompt])
        with steer(loaded, plan):
            whole = loaded.model.generate(given, max_new_tokens=N_NEW, min_new_tokens=N_NEW, do_sample=False)
            scores = loaded.model(whole).logits[0].log_softmax(-1)
        new = whole[0, len(prompt) :]
        answers.append(new.tolist())
        chosen.append(scores[len(prompt) - 1 : -1].gather(-1, new[:, None])[:, 0].tolist())
    return answers, chosen


OFFSETS = [
    Intervention("offset", 0, (1,), values=(-1.7,)),
    Intervention("offset", 2, (0, 3), values=(2.3, -1.3)),
    Intervention("offset", 3, (5,), values=(1.1,)),
]
SELECT = [
    Intervention("select", 1, (1, 6, 14), values=(-0.4, 0.3, 0.2)),
    Intervention("select", 3, (0, 3, 9), values=(0.35, -0.25, 0.3)),
]


@pytest.mark.parametrize(("family", "rules"), [("gpt_oss", OFFSETS), ("glm4_moe", SELECT)])
def test_stock_vllm_serves_a_baked_plan(tmp_path, family, rules):
    """Greedy tokens are equal, and log-probabilities to what the two engines differ by anyway."""
    folder, ids = checkpoint(family), prompts()
    loaded = load_model(str(folder), device="cpu")
    plan = Plan(loaded.fingerprint, tuple(rules), {"test": "test"})
    expected, likelihoods = steered(loaded, plan, ids)
    unsteered, _ = steered(loaded, Plan(plan.fingerprint), ids)
    bake(str(folder), plan, tmp_path / "baked", loading={"device": "cpu"})
    answers, chosen = served(tmp_path / "baked", ids, tmp_path / "answers.json")
    assert answers == expected
    assert answers != unsteered
    np.testing.assert_allclose(chosen, likelihoods, atol=1e-4)
