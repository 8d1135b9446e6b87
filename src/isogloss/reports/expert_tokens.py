"""The tokens that an expert is chosen for: one sentence per language, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isogloss.analysis import ExpertTokens, LanguageTokens
from isogloss.reports.assets import render, require_page, write_page
from isogloss.reports.text import counted, label, percent, plain, sentence
from isogloss.runs import UNFINISHED
from isogloss.statistics import Estimate
from isogloss.terminal import visible

_BAR = 160  # pixels of a share of 1


def describe_tokens(each: LanguageTokens, least: int) -> str:
    """Say how often the expert is chosen in a language, and for how many tokens more often than by chance."""
    tokens, items = counted(each.n_tokens, "token"), counted(each.rate.n, "item")
    chosen = f"chosen for {each.rate.text(percent)} % of {tokens} in {items}"
    if not each.n_compared:
        return f"{chosen}; no token was counted {least} times or more."
    if not each.rate.has_interval:
        return f"{chosen}; {counted(each.n_compared, 'token')} compared, without intervals."
    return f"{chosen}; for {each.n_above:,} of {counted(each.n_compared, 'compared token')} more often than by chance."


def lift_text(lift: Estimate) -> str:
    """Write a lift with its interval, such as ``7.4 [5.0, 9.1]``."""
    return lift.text("{:.3g}".format)


def expert_tokens_page(result: ExpertTokens) -> str:
    """Write the page: a table of tokens for each language."""
    return render(
        "expert_tokens",
        style="tokens",
        title=plain(f"What expert {result.expert} of layer {result.layer} is chosen for: {result.model}"),
        partial=UNFINISHED if result.status == "partial" else "",
        n_compared=f"{sum(each.n_compared for each in result.languages):,}",
        level=f"{100 * result.level:g}",
        least=result.least,
        languages=[_language(each, result.least) for each in result.languages],
    )


def require_expert_page(path: Path, *, force: bool) -> None:
    """Refuse a file that is no such page, before anything is computed; FileError."""
    require_page(path, "page on an expert", "isogloss inspect", force=force)


def write_expert_page(result: ExpertTokens, path: Path, *, force: bool = False) -> None:
    """Write the page into a file, new or of such a page; its folder is made where absent.

    Raises:
        FileError: the file cannot be written, or is of another kind.
    """
    require_expert_page(path, force=force)
    write_page(path, expert_tokens_page(result))


def _language(each: LanguageTokens, least: int) -> dict[str, Any]:
    return {
        "language": label(each.language),
        "tag": each.language.replace("_", "-"),
        "summary": sentence(describe_tokens(each, least)),
        "chance": f"{_BAR * each.rate.value:.1f}",
        "rows": [
            {
                "token": visible(row.token),
                "id": row.token_id,
                "n": f"{row.n:,}",
                "n_items": f"{row.lift.n:,}",
                "chosen": f"{row.chosen:,}",
                "bar": f"{_BAR * row.chosen / row.n:.1f}",
                "lift": lift_text(row.lift),
                "share": percent(row.share),
            }
            for row in each.tokens
        ],
    }
