"""The study of learned plans: seeds share no example, controls change one thing, numbers are those of the answers."""

from __future__ import annotations

import numpy as np
import pytest

from isogloss.evaluation import BASELINE, load_task
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan

FINGERPRINT = Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")


@pytest.fixture
def arms(document_script):
    """What is learned, and the controls."""
    return document_script("findings_learning_arms")


@pytest.fixture
def page(document_script):
    """The script that writes the section."""
    return document_script("findings_learning")


@pytest.fixture
def plan(arms):
    """Offsets for every language of the study."""
    rng = np.random.default_rng(0)
    rules = [
        Intervention("offset", layer, tuple(range(8)), values=tuple(rng.normal(size=8)), languages=(code,))
        for layer in (0, 1)
        for code in arms.LANGUAGES
    ]
    return Plan(FINGERPRINT, tuple(rules))


def offsets(plan):
    """Values by language and layer."""
    return {(each.languages[0], each.layer): np.array(each.values) for each in plan.interventions}


def test_seeds_share_no_example_and_no_one_sees_a_test_item(arms, monkeypatch):
    """Nor a dev item; pairs are those of the examples, and shuffled ones are never true."""
    monkeypatch.setattr(arms, "N_POOL", 130)
    monkeypatch.setattr(arms, "N_EXAMPLES", 12)
    monkeypatch.setattr(arms, "N_DEV", 10)
    pool = arms.learning_pool()
    by_name = {arm.name: arm for arm in arms.ARMS}
    data = [by_name["by-language"].data(pool, seed) for seed in arms.SEEDS]
    for code in arms.LANGUAGES:
        items = [[item.prompt for item in each.examples[code].items[code]] for each in data]
        assert list(map(len, items)) == [12, 12, 12]
        assert len({prompt for each in items for prompt in each}) == 36
        dev = {item.prompt for item in pool.dev[code].items[code]}
        test = {item.prompt for item in load_task("organism", languages=[code], n_items=200, split="test").items[code]}
        assert len(dev) == 10
        assert not dev & test
        assert not {prompt for each in items for prompt in each} & (dev | test)
    true, false = (by_name[name].data(pool, 1) for name in ("alignment", "shuffled"))
    assert list(true.parallel.texts["swh_Latn"]) == [
        item.prompt for item in data[1].examples["swh_Latn"].items["swh_Latn"]
    ]
    assert true.parallel.texts["swh_Latn"] == false.parallel.texts["swh_Latn"]
    pairs = zip(true.parallel.texts[arms.PIVOT], false.parallel.texts[arms.PIVOT], strict=True)
    assert all(one != other for one, other in pairs)
    assert sorted(true.parallel.texts[arms.PIVOT]) == sorted(false.parallel.texts[arms.PIVOT])
    assert not true.examples
    with pytest.raises(SystemExit, match="raise N_POOL"):
        by_name["by-language"].data(pool, 9)


def test_controls_change_one_thing(arms, plan):
    """Permuted: the same numbers in a layer; random: the same norm; another language's: all of them, moved on."""
    plans = {f"by-language-{seed}": plan for seed in arms.SEEDS}
    made = {name: offsets(each) for name, each in arms.controls(plans).items()}
    for place, values in offsets(plan).items():
        permuted, drawn = made["permuted-0"][place], made["same-norm-0"][place]
        assert sorted(permuted) == sorted(values)
        assert not np.array_equal(permuted, values)
        assert np.linalg.norm(drawn) == pytest.approx(np.linalg.norm(values))
        assert sorted(drawn) != pytest.approx(sorted(values))
        assert made["scale-2"][place] == pytest.approx(2 * values)
        code, layer = place
        after = arms.LANGUAGES[(arms.LANGUAGES.index(code) + 1) % 4]
        assert np.array_equal(made["other-language-0"][after, layer], values)


def test_numbers_are_those_of_the_answers(page, arms):
    """Three seeds are averaged item by item; a comparison takes the seeds that both arms have."""
    rng = np.random.default_rng(1)
    names = [f"{name}-{seed}" for name, _, seeds in page.listed() for seed in seeds]
    single = [name for name, _, seeds in page.listed() if not seeds]
    values = {
        name: {code: (rng.random(50) < share).astype(float) for code in (*arms.LANGUAGES, arms.PIVOT)}
        for name, share in {BASELINE: 0.1, **dict.fromkeys(names + single, 0.6)}.items()
    }
    after = page.of_arm(values, "shared", arms.SEEDS)
    assert after["tha_Thai"][7] == pytest.approx(
        np.mean([values[f"shared-{seed}"]["tha_Thai"][7] for seed in (0, 1, 2)])
    )
    found = page.Measured(values, None, {})
    before = page.of_arm(values, BASELINE, ())
    expected = np.mean([after[code].mean() - before[code].mean() for code in arms.LANGUAGES])
    assert page.gain(before, after).value == pytest.approx(expected)
    text = page.claims(found)
    assert "Aim of 25 points more in the mean of the four languages: reached" in text
    few = page.gain(page.of_arm(values, "few-32", (0,)), page.of_arm(values, "shared", (0,)))
    assert f"600 examples do more than 32: not shown ({page.points(few)})." in text
    assert text.count("\n") == len(page.PAIRS)
