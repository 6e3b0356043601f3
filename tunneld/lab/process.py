"""Run commands and background processes; the only place of the lab that starts a process."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from typing import IO, TYPE_CHECKING

from tunneld.errors import TunneldError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class CommandError(TunneldError):
    """A command of the lab failed; the text holds the command and what it said."""


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and capture what it prints.

    Args:
        argv: the command; never a shell line.
        stdin: text for its standard input.
        check: whether a non-zero exit status is an error.
        timeout: seconds until it is killed.
        env: the whole environment; None: ours.

    Raises:
        CommandError: it is missing, took too long, or (with `check`) failed.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env,
            check=False,
        )
    except FileNotFoundError:
        raise CommandError(
            f"{argv[0]} is not installed", remedy=f"apt-get install the package of {argv[0]}"
        ) from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"took longer than {timeout:g} s: {shlex.join(argv)}") from None
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).replace("\n", "; ")
        raise CommandError(f"status {done.returncode}: {shlex.join(argv)}: {said}")
    return done


def start(
    argv: Sequence[str],
    *,
    stdout: int | IO[str] = subprocess.PIPE,
    stderr: int | IO[str] = subprocess.STDOUT,
    env: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
) -> subprocess.Popen[str]:
    """Start a background process in its own session: Ctrl-C reaches the lab, which ends it."""
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        env=env,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


def stop(processes: Iterable[subprocess.Popen[str]], *, grace: float = 3.0) -> None:
    """End processes: SIGTERM to all, SIGKILL to those that live on after `grace` seconds."""
    processes = list(processes)
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def kill_pid(pid: int) -> None:
    """Send SIGKILL; a process that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
