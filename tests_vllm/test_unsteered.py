"""Without a plan, vLLM and transformers answer alike: differences under a plan are the plan's."""

from __future__ import annotations

from checkpoints import prompts
from engines import vllm_answers
from oracle import require_equal, transformers_answers

N_NEW = 12
# Of log-probabilities, in float32. The largest difference that was measured, eager and compiled: Qwen3-MoE 2.2e-6 and
# 1.6e-6, OLMoE 2.1e-6 and 1.4e-6, Mixtral 2.1e-6 and 2.5e-6, Phi-3.5-MoE 2.0e-6 and 2.6e-6, GPT-OSS 2.1e-6 and 2.7e-6,
# GLM-4-MoE 2.2e-6 and 2.2e-6, DeepSeek-V3 2.2e-6 and 2.6e-6. No written token leads the next best by less than 1.2e-3.
TOLERANCE = 2e-5


def test_answers_are_those_of_transformers(engine, loaded):
    """Greedy tokens are the same, and log-probabilities of prompts and answers equal up to rounding."""
    served = vllm_answers(engine, prompts(), N_NEW)
    expected = transformers_answers(loaded, prompts(), N_NEW)
    require_equal(served, expected, TOLERANCE)
