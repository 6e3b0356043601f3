"""`tunneld status`: what the running daemon does, as text or as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.observe import status

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001


def add_parser(subparsers: Subparsers) -> None:
    """Add the `status` command."""
    parser = subparsers.add_parser("status", help="show what the running daemon does")
    parser.add_argument("--run-dir", default="/run/tunneld", metavar="DIR", help="as `run` had it")
    parser.add_argument("--json", action="store_true", help="the whole document as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the state of the daemon.

    Raises:
        StartError: no daemon answers there.
    """
    document = status.fetch(Path(args.run_dir))
    print(json.dumps(document, indent=2) if args.json else status.render(document))
    return 0
