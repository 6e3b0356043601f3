"""Each rung runs: shown by what a system call carries through the real TUN, not by its name.

The daemon is stopped while packets gather in its queues, so that it finds them all at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.packets import DF, ipv4, ones_complement
from tests.netns.waiting import until
from tests.netns.wire import RUNGS, UDP_SEGMENT, Change, Meter, Wire, inject, wire

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

PACKETS = 256
PAYLOAD = 1000
C1, C2 = "100.96.1.2", "100.96.2.3"


def udp(source: str, destination: str) -> bytes:
    """Return a datagram with DF and a right checksum: without these nobody may join it."""
    length = 8 + PAYLOAD
    pseudo = IPv4Address(source).packed + IPv4Address(destination).packed
    pseudo += struct.pack("!HHHHHH", 17, length, 1000, 2000, length, 0) + bytes(PAYLOAD)
    checksum = ones_complement(pseudo)
    header = struct.pack("!HHHH", 1000, 2000, length, checksum)
    return ipv4(source, destination, header + bytes(PAYLOAD), fragment=DF)


@contextlib.contextmanager
def gathering(w: Wire) -> Iterator[None]:
    """Stop the daemon of node 1 while the block fills its queues."""
    pid = w.one.daemon.pid
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(state(task) in "Tt" for task in tasks(pid)), "all threads to stop")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def loads_the_core(pid: int) -> bool:
    return "_dataplane" in Path(f"/proc/{pid}/maps").read_text()


def per_call(counted: Counter[str], direction: str) -> float:
    """Packets per system call; the call that finds nothing more counts too."""
    return PACKETS / counted[f"syscalls_{direction}"]


def burst(w: Wire) -> tuple[Change, Change]:
    """256 packets out in one burst, 256 in in one burst."""
    meter = Meter(w.one.daemon)
    with gathering(w):
        inject(w.one.node, [udp(C1, C2)] * PACKETS)
    out = meter.after(outbound=PACKETS)
    assert out.outbound["packets_written"] == PACKETS
    assert w.peers[2].payloads(PACKETS)
    meter = Meter(w.one.daemon)
    with gathering(w):
        w.peers[2].send_segments(w.one.public_ip, udp(C2, C1), PACKETS)
    back = meter.after(inbound=PACKETS)
    assert back.inbound["packets_written"] == PACKETS
    return out, back


@pytest.mark.parametrize("rung", RUNGS)
def test_packets_per_system_call(rung: str) -> None:
    # Superpackets cross the wire whole here, so what the socket joins is known.
    with wire("--dataplane", rung, setting="on") as w:
        change_out, change_in = burst(w)
        out, back = change_out.outbound, change_in.inbound
        assert loads_the_core(w.one.daemon.pid) is (rung != "python")
        # A TUN gives one packet a read, on every rung, as long as packets are single.
        assert 0.9 < per_call(out, "read") <= 1
        assert out["superpackets_read"] == 0
        if rung in ("python", "syscall"):
            assert per_call(out, "written") == per_call(back, "written") == 1
            assert 0.9 < per_call(back, "read") <= 1
        else:
            assert per_call(out, "written") >= 32
            assert per_call(back, "read") >= 32
        upper = rung in ("gso", "offload")
        assert (out["superpackets_written"] > 0) is upper
        assert (back["superpackets_read"] > 0) is upper
        if upper:
            # More than what sendmmsg takes as single datagrams.
            assert PACKETS / out["superpackets_written"] > 32
        assert (back["superpackets_written"] > 0) is (rung == "offload")
        assert (per_call(back, "written") > 8) is (rung == "offload")


def test_offload_reads_superpackets() -> None:
    """What a container sends as one superpacket is read, cut and sent by one call each."""
    with wire("--dataplane", "offload", setting="on") as w:
        meter = Meter(w.one.daemon)
        count = 40
        with w.one.container.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, PAYLOAD)
            sock.sendto(bytes(range(count)) * PAYLOAD, (C2, 2000))
        out = meter.after(outbound=count).outbound
        assert out["packets_read"] == out["packets_written"] == count
        assert out["superpackets_read"] == out["superpackets_written"] == 1
        assert out["syscalls_written"] == 1
        payloads = w.peers[2].payloads(count)
        assert b"".join(payload[28:] for payload in payloads) == bytes(range(count)) * PAYLOAD
        assert len({payload[4:6] for payload in payloads}) == count
