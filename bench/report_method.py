"""The last section of a report: how it was measured, on what, how quiet it was, what was run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bench import stats
from bench.report_data import Dataset
from bench.report_markup import plain, tag
from bench.workloads import HEADLINES

_PRINCIPLES = """\
Rounds are interleaved: every contender once per round, in an order that rotates. A ratio compares \
only runs of one round, because the machine's mood changes by 10-15 % from round to round, for all \
contenders alike.
Two hosts and their containers are network namespaces of one machine, joined by a veth pair: one \
topology for all contenders, and the same CPUs for senders, tunnels and receivers.
CPU is that of the whole machine while the load runs: kernel threads, interrupts, sender and \
receiver included.
What follows names the runs during which something else used the machine, and the figures that \
deviate by more than 15 % over the rounds. They are shown all the same."""


def method(data: Sequence[Dataset]) -> str:
    """Return the section of all data sets."""
    return tag(
        "section",
        tag("h2", "Method, machine, noise"),
        tag("ul", *(tag("li", words) for words in _PRINCIPLES.splitlines())),
        *(_of_one(each, data[:place]) for place, each in enumerate(data)),
        id="method",
    )


def _of_one(data: Dataset, before: Sequence[Dataset]) -> str:
    same = next((each for each in before if each.machine == data.machine), None)
    doubts = stats.doubts(data.document["runs"], HEADLINES)
    parts = [
        tag("h3", f"Setting {plain(data.title)}"),
        tag("p", f"From {tag('code', plain(data.source))}.", class_="small"),
        _list(
            "Noise",
            doubts or ["Every run was quiet, and no figure deviates by more than 15 %."],
        ),
        _list("Disturbed runs", data.noise()),
        _list("Left out", [f"{who}: {why}" for who, why in _skipped(data)]),
        _list("Failed", list(_failures(data))),
        tag("h4", "Machine"),
        tag("p", f"As for setting {plain(same.title)}.", class_="small")
        if same
        else tag("dl", *_described(data.machine)),
        _commands(data),
    ]
    return tag("div", *(part for part in parts if part), class_="of-one")


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return tag("h4", title) + tag("ul", *(tag("li", plain(line)) for line in lines))


def _skipped(data: Dataset) -> list[tuple[str, object]]:
    skipped = data.document.get("skipped", {})
    return sorted(skipped.items()) if isinstance(skipped, dict) else []


def _failures(data: Dataset) -> Iterator[str]:
    for each in data.document.get("failures", []):
        where = [f"round {each['round']}"] if "round" in each else []
        where += [str(each[key]) for key in ("contender", "workload") if key in each]
        yield f"{', '.join(where)}: {each.get('error', 'no reason given')}"


def _described(what: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Return a description as terms and their values; nested ones with their path as the term."""
    for key, value in what.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict) and value and all(isinstance(v, bool) for v in value.values()):
            on = ", ".join(feature for feature, state in value.items() if state)
            off = ", ".join(feature for feature, state in value.items() if not state)
            yield _term(name, f"on: {on or 'nothing'}; off: {off or 'nothing'}")
        elif isinstance(value, dict) and len(value) > 1 and _all_equal(value.values()):
            same = {", ".join(value): next(iter(value.values()))}
            yield from _described(same, f"{name}: ")
        elif isinstance(value, dict):
            yield from _described(value, f"{name}: ")
        elif isinstance(value, list):
            yield _term(name, ", ".join(map(str, value)))
        elif isinstance(value, bool):
            yield _term(name, "yes" if value else "no")
        elif value not in ("", None):
            yield _term(name, str(value))


def _all_equal(values: Iterable[object]) -> bool:
    found = list(values)
    return isinstance(found[0], dict) and all(each == found[0] for each in found)


def _term(name: str, value: str) -> str:
    return tag("dt", plain(name)) + tag("dd", plain(value))


def _commands(data: Dataset) -> str:
    shown = []
    contenders = data.document.get("contenders", {})
    for name in data.contenders:
        known = contenders.get(name, {}) if isinstance(contenders, dict) else {}
        lines = known.get("command_lines", [])
        if lines:
            mtu = f", MTU {known['mtu']}" if "mtu" in known else ""
            shown.append(tag("p", tag("b", plain(name)), plain(mtu), class_="small"))
            shown.append(tag("pre", plain("\n".join(map(str, lines)))))
    if not shown:
        return ""
    summary = tag("summary", "The exact command lines")
    return tag("details", summary, *shown)
