"""The sections of a report below the headline: the ladder, the settings, the method."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from bench import report_charts as charts
from bench import report_names as names
from bench import stats
from bench.metrics import METRICS
from bench.report_charts import NOISY_MARK, SHAKY_MARK, TIMES
from bench.report_data import Dataset, Figure
from bench.report_markup import DASH, figure_cell, plain, ratio_cell, table, tag

LADDER = (
    (("tcp1",), "gbps", "TCP, one stream: throughput"),
    (("tcp1",), "cpu_s_per_gb", "TCP, one stream: CPU"),
    (("udp64", "rate50k", "tcp1"), "syscalls_per_packet", "System calls per packet"),
)
"""(workloads, metric, title) of the ladder's charts; the first workload that has the metric."""

_PERCENTILES = {"rtt_us_min": "least", "rtt_us_p50": "50 %", "rtt_us_p99": "99 %"}


def has_ladder(data: Dataset) -> bool:
    """Return whether a file has at least two rungs of our own."""
    return len(_rungs(data.ladder("tcp1", "gbps"))) >= 2


def _rungs(figures: Iterable[Figure]) -> list[Figure]:
    """Leave only our own rungs: `udp` is one of them under another name."""
    return [each for each in figures if each.contender.startswith("udp-")]


def ladder(data: Dataset) -> str:
    """Return the section of the ladder, from plain Python to no tunnel at all."""
    pictures, known = [], set()
    for workloads, key, title in LADDER:
        rows = next((found for each in workloads if (found := data.ladder(each, key))), [])
        if rows:
            known |= {each.contender for each in rows}
            pictures.append(_ladder_picture(rows, key, title, data.counted_by(key)))
    rungs = [
        tag(
            "li",
            tag("b", plain(names.contender(name).rung)),
            plain(names.contender(name).idea),
            class_=charts.css_class(name),
        )
        for name in sorted(known, key=names.ladder_order)
    ]
    return tag(
        "section",
        tag("h2", "The ladder"),
        tag("p", "Each rung adds one idea to the rung above it here, and takes a part of the cost "
            f"of crossing between user and kernel away. Setting {plain(data.title)}.",
            class_="meta"),
        tag("div", *pictures, class_="grid"),
        tag("ol", *rungs, class_="rungs"),
        id="ladder",
    )  # fmt: skip


def _ladder_picture(rows: Sequence[Figure], key: str, title: str, counted: Sequence[str]) -> str:
    chart = charts.Bars(
        f"ladder-{key}",
        title,
        f"{TIMES} before",
        _steps(rows),
        {each.contender: names.contender(each.contender).rung for each in rows},
    )
    note = "Right column: divided by the rung before, in the same round."
    if key == "syscalls_per_packet":
        note = (
            f"{names.title(rows[0].workload)}. The kernel's ways have no process: their work is "
            "done inside the system calls of sender and receiver, or in softirqs."
        )
        if counted:
            note += f" Counted by: {', '.join(counted)}."
    return _picture(rows, chart, note)


def _steps(rows: Sequence[Figure]) -> dict[str, str]:
    """Return what each of our rungs does to the one before it."""
    steps = {}
    rungs = _rungs(rows)
    for before, after in itertools.pairwise(rungs):
        both = [
            after.values[number] / before.values[number]
            for number in after.values
            if before.values.get(number)
        ]
        if both:
            steps[after.contender] = f"{stats.Spread.of(both).median:.2f}"
    return steps


def _picture(rows: Sequence[Figure], chart: charts.Bars, note: str) -> str:
    """Return a figure: heading, chart, what the marks mean, what the reader must know."""
    metric = rows[0].metric
    signs = []
    if any(each.shaky for each in rows):
        signs.append(f"{SHAKY_MARK} the rounds deviate by more than {_percent(stats.NOISE)}")
    if any(each.noisy for each in rows):
        signs.append(f"{NOISY_MARK} the machine was not quiet in a round")
    known = METRICS.get(metric.key)
    unit = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
    if known and not known.higher_is_better:
        unit += " \N{MIDDLE DOT} less is better"
    notes = [note] if note else []
    if signs:
        notes.append("; ".join(signs) + ".")
    return tag(
        "figure",
        tag("figcaption", tag("h3", plain(chart.title)), tag("span", plain(unit), class_="unit")),
        charts.bars(rows, chart),
        *(tag("p", plain(words), class_="note") for words in notes),
    )


def setting(data: Dataset) -> str:
    """Return the section of one file: its charts, the latency, and all figures."""
    pictures = []
    for workload in data.workloads:
        key = data.principal(workload)
        if key:
            rows = data.row(workload, key)
            ratios = {each.contender: f"{each.ratio.median:.2f}" for each in rows if each.ratio}
            title = f"{TIMES} VXLAN" if ratios else ""
            chart = charts.Bars(
                f"{data.ident}-{workload}", names.title(workload), title, ratios, {}
            )
            pictures.append(_picture(rows, chart, names.NOTES.get(workload, "")))
    seconds = f" of {data.seconds:g} s" if data.seconds else ""
    return tag(
        "section",
        tag("h2", f"Setting {plain(data.title)}"),
        tag("p", plain(names.SETTINGS.get(data.setting, "")), class_="meta"),
        tag("p", f"{_rounds(data.rounds)}{seconds}, interleaved. A bar is the median, its whisker "
            f"the range; the dashed line is VXLAN. Differences below {_percent(stats.NOISE)} are "
            "ties.", class_="meta"),
        tag("p", data.beware, class_="beware") if data.beware else "",
        tag("div", *pictures, class_="grid"),
        _latency(data),
        tag(
            "details",
            tag("summary", "All figures"),
            tag("div", *(_table(data, each) for each in data.workloads)),
        ),
        id=data.ident,
    )  # fmt: skip


def _latency(data: Dataset) -> str:
    curves = {name: found for name in data.contenders if (found := data.latency(name))}
    if not curves:
        return ""
    by_median = sorted(curves, key=lambda name: (_median(data, name), name))
    title = "How long a round trip takes"
    rows = []
    for name in by_median:
        cells = tag("th", charts.sample(name), plain(name), scope="row")
        for key in _PERCENTILES:
            figure = data.figure(name, "pingpong", key)
            cells += tag("td", figure.metric.text(figure.spread.median) if figure else DASH)
        rows.append(("ours" if name == "udp" else "", cells))
    caption = f"Round trip, {names.MICRO}: median of the rounds"
    beside = tag("div", table(caption, ["", *_PERCENTILES.values()], rows))
    picture = tag(
        "figure",
        tag("figcaption", tag("h3", title),
            tag("span", "64 B there and back, one at a time; all rounds together", class_="unit")),
        charts.latency(f"{data.ident}-latency", curves, title=title),
        tag("p", "Further left is better. A curve that is steep and then flat has a tail: rare, "
            "slow answers.", class_="note"),
    )  # fmt: skip
    return tag("div", picture, beside, class_="beside")


def _median(data: Dataset, contender: str) -> float:
    figure = data.figure(contender, "pingpong", "rtt_us_p50")
    return figure.spread.median if figure else 0.0


def _table(data: Dataset, workload: str) -> str:
    keys = data.metrics(workload)
    if not keys:
        return ""
    principal = data.principal(workload)
    heads = [""]
    for key in keys:
        metric = names.metric(key)
        heads.append(plain(f"{metric.title}, {metric.unit}" if metric.unit else metric.title))
        if key == principal:
            heads.append(f"{TIMES} VXLAN")
    rows = []
    for name in data.contenders:
        cells = tag("th", plain(name), scope="row")
        found = {key: data.figure(name, workload, key) for key in keys}
        if not any(found.values()):
            continue
        for key, figure in found.items():
            cells += figure_cell(figure)
            if key == principal:
                cells += ratio_cell(figure.ratio if figure else None)
        rows.append(("ours" if name == "udp" else "", cells))
    return table(plain(names.title(workload)), heads, rows)


def days(data: Sequence[Dataset], headlines: Sequence[tuple[str, str, str]], ours: str) -> str:
    """Return the section that puts files of one setting side by side; empty without such files."""
    tables = []
    for name in dict.fromkeys(each.setting for each in data):
        same = [each for each in data if each.setting == name]
        if len(same) < 2:
            continue
        rows = []
        for workload, key, title in headlines:
            found = [each.figure(ours, workload, key) for each in same]
            if any(found):
                cells = (ratio_cell(each.ratio if each else None) for each in found)
                rows.append(("", tag("th", plain(title), scope="row") + "".join(cells)))
        heads = ["", *(plain(each.date or each.title) for each in same)]
        tables.append(table(f"{plain(ours)} divided by VXLAN, setting {plain(name)}", heads, rows))
    if not tables:
        return ""
    return tag("section", tag("h2", "Day to day"), *tables, id="days")


def provenance(data: Sequence[Dataset]) -> str:
    """Return when, where and how much was measured, in one line."""
    dates = sorted({each.date for each in data if each.date})
    machines = list(dict.fromkeys(_machine_words(each.machine) for each in data))
    settings = ", ".join(dict.fromkeys(each.setting for each in data))
    rounds = sorted({each.rounds for each in data})
    counted = DASH.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))
    parts = [
        ", ".join(dates),
        *machines,
        f"settings {settings}",
        f"{counted} rounds" if rounds[-1] > 1 else "1 round",
    ]
    return plain(" \N{MIDDLE DOT} ".join(part for part in parts if part))


def _machine_words(machine: Mapping[str, object]) -> str:
    cpu = f"{machine['cpus']} {TIMES} {machine.get('cpu', 'CPU')}" if "cpus" in machine else ""
    kernel = f"Linux {machine['kernel']}" if "kernel" in machine else ""
    return ", ".join(part for part in (cpu, kernel) if part)


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
