"""A page on the routing of sentences, token by token: tokens downwards, layers to the right, experts as colours."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

from isogloss.backends.token_routing import TokenRouting
from isogloss.reports.assets import embedded, render
from isogloss.reports.axes import text_width
from isogloss.reports.raster import CLEAR, indexed_picture
from isogloss.reports.text import MISSING, counted, label, plain
from isogloss.terminal import visible

_ROW, _BLOCK, _GAP, _HEAD = 20, 7, 4, 24
_LONGEST_LABEL = 190.0
_DIGITS = 4

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class ShownText:
    """One sentence in one language.

    Attributes:
        language: full code.
        text: as the model read it.
        tokens: text of each token, its place among the tokens that share this text, and their number.
        routing: without a plan.
        steered: under the plan; None without one.
        next_tokens: text of the likeliest next tokens and their probability without and with the plan.
    """

    language: str
    text: str
    tokens: Sequence[tuple[str, int, int]]
    routing: TokenRouting
    steered: TokenRouting | None
    next_tokens: Sequence[tuple[str, float, float | None]]


def token_page(texts: Sequence[ShownText], *, model: str, layers: Sequence[int], pivot: str, plan: str = "") -> str:
    """Write the page.

    Args:
        texts: the same sentence in several languages, or one.
        model: its name.
        layers: decoder layer of each routed layer.
        pivot: language whose choices are marked in the others; one that is not among the texts marks nothing.
        plan: what the plan does, in words; empty without one.
    """
    reference = next((each.routing for each in texts if each.language == pivot), None)
    preferred = None if reference is None else _preferred(reference)
    return render(
        "tokens",
        title=plain(f"How {model} routes {counted(len(texts), 'sentence')}"),
        plan=plain(plan),
        pivot=label(pivot) if preferred is not None and len(texts) > 1 else "",
        top_k=texts[0].routing.expert_ids.shape[-1],
        texts=[
            _shown(each, layers, preferred if each.language != pivot else None, planned=bool(plan)) for each in texts
        ],
    )


def _preferred(routing: TokenRouting) -> BoolArray:
    """Find the ``top_k`` experts of every layer with the greatest total weight in a text: ``[n_layers, n_experts]``."""
    n_layers, _, top_k = routing.expert_ids.shape
    totals = np.zeros((n_layers, routing.router_logits.shape[-1]))
    for layer in range(n_layers):
        np.add.at(totals[layer], routing.expert_ids[layer].ravel(), routing.weights[layer].ravel())
    chosen = np.argsort(-totals, axis=1, kind="stable")[:, :top_k]
    marked = np.zeros(totals.shape, dtype=bool)
    np.put_along_axis(marked, chosen, values=True, axis=1)
    return marked


def _shown(each: ShownText, layers: Sequence[int], preferred: BoolArray | None, *, planned: bool) -> dict[str, Any]:
    parts = [("without the plan" if each.steered else "", each.routing)]
    parts += [("with the plan", each.steered)] if each.steered else []
    changed = _changed(each.routing, each.steered) if each.steered else None
    drawings = [
        (title, _draw(each, routing, layers, preferred, changed if place else None))
        for place, (title, routing) in enumerate(parts)
    ]
    data = {
        "tokens": [_label(text, part, n) for text, part, n in each.tokens],
        "layers": list(layers),
        "parts": [_data(routing, preferred) for _, routing in parts],
    }
    share = "No rule of the plan applies to this language." if planned else ""
    if changed is not None:
        share = f"{100 * changed.mean():.1f} % of choices differ under the plan."
    return {
        "language": label(each.language),
        "text": plain(each.text),
        "drawings": drawings,
        "changed": share,
        "next": [
            (visible(text), f"{before:.3f}", MISSING if after is None else f"{after:.3f}", before, after)
            for text, before, after in each.next_tokens
        ],
        "steered": each.steered is not None,
        "data": embedded(data),
    }


def _changed(plain_routing: TokenRouting, steered: TokenRouting) -> BoolArray:
    """Mark where the set of chosen experts differs: ``[n_layers, n_tokens]``."""
    before, after = (np.sort(each.expert_ids, axis=-1) for each in (plain_routing, steered))
    return np.asarray((before != after).any(axis=-1))


def _label(text: str, part: int, n: int) -> str:
    shown = visible(text) or "∅"
    return f"{shown} ({part}/{n})" if n > 1 else shown


def _data(routing: TokenRouting, preferred: BoolArray | None) -> dict[str, Any]:
    """Return what hovering shows: by layer, token and rank."""
    logits = np.take_along_axis(routing.router_logits, routing.expert_ids, axis=-1)
    marked = None
    if preferred is not None:
        marked = preferred[np.arange(len(preferred))[:, None, None], routing.expert_ids].astype(int).tolist()
    return {
        "ids": routing.expert_ids.tolist(),
        "weights": _rounded(routing.weights),
        "logits": _rounded(logits),
        "ranks": routing.ranks().tolist(),
        "pivot": marked,
    }


def _rounded(values: Any) -> Any:  # noqa: ANN401 - an array of any shape
    return np.array([float(f"{value:.{_DIGITS}g}") for value in values.ravel()]).reshape(values.shape).tolist()


def _colours() -> list[tuple[int, int, int]]:
    """Give expert numbers colours that are far from those of their neighbours; 250 of them, then again."""
    colours = []
    for number in range(250):
        hue, light = (number * 0.618034) % 1.0, (0.42, 0.58, 0.5)[number % 3]
        colours.append(tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.62)))
    return colours  # type: ignore[return-value]  # three numbers each


def _draw(
    each: ShownText,
    routing: TokenRouting,
    layers: Sequence[int],
    preferred: BoolArray | None,
    changed: BoolArray | None,
) -> Markup:
    """Draw one picture of all cells, with the tokens beside it, the layers above, and marks over it."""
    n_layers, n_tokens, top_k = routing.expert_ids.shape
    labels = [_label(*token) for token in each.tokens]
    left = min(_LONGEST_LABEL, max(text_width(text, 13) for text in labels)) + 12
    cell = _BLOCK * top_k + _GAP
    colours = _colours()
    cells = [
        [
            value
            for layer in range(n_layers)
            for value in (
                *(_pixels(routing.expert_ids[layer, token], len(colours))),
                *([CLEAR] * _GAP),
            )
        ]
        for token in range(n_tokens)
    ]
    width, height = left + n_layers * cell, _HEAD + n_tokens * _ROW
    parts = [
        _image(indexed_picture(cells, colours), left, n_layers * cell, n_tokens * _ROW),
        *_heads(layers, left, cell),
        *_names(labels, left),
        f'<path class="rows" d="{"".join(f"M0 {_HEAD + row * _ROW}H{width:.0f}" for row in range(n_tokens + 1))}"/>',
    ]
    if preferred is not None:
        parts.append(f'<path class="pivot" d="{_marks(routing, preferred, left, cell)}"/>')
    if changed is not None:
        parts.append(f'<path class="changed" d="{_frames(changed, left, cell)}"/>')
    alt = escape(f"Experts chosen for {n_tokens} tokens in {n_layers} layers, {label(each.language)}")
    return Markup(  # noqa: S704 - every text from outside is escaped
        f'<svg width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" role="img" aria-label="{alt}"'
        f' data-left="{left:.1f}" data-cell="{cell}" data-top="{_HEAD}" data-row="{_ROW}">{"".join(parts)}</svg>'
    )


def _image(address: str, left: float, width: int, height: int) -> str:
    place = f'x="{left:.1f}" y="{_HEAD}" width="{width}" height="{height}"'
    return f'<image {place} preserveAspectRatio="none" style="image-rendering:pixelated" href="{address}"/>'


def _pixels(experts: Any, n_colours: int) -> Iterator[int]:  # noqa: ANN401 - as above
    for expert in experts:
        yield from [int(expert) % n_colours] * _BLOCK


def _heads(layers: Sequence[int], left: float, cell: int) -> Iterator[str]:
    every = max(1, -(-22 // cell))
    for place in range(0, len(layers), every):
        yield f'<text x="{left + place * cell + cell / 2:.1f}" y="{_HEAD - 8}" class="layer">{layers[place]}</text>'


def _names(labels: Sequence[str], left: float) -> Iterator[str]:
    for row, text in enumerate(labels):
        y = _HEAD + row * _ROW + _ROW / 2
        squeezed = f' textLength="{_LONGEST_LABEL:g}" lengthAdjust="spacingAndGlyphs"'
        fit = squeezed if text_width(text, 13) > _LONGEST_LABEL else ""
        yield f'<text x="{left - 8:.1f}" y="{y:.1f}" class="token"{fit}>{escape(text)}</text>'


def _marks(routing: TokenRouting, preferred: BoolArray, left: float, cell: int) -> str:
    """Draw a line under each chosen expert that the pivot prefers in that layer."""
    n_layers, n_tokens, top_k = routing.expert_ids.shape
    return "".join(
        f"M{left + layer * cell + rank * _BLOCK + 1:.1f} {_HEAD + (token + 1) * _ROW - 3}h{_BLOCK - 2}"
        for layer in range(n_layers)
        for token in range(n_tokens)
        for rank in range(top_k)
        if preferred[layer, routing.expert_ids[layer, token, rank]]
    )


def _frames(changed: BoolArray, left: float, cell: int) -> str:
    """Draw a frame around each choice that the plan changed."""
    width = cell - _GAP + 2
    return "".join(
        f"M{left + layer * cell - 1:.1f} {_HEAD + token * _ROW + 1.5}h{width}v{_ROW - 3}h{-width}z"
        for layer, token in np.argwhere(changed).tolist()
    )
