"""The study of alignment in training: arms read the same texts, and go on where they were stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isogloss.organism import scene_corpus
from isogloss.organism.world import draw_problem, realise_problem


@pytest.fixture
def arms(document_script):
    """What is trained."""
    return document_script("findings_alignment_arms")


@pytest.fixture
def page(document_script):
    """The script that writes the section."""
    return document_script("findings_alignment")


@pytest.fixture
def short(arms):
    """A training of two steps."""
    return replace(arms.RECIPE, steps=2, warmup=1, pairs=2, document_tokens=128, save_every=1)


@pytest.fixture
def pairs(arms):
    """Problems in the languages of the study and in English."""
    problems = [draw_problem(index, seed=1, split="dev") for index in range(6)]
    texts = {code: tuple(realise_problem(each, code) for each in problems) for code in (*arms.LANGUAGES, arms.PIVOT)}
    return replace(scene_corpus(6, languages=tuple(texts)), texts=texts)


def test_arms_read_the_same_texts_in_the_same_order(arms, short, pairs):
    """But for the pivot that stands beside a text, which is never the true one where pairs are shuffled."""
    tokenizer = arms.AutoTokenizer.from_pretrained(arms.model_folder())
    by_name = {arm.name: list(arms.steps_of(arm, pairs, tokenizer, short)) for arm in arms.ARMS}
    first = by_name["without"]
    for name, steps in by_name.items():
        assert [documents for documents, _ in steps] == [documents for documents, _ in first]
        for (_, own), (_, others) in zip(steps, first, strict=True):
            assert [each["text"] for each in own] == [each["text"] for each in others]
            same = [one["pivot"] == other["pivot"] for one, other in zip(own, others, strict=True)]
            assert not any(same) if name == "shuffled" else all(same)


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_as_one_that_was_not(arms, short, pairs, tmp_path, monkeypatch):
    """With the same bytes, and the factor that it had fixed."""
    by_name = {arm.name: arm for arm in arms.ARMS}
    for name in ("middle", "routers"):
        whole, stopped = tmp_path / name, tmp_path / f"{name}-stopped"
        arms.train_arm(by_name[name], pairs, whole, short)
        steps = arms.take_step

        def stop(*args, steps=steps, calls=[]):  # noqa: B006 - counts its calls
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            steps(*args)

        with monkeypatch.context() as patched:
            patched.setattr(arms, "take_step", stop)
            with pytest.raises(KeyboardInterrupt):
                arms.train_arm(by_name[name], pairs, stopped, short)
        arms.train_arm(by_name[name], pairs, stopped, short)
        for file in ("model/model.safetensors", *(["routers.safetensors"] if name == "routers" else [])):
            assert (whole / file).read_bytes() == (stopped / file).read_bytes()
        assert arms.read_json(whole / "trained.json")["coefficient"] == pytest.approx(
            arms.read_json(stopped / "trained.json")["coefficient"]
        )


def test_load_balance_is_1_where_all_experts_get_the_same(page):
    """And the number of experts where one gets everything."""

    class Manifest:
        shape = (3, 2, 4)

    class Run:
        manifest = Manifest

    score = page.balance_of(Run)
    even = np.ones((3, 2, 2, 4)).reshape(3, -1)
    one = np.zeros((3, 2, 2, 4))
    one[..., 0] = 5
    assert score(even.sum(0)) == pytest.approx(1)
    assert score(one.reshape(3, -1).sum(0)) == pytest.approx(4)
