"""`tunneld doctor`: what this kernel and this user can do, each line with its remedy."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.observe.checks import ALL_CHECKS, FAIL, Finding, check_daemon

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001


def add_parser(subparsers: Subparsers) -> None:
    """Add the `doctor` command."""
    parser = subparsers.add_parser(
        "doctor",
        help="tell what this kernel and this user can do",
        description="Exit code 1 when something fails without which the tunnel cannot run.",
    )
    parser.add_argument(
        "--run-dir",
        default="/run/tunneld",
        metavar="DIR",
        help="of a daemon to look at, if one runs",
    )
    parser.add_argument("--json", action="store_true", help="a list of findings")


def run(args: argparse.Namespace) -> int:
    """Run every check; returns 1 when one failed."""
    findings = [finding for check in ALL_CHECKS for finding in check()]
    findings += check_daemon(Path(args.run_dir))
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(_line(finding))
    return int(any(finding.level == FAIL for finding in findings))


def _line(finding: Finding) -> str:
    text = f"{finding.level:<5} {finding.name:<20} {finding.detail}"
    return f"{text}\n      {'':<20} -> {finding.remedy}" if finding.remedy else text
