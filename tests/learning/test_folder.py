"""Whatever is learned: killed at any moment and begun again, every file is that of an undisturbed run."""

from __future__ import annotations

import shutil
import signal

import pytest
from commands import run
from killing import KilledError, kill_at, start_signalled
from models import TEXTS, checkpoint, tiny
from written import contents

from isogloss.corpora import Corpus
from isogloss.learning import LearnOptions, gather_data, learn_plan
from isogloss.learning.folder import LearningFolder

KINDS = {
    "offset": {"learning_rate": 0.3},
    "low-rank": {"learning_rate": 0.1, "rank": 2, "tolerance": 100.0},
    "router": {"learning_rate": 0.05, "tolerance": 100.0},
}
PROTECTED = ("eng_Latn", "fra_Latn")
each_kind = pytest.mark.parametrize("kind", list(KINDS))


def texts_of(code):
    """Texts of a language to protect."""
    return tuple(f"{code} {text}" for text in TEXTS)


def data_of(kind, examples):
    """Examples, dev items, and texts to protect."""
    texts = {code: texts_of(code) for code in PROTECTED}
    generic = Corpus("generic", texts, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")
    sources = {"examples": examples, "languages": ["sw", "de"], "generic": generic}
    return gather_data(None, **sources, protect=() if kind == "offset" else None)


@pytest.mark.slow
@each_kind
def test_killed_at_any_call_that_touches_the_disk(kind, examples, tmp_path, monkeypatch):
    """A line without its checkpoint, half a checkpoint, an adapter without its record: none of it is left."""
    data = data_of(kind, examples)
    options = LearnOptions(parameters=kind, steps=1, batch_size=4, dev_every=1, **KINDS[kind])
    whole, killed, moment = tmp_path / "whole", tmp_path / "killed", 0
    plan = learn_plan(tiny("olmoe"), data, out=whole, options=options).plan
    while True:
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                learn_plan(tiny("olmoe"), data, out=killed, options=options)
            except KilledError:
                pass
            else:
                break
        assert learn_plan(tiny("olmoe"), data, out=killed, options=options).plan == plan
        assert contents(killed) == contents(whole)
        shutil.rmtree(killed)
        moment += 1
    assert moment > 8 * (2 if kind == "offset" else 1)


@each_kind
def test_stopped_after_every_step(kind, examples, tmp_path, monkeypatch):
    """One step at a time, each in a run of its own: what Adam remembers and what is drawn go on."""
    data = data_of(kind, examples)
    options = LearnOptions(parameters=kind, steps=3, batch_size=4, dev_every=1, **KINDS[kind])
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    plan = learn_plan(tiny("olmoe"), data, out=whole, options=options).plan
    keep, n_stops = LearningFolder.keep, 0

    def stopping(folder, record, checkpoint):
        keep(folder, record, checkpoint)
        raise KilledError

    while True:
        with monkeypatch.context() as patch:
            patch.setattr(LearningFolder, "keep", stopping)
            try:
                learn_plan(tiny("olmoe"), data, out=cut, options=options)
            except KilledError:
                n_stops += 1
            else:
                break
    assert n_stops == 4 * (2 if kind == "offset" else 1)
    assert learn_plan(tiny("olmoe"), data, out=cut, options=options).plan == plan
    assert contents(cut) == contents(whole)


@pytest.mark.slow
@pytest.mark.long
@each_kind
def test_sigkill_to_the_command(kind, examples, tmp_path):
    """To a real process after different numbers of lines; repeated, it gives what an undisturbed run gives."""
    generic = tmp_path / "generic"
    generic.mkdir()
    for code in PROTECTED:
        (generic / f"{code}.txt").write_text("".join(f"{text}\n" for text in texts_of(code)))
    line = ["learn", checkpoint("olmoe"), "--examples", examples, "--generic", generic, "--parameters", kind]
    line += ["--steps", "12", "--dev-every", "3", "--batch-size", "4", "--dtype", "float32"]
    given = {name: value for name, value in KINDS[kind].items() if name != "tolerance"}  # nothing guards without a task
    line += [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*line, "-o", whole) == 0
    for n_lines in (2, 9, 17) if kind == "offset" else (2, 6, 11):
        process = start_signalled([*line, "-o", killed], killed, "history.jsonl", n_lines, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not any((killed / name).exists() for name in ("plan.json", "adapter"))
    with (killed / "history.jsonl").open("ab") as file:
        file.write(b'{"a line of a step": without its checkpoint')
    for _ in range(2):
        assert run(*line, "-o", killed) == 0
        assert contents(killed) == contents(whole)
