"""Captures a corpus into a Run, one language file at a time; a stopped capture goes on with the next language."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from isogloss.backends.huggingface import CaptureOptions, LoadedModel, capture, prove_routers, steer
from isogloss.corpora import Corpus
from isogloss.runs import Manifest, Run, RunWriter
from isogloss.steering import Plan
from isogloss.studies.progress import track

__all__ = ["CaptureRequest", "capture_corpus"]

_PACKAGES = ("isogloss", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class CaptureRequest:
    """How a corpus is captured.

    Attributes:
        options: what is counted.
        plan: active during the capture; None for none.
    """

    options: CaptureOptions = field(default_factory=CaptureOptions)
    plan: Plan | None = None


def capture_corpus(loaded: LoadedModel, corpus: Corpus, out: Path, request: CaptureRequest | None = None) -> Run:
    """Capture every language of a corpus.

    Args:
        loaded: the model.
        corpus: the texts.
        out: folder of the Run, new or from a stopped capture of the same model and corpus.
        request: how.

    Returns:
        The finished Run.

    Raises:
        ModelError: the routers do not do what the family's row says.
        RunError: ``out`` holds something else.
        CorpusError: a text cannot be counted.
    """
    request = request or CaptureRequest()
    writer = RunWriter(out, _manifest(loaded, corpus, request))
    missing = [language for language in corpus.languages if language not in writer.done]
    if missing:
        prove_routers(loaded, corpus.texts[missing[0]][0])
    with steer(loaded, request.plan) if request.plan else nullcontext():
        for language in missing:
            texts = corpus.texts[language]
            with track(f"capture {language}", len(texts)) as advance:
                routing = capture(loaded, texts, corpus.item_ids, options=request.options, progress=advance)
            writer.write(language, routing, corpus.sha256(language))
    return writer.finish()


def _manifest(loaded: LoadedModel, corpus: Corpus, request: CaptureRequest) -> Manifest:
    return Manifest(
        status="partial",
        model=loaded.name,
        revision=loaded.revision,
        config_sha256=loaded.config_sha256,
        fingerprint=loaded.fingerprint(),
        routers=tuple(router.spec for router in loaded.routers),
        corpus={"name": corpus.name, "source": corpus.source, "licence": corpus.licence},
        granularity="items",
        item_ids=corpus.item_ids,
        token_scope=request.options.token_scope,
        backend="huggingface",
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        seed=request.options.seed,
        packages={name: version(name) for name in _PACKAGES},
        plan_sha256=request.plan.sha256 if request.plan else None,
    )
