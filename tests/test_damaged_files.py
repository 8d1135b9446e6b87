"""Every file that is read may be damaged: it is then accepted, or refused in one line; nothing else ever happens.

Files of models have a test of their own.
"""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import report_samples
import run_examples
from damage import accepted_or_refused, damaged
from fake_engine import FakeEngine
from model_versions import model_version

from isogloss.analysis import AnalysisRequest, ExpertRow, ExpertTable, analyze_run, read_measure
from isogloss.backends.token_routing import RoutedText
from isogloss.cli.sweep import show_sweep
from isogloss.corpora import Hub, load_corpus
from isogloss.errors import CorpusError
from isogloss.evaluation import Item, Task, claim, load_task
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.evaluation.summarise import compare_folders
from isogloss.evaluation.tasks.choices import MEDICAL_SUBJECTS
from isogloss.evaluation.tasks.parse import parse_number
from isogloss.evaluation.tasks.reading import read_rows
from isogloss.evaluation.tasks.score import score_bits, score_options, score_output
from isogloss.evaluation.versions import (
    VersionComparison,
    compare_versions,
    text_difference,
)
from isogloss.files import read_json, sha256, write_json
from isogloss.records import write_typed
from isogloss.reports import difference_rows, report_on
from isogloss.resuming import claim_folder
from isogloss.routing import Fingerprint
from isogloss.runs import import_counts_json, merge, open_run
from isogloss.statistics import Estimate, Resampling
from isogloss.steering import Intervention, Plan, read_plan, write_plan
from isogloss.workflows import Study
from isogloss.workflows.settings import StudySettings
from isogloss.workflows.sweep import run as sweeping
from isogloss.workflows.sweep.results import CandidateRow, CandidatesFile, DevFile, MeasuredCandidate, WinnerFile
from isogloss.workflows.sweep.settings import Sweep
from isogloss.workflows.version_files import Sizes, read_routed, read_values, write_routed, write_values
from isogloss.workflows.versions import VersionSettings, VersionSource

_QUICK, _MANY = 12, 300

_FINGERPRINT = Fingerprint("olmoe", (0, 1), 8, 2, "ab12")
_PLAN = Plan(
    _FINGERPRINT,
    (Intervention("soft", 0, (1, 2), strength=0.5), Intervention("offset", 1, (0,), values=(1.5,), phase="prompt")),
    {"rule": "delta", "parameters": {"threshold": 0.3}},
)
_TASK = Task(
    "sums",
    {code: [Item(str(i), f"{code} {i}?", str(i % 3)) for i in range(3)] for code in ("eng_Latn", "deu_Latn")},
    parse_number,
    8,
)
_FEW = Resampling(n_resamples=20, n_permutations=9)
_SIZES = Sizes(n_items=3, n_layers=2, n_experts=8, top_k=2, n_vocabulary=50)


def _write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def _make_run(folder):
    run_examples.write(folder, run_examples.LANGUAGES[:3])


def _make_wide_run(folder):
    writer = run_examples.RunWriter(folder, run_examples.WITH_OPTIONS)
    for place, code in enumerate(run_examples.LANGUAGES[:3]):
        writer.write(code, run_examples.routing_with_options(place), run_examples.digest(code))
    writer.finish()


def _read_run(folder):
    """Analyse a Run, make it go on, and merge it with itself."""
    run = open_run(folder)
    run_examples.RunWriter(folder, run.manifest)
    analyze_run(open_run(folder), AnalysisRequest(resampling=_FEW)).to_json()
    merge([folder], folder / "merged")


def _make_analysis(folder):
    _write(folder, "analysis.json", {**report_samples.analysis(), **report_samples.parts()})
    _write(folder, "findings.json", {"findings": ["One."], "run": run_examples.MANIFEST.to_json()})


def _make_study(folder):
    claim_folder(folder, "study.json", Study())
    _make_run(folder / "run")
    _make_analysis(folder)
    _write(folder, "findings.json", {"findings": ["One.", "Two."]})
    parameters = {"kind": "task", "threshold": 0.3, "layers": [0, 1], "n_items": 3, "n_resamples": 10, "level": 0.9}
    rows = (ExpertRow(0, 1, 0.4, 0.3, 0.5), ExpertRow(1, 2, 0.4, 0.3, 0.5))
    write_json(folder / "experts.json", ExpertTable("delta", parameters, rows, 0.2, _FINGERPRINT, "0" * 64).to_json())
    write_typed(folder / "summary.json", report_samples.arms_evaluation())
    shutil.move(folder / "summary.json", folder / "eval.json")


def _read_study(folder):
    claim_folder(folder, "study.json", Study())
    ExpertTable.read(folder / "experts.json").plan("soft", strength=0.5)
    (folder / "eval").mkdir()
    shutil.copy(folder / "eval.json", folder / "eval" / "summary.json")
    report_on(folder, folder / "report.html")


def _make_evaluation(folder):
    _answer(folder)
    (folder / "summary.json").unlink()  # it is made again from the rest


def _answer(folder):
    return run_evaluation(FakeEngine(), _TASK, {"plan": _PLAN}, out=folder, options=RunOptions(batch_size=2))


def _resume(folder):
    _answer(folder)
    compare_folders(folder, folder)


def _report(folder):
    report_on(folder, folder / "report.html")


def _make_sweep(folder):
    claim(folder, Sweep())
    point = Estimate(0.1, 0.0, 0.2, 3)
    names = {"rule": "delta", "threshold": 0.1, "top": None, "kind": "soft", "strength": 0.5, "layers": "0-1"}
    row = CandidateRow(name="c001", range=(0, 1), n_experts=2, status="plan", arm="plan", **names)
    guard = report_samples.arms_evaluation().guard["plan"]
    measured = MeasuredCandidate(**vars(row), gain=point, gain_these_languages=point, cost=point, guard=guard)
    made = CandidatesFile(bands={"middle": (0, 1)}, candidates=(row,), plans={"plan": _PLAN.sha256})
    write_typed(folder / "candidates.json", made)
    write_typed(folder / "dev.json", DevFile("accuracy", (measured,)))
    fixed = WinnerFile(winner="c001", reason="", candidate=measured, plan=_PLAN.to_json(), plan_sha256=_PLAN.sha256)
    write_typed(folder / "winner.json", fixed)
    (folder / "plans").mkdir()
    write_plan(_PLAN, folder / "plans" / "plan.json")


def _read_sweep(folder):
    claim(folder, Sweep())
    sweeping._candidates(Sweep(), folder, None, None)
    fixed, _ = sweeping._fixed(folder)
    show_sweep(sweeping._result(folder, fixed, None), as_json=False)


def _make_swept(folder):
    _make_sweep(folder)
    fixed, _ = sweeping._fixed(folder)
    write_typed(folder / "sweep.json", sweeping._result(folder, fixed, None))


def _make_settings(folder):
    _write(folder, "STUDY.toml", 'model = "organism"\nlanguages = ["en", "de"]\nthreshold = 0.2\nlayers = [1, 3]\n')
    _write(
        folder,
        "SWEEP.toml",
        'model = "organism"\ntask = "organism"\n[grid]\nthresholds = [0.1]\nlayers = ["0-3"]\n',
    )


def _read_settings(folder):
    for kind, name in ((Study, "STUDY.toml"), (Sweep, "SWEEP.toml")):
        settings = kind.read_toml(folder / name)
        assert isinstance(settings, StudySettings)


def _make_measures(folder):
    _write(folder, "values.json", {"en": 0.5, "belebele_deu_Latn": 1})
    _write(folder, "values.csv", 'language,value\nen,0.5\n"de",1\n')


def _read_measures(folder):
    for name in ("values.json", "values.csv"):
        read_measure(folder / name)


def _make_corpora(folder):
    rows = [{"language": code, "text": f"{code} {i}", "id": str(i)} for code in ("en", "de") for i in range(2)]
    _write(folder, "table.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    _write(folder, "table.tsv", "language\ttext\nen\tOne.\nde\tEins.\n")
    for code, text in (("eng_Latn", "One.\nTwo.\n"), ("deu_Latn", "Eins.\nZwei.\n")):
        _write(folder, f"lines/{code}.txt", text)


def _read_corpora(folder):
    for name in ("table.jsonl", "table.tsv", "lines"):
        load_corpus(str(folder / name))


_BELEBELE = {
    "link": "a",
    "question_number": 1,
    "flores_passage": "One.",
    "question": "which?",
    "correct_answer_num": "4",
    **{f"mc_answer{i}": str(i) for i in (1, 2, 3, 4)},
}
_CHOICES = [{"text": str(i), "correct": i == 1} for i in range(4)]
_PASSAGE = {
    "text": "One.",
    "items": [{"question": "which?", "answers": _CHOICES}],
    "metadata": {"extra": {"url": "a"}},
}
_QA = {"id": "7", "question": "who?", "answers": [{"text": "Ann"}]}
_XCOPA = {"premise": "Kişi düştü.", "choice1": "Yer.", "choice2": "Güldü.", "question": "cause", "label": 0}
_ROWS = {
    "mmlu": [{"question": f"{i}?", "subject": "anatomy", "choices": list("wxyz"), "answer": i % 4} for i in range(5)],
    "global_mmlu": [
        {"sample_id": f"{subject}/test/0", "subject": subject, "question": "which?", "answer": "C"}
        | {f"option_{letter}": letter for letter in "abcd"}
        for subject in MEDICAL_SUBJECTS
    ],
    "mgsm": [{"question": "how many?", "answer_number": 3}],
    "xquad": [{"id": "7", "context": "It.", "question": "who?", "answers": {"text": ["Ann"], "answer_start": [0]}}],
    "flores": [{"id": i, "text": f"One {i}.", "iso_639_3": "eng", "iso_15924": "Latn"} for i in range(2)],
}
_MEDICAL = {subject: [0] for subject in MEDICAL_SUBJECTS}
_MATHS = {
    "{}/own": {"own/eng_Latn.tsv": "How many?\t3\nHow much?\t1,234\n", "own/deu_Latn.tsv": "Wie viele?\t3\nWas?\t1\n"},
    "mgsm:{}/mgsm": {"mgsm/mgsm_en.tsv": "How many?\t3\n", "mgsm/mgsm_de.tsv": "Wie viele?\t3\n"},
    "msvamp:{}/msvamp": {"msvamp/test_English.json": [{"m_query": "How many?", "response": "3"}]},
    "polymath:top:{}/polymath": {"polymath/en/top.jsonl": '{"id": "top-en-0", "question": "?", "answer": "[2,3)"}\n'},
}
_OPTIONS = {
    "mmlu:5shot:{}/mmlu": {
        f"mmlu/{part}/anatomy_{part}.csv": "".join(f'{i},"w, w",x,y,z,A\n' for i in range(5))
        for part in ("dev", "test")
    },
    "mmlu_arabic:generate:{}/arabic": {"arabic/test/anatomy_test.csv": "question,a,b,c,d,answer\nwhich?,w,x,y,z,3\n"},
    "belebele:{}/belebele": {"belebele/eng_Latn.jsonl": f"{json.dumps(_BELEBELE)}\n"},
    "belebele:{}/passages": {"passages/eng_Latn.jsonl": f"{json.dumps(_PASSAGE)}\n"},
    "xcopa:{}/xcopa": {f"xcopa/tr/{split}.tr.jsonl": f"{json.dumps(_XCOPA)}\n" for split in ("val", "test")},
}
_TEXTS = {
    "xquad:{}/xquad": {"xquad/xquad.en.json": {"data": [{"paragraphs": [{"context": "It.", "qas": [_QA]}]}]}},
    "flores:reference:{}/flores": {
        f"flores/{part}/{code}.{part}": f"One in {code}.\nTwo.\n"
        for part in ("dev", "devtest")
        for code in ("eng_Latn", "deu_Latn")
    },
    "tico19:text:{}/tico19": {f"tico19/tico19-test.{code}": f"One in {code}.\nTwo.\n" for code in ("en", "fr")},
}
_COPIES = {
    "mmlu:5shot:{}/mmlu": {f"mmlu/all.{part}.jsonl": _ROWS["mmlu"] for part in ("dev", "test")},
    "global_mmlu:medical={0}/medical.json:{0}/global_mmlu": {
        "medical.json": _MEDICAL,
        "global_mmlu/en.test.jsonl": _ROWS["global_mmlu"],
    },
    "mgsm:boxed:{}/mgsm": {"mgsm/en.test.jsonl": _ROWS["mgsm"]},
    "xquad:{}/xquad": {"xquad/xquad.en.validation.jsonl": _ROWS["xquad"]},
    "flores:text:{}/flores": {f"flores/eng_Latn.{part}.jsonl": _ROWS["flores"] for part in ("dev", "devtest")},
}


_COPIED_PASSAGES = [
    {"link": link, "question_number": number, "flores_passage": f"Passage {link}.", "dialect": "eng_Latn"}
    for link in "ab"
    for number in (1, 2)
]


def _make_tasks(tasks, folder):
    for files in tasks.values():
        for name, content in files.items():
            rows = name.endswith(".jsonl") and isinstance(content, list)
            _write(folder, name, "".join(f"{json.dumps(row)}\n" for row in content) if rows else content)


def _read_tasks(tasks, folder):
    """Load every task, hash its prompts, and score the answers that it expects."""
    for name in tasks:
        task = load_task(name.format(folder))
        for code, items in task.items.items():
            for item in items:
                sha256(item.prompt.encode())
                if task.scoring == "generated":
                    score_output(task, code, item, item.answer)
                elif task.scoring == "options":
                    score_options(task, item, [-1.0 - place for place in range(len(item.options))])
                else:
                    score_bits(item, -1.0)


def _make_copies(folder):
    passages = {"belebele/eng_Latn.test.jsonl": _COPIED_PASSAGES}
    _make_tasks({**_COPIES, "belebele": passages}, folder)


def _read_copies(folder):
    """The same of copies of the hub's repositories, whose rows have passed through a table."""

    def rows(hub, config, split, columns):
        found = [row for row in read_rows(hub.copy / f"{config}.{split}.jsonl") if isinstance(row, dict)]
        if missing := set(columns) - set().union(*found):
            raise CorpusError(f"{hub.where}: no column {missing}")
        return [{column: row.get(column) for column in columns} for row in found]

    with (
        patch.object(Hub, "rows", rows),
        patch.object(Hub, "configs", lambda hub: {"eng_Latn": min(hub.copy.iterdir()).stem.rpartition(".")[0]}),
    ):
        _read_tasks(_COPIES, folder)
        load_corpus(f"belebele:{folder}/belebele")


_FLORES = [[part, line] for part in ("dev", "devtest") for line in range(2)]


def _make_passages(folder):
    _write(folder, "belebele/passage_to_flores200.json", [{"link": "a", "flores": _FLORES}])
    for part in ("dev", "devtest"):
        _write(folder, f"flores200/{part}/eng_Latn.{part}", "One.\nTwo.\n")


def _make_counts(folder):
    experts = {str(expert): {"activation_tokens": 10, "gate_values_sum": 5.0} for expert in range(4)}
    for name in ("mgsm_en", "mgsm_de"):
        _write(folder, f"counts/{name}.json", {layer: {**experts, "total_tokens": 20} for layer in ("0", "2")})


def _read_counts(folder):
    import_counts_json(folder / "counts", folder / "run")


def _routed(item):
    """A text of three tokens, in two layers with two of eight experts, that was routed at random."""
    generator = np.random.default_rng(item)
    ids = generator.permuted(np.tile(np.arange(8), (3, 2, 1)), axis=-1)[..., :2].astype(np.uint16)
    profile = generator.dirichlet(np.ones(8), 2).astype(np.float32)
    tokens, kept = np.arange(3, dtype=np.int32), np.tile(np.arange(4, dtype=np.int32), (3, 1))
    return RoutedText(item, tokens, ids, profile, tokens, kept, np.full((3, 4), -2, dtype=np.float32))


def _make_versions(folder):
    texts = [_routed(item) for item in range(3)]
    for code in ("eng_Latn", "swh_Latn"):
        for part in ("first", "values"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        write_routed(folder / "first", code, texts)
        write_values(folder / "values", code, texts, texts[::-1])
    read = {code: read_values(folder / "values", code, _SIZES) for code in ("eng_Latn", "swh_Latn")}
    values, tokens = ({code: each[place] for code, each in read.items()} for place in (0, 1))
    version = model_version(("experts", "bfloat16", 4, 4), quantisation="fp8")
    result = VersionComparison(
        version, version, "c", "content", 3, (0, 1), 8, 2, *compare_versions(values, tokens, resampling=_FEW), _FEW
    )
    write_typed(folder / "comparison.json", result)
    source = VersionSource("m")
    write_typed(folder / "settings.json", VersionSettings(source, source, ("ab", None), {"eng_Latn": "ab"}, "content"))


def _read_versions(folder):
    """Report a comparison, and go on with it."""
    _report(folder)
    result = VersionComparison.read(folder / "comparison.json")
    result.to_frame()
    difference_rows(result)
    values, tokens = {}, {}
    for code in ("eng_Latn", "swh_Latn"):
        first = read_routed(folder / "first", code, _SIZES)
        for pair in zip(first, [_routed(item) for item in range(3)], strict=True):
            text_difference(*pair)
        values[code], tokens[code] = read_values(folder / "values", code, _SIZES)
    compare_versions(values, tokens, resampling=_FEW)


def _make_plan(folder):
    folder.mkdir()
    write_plan(_PLAN, folder / "plan.json")


_KINDS = {
    "run": (_make_run, _read_run),
    "run with options": (_make_wide_run, _read_run),
    "analysis": (_make_analysis, _report),
    "study": (_make_study, _read_study),
    "evaluation": (_make_evaluation, _resume),
    "summary": (_answer, _report),
    "sweep": (_make_sweep, _read_sweep),
    "swept": (_make_swept, partial(sweeping.run_sweep, Sweep())),
    "settings": (_make_settings, _read_settings),
    "measures": (_make_measures, _read_measures),
    "corpora": (_make_corpora, _read_corpora),
    "passages": (_make_passages, lambda folder: load_corpus(f"belebele:{folder}")),
    "maths": (partial(_make_tasks, _MATHS), partial(_read_tasks, _MATHS)),
    "options": (partial(_make_tasks, _OPTIONS), partial(_read_tasks, _OPTIONS)),
    "texts": (partial(_make_tasks, _TEXTS), partial(_read_tasks, _TEXTS)),
    "copies": (_make_copies, _read_copies),
    "counts": (_make_counts, _read_counts),
    "versions": (_make_versions, _read_versions),
    "plan": (_make_plan, lambda folder: read_plan(folder / "plan.json")),
}
"""Name of a kind of folder -> what makes one, and what reads all of it."""

_OURS = (".html", ".lock")  # not read


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One folder of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    for name, (make, _) in _KINDS.items():
        make(folder / name)
    return folder


def _forge(path):
    """Write the hash of a damaged file into the manifest, as a program would that writes Runs by itself."""
    manifest = read_json(path.with_name("manifest.json"))
    manifest["languages"][path.stem]["file_sha256"] = sha256(path.read_bytes())
    write_json(path.with_name("manifest.json"), manifest)


def _require_accepted_or_refused(whole, folder, name, seed):
    """Damage a file of every folder of a kind, and read the folder."""
    draws = random.Random(f"{name} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / name, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(_OURS) and p.stat().st_size)
    path = files[seed % len(files)]
    content, what = damaged(path.name, path.read_bytes(), draws)
    path.write_bytes(content)
    if path.with_name("manifest.json").is_file() and path.suffix == ".safetensors" and draws.random() < 0.9:
        _forge(path)
    with accepted_or_refused(f"seed {seed}, {path.relative_to(folder)}: {what}"):
        _KINDS[name][1](folder)


def test_the_files_are_read_as_they_are(whole, tmp_path):
    """Undamaged, every folder is accepted."""
    for name, (_, read) in _KINDS.items():
        shutil.copytree(whole / name, tmp_path / name)
        read(tmp_path / name)


@pytest.mark.parametrize("name", _KINDS)
def test_damaged_files_are_accepted_or_refused_in_one_line(whole, tmp_path, name):
    """A few damages of every kind of folder."""
    for seed in range(_QUICK):
        _require_accepted_or_refused(whole, tmp_path / "one", name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", _KINDS)
def test_many_damaged_files_are_accepted_or_refused_in_one_line(whole, tmp_path, name):
    """Many damages of every kind of folder."""
    for seed in range(_QUICK, _MANY):
        _require_accepted_or_refused(whole, tmp_path / "one", name, seed)
