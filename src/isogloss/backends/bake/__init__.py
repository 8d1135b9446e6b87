"""Writes what engines serve without any code of ours: a plan's constants or an adapter, put into a model's own files.

A router whose product with the hidden states has a bias, ``z = W·h + b``, computes what a plan of kind ``offset``
asks for, ``z_k + c_k``, once ``b_k + c_k`` is stored in place of ``b_k``: for every token, in every engine. Of the
families that isogloss knows, gpt_oss alone has such a bias. One that adds a selection bias to the scores it ranks
computes what a plan of kind ``select`` asks for in the same way. Both are looked for in the model, not in a list of
names. An adapter changes the weight itself, ``W + B A``, which every router has; engines that add adapters while they
serve take the two thin matrices instead.

A sum is stored in the dtype of the tensor, since engines cast to the model's dtype on load: transformers 5.23 keeps no
router of gpt_oss in float32, and vLLM 0.32 makes the bias of its gate in the model's dtype (vllm
model_executor/models/gpt_oss.py, ``GateLinear``) and copies into it. So a checkpoint in float32 is exact; one in
bfloat16 is exact up to rounding the sum to bfloat16, which is measured and reported. A model that runs in 16 bits also
rounds its logits, after the bias is added and before experts are chosen, where steering adds and chooses in float32.
GGUF files keep routers in float32.
"""

from isogloss.backends.bake.baked import Baked
from isogloss.backends.bake.forms import bake

__all__ = ["Baked", "bake"]
