"""Captures a corpus into a Run, one language file at a time; a stopped capture goes on with the next language."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isogloss.backends.huggingface import LoadedModel, capture, prove_routers, steer
from isogloss.backends.huggingface.capture import counted_ids
from isogloss.backends.huggingface.watch import hidden_size
from isogloss.backends.token_batches import CaptureOptions
from isogloss.backends.vllm.capture import capture as capture_served
from isogloss.backends.vllm.capture import counted_ids as served_ids
from isogloss.backends.vllm.capture import refuse_hidden_states
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.plugin.settings import n_slots_of
from isogloss.backends.vllm.prove import prove_served
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError
from isogloss.languages import resolve
from isogloss.routing import Fingerprint, RouterSpec
from isogloss.runs import LanguageRouting, Manifest, Run, RunWriter
from isogloss.steering import Plan
from isogloss.workflows.progress import track

__all__ = ["CaptureRequest", "capture_corpus", "slots_for"]

_PACKAGES = ("isogloss", "torch", "transformers", "tokenizers", "numpy")


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


@dataclass(frozen=True)
class _Backend:
    """What differs between the ways to run a model.

    Attributes:
        name: as manifests have it.
        packages: name -> version of what can change the numbers.
        fingerprint: of the model.
        routers: one per routed layer.
        dtype: of the weights.
        hidden_size: gives that of what routers read, or refuses to keep it.
        prove: shows that the routers can be trusted, on a text.
        steer: applies a plan.
        capture: as `isogloss.backends.huggingface.capture`, the model given.
        counted_ids: as `isogloss.backends.huggingface.capture.counted_ids`, the model given.
    """

    name: str
    packages: dict[str, str]
    fingerprint: Fingerprint
    routers: tuple[RouterSpec, ...]
    dtype: str
    hidden_size: Callable[[], int]
    prove: Callable[[str], object]
    steer: Callable[[Plan], AbstractContextManager[None]]
    capture: Callable[..., LanguageRouting]
    counted_ids: Callable[..., npt.NDArray[np.int64]]


def _backend_of(loaded: LoadedModel | ServedModel) -> _Backend:
    packages = {name: version(name) for name in _PACKAGES}
    if isinstance(loaded, ServedModel):
        from vllm import __version__ as vllm_version  # noqa: PLC0415 - there is a vLLM only where a model is served

        return _Backend(
            name="vllm",
            packages={**packages, "vllm": vllm_version},  # builds for some devices have another name in the registry
            fingerprint=loaded.fingerprint,
            routers=loaded.specs,
            dtype=loaded.dtype,
            hidden_size=refuse_hidden_states,
            prove=lambda _text: prove_served(loaded),
            steer=loaded.steered,
            capture=partial(capture_served, loaded),
            counted_ids=partial(served_ids, loaded),
        )
    return _Backend(
        name="huggingface",
        packages=packages,
        fingerprint=loaded.fingerprint(),
        routers=tuple(router.spec for router in loaded.routers),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        hidden_size=partial(hidden_size, loaded),
        prove=partial(prove_routers, loaded),
        steer=partial(steer, loaded),
        capture=partial(capture, loaded),
        counted_ids=partial(counted_ids, loaded),
    )


def slots_for(plan: Plan | None) -> int:
    """Return what ``n_slots`` vLLM must be started with to capture under a plan, one language after the other."""
    if plan is None:
        return 1
    return max(n_slots_of(plan.for_request(language)) for language in (None, *plan.languages))


def capture_corpus(
    loaded: LoadedModel | ServedModel, corpus: Corpus, out: Path, request: CaptureRequest | None = None
) -> Run:
    """Capture languages of a corpus.

    Args:
        loaded: the model; one that vLLM serves must have been started with ``record`` and `slots_for` the plan.
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
        PlanError: the plan is for another model, or vLLM cannot serve it.
    """
    request = request or CaptureRequest()
    languages = _languages(corpus, request)
    backend = _backend_of(loaded)
    writer = RunWriter(out, _manifest(loaded, backend, corpus, request))
    missing = [language for language in languages if language not in writer.done]
    if missing:
        backend.prove(corpus.texts[missing[0]][0])
    pivot_ids = _pivot_ids(backend, corpus, request) if missing else None
    for language in missing:
        texts = corpus.texts[language]
        with _steered(backend, request, language), track(f"capture {language}", len(texts)) as advance:
            routing = backend.capture(
                texts, corpus.item_ids, options=request.options, pivot_ids=pivot_ids, progress=advance
            )
        writer.write(language, routing, corpus.sha256(language))
    return writer.finish()


def _steered(backend: _Backend, request: CaptureRequest, language: str) -> AbstractContextManager[None]:
    """Apply what the request's plan chooses for a language."""
    return nullcontext() if request.plan is None else backend.steer(request.plan.for_request(language))


def _languages(corpus: Corpus, request: CaptureRequest) -> tuple[str, ...]:
    """Return what to capture; CorpusError where the corpus lacks a language of the request."""
    if request.distinct_from is not None and resolve(request.distinct_from) not in corpus.texts:
        raise CorpusError(
            f"corpus {corpus.name}: no texts in {resolve(request.distinct_from)}, whose tokens were to be left out; it "
            f"has {', '.join(corpus.languages)}; name a pivot that the corpus holds"
        )
    return corpus.languages if request.languages is None else corpus.select(request.languages).languages


def _pivot_ids(backend: _Backend, corpus: Corpus, request: CaptureRequest) -> npt.NDArray[np.int64] | None:
    """Return the token ids of the pivot, from its texts alone: a Run captured in parts then has equal bytes."""
    if request.distinct_from is None:
        return None
    pivot = resolve(request.distinct_from)
    with _steered(backend, request, pivot):
        return backend.counted_ids(corpus.texts[pivot], corpus.item_ids, request.options)


def _manifest(
    loaded: LoadedModel | ServedModel, backend: _Backend, corpus: Corpus, request: CaptureRequest
) -> Manifest:
    return Manifest(
        status="partial",
        model=loaded.name,
        revision=loaded.revision,
        config_sha256=loaded.config_sha256,
        fingerprint=backend.fingerprint,
        routers=backend.routers,
        corpus={"name": corpus.name, "source": corpus.source, "licence": corpus.licence},
        granularity="items",
        item_ids=corpus.item_ids,
        token_scope=request.options.token_scope,
        backend=backend.name,
        dtype=backend.dtype,
        seed=request.options.seed,
        packages=backend.packages,
        plan_sha256=request.plan.sha256 if request.plan else None,
        phase=request.options.phase,
        new_tokens=request.options.written or None,
        distinct_from=None if request.distinct_from is None else resolve(request.distinct_from),
        hidden_size=backend.hidden_size() if request.options.hidden_states else None,
    )
