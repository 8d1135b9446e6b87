"""Learned plans: what is seen while learning is what the plan does; resumable, honest, and refused in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from calendar_days import DATED, set_day
from commands import printed, run
from models import TEXTS, each_family, tiny
from safetensors import safe_open
from safetensors.numpy import save
from slow import slow_but
from written import contents

from isogloss.backends.huggingface.offsets import Offsets, Selections, offsets_applied
from isogloss.backends.open import load
from isogloss.cli.learn import _show
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, LanguageError, ModelError, RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.tasks import load as loading
from isogloss.learning import Learned, LearnedSet, LearnOptions, StepRecord, gather_data, learn_plan
from isogloss.learning import learn as learning
from isogloss.learning.estimators import refuse_unmoved
from isogloss.learning.folder import LearningFolder
from isogloss.routing import RouterSpec
from isogloss.steering import Intervention, Plan, read_plan

SHORT = {"steps": 4, "batch_size": 2, "dev_every": 2}
BIG = 0.5  # a learning rate that moves choices within a few steps


def written(path, rows):
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def generic():
    """Texts of the pivot."""
    return Corpus("generic", {"eng_Latn": TEXTS}, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")


def parallel():
    """Texts of three languages."""
    texts = {code: tuple(f"{code} {text}" for text in TEXTS) for code in ("eng_Latn", "swh_Latn", "deu_Latn")}
    return Corpus("parallel", texts, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")


def history(folder):
    """The steps written down."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [StepRecord.from_json(json.loads(line), "history") for line in lines]


@each_family(quick=("mixtral", "olmoe", "deepseek_v3"))
def test_the_plan_does_what_learning_saw(family, examples, tmp_path):
    """The logits under the learned offsets are those of `steer` with the plan read from its file; nothing is left."""
    loaded = tiny(family)
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        plain = loaded.model(ids).logits
    options = LearnOptions(**SHORT, learning_rate=BIG, leash=0.1)
    data = gather_data(None, examples=examples, languages=["sw", "de"], generic=generic())
    learned = learn_plan(loaded, data, out=tmp_path / "out", options=options)
    plan = read_plan(tmp_path / "out" / "plan.json")
    assert plan == learned.plan
    assert {each.kind for each in plan.interventions} <= {"offset"}
    for learned_set, (code,) in zip(learned.sets, (["swh_Latn"], ["deu_Latn"]), strict=True):
        assert learned_set.languages == (code,)
        own = plan.for_request(code)
        if not own.interventions:  # nothing was better on the dev items
            assert learned_set.best_step == 0
            continue
        rows = {spec.layer: torch.zeros(spec.n_experts) for spec in loaded.routers}
        for each in own.interventions:
            rows[each.layer][list(each.experts)] = torch.tensor(each.values)
        with loaded.steer(own), torch.no_grad():
            steered = loaded.model(ids).logits
        with offsets_applied(loaded, Offsets(rows)), torch.no_grad():
            assert torch.equal(loaded.model(ids).logits, steered)
        assert not torch.equal(steered, plain)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain)
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    assert not [module for module in loaded.model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "deepseek_v2", "phimoe"])
def test_constants_being_learned_act_as_a_plan_with_them(family):
    """Bit by bit, wherever they are added; left out inside, and gone afterwards."""
    loaded = tiny(family)
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    rows = {spec.layer: torch.linspace(-0.3, 0.3, spec.n_experts) for spec in loaded.routers}
    rules = [Intervention("select", n, tuple(range(len(row))), values=tuple(row.tolist())) for n, row in rows.items()]
    change = Selections(rows)
    with torch.no_grad():
        plain = loaded.model(ids).logits
        with loaded.steer(Plan(loaded.fingerprint, tuple(rules))):
            steered = loaded.model(ids).logits
        with offsets_applied(loaded, change), torch.no_grad():
            assert torch.equal(loaded.model(ids).logits, steered)
            with change.left_out():
                assert torch.equal(loaded.model(ids).logits, plain)
        assert torch.equal(loaded.model(ids).logits, plain)
    assert not torch.equal(steered, plain)


def test_a_plan_of_kind_select_is_learned_by_search(examples, tmp_path):
    """The loss falls, and the plan that is written does what was measured; its options name what was learned."""
    loaded = tiny("deepseek_v3")
    options = LearnOptions(
        parameters="select", estimator="search", steps=12, batch_size=32, dev_every=6, shared=True, learning_rate=0.05
    )
    data = gather_data(None, examples=examples, languages=["sw", "de"])
    learned = learn_plan(loaded, data, out=tmp_path / "out", options=options)
    steps = history(tmp_path / "out")
    assert min(each.loss for each in steps[6:]) < steps[1].loss
    assert {each.kind for each in learned.plan.interventions} == {"select"}
    assert learned.plan.provenance["options"]["parameters"] == "select"
    for estimator in ("gradient", "straight-through"):
        with pytest.raises(ModelError, match=rf"{estimator} cannot move --parameters select.*--estimator search"):
            learn_plan(
                loaded, data, out=tmp_path / "no", options=LearnOptions(parameters="select", estimator=estimator)
            )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("objective", slow_but(["answers", "alignment", "both"], quick=["answers", "alignment"]))
@pytest.mark.parametrize("estimator", slow_but(["gradient", "straight-through", "search"], quick=["gradient"]))
def test_the_loss_falls(objective, estimator, examples, tmp_path):
    """Every estimator makes its objective smaller on the same batch; experts that never moved are counted."""
    loaded = tiny("mixtral")
    options = LearnOptions(
        objective, estimator=estimator, steps=12, batch_size=32, dev_every=6, shared=True, learning_rate=0.1
    )
    data = gather_data(
        None,
        examples=examples,
        languages=["sw", "de"],
        answers=options.answers,
        alignment=options.alignment,
        parallel=parallel() if options.alignment else None,
    )
    if estimator == "straight-through" and objective == "alignment":
        with pytest.raises(ModelError, match="alignment has a gradient by every offset already"):
            learn_plan(loaded, data, out=tmp_path / "out", options=options)
        return
    learn_plan(loaded, data, out=tmp_path / "out", options=options)
    steps = history(tmp_path / "out")
    assert [each.step for each in steps] == list(range(13))
    assert steps[-1].loss < steps[1].loss
    n_experts = 8 * len(loaded.routers)
    assert steps[0].without_gradient == n_experts
    assert steps[-1].without_gradient <= n_experts // 4
    assert [each.step for each in steps if each.dev is not None] == [0, 6, 12]


def test_experts_that_no_token_chose_keep_offset_0_and_are_counted(examples, tmp_path):
    """Renormalised weights give them no gradient but rounding, which must not become a direction."""
    loaded = tiny("mixtral")
    data = gather_data(None, examples=examples, languages=["sw", "de"], n_examples=1)
    options = LearnOptions(steps=1, dev_every=1, learning_rate=1e-4)
    learned = learn_plan(loaded, data, out=tmp_path / "out", options=options)
    for number, each in enumerate(learned.sets):
        final = history(tmp_path / "out")[2 * number + 1]
        assert each.without_gradient == final.without_gradient > 0
    arrays = LearningFolder(tmp_path / "out").resume().arrays
    assert ((arrays["values"] != 0) == (arrays["reached"] != 0)).all()
    assert (arrays["reached"] == 0).sum() == final.without_gradient


def test_learning_keeps_its_date_over_midnight(examples, tmp_path, monkeypatch):
    """Prompts of a template that writes the date are those of the day on which learning began."""
    loaded = copy.copy(tiny("mixtral"))
    loaded.tokenizer = copy.deepcopy(loaded.tokenizer)
    loaded.tokenizer.chat_template = DATED
    data = gather_data(None, examples=examples)
    chat = {code: dataclasses.replace(task, chat=True) for code, task in data.examples.items()}
    data = dataclasses.replace(data, examples=chat)
    options = LearnOptions(**SHORT)
    learned = []
    for day in ("2026-08-05", "2026-08-06"):
        set_day(monkeypatch, day)
        learned.append(learn_plan(loaded, data, out=tmp_path / "out", options=options))
        assert json.loads((tmp_path / "out" / "settings.json").read_text())["date"] == "2026-08-05"
    assert learned[0].plan == learned[1].plan


def test_examples_and_dev_are_apart_and_the_test_split_is_never_read(monkeypatch):
    """Both halves of the dev split, apart by item in every language; no loader is asked for anything else."""
    asked = []
    plain = loading._load
    monkeypatch.setattr(loading, "_load", lambda *args: asked.append(args[3]) or plain(*args))
    data = gather_data(
        "organism", examples="organism:reference", languages=["sw", "bn"], alignment=True, n_items=40, n_examples=8
    )
    assert set(asked) == {"dev"}
    monkeypatch.undo()
    ids = [{item.item_id for item in task.items[code]} for code, task in data.dev.items()]
    learned = [{item.item_id for item in task.items[code]} for code, task in data.examples.items()]
    assert ids[0] == ids[1]
    assert learned[0] == learned[1]
    assert not ids[0] & learned[0]
    assert set(data.parallel.item_ids) == learned[0]
    few = gather_data("organism", examples="organism:reference", languages=["sw"], n_items=40, n_dev=5, n_examples=8)
    first = data.dev["swh_Latn"].items["swh_Latn"][:5]
    assert few.dev["swh_Latn"].items["swh_Latn"] == first
    assert few.examples["swh_Latn"].items == data.examples["swh_Latn"].items
    assert len(learned[0]) == 8
    assert 8 < len(ids[0]) < 32
    tested = {
        item.prompt for items in load_task("organism", split="test", n_items=200).items.values() for item in items
    }
    read = [
        item.prompt
        for task in (*data.dev.values(), *data.examples.values())
        for (rows,) in [task.items.values()]
        for item in rows
    ]
    assert not tested & set(read)


def test_an_item_that_is_there_twice_is_on_one_side():
    """The organism asks some problems again under another id: those are dev items alone."""
    data = gather_data("organism", examples="organism:reference", languages=["sw"], n_items=600)
    sides = [{item.prompt for item in part["swh_Latn"].items["swh_Latn"]} for part in (data.examples, data.dev)]
    assert not sides[0] & sides[1]
    assert min(map(len, sides)) > 200


def refuse(kind, match, task=None, **sources):
    """What gathering these sources says."""
    with pytest.raises(kind, match=match):
        gather_data(task, **sources)


def test_sources_that_cannot_be_learned_from_are_refused(tmp_path, examples):
    """Each in one sentence, before a model is loaded."""
    line = {"language": "sw", "prompt": "Ngapi?", "answer": "2"}
    refuse(CorpusError, "nothing to learn from")
    refuse(CorpusError, "no examples", examples=written(tmp_path / "none.jsonl", []))
    refuse(CorpusError, "expected an object of texts", examples=written(tmp_path / "a.jsonl", [{"prompt": "x"}]))
    refuse(CorpusError, "and neither empty", examples=written(tmp_path / "b.jsonl", [line | {"answer": " "}]))
    refuse(CorpusError, "deu_Latn, which is not to be learned", examples=examples, languages=["sw"])
    refuse(CorpusError, "no examples in|no dev items in", examples=written(tmp_path / "c.jsonl", [line]))
    refuse(CorpusError, "not parallel", examples=examples, alignment=True)
    refuse(LanguageError, "is the pivot", "organism", languages=["en"], alignment=True)
    refuse(CorpusError, "0 examples asked for", "organism", languages=["sw"], n_items=20, n_examples=0)
    refuse(CorpusError, "0 dev items asked for", "organism", languages=["sw"], n_items=20, n_dev=0)
    prompt = load_task("organism", languages=["sw"], n_items=1, split="dev").items["swh_Latn"][0].prompt
    same = written(tmp_path / "d.jsonl", [line | {"prompt": f"{prompt} "}])
    refuse(CorpusError, "is also learned from", "organism", examples=same, languages=["sw"], n_items=20)


def test_options_and_models_that_cannot_be_learned_are_refused_and_leave_nothing(tmp_path, examples):
    """Numbers out of range, layers, leash without text, contexts, estimators: before the folder is made."""
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"leash": -1.0}, {"alignment_weight": float("nan")}):
        with pytest.raises(RunError, match=r"expected (at least|a number|numbers)"):
            LearnOptions(**wrong)
    loaded, out = tiny("olmoe"), tmp_path / "out"
    data = gather_data(None, examples=examples, languages=["sw", "de"])
    for options, kind, match in (
        (LearnOptions(layers=(40, 50)), RunError, "no routed layer from 40 to 50"),
        (LearnOptions(leash=1.0), CorpusError, "needs generic text"),
        (LearnOptions(estimator="straight-through"), ModelError, "depend on the logits of all experts already"),
    ):
        with pytest.raises(kind, match=match):
            learn_plan(loaded, data, out=out, options=options)
    row = {"language": "sw", "prompt": "Ngapi?", "answer": " moja" * 3000}
    long = written(tmp_path / "long.jsonl", [row | {"id": str(n), "prompt": f"{n}?"} for n in range(20)])
    with pytest.raises(RunError, match=r"item '\d+': a text of \d+ tokens; expected at most"):
        learn_plan(loaded, gather_data(None, examples=long), out=out)
    endless = Corpus("endless", {"eng_Latn": ("moja " * 3000,)}, ("0",), "CC0-1.0", "ours")
    with pytest.raises(CorpusError, match=r"a text to learn from has \d+ tokens, the model takes"):
        learn_plan(loaded, gather_data(None, examples=examples, languages=["sw", "de"], generic=endless), out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("spec", "family", "estimator", "match"),
    [
        ({"top_k": 1, "scoring": "topk_softmax"}, "jetmoe", "gradient", "always has weight 1"),
        ({"top_k": 1, "renormalise": True}, "mixtral", "gradient", "always has weight 1"),
        ({"scoring": "sigmoid"}, "deepseek_v3", "straight-through", "scores its experts by sigmoid"),
        ({"scoring": "topk_softmax"}, "jetmoe", "straight-through", "do not return the weights"),
    ],
)
def test_an_estimator_that_cannot_move_a_router_is_refused_by_name(spec, family, estimator, match):
    """With the reason, and what to use instead."""
    router = RouterSpec(0, 8, **{"top_k": 2, **spec})
    with pytest.raises(ModelError, match=match):
        refuse_unmoved(LearnOptions(estimator=estimator), router, family)
    refuse_unmoved(LearnOptions(estimator="search"), router, family)


@pytest.mark.parametrize(("values", "best"), [((0.5, 0.3, 0.7, 0.6), 2), ((0.5, 0.5, 0.4, 0.2), 0)])
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_best_step_on_dev_items_is_kept(values, best, better, tmp_path, examples, monkeypatch):
    """Not the last one, and none where nothing is better than the unsteered model."""
    loaded, folder = tiny("olmoe"), tmp_path / "out"
    data = gather_data(None, examples=examples, languages=["sw", "de"])
    sign = 1 if better == "higher" else -1
    measured = iter([learning._OnDev(dict.fromkeys(data.languages, sign * value), None) for value in values])
    monkeypatch.setattr(learning._Job, "_dev", lambda *_: next(measured))
    monkeypatch.setattr(type(next(iter(data.dev.values()))), "better", better)
    options = LearnOptions(steps=3, batch_size=2, dev_every=1, shared=True, learning_rate=BIG)
    learned = learn_plan(loaded, data, out=folder, options=options)
    assert learned.sets[0].best_step == best
    values = [abs(value) for rule in learned.plan.interventions for value in rule.values]
    assert max(values, default=0.0) == pytest.approx(history(folder)[best].largest, rel=1e-6)


@pytest.mark.parametrize("damage", ["cut", "no state", "state", "number"])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path, examples):
    """In one line, whatever is wrong with it."""
    data, path = (
        gather_data(None, examples=examples, languages=["sw", "de"]),
        tmp_path / "out" / "checkpoint.safetensors",
    )
    learn_plan(tiny("olmoe"), data, out=tmp_path / "out", options=LearnOptions(**SHORT))
    with safe_open(path, framework="np") as file:
        arrays, state = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["state"]  # noqa: SIM118
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        other = {
            "no state": None,
            "state": {"state": "[]"},
            "number": {"state": state.replace('"step": 4', '"step": "x"')},
        }
        path.write_bytes(save(arrays, other[damage]))
    with pytest.raises(RunError, match=r"checkpoint.safetensors: .*"):
        learn_plan(tiny("olmoe"), data, out=tmp_path / "out", options=LearnOptions(**SHORT))


def test_a_folder_of_another_model_is_refused(tmp_path, examples):
    """And stays as it is."""
    data = gather_data(None, examples=examples, languages=["sw", "de"])
    learn_plan(tiny("olmoe"), data, out=tmp_path / "out", options=LearnOptions(**SHORT))
    before = contents(tmp_path / "out")
    with pytest.raises(RunError, match=r"started with other settings \(model\.model\..*router_sha256: "):
        learn_plan(tiny("olmoe", seed=1), data, out=tmp_path / "out", options=LearnOptions(**SHORT))
    with pytest.raises(RunError, match=r"started with other settings \(options\.seed: 0 and 1\)"):
        learn_plan(tiny("olmoe"), data, out=tmp_path / "out", options=LearnOptions(**SHORT, seed=1))
    assert contents(tmp_path / "out") == before


def test_a_loss_that_is_no_number_ends_learning_and_moves_nothing(tmp_path, examples, monkeypatch):
    """The step is named; the steps before it stay."""
    loaded = tiny("olmoe")
    data = gather_data(None, examples=examples, languages=["sw", "de"])
    with torch.no_grad():
        loaded.model.lm_head.weight[:, 0] = float("nan")
    monkeypatch.setattr(learning, "mean_value", lambda *_: 1.0)
    with pytest.raises(ModelError, match="step 1: the loss or its gradient is not a finite number"):
        learn_plan(loaded, data, out=tmp_path / "out", options=LearnOptions(**SHORT))
    assert [each.step for each in history(tmp_path / "out")] == [0]


def test_interrupted_learning_leaves_the_model_as_it_was(tmp_path, examples):
    """Ctrl-C in a step: outputs as before, and the folder resumes."""
    loaded = tiny("olmoe")
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = loaded.model(ids).logits
    data = gather_data(None, examples=examples, languages=["sw", "de"])
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt

    handle = loaded.router_modules[-1].module.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        learn_plan(loaded, data, out=tmp_path / "out", options=LearnOptions(**SHORT))
    handle.remove()
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, before)
    assert not [module for module in loaded.model.modules() if "forward" in vars(module)]
    learn_plan(loaded, data, out=tmp_path / "out", options=LearnOptions(**SHORT))
    learn_plan(tiny("olmoe"), data, out=tmp_path / "whole", options=LearnOptions(**SHORT))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_command_learns_and_prints(tmp_path, capsys):
    """A few steps on the organism: a plan by language, its dev values, and one line where something is wrong."""
    out = tmp_path / "out"
    line = ["learn", "organism", "--examples", "organism:reference", "--task", "organism", "--languages", "sw"]
    line += ["--items", "24", "--n-examples", "4", "--n-dev", "6", "--steps", "2", "--dev-every", "1"]
    line += ["--layers", "4-5", "-o", out]
    assert run(*line, "--json") == 0
    raw = printed(capsys)
    assert raw["metric"] == "accuracy"
    assert raw["sets"][0]["languages"] == ["swh_Latn"]
    assert Path(raw["path"]).is_file()
    assert run(*line) == 0
    assert "so the plan is empty" in capsys.readouterr().out
    assert run(*line, "--seed", "5") == 2
    assert "started with other settings (options.seed: 0 and 5)" in capsys.readouterr().err
    assert run("learn", "organism", "-o", tmp_path / "none") == 2
    assert "nothing to learn from" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("kl", "shown"), [(math.nan, "not measured"), (0.0, "0"), (0.01234, "0.0123")])
def test_what_was_not_measured_is_said(kl, shown, tmp_path, capsys):
    """No generic text: no number in its column, and a line with the option that gives one."""
    learned = Learned(
        Plan(tiny("olmoe").fingerprint),
        (LearnedSet(("swh_Latn",), 1, *2 * ({"swh_Latn": 0.5},), 0, 8, kl),),
        "accuracy",
    )
    _show(learned, SimpleNamespace(output=tmp_path, json=False))
    table, *lines = capsys.readouterr().out.partition("\n")[2].partition("\n")
    assert table.split(maxsplit=4)[4].strip() == shown
    assert ("it needs generic text of the pivot (--generic CORPUS)" in "".join(lines)) == math.isnan(kl)


EDITED = (Intervention("offset", 1, (0,), values=(1.0,)),)


@pytest.mark.parametrize(("edits", "advice"), [((), "so the plan is empty"), (EDITED, "evaluate the plan on the test")])
def test_an_empty_plan_is_said(edits, advice, tmp_path, capsys):
    """Where no step did better than none, there is nothing to evaluate."""
    plan = Plan(tiny("olmoe").fingerprint, edits, {"test": "test"})
    learned = Learned(plan, (), "accuracy")
    _show(learned, SimpleNamespace(output=tmp_path, json=False))
    assert advice in capsys.readouterr().out


def test_a_result_shows_what_every_language_gained():
    """One row per language, the protected ones too; and one line that says how many sets were better."""
    before, after = {"swh_Latn": 0.1}, {"swh_Latn": 0.3}
    better = LearnedSet(
        ("swh_Latn",), 20, before, after, 0, 8, protected_before={"eng_Latn": 1.0}, protected={"eng_Latn": 0.9}
    )
    learned = Learned(Plan(tiny("olmoe").fingerprint), (better, LearnedSet(("tha_Thai",), 0, {}, {}, 0, 8)), "accuracy")
    assert learned.to_frame().to_dict("list") == {
        "language": ["swh_Latn", "eng_Latn"],
        "role": ["learned", "protected"],
        "best_step": [20, 20],
        "before": [0.1, 1.0],
        "after": [0.3, 0.9],
    }
    assert "1 of 2 sets better on dev items by accuracy" in repr(learned)


@pytest.mark.slow
def test_the_organism_learns_from_a_few_examples(tmp_path):
    """The loss of the answers falls within a few steps of the model that ships with the package."""
    data = gather_data("organism", examples="organism:reference", languages=["sw"], n_items=20, n_examples=8)
    options = LearnOptions(steps=6, dev_every=6, batch_size=8, layers=(4, 9))
    learn_plan(load("organism"), data, out=tmp_path / "out", options=options)
    steps = history(tmp_path / "out")
    assert steps[-1].loss < 0.9 * steps[1].loss
