"""One declarative row per model family: what its routers are called, where they lie, and how they choose.

Adding a family is adding a row here and its model to the family tests. A row is a claim: discovery reads the loaded
model by its structure and refuses it where the two disagree (`isogloss.backends.huggingface.discovery`), and before
every capture the routers are proven: on a text (`isogloss.backends.huggingface.prove`), or, served by vLLM, on random
hidden states (`isogloss.backends.vllm.prove`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, TypeAlias

from isogloss.errors import ModelError
from isogloss.routing import Scoring

__all__ = ["FAMILIES", "LOWEST_TRANSFORMERS", "REFUSED", "WRAPPERS", "Family", "Returns", "plain_scoring"]

LOWEST_TRANSFORMERS = "5.19.0"

Returns: TypeAlias = Literal["triple", "probabilities", "dense", "sorted", "skipping", "shared", "logits"]
"""The shape of what a router returns; each has its reader in `isogloss.backends.huggingface.router_outputs`."""


@dataclass(frozen=True)
class Family:
    """How one family of transformers models routes.

    Attributes:
        model_type: ``model_type`` of the text configuration.
        router_class: class name of the router module; at most one per decoder layer, layers without are not routed.
        example: a checkpoint on the hub.
        path: the router's name inside its decoder layer.
        scoring: as in `isogloss.routing.RouterSpec`; None where the configuration decides.
        renormalise: whether chosen weights are divided by their sum; None where the router's flag decides.
        selection_bias: name of the bias, on the router or on its block; None for none.
        logit_bias: whether the product that gives the logits has a bias.
        group_score: how groups of experts are scored; None for no groups.
        others_score_zero: as in the spec.
        expert_scale: name of a factor per expert on the weights.
        returns: what the router's forward returns.
        weight: name of the parameter whose product gives the logits; None where it is the only matrix.
        n_extra: attribute that counts rows of that matrix after the routed experts; None for none.
        other_routers: paths of routers of the same class that choose something else than experts of the feed-forward.
        since: lowest version of transformers whose router of this family returns what the row says.
        left_padding: whether left padding changes nothing; where it does, prompts are answered one by one.
        bakes: whether its checkpoints hold biases as the model reads them, so that a plan can be written into them.
        note: what a user should know.
    """

    model_type: str
    router_class: str
    example: str
    path: str = "mlp.gate"
    scoring: Scoring | None = "softmax"
    renormalise: bool | None = None
    selection_bias: str | None = None
    group_score: Literal["max", "top2_sum"] | None = None
    others_score_zero: bool = False
    expert_scale: str | None = None
    logit_bias: bool = False
    returns: Returns = "triple"
    weight: str | None = None
    n_extra: str | None = None
    other_routers: tuple[str, ...] = ()
    since: str = LOWEST_TRANSFORMERS
    left_padding: bool = True
    bakes: bool = True
    note: str = ""


_TWO_STACKS = "an encoder reads the text and a decoder writes another; both have routers, and layers of equal numbers"
_STAYS = "its layers cannot be offloaded"
_BIAS = "e_score_correction_bias"
_softmax = partial(Family, scoring="softmax")
_topk_softmax = partial(Family, scoring="topk_softmax", renormalise=True)
_granite = partial(_topk_softmax, path="block_sparse_moe.router", since="5.21.0")
_sigmoid = partial(Family, scoring="sigmoid", selection_bias=_BIAS)
_grouped = partial(_sigmoid, group_score="top2_sum")
_softmax_grouped = partial(
    _softmax,
    others_score_zero=True,
    note="experts forced into more groups than the router keeps are chosen with weight 0",
)
_deepseek_v2 = partial(_softmax_grouped, renormalise=False, group_score="max")

_ROWS = (
    _sigmoid(
        "afmoe",
        "AfmoeTokenChoiceRouter",
        "arcee-ai/Trinity-Mini",
        path="mlp.router",
        renormalise=True,
        selection_bias="expert_bias",
    ),
    _topk_softmax("aria_text", "AriaTextTopKRouter", "rhymes-ai/Aria", path="mlp.router", since="5.21.0"),
    _grouped("axk1", "AXK1TopkRouter", "skt/A.X-K1"),
    _grouped("axk2", "AXK2TopkRouter", "skt/A.X-K2", others_score_zero=True),
    _grouped("bailing_hybrid", "BailingHybridTopkRouter", "inclusionAI/Ling-3.0-Flash"),
    _grouped("beam", "BeamTopKRouter", "reflection/Beam-1.0-501B-A23B"),
    Family("cohere2_moe", "Cohere2MoeTopKRouter", "CohereLabs/command-a-plus-05-2026", scoring=None),
    _softmax(
        "dbrx",
        "DbrxRouter",
        "transformers-community/dbrx-instruct",
        path="ffn.router",
        returns="logits",
        note=f"the router returns logits only; expert ids are read where the experts receive them; {_STAYS}",
    ),
    _deepseek_v2("deepseek_ocr2_text", "DeepseekOcr2TextTopkRouter", "deepseek-community/DeepSeek-OCR-2"),
    _deepseek_v2("deepseek_v2", "DeepseekV2TopkRouter", "deepseek-ai/DeepSeek-V2-Lite"),
    _grouped("deepseek_v3", "DeepseekV3TopkRouter", "deepseek-ai/DeepSeek-V3"),
    _grouped("deepseek_v32", "DeepseekV32TopkRouter", "deepseek-ai/DeepSeek-V3.2-Exp"),
    _sigmoid(
        "deepseek_v4",
        "DeepseekV4TopKRouter",
        "deepseek-ai/DeepSeek-V4-Flash-Base",
        scoring=None,
        renormalise=True,
        since="5.20.0",
        left_padding=False,
        note="layers that route by a hash of the token are not routed by logits and are left out",
    ),
    _grouped("dots1", "Dots1TopkRouter", "rednote-hilab/dots.llm1.base"),
    _grouped("dots3_note_text", "Dots3NoteTextTopkRouter", "dots-studio/dots3-note-prev"),
    _softmax(
        "ernie4_5_moe",
        "Ernie4_5_MoeTopKRouter",
        "baidu/ERNIE-4.5-21B-A3B-PT",
        renormalise=True,
        selection_bias=f"moe_statics.{_BIAS}",
        weight="weight",
    ),
    _softmax(
        "ernie4_5_vl_moe_text",
        "Ernie4_5_VLMoeMoeTopKRouter",
        "baidu/ERNIE-4.5-VL-28B-A3B-PT",
        path="mlp.text_moe.gate",
        renormalise=True,
        selection_bias=f"moe_statics.{_BIAS}",
        weight="weight",
        other_routers=("mlp.vision_moe.gate",),
        bakes=False,
        note=(
            "tokens of images have experts of their own, whose routing is neither captured nor steered; "
            "its files hold routers turned round, into which nothing can be baked"
        ),
    ),
    _grouped("exaone_moe", "ExaoneMoeTopkRouter", "LGAI-EXAONE/K-EXAONE-236B-A23B"),
    _softmax("flex_olmo", "FlexOlmoTopKRouter", "allenai/FlexOlmo-7x7B-1T"),
    _sigmoid("flint", "FlintTopKRouter", "RecursiveSI/flint", selection_bias=None),
    _softmax(
        "gemma4_text",
        "Gemma4TextRouter",
        "google/gemma-4-26B-A4B-it",
        path="router",
        renormalise=True,
        expert_scale="per_expert_scale",
        returns="probabilities",
        note="the router returns probabilities; logits are their logarithms, known up to a constant per token",
    ),
    _grouped("glm4_moe", "Glm4MoeTopkRouter", "zai-org/GLM-4.5"),
    _grouped("glm4_moe_lite", "Glm4MoeLiteTopkRouter", "zai-org/GLM-4.7-Flash"),
    _grouped("glm4v_moe_text", "Glm4vMoeTextTopkRouter", "zai-org/GLM-4.5V"),
    _grouped("glm5_next_text", "Glm5NextTextTopkRouter", "zai-org/GLM-5.3-Flash"),
    _grouped("glm_moe_dsa", "GlmMoeDsaTopkRouter", "zai-org/GLM-5", left_padding=False),
    _topk_softmax(
        "gpt_oss",
        "GptOssTopKRouter",
        "openai/gpt-oss-20b",
        path="mlp.router",
        logit_bias=True,
        note="MXFP4 kernels never call the router: load with --dequantize where they are installed",
    ),
    _granite("granitemoe", "GraniteMoeTopKRouter", "ibm-granite/granite-3.1-3b-a800m-instruct"),
    _granite("granitemoe_swa", "GraniteMoeSWATopKRouter", "ibm-granite/granite-swash-3b-a600m"),
    _granite("granitemoehybrid", "GraniteMoeHybridTopKRouter", "ibm-granite/granite-4.0-h-tiny"),
    _granite("granitemoeshared", "GraniteMoeSharedTopKRouter", "ibm-research/moe-7b-1b-active-shared-experts"),
    _softmax("hunyuan_v1_moe", "HunYuanMoEV1Gate", "tencent/Hunyuan-A13B-Instruct", renormalise=True),
    _sigmoid("hy_v3", "HYV3TopKRouter", "tencent/Hy3-preview", renormalise=True),
    _grouped("hy_v4", "HYV4TopkRouter", "tencent/Hy4-preview"),
    _sigmoid(
        "inkling2_text",
        "Inkling2TopKRouter",
        "thinkingmachines/Inkling-2-Small-MXFP8",
        scoring=None,
        renormalise=True,
    ),
    _sigmoid(
        "inkling_text",
        "InklingTopkRouter",
        "thinkingmachines/Inkling",
        renormalise=True,
        returns="shared",
        n_extra="n_shared_experts",
        since="5.23.0",
        note="weights are those among the routed experts, which share the router's sum with shared ones",
    ),
    _softmax(
        "jamba", "JambaTopKRouter", "ai21labs/Jamba-v0.1", path="feed_forward.router", renormalise=False, since="5.21.0"
    ),
    _topk_softmax(
        "jetmoe",
        "JetMoeTopKGating",
        "jetmoe/jetmoe-8b",
        path="mlp.router",
        returns="sorted",
        other_routers=("self_attention.experts.router",),
        note=f"attention has experts of its own, whose routing is neither captured nor steered; {_STAYS}",
    ),
    _grouped("kimi_linear", "KimiLinearTopkRouter", "moonshotai/Kimi-Linear-48B-A3B-Instruct"),
    _sigmoid("kolibri1", "Kolibri1TopKRouter", "Aleph-Alpha/Kolibri-1", scoring="topk_sigmoid"),
    _sigmoid("laguna", "LagunaTopKRouter", "poolside/laguna-XS.2", renormalise=True),
    _sigmoid(
        "lfm2_moe", "Lfm2MoeTopKRouter", "LiquidAI/LFM2-8B-A1B", path="feed_forward.gate", selection_bias="expert_bias"
    ),
    Family(
        "llama4_text",
        "Llama4Router",
        "meta-llama/Llama-4-Scout-17B-16E",
        path="feed_forward.router",
        scoring="topk_sigmoid",
        renormalise=False,
        returns="dense",
    ),
    _softmax(
        "longcat_flash",
        "LongcatFlashTopkRouter",
        "meituan-longcat/LongCat-Flash-Chat",
        path="mlp.router",
        renormalise=False,
        selection_bias=_BIAS,
        note=f"the last classes mean no computation and count as experts; {_STAYS}",
    ),
    _softmax("mellum", "MellumTopKRouter", "JetBrains/Mellum2-12B-A2.5B-Base"),
    _grouped("mimo_v2_flash", "MiMoV2FlashTopkRouter", "XiaomiMiMo/MiMo-V2-Flash"),
    _softmax("minimax", "MiniMaxTopKRouter", "MiniMaxAI/MiniMax-Text-01-hf", renormalise=True),
    _sigmoid("minimax_m2", "MiniMaxM2TopKRouter", "MiniMaxAI/MiniMax-M2", renormalise=True),
    _sigmoid(
        "minimax_m3_vl_text",
        "MiniMaxM3VLTopKRouter",
        "MiniMaxAI/MiniMax-M3",
        renormalise=True,
        left_padding=False,
    ),
    _softmax("mistral4", "Mistral4TopkRouter", "mistralai/Mistral-Small-4-119B-2603"),
    _softmax_grouped(
        "mistral_large4_text",
        "MistralLarge4TextTopkRouter",
        "mistralai/Mistral-Large-4-1T-A52B",
        renormalise=True,
        group_score="top2_sum",
    ),
    _softmax("mixtral", "MixtralTopKRouter", "mistralai/Mixtral-8x7B-v0.1", renormalise=True),
    _sigmoid(
        "muse_spark_text",
        "MuseSparkTopkRouter",
        "meta-models/Muse-Spark-Open-816B-A42B",
        renormalise=True,
        note="plans edit the product with the router's weight, which is then multiplied by output_multiplier",
    ),
    _grouped("nemotron_h", "NemotronHTopkRouter", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", path="mixer.gate"),
    _softmax("olmoe", "OlmoeTopKRouter", "allenai/OLMoE-1B-7B-0924"),
    Family(
        "phimoe",
        "PhimoeTopKRouter",
        "microsoft/Phi-3.5-MoE-instruct",
        path="mlp.router",
        scoring="sparsemixer",
        renormalise=False,
    ),
    _softmax("qwen2_moe", "Qwen2MoeTopKRouter", "Qwen/Qwen1.5-MoE-A2.7B"),
    _softmax("qwen3_5_moe_text", "Qwen3_5MoeTopKRouter", "Qwen/Qwen3.5-35B-A3B", renormalise=True),
    _softmax("qwen3_moe", "Qwen3MoeTopKRouter", "Qwen/Qwen3-30B-A3B"),
    _softmax("qwen3_omni_moe_text", "Qwen3OmniMoeThinkerTextTopKRouter", "Qwen/Qwen3-Omni-30B-A3B-Instruct"),
    _softmax("qwen3_next", "Qwen3NextTopKRouter", "Qwen/Qwen3-Next-80B-A3B-Instruct"),
    _softmax("qwen3_vl_moe_text", "Qwen3VLMoeTextTopKRouter", "Qwen/Qwen3-VL-30B-A3B-Instruct", renormalise=True),
    _softmax("qwen4_exp_text", "Qwen4ExpTextTopKRouter", "Qwen/Qwen4-Exp"),
    _grouped("solar_open", "SolarOpenTopkRouter", "upstage/Solar-Open-100B"),
    _sigmoid("step3p5", "Step3p7TopKRouter", "stepfun-ai/Step-3.7-Flash", renormalise=True),
    _softmax(
        "zaya",
        "ZayaRouter",
        "Zyphra/ZAYA1-8B",
        renormalise=False,
        selection_bias="balancing_biases",
        returns="skipping",
        weight="router_mlp.out_proj.weight",
        bakes=False,
        note=(
            "the last class skips the layer and counts as an expert; "
            "transformers 5.23 overwrites its bias with -1 when it loads a checkpoint"
        ),
    ),
)

FAMILIES = MappingProxyType({row.model_type: row for row in _ROWS})

WRAPPERS = MappingProxyType(
    {
        "internvl": ("qwen3_moe", "OpenGVLab/InternVL3_5-30B-A3B-HF"),
        "kimi_k25": ("deepseek_v3", "moonshotai/Kimi-K2.6"),
        "mistral3": ("mistral4", "mistralai/Mistral-Small-4-119B-2603"),
        "nemotron_h_omni": ("nemotron_h", "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16"),
    }
)
"""Multimodal classes that take any text model, with one that they are proven around, and a checkpoint on the hub."""

REFUSED = MappingProxyType(
    {
        "diffusion_gemma": "it writes blocks of tokens and changes them step by step; no token follows another",
        "doge": "experts are retrieved by pairs of product keys; there are no router logits over experts",
        "nllb-moe": _TWO_STACKS,
        "openai_privacy_filter": "it labels the tokens of a text and writes none",
        "switch_transformers": _TWO_STACKS,
        "unlimited_ocr": "what a token attends to, and so its routing, depends on whether it was given or written",
    }
)
"""Model types of Mixture-of-Experts models that read texts, are known and not supported, with the reason."""


def plain_scoring(model_type: str, served: Scoring, *, renormalises: bool) -> Scoring:
    """Return the scoring of a served router without bias and groups, as its family has it.

    To serving engines, softmax before the choice, renormalised, and softmax after it are one: the weights are equal.
    What is ranked, and so the unit of what is added for the choice alone, is not.

    Args:
        model_type: of the model.
        served: the scoring that the engine names.
        renormalises: whether the engine divides the chosen weights by their sum.

    Raises:
        ModelError: the family is not known, or another one than the engine says; the message is a part of a sentence.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelError(f"is of {model_type}, of which it is not known here whether it ranks scores or logits")
    if family.scoring == "topk_softmax" and served == "softmax" and renormalises:
        return "topk_softmax"
    if family.scoring not in (served, None):
        raise ModelError(f"scores by {served}, routers of {model_type} by {family.scoring}")
    return served
