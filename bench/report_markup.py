"""HTML elements, and figures as they stand in a page's text and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from bench.report_data import Figure
from bench.stats import Spread

DASH = "\N{EN DASH}"


def tag(name: str, *children: str, **attributes: str) -> str:
    """Return an element; children are markup already, attribute values are escaped here."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{shown}>{''.join(children)}</{name}>"


def plain(words: object) -> str:
    """Return text from a file as markup that shows just that text."""
    return escape(str(words), quote=False)


def spread_text(spread: Spread, form: str = ".2f") -> str:
    """Return "median (low-high)" with a proper dash; a single figure has no range."""
    if spread.low == spread.high:
        return f"{spread.median:{form}}"
    return f"{spread.median:{form}} ({spread.low:{form}}{DASH}{spread.high:{form}})"


def figure_cell(figure: Figure | None) -> str:
    """Return a table cell: the median, and the range below it."""
    if figure is None:
        return tag("td", DASH)
    return spread_cell(
        figure.metric.text(figure.spread.median),
        figure.metric.text(figure.spread.low),
        figure.metric.text(figure.spread.high),
    )


def ratio_cell(spread: Spread | None) -> str:
    """Return a table cell of a ratio."""
    if spread is None:
        return tag("td", DASH)
    return spread_cell(*(f"{value:.2f}" for value in (spread.median, spread.low, spread.high)))


def spread_cell(median: str, low: str, high: str) -> str:
    """Return a cell of three figures; equal ones have no range."""
    if low == high:
        return tag("td", median)
    return tag("td", median, tag("span", f"{low}{DASH}{high}", class_="range"))


def table(caption: str, heads: Sequence[str], rows: Iterable[tuple[str, str]]) -> str:
    """Return a table that scrolls by itself where it is wider than the screen.

    Args:
        caption: what it shows; markup.
        heads: of the columns, the first one of the row names; markup.
        rows: CSS class of the row (may be empty) and its cells.
    """
    head = tag("tr", *(tag("th", words, scope="col") for words in heads))
    body = "".join(
        tag("tr", cells, class_=style) if style else tag("tr", cells) for style, cells in rows
    )
    inside = tag(
        "table",
        tag("caption", caption) if caption else "",
        tag("thead", head),
        tag("tbody", body),
    )
    return tag(
        "div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption or "table"
    )
