"""The command line: `tunneld COMMAND`; `tunneld` followed by a flag means `tunneld run`.

Only the module of the command that was asked for is imported: `tunneld status` is run by scripts
and must answer in well under a tenth of a second.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from tunneld.errors import TunneldError

COMMANDS: dict[str, str] = {
    "run": "run the daemon in the foreground",
    "status": "show what the running daemon does",
    "cleanup": "remove what a daemon left in the kernel",
    "doctor": "tell what this kernel and this user can do",
    "docker-opts": "write dockerd's options from subnet.env",
    "demo": "two nodes in namespaces: see the tunnel work",
    "completion": "print completions for a shell",
}
"""Command -> one line about it; the module is `tunneld.cli.<command>`, with `_` for `-`."""

_HELP = ("-h", "--help", "-help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `tunneld.errors`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0].startswith("-") and arguments[0] not in _HELP:
        arguments.insert(0, "run")
    try:
        return _dispatch(arguments)
    except TunneldError as error:
        print(f"tunneld: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # `tunneld status | head`: the reader has what it wanted.
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def _new_parser() -> tuple[argparse.ArgumentParser, Any]:
    parser = argparse.ArgumentParser(
        prog="tunneld",
        description="A userspace UDP tunnel between container hosts, compatible with flannel.",
        allow_abbrev=False,
    )
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def full_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, for completions and the man page."""
    parser, subparsers = _new_parser()
    for name in COMMANDS:
        importlib.import_module(f"tunneld.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return parser


def _dispatch(arguments: list[str]) -> int:
    parser, subparsers = _new_parser()
    chosen = arguments[0] if arguments else ""
    for name, summary in COMMANDS.items():
        if name != chosen:
            subparsers.add_parser(name, help=summary)
    if chosen not in COMMANDS:
        parser.parse_args(arguments)
        return 2
    module = importlib.import_module(f"tunneld.cli.{chosen.replace('-', '_')}")
    module.add_parser(subparsers)
    if chosen == "run":
        arguments = module.normalise(arguments)
    return int(module.run(parser.parse_args(arguments)))
