"""The control socket: whoever connects gets the status document and the end of the stream."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.errors import StartError
from tunneld.observe.status import SOCKET_NAME

if TYPE_CHECKING:
    from tunneld.observe.document import Draft

log = logging.getLogger(__name__)

_SLOW_READER_S = 5.0


class ControlServer:
    """Serves `document()` on `<run_dir>/tunneld.sock`, mode 0600.

    Args:
        run_dir: an existing directory that we own (its lock is held).
        draft: returns the status as of now; must not block.
    """

    def __init__(self, run_dir: Path, draft: Callable[[], Draft]) -> None:
        self._path = run_dir / SOCKET_NAME
        self._draft = draft
        self._lock = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            StartError: the socket cannot be made there.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # On Linux the mode of the socket itself becomes that of the file: no moment at which
            # others could connect, and no umask that threads would share.
            os.fchmod(sock.fileno(), 0o600)
            self._path.unlink(missing_ok=True)
            sock.bind(str(self._path))
            self._server = await asyncio.start_unix_server(self._answer, sock=sock)
        except OSError as error:
            sock.close()
            raise StartError(
                f"cannot make the control socket {self._path}: {error.strerror or error}",
                remedy="name a shorter or writable directory with --run-dir",
            ) from error

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # One after the other: many threads at once would leave the loop few turns.
            async with self._lock:
                answer = await asyncio.to_thread(self._draft().encode)
            writer.write(answer)
            await asyncio.wait_for(writer.drain(), _SLOW_READER_S)
        except (OSError, TimeoutError) as error:
            log.debug("a reader of the control socket went away: %s", error)
        finally:
            writer.close()

    async def close(self) -> None:
        """Stop listening and remove the socket; idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
