"""An ablation bans what it wrote down before, measures what the bans do, and calls selective what is planted so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from written import contents

from isogloss.backends.open import load
from isogloss.cli import main
from isogloss.corpora import load_corpus
from isogloss.errors import CorpusError, RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.selectivity import BandValues, Limits, Losses, band_loss, selectivity
from isogloss.files import sha256
from isogloss.reports.ablation import ablation_section, describe_ablation
from isogloss.reports.folders import report_on
from isogloss.statistics import Resampling
from isogloss.steering import read_plan
from isogloss.workflows import Ablation, ablate
from isogloss.workflows.ablation.held_out import hold_out_task
from known_answers.planted import planted_corpora, planted_problems
from known_answers.planted_model import PLANTED_EXPERT, PLANTED_LAYER, planted_model

LANGUAGES = ("eng_Latn", "deu_Latn", "swh_Latn")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The planted case as files: a model with an expert that English needs, sums to capture, and problems."""
    folder = tmp_path_factory.mktemp("world")
    planted_model(folder / "model")
    sums, _ = planted_corpora()
    for name in ("sums", "problems"):
        (folder / name).mkdir()
    for code in LANGUAGES:
        (folder / "sums" / f"{code}.txt").write_text("".join(f"{text}\n" for text in sums.texts[code]))
        rows = "".join(f"{prompt}\t{answer}\n" for _, prompt, answer in planted_problems()[code])
        (folder / "problems" / f"{code}.tsv").write_text(rows)
    return folder


@pytest.fixture(scope="module")
def settings(world):
    """Exclusive experts of three languages in the planted layer and the one below."""
    places = {"model": str(world / "model"), "corpus": str(world / "sums"), "tasks": (str(world / "problems"),)}
    return Ablation(
        **places, languages=LANGUAGES, task_items=8, top=4, threshold=0.6, bands={"planted": (2, 3)}, n_resamples=300
    )


@pytest.fixture(scope="module")
def finished(world, settings):
    """The folder and the result."""
    return world / "out", ablate(settings, world / "out")


def test_the_planted_expert_is_needed_by_english(finished):
    """Banning English's experts, the planted one among them, loses its right answers; random bans lose none."""
    _, result = finished
    family = next(each for each in result.families.families if each.name == "eng_Latn")
    assert PLANTED_EXPERT in family.experts[PLANTED_LAYER]
    assert family.changed > 0
    (test,) = (each for each in result.tests if each.family == "eng_Latn")
    assert test.loss.value >= 0.5
    assert test.loss.low > 0.2
    assert max(test.null) <= 0.25
    assert test.beyond_null.low > 0
    assert {cell.measure for cell in result.cells} == {"score"}  # answers of a few letters are in no known language
    cells = {(cell.masked, cell.evaluated): cell for cell in result.cells}
    assert cells["eng_Latn", "eng_Latn"].before.value == 1.0
    assert cells["eng_Latn", "eng_Latn"].loss == test.loss
    assert cells["swh_Latn", "eng_Latn"].loss.value < 0.25


def test_a_cell_is_what_the_steered_model_answers(finished, world):
    """Answers that the model gives under the plan on disk, read here by their last word, give the same losses."""
    folder, result = finished
    model, task = load(str(world / "model")), load_task(str(world / "problems"), languages=LANGUAGES, n_items=8)

    def right(code):
        outputs = model.generate([item.prompt for item in task.items[code]], max_new_tokens=task.max_new_tokens)
        pairs = zip(outputs, task.items[code], strict=True)
        return np.mean([output.split()[-1:] == [item.answer] for output, item in pairs])

    before = {code: right(code) for code in LANGUAGES}
    with model.steer(read_plan(folder / "plans" / "planted.eng_Latn.json")):
        after = {code: right(code) for code in LANGUAGES}
    assert before != after
    found = {cell.evaluated: cell for cell in result.cells if cell.masked == "eng_Latn"}
    for code in LANGUAGES:
        assert found[code].before.value == before[code]
        assert found[code].loss.value == pytest.approx(before[code] - after[code])


ANSWERS = {
    "eng_Latn": "At this place the river is especially broad and deep, and the children like to swim.",
    "deu_Latn": "Der Fluss ist an dieser Stelle besonders breit und tief, und die Kinder baden gern.",
    "swh_Latn": "Mtoto huyu anapenda kusoma vitabu vya hadithi kila siku baada ya shule na marafiki.",
}


def test_the_language_of_answers_is_measured(finished, settings, tmp_path):
    """Half of the German answers turn English under German's ban: their share, by cell and by band, and in the page."""
    folder, result = tmp_path / "out", finished[1]
    shutil.copytree(finished[0], folder)
    (folder / "ablation.json").unlink()
    for path in (folder / "measured").rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            turned = path.parent.name == "planted.deu_Latn" and path.stem == "deu_Latn" and number % 2
            row["output"] = "42" if number == 0 else ANSWERS["eng_Latn" if turned else path.stem]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = ablate(settings, folder)
    scores = [cell for cell in found.cells if cell.measure == "score"]
    assert (tuple(scores), found.tests, found.bands[0]) == (result.cells, result.tests, result.bands[0])
    cells = {(cell.masked, cell.evaluated): cell for cell in found.cells if cell.measure == "language"}
    assert cells.keys() == {(one, other) for one in LANGUAGES for other in LANGUAGES}
    german = cells["deu_Latn", "deu_Latn"]
    assert (german.before.value, german.before.n, german.loss.value, german.loss.n) == (1.0, 7, 4 / 7, 7)
    assert german.loss.low > 0.1
    assert {cell.loss.value for pair, cell in cells.items() if pair != ("deu_Latn", "deu_Latn")} == {0.0}
    score, band = found.bands
    assert (score.measure, band.measure, band.n_families) == ("score", "language", 3)
    assert (band.before.value, band.others.value, band.random.value) == (1.0, 0.0, 0.0)
    assert band.own.value == pytest.approx(4 / 21)
    assert band.beyond_others == band.beyond_random == band.own
    page = report_on(folder, tmp_path / "report.html").read_text()
    assert 'id="ablation-language-0-0"' in page
    (drawn, *_) = ablation_section(found).blocks
    assert (drawn.layout["xaxis"]["range"], drawn.layout["yaxis"]["range"]) == ([-0.5, 2.5], [-0.5, 2.5])  # whole cells
    assert "Losses by band" in page
    assert (score.n_asked, score.n_judged, band.n_asked, band.n_judged) == (24, 24, 24, 21)
    thirds = replace(found, bands=(replace(score, band="last third"),))
    assert "in the last third of the layers costs it" in " ".join(describe_ablation(thirds))
    said = " ".join(describe_ablation(found))
    assert "fewer than 30 of them could be judged (n = 21 of 24 answers)" in said
    said = " ".join(describe_ablation(replace(found, bands=(replace(band, n_asked=2400, n_judged=2100),))))
    assert "banning a language's experts in the planted layers costs it 19.0 points" in said
    assert (
        "of answers in the language asked for (100.0 % [100.0, 100.0] without a ban, n = 2,100 of 2,400 answers)"
        in said
    )
    assert "and the other languages 0.0 points" in said


def test_means_by_band_are_of_families_and_items():
    """Equal weight for every family, unjudged items left out, intervals that hold the truth, and none for one item."""
    generator, counts = np.random.default_rng(0), Resampling(n_resamples=400).draw(60)

    def draw(level, n_columns):
        return level + generator.normal(scale=0.3, size=(60, 1)) + generator.normal(scale=0.1, size=(60, n_columns))

    own = draw(0.4, 2)
    own[:50, 1] = np.nan
    values = BandValues(before=draw(0.8, 2), own=own, others=draw(0.1, 4), random=draw(0.0, 20))
    found = band_loss(values, counts, band="late", task="texts", measure="language")
    assert found.own.value == pytest.approx((own[:, 0].mean() + own[50:, 1].mean()) / 2)
    assert found.beyond_others.value == pytest.approx(found.own.value - values.others.mean())
    assert found.beyond_random.low > 0.2
    assert found.own.low < 0.4 < found.own.high
    assert (found.n_families, found.own.n) == (2, 60)
    alone = replace(values, others=np.full((60, 1), np.nan))
    found = band_loss(alone, counts, band="late", task="texts", measure="score")
    assert not found.others.is_known
    assert not found.beyond_others.is_known
    assert found.own.is_known


def test_settings_and_families_are_hashed_before_the_measurement(finished):
    """The result names what was written first; nothing measured is older than the families."""
    folder, result = finished
    assert result.settings_sha256 == sha256((folder / "settings.json").read_bytes())
    assert result.families_sha256 == sha256((folder / "families.json").read_bytes())
    written = (folder / "families.json").stat().st_mtime_ns
    assert written > (folder / "settings.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns >= written for path in (folder / "measured").rglob("*.jsonl"))
    assert json.loads((folder / "settings.json").read_text())["tasks"] == ["problems"]  # no path of this machine


def test_a_stopped_ablation_ends_with_the_same_bytes(finished, settings):
    """A torn file of answers and a missing result are made anew; a plan that was changed is refused."""
    folder, result = finished
    before = contents(folder)
    torn = next((folder / "measured" / "0" / "planted.eng_Latn").glob("*.jsonl"))
    torn.write_bytes(torn.read_bytes()[:-5])
    (folder / "ablation.json").unlink()
    assert ablate(settings, folder) == result
    assert contents(folder) == before
    (folder / "ablation.json").unlink()
    plan = folder / "plans" / "planted.eng_Latn.json"
    kept = plan.read_bytes()
    plan.write_bytes((folder / "plans" / "planted.deu_Latn.json").read_bytes())
    with pytest.raises(RunError, match=r"is not the plan that families\.json names"):
        ablate(settings, folder)
    plan.write_bytes(kept)
    assert ablate(settings, folder) == result
    with pytest.raises(RunError, match=r"threshold: 0\.6 and 0\.7"):
        ablate(replace(settings, threshold=0.7), folder)


def test_captured_texts_are_not_measured(world, settings, tmp_path):
    """Items whose text was captured are left out and counted; where none is left, the task is refused."""
    prompts = [prompt for _, prompt, _ in planted_problems()["eng_Latn"][:2]]
    for code in LANGUAGES:
        texts = (world / "sums" / f"{code}.txt").read_text().splitlines()[:2]
        (tmp_path / f"{code}.txt").write_text("".join(f"{t}\n" for t in (prompts if code == "eng_Latn" else texts)))
    result = ablate(replace(settings, corpus=str(tmp_path), task_items=2, threshold=0.99), tmp_path / "out")
    (task,) = result.families.tasks
    assert task.n_captured == 2
    assert len(task.item_ids) == 2
    few = tmp_path / "few"
    few.mkdir()
    for code in LANGUAGES:
        lines = (world / "problems" / f"{code}.tsv").read_text().splitlines(keepends=True)[:2]
        (few / f"{code}.tsv").write_text("".join(lines))
    with pytest.raises(CorpusError, match="the texts of all its items were captured"):
        ablate(replace(settings, corpus=str(tmp_path), tasks=(str(few),)), tmp_path / "none")


@pytest.mark.parametrize("variant", ["", ":into-english", ":reference", ":text"])
@pytest.mark.parametrize("captured", ["eng_Latn", "deu_Latn"])
def test_captured_sentences_are_not_asked_to_be_translated(variant, captured, tmp_path):
    """Whether the captured language is read or written, and whatever words stand before the sentence."""
    for split in ("dev", "devtest"):
        (tmp_path / split).mkdir()
        for code in ("eng_Latn", "deu_Latn"):
            lines = (f"{code}, {split}: sentence {number}.\n" for number in range(3))
            (tmp_path / split / f"{code}.{split}").write_text("".join(lines))
    texts = load_corpus(str(tmp_path), languages=[captured], split="dev")
    task = f"flores{variant}:{tmp_path}"
    held = hold_out_task(task, Ablation(tasks=(task,), top=1), (texts, None), ["deu_Latn"])
    assert held.n_captured == (3 if (variant, captured) != (":text", "eng_Latn") else 0)
    kept = {item.item_id.partition("/")[0] for item in held.task.items["deu_Latn"]}
    assert kept == ({"devtest"} if held.n_captured else {"dev", "devtest"})


def test_the_command_and_the_report(finished, settings, tmp_path, capsys):
    """From a file; the table, the sentences and the page say the same; wrong settings are refused in one line."""
    folder, result = finished
    places = f'model = "{settings.model}"\ncorpus = "{settings.corpus}"\ntasks = ["{settings.tasks[0]}"]\n'
    places += 'languages = ["eng_Latn", "deu_Latn", "swh_Latn"]\n'
    numbers = "task_items = 8\ntop = 4\nthreshold = 0.6\nn_resamples = 300\n[bands]\nplanted = [2, 3]\n"
    path = tmp_path / "ablation.toml"
    path.write_text(places + numbers)
    assert main(["ablate", str(path), "-o", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "eng_Latn" in printed
    assert "3 families of experts were banned, in layers 2-3 (planted)" in printed
    assert main(["ablate", str(path), "-o", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["families_sha256"] == result.families_sha256
    page = report_on(folder, tmp_path / "report.html").read_text()
    assert "Banned families of experts" in page
    assert result.settings_sha256 in page
    for wrong, message in (
        ("n_null = 5\n", "n_null is 5; expected at least 10"),
        ("tasks = []\n", "tasks are []"),
        ("top = 0\n", "the share rule needs top"),
        ("colour = 1\n", "is no ablation"),
        ('task = "organism:reference"\n', "task and task_corpus belong together"),
    ):
        path.write_text(wrong + ("" if "tasks" in wrong else places) + ("" if "top" in wrong else "top = 4\n"))
        assert main(["ablate", str(path), "-o", str(tmp_path / "wrong")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()


def test_selectivity_tells_planted_losses_apart():
    """Needed alone; needed by others too; no more than random bans; and too few items to say."""
    generator = np.random.default_rng(0)

    def judge(own, other, null, n=200, spread=0.05):
        noise = [generator.normal(scale=spread, size=n) for _ in range(2)]
        by_axis = {(0, "swh_Latn"): own + noise[0], (0, "deu_Latn"): other + noise[1], (0, "eng_Latn"): 0 * noise[0]}
        drawn = null + generator.normal(scale=0.02, size=(10, 1)) + generator.normal(scale=spread, size=(10, n))
        losses = Losses("late", "swh_Latn", (0, "swh_Latn"), by_axis, drawn)
        counts = [Resampling(n_resamples=300).draw(n)]
        return selectivity(losses, counts, ["texts"], Limits(), task="texts")

    found = judge(0.6, 0.05, 0.0)
    assert (found.verdict, found.own, found.worst) == ("selective", "texts/swh_Latn", "texts/deu_Latn")
    assert found.room.value == pytest.approx(0.6 / 3 - 0.05, abs=0.02)
    assert judge(0.6, 0.3, 0.0).verdict == "no"
    assert judge(0.6, 0.05, 0.6).verdict == "no"
    assert judge(0.6, 0.17, 0.0, n=8, spread=0.2).verdict in {"by the point", "no"}


def test_random_families_are_rarely_selective():
    """A family that is one of the random ones exceeds their mean and two deviations about as often as chance says."""
    generator, counts = np.random.default_rng(1), [Resampling(n_resamples=100).draw(30)]
    verdicts = []
    for _ in range(200):
        losses = generator.normal(scale=0.1, size=(11, 1)) + generator.normal(scale=0.05, size=(11, 30))
        by_axis = {(0, "swh_Latn"): losses[0], (0, "deu_Latn"): np.zeros(30)}
        made = Losses("late", "swh_Latn", (0, "swh_Latn"), by_axis, losses[1:])
        verdicts.append(selectivity(made, counts, ["texts"], Limits(), task="texts").verdict)
    assert verdicts.count("selective") <= 14
