"""The charts of a report, each one picture in SVG that carries its labels itself.

All are drawn about 360 units wide: on a phone a unit is a pixel, so that no text shrinks; on a
wide screen several stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import report_names as names
from bench.contenders import YARDSTICK
from bench.report_data import Cdf, Figure
from bench.stats import NOISE, Spread
from tunneld.demo.drawing.svg import (
    Scale,
    drawing,
    element,
    line,
    linear_ticks,
    log_ticks,
    number,
    short,
    text,
)

WIDTH = 360.0
TIMES = "\N{MULTIPLICATION SIGN}"
SHAKY_MARK = "*"
NOISY_MARK = "\N{DAGGER}"

_ROW = 25.0
_BAR = 13.0
_TOP = 22.0
_VALUE_END = 302.0
_LETTER = 7.4


def css_class(contender: str) -> str:
    """Return the class that gives a contender its colour, the same in every chart."""
    known = names.contender(contender)
    return f"c-{known.name}" if known.family != "other" else "c-other"


def marks(figure: Figure) -> str:
    """Return the signs that warn of a figure: rounds that differ, a machine that was not quiet."""
    return SHAKY_MARK * figure.shaky + NOISY_MARK * bool(figure.noisy)


@dataclass(frozen=True, slots=True)
class Bars:
    """What a bar chart says beside its figures.

    Attributes:
        ident: unique in the page.
        title: what the picture shows.
        ratio_title: heading of the right column; empty: no such column.
        ratios: contender -> text of the right column.
        labels: contender -> name of its row; a contender that is not there keeps its own.
    """

    ident: str
    title: str
    ratio_title: str
    ratios: Mapping[str, str]
    labels: Mapping[str, str]


def bars(figures: Sequence[Figure], chart: Bars) -> str:
    """Draw the medians of one metric as bars, with the range over the rounds as a whisker.

    Args:
        figures: one per contender, all of the same metric; at least one.
        chart: titles and labels.
    """
    metric = figures[0].metric
    labels = [chart.labels.get(each.contender, each.contender) for each in figures]
    start = min(max(70.0, max(map(len, labels)) * _LETTER + 8), 134.0)
    top = max(each.spread.high for each in figures) * metric.scale or 1.0
    ticks = [tick for tick in linear_ticks(top) if tick <= top]
    longest = max(len(metric.text(each.spread.median)) for each in figures)
    scale = Scale(0, top, start, _VALUE_END - 12 - longest * _LETTER)
    bottom = _TOP + len(figures) * _ROW
    body = [text(_VALUE_END, 12, "median", style="head", anchor="end")]
    if chart.ratio_title:
        body.append(text(WIDTH, 12, chart.ratio_title, style="head", anchor="end"))
    for tick in ticks:
        x = scale.at(tick)
        body.append(line(x, _TOP - 2, x, bottom, "grid" if tick else "axis"))
        body.append(text(x, bottom + 14, short(tick), style="tick", anchor="middle"))
    if metric.unit:
        body.append(text(_VALUE_END, bottom + 14, metric.unit, style="tick", anchor="end"))
    for each in figures:
        if each.contender == YARDSTICK:
            x = scale.at(each.spread.median * metric.scale)
            body.append(line(x, _TOP - 2, x, bottom, "yardstick"))
    for place, (each, label) in enumerate(zip(figures, labels, strict=True)):
        body += _bar(each, label, _TOP + place * _ROW, scale)
        ratio = chart.ratios.get(each.contender, "")
        if ratio:
            baseline = _TOP + place * _ROW + 17
            body.append(text(WIDTH, baseline, ratio, style="ratio", anchor="end"))
    return drawing(
        chart.ident,
        WIDTH,
        bottom + 20,
        title=chart.title,
        description=_told(figures, labels, chart),
        body=body,
    )


def _bar(figure: Figure, label: str, top: float, scale: Scale) -> list[str]:
    metric, spread = figure.metric, figure.spread
    low, middle, high = (
        scale.at(value * metric.scale) for value in (spread.low, spread.median, spread.high)
    )
    center = top + _ROW / 2
    name_style = "name ours" if figure.contender == "udp" else "name"
    whisker = (
        f"M{number(low)} {number(center)}H{number(high)}"
        f"M{number(low)} {number(center - 3.5)}v7M{number(high)} {number(center - 3.5)}v7"
    )
    return [
        text(scale.start - 7, top + 17, label, style=name_style, anchor="end"),
        element(
            "rect",
            x=scale.start,
            y=center - _BAR / 2,
            width=max(middle - scale.start, 1.0),
            height=_BAR,
            class_=f"bar {css_class(figure.contender)}",
        ),
        element("path", d=whisker, class_="halo"),
        element("path", d=whisker, class_="whisker"),
        text(_VALUE_END, top + 17, metric.text(spread.median), style="value", anchor="end"),
        text(_VALUE_END + 1, top + 14, marks(figure), style="mark") if marks(figure) else "",
    ]


def _told(figures: Sequence[Figure], labels: Sequence[str], chart: Bars) -> str:
    """Return the chart in words."""
    parts = []
    for each, label in zip(figures, labels, strict=True):
        spread = each.spread
        low, high = each.metric.text(spread.low), each.metric.text(spread.high)
        ratio = chart.ratios.get(each.contender, "")
        parts.append(
            f"{label} {each.metric.text(spread.median, unit=True)} ({low} to {high})"
            + (f", {ratio} {chart.ratio_title.removeprefix(TIMES).strip()}" if ratio else "")
        )
    return "Median and range over the rounds. " + "; ".join(parts) + "."


@dataclass(frozen=True, slots=True)
class Strip:
    """One line of a ratio chart: a label, and the ratio with its range."""

    label: str
    ratio: Spread


def ratio_limit(ratios: Sequence[Spread]) -> float:
    """Return how far from 1 the axis of ratio charts must reach, so that all can share it."""
    reach = max([2.0, *(max(each.high, 1 / max(each.low, 0.01)) for each in ratios)])
    return min(reach * 1.1, 100.0)


def ratio_strips(ident: str, rows: Sequence[Strip], *, title: str, limit: float) -> str:
    """Draw ratios to the yardstick on a logarithmic axis around 1, the band of ties shaded.

    Args:
        ident: unique in the page.
        rows: one line each.
        title: what the picture shows.
        limit: the axis goes from 1/limit to limit.
    """
    width, pitch = 290.0, 18.0
    start = max(len(row.label) for row in rows) * _LETTER + 14
    scale = Scale(1 / limit, limit, start, width - 8, logarithmic=True)
    bottom = 4 + pitch * len(rows)
    left, right = scale.at(1 / (1 + NOISE)), scale.at(1 + NOISE)
    body = [element("rect", x=left, y=0, width=right - left, height=bottom, class_="tie")]
    for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8):
        if 1 / limit <= tick <= limit:
            x = scale.at(tick)
            body.append(line(x, 0, x, bottom, "yardstick" if tick == 1 else "grid"))
            body.append(text(x, bottom + 13, TIMES + short(tick), style="tick", anchor="middle"))
    for place, row in enumerate(rows):
        y = 4 + pitch * (place + 0.5) - 2
        low, middle, high = (
            scale.at(value) for value in (row.ratio.low, row.ratio.median, row.ratio.high)
        )
        body += [
            text(start - 8, y + 4, row.label, style="name", anchor="end"),
            element("path", d=f"M{number(low)} {number(y)}H{number(high)}", class_="range c-udp"),
            element("circle", cx=middle, cy=y, r=4.2, class_="dot c-udp"),
        ]
    words = "; ".join(f"{row.label} {row.ratio.text()}" for row in rows)
    description = f"Ratio to VXLAN of the same round, median and range. {words}."
    return drawing(ident, width, bottom + 18, title=title, description=description, body=body)


def latency(ident: str, curves: Mapping[str, Cdf], *, title: str) -> str:
    """Draw distributions of the round-trip time: which share took no longer than x microseconds.

    Args:
        ident: unique in the page.
        curves: contender -> its distribution; none of them empty, at least one.
        title: what the picture shows.
    """
    height, left, top = 272.0, 34.0, 20.0
    bottom = height - 36
    ticks = log_ticks(
        min(max(points[0][0], 0.1) for points in curves.values()),
        max(_quantile(points, 0.999) for points in curves.values()),
    )
    across = Scale(ticks[0], ticks[-1], left, WIDTH - 18, logarithmic=True)
    up = Scale(0, 1, bottom, top)
    body = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = up.at(share)
        body.append(line(left, y, WIDTH - 18, y, "grid" if share else "axis"))
        body.append(text(left - 5, y + 4, f"{share * 100:.0f}", style="tick", anchor="end"))
    body.append(text(0, 11, "% of round trips", style="tick"))
    for tick in ticks:
        x = across.at(tick)
        body.append(line(x, top, x, bottom, "grid"))
    body += [
        text(across.at(tick), bottom + 14, short(tick), style="tick", anchor="middle")
        for tick in _that_fit(ticks, across)
    ]
    middle = (left + WIDTH - 18) / 2
    axis = "round-trip time, \N{MICRO SIGN}s (logarithmic)"
    body.append(text(middle, bottom + 30, axis, style="tick", anchor="middle"))
    # Ours and the yardstick last: on top.
    body += [
        element("path", d=_steps(curves[name], across, up), class_=curve_class(name))
        for name in sorted(curves, key=lambda name: (name in ("udp", YARDSTICK), name))
    ]
    words = "; ".join(
        f"{name}: half within {_quantile(points, 0.5):.0f}, 99 % within"
        f" {_quantile(points, 0.99):.0f} \N{MICRO SIGN}s"
        for name, points in curves.items()
    )
    return drawing(ident, WIDTH, height, title=title, description=words + ".", body=body)


def _that_fit(ticks: Sequence[float], across: Scale) -> list[float]:
    """Return the ticks whose labels have room; powers of ten are given theirs first."""
    kept: list[float] = []
    for tick in sorted(
        ticks, key=lambda tick: (short(tick).replace(",", "").strip("0") != "1", tick)
    ):
        x, half = across.at(tick), len(short(tick)) * _LETTER / 2
        if all(
            abs(x - across.at(other)) > half + len(short(other)) * _LETTER / 2 for other in kept
        ):
            kept.append(tick)
    return sorted(kept)


def curve_class(contender: str) -> str:
    """Return the classes of a line: colour, and dashes by family, for eyes that see no colour."""
    family = names.contender(contender).family
    strong = " strong" if contender in ("udp", YARDSTICK) else ""
    return f"curve {css_class(contender)} f-{family}{strong}"


def sample(contender: str) -> str:
    """Return a piece of a contender's line, for the table beside the curves."""
    return element(
        "svg",
        element("path", d="M1 5H27", class_=curve_class(contender)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 28 10",
        class_="sample",
        aria_hidden="true",
    )


def _quantile(points: Cdf, share: float) -> float:
    return next((bound for bound, reached in points if reached >= share), points[-1][0])


def _steps(points: Cdf, across: Scale, up: Scale) -> str:
    """Return the path of a curve; points closer than a third of a unit to the last are left out."""
    path = [f"M{number(across.at(points[0][0]))} {number(up.at(0))}"]
    last_x, last_y = -1.0, -1.0
    for bound, share in points:
        x, y = across.at(bound), up.at(share)
        if abs(x - last_x) + abs(y - last_y) >= 0.34:
            path.append(f"L{number(x)} {number(y)}")
            last_x, last_y = x, y
    path.append(f"L{number(across.end)} {number(up.at(points[-1][1]))}")
    return "".join(path)
