"""A Run holds one version of its texts: resuming and merging refuse others, in every language that was read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from commands import run
from run_examples import LANGUAGES, MANIFEST, digest, routing, write
from written import contents

from isogloss.errors import RunError
from isogloss.runs import RunWriter, merge, open_run


@pytest.mark.parametrize("keeps_all_hashes", [True, False])
def test_resumes_only_with_the_same_texts(tmp_path, keeps_all_hashes):
    """A text that has changed since is named with both hashes, also of a language that is not captured now."""
    texts = {code: digest(code) for code in LANGUAGES[:3]}
    manifest = replace(MANIFEST, texts_sha256=texts) if keeps_all_hashes else MANIFEST
    write(tmp_path, LANGUAGES[:2], manifest)
    before = contents(tmp_path)
    changed = LANGUAGES[2 if keeps_all_hashes else 1]
    with pytest.raises(RunError, match=rf"other texts in {changed} \(texts with sha256 0+[0-9]?… and f+…\)"):
        RunWriter(tmp_path, replace(MANIFEST, texts_sha256={**texts, changed: "f" * 64}))
    assert contents(tmp_path) == before


def test_keeps_the_hashes_of_all_texts_that_were_read(tmp_path):
    """Captured in parts, of which each has read some texts, a Run knows the texts of all parts."""
    write(tmp_path, LANGUAGES[:1], replace(MANIFEST, texts_sha256={LANGUAGES[0]: digest(LANGUAGES[0])}))
    manifest = replace(MANIFEST, texts_sha256={LANGUAGES[1]: digest(LANGUAGES[1])})
    assert open_run(tmp_path).manifest.texts_sha256.keys() == set(LANGUAGES[:1])
    write(tmp_path, LANGUAGES[1:2], manifest)
    assert open_run(tmp_path).manifest.texts_sha256.keys() == set(LANGUAGES[:2])


def test_refuses_a_language_of_other_texts(tmp_path):
    """What is written has the texts that the manifest states."""
    writer = RunWriter(tmp_path, replace(MANIFEST, texts_sha256={"eng_Latn": "f" * 64}))
    with pytest.raises(RunError, match="texts_sha256 of eng_Latn"):
        writer.write("eng_Latn", routing(0), digest("eng_Latn"))
    assert contents(tmp_path).keys() == {"manifest.json"}


def test_runs_of_older_versions_are_read(tmp_path):
    """Their manifests have no hashes of texts beyond those of the captured languages."""
    write(tmp_path)
    path = tmp_path / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["texts_sha256"]
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert open_run(tmp_path).manifest == replace(
        MANIFEST, status="complete", languages=open_run(tmp_path).manifest.languages
    )


def test_merge_refuses_other_texts(tmp_path):
    """Runs of different languages merge only where no text that both have read differs."""
    texts = {code: digest(code) for code in LANGUAGES}
    write(tmp_path / "one", ["eng_Latn"], replace(MANIFEST, texts_sha256=texts))
    write(tmp_path / "two", ["deu_Latn"], replace(MANIFEST, texts_sha256={**texts, "zho_Hans": "f" * 64}))
    write(tmp_path / "old", ["swh_Latn"])
    merged = merge([tmp_path / "old", tmp_path / "one"], tmp_path / "merged")
    assert merged.manifest.texts_sha256 == texts
    with pytest.raises(RunError, match=r"differ in zho_Hans \(texts with sha256 0+3?… and f+…\)"):
        merge([tmp_path / "old", tmp_path / "one", tmp_path / "two"], tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(RunError, match="contains a Run of other texts in zho_Hans"):
        merge([tmp_path / "two"], tmp_path / "merged")


# --- by commands ------------------------------------------------------------------------------------------------------

ENGLISH = ("Anna goes to the market.", "Omar has a red cup.")
GERMAN = ("Anna geht zum Markt.", "Omar hat eine rote Tasse.")
OTHER = ("Ein ganz anderer, langer Satz.", "Und noch einer.")


def corpus(folder, german=GERMAN, english=ENGLISH):
    """Write a corpus of two languages, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("eng_Latn", english), ("deu_Latn", german)):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def capture(texts, out, *more):
    """Capture a corpus with the shipped model."""
    return run("capture", "organism", "--corpus", texts, *more, "-o", out)


@pytest.mark.parametrize("first", [(), ("--languages", "en")])
def test_a_capture_goes_on_with_its_own_texts_alone(tmp_path, capsys, first):
    """A text that was edited is refused with its language, whether it has been captured or not, asked for or not."""
    texts = corpus(tmp_path / "texts")
    assert capture(texts, tmp_path / "run", *first) == 0
    before = contents(tmp_path / "run")
    corpus(texts, OTHER)
    for more in ((), ("--languages", "de"), ("--languages", "en")):
        capsys.readouterr()
        assert capture(texts, tmp_path / "run", *more) == 2
        assert "contains a Run of other texts in deu_Latn (texts with sha256 " in capsys.readouterr().err
    assert contents(tmp_path / "run") == before
    corpus(texts)
    assert capture(texts, tmp_path / "run") == 0
    assert open_run(tmp_path / "run").languages == ("deu_Latn", "eng_Latn")


def test_parts_of_other_texts_do_not_merge(tmp_path, capsys):
    """One corpus by name, in two versions: neither part has the other's language, and the texts are still compared."""
    one, two = corpus(tmp_path / "x" / "texts"), corpus(tmp_path / "y" / "texts", OTHER, ENGLISH)
    assert capture(one, tmp_path / "one", "--languages", "en") == 0
    assert capture(two, tmp_path / "two", "--languages", "de") == 0
    assert run("merge", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "merged") == 2
    assert "differ in deu_Latn (texts with sha256" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_a_study_goes_on_with_its_own_texts_alone(tmp_path, capsys):
    """Also where the study's file is the same."""
    texts = corpus(tmp_path / "texts")
    study = tmp_path / "study.toml"
    study.write_text(f'model = "organism"\ncorpus = "{texts}"\nthreshold = 0.9\nlayers = [3, 8]\n', encoding="utf-8")
    assert run("study", study, "-o", tmp_path / "study") == 0
    corpus(texts, OTHER)
    capsys.readouterr()
    assert run("study", study, "-o", tmp_path / "study") == 2
    assert "other texts in deu_Latn" in capsys.readouterr().err


def test_other_languages_of_a_folder_may_be_broken(tmp_path):
    """Languages that are not asked for are read for their hashes alone: where they cannot be read, the rest is."""
    texts = corpus(tmp_path / "texts")
    (texts / "fra_Latn.txt").write_text("Anna va au marché.\n", encoding="utf-8")
    assert capture(texts, tmp_path / "run", "--languages", "en,de") == 0
    assert open_run(tmp_path / "run").manifest.texts_sha256.keys() == {"deu_Latn", "eng_Latn"}
    assert capture(texts, tmp_path / "other", "--languages", "en,xh") == 2
