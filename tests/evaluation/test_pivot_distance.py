"""Divergence of prompts from the pivot's, before and under a plan: by an independent computation, each prompt once."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from adapters import change_weights, random_adapter
from fake_engine import FakeEngine
from models import TEXTS, tiny
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from isogloss.corpora import Turns
from isogloss.errors import CorpusError, RunError
from isogloss.evaluation import Item, Task, ask, run_evaluation
from isogloss.evaluation.pivot_distance import ROUTED_ITEMS, PromptRouting
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks.parse import parse_number
from isogloss.records import read_typed
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan

PIVOT = "eng_Latn"
LANGUAGES = (PIVOT, "deu_Latn", "fra_Latn")


def task(n=3, languages=LANGUAGES, **fields):
    """Prompts without answers worth reading."""
    items = {code: [Item(f"{n}", f"{code} {TEXTS[n % len(TEXTS)]}", "0") for n in range(n)] for code in languages}
    return Task("prompts", items, parse_number, 1, **fields)


def by_language(fingerprint, code):
    """Offsets for the requests of one language."""
    rules = [
        Intervention("offset", layer, (0, 1), values=(3.0, -3.0), languages=(code,)) for layer in fingerprint.layers
    ]
    return Plan(fingerprint, tuple(rules))


def oracle(loaded, first, second):
    """The divergence of texts ``[n_items, n_layers]``, by SciPy."""
    p, q = (loaded.capture(texts, [str(n) for n in range(len(texts))]).profiles for texts in (first, second))
    nats = jensenshannon(p, q, axis=-1) ** 2
    room = np.log(p.shape[-1]) - (entropy(p, axis=-1) + entropy(q, axis=-1)) / 2
    return nats / room


def prompts(asked, code):
    """What a language is asked."""
    return [item.prompt for item in asked.task.items[code]]


def test_an_adapter_also_moves_the_pivot():
    """Before and after are those of the model, and of a model whose weights are changed, for both languages."""
    loaded, changed = tiny("olmoe"), tiny("olmoe")
    adapter = random_adapter(loaded)
    asked = ask(loaded, task())
    distances = PromptRouting(asked, PIVOT).distances(adapter)
    assert set(distances) == {"deu_Latn", "fra_Latn"}
    change_weights(changed, adapter)
    for code, distance in distances.items():
        before, after = (oracle(each, prompts(asked, code), prompts(asked, PIVOT)) for each in (loaded, changed))
        np.testing.assert_allclose(distance.before, before.mean(0), atol=1e-5)
        np.testing.assert_allclose(distance.after, after.mean(0), atol=1e-5)
        assert distance.change.value == pytest.approx((after - before).mean(), abs=1e-5)
        assert distance.change.low <= distance.change.value <= distance.change.high
        assert distance.change.n == 3
        assert abs(distance.change.value) > 1e-3


def test_a_plan_by_language_moves_that_language_alone():
    """The pivot is unsteered on both sides; a plan for the pivot moves every language's distance."""
    loaded = tiny("olmoe")
    asked, plan = ask(loaded, task()), by_language(loaded.fingerprint, "deu_Latn")
    (code, distance), *others = PromptRouting(asked, PIVOT).distances(plan).items()
    assert (code, others) == ("deu_Latn", [])
    with loaded.steer(plan.for_request("deu_Latn")):
        steered = loaded.capture(prompts(asked, "deu_Latn"), ["0", "1", "2"]).profiles
    plain = loaded.capture(prompts(asked, PIVOT), ["0", "1", "2"]).profiles
    room = np.log(plain.shape[-1]) - (entropy(steered, axis=-1) + entropy(plain, axis=-1)) / 2
    np.testing.assert_allclose(distance.after, (jensenshannon(steered, plain, axis=-1) ** 2 / room).mean(0), atol=1e-5)
    of_pivot = PromptRouting(asked, PIVOT).distances(by_language(loaded.fingerprint, PIVOT))
    assert set(of_pivot) == {"deu_Latn", "fra_Latn"}


def test_prompts_are_captured_once_for_each_part_of_a_plan():
    """The unsteered ones for all arms together; no more than the first ones."""
    engine, fingerprint = FakeEngine(), Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")
    asked = ask(engine, task(ROUTED_ITEMS + 5))
    routing = PromptRouting(asked, PIVOT)
    plans = [by_language(fingerprint, code) for code in LANGUAGES[1:]]
    for plan, code in zip(plans, LANGUAGES[1:], strict=True):
        assert set(routing.distances(plan)) == {code}
    steered = [plan for plan, _, _ in engine.captured]
    assert steered.count(None) == len(LANGUAGES)
    assert len(steered) == len(LANGUAGES) + len(plans)
    assert {len(texts) for _, texts, _ in engine.captured} == {ROUTED_ITEMS}


def test_a_chat_is_captured_as_turns_and_no_pivot_gives_nothing():
    """The words of a chat template are not counted; without the pivot there is nothing to be far from."""
    engine, plan = FakeEngine(), by_language(Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12"), "deu_Latn")
    asked = ask(engine, task())
    asked.uses_chat = True
    PromptRouting(asked, PIVOT).distances(plan)
    assert all(isinstance(text, Turns) and chat for _, texts, chat in engine.captured for text in texts)
    engine.captured.clear()
    assert PromptRouting(ask(engine, task(languages=LANGUAGES[1:])), PIVOT).distances(plan) == {}
    assert not engine.captured


def test_prompts_that_cannot_be_captured_are_named_once(capsys):
    """A chat template may change a prompt: nothing is measured, in no arm, and one line says why."""

    class Refusing(FakeEngine):
        def capture(self, texts, item_ids, *, options):
            super().capture(texts, item_ids, options=options)
            raise CorpusError(f"item {item_ids[0]}: the chat template changes the text; capture without --chat")

    engine, fingerprint = Refusing(), Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")
    routing = PromptRouting(ask(engine, task()), PIVOT)
    assert [routing.distances(by_language(fingerprint, code)) for code in LANGUAGES] == [{}, {}, {}]
    assert len(engine.captured) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "those in eng_Latn is not measured: item 0: the chat template changes the text" in line
    assert "--chat" not in line


def test_an_evaluation_keeps_them(tmp_path):
    """In every arm's effect, and in the summary, which reads back as it was returned."""
    plan = Plan(Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12"), (Intervention("ban", 0, (1,)),))
    summary = run_evaluation(
        FakeEngine(), task(), {"plan": plan, "other": dataclasses.replace(plan)}, out=tmp_path / "e"
    )
    assert set(summary.distance) == {"plan", "other"}
    assert all(set(each) == {"deu_Latn", "fra_Latn"} for each in summary.distance.values())
    assert read_typed(tmp_path / "e" / "summary.json", EvaluationSummary).distance == summary.distance


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda effect: effect.update(distance={"swh_Latn": effect["distance"]["deu_Latn"]}), "no language of this"),
        (lambda effect: effect.update(changed={}), "found 2 layers; expected 0"),
    ],
)
def test_kept_distances_that_contradict_the_rest_are_refused(tmp_path, damage, reason):
    """Where an evaluation goes on from files that are not its own."""
    plan = Plan(Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12"), (Intervention("ban", 0, (1,)),))
    run_evaluation(FakeEngine(), task(), {"plan": plan}, out=tmp_path / "e")
    effect = tmp_path / "e" / "plan" / "effect.json"
    content = json.loads(effect.read_text())
    damage(content)
    effect.write_text(json.dumps(content))
    with pytest.raises(RunError, match=reason):
        run_evaluation(FakeEngine(), task(), {"plan": plan}, out=tmp_path / "e")
