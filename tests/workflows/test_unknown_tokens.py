"""Texts that a tokenizer does not know are counted as such, named, and refused where they are most of a language."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from models import tiny
from run_examples import MANIFEST
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from isogloss.analysis import AnalysisRequest, analyze_run
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.cli.output import show_run
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, RunError
from isogloss.files import read_json, write_json
from isogloss.reports.sentences import describe_run
from isogloss.runs import LanguageEntry, merge, open_run
from isogloss.workflows.capture import capture_corpus

TEXTS = {
    "eng_Latn": ("the cup is red", "the market is far"),
    "deu_Latn": ("the cup is rot", "the market is fern"),  # 2 of 8 words are unknown
    "hin_Deva": ("कप लाल है यहाँ", "बाज़ार बहुत दूर है"),
}


def corpus(*languages):
    """Texts of some languages."""
    return Corpus("words", {code: TEXTS[code] for code in languages}, ("1", "2"), "CC0-1.0", "test")


def model(beginning="<s>", **special):
    """A small model that reads English words, each text after a beginning."""
    words = sorted({word for text in TEXTS["eng_Latn"] for word in text.split()})
    names = dict.fromkeys([special.get("unk_token", "<unk>"), beginning, *words])
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(names)}, next(iter(names))))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{beginning} $A", special_tokens=[(beginning, list(names).index(beginning))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **{"bos_token": beginning, **special})
    return HuggingFaceModel(tiny("olmoe").model, tokenizer, name="words")


def test_the_share_is_kept_and_said(tmp_path, capsys):
    """In the manifest by language; above one in a hundred in what capture and analysis print."""
    run = capture_corpus(model(unk_token="<unk>"), corpus("eng_Latn", "deu_Latn"), tmp_path / "run")
    entries = open_run(tmp_path / "run").manifest.languages
    assert {code: entry.unknown_share for code, entry in entries.items()} == {"eng_Latn": 0.0, "deu_Latn": 0.25}
    show_run(run, as_json=False)
    said = [line for line in capsys.readouterr().out.splitlines() if "unknown" in line]
    assert [line.split(":")[0] for line in said] == ["deu_Latn"]
    assert "25.0 %" in said[0]
    sentences = [text for text in describe_run(analyze_run(run, AnalysisRequest())) if "unknown token" in text]
    assert len(sentences) == 1
    assert "(German 25.0 % of the tokens)" in sentences[0]


@pytest.mark.parametrize("options", [CaptureOptions(), CaptureOptions(phase="generation", new_tokens=2)])
def test_a_language_of_unknown_tokens_is_refused(tmp_path, options):
    """By its name, before any is run; nothing is written of the others either."""
    texts = corpus("eng_Latn", "hin_Deva")
    with pytest.raises(CorpusError, match=r"hin_Deva \(corpus words\): 100 % of the tokens are <unk>"):
        capture_corpus(model(unk_token="<unk>"), texts, tmp_path / "run", options=options)
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_no_unknown_token_counts_none(tmp_path):
    """A tokenizer without one; and one whose unknown token also begins a text, which is none there."""
    for number, each in enumerate((model(), model("<unk>", unk_token="<unk>"))):
        run = capture_corpus(each, corpus("eng_Latn"), tmp_path / str(number))
        assert run.manifest.languages["eng_Latn"].unknown_share == 0.0
    run = capture_corpus(model("<unk>", unk_token="<unk>"), corpus("deu_Latn"), tmp_path / "both")
    assert run.manifest.languages["deu_Latn"].unknown_share == 0.25


def test_the_greatest_share_that_is_taken(tmp_path):
    """Half is captured; the shares of all tokens count, not those of a text."""
    half = replace(corpus("eng_Latn"), texts={"eng_Latn": ("the cup is red", "ein zwei drei vier")})
    run = capture_corpus(model(unk_token="<unk>"), half, tmp_path / "run")
    assert run.manifest.languages["eng_Latn"].unknown_share == 0.5


def test_runs_of_older_versions_merge(tmp_path):
    """They do not know the share, which is no difference; what one of them knows is kept, in any order."""
    read = model(unk_token="<unk>")
    capture_corpus(read, corpus("deu_Latn"), tmp_path / "new")
    capture_corpus(read, corpus("deu_Latn"), tmp_path / "old")
    raw = read_json(tmp_path / "old" / "manifest.json")
    del raw["languages"]["deu_Latn"]["unknown_share"]
    write_json(tmp_path / "old" / "manifest.json", raw)
    assert open_run(tmp_path / "old").manifest.languages["deu_Latn"].unknown_share is None
    for number, names in enumerate((("new", "old"), ("old", "new"))):
        merged = merge([tmp_path / name for name in names], tmp_path / f"merged-{number}")
        assert merged.manifest.languages["deu_Latn"].unknown_share == 0.25
    with pytest.raises(RunError, match=re.escape("unknown_share is 1.5; expected a share from 0 to 1")):
        LanguageEntry(1, "a" * 64, "b" * 64, unknown_share=1.5)
    assert MANIFEST.unknown_tokens == {}
