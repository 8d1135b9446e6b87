"""Tiny randomly initialised models of every Mixture-of-Experts model that transformers has and that takes texts."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

from isogloss.backends.families import WRAPPERS
from isogloss.backends.huggingface.classes import class_of

# Every spelling of every size: a configuration takes those that it declares, since it keeps any other silently.
_COMMON = {
    "vocab_size": 400,
    "vocab_size_per_layer_input": 400,
    "unpadded_vocab_size": 400,
    "max_position_embeddings": 512,
    "model_max_length": 512,
    "max_seq_len": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    # These divide the last logits: differences there would vanish below the tests' tolerances.
    **dict.fromkeys(("logit_scale", "logits_mup_width_multiplier"), 1.0),
    # The usual 0.02 leaves 32 channels almost silent: which experts ran would hardly show in the output.
    "initializer_range": 32**-0.5,
    **dict.fromkeys(("hidden_size", "d_model", "router_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_heads", "swa_num_attention_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "kv_n_heads", "swa_num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "swa_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("linear_head_dim", "index_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "hc_lowrank"), 16),
    "linear_num_heads": 4,
    # A key's index score is zero where no head likes it: with few heads such ties decide what is attended to.
    **dict.fromkeys(("index_n_heads", "indexer_n_heads"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_d_state", "ssm_state_size", "mamba_head_dim"), 8),
    # Shorter than the tests' texts, so that windows, chunks and sparse attention leave something out.
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size", "index_topk", "block_size"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),
    "global_attn_every_n_layers": 4,
    "indexer_types": ["full", "full", "shared", "shared"],
    "use_mamba_kernels": False,
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("intermediate_size", "dense_intermediate_size", "intermediate_size_mlp", "ffn_hidden_size"), 48),
    "prefix_dense_intermediate_size": 48,
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("shared_intermediate_size", "shared_experts_intermediate_size"), 24),
    "moe_shared_expert_intermediate_size": 24,
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    "norm_topk_prob": True,
    **dict.fromkeys(("routed_scaling_factor", "route_scale", "router_scaling_factor"), 1.5),
    "moe_routed_scaling_factor": 1.5,
    "n_group": 4,
    "topk_group": 2,
    # One of the first two layers has no router wherever a family has dense layers.
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "mlp_only_layers": [1],
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    "moe_layers": [1, 2, 3],
    # Towers of the composite classes.
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size", "out_hidden_size"), 32),
    **dict.fromkeys(("output_proj_dims", "downsample_hidden_size", "position_embedding_size"), 32),
    **dict.fromkeys(("text_hidden_size", "projector_hidden_size", "projection_intermediate_size", "output_dim"), 32),
    **dict.fromkeys(("encoder_layers", "depth"), 2),
    **dict.fromkeys(("encoder_attention_heads", "num_heads"), 4),
    "encoder_ffn_dim": 48,
}

_FULL_SLIDING = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
_LINEAR_FULL = ["linear_attention", "full_attention", "linear_attention", "full_attention"]

_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}

_OVERRIDES = {
    "bailing_hybrid": {"layer_group_size": 2},
    "deepseek_v2": {"topk_method": "group_limited_greedy"},
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        "layer_types": [
            "heavily_compressed_attention",
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        ],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "o_groups": 2,
        "partial_rotary_factor": 0.5,
    },
    # The class's own defaults leave out the base that its attention reads.
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}},
    # Product keys: eight columns of logits per half stand for 8 × 8 experts.
    "doge": {"is_moe": True, "num_experts": 64},
    "dots1": {"layer_types": _FULL_SLIDING},
    "dots3_note_text": {
        "index_head_dim": 8,
        "head_dim": 16,
        "layer_types": _FULL_SLIDING,
        **{f"swa_{name}": 4 for name in ("num_attention_heads", "num_key_value_heads")},
        **{f"swa_{name}": 8 for name in ("qk_nope_head_dim", "v_head_dim", "qk_rope_head_dim")},
        **{f"swa_{name}": 16 for name in ("head_dim", "q_lora_rank", "kv_lora_rank")},
    },
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [24, 16],
        "rope_parameters": {**_MROPE, "mrope_section": [1, 1, 2]},
    },
    # An audio tower would bring buffers that hold infinities.
    "gemma4": {"audio_config": None},
    "gemma4_text": {"enable_moe_block": True, "global_head_dim": 8, "layer_types": _FULL_SLIDING},
    "glm4v_moe_text": {"rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}},
    "glm5_next_text": {
        "layer_types": ["linear_attention", "full_attention", "full_attention", "linear_attention"],
        "head_dim": 0,
        "qk_rope_head_dim": 0,
        "index_kpool": 4,
    },
    "granitemoehybrid": {"layer_types": _LINEAR_FULL},
    "inkling2_vision": {"patch_size": 4, "projection_hidden_dim": 32},
    "inkling_audio": {"n_mel_bins": 4, "mel_vocab_size": 16},
    "inkling_vision": {"patch_size": 8},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"]},
    "inkling2_text": {"layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"]},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": _LINEAR_FULL},
    "kolibri1": {"layer_types": _FULL_SLIDING},
    "laguna": {"layer_types": _FULL_SLIDING, "moe_router_logit_softcapping": 4.0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "llama4_text": {"intermediate_size": 24},
    "longcat_flash": {"num_layers": 2, "zero_expert_num": 2},
    "mellum": {"layer_types": _FULL_SLIDING},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse", "full_attention"],
        "intermediate_size": 24,
        "index_n_heads": 2,
        "index_block_size": 4,
        "index_topk_blocks": 2,
        "rotary_dim": 4,
    },
    "mistral4": {
        # It scores in 16 bits: groups that tie by that would be chosen otherwise than in 32; checkpoints have one.
        "n_group": 1,
        "topk_group": 1,
        "rope_parameters": {**_YARN, "llama_4_scaling_beta": 0.1, "partial_rotary_factor": 0.5},
    },
    "mistral_large4_text": {"rope_parameters": {**_YARN, "attention_factor": 1.0}},
    "muse_spark_audio": {"patch_sizes": (4, 2), "hidden_sizes": (8, 16), "depths": (1, 1), "num_hidden_layers": 2},
    "muse_spark_text": {"moe_hidden_size": 16, "output_multiplier": 0.5, "layer_types": _FULL_SLIDING},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe", "linear_attention", "moe"],
        "n_groups": 2,
    },
    "nemotron_h_omni": {"vision_hidden_size": 32},
    "olmoe": {"norm_topk_prob": False},
    "qwen3_omni_moe_text": {"rope_parameters": _MROPE, "sliding_window": None},  # its mask knows no window
    # Published checkpoints name these; the classes have no default for them.
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 24},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 151652},
    "qwen3_vl_moe_text": {"rope_parameters": _MROPE},
    "qwen4_exp_text": {
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "radio": {"video_temporal_patch_size": 2, "num_cls_tokens": 1, "num_registers": 1},
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid", "hybrid_sliding", "hybrid", "hybrid_sliding"],
    },
}

_ROUTER = re.compile(r"\.(gate|router|router_gate)\.")
_SELECTION_BIAS = re.compile(r"\.(e_score_correction_bias|expert_bias|balancing_biases)$")
# Routers whose input has no standard deviation of one per channel, or that scale it or pass it through an MLP.
_GAIN = {"axk2": 2.0, "flex_olmo": 0.6, "gemma4": 32**0.5, "gemma4_text": 32**0.5, "qwen4_exp_text": 2.0, "zaya": 1.25}


@functools.cache
def moe_model_types():
    """List the model types of the installed transformers whose language model, or its backbone, has routers."""
    with warnings.catch_warnings():
        # Some modelling files of other families warn when they are imported, and warnings fail our tests.
        warnings.simplefilter("ignore")
        found = {
            name
            for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING)
            for name in mapping._model_mapping
            if _may_have_routers(name) and _declares_routers(mapping[CONFIG_MAPPING[name]])
        }
    return tuple(sorted(found | {name for name in WRAPPERS if name in CONFIG_MAPPING}))


def _may_have_routers(model_type):
    """Whether a file of the library mentions them: to import all classes that take texts would take long."""
    folder = Path(transformers.__file__).parent / "models" / model_type_to_module_name(model_type)
    return any("router_logits" in path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py"))


def _declares_routers(cls):
    """Whether a model class, or another class of its file (its backbone may be the only one), records router logits."""
    recorded = (getattr(other, "_can_record_outputs", None) for other in vars(sys.modules[cls.__module__]).values())
    return any(isinstance(names, dict) and "router_logits" in names for names in recorded)


def tiny_config(model_type):
    """Build the smallest configuration of a model type that still shows what is special about its routing."""
    return _tiny(CONFIG_MAPPING[model_type])


def _tiny(cls):
    """Take the common sizes that a configuration class declares, then its own; its parts are made the same way."""
    declared = inspect.signature(cls).parameters
    sizes = {name: value for name, value in _COMMON.items() if name in declared}
    if "kv_lora_rank" in sizes and "num_key_value_heads" in sizes:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    for name, part in cls.sub_configs.items():
        wrapped = name == "text_config" and WRAPPERS.get(cls.model_type, ("",))[0]
        default = type(getattr(cls(), name)) if part is AutoConfig and not wrapped else part
        sizes[name] = None if default is type(None) else _tiny(CONFIG_MAPPING[wrapped] if wrapped else default)
    # Copied, since some classes edit the lists that they are given.
    sizes = copy.deepcopy(sizes | _OVERRIDES.get(cls.model_type, {}))
    try:
        return cls(**sizes)
    except TypeError:  # some classes of transformers 5.19 take their parts as mappings alone
        return cls(**{name: value.to_dict() if name in cls.sub_configs else value for name, value in sizes.items()})


def tiny_model(model_type, *, seed=0):
    """Build a float32 model of the real class in evaluation mode, with routers that tell tokens apart.

    Args:
        model_type: One of `moe_model_types()`.
        seed: Same seed, same weights; the caller's random state is left alone.

    Returns:
        The model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto, config = class_of(tiny_config(model_type))
        return randomise(auto.from_config(config, dtype=torch.float32)).eval()


@torch.no_grad()
def randomise(model):
    """Give routers logits of standard deviation one, and draw whatever the library initialises to a constant.

    A selection bias of zeros, or a hash table that sends every token to expert 0, would hide a rule that ignores it.

    Args:
        model: Any of the models above; changed in place.

    Returns:
        The same model.
    """
    gain = _GAIN.get(model.config.model_type, 1.0)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(".tid2eid"):
            n_experts = model.get_submodule(name.rpartition(".")[0]).num_experts
            tensor.copy_(torch.rand(tensor.shape[0], n_experts).topk(tensor.shape[1]).indices)
        elif _SELECTION_BIAS.search(name):
            torch.nn.init.normal_(tensor, std=0.1)
        elif _ROUTER.search(name) and tensor.ndim == 2:
            torch.nn.init.normal_(tensor, std=gain * tensor.shape[1] ** -0.5)
        elif isinstance(tensor, torch.nn.Parameter) and (tensor == tensor.flatten()[0]).all():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model
