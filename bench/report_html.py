"""The page of a report: one file, no script, nothing loaded from anywhere.

This module holds the frame and the headline; `report_sections` has what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import report_charts as charts
from bench import report_sections as sections
from bench.contenders import YARDSTICK
from bench.report_charts import TIMES
from bench.report_data import Dataset, Figure
from bench.report_markup import plain, spread_text, tag
from bench.report_method import method
from bench.stats import NOISE, verdict

HEADLINES = (
    ("tcp1", "gbps", "TCP, 1 stream: throughput"),
    ("tcp4", "gbps", "TCP, 4 streams: throughput"),
    ("tcp1", "cpu_s_per_gb", "TCP, 1 stream: CPU per GB"),
    ("udp64", "kpps", "UDP, 64 B: packets per second"),
    ("pingpong", "rtt_us_p50", "Ping-pong: median round trip"),
    ("rate50k", "cpu_us_per_packet", "50,000 packets/s: CPU per packet"),
)
"""(workload, metric, title) of the tiles on top; what a file lacks is left out."""

OURS = "udp"

_VERDICTS = {
    "better": "better than VXLAN",
    "worse": "worse than VXLAN",
    "tie": f"a tie: within {NOISE:.0%}".replace("%", " %"),
}
# Nothing may be loaded, not even by mistake: the browser enforces it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(data: Sequence[Dataset]) -> str:
    """Return the whole report of at least one data set; the same input gives the same bytes."""
    css = Path(__file__).with_name("report.css").read_text()
    top = data[0]
    title = "A userspace UDP tunnel, measured against kernel VXLAN"
    ladder = next((each for each in data if sections.has_ladder(each)), None)
    body = [
        tag("h2", "Headline ratios"),
        tag("p", *_how_to_read(data), class_="meta"),
        tag("div", *_tiles(data), class_="tiles"),
    ]
    parts = [tag("section", *body, id="headline")] if _figures(top) else []
    links = [("headline", "Headline")] if parts else []
    if ladder:
        parts.append(sections.ladder(ladder))
        links.append(("ladder", "Ladder"))
    for each in data:
        parts.append(sections.setting(each))
        links.append((each.ident, f"Setting {each.title}"))
    days = sections.days(data, HEADLINES, OURS)
    if days:
        parts.append(days)
        links.append(("days", "Day to day"))
    parts.append(method(data))
    links.append(("method", "Method, machine, noise"))
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>'
        f"{head}<title>{title}</title>\n<style>\n{css}</style></head>\n<body>\n"
        + tag(
            "header",
            tag("p", "tunneld benchmark", class_="eyebrow"),
            tag("h1", title),
            tag("p", _lead(top), class_="lead"),
            tag("p", sections.provenance(data), class_="meta"),
            tag("p", top.beware, class_="beware") if top.beware else "",
            tag("nav", *(tag("a", plain(words), href=f"#{ident}") for ident, words in links)),
            class_="top",
        )
        + "\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n<footer>"
        + tag("p", "Written by <code>python -m bench report</code>.", class_="small")
        + "</footer>\n</body>\n</html>\n"
    )


def _figures(data: Dataset) -> dict[tuple[str, str], Figure]:
    """Return the headline figures of ours that have a ratio to the yardstick."""
    found = {}
    for workload, key, _ in HEADLINES:
        figure = data.figure(OURS, workload, key)
        if figure and figure.ratio:
            found[workload, key] = figure
    return found


def _lead(data: Dataset) -> str:
    """Return the result in a sentence."""
    figures = _figures(data)
    templates = (
        ("tcp1", "gbps", "one TCP stream at {} of kernel VXLAN's rate"),
        ("udp64", "kpps", "{} times as many small UDP packets per second"),
        ("tcp1", "cpu_s_per_gb", "{} times the CPU per gigabyte"),
        ("pingpong", "rtt_us_p50", "{} times the median round trip"),
    )
    said = []
    for workload, key, words in templates:
        ratio = figures[workload, key].ratio if (workload, key) in figures else None
        if ratio:
            said.append(words.format(tag("b", spread_text(ratio))))
    if not said:
        return "Figures without a ratio: no file here has both tunneld and VXLAN in one round."
    listed = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    setting = tag("b", plain(data.setting))
    return f"On this machine, in setting {setting}, tunneld as it comes: {listed}."


def _how_to_read(data: Sequence[Dataset]) -> list[str]:
    return [
        f"tunneld as it comes ({tag('code', OURS)}) divided by kernel VXLAN in the same round, "
        "median with range; the large figure is of setting "
        f"{tag('b', plain(data[0].title))}. The shaded band is noise: within {NOISE:.0%}".replace(
            "%", " %"
        )
        + " of 1 it is a tie.",
    ]


def _tiles(data: Sequence[Dataset]) -> list[str]:
    all_figures = [_figures(each) for each in data]
    limit = charts.ratio_limit(
        [figure.ratio for found in all_figures for figure in found.values() if figure.ratio]
    )
    return [
        _tile(data, all_figures, (workload, key), title, limit)
        for workload, key, title in HEADLINES
        if (workload, key) in all_figures[0]
    ]


def _tile(
    data: Sequence[Dataset],
    figures: Sequence[dict[tuple[str, str], Figure]],
    which: tuple[str, str],
    title: str,
    limit: float,
) -> str:
    figure = figures[0][which]
    under = data[0].figure(YARDSTICK, *which)
    rows = [
        charts.Strip(each.title, ratio)
        for each, found in zip(data, figures, strict=True)
        if which in found and (ratio := found[which].ratio)
    ]
    found = verdict(rows[0].ratio, which[1])
    metric = figure.metric
    absolute = metric.text(figure.spread.median, unit=True)
    if under:
        absolute += f" against {metric.text(under.spread.median, unit=True)}"
    return tag(
        "div",
        tag("h3", title),
        tag("div", f"{TIMES}{rows[0].ratio.median:.2f}", class_="big"),
        tag("p", tag("span", _VERDICTS[found], class_=f"verdict {found}"), "<br>", absolute),
        charts.ratio_strips(
            f"tile-{which[0]}-{which[1]}", rows, title=f"{title}, ratio to VXLAN", limit=limit
        ),
        class_="tile",
    )
