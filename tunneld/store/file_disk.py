"""Files for the file store: careful reading, writing that survives a crash, and the lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# A file name has 255 bytes; ours add a dot before and ".json.new" behind.
_KEY_LIMIT = 240
_RETRY_FIRST = 0.001
_RETRY_MAX = 0.02
_NOT_OURS_TO_LOCK = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}


def is_key(name: str) -> bool:
    """Return whether a file of this name can be an entry."""
    return bool(name) and not name.startswith(".")


def check_key(key: str) -> None:
    """Raise ValueError when `key` cannot be the name of an entry's file."""
    if not is_key(key) or "/" in key or "\0" in key or len(os.fsencode(key)) > _KEY_LIMIT:
        raise ValueError(f"{key!r} cannot be the name of a file in the store")


def printable(name: str) -> str:
    """Return a file name as text that can be printed, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class UnreadableError(Exception):
    """Something lies there that is no file of ours to read; the text says what."""


def file_names(directory: Path) -> list[str]:
    """Return the names in a directory, as bytes that are no UTF-8 come too (`os.fsdecode`)."""
    with os.scandir(directory) as items:
        return [item.name for item in items]


def inode(path: Path) -> tuple[int, int] | None:
    """Return what lies at `path`, comparable; None if nothing does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def read_file(path: Path, limit: int) -> bytes | None:
    """Return the content of a regular file, None if nothing is there.

    Args:
        path: the file; a symbolic link is followed.
        limit: bytes; a longer file is not read.

    Raises:
        UnreadableError: it is a directory, a FIFO, too long, not permitted, a dangling link...
    """
    try:
        # O_NONBLOCK: a FIFO somebody left there must not hang the store.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        if path.is_symlink():
            raise UnreadableError("a symbolic link to nowhere") from None
        return None
    except OSError as error:
        raise UnreadableError(error.strerror) from error
    try:
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnreadableError("not a regular file")
            data = file.read(limit + 1)
    except OSError as error:
        raise UnreadableError(error.strerror) from error
    if len(data) > limit:
        raise UnreadableError(f"longer than {limit} bytes")
    return data


def stage_file(path: Path, data: bytes, *, durable: bool = True) -> Path:
    """Write `data` beside `path` under a temporary name and return that name.

    Nothing has happened to `path` yet, so a full disk is noticed before anything is changed.
    The name begins with a dot and is always the same: call it under the lock.

    Raises:
        OSError: it cannot be written; the temporary file is gone again.
    """
    staged = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(staged, flags, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    return staged


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory survive a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _try_lock(path: Path, *, exclusive: bool) -> int | None:
    """Return a descriptor that holds the lock, None if another holder is in the way."""
    flags = os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY)
    # 0600: flock needs only an open file, and no other user shall stop the daemons with one.
    fd = os.open(path, flags, 0o600)
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        # Somebody may have replaced the directory since: then this lock guards nothing.
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


@contextlib.contextmanager
def locked(
    path: Path, *, exclusive: bool, patience: float, stopped: Callable[[], bool]
) -> Iterator[None]:
    """Hold the lock file `path`.

    A shared lock is for reading: where it cannot be had for want of the file or of permission, it
    is done without, because a store on a read-only file system (static peers) has no writers.

    Args:
        path: the lock file; created when `exclusive`.
        exclusive: for writing.
        patience: seconds to wait for other holders.
        stopped: ends the waiting early when it returns true.

    Raises:
        TimeoutError: somebody else holds it for longer than `patience`.
        OSError: `exclusive` and the file cannot be opened.
    """
    deadline = time.monotonic() + patience
    pause = _RETRY_FIRST
    fd: int | None = None
    while fd is None:
        try:
            fd = _try_lock(path, exclusive=exclusive)
        except OSError as error:
            if exclusive or error.errno not in _NOT_OURS_TO_LOCK:
                raise
            break
        if fd is not None:
            break
        if time.monotonic() >= deadline or stopped():
            raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
        # Not a blocking flock: a holder that was stopped (SIGSTOP) would hang us with it.
        time.sleep(pause)
        pause = min(2 * pause, _RETRY_MAX)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)
