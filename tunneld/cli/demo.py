"""`tunneld demo`: the lessons; hosts in namespaces, real daemons, real packets."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.demo import LESSONS, LessonModule, Options, load, needs
from tunneld.demo.screen import Screen
from tunneld.demo.telling import Manner, tell
from tunneld.errors import StartError, TunneldError
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
        "--throttle", metavar="RATE", help="slow the underlay down (tc's tbf), such as 200mbit"
    )


def _seconds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 60:
        raise argparse.ArgumentTypeError("must be 1 to 60")
    return value


def run(args: argparse.Namespace) -> int:
    """Show the list or a lesson.

    Raises:
        StartError: no such lesson, or something is missing here; with the remedy.
    """
    if args.tear_down:
        return _tear_down()
    if args.lesson is None:
        return _list(as_json=args.json)
    if args.step and args.json:
        raise StartError("--step and --json do not go together", remedy="leave one of them away")
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
        raise StartError(
            f"lesson {name} takes {most or 'no'} arguments, got {' '.join(args.arguments)!r}",
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
    rows = []
    for name, line in LESSONS.items():
        lacks = needs.missing(load(name).LESSON.needs)
        rows.append({"lesson": name, "about": line, "missing": [each.what for each in lacks]})
        if not as_json:
            print(f"  {name:<16} {line}")
            for each in lacks:
                print(f"  {'':<16} cannot run here: {each.what} ({each.remedy})")
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print("\nRun one: sudo tunneld demo NAME; all: sudo tunneld demo all; see also --help")
    return 0


def _course(args: argparse.Namespace) -> int:
    """Tell every lesson; one that cannot run here is named, the rest goes on."""
    if args.html is not None:
        raise StartError("--html is for one lesson", remedy="run the lessons one by one")
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
