"""Serves one checkpoint by stock vLLM, without any plugin, rows with an adapter beside rows without; run as a script.

``python serve_adapters.py MODEL PROMPTS OUT [ADAPTER]``: prompts are token ids as JSON; OUT holds, as JSON, the tokens
that were written after each and the log-probabilities of all tokens, first without and, in the same batch, with the
adapter.

On a processor, vLLM 0.32 ends at the first request of an engine that takes adapters: it picks a kernel in Triton for
the experts, which stands there for adapters on experts. One function is therefore replaced here, so that experts, that
get no adapter, run as they do in any other engine. What adds the adapter to the router is vLLM's own, untouched.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch

from family_options import FAMILY_OPTIONS

__all__ = ["N_NEW"]

N_NEW = 8


def without_adapters_on_experts():
    """Let vLLM choose the experts' kernel as if the engine took no adapters."""
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as method  # noqa: PLC0415 - slow

    choose = method.select_unquantized_moe_backend

    def chosen(moe_config):
        plain = copy.copy(moe_config)
        plain.is_lora_enabled = False
        return choose(moe_config=plain)

    method.select_unquantized_moe_backend = chosen


def serve(folder, prompts, adapter):
    """Return [tokens, log-probabilities] of every prompt, without and then with the adapter, asked in one batch."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - slow
    from vllm.lora.request import LoRARequest  # noqa: PLC0415 - slow

    options = {}
    if adapter is not None:
        without_adapters_on_experts()
        config = json.loads((Path(adapter) / "adapter_config.json").read_text())
        # A slot more than adapters: on a processor, rows without one else get that of the last slot.
        options = {"enable_lora": True, "max_loras": 2, "max_lora_rank": 8}
        options["lora_target_modules"] = config["target_modules"]
    options |= FAMILY_OPTIONS.get(json.loads((Path(folder) / "config.json").read_text())["model_type"], {})
    engine = LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=16,
        kv_cache_memory_bytes=2**26,
        enable_prefix_caching=False,
        use_tqdm_on_load=False,
        **options,
    )
    requests = [None] if adapter is None else [None, LoRARequest("adapter", 1, adapter)]
    rows = [(prompt, request) for prompt in prompts for request in requests]
    sampling = SamplingParams(temperature=0, max_tokens=N_NEW, logprobs=0, prompt_logprobs=0, ignore_eos=True)
    found = engine.generate(
        [{"prompt_token_ids": prompt} for prompt, _ in rows],
        sampling,
        lora_request=None if adapter is None else [request for _, request in rows],
        use_tqdm=False,
    )
    answers = [_answer(prompt, each) for (prompt, _), each in zip(rows, found, strict=True)]
    return [answers[start :: len(requests)] for start in range(len(requests))]


def _answer(prompt, found):
    written = list(found.outputs[0].token_ids)
    steps = [*found.prompt_logprobs[1:], *found.outputs[0].logprobs]
    return [written, [step[token].logprob for token, step in zip([*prompt[1:], *written], steps, strict=True)]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, given, output, *more = sys.argv[1:]
    Path(output).write_text(json.dumps(serve(model, json.loads(given), more[0] if more else None)))
