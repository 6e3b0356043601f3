"""Write README's tables from result files, so that no figure in it was typed by hand.

A table stands between two comments, and so does the sentence that says where it comes from:

    <!-- bench:ladder -->
    ...
    <!-- /bench -->

Each takes the newest result files (their day, then their name) that hold what it shows; a file's
name in the first comment, `<!-- bench:ladder 2026-11-21-sgro.json -->`, pins it.

    python -m bench.readme_tables            writes README.md
    python -m bench.readme_tables --check    exit code 1 when README.md is out of date
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bench import bars, results
from bench import report_names as names
from bench.contenders import YARDSTICK
from bench.machine import machine_line
from bench.report_data import Dataset, datasets
from bench.results import Document
from bench.stats import NOISE, Spread
from tunneld.errors import ConfigError, TunneldError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
WIDTH = 100

_MARKED = re.compile(
    r"(?P<head><!-- bench:(?P<name>[\w-]+)(?P<files>(?: [\w.-]+)*) -->\n)"
    r"(?P<body>.*?)"
    r"(?P<tail><!-- /bench -->)",
    re.DOTALL,
)

Column = tuple[str, str, str, str]
"""Heading, workload, metric, and how it is shown: "value", "ratio" or "median"."""

_LADDER: tuple[Column, ...] = (
    ("TCP, 1 stream, Gb/s", "tcp1", "gbps", "value"),
    (f"/ {YARDSTICK}", "tcp1", "gbps", "ratio"),
    ("CPU s/GB", "tcp1", "cpu_s_per_gb", "value"),
    ("UDP 64 B, kpps arrived", "udp64", "kpps", "value"),
    (f"/ {YARDSTICK}", "udp64", "kpps", "ratio"),
    ("lost", "udp64", "loss", "median"),
    ("system calls per packet", "udp64", "syscalls_per_packet", "median"),
)
_FIELD: tuple[Column, ...] = (
    ("TCP, 1 stream, Gb/s", "tcp1", "gbps", "value"),
    (f"/ {YARDSTICK}", "tcp1", "gbps", "ratio"),
    ("CPU s/GB", "tcp1", "cpu_s_per_gb", "median"),
    ("TCP, 4 streams, Gb/s", "tcp4", "gbps", "median"),
    ("UDP 64 B, kpps arrived", "udp64", "kpps", "median"),
    ("ping-pong least, us", "pingpong", "rtt_us_min", "median"),
    ("median, us", "pingpong", "rtt_us_p50", "median"),
)
_HEADLINE = (
    ("TCP, 1 stream", "tcp1", "gbps"),
    ("TCP, 4 streams", "tcp4", "gbps"),
    ("TCP, 1 stream: CPU per GB", "tcp1", "cpu_s_per_gb"),
    ("UDP 64 B, packets that arrived", "udp64", "kpps"),
    ("UDP 64-127 B, packets that arrived", "udp-mixed", "kpps"),
    ("ping-pong, median", "pingpong", "rtt_us_p50"),
    ("50,000 packets/s: CPU per packet", "rate50k", "cpu_us_per_packet"),
)


def ladder(data: Sequence[Dataset]) -> str:
    """Return the rungs, the yardstick and the direct path in the headline setting."""
    one = _first(
        data, lambda each: YARDSTICK in each.contenders and len(each.ladder("tcp1", "gbps")) > 3
    )
    known = {name for name in one.contenders if names.contender(name).rung}
    return _table(one, sorted(known, key=names.ladder_order), _LADDER)


def field(data: Sequence[Dataset]) -> str:
    """Return every contender of the file that has most of those that are not ours."""
    foreign = {"peer", "flannel"}
    one = _first(
        data, lambda each: any(names.contender(n).family in foreign for n in each.contenders)
    )
    rows = [(one.figure(name, "tcp1", "gbps"), name) for name in one.contenders]
    order = sorted(rows, key=lambda row: (-row[0].spread.median if row[0] else 0.0, row[1]))
    return _table(one, [name for _, name in order], _FIELD)


def headline(data: Sequence[Dataset]) -> str:
    """Return the daemon as it comes against the yardstick, one column for each setting."""
    found = [each for each in data if {"udp", YARDSTICK} <= set(each.contenders)]
    newest = {each.setting: each for each in reversed(found)}
    chosen = [newest[setting] for setting in names.SETTINGS if setting in newest]
    if not chosen:
        raise ConfigError("no result file has udp and vxlan")
    lines = [_line(["", *(each.setting for each in chosen)]), "|" + "---|" * (len(chosen) + 1)]
    for title, workload, key in _HEADLINE:
        ratios = [
            figure.ratio if (figure := each.figure("udp", workload, key)) else None
            for each in chosen
        ]
        if any(ratios):
            lines.append(_line([title, *(ratio.text() if ratio else "-" for ratio in ratios)]))
    return _with("\n".join(lines), "udp divided by vxlan.", chosen)


def all_bars(data: Sequence[Dataset]) -> str:
    """Return what was to be reached, and what was, one pair of columns for each setting."""
    wanted = {bars.FLANNEL_CLASS, "udp", YARDSTICK}
    found = [each for each in data if wanted <= set(each.contenders)]
    newest = {each.setting: each for each in reversed(found)}
    if not newest:
        raise ConfigError(f"no result file has {', '.join(sorted(wanted))}")
    documents = [each.document for each in newest.values()]
    return f"{bars.table(documents)}\n\n{_wrapped(bars.footer(documents))}"


TABLES: Mapping[str, Callable[[Sequence[Dataset]], str]] = {
    "ladder": ladder,
    "field": field,
    "headline": headline,
    "bars": all_bars,
}
"""Name in a comment -> what makes the table; each raises ConfigError where no file has it."""


def _first(data: Iterable[Dataset], fits: Callable[[Dataset], bool]) -> Dataset:
    found = next((each for each in data if fits(each)), None)
    if found is None:
        raise ConfigError("no result file has the contenders of this table")
    return found


def _table(data: Dataset, contenders: Sequence[str], columns: Sequence[Column]) -> str:
    kept = [
        column
        for column in columns
        if any(data.figure(name, column[1], column[2]) for name in contenders)
    ]
    lines = [_line(["", *(column[0] for column in kept)]), "|" + "---|" * (len(kept) + 1)]
    lines += [_line([name, *(_cell(data, name, column) for column in kept)]) for name in contenders]
    return _with("\n".join(lines), f"Setting {data.setting}.", [data])


def _cell(data: Dataset, name: str, column: Column) -> str:
    _, workload, key, how = column
    figure = data.figure(name, workload, key)
    if figure is None:
        return "-"
    if how == "ratio":
        if name == YARDSTICK:
            return "1"
        return figure.ratio.text() if figure.ratio else "-"
    spread, metric = figure.spread, figure.metric
    unit = " %" if key == "loss" else ""
    if how == "median":
        return metric.text(spread.median) + unit
    return f"{metric.text(spread.median)} ({_range(spread, metric)})"


def _range(spread: Spread, metric: names.Metric) -> str:
    return f"{metric.text(spread.low)}-{metric.text(spread.high)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _source(data: Dataset) -> str:
    seconds = f" of {data.seconds:g} s" if data.seconds else ""
    noisy = sum(not run["quiet"] for run in data.runs)
    disturbed = f", {noisy} of {len(data.runs)} runs disturbed" if noisy else ""
    return f"`bench/results/{data.source}`: {data.rounds} rounds{seconds}{disturbed}"


def _with(table: str, what: str, used: Sequence[Dataset]) -> str:
    sources = "; ".join(map(_source, used))
    machines = "; ".join(dict.fromkeys(machine_line(each.machine) for each in used))
    note = (
        f"{what} Median (lowest-highest) of interleaved rounds; / {YARDSTICK}: ratio to kernel "
        f"VXLAN in the same round; differences below {NOISE * 100:.0f} % are noise; CPU of the "
        f"whole machine; part of a userspace tunnel's UDP rate comes from a second CPU. {sources}. "
        f"{machines}."
    )
    return f"{table}\n\n{_wrapped(note)}"


def _wrapped(note: str) -> str:
    return textwrap.fill(note, WIDTH, break_long_words=False, break_on_hyphens=False)


def render(text: str, documents: Sequence[tuple[str, Document]], source: str) -> str:
    """Return a text with every marked table made anew; pure.

    Args:
        text: of the README.
        documents: name of each result file and what it holds.
        source: the README, for messages.

    Raises:
        ConfigError: an unknown table, a missing end, or no file that holds it.
    """
    opened, closed = text.count("<!-- bench:"), text.count("<!-- /bench -->")
    if opened != closed or opened != len(_MARKED.findall(text)):
        raise ConfigError(
            "needs one `<!-- /bench -->` for each `<!-- bench:NAME -->`",
            source=source,
            field="markers",
        )

    def made(match: re.Match[str]) -> str:
        name, pinned = match["name"], match["files"].split()
        where = f"bench:{name}"
        if name not in TABLES:
            known = ", ".join(TABLES)
            raise ConfigError("is no table", source=source, field=where, remedy=f"one of {known}")
        chosen = [each for each in documents if not pinned or each[0] in pinned]
        try:
            table = TABLES[name](datasets(chosen))
        except ConfigError as error:
            raise ConfigError(str(error), source=source, field=where) from error
        return f"{match['head']}{table}\n{match['tail']}"

    return _MARKED.sub(made, text)


def load_all(directory: Path) -> list[tuple[str, Document]]:
    """Return the result files of a directory; what is none of this schema is left out."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            document = results.load(path)
        except TunneldError as error:
            print(f"readme_tables: left out: {error}", file=sys.stderr)
            continue
        if document["runs"]:
            found.append((path.name, document))
    return found


def main(arguments: Sequence[str]) -> int:
    """Write or check the tables; returns the exit code.

    Raises:
        ConfigError: see `render`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.readme_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, show what differs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    args = parser.parse_args(arguments)
    old = args.readme.read_text()
    new = render(old, load_all(args.results), args.readme.name)
    if new == old:
        return 0
    if not args.check:
        args.readme.write_text(new)
        return 0
    names_of = (f"{args.readme.name} now", f"{args.readme.name} as the results say")
    sys.stdout.writelines(
        difflib.unified_diff(old.splitlines(True), new.splitlines(True), *names_of, n=1)
    )
    print("run: python -m bench.readme_tables", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TunneldError as error:
        print(f"readme_tables: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
