"""Whatever is missing, no packet for the Network leaves the host in clear (design, rule 8)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.packets import ICMP, ipv4
from tests.netns.waiting import until
from tests.netns.wire import Meter, Wire, wire
from tunneld.lab import NETWORK, Capture, Frame, ping, wait_for_ping

if TYPE_CHECKING:
    from collections.abc import Callable

UNREACHABLE, REDIRECT = 3, 5
NOWHERE = IPv4Address("100.96.9.9")
OWN_BUT_AWAY = IPv4Address("100.96.1.77")


def delete_device(w: Wire) -> None:
    """Take the TUN from a daemon that cannot repair it: it is stopped."""
    os.kill(w.one.daemon.pid, signal.SIGSTOP)
    w.one.node.ip("link", "del", "flannel0")


def take_device_down(w: Wire) -> None:
    os.kill(w.one.daemon.pid, signal.SIGSTOP)
    w.one.node.ip("link", "set", "flannel0", "down")


FAULTS: dict[str, Callable[[Wire], object]] = {
    "device deleted": delete_device,
    "device down": take_device_down,
    "SIGKILL": lambda w: w.one.daemon.kill(),
    "SIGTERM": lambda w: w.one.daemon.stop(),
}


def host_errno(w: Wire, destination: IPv4Address) -> int:
    """Return what a program on the host gets from the kernel for a datagram."""
    with w.one.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"clear text", (str(destination), 2000))
        except OSError as error:
            return error.errno or 0
    return 0


def try_everything(w: Wire) -> tuple[set[int], set[int | None]]:
    """Send to a peer and to nobody, from host and container.

    Returns:
        The errnos of the host program, and the ICMP types that the container was told.
    """
    destinations = (w.two.container.address, NOWHERE)
    told = [ping(w.one.container, to, timeout=2.0) for to in destinations]
    return (
        {host_errno(w, to) for to in destinations},
        {answer.type if answer else None for answer in told},
    )


def repair(w: Wire) -> None:
    """Let the daemon go on, or start a new one."""
    if w.one.daemon.running:
        os.kill(w.one.daemon.pid, signal.SIGCONT)
    else:
        w.one.daemon.start()
        w.one.daemon.wait_ready()


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_leaves_in_clear(fault: str) -> None:
    with wire(daemons=[1, 2], lossy=True) as w:
        # Another container: the kernel tells one sender only about one packet a second.
        busy = w.one.add_container(9)
        wait_for_ping(w.one.container, w.two.container.address)
        under_traffic = ["ping", "-q", "-i", "0.002", str(w.two.container.address)]
        child = busy.popen(under_traffic)
        with Capture([(w.one.node, "eth0")], to=NETWORK) as leaks:
            FAULTS[fault](w)
            until(lambda: host_errno(w, NOWHERE), "the TUN's route to go")
            assert try_everything(w) == ({errno.EHOSTUNREACH}, {UNREACHABLE})
            repair(w)
            wait_for_ping(w.one.container, w.two.container.address)
            child.terminate()
            child.communicate(timeout=30)
            assert leaks.frames == []
            assert leaks.lost() == 0


def test_without_the_unreachable_routes_this_is_seen_to_leak() -> None:
    """The counter-proof: it is those routes, and the test above would notice."""
    with wire() as w:
        w.one.daemon.kill()
        argv = [sys.executable, "-m", "tunneld", "cleanup", "--run-dir", str(w.one.daemon.run_dir)]
        w.one.node.run(argv)
        with Capture([(w.one.node, "eth0")], to=NETWORK) as leaks:
            assert try_everything(w) == ({0}, {None})
            # Container and host, a peer and nobody: all four take the default route.
            frames = leaks.wait(lambda frames: len(frames) >= 4)
        assert {str(IPv4Address(frame.packet[16:20])) for frame in frames} == {
            "100.96.2.3",
            "100.96.9.9",
        }


def sent_to(frames: list[Frame], interface: str) -> list[bytes]:
    """Return the IPv4 packets that the kernel sent out of an interface."""
    return [f.packet for f in frames if f.interface == interface and f.outgoing and f.packet]


@pytest.mark.parametrize("rung", ["python", "mmsg", "offload"])
def test_a_bridge_that_is_down_neither_bounces_nor_redirects(rung: str) -> None:
    """Without the own subnet's unreachable route the packet goes back into the TUN."""
    with wire("--dataplane", rung) as w:
        for scope in ("all", "flannel0", "eth0"):
            w.one.node.sysctl(f"net.ipv4.conf.{scope}.send_redirects", "1")
        packets = [ipv4("100.96.2.3", "100.96.1.2"), ipv4("100.96.2.3", str(OWN_BUT_AWAY))]
        w.one.node.ip("link", "set", "docker0", "down")
        with w.capture((w.one, "flannel0"), (w.one, "eth0")) as capture:
            meter = Meter(w.one.daemon)
            w.peers[2].send(w.one.public_ip, *packets)
            # All that comes back is the kernel's errors, in the tunnel, to the senders.
            replies = w.peers[2].payloads(2)
            change = meter.after(outbound=2, inbound=2)
            host = host_errno(w, OWN_BUT_AWAY)
            frames = capture.wait(lambda frames: len(sent_to(frames, "flannel0")) >= 2)
        into_tun, eth0 = sent_to(frames, "flannel0"), sent_to(frames, "eth0")
        assert [(reply[9], reply[20]) for reply in replies] == [(ICMP, UNREACHABLE)] * 2
        assert [(packet[9], packet[20]) for packet in into_tun] == [(ICMP, UNREACHABLE)] * 2
        assert change.inbound["packets_written"] == change.outbound["packets_written"] == 2
        assert change.outbound["drop_own_subnet"] == 0
        assert host == errno.EHOSTUNREACH
        assert not [p for p in eth0 if IPv4Address(p[16:20]) in NETWORK]
        assert not [p for p in into_tun + eth0 if p[9:10] == b"\x01" and p[20] == REDIRECT]
