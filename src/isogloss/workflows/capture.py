"""Captures a corpus into a Run, one language file at a time; a stopped capture goes on with the next language."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isogloss.backends.model import CaptureOptions, Model
from isogloss.backends.open import refuse_unsupported
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError
from isogloss.languages import resolve
from isogloss.runs import Manifest, Run, RunWriter
from isogloss.steering import Plan
from isogloss.workflows.progress import track

__all__ = ["CaptureRequest", "capture_corpus"]


@dataclass(frozen=True)
class CaptureRequest:
    """How a corpus is captured.

    Attributes:
        options: what is counted.
        plan: active during the capture; None for none. Of one with conditions on languages, each language is captured
            under what `Plan.for_request` chooses.
        languages: of the corpus, to capture; None for all.
        distinct_from: pivot language of the corpus. Profiles are then also taken over those counted tokens alone whose
            ids are counted nowhere in the pivot's items; for the pivot itself there are none. None leaves that out.
    """

    options: CaptureOptions = field(default_factory=CaptureOptions)
    plan: Plan | None = None
    languages: tuple[str, ...] | None = None
    distinct_from: str | None = None


def capture_corpus(model: Model, corpus: Corpus, out: Path, request: CaptureRequest | None = None) -> Run:
    """Capture languages of a corpus.

    Args:
        model: unsteered.
        corpus: the texts.
        out: folder of the Run, new or from a stopped capture of the same model, corpus and request by the same backend;
            languages that it has are not captured again.
        request: how.

    Returns:
        The finished Run.

    Raises:
        ModelError: the routers do not do what the family's row says, or what they read cannot be told.
        RunError: ``out`` holds something else.
        CorpusError: a text cannot be counted, or the corpus lacks a language of the request.
        PlanError: the plan is for another model, or cannot be applied.
    """
    request = request or CaptureRequest()
    languages = _languages(corpus, request)
    writer = RunWriter(out, _manifest(model, corpus, request))
    missing = [language for language in languages if language not in writer.done]
    if missing:
        model.prove(corpus.texts[missing[0]][0])
    pivot_ids = _pivot_ids(model, corpus, request) if missing else None
    for language in missing:
        texts = corpus.texts[language]
        with _steered(model, request, language), track(f"capture {language}", len(texts)) as advance:
            routing = model.capture(
                texts, corpus.item_ids, options=request.options, pivot_ids=pivot_ids, progress=advance
            )
        writer.write(language, routing, corpus.sha256(language))
    return writer.finish()


def _steered(model: Model, request: CaptureRequest, language: str) -> AbstractContextManager[None]:
    """Apply what the request's plan chooses for a language."""
    return nullcontext() if request.plan is None else model.steer(request.plan.for_request(language))


def _languages(corpus: Corpus, request: CaptureRequest) -> tuple[str, ...]:
    """Return what to capture; CorpusError where the corpus lacks a language of the request."""
    if request.distinct_from is not None and resolve(request.distinct_from) not in corpus.texts:
        raise CorpusError(
            f"corpus {corpus.name}: no texts in {resolve(request.distinct_from)}, whose tokens were to be left out; it "
            f"has {', '.join(corpus.languages)}; name a pivot that the corpus holds"
        )
    return corpus.languages if request.languages is None else corpus.select(request.languages).languages


def _pivot_ids(model: Model, corpus: Corpus, request: CaptureRequest) -> npt.NDArray[np.int64] | None:
    """Return the token ids of the pivot, from its texts alone: a Run captured in parts then has equal bytes."""
    if request.distinct_from is None:
        return None
    pivot = resolve(request.distinct_from)
    with _steered(model, request, pivot):
        return model.counted_ids(corpus.texts[pivot], corpus.item_ids, request.options)


def _manifest(model: Model, corpus: Corpus, request: CaptureRequest) -> Manifest:
    refuse_unsupported(model.backend, hidden_states=request.options.hidden_states)
    return Manifest(
        status="partial",
        model=model.name,
        revision=model.revision,
        config_sha256=model.config_sha256,
        fingerprint=model.fingerprint,
        routers=model.routers,
        corpus={"name": corpus.name, "source": corpus.source, "licence": corpus.licence},
        granularity="items",
        item_ids=corpus.item_ids,
        token_scope=request.options.token_scope,
        backend=model.backend,
        dtype=model.dtype,
        seed=request.options.seed,
        packages=model.packages,
        plan_sha256=request.plan.sha256 if request.plan else None,
        phase=request.options.phase,
        new_tokens=request.options.written or None,
        distinct_from=None if request.distinct_from is None else resolve(request.distinct_from),
        threads=model.threads,
        hidden_size=model.hidden_size if request.options.hidden_states else None,
    )
