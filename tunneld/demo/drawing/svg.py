"""Small pieces of SVG: elements, scales, ticks.

Written by hand instead of with a plotting library: the charts take their colours from the page's
CSS variables, so that one SVG is right in light, in dark and in print; its text stays text; and a
report needs nothing but the standard library. Numbers are rounded to a tenth of a unit: the same
input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


def number(value: float) -> str:
    """Return a coordinate: a tenth of a unit, without needless zeros."""
    text = f"{value:.1f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def element(tag: str, *children: str, **attributes: str | float) -> str:
    """Return an element; children are markup already, attribute values are escaped here.

    Underscores in names become hyphens, and a trailing one goes away: `stroke_width`, `class_`.
    """
    parts = [tag]
    for name, value in attributes.items():
        shown = value if isinstance(value, str) else number(value)
        parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    inside = "".join(children)
    head = " ".join(parts)
    return f"<{head}>{inside}</{tag}>" if inside else f"<{head}/>"


def text(x: float, y: float, words: str, *, style: str = "", anchor: str = "start") -> str:
    """Return a line of text.

    Args:
        x: where it starts, or ends, or has its middle, by `anchor`.
        y: its baseline.
        words: plain text.
        style: CSS classes.
        anchor: start, middle or end.
    """
    extra = {"class": style} if style else {}
    if anchor != "start":
        extra["text-anchor"] = anchor
    return element("text", escape(words, quote=False), x=x, y=y, **extra)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a straight line in a CSS class."""
    return element("path", d=f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}", class_=style)


def drawing(
    ident: str, width: float, height: float, *, title: str, description: str, body: Sequence[str]
) -> str:
    """Return a whole picture with its text alternative.

    Args:
        ident: unique in the page; the ids of title and description derive from it.
        width: of the view box; the page scales it.
        height: of the view box.
        title: what the picture shows.
        description: what a reader sees in it, in a sentence or two.
        body: its elements.
    """
    return element(
        "svg",
        element("title", escape(title, quote=False), id=f"{ident}-title"),
        element("desc", escape(description, quote=False), id=f"{ident}-desc"),
        *body,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-desc",
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """Figures to coordinates.

    Attributes:
        low: figure at `start`.
        high: figure at `end`.
        start: coordinate.
        end: coordinate.
        logarithmic: equal ratios get equal distances; `low` must be above 0 then.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the coordinate of a figure; what lies outside is put on the border."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_ticks(top: float, most: int = 4) -> list[float]:
    """Return round figures from 0 up to the first one at or above `top`.

    Args:
        top: highest figure of the chart; 0 or less is taken as 1.
        most: steps at most.
    """
    top = top if top > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(top / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power * most >= top)
    steps = math.ceil(top / step - 1e-9)
    return [round(step * count, 9) for count in range(steps + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from at or below `low` to at or above `high`.

    Both must be above 0.
    """
    ticks = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    first = max(index for index, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    last = min(
        (index for index, tick in enumerate(ticks) if tick >= high * (1 - 1e-9)),
        default=len(ticks) - 1,
    )
    return ticks[first : max(last, first + 1) + 1]


def short(value: float) -> str:
    """Return a tick's label: no digits that say nothing."""
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
