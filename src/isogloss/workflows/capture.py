"""Captures a corpus into a Run, one language file at a time; a stopped capture resumes with the next language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.chat_template import template_sha256
from isogloss.backends.model import Model
from isogloss.backends.open import refuse_unsupported
from isogloss.corpora import Corpus, Turns
from isogloss.errors import CorpusError
from isogloss.languages import resolve
from isogloss.progress import note, track
from isogloss.runs import Manifest, Run, RunWriter, run_writer
from isogloss.steering import Steering, note_other_commit

__all__ = ["capture_corpus"]


def capture_corpus(  # noqa: PLR0913 - the options of a capture, by name
    model: Model,
    corpus: Corpus,
    out: str | Path,
    *,
    plan: Steering | None = None,
    languages: Sequence[str] | None = None,
    distinct_from: str | None = None,
    options: CaptureOptions | None = None,
) -> Run:
    """Run a corpus through a model and keep its routing, language by language.

    Args:
        model: unsteered.
        corpus: the texts; see `isogloss.corpus`.
        out: folder of the Run, new or of a stopped capture of the same model, corpus and options by the same backend;
            languages that it holds are not captured again. It keeps the hashes of all texts of the corpus, and is not
            resumed with others.
        plan: active during the capture; None for none. Of one with conditions on languages, each language is captured
            under what `Plan.for_request` chooses.
        languages: of the corpus, to capture; None for all.
        distinct_from: pivot language of the corpus. Profiles are then also taken over those counted tokens alone whose
            ids are counted nowhere in the pivot's items; for the pivot itself there are none. None leaves that out.
        options: what is counted, and in which portions.

    Raises:
        ModelError: the routers do not choose as their family's row says, or what they read is unknown; or a chat is
            asked for, and the tokenizer has no template.
        RunError: the folder holds something else or a Run of other texts, or another process works there.
        FileError: the folder cannot be made.
        CorpusError: a text cannot be counted, or a language is mostly unknown to the tokenizer, which is found before
            any is run; or the corpus lacks a language.
        PlanError: the plan is for another model, or cannot be applied.
    """
    options = options or CaptureOptions()
    pivot = None if distinct_from is None else resolve(distinct_from)
    if pivot is not None and pivot not in corpus.texts:
        raise CorpusError(
            f"corpus {corpus.name}: no texts in {pivot}, whose tokens were to be left out; it "
            f"has {', '.join(corpus.languages)}; name a pivot that the corpus holds"
        )
    wanted = corpus.languages if languages is None else corpus.select(languages).languages
    refuse_unsupported(model.backend, hidden_states=options.hidden_states)
    manifest = replace(
        _manifest(model, corpus, options), plan_sha256=plan.sha256 if plan else None, distinct_from=pivot
    )
    if plan is not None:
        note_other_commit(plan, model.revision)
    with run_writer(out, manifest) as writer:
        return _capture(model, corpus, writer, plan=plan, wanted=wanted, options=options)


def _capture(
    model: Model,
    corpus: Corpus,
    writer: RunWriter,
    *,
    plan: Steering | None,
    wanted: Sequence[str],
    options: CaptureOptions,
) -> Run:
    """Capture what is not yet written."""
    pivot, missing = writer.manifest.distinct_from, [language for language in wanted if language not in writer.done]
    unknown: Mapping[str, float] = {}
    if missing:
        unknown = model.require_room(corpus.select(missing), options)
        model.prove(corpus.texts[missing[0]][0])
        _note_portions(writer, options.batch_tokens)
    pivot_ids = None
    if missing and pivot is not None:  # from the pivot's texts alone: a Run captured in parts then has equal bytes
        writes = options.phase == "generation"  # prompts are counted without running the model
        with _steered(model, plan if writes else None, pivot):
            pivot_ids = model.counted_ids(_texts(corpus, pivot, options), corpus.item_ids, options)
    for language in missing:
        texts = _texts(corpus, language, options)
        with _steered(model, plan, language), track(f"capture {language}", len(texts)) as advance:
            routing = model.capture(texts, corpus.item_ids, options=options, pivot_ids=pivot_ids, progress=advance)
        writer.write(
            language,
            routing,
            corpus.sha256(language),
            batch_tokens=options.batch_tokens,
            unknown_share=unknown[language],
        )
    return writer.finish()


def _note_portions(writer: RunWriter, batch_tokens: int) -> None:
    """Say where the languages so far ran in portions of another size, which rounds sums otherwise."""
    before = {entry.batch_tokens for entry in writer.manifest.languages.values()} - {batch_tokens, None}
    if before:
        sizes = ", ".join(map(str, sorted(size for size in before if size)))
        note(
            f"{writer.path}: languages so far ran in portions of {sizes} tokens, the others run in portions of "
            f"{batch_tokens}: sums are rounded in another order, so that in 16 bits some tokens choose other experts"
        )


def _texts(corpus: Corpus, language: str, options: CaptureOptions) -> Sequence[str | Turns]:
    return corpus.conversations(language) if options.chat else corpus.texts[language]


def _steered(model: Model, plan: Steering | None, language: str) -> AbstractContextManager[None]:
    """Apply what a plan chooses for a language."""
    return nullcontext() if plan is None else model.steer(plan.for_request(language))


def _manifest(model: Model, corpus: Corpus, options: CaptureOptions) -> Manifest:
    return Manifest(
        status="partial",
        model=model.name,
        revision=model.revision,
        config_sha256=model.config_sha256,
        fingerprint=model.fingerprint,
        routers=model.routers,
        corpus={"name": corpus.name, "source": corpus.source, "licence": corpus.licence},
        corpus_revision=corpus.revision,
        granularity="items",
        item_ids=corpus.item_ids,
        token_scope=options.token_scope,
        backend=model.backend,
        dtype=model.dtype,
        seed=options.seed,
        texts_sha256={language: corpus.sha256(language) for language in corpus.languages},
        packages=model.packages,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        phase=options.phase,
        new_tokens=options.written or None,
        first_tokens=options.first_tokens,
        threads=model.threads,
        chat_template_sha256=template_sha256(model.tokenizer) if options.chat else None,
        hidden_size=model.hidden_size if options.hidden_states else None,
        token_counts=options.token_counts,
    )
