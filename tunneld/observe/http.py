"""A very small HTTP/1.1 server for /healthz, /readyz and /metrics.

One request for each connection, GET and HEAD only. Whoever is slow, silent or greedy is cut off:
each connection has one deadline for all of it, a request is small, and when too many are open the
oldest one goes, so a client that speaks up at once gets its answer also during a flood.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address

from tunneld.errors import StartError

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_REQUEST_BYTES = 8192
DEADLINE_S = 5.0
"""From the accept to the last byte of the answer."""

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler returns.

    Attributes:
        status: HTTP status.
        body: sent as it is, none for HEAD.
        content_type: of the body.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


def text(status: HTTPStatus, words: str) -> Answer:
    """Return a one-line answer for people."""
    return Answer(status, words.encode() + b"\n")


Handler = Callable[[IPv4Address], Awaitable[Answer]]
"""Gets the client's address."""


class HttpServer:
    """Serves a few paths; see the module.

    Args:
        address: to listen on.
        port: TCP port; 0: any (for tests).
        handlers: path -> what answers it.
        deadline: seconds for a whole connection.
    """

    def __init__(
        self,
        address: IPv4Address,
        port: int,
        handlers: Mapping[str, Handler],
        *,
        deadline: float = DEADLINE_S,
    ) -> None:
        self._address = address
        self._port = port
        self._handlers = handlers
        self._deadline = deadline
        self._server: asyncio.Server | None = None
        # In the order in which they came.
        self._open: dict[asyncio.StreamWriter, None] = {}

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._open)

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            StartError: the address or the port cannot be had.
        """
        try:
            self._server = await asyncio.start_server(
                self._connected, str(self._address), self._port, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            raise StartError(
                f"cannot serve health on {self._address}:{self._port}: {error.strerror or error}",
                remedy="choose others with --healthz-ip and --healthz-port",
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and cut who is connected; idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        # So that drain() waits for the last byte, and the deadline counts for all of them.
        writer.transport.set_write_buffer_limits(0)
        try:
            async with asyncio.timeout(self._deadline):
                await self._answer(reader, writer)
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("a client of the health port went away: %r", error)
            writer.transport.abort()
        finally:
            self._open.pop(writer, None)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = _parse(head)
        except asyncio.LimitOverrunError:
            answer = text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large")
        except ValueError as error:
            answer = text(HTTPStatus.BAD_REQUEST, str(error))
        else:
            client = IPv4Address(writer.get_extra_info("peername")[0])
            answer = await self._find(method, path, client)
        writer.write(_head(answer) + (b"" if method == "HEAD" else answer.body))
        await writer.drain()

    async def _find(self, method: str, path: str, client: IPv4Address) -> Answer:
        handler = self._handlers.get(path)
        if handler is None:
            paths = ", ".join(sorted(self._handlers))
            return text(HTTPStatus.NOT_FOUND, f"not found; there are {paths}")
        if method not in {"GET", "HEAD"}:
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        try:
            return await handler(client)
        except Exception:
            log.exception("a request for %s failed", path)
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, "failed; the log says why")


def _parse(head: bytes) -> tuple[str, str]:
    """Return method and path of a request (RFC 9112, section 3); headers do not matter to us."""
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        raise ValueError("no HTTP/1 request")
    method, target = (part.decode("ascii", "replace") for part in parts[:2])
    return method, target.partition("?")[0]


def _head(answer: Answer) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if answer.status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
        f"{allow}Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
