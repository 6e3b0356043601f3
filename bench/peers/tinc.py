"""tinc 1.0 in router mode with cipher and digest off.

It still authenticates its control connection (TCP, RSA), and puts an Ethernet header and a sequence
number before each packet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers._tunnel import IPV4_UDP, Plan, Side, Task, Tunnel
from tunneld.lab import process

if TYPE_CHECKING:
    from bench.contenders import Options

DEVICE = "tinc0"
KEY_BITS = 2048


class Tinc(Tunnel):
    """One tincd per node; the second one connects to the first."""

    name = "tinc"
    overhead = IPV4_UDP + 4 + 14
    """Sequence number and Ethernet header (tinc's manual, "The UDP tunnel")."""
    note = "no encryption (Cipher and Digest none); its control connection is authenticated"
    tools = (("tincd", "tinc"),)

    def make_key(self, side: Side, directory: Path) -> str:
        """Make an RSA key pair; tincd itself puts both halves where it looks for them."""
        (directory / "hosts").mkdir()
        (directory / "tinc.conf").write_text(f"Name = {side.name}\n")
        process.run(["tincd", "-c", str(directory), "-K", str(KEY_BITS)])
        return (directory / "hosts" / side.name).read_text()

    def plan(self, task: Task) -> Plan:
        """Return configs and command; see tinc.conf(5) and tincd(8)."""
        here, there = task.side, task.peer
        directory = task.directory
        return Plan(
            argv=(
                *("tincd", "-c", str(directory), "-D", "-d1"),
                f"--pidfile={directory / 'pid'}",
            ),
            ready="Ready",
            device=DEVICE,
            files={
                "tinc.conf": config_text(task),
                f"hosts/{here.name}": host_text(here, task.key),
                f"hosts/{there.name}": host_text(there, task.peer_key),
            },
            then=task.address_device(DEVICE),
        )


def config_text(task: Task) -> str:
    """Return tinc.conf of one node.

    The node that starts last connects: one that comes too early tries again only after 5 seconds.
    """
    lines = [
        f"Name = {task.side.name}",
        f"Interface = {DEVICE}",
        "DeviceType = tun",
        "Mode = router",
        "AddressFamily = ipv4",
    ]
    if task.side.number > task.peer.number:
        lines.append(f"ConnectTo = {task.peer.name}")
    return "\n".join([*lines, ""])


def host_text(side: Side, public_key: str) -> str:
    """Return the file about one node that both have.

    Without path MTU discovery packets go by UDP from the first one on; with it they would take the
    TCP control connection until it is done, and the MTU is known here anyhow.
    """
    return "\n".join(
        [
            f"Address = {side.public_ip}",
            f"Subnet = {side.subnet}",
            "Cipher = none",
            "Digest = none",
            "Compression = 0",
            "PMTUDiscovery = no",
            "ClampMSS = no",
            public_key.strip(),
            "",
        ]
    )


def contender(_options: Options) -> Tinc:
    """Return the contender."""
    return Tinc()
