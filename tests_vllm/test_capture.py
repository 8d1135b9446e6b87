"""What a capture on vLLM records: the same, for the same texts, as the forwards of transformers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil

import datasets
import numpy as np
import published_layouts as layouts
import pytest
import safetensors.numpy
import safetensors.torch
from chat_templates import CHATML

from checkpoints import TEXTS as SHORT
from checkpoints import checkpoint, prompts
from family_options import FAMILY_OPTIONS
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.configuration import generation_settings
from isogloss.backends.huggingface import load_model, steer
from isogloss.backends.stored_tensors import hash_files
from isogloss.backends.vllm.capture import read_served
from isogloss.backends.vllm.model import serve_model
from isogloss.backends.vllm.plugin.requests import ITEM
from isogloss.backends.vllm.prove import prove_served
from isogloss.corpora import Corpus, Turns
from isogloss.errors import CorpusError, IsoglossError, ModelError, PlanError, RunError
from isogloss.evaluation import load_task
from isogloss.runs import open_run
from isogloss.steering import Intervention, Plan
from isogloss.workflows import find_study, run_study
from isogloss.workflows.capture import capture_corpus

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
    "first tokens": dataclasses.replace(PROMPT, first_tokens=4),
    "generation": dataclasses.replace(PROMPT, phase="generation", new_tokens=9),
    "token counts": dataclasses.replace(PROMPT, token_counts=True, batch_tokens=64),
    "generation-counts": dataclasses.replace(PROMPT, phase="generation", new_tokens=9, token_counts=True),
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
    options |= FAMILY_OPTIONS.get(request.param, {})
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
    pivot = loaded.counted_ids(TEXTS[:1], ITEM_IDS[:1], options)
    np.testing.assert_array_equal(served.counted_ids(TEXTS[:1], ITEM_IDS[:1], options), pivot)
    told = []
    found = served.capture(TEXTS, ITEM_IDS, options=options, pivot_ids=pivot, progress=told.append)
    expected = loaded.capture(TEXTS, ITEM_IDS, options=options, pivot_ids=pivot)
    record_property("largest_difference", require_equal(found, expected))
    assert sum(told) == len(TEXTS)
    assert 0 < found.distinct_tokens.sum() < found.tokens.sum()


CHATS = {
    "chat-all": CaptureOptions("all", chat=True, sampled_tokens=7),
    "chat-assistant": CaptureOptions("assistant", chat=True, sampled_tokens=7, token_counts=True),
    "chat-generation": CaptureOptions(chat=True, phase="generation", new_tokens=5),
}


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_that_of_transformers(served, loaded, name, monkeypatch):
    """Question and answer through the template: the same tokens are counted, with the same routing."""
    for model in (served, loaded):
        monkeypatch.setattr(model.tokenizer, "chat_template", CHATML)
    turns = [Turns(text, answer) for text, answer in zip(TEXTS, reversed(TEXTS), strict=True)]
    found = served.capture(turns, ITEM_IDS, options=CHATS[name])
    require_equal(found, loaded.capture(turns, ITEM_IDS, options=CHATS[name]))
    assert not np.array_equal(found.tokens, served.capture(TEXTS, ITEM_IDS).tokens)


def test_a_recipe_runs_on_both_engines(served, loaded, tmp_path, monkeypatch):
    """The same chats, task experts and answers, whichever engine the settings name; it is asked for as they say."""
    if served.family_name != "qwen3_moe":
        pytest.skip("one family shows it")
    few, asked = ("en", "de", "sw"), []
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    layouts.belebele(tmp_path / "belebele", few, n_passages=3)
    layouts.gsm8k_instruct(tmp_path / "gsm", n_items=4)
    layouts.mgsm(tmp_path / "mgsm", few, n_items=1)
    study = dataclasses.replace(
        find_study("paper-a/qwen3-mgsm").study,
        corpus=f"belebele:{tmp_path}/belebele",
        task_corpus=f"gsm8k_instruct:{tmp_path}/gsm",
        task=f"mgsm:{tmp_path}/mgsm",
        layers=(3, 3),
        threshold=0.01,
        arms=("suppress", "multilingual"),
        n_controls=0,
        languages=few,
        eval_languages=few,
        engine={"enforce_eager": True},
    )
    for model in (served, loaded):
        monkeypatch.setattr(model.tokenizer, "chat_template", CHATML)

    def load(name, **options):
        asked.append((name, options["backend"], options["engine"]))
        return {"vllm": served, "huggingface": loaded}[options["backend"]]

    monkeypatch.setattr("isogloss.workflows.settings.load", load)
    monkeypatch.setattr(
        "isogloss.workflows.study.run.load_task",
        lambda *names, **options: dataclasses.replace(load_task(*names, **options), max_new_tokens=3),
    )
    by_vllm = run_study(study, tmp_path / "vllm")
    other = dataclasses.replace(study, backend="huggingface", engine={})
    by_transformers = run_study(other, tmp_path / "huggingface")
    assert asked == [(study.model, "vllm", {"enforce_eager": True}), (study.model, "huggingface", {})]
    assert open_run(tmp_path / "vllm" / "run").manifest.backend == "vllm"
    assert by_vllm.plan.interventions == by_transformers.plan.interventions
    assert by_vllm.evaluation.arms == by_transformers.evaluation.arms
    for language in ("deu_Latn", "eng_Latn", "swh_Latn"):
        ours, theirs = (open_run(tmp_path / name / "run").load(language) for name in ("vllm", "huggingface"))
        require_equal(ours, theirs)


def test_every_counted_token_is_recorded_once(served):
    """Each adds one softmax and top_k choices to every layer, whatever steps it ran in, and no other token does."""
    found = served.capture(TEXTS, ITEM_IDS, options=CaptureOptions("all"))
    lengths = [len(served.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert found.tokens.tolist() == lengths
    if served.family_name != "deepseek_v3":  # on a processor, vLLM cannot split prompts where attention is latent
        assert served.engine.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens == STEP < max(lengths) // 2
    top_k = served.routers[0].top_k
    np.testing.assert_array_equal(
        found.selections.sum(2), np.repeat([[top_k]], len(served.routers), 1) * found.tokens[:, None]
    )
    np.testing.assert_allclose(found.profiles.sum(2), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["content", "generation"])
def test_a_plan_by_phase_acts_on_the_tokens_of_its_phase(served, loaded, name):
    """The continuation, read back as part of a prompt, is edited and counted as what it is: generated."""
    options, plan = OPTIONS[name], by_phase(served.fingerprint)
    with served.steer(plan):
        found = served.capture(TEXTS, ITEM_IDS, options=options)
    with steer(loaded, plan):
        expected = loaded.capture(TEXTS, ITEM_IDS, options=options)
    require_equal(found, expected)
    forced, free = (2, 6) if name == "content" else (6, 2)
    assert (found.selections[:, :, forced] == found.tokens[:, None]).all()
    assert (found.selections[:, :, free] < found.tokens[:, None]).any()


def written(model, options):
    """What a model wrote after the texts: how much, and which ids how often."""
    found = model.capture(TEXTS, ITEM_IDS, options=options)
    return found.tokens.tolist(), found.vocabulary.tolist(), found.vocabulary_counts.tolist()


def test_texts_end_where_those_of_transformers_end(served, loaded, monkeypatch):
    """At each token that the model's generation configuration calls an end, but never before one other is written."""
    options = CaptureOptions("all", phase="generation", new_tokens=9)
    config = loaded.model.generation_config
    assert served.generation_settings().get("eos_token_id") is config.eos_token_id is None
    changed = copy.deepcopy(config)
    changed.update(repetition_penalty=1.5)  # which is set aside
    monkeypatch.setattr(loaded.model, "generation_config", changed)
    monkeypatch.setattr(served, "generation_settings", lambda: generation_settings(changed))
    first, *others = read_served(served).write(prompts(), max_new_tokens=9)
    later = next(
        token for text in others if text[0] != first[0] for token in text[1:] if token not in (first[0], text[0])
    )
    ends = [first[0], later]
    changed.update(eos_token_id=ends)
    found, expected = written(served, options), written(loaded, options)
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
    assert served.capture([text], ["long"], options=everything).tokens.tolist() == [MAX_MODEL_LEN - 1]
    with pytest.raises(CorpusError, match="item long has 192 tokens; the model takes 191: give --engine max_model_len"):
        served.capture([longer], ["long"], options=everything)
    writing = CaptureOptions("all", phase="generation", new_tokens=1)
    with pytest.raises(CorpusError, match="item long has 191 tokens and 1 to be written"):
        served.capture([text], ["long"], options=writing)


def test_hidden_states_are_refused(served, tmp_path):
    """The message says which backend keeps them; nothing is written."""
    options = CaptureOptions(hidden_states=True)
    with pytest.raises(ModelError, match="--backend huggingface alone"):
        served.capture(TEXTS, ITEM_IDS, options=options)
    with pytest.raises(ModelError, match="--backend huggingface alone"):
        capture_corpus(served, CORPUS, tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()


def test_the_routers_are_proven(served):
    """Of random hidden states, every layer's choices are those of the reference router."""
    proof = prove_served(served)
    assert STEP <= proof.n_tokens <= 256
    assert proof.n_handed == len(served.routers)
    assert proof.deviation <= 1e-4


def tampered(served, monkeypatch, change):
    """Let the probe's arrays of the second routed layer be changed on their way."""
    call, layer = served.call, served.routers[1].layer

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
    request = {"options": options, "plan": plan, "distinct_from": "eng_Latn"}
    ours, theirs = tmp_path / "vllm", tmp_path / "huggingface"
    capture_corpus(served, CORPUS, ours, languages=("de",), **request)
    found, expected = (
        capture_corpus(served, CORPUS, ours, **request),
        capture_corpus(loaded, CORPUS, theirs, **request),
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
        "weights_sha256": other.weights_sha256,  # of the model in memory there, of its files here
    }
    assert dataclasses.replace(header, **fields) == other
    for model, folder in ((loaded, ours), (served, theirs)):
        with pytest.raises(RunError, match=r"differs in .*backend"):
            capture_corpus(model, CORPUS, folder, **request)


def test_a_capture_goes_on_with_the_same_weights_alone(served, tmp_path, monkeypatch):
    """One expert's matrix negated in the files that vLLM loads is another model."""
    folder = checkpoint(served.family_name)
    assert served.weights_sha256 == hash_files(folder)
    capture_corpus(served, CORPUS, tmp_path / "run", languages=["de"])
    other = shutil.copytree(folder, tmp_path / "other")
    state = safetensors.torch.load_file(other / "model.safetensors")
    matrix = state[next(name for name in sorted(state) if "experts" in name and "down_proj" in name)]
    (matrix[3] if matrix.ndim > 2 else matrix).neg_()
    safetensors.torch.save_file(state, other / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr(served.engine.model_config, "model", str(other))
    with pytest.raises(RunError, match=r"weights_sha256 \("):
        capture_corpus(served, CORPUS, tmp_path / "run")


def test_a_plan_for_another_model_captures_nothing(served, tmp_path):
    """The engine refuses it, and no language is written."""
    other = dataclasses.replace(served.fingerprint, router_sha256="0" * 64, float16_sha256=None)
    plan = Plan(other, (Intervention("ban", served.routers[0].layer, (1,)),))
    with pytest.raises(PlanError):
        capture_corpus(served, CORPUS, tmp_path / "run", plan=plan)
    assert served.call("isogloss_status")[0]["plan_sha256"] is None
