"""Without a plan, vLLM and transformers answer alike: differences under a plan are the plan's."""

from __future__ import annotations

from checkpoints import prompts
from engines import vllm_answers
from oracle import TOLERANCE, require_equal, transformers_answers

N_NEW = 12


def test_answers_are_those_of_transformers(engine, loaded):
    """Greedy tokens are the same, and log-probabilities of prompts and answers equal up to rounding."""
    served = vllm_answers(engine, prompts(), N_NEW)
    expected = transformers_answers(loaded, prompts(), N_NEW)
    require_equal(served, expected, TOLERANCE)
