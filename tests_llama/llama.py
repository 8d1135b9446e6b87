"""Models in llama.cpp: converted by its own script, quantised, and asked for logits at every place."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from checkpoints import checkpoint

LLAMA = Path(os.environ["ISOGLOSS_LLAMA"])
"""What `make test-llama` has built."""

os.environ["LLAMA_CPP_LIB_PATH"] = str(LLAMA / "build" / "bin")  # read when it is imported

import llama_cpp  # noqa: E402

__all__ = ["SERVER", "SOURCE", "TOLERANCE", "convert", "gguf_of", "log_probs", "quantised"]

SOURCE = LLAMA / "source"
"""Of llama.cpp, with its converters."""

SERVER = LLAMA / "build" / "bin" / "llama-server"

TOLERANCE = 1e-4
"""Of log-probabilities, in float32."""

_folders = tempfile.TemporaryDirectory(prefix="isogloss-llama-")
_F32 = 0  # of ggml's types
_N_CONTEXT = 512


def convert(script, *arguments):
    """Run a converter of llama.cpp."""
    command = [sys.executable, str(Path(__file__).with_name("convert.py")), str(SOURCE), script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@functools.cache
def gguf_of(family):
    """The file of a tiny model of the family in float32."""
    path = Path(_folders.name) / f"{family}.gguf"
    folder = checkpoint(family, for_llama=True)
    convert("convert_hf_to_gguf.py", folder, "--outtype", "f32", "--outfile", path)
    return path


@functools.cache
def quantised(family, kind):
    """The same in a kind of quantisation, such as ``Q8_0``."""
    path = Path(_folders.name) / f"{family}-{kind}.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    options.nthread = 1
    source, target = (str(each).encode() for each in (gguf_of(family), path))
    assert llama_cpp.llama_model_quantize(source, target, ctypes.byref(options)) == 0
    return path


def log_probs(path, prompts, *, adapters=()):
    """Log-probabilities of the whole vocabulary after every token of every prompt, ``[n_tokens, vocabulary]`` each.

    Args:
        path: of the model's file.
        prompts: token ids of each.
        adapters: (file, scale) of each adapter that is added.
    """
    model = llama_cpp.Llama(
        str(path),
        n_ctx=_N_CONTEXT,
        n_batch=_N_CONTEXT,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        type_k=_F32,
        type_v=_F32,
        verbose=False,
    )
    loaded = [(llama_cpp.llama_adapter_lora_init(model.model, str(file).encode()), scale) for file, scale in adapters]
    assert all(adapter for adapter, _ in loaded)
    if loaded:
        given = (llama_cpp.llama_adapter_lora_p_ctypes * len(loaded))(*[adapter for adapter, _ in loaded])
        scales = (ctypes.c_float * len(loaded))(*[scale for _, scale in loaded])
        assert llama_cpp.llama_set_adapters_lora(model.ctx, given, len(loaded), scales) == 0
    found = []
    for prompt in prompts:
        model.reset()
        model.eval(prompt)
        logits = np.array(model.scores[: len(prompt)], dtype=np.float64)
        found.append(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    model.close()
    return found
