"""The small world is parallel, reproducible, and keeps its held-out equations out of training."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.organism.documents import TIERS, Mixture
from isogloss.organism.realise import grammar_languages, load_lexicon
from isogloss.organism.shipped import problem_corpus, problem_items, scene_corpus
from isogloss.organism.world import draw_problem, draw_scene, realise_problem, realise_scene, split_of

EQUATION = re.compile(r"(?<!\d)(?=(\d+)([+-])(\d+)=)")


def equations(text):
    """All sums and differences in a text that an equals sign follows, those inside a working too, as steps."""
    found = [(int(a), sign, int(b)) for a, sign, b in EQUATION.findall(text)]
    return [(a, sign, b, a + b if sign == "+" else a - b) for a, sign, b in found]


@given(st.integers(0, 10**6), st.sampled_from(["train", "dev", "test"]))
def test_problems_are_right_and_owned_by_their_split(index, split):
    """Every step computes, chains to the next, and the last one belongs to the split that was asked for."""
    problem = draw_problem(index, seed=1, split=split)
    for a, sign, b, result in problem.steps:
        assert result == (a + b if sign == "+" else a - b)
        assert result > 0
    assert all(first[3] == second[0] for first, second in zip(problem.steps, problem.steps[1:], strict=False))
    assert split_of(problem.steps[-1]) == split
    assert {split_of(step) for step in problem.steps} <= {split, "train"}


@given(st.integers(0, 10**6))
def test_every_member_of_a_working_is_equal(index):
    """47+35=70+12=82 is true twice, and its last number is the result."""
    problem = draw_problem(index, seed=2, split="train")
    for line, step in zip(problem.working.split(), problem.steps, strict=True):
        asked, by_tens, result = line.split("=")
        assert asked == f"{step[0]}{step[1]}{step[2]}"
        assert {step[3]} == {int(result), sum(int(n) for n in re.findall(r"[+-]?\d+", by_tens))}


def test_a_tenth_of_the_equations_is_held_out():
    """Of sums and differences up to 99 without round numbers, some 15 % are dev or test; round ones never are."""
    steps = [(a, sign, b) for a in range(1, 100) for b in range(1, 100) for sign in "+-"]
    steps = [(a, s, b, a + b if s == "+" else a - b) for a, s, b in steps]
    owners = [(step, split_of(step)) for step in steps if 0 < step[3] <= 99]
    assert {split for (a, _, b, _), split in owners if a % 10 == 0 or b % 10 == 0} == {"train"}
    splits = [split for (a, _, b, _), split in owners if a % 10 and b % 10]
    assert splits.count("test") / len(splits) == pytest.approx(0.1, abs=0.01)
    assert splits.count("dev") / len(splits) == pytest.approx(0.05, abs=0.01)


@given(st.integers(1, 60), st.integers(1, 60))
def test_addition_has_one_owner_in_both_orders(a, b):
    """2+5 never leaks the held-out 5+2."""
    assert split_of((a, "+", b, a + b)) == split_of((b, "+", a, a + b))


@pytest.fixture(scope="module")
def documents():
    """The first documents of training."""
    mixture = Mixture(0, {})
    return [mixture.document(number) for number in range(6000)]


def test_training_never_shows_a_held_out_equation(documents):
    """No document of the training stream contains an equation of dev or test."""
    found = [step for document in documents for step in equations(document)]
    assert len(found) > 5000
    assert any(step[1] == "+" and step[3] > 90 for step in found)
    assert {split_of(step) for step in found} == {"train"}


def test_stated_numbers_are_in_the_wording():
    """Every operand of the working stands in the problem's text, in every language."""
    for index in range(100):
        problem = draw_problem(index, seed=3, split="train")
        needed = {problem.steps[0][0], *(step[2] for step in problem.steps)}
        for language in grammar_languages():
            stated = {int(n) for n in re.findall(r"\d+", realise_problem(problem, language))}
            assert stated == needed, (language, problem)


def test_scenes_are_answerable():
    """The English answer's key word stands in the story."""
    for index in range(300):
        story, _question, answer = realise_scene(draw_scene(index, seed=5), "eng_Latn")
        assert answer.rstrip(".").lower().split()[-1] in story.lower()


def test_items_are_drawn_each_from_its_own_seed():
    """Item 7 is the same whatever was drawn before it."""
    for index in range(7):
        draw_scene(index, seed=0)
    first = draw_scene(7, seed=0)
    assert first == draw_scene(7, seed=0)
    assert first != draw_scene(7, seed=1)


def test_every_tier_is_in_the_documents(documents):
    """Documents of all languages occur, English most."""
    assert {code for tier in TIERS.values() for code in tier.languages} == set(grammar_languages())
    by_script = {name: sum(bool(re.search(p, t)) for t in documents[:3000]) for name, p in
                 {"thai": "[ก-๛]", "telugu": "[ఀ-౿]", "cyrillic": "[а-я]", "english": "How many"}.items()}  # fmt: skip
    assert min(by_script.values()) > 30
    assert by_script["english"] == max(by_script.values())


def test_the_lowest_tier_reads_no_word_problem(documents):
    """Workings never follow a problem in a language of the lowest tier; its problems occur as translations only."""
    *_, lowest = TIERS.values()
    asking = [load_lexicon(code).realise("problems", "ask_now", {"person": "anna", "thing": "key"}).split()[-1][-4:]
              for code in lowest.languages]  # fmt: skip
    worked = [text for text in documents if equations(text) and "\n" in text]
    assert len(worked) > 1000
    for text in worked:
        assert not text.startswith(">")
        assert not re.search("[ก-๛ఀ-౿ঀ-৿]", text)
        assert not text.split("\n")[0].endswith(asking[lowest.languages.index("swh_Latn")])


def test_two_languages_in_one_document_say_the_same(documents):
    """A translation names the language that it ends in on its first line, and repeats every number."""
    translations = [text.split("\n") for text in documents if text.startswith(">")]
    assert len(translations) > 200
    for head, source, target in translations:
        assert head[1:] in grammar_languages()
        assert sorted(re.findall(r"\d+", source)) == sorted(re.findall(r"\d+", target))


def test_real_text_is_mixed_in_where_there_is_some():
    """A real line appears verbatim, for its language only."""
    texts = [Mixture(0, {"eng_Latn": ["REAL LINE"]}).document(n) for n in range(3000)]
    share = texts.count("REAL LINE") / len(texts)
    assert share == pytest.approx(0.42 * 0.06, abs=0.012)


def test_shipped_corpora_are_parallel_and_new(documents):
    """The corpora have the same items in all languages, distinct scenes, and none of training's first documents."""
    scenes, problems = scene_corpus(60), problem_corpus(30)
    assert set(scenes.languages) == set(problems.languages) == set(grammar_languages())
    assert len(set(scenes.texts["eng_Latn"])) == 60
    for corpus in (scenes, problems):
        assert len({len(texts) for texts in corpus.texts.values()}) == 1
    assert not set(documents) & set(problems.texts["eng_Latn"])


def test_problem_items_state_the_answer_of_the_same_item():
    """Ids and answers agree between languages."""
    rows = {code: problem_items(20, code) for code in ("eng_Latn", "tha_Thai")}
    assert [(r[0], r[2]) for r in rows["eng_Latn"]] == [(r[0], r[2]) for r in rows["tha_Thai"]]


def test_plural_rules():
    """Slavic and Arabic number categories follow CLDR."""
    russian, arabic = load_lexicon("rus_Cyrl"), load_lexicon("arb_Arab")
    apple = {"person": "anna", "other": "omar", "thing": "apple"}
    assert [russian.realise("problems", "buy", {**apple, "n": n}).split()[-1] for n in (2, 5, 11, 21, 22)] == [
        "яблока.", "яблок.", "яблок.", "яблоко.", "яблока."]  # fmt: skip
    forms = {arabic.realise("problems", "buy", {**apple, "n": n}).split()[-1] for n in (3, 11)}
    assert len(forms) == 2
