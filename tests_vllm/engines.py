"""vLLM engines inside the test process, one alive at a time."""

from __future__ import annotations

import gc
import json
import os

import numpy as np

from checkpoints import checkpoint
from family_options import FAMILY_OPTIONS
from oracle import Answers

__all__ = ["MODES", "Engines", "ask", "begin_answer", "end_answer", "served_answers", "stop", "vllm_answers"]

# Read by vLLM when it is imported, which therefore happens inside functions.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",  # tests look at the model, and one process starts faster than two
    VLLM_CPU_OMP_THREADS_BIND="nobind",  # it would bind the test process to cores, for good
    # vLLM's own cache begins anew for every engine; torch's, below it, shares compiled kernels between all of them.
    VLLM_DISABLE_COMPILE_CACHE="1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    # Read by the plugin whenever an engine starts: any plan of the tests can be handed to an engine that runs.
    ISOGLOSS_KINDS="all",
    ISOGLOSS_SLOTS="8",
    ISOGLOSS_USAGE="3",
)

MODES = ("eager", "compiled")

_OPTIONS = {
    "dtype": "float32",
    "seed": 0,
    "max_model_len": 256,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 512,
    "kv_cache_memory_bytes": 2**26,
    "enable_prefix_caching": False,  # plans by phase are refused beside it
    "use_tqdm_on_load": False,
}


class Engines:
    """The engine that is alive, and the way to another one.

    vLLM keeps one distributed environment per process, so an engine is freed before the next one starts.
    """

    def __init__(self) -> None:
        self._key = self._llm = None

    def get(self, family, mode, **options):
        """Return the engine of a family in a mode, started where it is not the one that is alive.

        Args:
            family: one of `checkpoints.FAMILIES`.
            mode: ``eager`` or ``compiled``.
            options: further arguments of `vllm.LLM`; an engine with other ones is another engine.
        """
        key = (family, mode, repr(sorted(options.items())))
        if key != self._key:
            self.free()
            self._llm = _start(family, mode, options)
            self._key = key
        return self._llm

    def free(self):
        """Stop the engine that is alive, if any, and give its memory back.

        An engine ends the distributed environment of the whole process, also when it is garbage that is only collected
        while the next engine runs: each ends here, once.
        """
        if self._llm is not None:
            self._llm.llm_engine.engine_core._finalizer()  # its shutdown, which is never called again after that
        self._key = self._llm = None
        gc.collect()


def stop(llm):
    """Stop an engine that no `Engines` has started, and give its memory back as `Engines.free` does."""
    owner = Engines()
    owner._llm = llm
    owner.free()


def _start(family, mode, options):
    from vllm import LLM, ModelRegistry  # noqa: PLC0415 - see above
    from vllm.config import CompilationMode  # noqa: PLC0415 - see above

    folder = checkpoint(family)
    # vLLM would inspect each class in a process of its own, 10 s each, so as not to initialise CUDA here.
    (architecture,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    ModelRegistry.register_model(architecture, ModelRegistry.models[architecture].load_model_cls())
    defaults = _OPTIONS | FAMILY_OPTIONS.get(family, {})
    llm = LLM(model=str(folder), enforce_eager=mode == "eager", **defaults | options)
    compilation = llm.llm_engine.vllm_config.compilation_config
    assert (compilation.mode == CompilationMode.NONE) == (mode == "eager")
    return llm


def vllm_answers(llm, prompts, n_new, *, each=None):
    """Answer all prompts in one batch, greedily, as `oracle.transformers_answers` does.

    Args:
        llm: the engine.
        prompts: token ids of each prompt.
        n_new: tokens to write after each.
        each: further arguments of `vllm.SamplingParams`, a mapping per prompt.
    """
    from vllm import SamplingParams  # noqa: PLC0415 - see above

    options = {"temperature": 0, "max_tokens": n_new, "ignore_eos": True, "logprobs": 0, "prompt_logprobs": 0}
    sampling = [SamplingParams(**options | more) for more in each or [{}] * len(prompts)]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    log_probs = [
        np.array(
            [
                found[token].logprob
                for token, found in zip(
                    [*prompt[1:], *written],
                    [*output.prompt_logprobs[1:], *output.outputs[0].logprobs],
                    strict=True,
                )
            ]
        )
        for prompt, written, output in zip(prompts, tokens, outputs, strict=True)
    ]
    return Answers(tokens, log_probs)


def served_answers(llm, prompts, languages, n_new):
    """Answer all prompts in one batch, each in its language, None for none; see `oracle.expected_answers`."""
    each = [{} if code is None else {"extra_args": {"isogloss_language": code}} for code in languages]
    return vllm_answers(llm, prompts, n_new, each=each)


def ask(llm, prompt, n_new, *, extra=None, salt=None):
    """Answer one prompt without asking for its log-probabilities, which would pass the prefix cache by.

    Args:
        llm: the engine.
        prompt: token ids.
        n_new: tokens to write.
        extra: arguments of the request for the plugin.
        salt: of the cache, as a client may send one.

    Returns:
        The tokens that were written, and how many of the prompt came from the cache.
    """
    given = {"prompt_token_ids": prompt} | ({} if salt is None else {"cache_salt": salt})
    (output,) = llm.generate([given], _greedy(n_new, extra), use_tqdm=False)
    return list(output.outputs[0].token_ids), output.num_cached_tokens


def begin_answer(llm, prompt, n_new, *, n_first):
    """Answer one prompt until so many tokens are written; `end_answer` goes on.

    Returns:
        The tokens that were written, `n_first` or more.
    """
    llm.llm_engine.add_request("half", {"prompt_token_ids": prompt}, _greedy(n_new))
    written = []
    while len(written) < n_first:
        for output in llm.llm_engine.step():
            written = list(output.outputs[0].token_ids)
    return written


def end_answer(llm):
    """Write the rest of what `begin_answer` began; return all tokens that were written."""
    written = []
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            written = list(output.outputs[0].token_ids)
    return written


def _greedy(n_new, extra=None):
    from vllm import SamplingParams  # noqa: PLC0415 - see above

    return SamplingParams(temperature=0, max_tokens=n_new, ignore_eos=True, extra_args=extra)
