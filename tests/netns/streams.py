"""One TCP connection between two containers, both ways at once, hashed at both ends."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections.abc import Iterator

from tunneld.lab import Container

PORT = 9100
BLOCK = 1 << 18


def blocks(seed: int, size: int) -> Iterator[bytes]:
    """Random bytes; each block begins with its number, so that no two are alike."""
    body = random.Random(seed).randbytes(BLOCK - 8)
    for number in range(0, size, BLOCK):
        yield (struct.pack("!Q", number) + body)[: size - number]


class End:
    """One end of the connection: sends and receives at once, hashing both."""

    def __init__(self, sock: socket.socket, seed: int, size: int) -> None:
        self.sock = sock
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.bytes_received = 0
        self.errors: list[OSError] = []
        self._threads = [
            threading.Thread(target=self._guard, args=(self._send, seed, size)),
            threading.Thread(target=self._guard, args=(self._receive,)),
        ]
        for thread in self._threads:
            thread.start()

    def _guard(self, work: object, *args: int) -> None:
        assert callable(work)
        try:
            work(*args)
        except OSError as error:
            self.errors.append(error)

    def _send(self, seed: int, size: int) -> None:
        for block in blocks(seed, size):
            self.sent.update(block)
            self.sock.sendall(block)
        self.sock.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while data := self.sock.recv(BLOCK):
            self.received.update(data)
            self.bytes_received += len(data)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def exchange(one: Container, two: Container, size: int, patience: float) -> None:
    """Send `size` bytes each way at once; both arrive whole.

    Args:
        one: connects.
        two: listens.
        size: bytes of each direction.
        patience: seconds that one read or write may take.
    """
    with two.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(30)
        listener.bind((str(two.address), PORT))
        listener.listen()
        client = one.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(30)
        client.connect((str(two.address), PORT))
        server, _ = listener.accept()
    with client, server:
        for sock in (client, server):
            sock.settimeout(patience)
        ends = End(client, 1, size), End(server, 2, size)
        for end in ends:
            end.join()
    assert [end.errors for end in ends] == [[], []]
    assert [end.bytes_received for end in ends] == [size, size]
    assert ends[0].received.digest() == ends[1].sent.digest()
    assert ends[1].received.digest() == ends[0].sent.digest()
