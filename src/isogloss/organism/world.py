"""The meaning of items in the small world, before any language: fillers, and the numbers in word problems.

Every item is drawn from its own seed, so an item has the same meaning in every language, whatever was drawn before it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from isogloss.organism.realise import ROLE_SECTION, Lexicon, load_lexicon

__all__ = [
    "Problem",
    "ProblemSplit",
    "Scene",
    "draw_equation",
    "draw_problem",
    "draw_scene",
    "realise_problem",
    "realise_scene",
    "split_of",
    "write_equations",
]

ProblemSplit = Literal["train", "dev", "test"]
Fillers = dict[str, str | int]
Step = tuple[int, str, int, int]

_LARGEST = 99
_FEWEST = 2  # things that a text counts: the wording is plural
_HELD_OUT_SHARE = {"dev": 0.05, "test": 0.1}


class Clause(NamedTuple):
    """One template and what fills it."""

    section: str
    key: str
    fillers: Fillers


@dataclass(frozen=True)
class Scene:
    """A few sentences that agree with each other, then a question about them.

    Attributes:
        item_id: the same in every language.
        clauses: the sentences, in order.
        question: asked about the sentences.
        answer: answer to the question.
    """

    item_id: str
    clauses: tuple[Clause, ...]
    question: Clause
    answer: Clause


@dataclass(frozen=True)
class Problem:
    """A word problem of one or two steps.

    Attributes:
        item_id: the same in every language.
        clauses: the story and the question, in order.
        steps: equations such as ``(12, "+", 5, 17)``.
        answer: the last equation's result.
    """

    item_id: str
    clauses: tuple[Clause, ...]
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        """The number that answers the question."""
        return self.steps[-1][3]

    @property
    def working(self) -> str:
        """The equations as the model writes them; see `write_equations`."""
        return write_equations(self.steps)


def write_equations(steps: Sequence[Step]) -> str:
    """Write equations with their tens and ones apart, as in mental arithmetic: ``47+35=70+12=82 82-35=50-3=47``.

    So no equation has to be memorised: the tens and ones of other numbers are enough to learn from.
    """
    return " ".join(_write(*step) for step in steps)


def _write(a: int, sign: str, b: int, result: int) -> str:
    (a_tens, a_ones), (b_tens, b_ones) = divmod(a, 10), divmod(b, 10)
    if sign == "+":
        return f"{a}+{b}={10 * (a_tens + b_tens)}+{a_ones + b_ones}={result}"
    return f"{a}-{b}={10 * (a_tens - b_tens)}{a_ones - b_ones:+d}={result}"


def draw_scene(index: int, *, seed: int) -> Scene:
    """Draw the scene number ``index`` of the stream ``seed``."""
    rng = random.Random(f"scene-{seed}-{index}")
    draw = rng.choice(_SCENES)
    clauses, question, answer = draw(rng)
    return Scene(f"scene-{seed}-{index}", tuple(clauses), question, answer)


def realise_scene(scene: Scene, language: str) -> tuple[str, str, str]:
    """Write a scene in one language: (sentences, question, answer)."""
    lexicon = load_lexicon(language)
    return (
        join_sentences([lexicon.realise(*clause) for clause in scene.clauses], lexicon),
        lexicon.realise(*scene.question),
        lexicon.realise(*scene.answer),
    )


def join_sentences(sentences: list[str], lexicon: Lexicon) -> str:
    """Join sentences as the script does: without a space where it writes none after its full stop."""
    return ("" if lexicon.language in ("zho_Hans", "jpn_Jpan") else " ").join(sentences)


def _fill(rng: random.Random, *roles: str) -> Fillers:
    """Draw distinct fillers for the roles; a role's section is known from its name."""
    lexicon = load_lexicon("eng_Latn")
    fillers: Fillers = {}
    for role in roles:
        taken = set(fillers.values())
        fillers[role] = rng.choice([key for key in lexicon.sections[ROLE_SECTION[role]] if key not in taken])
    return fillers


Drawn = tuple[list[Clause], Clause, Clause]


def _asked(key: str, fillers: Fillers) -> tuple[Clause, Clause]:
    """Return a question and its answer."""
    return Clause("questions", key, fillers), Clause("answers", key, fillers)


def _unrelated(rng: random.Random, f: Fillers) -> list[Clause]:
    """Draw a sentence without any thing, place or person of ``f``, or none: the answer is not in every sentence."""
    keys = ("see", "like", "walk", "sleep", "search", "lack", "because", "bigger", "wait", "bring", "eat")
    while True:
        key = rng.choice(keys)
        side = _fill(rng, "person", "other", "animal", "thing", "colour", "place", "mood", "time")
        if rng.random() >= 0.7:  # noqa: PLR2004 - a share, not a size
            return []
        if not set(side.values()) & set(f.values()):
            return [Clause("sentences", key, side)]


def _scene_of_places(rng: random.Random) -> Drawn:
    f = _fill(rng, "person", "other", "place")
    elsewhere = _fill(rng, "person", "place")
    while elsewhere["place"] == f["place"]:
        elsewhere = _fill(rng, "person", "place")
    moved = Clause("sentences", "go", f)
    other = Clause("sentences", "be_at", {"person": f["other"], "place": elsewhere["place"]})
    clauses = [moved, other] if rng.random() < 0.5 else [other, moved]  # noqa: PLR2004 - a coin
    asked = rng.choice((moved, other))
    return clauses, *_asked("where_person", asked.fillers)


def _scene_of_owners(rng: random.Random) -> Drawn:
    f = _fill(rng, "person", "other", "thing")
    given = {"person": f["other"], "thing": f["thing"]}
    clauses = [Clause("sentences", "take", f), *_unrelated(rng, f), Clause("sentences", "give", f)]
    return clauses, *_asked("who_has", given)


def _scene_of_things(rng: random.Random) -> Drawn:
    f = _fill(rng, "person", "thing", "place", "colour")
    clauses = [Clause("sentences", rng.choice(("put", "thing_at")), f)]
    return _unrelated(rng, f) + clauses, *_asked("where_thing", f)


def _scene_of_colours(rng: random.Random) -> Drawn:
    f = _fill(rng, "person", "other", "thing", "colour")
    g = {"person": f["other"], **_fill(rng, "thing", "colour")}
    while g["thing"] == f["thing"]:
        g = {"person": f["other"], **_fill(rng, "thing", "colour")}
    asked = rng.choice((f, g))
    clauses = [Clause("sentences", "have", f), Clause("sentences", "have", g)]
    return clauses, *_asked("what_colour", asked)


def _scene_of_moods(rng: random.Random) -> Drawn:
    f = _fill(rng, "person", "other", "mood", "time")
    counted = {**_fill(rng, "thing", "place"), "n": rng.randint(_FEWEST, _LARGEST)}
    clauses = [Clause("sentences", "feel", f), Clause("sentences", "count", counted)]
    rng.shuffle(clauses)
    return clauses, *_asked("how_feel", f)


_SCENES: tuple[Callable[[random.Random], Drawn], ...] = (
    _scene_of_places,
    _scene_of_owners,
    _scene_of_things,
    _scene_of_colours,
    _scene_of_moods,
)


def split_of(step: Step) -> ProblemSplit:
    """Return the split that an equation belongs to; 2+5 and 5+2 are one equation.

    The numbers alone decide, so training never contains a held-out equation in any wording, name or language. Equations
    with a round number belong to training, because the working of every other equation contains one.
    """
    a, sign, b, _ = step
    if a % 10 == 0 or b % 10 == 0:
        return "train"
    pair = sorted((a, b)) if sign == "+" else (a, b)
    draw = int.from_bytes(hashlib.sha256(f"{pair[0]}{sign}{pair[1]}".encode()).digest()[:8]) / 2**64
    if draw < _HELD_OUT_SHARE["test"]:
        return "test"
    return "dev" if draw < _HELD_OUT_SHARE["test"] + _HELD_OUT_SHARE["dev"] else "train"


def draw_equation(rng: random.Random) -> Step:
    """Draw one equation that training may see, from the range that word problems use."""
    while True:
        a, b, sign = rng.randint(1, _LARGEST), rng.randint(1, _LARGEST), rng.choice("+-")
        step = (a, sign, b, a + b if sign == "+" else a - b)
        if 0 < step[3] <= _LARGEST and split_of(step) == "train":
            return step


def draw_problem(index: int, *, seed: int, split: ProblemSplit) -> Problem:
    """Draw the word problem number ``index`` of the stream ``seed``.

    Its last equation belongs to ``split``; an earlier one belongs to ``split`` or to training.
    """
    rng = random.Random(f"problem-{seed}-{split}-{index}")
    while True:
        clauses, steps = rng.choice((_change, _change_twice, _together, _compare))(rng)
        if split_of(steps[-1]) == split and all(split_of(step) in (split, "train") for step in steps):
            return Problem(f"problem-{seed}-{split}-{index}", tuple(clauses), steps)


def realise_problem(problem: Problem, language: str) -> str:
    """Write a word problem in one language, question included."""
    lexicon = load_lexicon(language)
    return join_sentences([lexicon.realise(*clause) for clause in problem.clauses], lexicon)


Story = tuple[list[Clause], tuple[Step, ...]]


def _event(rng: random.Random, have: int, f: Fillers) -> tuple[Clause, Step]:
    """Draw an event in which things are gained or lost, and at least 1 is left."""
    may_lose, may_gain = have > _FEWEST, have + _FEWEST <= _LARGEST
    gains = may_gain and (not may_lose or rng.random() < 0.5)  # noqa: PLR2004 - a coin
    n = rng.randint(_FEWEST, _LARGEST - have if gains else have - 1)
    key = rng.choice(("get", "buy", "find") if gains else ("give", "lose", "sell"))
    sign, result = ("+", have + n) if gains else ("-", have - n)
    return Clause("problems", key, {**f, "n": n}), (have, sign, n, result)


def _change(rng: random.Random) -> Story:
    f, have = _fill(rng, "person", "other", "thing"), rng.randint(_FEWEST, _LARGEST)
    event, step = _event(rng, have, f)
    return [Clause("problems", "start", {**f, "n": have}), event, Clause("problems", "ask_now", f)], (step,)


def _change_twice(rng: random.Random) -> Story:
    f, have = _fill(rng, "person", "other", "thing"), rng.randint(_FEWEST, _LARGEST)
    first, step = _event(rng, have, f)
    second, next_step = _event(rng, step[3], f)
    clauses = [Clause("problems", "start", {**f, "n": have}), first, second, Clause("problems", "ask_now", f)]
    return clauses, (step, next_step)


def _two_owners(rng: random.Random, question: str, *, most: int) -> tuple[list[Clause], int, int]:
    """Draw two people who own different numbers of things, the first one more, together at most ``most``."""
    f = _fill(rng, "person", "other", "thing")
    while True:
        a, b = sorted(rng.sample(range(_FEWEST, _LARGEST + 1), 2), reverse=True)
        if a + b <= most:
            break
    owns = [Clause("problems", "start", {**f, "n": a}), Clause("problems", "also", {**f, "n": b})]
    return [*owns, Clause("problems", question, f)], a, b


def _together(rng: random.Random) -> Story:
    clauses, a, b = _two_owners(rng, "ask_together", most=_LARGEST)
    return clauses, ((a, "+", b, a + b),)


def _compare(rng: random.Random) -> Story:
    clauses, a, b = _two_owners(rng, "ask_more", most=2 * _LARGEST)
    return clauses, ((a, "-", b, a - b),)
