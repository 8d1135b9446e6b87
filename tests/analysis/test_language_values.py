"""Files with one number per language: every spelling that is read, and everything that is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from isogloss.analysis import accuracy_correlation, analyze_curves
from isogloss.analysis.language_values import read_measure
from isogloss.errors import IsoglossError, LanguageError, RunError
from isogloss.runs import import_counts_json


@pytest.mark.parametrize(
    "content",
    [
        "language,value\nsw,61.5\neng_Latn,90\n",
        "Sprache;Genauigkeit\r\nsw;61.5\r\n\r\neng_Latn;90\r\n",
        "lang\tMMLU, %\nswh\t61.5\nen\t90",
        "\ufeffcode,accuracy\n belebele_swh_Latn , 61.5 \n'x',1\n".replace("'x',1", '"en"," 9e1"'),
    ],
)
def test_tables_are_read(tmp_path: Path, content: str):
    """Comma, semicolon or tab, any header, any line ends, short codes and codes behind a task's name."""
    path = tmp_path / "accuracy.csv"
    path.write_bytes(content.encode())
    assert read_measure(path) == {"swh_Latn": 61.5, "eng_Latn": 90.0}


def test_published_accuracies_are_read(shared_data: Path):
    """Fifteen shares under task names, as they stand."""
    measure = read_measure(shared_data / "perf_tables" / "qwen3_30b_a3b_belebele_0shot_15langs.json")
    assert len(measure) == 15
    assert measure.items() >= {"eng_Latn": 0.918, "arb_Arab": 0.882, "arb_Latn": 0.322, "zho_Hans": 0.898}.items()


def test_published_accuracies_are_too_few_for_the_published_counts(shared_data: Path, tmp_path: Path):
    """Three languages besides the pivot have both: refused, and named."""
    run = import_counts_json(shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm", tmp_path / "run")
    measure = read_measure(shared_data / "perf_tables" / "qwen3_30b_a3b_belebele_0shot_15langs.json")
    with pytest.raises(LanguageError, match=r"3 languages .* ben_Beng, fra_Latn, zho_Hans"):
        accuracy_correlation(analyze_curves(run).divergence, measure)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no language"),
        (b"language,value\n", "holds no language"),
        (b"sw,61\nen,90\n", r"line 1: 'sw' with '61' where a header was expected"),
        (b"language,value\nsw,61\nsw,62\n", "line 3: swh_Latn a second time"),
        (b"language,value\nsw,61\nswh_Latn,61\n", r"line 3: swh_Latn a second time \(as 'swh_Latn'\)"),
        (b"language,value\nen,90\nxx,61\n", "line 3: .*'xx'"),
        (b"language,value\nen,nan\n", "line 2: found 'nan'"),
        (b"language,value\nen,inf\n", "line 2: found 'inf'"),
        (b"language,value\nen,ninety\n", "line 2: found 'ninety'"),
        (b"language,value\nen,1_000\n", "line 2: found '1_000'"),
        (b"language,value\nen,\n", "line 2: found ''"),
        (b"language;value\nen;0,9\n", "line 2: found '0,9'; expected a finite number with a decimal point"),
        (b"language,value\nen,0,9\n", "line 2: 3 columns"),
        (b"language\nen\n", "line 1: 1 columns"),
        (b"language,value\nen,\xe9\n", "not UTF-8"),
        (b'language,value\n"en,90\n', "not CSV"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, content: bytes, message: str):
    """The file and the line are named."""
    path = tmp_path / "accuracy.csv"
    path.write_bytes(content)
    with pytest.raises(IsoglossError, match=message) as refused:
        read_measure(path)
    assert str(path) in str(refused.value)
    assert isinstance(refused.value, RunError | LanguageError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "holds no language"),
        ("[1]", "is a list; expected an object"),
        ('{"en": 1', "not valid JSON"),
        ('{"en": "0.9"}', "key 'en': found '0.9'; expected a number without quotes"),
        ('{"en": true}', "key 'en': found True"),
        ('{"en": null}', "key 'en': found None"),
        ('{"en": NaN}', "NaN is not allowed"),
        ('{"en": 1e999}', "key 'en': found 'inf'"),
        ('{"en": 1, "en": 2}', "'en'"),
        ('{"en": 1, "mmlu_eng_Latn": 2}', "key 'mmlu_eng_Latn': eng_Latn a second time"),
        ('{"mmlu_xyz_Latn": 2}', "key 'mmlu_xyz_Latn': "),
    ],
)
def test_broken_objects_are_refused(tmp_path: Path, content: str, message: str):
    """The file and the key are named."""
    path = tmp_path / "accuracy.JSON"
    path.write_text(content)
    with pytest.raises(IsoglossError, match=message) as refused:
        read_measure(path)
    assert str(path) in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path):
    """No traceback for a typing error."""
    with pytest.raises(RunError, match=r"nowhere.csv: cannot be read"):
        read_measure(tmp_path / "nowhere.csv")
