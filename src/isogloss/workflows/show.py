"""Shows the routing of sentences token by token, with and without a plan, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isogloss.backends.model import Model
from isogloss.backends.token_routing import TokenRouting, token_bytes, token_texts
from isogloss.errors import CorpusError
from isogloss.languages import resolve
from isogloss.reports.assets import require_page, write_page
from isogloss.reports.tokens import ShownText, token_page
from isogloss.steering import Plan, Steering, check_plan

__all__ = ["show_texts"]

_NEXT = 10


def show_texts(
    model: Model,
    texts: Mapping[str, str],
    out: str | Path,
    *,
    plan: Steering | None = None,
    pivot: str = "eng_Latn",
    force: bool = False,
) -> Path:
    """Write one self-contained page: tokens downwards, layers to the right, chosen experts as colours.

    Args:
        model: unsteered.
        texts: language to sentence; the same sentence in each, or one alone. They are read as they are, special tokens
            of the tokenizer added.
        out: the HTML file, new, or such a page, which is replaced; its folder is made where absent.
        plan: or router adapter, to show the choices and the next tokens under it, too; a plan's rules by language
            apply to each text.
        pivot: language whose choices are marked in the others.
        force: replace a file of any kind.

    Returns:
        ``out``.

    Raises:
        CorpusError: no text, or one without a token.
        LanguageError: a language is unknown.
        PlanError: the plan is for another model.
        ModelError: the backend does not give the routing of single tokens.
        FileError: the file cannot be written, or is of another kind.
    """
    path = Path(out)
    require_page(path, "token view", "isogloss show", force=force)
    if not texts:
        raise CorpusError("found no text; expected at least one")
    if plan is not None:
        check_plan(plan, model.fingerprint)
    shown = [_shown(model, resolve(language), text, plan) for language, text in texts.items()]
    layers = [spec.layer for spec in model.routers]
    words = "" if plan is None else _describe(plan)
    page = token_page(shown, model=model.name, layers=layers, pivot=resolve(pivot), plan=words)
    write_page(path, page)
    return path


def _shown(model: Model, language: str, text: str, plan: Steering | None) -> ShownText:
    routing, steered = model.route_tokens(text), None
    rules = None if plan is None else plan.for_request(language)
    if rules is not None and not rules.is_empty:
        with model.steer(rules):
            steered = model.route_tokens(text)
    tokens = token_texts(model.tokenizer, routing.token_ids)
    return ShownText(language, text, tokens, routing, steered, _next_tokens(model, routing, steered))


def _next_tokens(
    model: Model, routing: TokenRouting, steered: TokenRouting | None
) -> list[tuple[str, float, float | None]]:
    """List the likeliest next tokens without the plan and, with one, those under it."""
    order = dict(routing.likeliest(_NEXT))
    if steered is not None:
        half = _NEXT // 2
        order = {token: 0.0 for token, _ in [*routing.likeliest(half), *steered.likeliest(half)]}
    return [
        (
            token_bytes(model.tokenizer, token).decode("utf-8", "backslashreplace"),
            float(routing.next_probabilities[token]),
            None if steered is None else float(steered.next_probabilities[token]),
        )
        for token in order
    ]


def _describe(plan: Steering) -> str:
    does = sorted({each.kind for each in plan.interventions}) if isinstance(plan, Plan) else plan.ranks
    n = plan.n_experts
    return f"The {plan.noun} ({', '.join(does)}) has {n} expert{'' if n == 1 else 's'} in {len(plan.layers)} layers."
