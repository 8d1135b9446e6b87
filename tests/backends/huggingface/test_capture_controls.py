"""What a capture keeps besides the profiles: vocabulary, distinct tokens, what routers read, what the model writes."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from commands import run
from models import FAMILIES, ITEM_IDS, TEXTS, each_family, tiny, tokenizer
from slow import slow_but

from isogloss import routing
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import steer
from isogloss.backends.huggingface.watch import watch_inputs, watch_routers
from isogloss.backends.open import load
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, ModelError, RunError
from isogloss.runs import merge, open_run
from isogloss.steering import Intervention, Plan
from isogloss.workflows.capture import capture_corpus

ALL = CaptureOptions(token_scope="all")
WRITTEN = CaptureOptions(phase="generation", new_tokens=6)
WITH_DENSE_AND_BIAS = ("olmoe", "deepseek_v3", "gpt_oss", "zaya")

CORPUS = Corpus(
    "small",
    {
        "eng_Latn": ("The river is wide.", "Anna gives the cup to Omar.", "Yes."),
        "deu_Latn": ("Der Fluss ist breit.", "Anna gibt Omar die Tasse.", "Yes."),
        "rus_Cyrl": ("Река широка.", "Анна даёт Омару чашку.", "Yes, да."),
    },
    ("1", "2", "3"),
    "CC0-1.0",
    "test",
)


def content(text):
    """Ids of a text without the begin-of-text token that the tests' tokenizer puts first."""
    return tokenizer()(text)["input_ids"][1:]


def by_token(loaded, text):
    """Router outputs of one text alone: list over layers of (logits, ids) for the tokens after the first."""
    seen = []
    with (
        watch_routers(loaded, lambda _i, output: seen.append((output.router_logits[1:], output.expert_ids[1:]))),
        torch.no_grad(),
    ):
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    return seen


# --- vocabulary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_vocabulary_counts_every_counted_token(batch_tokens):
    """Ids ascend, and each stands with the number of times it was counted in all texts; padding is none of them."""
    captured = tiny("olmoe").capture(TEXTS, ITEM_IDS, options=CaptureOptions(batch_tokens=batch_tokens))
    expected = Counter(token for text in TEXTS for token in content(text))
    assert captured.vocabulary.tolist() == sorted(expected)
    assert captured.vocabulary_counts.tolist() == [expected[token] for token in sorted(expected)]
    everything = tiny("olmoe").capture(TEXTS, ITEM_IDS, options=ALL)
    assert dict(zip(everything.vocabulary.tolist(), everything.vocabulary_counts.tolist(), strict=True)) == {
        **expected,
        tokenizer().bos_token_id: len(TEXTS),
    }


# --- tokens that the pivot's text does not have -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_distinct_profiles_leave_out_the_tokens_of_the_pivot(batch_tokens):
    """They equal profiles of the other tokens, one by one; a text without any has zeros."""
    loaded = tiny("olmoe")
    pivot = [TEXTS[0], TEXTS[4]]
    options = CaptureOptions(batch_tokens=batch_tokens)
    ids = loaded.counted_ids(pivot, ["a", "b"], options)
    assert ids.tolist() == sorted({token for text in pivot for token in content(text)})
    captured = loaded.capture(TEXTS, ITEM_IDS, options=options, pivot_ids=ids)
    for item, text in enumerate(TEXTS):
        kept = [position for position, token in enumerate(content(text)) if token not in set(ids.tolist())]
        assert captured.distinct_tokens[item] == len(kept)
        for layer, (logits, _) in enumerate(by_token(loaded, text)):
            expected = routing.profile(logits[kept].numpy()) if kept else np.zeros(8)
            np.testing.assert_allclose(captured.distinct_profiles[item, layer], expected, atol=1e-6)
    assert captured.distinct_tokens[[0, 4]].tolist() == [0, 0]
    assert 0 < captured.distinct_tokens.sum() < captured.tokens.sum()


def test_asking_for_controls_changes_nothing_else():
    """Full profiles, selections and the rest are the same bits with all controls and with none."""
    loaded = tiny("olmoe")
    plain = loaded.capture(TEXTS, ITEM_IDS).arrays()
    options = CaptureOptions(hidden_states=True)
    controlled = loaded.capture(TEXTS, ITEM_IDS, options=options, pivot_ids=np.arange(0, 400, 2)).arrays()
    assert controlled.keys() - plain.keys() == {"distinct_profiles", "distinct_tokens", "hidden"}
    for name, array in plain.items():
        np.testing.assert_array_equal(controlled[name], array, strict=True)


# --- what the routers read --------------------------------------------------------------------------------------------


def read_by_hand(loaded, text):
    """What the routers are handed for one text alone, by hooks of our own: ``[n_layers, n_tokens, hidden_size]``."""
    read = {}

    def hook(index):
        def keep(module, arguments, named):
            bound = inspect.signature(type(module).forward).bind(module, *arguments, **named).arguments
            name = next(name for name in bound if name in ("hidden_states", "hidden", "x", "input", "inputs"))
            read[index] = bound[name].reshape(-1, 32).clone()

        return keep

    handles = [
        router.module.register_forward_pre_hook(hook(index), with_kwargs=True)
        for index, router in enumerate(loaded.router_modules)
    ]
    with torch.no_grad():
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    return torch.stack([read[index] for index in range(len(loaded.router_modules))])


@each_family()
def test_hidden_states_are_what_the_routers_are_handed(family):
    """Means over the counted tokens equal those of a plain hook on one text without padding, in every batch."""
    loaded = tiny(family)
    texts, ids = TEXTS[:2], ITEM_IDS[:2]
    expected = []
    for text in texts:
        states = read_by_hand(loaded, text)
        assert states.shape[1] == len(content(text)) + 1
        expected.append([sum(token for token in layer[1:]) / (len(layer) - 1) for layer in states])
    expected = np.array([[mean.numpy() for mean in layers] for layers in expected])
    for batch_tokens in (1, 100_000):
        options = CaptureOptions(hidden_states=True, batch_tokens=batch_tokens)
        captured = loaded.capture(texts, ids, options=options)
        assert captured.hidden.dtype == np.float32
        np.testing.assert_allclose(captured.hidden, expected, atol=2e-5)


# Others scale or cap the product before they score it, or compute it by more than one matrix.
@each_family(sorted({*FAMILIES} - {"gemma4", "gemma4_text", "laguna", "muse_spark", "muse_spark_text", "zaya"}))
def test_routers_are_linear_in_their_hidden_states(family):
    """The router's matrix times the mean hidden state is the mean of its logits, so this is what it multiplies."""
    loaded = tiny(family)
    options = CaptureOptions(hidden_states=True, token_scope="all")
    captured = loaded.capture(TEXTS[1:2], ITEM_IDS[:1], options=options)
    seen = []
    with watch_routers(loaded, lambda _i, output: seen.append(output.router_logits.float())), torch.no_grad():
        loaded.decoder(**loaded.tokenizer(TEXTS[1], return_tensors="pt"), use_cache=False)
    for layer, (router, logits) in enumerate(zip(loaded.router_modules, seen, strict=True)):
        product = captured.hidden[0, layer] @ router.weight().numpy().T[:, : router.spec.n_experts]
        bias = dict(router.module.named_parameters()).get("bias", torch.zeros(1)).detach().numpy()
        np.testing.assert_allclose(product + bias, logits.mean(0).numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hidden: hidden[:, :16], r"reads \[\d+, 16\] as hidden_states; expected hidden states of width 32"),
        (lambda hidden: hidden.long(), r"reads \[\d+, 32\] as hidden_states; expected hidden states of width 32"),
        (lambda _hidden: None, "reads NoneType as hidden_states; expected hidden states of width 32"),
        (lambda hidden: torch.cat([hidden, hidden]), r"reads \d+ hidden states of \d+ tokens; expected one each"),
    ],
    ids=["narrow", "integers", "nothing", "too many"],
)
def test_a_router_that_reads_something_else_is_an_error(change, message):
    """What cannot be told to be one hidden state per token is refused with the layer, not averaged."""
    loaded = tiny("olmoe")
    loaded.router_modules[2].module.register_forward_pre_hook(lambda _m, inputs: (change(inputs[0]),))
    with pytest.raises(ModelError, match=f"the router of layer 2 {message}.*capture without hidden states"):
        loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(hidden_states=True))


def test_inputs_by_name_are_read():
    """A block that hands hidden states over by name is read as one that hands them by position."""
    loaded = tiny("olmoe")
    options = CaptureOptions(hidden_states=True)
    expected = loaded.capture(TEXTS, ITEM_IDS, options=options)
    router = loaded.router_modules[1].module
    call = type(router).__call__
    block = loaded.model.model.layers[1].mlp

    class ByName(type(router)):
        def __call__(self, hidden):
            return call(self, hidden_states=hidden)

    router.__class__ = ByName
    assert block.gate is router
    np.testing.assert_array_equal(loaded.capture(TEXTS, ITEM_IDS, options=options).hidden, expected.hidden)


def test_no_hook_is_left_on_any_router():
    """After a capture with hidden states, and after an error inside, no router carries a hook."""
    loaded = tiny("olmoe")
    loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(hidden_states=True))
    with pytest.raises(RuntimeError, match="stop"), watch_inputs(loaded, lambda *_: None):
        raise RuntimeError("stop")
    assert not any(router.module._forward_pre_hooks for router in loaded.router_modules)


# --- generation -------------------------------------------------------------------------------------------------------


def decode_by_hand(loaded, text, n_tokens):
    """Write up to ``n_tokens`` greedily with a cache; routing is noted whenever a written token is read back.

    Returns:
        The ids read back, and for each layer the (logits, ids) of each of them.
    """
    seen = []
    read = []
    with watch_routers(loaded, lambda _i, output: seen.append((output.router_logits, output.expert_ids))):
        ids, cache = loaded.tokenizer(text, return_tensors="pt")["input_ids"], None
        end = loaded.model.generation_config.eos_token_id
        for step in range(n_tokens + 1):
            with torch.no_grad():
                output = loaded.model(ids, past_key_values=cache, use_cache=True)
            if step == 0:
                seen.clear()  # the prompt
            else:
                read.append(ids.item())
            logits, cache = output.logits[0, -1].clone(), output.past_key_values
            if step == 0 and end is not None:
                logits[end] = -torch.inf
            ids = logits.argmax().view(1, 1)
            if ids.item() == end:
                break
    n_layers = len(loaded.router_modules)
    return read, [[seen[step * n_layers + layer] for step in range(len(read))] for layer in range(n_layers)]


def require_equal_routing(loaded, texts, n_tokens, *, scope="content"):
    """Check a generation capture against decoding by hand, text by text; return the lengths of what was written."""
    names = [f"item-{index}" for index in range(len(texts))]
    options = CaptureOptions(scope, phase="generation", new_tokens=n_tokens)
    captured = loaded.capture(texts, names, options=options)
    special = set() if scope == "all" else set(loaded.tokenizer.all_special_ids)
    n_experts, counted, lengths = loaded.router_modules[0].spec.n_experts, Counter(), []
    for item, text in enumerate(texts):
        read, layers = decode_by_hand(loaded, text, n_tokens)
        kept = [position for position, token in enumerate(read) if token not in special]
        counted.update(read[position] for position in kept)
        lengths.append(len(read))
        assert captured.tokens[item] == len(kept)
        for layer, steps in enumerate(layers):
            logits, ids = (torch.cat([steps[position][part] for position in kept]).numpy() for part in (0, 1))
            np.testing.assert_allclose(captured.profiles[item, layer], routing.profile(logits), atol=2e-5)
            np.testing.assert_array_equal(captured.selections[item, layer], routing.selections(ids, n_experts))
    assert dict(zip(captured.vocabulary.tolist(), captured.vocabulary_counts.tolist(), strict=True)) == counted
    return lengths


@each_family(WITH_DENSE_AND_BIAS, quick=("olmoe", "zaya"))
def test_generation_counts_what_routers_do_while_the_model_writes(family):
    """Routing equals that of real decoding with a cache, step by step; no token of the prompt is counted."""
    loaded = tiny(family)
    assert max(require_equal_routing(loaded, TEXTS, 6)) == 6


@pytest.mark.parametrize("scope", slow_but(["content", "all"], quick=["content"]))
def test_generation_of_the_organism_is_that_of_real_decoding(scope):
    """The shipped model ends an answer itself; its end-of-text token, never read back, is not counted in any scope."""
    loaded = load("organism")
    prompts = ["Nina takes the key. Nina gives the key to Omar.", "Anna"]
    answered, stopped = require_equal_routing(loaded, prompts, 16, scope=scope)
    assert 1 < answered < stopped == 16


def test_an_answer_that_would_be_empty_has_one_token():
    """Where the end-of-text token is the likeliest at once, the next likeliest is written first and counted."""
    loaded = tiny("olmoe")
    loaded.model.generation_config.eos_token_id = 2
    with torch.no_grad():
        loaded.model.lm_head.weight[2] = 0
        loaded.model.lm_head.weight.mul_(1e-3)
    loaded.model.lm_head.register_forward_hook(lambda _m, _i, logits: logits.index_fill(-1, torch.tensor([2]), 9.0))
    captured = loaded.capture(TEXTS, ITEM_IDS, options=WRITTEN)
    assert captured.tokens.tolist() == [1] * len(TEXTS)
    assert np.isnan(captured.consistency).all()


def test_an_answer_of_special_tokens_alone_is_refused_by_name():
    """An item of which nothing would be counted is an error under ``content``, and counted under ``all``."""
    loaded = tiny("olmoe")
    begin = tokenizer().bos_token_id
    loaded.model.lm_head.register_forward_hook(
        lambda _m, _i, logits: logits.index_fill(-1, torch.tensor([begin]), 99.0)
    )
    with pytest.raises(CorpusError, match="after item item-1 the model writes only special tokens"):
        loaded.capture(TEXTS[1:2], ITEM_IDS[1:2], options=WRITTEN)
    everything = CaptureOptions("all", phase="generation", new_tokens=3)
    captured = loaded.capture(TEXTS[1:2], ITEM_IDS[1:2], options=everything)
    assert (captured.tokens.tolist(), captured.vocabulary.tolist()) == ([3], [begin])


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v4"])
def test_generation_does_not_depend_on_the_batch(family):
    """Alone, or beside longer prompts, or where left padding is not possible: the same answers, the same routing."""
    loaded = tiny(family)
    together = loaded.capture(TEXTS, ITEM_IDS, options=WRITTEN)
    alone = loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(phase="generation", new_tokens=6, batch_tokens=1))
    np.testing.assert_array_equal(together.selections, alone.selections)
    np.testing.assert_array_equal(together.vocabulary, alone.vocabulary)
    np.testing.assert_allclose(together.profiles, alone.profiles, atol=1e-5)


def test_a_plan_steers_writing_and_counting():
    """Under a ban, the expert is chosen by no written token, and the text is another than without the plan."""
    loaded = tiny("olmoe")
    plain = loaded.capture(TEXTS, ITEM_IDS, options=WRITTEN)
    layer = loaded.router_modules[1].spec.layer
    banned = int(plain.selections[:, 1].sum(0).argmax())
    plan = Plan(loaded.fingerprint, (Intervention("ban", layer, (banned,)),))
    with steer(loaded, plan):
        steered = loaded.capture(TEXTS, ITEM_IDS, options=WRITTEN)
        assert max(require_equal_routing(loaded, TEXTS[:2], 6)) == 6
    assert plain.selections[:, 1, banned].sum() > 0
    assert steered.selections[:, 1, banned].sum() == 0
    assert not np.array_equal(steered.vocabulary, plain.vocabulary)


def test_controls_hold_for_what_is_written():
    """Distinct tokens and hidden states of the generation phase are those of written tokens."""
    loaded = tiny("olmoe")
    ids = loaded.counted_ids(TEXTS[:1], ITEM_IDS[:1], WRITTEN)
    options = CaptureOptions(phase="generation", new_tokens=6, hidden_states=True)
    captured = loaded.capture(TEXTS, ITEM_IDS, options=options, pivot_ids=ids)
    assert captured.distinct_tokens[0] == 0
    assert captured.distinct_tokens[1:].sum() > 0
    written, _ = decode_by_hand(loaded, TEXTS[1], 6)
    assert captured.distinct_tokens[1] == sum(token not in ids for token in written)
    read = [*loaded.tokenizer(TEXTS[1])["input_ids"], *written]
    seen = []
    with watch_inputs(loaded, lambda _i, hidden: seen.append(hidden[-len(written) :].mean(0))), torch.no_grad():
        loaded.decoder(input_ids=torch.tensor([read]), use_cache=False)
    np.testing.assert_allclose(captured.hidden[1], torch.stack(seen).numpy(), atol=1e-5)


def test_a_prompt_that_leaves_no_room_is_refused():
    """Prompt and continuation must fit the model's 512 positions together; digits are a token each."""
    loaded = tiny("olmoe")
    with pytest.raises(CorpusError, match="item-long has 507 tokens and 6 to be written; the model takes 512"):
        loaded.capture(["1" * 506], ["item-long"], options=WRITTEN)
    assert loaded.capture(["1" * 505], ["item-full"], options=WRITTEN).tokens.tolist() == [6]


@pytest.mark.parametrize("new_tokens", [0, -1])
def test_refuses_to_write_nothing(new_tokens):
    """At least one token must be written."""
    with pytest.raises(ValueError, match="expected at least 1"):
        CaptureOptions(phase="generation", new_tokens=new_tokens)


# --- Runs -------------------------------------------------------------------------------------------------------------

GENERATION = CaptureOptions(phase="generation", new_tokens=4, hidden_states=True)


@pytest.mark.parametrize("options", [CaptureOptions(hidden_states=True), GENERATION], ids=["prompt", "generation"])
def test_a_run_in_parts_equals_one_in_a_piece(tmp_path, options):
    """Languages captured apart and merged, or one after another, give the same bytes; the pivot itself is all zero."""
    loaded = tiny("olmoe")
    capture_corpus(loaded, CORPUS, tmp_path / "whole", options=options, distinct_from="en")
    for code in CORPUS.languages:
        request = {"options": options, "languages": (code,), "distinct_from": "eng_Latn"}
        capture_corpus(loaded, CORPUS, tmp_path / code, **request)
        capture_corpus(loaded, CORPUS, tmp_path / "grown", **request)
    merge([tmp_path / code for code in CORPUS.languages], tmp_path / "merged")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for other in ("merged", "grown"):
        assert {path.name: path.read_bytes() for path in (tmp_path / other).iterdir()} == whole
    run = open_run(tmp_path / "whole")
    found = run.manifest
    assert (found.distinct_from, found.hidden_size) == ("eng_Latn", 32)
    assert (found.phase, found.new_tokens) == (options.phase, options.new_tokens if options is GENERATION else None)
    english, russian = run.load("eng_Latn"), run.load("rus_Cyrl")
    assert not english.distinct_profiles.any()
    assert not english.distinct_tokens.any()
    assert russian.distinct_tokens.any()


def test_the_pivot_writes_under_the_plan_too(tmp_path):
    """Its tokens are those that it writes under the plan, so that under it the pivot has no distinct token either."""
    loaded = tiny("olmoe")
    layers = [router.spec.layer for router in loaded.router_modules]
    plan = Plan(loaded.fingerprint, tuple(Intervention("ban", layer, (0, 1, 2, 3)) for layer in layers))
    request = {"options": WRITTEN, "plan": plan, "languages": ("en", "ru"), "distinct_from": "en"}
    found = capture_corpus(loaded, CORPUS, tmp_path / "run", **request)
    assert not found.load("eng_Latn").distinct_tokens.any()
    assert found.load("rus_Cyrl").distinct_tokens.any()
    plain = capture_corpus(loaded, CORPUS, tmp_path / "plain", options=WRITTEN, languages=("en",))
    assert set(found.load("eng_Latn").vocabulary) - set(plain.load("eng_Latn").vocabulary)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"options": CaptureOptions(hidden_states=True)}, "hidden_size"),
        ({"distinct_from": "eng_Latn"}, "distinct_from"),
        ({"options": GENERATION}, "phase"),
        ({"options": CaptureOptions(seed=1)}, "seed"),
    ],
)
def test_a_capture_is_not_continued_with_other_controls(tmp_path, request_, field):
    """The folder's Run is left as it is, and the message names what differs."""
    loaded = tiny("olmoe")
    capture_corpus(loaded, CORPUS, tmp_path / "run")
    with pytest.raises(RunError, match=f"differs in .*{field}"):
        capture_corpus(loaded, CORPUS, tmp_path / "run", **request_)


def test_a_corpus_without_the_pivot_is_refused(tmp_path):
    """Nothing is captured, and the message says which languages there are."""
    with pytest.raises(CorpusError, match=r"no texts in fra_Latn, .* it has deu_Latn, eng_Latn, rus_Cyrl"):
        capture_corpus(tiny("olmoe"), CORPUS, tmp_path / "run", distinct_from="fr")
    assert not (tmp_path / "run").exists()


# --- the command ------------------------------------------------------------------------------------------------------

COMMAND = ("capture", "organism", "--corpus", "organism", "--items", "2")


def test_the_command_asks_for_every_control(tmp_path, capsys):
    """Options reach the Run; the pivot's texts are read, but its routing is captured only where it was asked for."""
    options = ("--phase", "generation", "--new-tokens", "3", "--distinct-from", "en", "--hidden-states")
    assert run(*COMMAND, "--languages", "de,ja", *options, "-o", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)
    found = open_run(tmp_path / "run")
    manifest = found.manifest
    assert found.languages == ("deu_Latn", "jpn_Jpan")
    assert (manifest.phase, manifest.new_tokens, manifest.distinct_from) == ("generation", 3, "eng_Latn")
    german = found.load("deu_Latn")
    assert german.hidden.shape == (2, len(manifest.routers), manifest.hidden_size)
    assert (german.tokens <= 3).all()
    assert run(*COMMAND, "--languages", "de,ja", *options[:3], "4", *options[4:], "-o", tmp_path / "run") == 2
    assert "new_tokens (3 and 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--new-tokens", "3"), "--new-tokens 3 with --phase prompt; expected --phase generation"),
        (("--distinct-from", "ko"), "kor_Hang"),
        (("--distinct-from", "klingonish"), "klingonish"),
        (("--languages", "de", "--distinct-from", "ko"), "kor_Hang"),
    ],
)
def test_wrong_controls_are_one_readable_message(tmp_path, capsys, options, message):
    """Exit code 2, nothing written."""
    assert run(*COMMAND, *options, "-o", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def choices_while_generating(loaded, text, n_tokens):
    """Chosen experts ``[n_layers, n_tokens, top_k]``, sorted, of the tokens that ``generate`` writes and reads back."""
    seen = []
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    with watch_routers(loaded, lambda _i, output: seen.append(output.expert_ids.sort(-1).values)):
        loaded.model.generate(ids, max_new_tokens=n_tokens + 1, do_sample=False, eos_token_id=None, pad_token_id=0)
    n_layers = len(loaded.router_modules)
    steps = [seen[start : start + n_layers] for start in range(n_layers, len(seen), n_layers)]  # without the prompt's
    return torch.stack([torch.cat(layer) for layer in zip(*steps, strict=True)])


@each_family(WITH_DENSE_AND_BIAS, quick=("olmoe", "zaya"))
def test_written_tokens_are_counted_under_the_rules_of_their_phase(family):
    """Under a plan that edits prompt and generation differently, counts are those of real decoding with a cache."""
    loaded = tiny(family)
    loaded.model.generation_config.eos_token_id = None
    layers = [router.spec.layer for router in loaded.router_modules]
    rules = [Intervention("force", layer, (6,), phase="generation") for layer in layers]
    rules += [Intervention("force", layer, (2,), phase="prompt") for layer in layers]
    with steer(loaded, Plan(loaded.fingerprint, tuple(rules))):
        captured = loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions("all", phase="generation", new_tokens=6))
        for item, text in enumerate(TEXTS):
            chosen = choices_while_generating(loaded, text, 6)
            expected = [routing.selections(layer.numpy(), loaded.router_modules[0].spec.n_experts) for layer in chosen]
            np.testing.assert_array_equal(captured.selections[item], expected)
    assert (captured.selections[:, :, 6] == 6).all()
    assert (captured.selections[:, :, 2] < 6).any()


@pytest.mark.parametrize("phase", ["prompt", "generation"])
def test_each_language_is_captured_under_its_own_rules(tmp_path, phase):
    """A plan by language acts on its language's texts alone, and the pivot's text is read under the pivot's rules."""
    loaded = tiny("olmoe")
    rules = tuple(
        Intervention("ban", router.spec.layer, (expert,), languages=(code,))
        for router in loaded.router_modules
        for code, expert in (("en", 1), ("de", 3))
    )
    plan = Plan(loaded.fingerprint, rules)
    options = CaptureOptions(phase=phase, new_tokens=4)
    run = capture_corpus(loaded, CORPUS, tmp_path / "run", options=options, plan=plan, distinct_from="eng_Latn")
    assert run.manifest.plan_sha256 == plan.sha256
    for code, texts in CORPUS.texts.items():
        with steer(loaded, plan.for_request("eng_Latn")) if phase == "generation" else nullcontext():
            pivot = loaded.counted_ids(CORPUS.texts["eng_Latn"], CORPUS.item_ids, options)
        with steer(loaded, plan.for_request(code)):
            alone = loaded.capture(texts, CORPUS.item_ids, options=options, pivot_ids=pivot)
        found = run.load(code)
        np.testing.assert_array_equal(found.selections, alone.selections)
        if code != "eng_Latn":
            np.testing.assert_array_equal(found.distinct_tokens, alone.distinct_tokens)
    banned = {code: [int(run.load(code).selections[:, :, k].sum()) for k in (1, 3)] for code in CORPUS.texts}
    assert [banned["eng_Latn"][0], banned["deu_Latn"][1]] == [0, 0]
    assert min(banned["eng_Latn"][1], banned["deu_Latn"][0], *banned["rus_Cyrl"]) > 0
