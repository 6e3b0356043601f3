"""`tunneld demo`: two nodes in namespaces, real daemons, real packets."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from typing import TYPE_CHECKING

from tunneld.demo import LESSONS, Options
from tunneld.demo.screen import Screen

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

DESCRIPTION = """\
Build two hosts with a container each out of network namespaces, run a real daemon on both, and
watch packets on their way. Needs root; touches nothing outside the namespaces it makes, and
removes them at the end, also after Ctrl-C.
"""

EXAMPLE = """\
example:
  sudo tunneld demo                     the tour, about 20 seconds
  sudo tunneld demo --json | jq .ways   only its figures
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="two nodes in namespaces: see the tunnel work",
        description=DESCRIPTION,
        epilog="lessons:\n"
        + "".join(f"  {name:6} {line}\n" for name, line in LESSONS.items())
        + "\n"
        + EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = next(iter(LESSONS))
    parser.add_argument("lesson", nargs="?", choices=list(LESSONS), default=default)
    parser.add_argument(
        "--seconds", type=_seconds, default=4, metavar="N", help="of each iperf3 run (default 4)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, no story")


def _seconds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be 1 to 3600")
    return value


def run(args: argparse.Namespace) -> int:
    """Show one lesson.

    Raises:
        StartError: no root, or a tool is missing; with the remedy.
    """
    lesson = importlib.import_module(f"tunneld.demo.{args.lesson}")
    screen = Screen(io.StringIO() if args.json else sys.stdout)
    results = lesson.run(screen, Options(seconds=args.seconds))
    if args.json:
        print(json.dumps(results, indent=2))
    return 0
