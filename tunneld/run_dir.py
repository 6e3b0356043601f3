"""The run directory: one daemon at a time, told by a lock that dies with its owner."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tunneld.errors import StartError

LOCK_NAME = "lock"


class RunDirLock:
    """Context manager that owns a run directory.

    The lock is flock(2)'s: it goes with the process however that ends, so no stale file ever
    needs removing. The pid inside is for people.

    Args:
        directory: made (0755) when missing.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._fd = -1

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            StartError: another daemon has it (named by pid), or the directory cannot be used.
        """
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartError(
                f"cannot use the run directory {self._path.parent}: {error.strerror}",
                remedy="run as root, or name another one with --run-dir",
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StartError(
                f"tunneld runs already with run directory {self._path.parent}: pid {owner}",
                remedy="stop it first, or give this one its own --run-dir",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back; the file stays, removing it would let two daemons lock two files."""
        os.close(self._fd)
