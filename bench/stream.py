"""A stream of numbered datagrams that goes on while something else happens."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from bench.common import GRACE_S, UDP_PORT, UdpResult, listening, udp_result, udpgen

if TYPE_CHECKING:
    from types import TracebackType

    from tunneld.lab import Container

_AT_MOST_S = 1800


class UdpStream:
    """Datagrams at a steady rate from one container to another while the block runs.

    Args:
        sender: where the generator sends.
        receiver: where it counts.
        size: UDP payload, bytes.
        pps: datagrams per second.

    Attributes:
        result: what has come of it, once the block has ended.
    """

    result: UdpResult

    def __init__(
        self, sender: Container, receiver: Container, *, size: int = 200, pps: int = 10_000
    ) -> None:
        self._sender, self._receiver = sender, receiver
        self._load = [str(size), str(_AT_MOST_S), str(pps)]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._counter = stack.enter_context(listening(self._receiver, "recv"))
            to = [str(self._receiver.address), str(UDP_PORT)]
            self._source = self._sender.popen([str(udpgen()), "send", *to, *self._load])
            stack.callback(self._source.wait, GRACE_S)
            stack.callback(self._source.terminate)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is None:
                self._source.terminate()
                sent, _ = self._source.communicate(timeout=GRACE_S)
                self._counter.terminate()
                got = self._counter.stdout.readline() if self._counter.stdout else ""
                self.result = udp_result(sent, got)
