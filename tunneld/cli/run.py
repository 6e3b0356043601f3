"""`tunneld run`: the daemon, with flannel's flags and environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunneld import __version__
from tunneld.config import load
from tunneld.options import BY_NAME, OPTIONS

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

_EPILOG = """\
Each flag may be given with one dash or two. Each has an environment variable: FLANNELD_ and its
name in upper case with underscores. A file given with --config holds the same names as TOML.
A flag wins over the environment, the environment over the file.
Exit codes: 0 stopped by a signal, 1 failed, 2 bad usage or configuration, 3 lease lost.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `run` command."""
    parser = subparsers.add_parser(
        "run",
        help="run the daemon in the foreground",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tunneld {__version__}")
    parser.add_argument("--config", action="append", metavar="FILE", help="options as TOML")
    for option in OPTIONS:
        text = f"{option.help} [{option.default}]" if option.default else option.help
        if option.refusal:
            text = f"refused: {option.refusal}"
        if option.switch:
            parser.add_argument(
                f"--{option.name}",
                action="append",
                nargs="?",
                const="true",
                metavar="BOOL",
                help=text.replace("%", "%%"),
            )
        else:
            parser.add_argument(
                f"--{option.name}",
                action="append",
                metavar=option.metavar,
                help=text.replace("%", "%%"),
            )


def normalise(arguments: Sequence[str]) -> list[str]:
    """Turn Go's single-dash long flags into double-dash ones; values stay as they are."""
    return [_double_dash(argument) for argument in arguments]


def _double_dash(argument: str) -> str:
    name = argument.removeprefix("-").partition("=")[0]
    known = name in BY_NAME or name in {"config", "version", "help"}
    return "-" + argument if known and not argument.startswith("--") else argument


def run(args: argparse.Namespace) -> int:
    """Check the options, then run until a signal; returns the exit code."""
    given = {name.replace("_", "-"): value for name, value in vars(args).items()}
    flags = {
        name: given[name] for name in (*BY_NAME, "config") if isinstance(given.get(name), list)
    }
    config = load(flags, os.environ)
    # The daemon needs the event loop and pyroute2; a wrong flag is told without them.
    from tunneld import daemon  # noqa: PLC0415
    from tunneld.loop import run as run_loop  # noqa: PLC0415
    from tunneld.observe import log  # noqa: PLC0415

    log.configure(config.verbosity)
    return run_loop(daemon.main(config))
