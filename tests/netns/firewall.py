"""Beds of the tests of firewall rules: what a daemon says of them, and who is masqueraded."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from tests.netns.wire import RawPeer

if TYPE_CHECKING:
    from tunneld.lab import ClusterNode, Node

C1, C2 = "100.96.1.2", "100.96.2.3"
WORLD = "10.168.0.66"
INNER_PORT = 2000
NO_RULES = "--iptables-forward-rules=false"
SO_MARK = 36


def rules(host: ClusterNode) -> dict[str, Any]:
    found: dict[str, Any] = host.daemon.status()["rules"]
    return found


def repairs(host: ClusterNode) -> int:
    found: int = host.daemon.status()["backend"]["repairs"].get("firewall_rules", 0)
    return found


def peers_of(host: ClusterNode) -> set[str]:
    text = host.node.run(["nft", "list", "set", "ip", "tunneld", "peers"]).stdout
    _, _, elements = text.partition("elements = {")
    return {word.strip() for word in elements.partition("}")[0].split(",") if word.strip()}


def heard(source: Node, bound: str, to: tuple[Node, str], *, mark: int = 0) -> str:
    """Send a datagram and return the address that the receiver sees it come from."""
    receiver, address = to
    with (
        RawPeer(receiver, address, INNER_PORT) as ear,
        source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sock.bind((bound, 0))
        sock.sendto(b"x", (address, INNER_PORT))
        ((_, (seen, _)),) = ear.receive()
        return seen


def cleanup(host: ClusterNode) -> str:
    """Run `tunneld cleanup` as the daemon's node would, and return what it prints."""
    argv = [sys.executable, "-m", "tunneld", "cleanup", "--run-dir", str(host.daemon.run_dir)]
    return host.node.run([*host.daemon.prefix, *argv]).stdout


def only(host: ClusterNode, binary: str, *names: str) -> None:
    """Let a daemon find no other programs than these; iptables is `binary`."""
    place = host.daemon.directory / "bin"
    place.mkdir(exist_ok=True)
    for name in names:
        for suffix in ("", "-restore") if name == "iptables" else ("",):
            target = f"/usr/sbin/{binary}{suffix}" if name == "iptables" else f"/usr/sbin/{name}"
            (place / f"{name}{suffix}").symlink_to(target)
    host.daemon.prefix = ["/usr/bin/env", f"PATH={place}"]
