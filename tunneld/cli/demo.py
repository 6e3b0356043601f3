"""`tunneld demo`: the lessons; hosts in namespaces, real daemons, real packets."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.demo import LESSONS, LessonModule, Options, load, needs
from tunneld.demo.screen import WIDTH, Screen
from tunneld.demo.telling import Manner, tell
from tunneld.errors import ConfigError, TunneldError
from tunneld.lab import sweep

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

DESCRIPTION = """\
Lessons about container networks. Each one builds hosts out of network namespaces, runs real
commands and daemons in them and shows what happens. Needs root; touches nothing outside the
namespaces it makes, and removes them at the end, also after Ctrl-C. Without a lesson: the list.
"""

EXAMPLE = """\
example:
  sudo tunneld demo                              the list
  sudo tunneld demo one-packet                   one lesson, in the terminal
  sudo tunneld demo vxlan --step --solution      waits for Enter; with the exercise's answer
  sudo tunneld demo ladder --html ladder.html    the same run as a page too
  sudo tunneld demo ladder --throttle 200mbit    see the figures fall
  sudo tunneld demo vxlan --keep                 leaves the hosts up, to try things by hand
  sudo tunneld demo all                          the whole course
"""

ALL = "all"


def add_parser(subparsers: Subparsers) -> None:
    """Add the `demo` command."""
    width = max(map(len, LESSONS))
    parser = subparsers.add_parser(
        "demo",
        help="lessons: hosts in namespaces, real packets",
        description=DESCRIPTION,
        epilog="lessons:\n"
        + "".join(f"  {name:<{width}}  {line}\n" for name, line in LESSONS.items())
        + f"  {ALL:<{width}}  every lesson that can run here, in this order\n\n"
        + EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("lesson", nargs="?", help="its name; without one: the list")
    parser.add_argument("arguments", nargs="*", help="what the lesson takes (cidr: addresses)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the run as a page too")
    parser.add_argument("--step", action="store_true", help="wait for Enter between the steps")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, no story")
    parser.add_argument("--solution", action="store_true", help="show the exercise's answer")
    parser.add_argument("--keep", action="store_true", help="leave the hosts up at the end")
    parser.add_argument(
        "--tear-down", action="store_true", help="remove what --keep has left, and end"
    )
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="of each measured load")
    parser.add_argument(
        "--throttle",
        type=_rate,
        metavar="RATE",
        help="slow the underlay down (tc's tbf), such as 200mbit",
    )


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 60")
    return int(text)


def _rate(text: str) -> str:
    # The units of tc(8), "RATES".
    if not re.fullmatch(r"\d*\.?\d+([kmgt]i?)?(bit|bps)", text, re.ASCII | re.IGNORECASE):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate as tc writes it; try 200mbit or 1gbit"
        )
    return text


def run(args: argparse.Namespace) -> int:
    """Show the list or a lesson.

    Raises:
        ConfigError: no such lesson, or flags that do not go together.
        StartError: something is missing here; with the remedy.
    """
    if args.tear_down:
        return _tear_down()
    if args.lesson is None:
        return _list(as_json=args.json)
    if args.step and args.json:
        raise ConfigError(
            "does not go with --json", source="flag --step", remedy="leave one of them away"
        )
    if args.lesson == ALL:
        return _course(args)
    module = load(args.lesson)
    results = _tell(args.lesson, module, args)
    if args.json:
        print(json.dumps(results, indent=2))
    return 0


def _tell(name: str, module: LessonModule, args: argparse.Namespace) -> object:
    most = module.LESSON.arguments
    if len(args.arguments) > most:
        raise ConfigError(
            f"takes {f'at most {most}' if most else 'no'} arguments,"
            f" got {' '.join(args.arguments)!r}",
            source=f"lesson {name}",
            remedy="see tunneld demo --help",
        )
    options = Options(
        seconds=args.seconds,
        throttle=args.throttle,
        keep=args.keep,
        arguments=tuple(args.arguments),
    )
    manner = Manner(
        solution=args.solution, html=args.html, stepping=sys.stdin if args.step else None
    )
    screen = Screen(io.StringIO() if args.json else sys.stdout)
    return tell(name, module, screen, options, manner)


def _list(*, as_json: bool) -> int:
    wanted = {name: load(name).LESSON.needs for name in LESSONS}
    lacks = needs.lacking(need for each in wanted.values() for need in each)
    missing = {
        name: list(dict.fromkeys(lacks[need] for need in each if need in lacks))
        for name, each in wanted.items()
    }
    if as_json:
        rows = [
            {
                "lesson": name,
                "about": line,
                "missing": [each.what for each in missing[name]],
                "remedies": list(dict.fromkeys(each.remedy for each in missing[name])),
            }
            for name, line in LESSONS.items()
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for name, line in LESSONS.items():
        print(f"  {name:<16} {line}")
        for each in missing[name]:
            _wrapped(f"cannot run here: {each.what}", 19)
    if lacks:
        print("\nWhat to do:")
    for each in dict.fromkeys(lacks.values()):
        _wrapped(f"{each.what}: {each.remedy}", 2)
    print("\nRun one: sudo tunneld demo NAME; all: sudo tunneld demo all; see also --help")
    return 0


def _wrapped(text: str, column: int) -> None:
    start, rest = " " * column, " " * (column + 2)
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    print("\n".join(lines))


def _course(args: argparse.Namespace) -> int:
    """Tell every lesson; one that cannot run here is named, the rest goes on."""
    if args.html is not None:
        raise ConfigError(
            "is for one lesson", source="flag --html", remedy="run the lessons one by one"
        )
    if args.arguments:
        raise ConfigError(
            f"takes no arguments, got {' '.join(args.arguments)!r}",
            source="demo all",
            remedy="leave them away",
        )
    told: dict[str, object] = {}
    failed: dict[str, str] = {}
    for name in LESSONS:
        try:
            told[name] = _tell(name, load(name), args)
        except TunneldError as error:
            failed[name] = str(error)
            print(f"tunneld: {error}", file=sys.stderr)
        if not args.json:
            print()
    if args.json:
        print(json.dumps({"lessons": told, "not_told": failed}, indent=2))
    else:
        print(f"{len(told)} of {len(LESSONS)} lessons told" + "".join(f"; not {n}" for n in failed))
    return 1 if failed else 0


def _tear_down() -> int:
    removed = sweep.tear_down()
    for name in removed:
        print(f"removed {name}")
    print(f"{len(removed)} namespaces removed" if removed else "nothing was kept")
    return 0
