"""Two TCP streams, one each way, over a wire that loses, doubles and reorders: intact by sha256."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tunneld.lab import Cluster, wait_for_ping
from tunneld.lab.relay_faults import Faults

PORT = 9100
BLOCK = 1 << 18
FAULTS = Faults(loss=0.01, duplicate=0.01, reorder=0.01, seed=42)


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


def stream_both_ways(size: int, patience: float) -> None:
    with Cluster(shape="relay", faults=FAULTS) as cluster:
        cluster.start_daemons(["--dataplane", "offload"])
        one, two = (host.container for host in cluster.nodes)
        wait_for_ping(one, two.address, timeout=20)
        with two.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.settimeout(20)
            listener.bind((str(two.address), PORT))
            listener.listen()
            client = one.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.settimeout(20)
            client.connect((str(two.address), PORT))
            server, _ = listener.accept()
        with client, server:
            for sock in (client, server):
                sock.settimeout(patience)
            began = time.monotonic()
            ends = End(client, 1, size), End(server, 2, size)
            for end in ends:
                end.join()
            print(f"{size} bytes each way in {time.monotonic() - began:.1f} s")
        assert [end.errors for end in ends] == [[], []]
        assert [end.bytes_received for end in ends] == [size, size]
        assert ends[0].received.digest() == ends[1].sent.digest()
        assert ends[1].received.digest() == ends[0].sent.digest()
        assert cluster.underlay.relay is not None
        # The faults were there, or this showed nothing.
        for counts in cluster.underlay.relay.stop().values():
            assert counts.lost
            assert counts.duplicated
            assert counts.reordered


def test_ten_megabytes_each_way_arrive_intact() -> None:
    stream_both_ways(10_000_000, patience=30)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_gigabyte_each_way_arrives_intact() -> None:
    stream_both_ways(1_000_000_000, patience=300)
