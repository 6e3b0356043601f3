"""The HTTP server of the health port: what it answers, and what hostile clients cannot do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from ipaddress import IPv4Address

import pytest

from tests.netns.waiting import until
from tunneld.errors import StartError
from tunneld.observe.http import MAX_CONNECTIONS, Answer, HttpServer, text

LOOPBACK = IPv4Address("127.0.0.1")
BIG = bytes(32 << 20)  # more than the kernel buffers for one connection

Ask = Callable[[bytes], "asyncio.Future[tuple[str, bytes]]"]


async def hello(client: IPv4Address) -> Answer:
    return text(HTTPStatus.OK, f"hello {client}")


async def big(_client: IPv4Address) -> Answer:
    return Answer(HTTPStatus.OK, BIG)


async def broken(_client: IPv4Address) -> Answer:
    raise RuntimeError("on purpose")


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    handlers = {"/hello": hello, "/big": big, "/broken": broken}
    server = HttpServer(LOOPBACK, 0, handlers, deadline=30)
    await server.start()
    yield server
    await server.close()
    await server.close()


async def ask(server: HttpServer, request: bytes) -> tuple[str, bytes]:
    """Return the head and the body of the answer to raw bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.decode(), body


async def get(server: HttpServer, path: str) -> tuple[str, bytes]:
    return await ask(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has ended the connection, however."""
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        return True
    return True


async def test_an_answer(server: HttpServer) -> None:
    head, body = await get(server, "/hello?x=1")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Content-Length: 16" in head
    assert "Connection: close" in head
    assert body == b"hello 127.0.0.1\n"


async def test_head_has_no_body(server: HttpServer) -> None:
    head, body = await ask(server, b"HEAD /hello HTTP/1.0\r\n\r\n")
    assert "Content-Length: 16" in head
    assert body == b""


async def test_a_large_answer_arrives_whole(server: HttpServer) -> None:
    _, body = await get(server, "/big")
    assert body == BIG


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET //hello HTTP/1.1\r\n\r\n", 404),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 3\r\n\r\n", 405),
        (b"\r\n\r\n", 400),
        (b"GET /hello\r\n\r\n", 400),
        (b"GET /hello SPDY/3\r\n\r\n", 400),
        (b"\x16\x03\x01 \xff\xfe\x00 HTTP/1.1\r\n\r\n", 404),
        (b"GET /hello HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
    ],
)
async def test_bad_requests(server: HttpServer, request_: bytes, status: int) -> None:
    head, _ = await ask(server, request_)
    assert head.startswith(f"HTTP/1.1 {status} ")


async def test_a_failure_is_logged_and_not_shown(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    _, body = await get(server, "/broken")
    assert b"on purpose" not in body
    assert "on purpose" in caplog.text


async def test_a_silent_client_is_cut_off() -> None:
    server = HttpServer(LOOPBACK, 0, {"/hello": hello}, deadline=0.05)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /hello HTTP/1.1\r\n")
    assert await asyncio.wait_for(closed(reader), 30)
    writer.close()
    await server.close()


@pytest.mark.parametrize("size", [40 << 10, len(BIG)])
async def test_a_client_that_does_not_read_is_cut_off(size: int) -> None:
    async def answer(_client: IPv4Address) -> Answer:
        return Answer(HTTPStatus.OK, BIG[:size])

    server = HttpServer(LOOPBACK, 0, {"/": answer}, deadline=0.5)
    await server.start()
    assert server._server is not None
    # Small buffers in the kernel: what it takes is no longer ours to hold.
    server._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(30)
        await asyncio.to_thread(lazy.connect, ("127.0.0.1", server.port))
        lazy.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.to_thread(lazy.recv, 1, socket.MSG_PEEK)
        await asyncio.to_thread(until, lambda: not server.connections, "the end of it")
        # It waited too long: the rest is not kept for it.
        assert await asyncio.to_thread(read_all, lazy) < size
    await server.close()


def read_all(sock: socket.socket) -> int:
    """Return how many bytes come until the end, however it comes."""
    total = 0
    try:
        while chunk := sock.recv(65536):
            total += len(chunk)
    except ConnectionError:
        return total
    return total


async def test_a_flood_of_silent_clients_leaves_room(server: HttpServer) -> None:
    idle = [
        await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2 * MAX_CONNECTIONS)
    ]
    head, _ = await get(server, "/hello")
    assert head.startswith("HTTP/1.1 200")
    assert server.connections <= MAX_CONNECTIONS
    # The oldest are the ones that went.
    await asyncio.wait_for(closed(idle[0][0]), 30)
    assert not idle[-1][0].at_eof()
    for _, writer in idle:
        writer.close()


async def test_a_port_in_use(server: HttpServer) -> None:
    with pytest.raises(StartError, match=f"127.0.0.1:{server.port}.*--healthz-port"):
        await HttpServer(LOOPBACK, server.port, {}).start()


async def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1:8080"):
        await HttpServer(IPv4Address("192.0.2.1"), 8080, {}).start()
