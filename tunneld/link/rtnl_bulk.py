"""Many requests to the kernel at once, over a netlink socket of its own.

`rtnl_socket` asks one question after the other, which for three tables of 500 peers takes a second.
Here requests are sent in one message, and the kernel, which works through a message before `send`
returns, has answered each by then: nothing is waited for (netlink(7), rtnetlink(7)). Requests are
independent: one that is refused costs no other.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tunneld.errors import StartError

# linux/netlink.h
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_CREATE = 0x400
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_EXT_ACK_TEXT = 1
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # the two upper bits of an attribute's type are flags

_AT_ONCE = 128
"""Requests in one message: few milliseconds of the kernel's time, then others have their turn."""

_BUFFER_BYTES = 4 << 20
_ANSWER_S = 10
_DUMP_TRIES = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        kind: RTM_...
        body: everything behind the netlink header.
        flags: beside REQUEST and ACK.
    """

    kind: int
    body: bytes
    flags: int = 0


@dataclass(slots=True)
class Answer:
    """What the kernel said to one request.

    Attributes:
        errno: 0 when it was done.
        text: the kernel's own words about a refusal, where it has some.
        replies: bodies of the messages that it sent before the acknowledgement.
    """

    errno: int = 0
    text: str = ""
    replies: list[bytes] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """The refusal in words."""
        return self.text or os.strerror(self.errno)


def attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute with its padding."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(body: bytes, offset: int) -> Mapping[int, bytes]:
    """Return the attributes behind a fixed header of `offset` bytes; of several the last."""
    found = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class BulkSocket:
    """Sends requests by the hundred; use it in one event loop.

    Every method raises StartError when the kernel's answers are lost.

    Args:
        protocol: netlink family; another one than rtnetlink for what has its own (`fou`).
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """Send all requests, in order, and return an answer for each."""
        answers: list[Answer] = []
        for first in range(0, len(requests), _AT_ONCE):
            if first:
                await asyncio.sleep(0)
            answers += self.exchange_now(requests[first : first + _AT_ONCE])
        return answers

    def exchange_now(self, requests: Sequence[Request]) -> list[Answer]:
        """Send a few requests and return their answers, without a turn of the event loop."""
        answers = {self._next(): Answer() for _ in requests}
        parts = [
            _message(request.kind, request.flags | NLM_F_ACK, sequence, request.body)
            for sequence, request in zip(answers, requests, strict=True)
        ]
        missing = len(requests)
        for kind, flags, sequence, body in self._ask(b"".join(parts)) if requests else ():
            answer = answers.get(sequence)
            if answer is None:
                continue  # late, to a question that was given up
            if kind != _NLMSG_ERROR:
                answer.replies.append(body)
                continue
            answer.errno, answer.text = _read_error(flags, body)
            missing -= 1
            if not missing:
                break
        return list(answers.values())

    async def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return the bodies of all entries that the request describes."""
        for _ in range(_DUMP_TRIES):
            whole, found = self._dump_once(kind, body)
            if whole:
                return found
            await asyncio.sleep(0)
        raise StartError("a table of the kernel changes faster than it can be read")

    def _dump_once(self, kind: int, body: bytes) -> tuple[bool, list[bytes]]:
        wanted = self._next()
        found, whole = [], True
        for answer, flags, sequence, payload in self._ask(_message(kind, NLM_F_DUMP, wanted, body)):
            if sequence != wanted:
                continue
            whole &= not flags & _NLM_F_DUMP_INTR
            if answer in {_NLMSG_DONE, _NLMSG_ERROR}:
                _check_end(answer, flags, payload)
                break
            found.append(payload)
        return whole, found

    def _next(self) -> int:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def _ask(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Send, then yield what comes back until the caller has enough."""
        try:
            if self._socket is None:
                self._socket = _open(self._protocol)
            self._socket.send(data)
            while True:
                yield from _messages(self._socket.recv(1 << 17))
        except OSError as error:
            self.close()
            raise StartError(f"the kernel's answer over netlink was lost: {error}") from error


def _open(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    # The kernel itself picks the entries of one interface or of one owner (Linux 4.20).
    sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    # Never waited for in practice; a kernel that says nothing must not stop the daemon for ever.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _ANSWER_S, 0))
    sock.bind((0, 0))
    return sock


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    header = _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0)
    return header + body + bytes(-len(body) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _check_end(kind: int, flags: int, body: bytes) -> None:
    """Raise what the last message of a dump says: both kinds begin with the negative errno."""
    if kind == _NLMSG_ERROR:
        number, text = _read_error(flags, body)
    else:
        number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
        text = _words(body, 4) if flags & _NLM_F_ACK_TLVS else ""
    if number > 0:
        raise StartError(f"the kernel refuses to list a table: {text or os.strerror(number)}")


def _read_error(flags: int, body: bytes) -> tuple[int, str]:
    """Return errno and words of an acknowledgement (struct nlmsgerr and its attributes)."""
    (negative,) = struct.unpack_from("=i", body)
    if not flags & _NLM_F_ACK_TLVS:
        return -negative, ""
    quoted = _HEADER.size
    if not flags & _NLM_F_CAPPED:
        (quoted,) = struct.unpack_from("=I", body, 4)
    return -negative, _words(body, 4 + ((quoted + 3) & ~3))


def _words(body: bytes, offset: int) -> str:
    text = attributes(body, offset).get(_EXT_ACK_TEXT, b"")
    return text.rstrip(b"\0").decode("utf-8", "replace")
