"""System calls are shared by many packets: counted by the daemons over a transfer, not timed."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.netns.wire import at_rest
from tunneld.lab import Cluster, Container, wait_for_ping

PORT = 9200
SIZE = 64_000_000
BLOCK = bytes(1 << 18)
PACKETS_PER_CALL = 10
"""A generous count: at saturation it is several times as many."""


def transfer(sender: Container, receiver: Container) -> None:
    """Send SIZE bytes over one TCP connection and wait until all of it is there."""
    with receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(30)
        listener.bind((str(receiver.address), PORT))
        listener.listen()
        client = sender.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(30)
        client.connect((str(receiver.address), PORT))
        server, _ = listener.accept()
    server.settimeout(30)
    left = SIZE

    def send() -> None:
        for at in range(0, SIZE, len(BLOCK)):
            client.sendall(BLOCK[: SIZE - at])

    with client, server:
        thread = threading.Thread(target=send)
        thread.start()
        while left:
            left -= len(server.recv(len(BLOCK))) or SIZE
        thread.join()


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_a_system_call_moves_many_packets(cluster: Cluster, back: bool) -> None:
    cluster.start_daemons(["--dataplane", "offload", "--threads", "1"])
    sender, receiver = reversed(cluster.nodes) if back else cluster.nodes
    wait_for_ping(sender.container, receiver.container.address)
    sides = ((sender.daemon, "outbound"), (receiver.daemon, "inbound"))
    before = [at_rest(daemon) for daemon, _ in sides]
    transfer(sender.container, receiver.container)
    for (daemon, direction), then in zip(sides, before, strict=True):
        now = at_rest(daemon)
        packets = now[direction]["packets_written"] - then[direction]["packets_written"]
        # Without poll: one thread waits for both directions at once.
        calls = sum(
            now[direction][name] - then[direction][name]
            for name in ("syscalls_read", "syscalls_written")
        )
        print(f"{direction}: {packets} packets, {calls} system calls")
        assert packets > SIZE / 1500
        assert packets >= PACKETS_PER_CALL * calls
