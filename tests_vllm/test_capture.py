"""What a capture on vLLM records: the same, for the same texts, as the forwards of transformers."""

from __future__ import annotations

import copy
import dataclasses
import functools

import numpy as np
import pytest
import safetensors.numpy

from checkpoints import TEXTS as SHORT
from checkpoints import checkpoint, prompts
from isogloss.backends.configuration import generation_settings
from isogloss.backends.huggingface import capture, load_model, steer
from isogloss.backends.huggingface.capture import counted_ids
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.backends.model import CaptureOptions
from isogloss.backends.vllm import answers
from isogloss.backends.vllm.answers import generation_config
from isogloss.backends.vllm.capture import capture as capture_served
from isogloss.backends.vllm.capture import counted_ids as served_ids
from isogloss.backends.vllm.capture import reader_of
from isogloss.backends.vllm.loading import serve_model
from isogloss.backends.vllm.model import VLLMModel
from isogloss.backends.vllm.plugin.record import ITEM
from isogloss.backends.vllm.prove import prove_served
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, IsoglossError, ModelError, PlanError, RunError
from isogloss.steering import Intervention, Plan
from isogloss.workflows.capture import CaptureRequest, capture_corpus

# With a bias on the choice and groups (deepseek_v3), one in the gate (gpt_oss), neither (qwen3_moe).
FAMILIES = ("qwen3_moe", "deepseek_v3", "gpt_oss")
TEXTS = (*SHORT, SHORT[0])
ITEM_IDS = [f"item-{index}" for index in range(len(TEXTS))]
MAX_MODEL_LEN = 192
# Fewer tokens than most texts have: they run in several steps, most of which hold parts of several texts.
STEP = 16
TOLERANCE = {"profiles": 2e-5, "distinct_profiles": 2e-5, "entropy": 2e-5, "consistency": 1e-5}

PROMPT = CaptureOptions(sampled_tokens=7)
OPTIONS = {
    "content": PROMPT,
    "all": dataclasses.replace(PROMPT, token_scope="all"),
    "portions": dataclasses.replace(PROMPT, batch_tokens=64),
    "generation": dataclasses.replace(PROMPT, phase="generation", new_tokens=9),
    "generation-portions": CaptureOptions("all", batch_tokens=1, phase="generation", new_tokens=5, seed=3),
}

CORPUS = Corpus(
    "small",
    {
        "eng_Latn": ("The river is wide.", "Anna gives the cup to Omar."),
        "deu_Latn": ("Der Fluss ist breit.", "Anna gibt Omar die Tasse."),
        "rus_Cyrl": ("Река широка.", "Анна даёт Омару чашку."),
    },
    ("1", "2"),
    "CC0-1.0",
    "test",
)


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, engines):
    """A family's checkpoint in vLLM; overrides the fixture of all families."""
    engines.free()
    options = {
        "enforce_eager": True,
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": 4,
        "max_num_batched_tokens": STEP,
        "kv_cache_memory_bytes": 2**26,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if request.param == "deepseek_v3":
        options["compilation_config"] = {"custom_ops": ["-rotary_embedding"]}  # see `engines`
    model = serve_model(str(checkpoint(request.param)), dtype="float32", record=True, n_slots=4, options=options)
    model.family_name = request.param
    yield model
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: PLC0415 - see `engines`

    model.engine.llm_engine.engine_core.shutdown()
    model.engine = None
    cleanup_dist_env_and_memory()


@functools.cache
def reference(family):
    """The same checkpoint in transformers."""
    return load_model(str(checkpoint(family)), dtype="float32")


@pytest.fixture
def loaded(served):
    """The same checkpoint in transformers; overrides the fixture of all families."""
    return reference(served.family_name)


def require_equal(found, expected):
    """Fail unless two captures are equal, floats up to rounding; return the largest difference."""
    assert found.arrays().keys() == expected.arrays().keys()
    largest = 0.0
    for name, array in expected.arrays().items():
        mine = found.arrays()[name]
        assert (mine.shape, mine.dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(mine, array, rtol=0, atol=TOLERANCE.get(name, 0), err_msg=name)
        if name in TOLERANCE:
            largest = max(largest, float(np.nan_to_num(np.abs(mine - array)).max()))
    return largest


def by_phase(fingerprint):
    """A plan with another rule for prompt and generation, of a kind that edits logits and one that fixes choices."""
    rules = []
    for layer in fingerprint.layers:
        rules.append(Intervention("force", layer, (6,), phase="generation"))
        rules.append(Intervention("force", layer, (2,), phase="prompt"))
        rules.append(Intervention("soft", layer, (4,), strength=0.5))
    return Plan(fingerprint, tuple(rules))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_capture_is_that_of_transformers(served, loaded, name, record_property):
    """Every array, distinct tokens included, of texts of mixed lengths whose tokens run in steps of 16."""
    options = OPTIONS[name]
    pivot = counted_ids(loaded, TEXTS[:1], ITEM_IDS[:1], options)
    np.testing.assert_array_equal(served_ids(served, TEXTS[:1], ITEM_IDS[:1], options), pivot)
    told = []
    found = capture_served(served, TEXTS, ITEM_IDS, options=options, pivot_ids=pivot, progress=told.append)
    expected = capture(loaded, TEXTS, ITEM_IDS, options=options, pivot_ids=pivot)
    record_property("largest_difference", require_equal(found, expected))
    assert sum(told) == len(TEXTS)
    assert 0 < found.distinct_tokens.sum() < found.tokens.sum()


def test_every_counted_token_is_recorded_once(served):
    """Each adds one softmax and top_k choices to every layer, whatever steps it ran in, and no other token does."""
    found = capture_served(served, TEXTS, ITEM_IDS, options=CaptureOptions("all"))
    lengths = [len(served.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert found.tokens.tolist() == lengths
    if served.family_name != "deepseek_v3":  # on a processor, vLLM cannot split prompts where attention is latent
        assert served.engine.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens == STEP < max(lengths) // 2
    top_k = served.specs[0].top_k
    np.testing.assert_array_equal(
        found.selections.sum(2), np.repeat([[top_k]], len(served.specs), 1) * found.tokens[:, None]
    )
    np.testing.assert_allclose(found.profiles.sum(2), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["content", "generation"])
def test_a_plan_by_phase_acts_on_the_tokens_of_its_phase(served, loaded, name):
    """The continuation, read back as part of a prompt, is edited and counted as what it is: generated."""
    options, plan = OPTIONS[name], by_phase(served.fingerprint)
    with served.steered(plan):
        found = capture_served(served, TEXTS, ITEM_IDS, options=options)
    with steer(loaded, plan):
        expected = capture(loaded, TEXTS, ITEM_IDS, options=options)
    require_equal(found, expected)
    forced, free = (2, 6) if name == "content" else (6, 2)
    assert (found.selections[:, :, forced] == found.tokens[:, None]).all()
    assert (found.selections[:, :, free] < found.tokens[:, None]).any()


def written(capture_, model, options):
    """What a model wrote after the texts: how much, and which ids how often."""
    found = capture_(model, TEXTS, ITEM_IDS, options=options)
    return found.tokens.tolist(), found.vocabulary.tolist(), found.vocabulary_counts.tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_texts_end_where_those_of_transformers_end(served, loaded, monkeypatch, penalty):
    """At each token that the model's generation configuration calls an end, but never before one other is written."""
    options = CaptureOptions("all", phase="generation", new_tokens=9)
    config = loaded.model.generation_config
    assert generation_config(served).get("eos_token_id") is config.eos_token_id is None
    changed = copy.deepcopy(config)
    changed.update(repetition_penalty=penalty)
    monkeypatch.setattr(loaded.model, "generation_config", changed)
    monkeypatch.setattr(answers, "generation_config", lambda _served: generation_settings(changed))
    first, *others = reader_of(served).write(prompts(), max_new_tokens=9)
    later = next(
        token for text in others if text[0] != first[0] for token in text[1:] if token not in (first[0], text[0])
    )
    ends = [first[0], later]
    changed.update(eos_token_id=ends)
    found, expected = written(capture_served, served, options), written(capture, loaded, options)
    assert found == expected
    assert min(found[0]) < max(found[0])
    assert not set(ends) & set(found[1])


def test_a_token_that_does_not_run_is_an_error(served):
    """An item that no request was made for, or whose request was too short, is not taken for one that was recorded."""
    from vllm import SamplingParams  # noqa: PLC0415 - see `engines`

    def run():
        how = SamplingParams(max_tokens=1, extra_args={ITEM: 0})
        with served.recording([{"counted": [0, 1]}] * 2):
            served.engine.generate([{"prompt_token_ids": [5, 6]}], [how], use_tqdm=False)

    with pytest.raises(IsoglossError, match="of item 1 first"):
        run()


def test_a_text_that_leaves_no_room_is_refused_by_name(served):
    """The engine takes one token less than its limit, since it always writes one; the text before it is captured."""
    words = "a" * 300
    text = next(words[:n] for n in range(300) if len(served.tokenizer(words[:n])["input_ids"]) == MAX_MODEL_LEN - 1)
    longer = next(words[:n] for n in range(300) if len(served.tokenizer(words[:n])["input_ids"]) == MAX_MODEL_LEN)
    everything = CaptureOptions("all")
    assert capture_served(served, [text], ["long"], options=everything).tokens.tolist() == [MAX_MODEL_LEN - 1]
    with pytest.raises(CorpusError, match="item long has 192 tokens; the model takes 191: give --engine max_model_len"):
        capture_served(served, [longer], ["long"], options=everything)
    writing = CaptureOptions("all", phase="generation", new_tokens=1)
    with pytest.raises(CorpusError, match="item long has 191 tokens and 1 to be written"):
        capture_served(served, [text], ["long"], options=writing)


def test_hidden_states_are_refused(served, tmp_path):
    """The message says which backend keeps them; nothing is written."""
    options = CaptureOptions(hidden_states=True)
    with pytest.raises(ModelError, match="--backend huggingface alone"):
        capture_served(served, TEXTS, ITEM_IDS, options=options)
    with pytest.raises(ModelError, match="--backend huggingface alone"):
        capture_corpus(VLLMModel(served), CORPUS, tmp_path / "run", CaptureRequest(options))
    assert not (tmp_path / "run").exists()


def test_the_routers_are_proven(served):
    """Of random hidden states, every layer's choices are those of the reference router."""
    proof = prove_served(served)
    assert STEP <= proof.n_tokens <= 256
    assert proof.n_handed == len(served.specs)
    assert proof.deviation <= 1e-4


def tampered(served, monkeypatch, change):
    """Let the probe's arrays of the second routed layer be changed on their way."""
    call, layer = served.call, served.specs[1].layer

    def calling(method, *args):
        contents = call(method, *args)
        arrays = safetensors.numpy.load(contents[0])
        change(arrays, layer)
        return [safetensors.numpy.save(arrays)]

    monkeypatch.setattr(served, "call", calling)
    return layer


def other_expert(arrays, layer):
    """One token gets an expert that its router did not choose."""
    chosen = arrays[f"{layer}.chosen"]
    chosen[0, 0] = next(expert for expert in range(8) if expert not in chosen[0])


def twice(arrays, layer):
    """One token gets an expert twice, though another is as good."""
    logits, chosen = arrays[f"{layer}.logits"], arrays[f"{layer}.chosen"]
    logits[0, chosen[0]] = logits[0].max()
    chosen[0] = chosen[0, 0]


def other_bias(arrays, layer):
    """The bias is lost, or there is one."""
    if arrays.pop(f"{layer}.bias", None) is None:
        arrays[f"{layer}.bias"] = np.ones(arrays[f"{layer}.logits"].shape[1], dtype=np.float32)


def narrow(arrays, layer):
    """An expert's logits are missing."""
    arrays[f"{layer}.logits"] = np.ascontiguousarray(arrays[f"{layer}.logits"][:, :-1])


def unseen(arrays, layer):
    """The layer has not run."""
    del arrays[f"{layer}.chosen"]


@pytest.mark.parametrize("change", [other_expert, twice, other_bias, narrow, unseen])
def test_routers_that_choose_otherwise_are_refused(served, monkeypatch, change):
    """The message names the layer."""
    layer = tampered(served, monkeypatch, change)
    with pytest.raises(ModelError, match=f"layer {layer}"):
        prove_served(served)


def test_a_run_is_that_of_transformers_but_for_its_backend(served, loaded, tmp_path):
    """Under a plan by language and phase, with distinct tokens, in parts; neither goes on with what the other began."""
    rules = [
        Intervention("ban", layer, (expert,), phase=phase, languages=(code,))
        for layer in served.fingerprint.layers
        for code, expert, phase in (("eng_Latn", 1, "generation"), ("deu_Latn", 3, "prompt"), ("deu_Latn", 5, "both"))
    ]
    plan = Plan(served.fingerprint, tuple(rules))
    options = CaptureOptions(phase="generation", new_tokens=4)
    request = CaptureRequest(options, plan, distinct_from="eng_Latn")
    ours, theirs = tmp_path / "vllm", tmp_path / "huggingface"
    capture_corpus(VLLMModel(served), CORPUS, ours, dataclasses.replace(request, languages=("de",)))
    found, expected = (
        capture_corpus(VLLMModel(served), CORPUS, ours, request),
        capture_corpus(HuggingFaceModel(loaded), CORPUS, theirs, request),
    )
    for code in CORPUS.languages:
        require_equal(found.load(code), expected.load(code))
    assert found.load("deu_Latn").selections[:, :, 5].sum() == 0
    header, other = found.manifest, expected.manifest
    assert header.backend == "vllm"
    assert header.packages.keys() - other.packages.keys() == {"vllm"}
    fields = {
        "backend": other.backend,
        "packages": other.packages,
        "threads": other.threads,
        "languages": other.languages,
    }
    assert dataclasses.replace(header, **fields) == other
    for model, folder in ((HuggingFaceModel(loaded), ours), (VLLMModel(served), theirs)):
        with pytest.raises(RunError, match=r"differs in .*backend"):
            capture_corpus(model, CORPUS, folder, request)


def test_a_plan_for_another_model_captures_nothing(served, tmp_path):
    """The engine refuses it, and no language is written."""
    other = dataclasses.replace(served.fingerprint, router_sha256="0" * 64)
    plan = Plan(other, (Intervention("ban", served.specs[0].layer, (1,)),))
    with pytest.raises(PlanError):
        capture_corpus(VLLMModel(served), CORPUS, tmp_path / "run", CaptureRequest(plan=plan))
    assert served.call("isogloss_status")[0]["plan_sha256"] is None
