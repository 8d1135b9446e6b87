"""Adapters made from plans: moments and probes against independent oracles, the bound, and what is written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from models import TEXTS, tiny
from slow import slow_but

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.router_inputs import probe_values, second_moments
from isogloss.backends.joint_texts import Measured
from isogloss.backends.open import load
from isogloss.backends.router_inputs import Moments
from isogloss.cli import main
from isogloss.errors import CorpusError, LanguageError, PlanError, RunError
from isogloss.evaluation import load_task
from isogloss.learning import ADAPT_REPORT, AdaptOptions, AdaptReport, adapt_plan
from isogloss.learning.plan_ranks import ranks_of
from isogloss.learning.probes import LanguageMeans, ProbeFit, some_of
from isogloss.organism import problem_corpus
from isogloss.organism.shipped import learned_plan_file
from isogloss.records import read_typed
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan, read_adapter, read_plan, write_plan

MODEL = Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")


def tokenised(loaded, texts, start=0):
    """All tokens of texts, measured from one on."""
    ids = [list(loaded.tokenizer(text)["input_ids"]) for text in texts]
    return [Measured(place, each, min(start, len(each)), len(each)) for place, each in enumerate(ids)]


def product_inputs(loaded, router, text):
    """What the router's weight is multiplied with, by a hook of our own on the module that holds the weight."""
    owner = router.module.get_submodule(router.weight_name.rpartition(".")[0])
    seen = []
    handle = owner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    handle.remove()
    (hidden,) = seen
    return hidden.reshape(-1, hidden.shape[-1]).double().numpy()


@pytest.mark.parametrize("family", slow_but(("olmoe", "gemma4", "zaya", "gpt_oss"), ("olmoe", "gemma4")))
def test_moments_are_those_of_what_the_product_gets(family):
    """Equal to NumPy's on the inputs that a hook sees, one text at a time; scaled and normed inputs where there are."""
    loaded = tiny(family)
    layers = [router.spec.layer for router in loaded.router_modules][:2]
    moments = second_moments(loaded, tokenised(loaded, TEXTS, 2), layers, batch_tokens=64)
    assert list(moments) == layers
    for router in loaded.router_modules[:2]:
        x = np.concatenate([product_inputs(loaded, router, text)[2:] for text in TEXTS])
        found = moments[router.spec.layer]
        assert found.n_tokens == len(x)
        np.testing.assert_allclose(found.total, x.sum(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.products, x.T @ x, rtol=1e-4, atol=1e-3)
        probes = {router.spec.layer: np.random.default_rng(0).normal(size=(3, x.shape[1])).astype("f4")}
        values = probe_values(loaded, tokenised(loaded, TEXTS, 2), probes, batch_tokens=64)[router.spec.layer]
        expected = np.sort(x @ probes[router.spec.layer].T, axis=0)
        np.testing.assert_allclose(np.sort(values, axis=0), expected, rtol=1e-3, atol=1e-3)


def languages_of(drawn, n=200, width=6):
    """Random inputs in three languages, each with a direction of its own."""
    return {
        code: drawn.normal(size=(n + 50 * place, width)) + 2 * np.eye(width)[place]
        for place, code in enumerate(("eng_Latn", "swh_Latn", "tel_Telu"))
    }


WEIGHTS = {"eng_Latn": 3.0, "swh_Latn": 1.0, "tel_Telu": 0.5}


def means_of(inputs):
    """Their weighted moments."""
    means = LanguageMeans()
    for code, x in inputs.items():
        means.add(code, WEIGHTS[code], Moments(len(x), x.sum(0), x.T @ x))
    return means


@pytest.mark.parametrize("rank", [("swh_Latn",), ("swh_Latn", "tel_Telu"), None])
def test_a_probe_is_the_ridge_regression_of_its_languages(rank):
    """By least squares on all tokens, weighted so that languages count by their weights, and rows for the ridge."""
    inputs, ridge = languages_of(np.random.default_rng(1)), 0.05
    total = sum(WEIGHTS.values())
    scale = {code: math.sqrt(WEIGHTS[code] / total / len(x)) for code, x in inputs.items()}
    rows = np.concatenate([scale[code] * x for code, x in inputs.items()])
    is_own = {code: 1.0 if rank is None or code in rank else 0.0 for code in inputs}
    targets = np.concatenate([np.full(len(x), scale[code] * is_own[code]) for code, x in inputs.items()])
    width = rows.shape[1]
    damping = ridge * np.trace(rows.T @ rows) / width
    augmented = np.concatenate([rows, math.sqrt(damping) * np.eye(width)])
    expected, *_ = np.linalg.lstsq(augmented, np.concatenate([targets, np.zeros(width)]), rcond=None)
    (found,) = ProbeFit(means_of(inputs), [rank]).probes(ridge)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_a_probe_tells_its_language_apart():
    """More on its own tokens than on others; a larger ridge gives a shorter probe."""
    inputs = languages_of(np.random.default_rng(2))
    fit = ProbeFit(means_of(inputs), [("swh_Latn",)])
    (probe,) = fit.probes(1e-4)
    values = {code: float((x @ probe).mean()) for code, x in inputs.items()}
    assert values["swh_Latn"] > 2 * max(values["eng_Latn"], values["tel_Telu"], 0.1)
    assert np.linalg.norm(fit.probes(1.0)) < np.linalg.norm(probe)


def test_some_of_is_the_same_everywhere():
    """By hash: whatever the order; none of a single one."""
    names = ("a", "b", "c", "d")
    assert some_of(names, share=0.5, purpose="x") == some_of(reversed(names), share=0.5, purpose="x")
    assert some_of(["a"], share=0.5, purpose="x") == ()


def offset(layer=0, experts=(1, 2), values=(1.0, -1.0), **conditions):
    """An intervention."""
    return Intervention("offset", layer, experts, values=values, **conditions)


def test_ranks_follow_the_conditions():
    """One rank per language or group, sums of what shares a condition, every token without one."""
    plan = Plan(MODEL, (offset(languages=("sw",)), offset(1, languages=("sw", "zu")), offset(1, (3,), (2.0,))))
    ranks = {rank.name: rank for rank in ranks_of(plan)}
    assert list(ranks) == ["constant", "swh_Latn", "swh_Latn+zul_Latn"]
    assert ranks["constant"].languages is None
    assert ranks["swh_Latn"].offsets[0].tolist() == [0, 1, -1, 0, 0, 0, 0, 0]
    assert list(ranks["swh_Latn+zul_Latn"].offsets) == [1]
    (own,) = ranks_of(Plan(MODEL, (offset(),)), ["te", "sw"])
    assert own.languages == ("swh_Latn", "tel_Telu")
    by_group = Plan(MODEL, (offset(languages=("sw", "zu")), offset(1, languages=("sw",))))
    assert [rank.name for rank in ranks_of(by_group, ["zu"])] == ["zul_Latn"]


@pytest.mark.parametrize(
    ("interventions", "languages", "message"),
    [
        ((), (), "the plan is empty"),
        ((Intervention("soft", 0, (1,), 0.5), offset()), (), "kind soft; expected offset, the only"),
        ((Intervention("ban", 0, (1,), languages=("sw",)),), (), "banned for some languages alone"),
        ((Intervention("ban", 0, (1,)),), ("sw",), "banned for some languages alone"),
        ((offset(phase="prompt"),), (), "for the prompt alone"),
        ((offset(languages=("sw",)),), ("te",), "no rule for tel_Telu; it has some for swh_Latn"),
    ],
)
def test_plans_that_no_weight_can_do_are_refused(interventions, languages, message):
    """Each with the reason."""
    with pytest.raises(PlanError, match=message):
        ranks_of(Plan(MODEL, interventions), languages)


@pytest.fixture(scope="module")
def organism():
    """The shipped model."""
    return load("organism")


@pytest.fixture(scope="module")
def plan():
    """The shipped learned plan."""
    return read_plan(learned_plan_file())


LANGUAGES = ("eng_Latn", "deu_Latn", "fra_Latn", "hin_Deva", "spa_Latn", "swh_Latn", "tel_Telu")
QUICK = AdaptOptions(("swh_Latn", "tel_Telu"), ridges=(0.01,), strengths=(1.0, 4.0), n_texts=4, bound=0.05)


def corpus(n=15, languages=LANGUAGES):
    """Word problems with their working."""
    return problem_corpus(n, languages=languages)


def test_an_adapter_does_what_the_plan_does(tmp_path, organism, plan):
    """Its offsets are the plan's; it comes closer to the plan than nothing, keeps the bound, and is read back."""
    adapted = adapt_plan(organism, plan, corpus(), out=tmp_path / "a", options=QUICK)
    adapter, report = adapted.adapter, adapted.report
    assert read_adapter(tmp_path / "a") == adapter
    assert read_typed(tmp_path / "a" / ADAPT_REPORT, AdaptReport) == report
    assert (adapter.ranks, adapter.scale, report.strength) == (("swh_Latn", "tel_Telu"), 1.0, 1.0)
    rules = {(each.layer, each.languages): each for each in plan.interventions}
    rule = rules[5, ("tel_Telu",)]
    np.testing.assert_allclose(adapter.router(5).b[list(rule.experts), 1], rule.values, rtol=1e-6)
    weak, strong = report.curve
    assert weak.keeps_bound
    assert not strong.keeps_bound
    assert set(weak.moved) == set(report.protected) == set(LANGUAGES) - {"swh_Latn", "tel_Telu"}
    assert max(weak.moved.values()) <= report.bound < max(strong.moved.values())
    assert strong.value == {}
    for each in report.agreement:
        assert each.same_experts > each.same_without + 0.1
        assert each.kl < each.kl_without / 2
    own = {each.rank: np.mean(each.mean) for each in report.probes if each.language == each.rank}
    others = [np.mean(each.mean) for each in report.probes if each.language not in adapter.ranks]
    assert min(own.values()) > 0.3 > max(others)
    unseen = {each.language for each in report.probes if not each.fitted}
    assert unseen == set(report.left_out)
    assert unseen
    assert adapter.provenance["plan_sha256"] == plan.sha256


@pytest.mark.slow
def test_dev_items_choose(tmp_path, organism, plan):
    """With a task, values are those of its dev items, and probes are also read on prompts and answers."""
    task = load_task("organism", split="dev", n_items=4, languages=LANGUAGES)
    options = AdaptOptions(("swh_Latn",), ridges=(0.01,), strengths=(1.0,), bound_on="accuracy", bound=1.0, n_texts=2)
    report = adapt_plan(organism, plan, corpus(6), out=tmp_path / "a", task=task, options=options).report
    (point,) = report.curve
    assert report.metric == "accuracy"
    assert all(value in (0.0, 0.25, 0.5, 0.75, 1.0) for value in point.value.values())
    assert set(point.moved) == set(LANGUAGES) - {"swh_Latn"}
    assert {each.part for each in report.probes} == {"text", "prompt", "answer"}


@pytest.mark.slow
def test_offsets_for_every_token_become_a_bias(tmp_path, organism):
    """The constant probe is near 1 on every language, nothing is protected, and the plan is nearly what results."""
    plan = Plan(organism.fingerprint, (offset(3, (1, 2), (2.0, -2.0)),))
    options = AdaptOptions(ridges=(1e-4,), strengths=(1.0,), n_texts=4)
    report = adapt_plan(organism, plan, corpus(), out=tmp_path / "a", options=options).report
    assert (report.ranks, report.protected) == (("constant",), ())
    values = [each.mean[0] for each in report.probes]
    assert 0.9 < min(values) <= max(values) < 1.1
    assert all(each.same_experts > 0.9 > each.same_without for each in report.agreement)


@pytest.mark.slow
def test_a_task_in_few_of_the_languages_chooses_too(tmp_path, organism):
    """Of a plan for every token, those languages count that the task has; one without any is refused."""
    plan = Plan(organism.fingerprint, (offset(3, (1, 2), (2.0, -2.0)),))
    task = load_task("organism", split="dev", n_items=2, languages=["eng_Latn", "jpn_Jpan"])
    options = AdaptOptions(ridges=(1e-4,), strengths=(1.0,), n_texts=2)
    texts = corpus(6, ("eng_Latn", "swh_Latn"))
    report = adapt_plan(organism, plan, texts, out=tmp_path / "a", task=task, options=options).report
    assert set(report.before) == set(report.curve[0].value) == {"eng_Latn"}
    with pytest.raises(CorpusError, match="no language in common"):
        adapt_plan(organism, plan, corpus(6, ("swh_Latn",)), out=tmp_path / "b", task=task, options=options)


@pytest.mark.slow
def test_a_ban_is_measured(tmp_path, organism):
    """Most tokens obey, more than do without; the share is that of an independent count of selections."""
    plan = Plan(organism.fingerprint, (Intervention("ban", 2, (5,)),))
    options = AdaptOptions(ridges=(1e-4,), strengths=(1.0,), n_texts=4)
    texts = corpus(10, ("eng_Latn", "swh_Latn"))
    adapted = adapt_plan(organism, plan, texts, out=tmp_path / "a", options=options)
    assert adapted.adapter.router(2).b[5, 0] < -5
    assert not np.delete(adapted.adapter.router(2).b, 5).any()
    (share,) = adapted.report.obeyed.values()
    unsteered = organism.capture(texts.texts["eng_Latn"], texts.item_ids, options=CaptureOptions(token_scope="all"))
    assert unsteered.selections[:, 2, 5].sum() > 0.05 * unsteered.tokens.sum()
    assert share > 0.99
    with organism.steer(adapted.adapter):
        steered = organism.capture(texts.texts["eng_Latn"], texts.item_ids, options=CaptureOptions(token_scope="all"))
    assert 1 - steered.selections[:, 2, 5].sum() / steered.tokens.sum() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("languages", "options", "message"),
    [
        (LANGUAGES[1:], QUICK, "no text in eng_Latn"),
        (LANGUAGES[:-1], QUICK, "no text in tel_Telu"),
        (LANGUAGES, AdaptOptions(("swh_Latn",), protected=("swh_Latn",)), "cannot be protected"),
        (LANGUAGES, AdaptOptions(("swh_Latn",), protected=("zho_Hans",)), "zho_Hans, which is to be"),
        (LANGUAGES, AdaptOptions(("swh_Latn",), pivot="swh_Latn"), "the pivot swh_Latn is a language of"),
        (LANGUAGES, AdaptOptions(("swh_Latn",), weights={"zho_Hans": 2.0}), "zho_Hans, which has a weight"),
    ],
)
def test_languages_must_fit(tmp_path, organism, languages, options, message):
    """Nothing is run or written."""
    plan = read_plan(learned_plan_file())
    with pytest.raises((CorpusError, LanguageError), match=message):
        adapt_plan(organism, plan, corpus(6, languages), out=tmp_path / "a", options=options)
    assert not list(tmp_path.iterdir())


EVERY = Plan(MODEL, (offset(),))
"""For all requests."""

MIXED = Plan(MODEL, (offset(), offset(1, languages=("sw",))))
"""A rule for all requests beside one for Swahili."""


@pytest.fixture
def before_loading(tmp_path, monkeypatch, capsys):
    """Run the command with a plan and some options; loading a model fails the test."""

    def load_none(*_, **__):
        pytest.fail("a model was loaded")

    def refused(plan, *options):
        monkeypatch.setattr("isogloss.backends.open.load", load_none)
        write_plan(plan, tmp_path / "plan.json")
        common = ["adapt", str(tmp_path / "plan.json"), "organism", "--corpus", "organism:problems", "--items", "6"]
        assert main([*common, *options, "-o", str(tmp_path / "a")]) == 2
        assert not (tmp_path / "a").exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return refused


@pytest.mark.parametrize(
    "options",
    [
        ("--protect", "en"),
        ("--bound", "0"),
        ("--bound", "0.02"),
        ("--bound-on", "kl"),
        ("--protect", "de", "--bound", "1"),
    ],
)
def test_options_that_cannot_act_are_refused_by_name(before_loading, options):
    """A plan for all requests protects no language, so that nothing is under a bound."""
    error = before_loading(EVERY, *options)
    named = ", ".join(option for option in options if option.startswith("--"))
    assert f"{named} cannot act" in error
    assert "the plan is for all requests, so its adapter acts on every token of every language" in error


@pytest.mark.parametrize("options", [(), ("--languages", "sw"), ("--protect", "en")])
def test_a_rule_for_all_requests_beside_others_is_refused(before_loading, options):
    """It would move what is to be protected; its parts become adapters that add up."""
    error = before_loading(MIXED, *options)
    assert "rules for all requests beside those for swh_Latn" in error
    assert "make an adapter of each" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protect", "bul_Cyrl"), "no text in bul_Cyrl, which is to be protected"),
        (("--weights", "bul_Cyrl=2"), "no text in bul_Cyrl, which has a weight"),
        (("--pivot", "sw"), "the pivot swh_Latn is a language of the plan"),
        (("--protect", "sw"), "swh_Latn cannot be protected"),
        (("--protect", "xx"), "xx"),
        (("--languages", "qqq"), "qqq"),
        (("--task", "mgsm-of-nobody"), "mgsm-of-nobody"),
    ],
)
def test_languages_are_checked_before_the_model_is_loaded(before_loading, options, message):
    """Which takes minutes for a large one."""
    assert message in before_loading(Plan(MODEL, (offset(languages=("sw",)),)), *options)


def test_a_language_of_the_plan_without_text_is_refused_before_the_model_is_loaded(before_loading):
    """Of a plan for a language that no problem is in."""
    assert "no text in bul_Cyrl; expected one" in before_loading(Plan(MODEL, (offset(languages=("bul_Cyrl",)),)))


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        (EVERY, {"protected": ("eng_Latn",)}, "protected cannot act"),
        (EVERY, {"bound": 0.0, "bound_on": "accuracy"}, "bound, bound_on cannot act"),
        (MIXED, {}, "rules for all requests beside those for swh_Latn"),
    ],
)
def test_what_cannot_be_protected_is_refused_from_python(tmp_path, organism, plan, options, message):
    """As by the command."""
    made = Plan(organism.fingerprint, plan.interventions)
    with pytest.raises(PlanError, match=message):
        adapt_plan(organism, made, corpus(6), out=tmp_path / "a", options=AdaptOptions(**options))


@pytest.mark.slow
def test_the_command_says_that_a_plan_for_all_requests_acts_on_every_language(tmp_path, organism, capsys):
    """In plain words, without a number that nothing has."""
    write_plan(Plan(organism.fingerprint, (offset(3, (1, 2), (2.0, -2.0)),)), tmp_path / "plan.json")
    common = ["adapt", str(tmp_path / "plan.json"), "organism", "--corpus", "organism:problems", "--items", "6"]
    assert main([*common, "--ridges", "0.01", "--strengths", "1", "-o", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "acts on every token of every language, as the plan does" in shown
    assert "nan" not in shown
    assert "protected language" not in shown


@pytest.mark.slow
def test_a_bound_that_nothing_keeps(tmp_path, organism, plan):
    """Said with the least that any setting moves a protected language; nothing is written."""
    options = AdaptOptions(("swh_Latn",), ridges=(0.01,), strengths=(4.0,), n_texts=2, bound=0.0)
    with pytest.raises(PlanError, match="no ridge and strength keeps the bound of 0 nats per token"):
        adapt_plan(organism, plan, corpus(6), out=tmp_path / "a", options=options)
    with pytest.raises(CorpusError, match="has 4 items; expected at least 5"):
        adapt_plan(organism, plan, corpus(4), out=tmp_path / "a", options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fields", [{"ridges": ()}, {"strengths": (0.0,)}, {"bound": -1.0}, {"weights": {"a": -1.0}}])
def test_options_out_of_range(fields):
    """Refused at once."""
    with pytest.raises(RunError, match="expected"):
        AdaptOptions(**fields)


@pytest.mark.slow
def test_command(tmp_path, plan, capsys):
    """It prints the curve, the probes and the agreement; as JSON, the report; wrong use is one line and exit code 2."""
    write_plan(plan, tmp_path / "plan.json")
    common = ["adapt", str(tmp_path / "plan.json"), "organism", "--corpus", "organism:problems", "--items", "6"]
    quick = [*common, "--languages", "sw", "--ridges", "0.01", "--strengths", "1", "--bound", "0.5"]
    assert main([*quick, "-o", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "chosen" in shown
    assert "largest of one left out of the fit" in shown
    assert shown.strip().endswith(str(tmp_path / "a"))
    assert main([*quick, "--json", "-o", str(tmp_path / "b")]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["sha256"] == read_adapter(tmp_path / "a").sha256
    for more, message in (
        (["-o", str(tmp_path / "a")], "is not empty"),
        (["--bound-on", "accuracy", "-o", str(tmp_path / "c")], "needs --task"),
        (["--languages", "de", "-o", str(tmp_path / "c")], "no rule for deu_Latn"),
        (["--weights", "en=2,eng_Latn=3", "-o", str(tmp_path / "c")], "names a language twice"),
    ):
        assert main([*common, *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()
