"""`tunneld completion`: completions for bash and zsh."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

SHELLS = ("bash", "zsh")

_EPILOG = """\
example:
  tunneld completion bash > /etc/bash_completion.d/tunneld
  tunneld completion zsh > /usr/local/share/zsh/site-functions/_tunneld
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `completion` command."""
    parser = subparsers.add_parser(
        "completion",
        help="print completions for a shell",
        description="Print a script that completes commands, flags, their words, files and"
        " directories.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """Print the script of the shell."""
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """Return the completions for one of `SHELLS`."""
    import shtab  # noqa: PLC0415 - 30 ms that only this command needs

    from tunneld.cli import full_parser  # noqa: PLC0415 - imports every command

    paths = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
    parser = full_parser()
    for one in (parser, *_commands(parser)):
        for action in one._actions:  # noqa: SLF001 - argparse has no other way to walk them
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            if words := _words(action.dest):
                action.choices = words
            elif metavar in paths:
                action.complete = paths[metavar]  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for command in action.choices.values()
    ]


def _words(dest: str) -> tuple[str, ...]:
    """Return what an argument may be, if it is one of a few words that its parser does not hold."""
    from tunneld.demo import LESSONS  # noqa: PLC0415
    from tunneld.options import BY_NAME, Choice  # noqa: PLC0415

    if dest == "lesson":
        return (*LESSONS, "all")
    option = BY_NAME.get(dest.replace("_", "-"))
    if option is None:
        return ()
    if option.switch:
        return ("true", "false")
    return option.parse.words if isinstance(option.parse, Choice) else ()
