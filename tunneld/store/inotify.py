"""inotify on an asyncio loop, as much of it as the file store needs (inotify(7)).

The queue stays in the kernel until `read`: a consumer that is slow costs no memory here, and the
kernel says so (`IN_Q_OVERFLOW`) when it had to drop events.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# <linux/inotify.h>
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x0100_0000

_HEADER = struct.Struct("iIII")  # wd, mask, cookie, length of the name with its padding
_READ_SIZE = 65536
_READS_PER_CALL = 16

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


@dataclass(frozen=True, slots=True)
class InotifyEvent:
    """One event.

    Attributes:
        wd: the watch that saw it; -1 for an overflow.
        mask: what happened, IN_* bits.
        name: the file within a watched directory, empty for the directory itself.
    """

    wd: int
    mask: int
    name: str


def _parse(data: bytes) -> Iterator[InotifyEvent]:
    offset = 0
    while offset < len(data):
        wd, mask, _cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + length].rstrip(b"\0")
        offset += length
        yield InotifyEvent(wd, mask, os.fsdecode(name))


class Inotify:
    """One inotify instance of the running loop.

    Raises:
        OSError: the kernel has none to give (EMFILE: fs.inotify.max_user_instances).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = _checked(_libc.inotify_init1(flags), "inotify_init1")

    def add(self, directory: Path, mask: int) -> int:
        """Watch `directory` and return the watch descriptor.

        Raises:
            OSError: it is not there, not a directory, not readable, or the limit of watches is
                reached (ENOSPC).
        """
        path = os.fsencode(directory)
        found = _libc.inotify_add_watch(self._fd, path, ctypes.c_uint32(mask | IN_ONLYDIR))
        return _checked(found, str(directory))

    def read(self) -> list[InotifyEvent]:
        """Return what has happened since the last call (in a storm: a part), without waiting."""
        events: list[InotifyEvent] = []
        for _ in range(_READS_PER_CALL):
            try:
                events += _parse(os.read(self._fd, _READ_SIZE))
            except BlockingIOError:
                break
        return events

    def call_when_readable(self, wake: asyncio.Event) -> None:
        """Set `wake` once, as soon as there is something to read."""

        def ready() -> None:
            # Level triggered: left in place it would be called again until somebody reads.
            self._loop.remove_reader(self._fd)
            wake.set()

        self._loop.add_reader(self._fd, ready)

    def close(self) -> None:
        """Give the instance back to the kernel; idempotent."""
        if self._fd < 0:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
