"""What is resumed, merged or compared comes from the same weights and tokenizer, and says where it cannot tell."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from models import checkpoint, tiny
from safetensors.torch import load_file, save_file
from written import contents

from isogloss.analysis import DeltaRule, task_experts
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.backends.open import load
from isogloss.corpora import Corpus
from isogloss.errors import RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.files import read_json, write_json
from isogloss.runs import merge, open_run
from isogloss.steering import Intervention, Plan
from isogloss.workflows.capture import capture_corpus

CORPUS = Corpus(
    "small",
    {
        "eng_Latn": ("The river is wide.", "Anna gives the cup to Omar."),
        "deu_Latn": ("Der Fluss ist breit.", "Anna gibt Omar die Tasse."),
    },
    ("1", "2"),
    "CC0-1.0",
    "test",
)
WEIGHTS = r"weights_sha256 \('[0-9a-f]{64}' and '[0-9a-f]{64}'\)"


@pytest.fixture(scope="module")
def model():
    """A small model of fused experts."""
    return tiny("olmoe")


@pytest.fixture(scope="module")
def negated(model):
    """The same with one expert's matrix negated: routers, configuration and name are equal."""
    other = copy.deepcopy(model.model)
    name, experts = [(name, each) for name, each in other.named_parameters() if name.endswith("down_proj")][-1]
    assert experts.ndim == 3, name
    with torch.no_grad():
        experts[3] *= -1
    return HuggingFaceModel(other, model.tokenizer, name=model.name)


def renamed_tokens(model):
    """The same with a tokenizer that has half of its merges."""
    tokenizer = copy.deepcopy(model.tokenizer)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][: len(state["model"]["merges"]) // 2]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    return HuggingFaceModel(model.model, tokenizer, name=model.name)


def forget(path, *names):
    """Rewrite JSON as older versions did, without some fields."""
    raw = read_json(path)
    for name in names:
        del raw[name]
    write_json(path, raw)


def test_a_capture_goes_on_with_the_same_weights_alone(tmp_path, model, negated):
    """And a tokenizer that cuts texts otherwise is another one; what is there stays as it is."""
    capture_corpus(model, CORPUS, tmp_path / "run", languages=["en"])
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match=WEIGHTS):
        capture_corpus(negated, CORPUS, tmp_path / "run")
    with pytest.raises(RunError, match=r"tokenizer_sha256 \("):
        capture_corpus(renamed_tokens(model), CORPUS, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert capture_corpus(model, CORPUS, tmp_path / "run").languages == ("deu_Latn", "eng_Latn")


def test_one_changed_expert_in_the_files_is_another_model(tmp_path):
    """As two folders of one name on two machines may be."""
    folders = []
    for side in ("a", "b"):
        folders.append(tmp_path / side / "model")
        shutil.copytree(checkpoint("olmoe"), folders[-1])
    state = load_file(folders[1] / "model.safetensors")
    state[next(name for name in sorted(state) if re.search(r"experts\.1\.down_proj", name))] *= -1
    save_file(state, folders[1] / "model.safetensors", {"format": "pt"})
    one, other = (load(str(folder), device="cpu") for folder in folders)
    assert (one.name, one.fingerprint, one.config_sha256) == (other.name, other.fingerprint, other.config_sha256)
    capture_corpus(one, CORPUS, tmp_path / "run", languages=["en"])
    with pytest.raises(RunError, match=WEIGHTS):
        capture_corpus(other, CORPUS, tmp_path / "run")


def test_runs_of_other_weights_neither_merge_nor_compare(tmp_path, model, negated):
    """Merging needs equal headers; experts of a task are those of one model."""
    capture_corpus(model, CORPUS, tmp_path / "one", languages=["en"])
    capture_corpus(negated, CORPUS, tmp_path / "two", languages=["de"])
    with pytest.raises(RunError, match=WEIGHTS):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    task = replace(CORPUS, name="task")
    ours = capture_corpus(model, task, tmp_path / "task", languages=["en"])
    base = capture_corpus(negated, CORPUS, tmp_path / "base", languages=["en"])
    with pytest.raises(RunError, match=f"different models.*{WEIGHTS}"):
        task_experts(ours, base, language="eng_Latn", rule=DeltaRule(0.1))


def test_an_evaluation_goes_on_with_the_same_weights_alone(tmp_path, capsys):
    """Settings of older versions name no weights: they are taken up, with a note."""
    model = load("organism")
    other = HuggingFaceModel(copy.deepcopy(model.model), model.tokenizer, name="organism", threads=1)
    with torch.no_grad():
        other.model.get_parameter("model.layers.3.mlp.experts.down_proj")[0] *= -1
    capsys.readouterr()
    task = load_task("organism", languages=["en"], n_items=2)
    plans = {"plan": Plan(model.fingerprint, (Intervention("ban", 2, (0, 1, 2, 3)),))}
    out, options = tmp_path / "eval", RunOptions(batch_size=2)
    run_evaluation(model, task, plans, out=out, options=options)
    assert capsys.readouterr().err == ""
    with pytest.raises(RunError, match=r"other settings \(weights_sha256: '"):
        run_evaluation(other, task, plans, out=out, options=options)
    settings = read_json(out / "settings.json")
    write_json(out / "settings.json", {**settings, "isogloss_version": "0.0.9"})
    with pytest.raises(RunError, match=r"isogloss_version: '0.0.9' and '"):
        run_evaluation(model, task, plans, out=out, options=options)
    write_json(out / "settings.json", settings)
    forget(out / "settings.json", "weights_sha256", "isogloss_version")
    run_evaluation(model, task, plans, out=out, options=options)
    (line,) = set(capsys.readouterr().err.splitlines())
    assert "whether isogloss_version, weights_sha256 is as it was is unknown" in line


def test_a_run_of_an_older_version_is_read_and_gone_on_with(tmp_path, model, capsys):
    """With one line; the Run then claims no weights, since those of some languages are unknown."""
    capture_corpus(model, CORPUS, tmp_path / "old", languages=["en"])
    forget(tmp_path / "old" / "manifest.json", "weights_sha256", "tokenizer_sha256")
    capture_corpus(model, CORPUS, tmp_path / "new", languages=["de"])
    capsys.readouterr()
    merged = merge([tmp_path / "old", tmp_path / "new"], tmp_path / "merged").manifest
    assert (merged.weights_sha256, merged.tokenizer_sha256) == (None, None)
    assert "whether tokenizer_sha256, weights_sha256 is as it was is unknown" in capsys.readouterr().err
    manifest = capture_corpus(model, CORPUS, tmp_path / "old").manifest
    assert (manifest.weights_sha256, set(manifest.languages)) == (None, {"eng_Latn", "deu_Latn"})
    assert "whether tokenizer_sha256, weights_sha256 is as it was is unknown" in capsys.readouterr().err


def test_the_size_of_portions_is_recorded_and_noted(tmp_path, model, capsys):
    """By language; another one goes on with a line that says what it changes, and merging keeps both."""
    small = CaptureOptions(batch_tokens=32)
    capture_corpus(model, CORPUS, tmp_path / "run", languages=["en"])
    assert "portions" not in capsys.readouterr().err
    run = capture_corpus(model, CORPUS, tmp_path / "run", options=small)
    assert "ran in portions of 8192 tokens, the others run in portions of 32" in capsys.readouterr().err
    entries = {code: entry.batch_tokens for code, entry in run.manifest.languages.items()}
    assert entries == {"eng_Latn": 8192, "deu_Latn": 32}
    capture_corpus(model, CORPUS, tmp_path / "run", options=small)
    assert "portions" not in capsys.readouterr().err
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    raw = read_json(tmp_path / "other" / "manifest.json")
    raw["languages"]["deu_Latn"]["batch_tokens"] = 64
    write_json(tmp_path / "other" / "manifest.json", raw)
    for order in (["run", "other"], ["other", "run"]):
        merged = merge([tmp_path / name for name in order], tmp_path / f"merged-{order[0]}")
        assert merged.manifest.languages["deu_Latn"].batch_tokens == 32
    assert open_run(tmp_path / "merged-run").manifest == open_run(tmp_path / "merged-other").manifest
