"""MGSM's questions from the files of its original release."""

from __future__ import annotations

from pathlib import Path

from isogloss.corpora.corpus import Corpus, align, check_language, check_text, require_languages
from isogloss.corpora.local import read_lines

__all__ = ["holds_mgsm", "load_mgsm_questions"]

_FILES = "mgsm_*.tsv"


def holds_mgsm(folder: Path) -> bool:
    """Return whether a folder holds ``mgsm_xx.tsv`` files."""
    return any(folder.glob(_FILES))


def load_mgsm_questions(folder: Path, wanted: tuple[str, ...] | None) -> Corpus:
    """Read ``mgsm_xx.tsv`` files: a question, a tab and its answer per line, the same items in every file.

    Args:
        folder: that holds them.
        wanted: full codes; None for all.

    Raises:
        CorpusError: a language is missing, a question is empty, or the files have different numbers of lines.

    Source:
        Language models are multilingual chain-of-thought reasoners (arXiv 2210.03057), CC-BY-4.0.
    """
    files = {check_language(path.stem.removeprefix("mgsm_"), str(path)): path for path in sorted(folder.glob(_FILES))}
    texts: dict[str, dict[str, str]] = {}
    for code in require_languages(files, wanted, str(folder)):
        path = files[code]
        texts[code] = {
            str(number): check_text(line.partition("\t")[0], f"{path}:{number + 1}")
            for number, line in enumerate(read_lines(path, allow_mark=True))
        }
    longest = max(texts.values(), key=len)
    aligned, ids = align(texts, list(longest), wanted, str(folder))
    return Corpus("mgsm", aligned, ids, "CC-BY-4.0", "google-research/url-nlp, mgsm")
