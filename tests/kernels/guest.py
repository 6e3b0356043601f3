"""Runs inside a guest of `tests/kernels/vm`: uses tunneld there and prints what was seen, as JSON.

It judges nothing: the tests outside do, so that each fact has a test with a name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import struct
import sys
import threading
from typing import Any

from tests.netns.waiting import until
from tests.netns.wire import at_rest
from tunneld.lab import Cluster, ClusterNode, Container, Daemon, ping, wait_for_ping
from tunneld.lab.process import run
from tunneld.observe.checks import check_daemon

MARK = "FACTS "
"""Begins the line that holds the JSON."""

RUNGS = ("auto", "mmsg")
STREAM_BYTES = 300_000
DATAGRAM_BYTES = 1000
DATAGRAMS = [random.Random(n).randbytes(DATAGRAM_BYTES) for n in range(20)] + [
    b"a shorter last one"
]
UDP_SEGMENT = 103
# Emulation is up to 45 times slower than the machine.
READY_S = 120.0
ANSWER_S = 30.0


def stream(source: Container, sink: Container) -> bool:
    """Send a stream from one container to the other; whether its hash arrived unchanged."""
    data = random.Random(str(source.address)).randbytes(STREAM_BYTES)
    received = hashlib.sha256()
    with (
        sink.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        source.socket(socket.AF_INET, socket.SOCK_STREAM) as sender,
    ):
        for sock in (listener, sender):
            sock.settimeout(ANSWER_S)
        listener.bind((str(sink.address), 0))
        listener.listen()
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(ANSWER_S)

            def send() -> None:
                sender.sendall(data)
                sender.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=send)
            thread.start()
            while block := receiver.recv(65536):
                received.update(block)
            thread.join()
    return received.digest() == hashlib.sha256(data).digest()


def burst(source: Container, sink: Container) -> bool:
    """Send one UDP_SEGMENT message; whether each datagram arrived whole, in order and alone."""
    with (
        sink.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(ANSWER_S)
        receiver.bind((str(sink.address), 0))
        segment = (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))
        sender.sendmsg([b"".join(DATAGRAMS)], [segment], 0, receiver.getsockname())
        return [receiver.recv(65536) for _ in DATAGRAMS] == DATAGRAMS


def segment_limit() -> int:
    """The most datagrams of 100 bytes that the kernel takes in one message on loopback."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        segment = (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100))
        limit = 0
        with contextlib.suppress(OSError):
            while True:
                sender.sendmsg([bytes(100 * (limit + 1))], [segment], 0, receiver.getsockname())
                limit += 1
        return limit


def superpackets(host: ClusterNode) -> int:
    """Superpackets that the daemon's TUN has handed out so far."""
    return at_rest(host.daemon)["outbound"]["superpackets_read"]


def forward(rung: str) -> dict[str, Any]:
    """Two nodes with real daemons on that rung, a container each; what they carried."""
    with Cluster(nodes=2) as cluster:
        cluster.start_daemons(["--dataplane", rung], timeout=READY_S)
        hosts = cluster.nodes
        one, two = cluster.containers
        wait_for_ping(one, two.address, timeout=ANSWER_S)
        full = ping(two, one.address, size=1472 - 28, dont_fragment=True, timeout=ANSWER_S)
        streams = [stream(one, two), stream(two, one)]
        of_tcp = [superpackets(host) for host in hosts]
        bursts = [burst(one, two), burst(two, one)]
        of_udp = [superpackets(host) - before for host, before in zip(hosts, of_tcp, strict=True)]
        return {
            "backend": hosts[0].daemon.status()["backend"],
            "full_size_ping": full is not None and full.type == 0,
            "streams": streams,
            "bursts": bursts,
            "superpackets": {"tcp": of_tcp, "udp": of_udp},
            # `at_rest` does not return before read = written + dropped in each direction.
            "counters": [at_rest(host.daemon) for host in hosts],
            "log": hosts[0].daemon.tail(50),
            "stopped": cluster.stop_daemons(),
        }


def without_tx_checksum() -> dict[str, Any]:
    """A daemon whose external interface loses its checksum offload under it."""
    with Cluster(nodes=2) as cluster:
        cluster.start_daemons(["--dataplane", "offload"], timeout=READY_S)
        one, two = cluster.containers
        daemon = cluster.nodes[0].daemon
        wait_for_ping(one, two.address, timeout=ANSWER_S)
        before = daemon.status()["backend"]["offload"]
        cluster.nodes[0].node.run(["ethtool", "-K", "eth0", "tx", "off"])
        arrived = [burst(one, two), stream(one, two), burst(one, two)]
        # The log follows once a second.
        until(lambda: _lines(daemon) or _segments(daemon) > 1, "the log", timeout=ANSWER_S)
        arrived.append(stream(one, two))
        return {
            "before": before,
            "offload": daemon.status()["backend"]["offload"],
            "arrived": arrived,
            "counters": [at_rest(host.daemon) for host in cluster.nodes],
            "lines": _lines(daemon),
            "doctor": [finding.name for finding in check_daemon(daemon.run_dir)],
            "stopped": cluster.stop_daemons(),
        }


def _segments(daemon: Daemon) -> int:
    return int(daemon.status()["backend"]["offload"]["segments"])


def _lines(daemon: Daemon) -> list[str]:
    return [line for line in daemon.log.read_text().splitlines() if "UDP_SEGMENT" in line]


def main() -> None:
    doctor = run([sys.executable, "-m", "tunneld", "doctor", "--json"], check=False)
    facts = {
        "release": os.uname().release,
        "doctor": {finding["name"]: finding for finding in json.loads(doctor.stdout)},
        "segment_limit": segment_limit(),
        "rungs": {rung: forward(rung) for rung in RUNGS},
        "without_tx_checksum": without_tx_checksum(),
    }
    print(MARK + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
