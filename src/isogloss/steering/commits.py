"""On which commits of a model a plan was made, and whether that is the commit at hand."""

from __future__ import annotations

from collections.abc import Mapping

from isogloss.progress import note
from isogloss.steering.adapter import RouterAdapter
from isogloss.steering.plan import Plan

__all__ = ["note_other_commit"]


def note_other_commit(plan: Plan | RouterAdapter, revision: str | None) -> None:
    """Note where a plan was made on another commit of the model, whose routers agree and whose experts may not.

    Args:
        plan: whose provenance names the commits of the Runs or models that it was made on.
        revision: commit of the model at hand; None where it is unknown; then there is no note.
    """
    others = sorted(_revisions(plan.provenance) - {revision})
    if revision is not None and others:
        note(
            f"the {plan.noun} was made on commit {', '.join(others)}, and the model is of {revision}: its routers "
            "agree, other weights may differ; load the model as NAME@COMMIT to use that commit"
        )


def _revisions(provenance: object) -> set[str]:
    if isinstance(provenance, Mapping):
        own = {provenance["revision"]} if isinstance(provenance.get("revision"), str) else set()
        return own.union(*map(_revisions, provenance.values()))
    return set().union(*map(_revisions, provenance)) if isinstance(provenance, list) else set()
