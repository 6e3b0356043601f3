"""Runs inside a guest of `tests/kernels/vm`: `--dataplane kernel`; prints what was seen, as JSON.

    container-1 - docker0 - [tunneld0aa80003, ...] node1   kernel: fou and ipip
    container-2 - docker0 - [flannel0]             node2   the daemon's own packet path
                                                   node3   a lease without a daemon: a plain socket
                                                   stranger  no lease

It judges nothing: the tests outside do, so that each fact has a test with a name.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
from collections.abc import Sequence
from typing import Any

from tests.kernels.guest import ANSWER_S, MARK, READY_S, stream
from tests.netns.waiting import until
from tests.netns.wire import RawPeer
from tests.platform.apart import udp
from tunneld.lab import NETWORK, Capture, Cluster, ClusterNode, Node, ping, wait_for_ping

KERNEL = ["--dataplane", "kernel"]
PORT = 5000
FLOOD = 20


def text(node: Node, *command: str) -> str:
    return node.run(command, check=False).stdout


def tables(node: Node) -> dict[str, str]:
    """What the kernel holds of the dataplane."""
    return {
        "links": text(node, "ip", "-o", "-d", "link", "show", "type", "ipip"),
        "addresses": text(node, "ip", "-o", "-4", "address", "show"),
        "routes": text(node, "ip", "route", "show", "proto", "84"),
        "fou": text(node, "ip", "fou", "show"),
        "nft": text(node, "nft", "list", "tables"),
    }


def differing(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """Return both texts of each table that is not what it was."""
    return {name: [text, after[name]] for name, text in before.items() if text != after[name]}


def unnumbered(found: dict[str, str]) -> dict[str, str]:
    """Return the tables in an order of their own, without the index that each new device gets."""
    lines = {name: re.sub(r"(?m)^\d+: ", "", text).splitlines() for name, text in found.items()}
    return {name: "\n".join(sorted(each)) for name, each in lines.items()}


def tunneld(*commands: tuple[ClusterNode, Sequence[str]]) -> list[tuple[int, str]]:
    """Run `tunneld` on some nodes side by side (a start takes seconds here); codes and output."""
    children = [
        host.node.popen([sys.executable, "-m", "tunneld", *args]) for host, args in commands
    ]
    return [
        (child.wait(READY_S), child.stdout.read() if child.stdout else "") for child in children
    ]


def counters(host: ClusterNode) -> dict[str, int]:
    found: dict[str, int] = host.daemon.status()["counters"]["kernel"]
    return found


def wire(cluster: Cluster) -> dict[str, Any]:
    """Datagrams of a plain socket: exact bytes each way, and what must not get in."""
    one, _, three = cluster.nodes
    inside = one.container
    facts: dict[str, Any] = {}
    with (
        RawPeer(three.node, three.public_ip) as peer,
        RawPeer(three.node, three.public_ip, 8286) as other_port,
        RawPeer(cluster.stranger(), "10.168.0.66") as stranger,
        inside.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind((str(inside.address), PORT))
        sock.settimeout(ANSWER_S)
        with Capture([(three.node, "eth0")]) as capture:
            sock.sendto(b"hello from the container", (str(three.container.address), PORT))
            ((payload, source),) = peer.receive(timeout=ANSWER_S)
            until(lambda: any(payload in frame.packet for frame in capture.frames), "the frame")
            facts["sent"] = {"payload": payload.hex(), "source": list(source)}
            facts["outer"] = [
                frame.packet[:28].hex() for frame in capture.frames if payload in frame.packet
            ]
        good = udp("100.96.3.4", str(inside.address), PORT, b"good")
        bad = {
            "drop_foreign_destination": (peer, udp("100.96.3.4", "10.168.0.3", PORT, b"bad")),
            "drop_spoofed_source": (peer, udp("100.96.2.3", str(inside.address), PORT, b"bad")),
            "drop_outer_source": (stranger, good.replace(b"good", b"bad!")),
            "drop_outer_port": (other_port, good.replace(b"good", b"bad!")),
        }
        with Capture([(one.node, "eth0"), (one.node, "docker0")]) as capture:
            for sender, packet in bad.values():
                sender.send(one.public_ip, *[packet] * FLOOD)
            # Relaying to a third node, and martians: this host's own address as the source.
            peer.send(one.public_ip, udp("100.96.3.4", "100.96.2.3", PORT, b"bad"))
            peer.send(one.public_ip, udp("100.96.1.1", str(inside.address), PORT, b"bad"))
            peer.send(one.public_ip, b"no packet at all", b"", good)
            facts["received"] = sock.recv(2000).decode()
            leaks = [
                frame
                for frame in capture.frames
                if b"bad" in frame.packet and (frame.outgoing or frame.interface == "docker0")
            ]
            facts["leaks"] = [[frame.interface, frame.packet.hex()] for frame in leaks]
        # They are read every few seconds, so maybe between two of the packets above.
        all_bad = len(bad) * FLOOD + 2
        until(lambda: sum(counters(one)[name] for name in bad) >= all_bad, "them", timeout=ANSWER_S)
        facts["dropped"] = counters(one)
    return facts


def repairs(cluster: Cluster) -> dict[str, Any]:
    """What others break is made good."""
    one, two, _ = cluster.nodes
    before = unnumbered(tables(one.node))
    one.node.ip("link", "del", "tunneld0aa80003")
    until(lambda: one.daemon.status()["backend"]["repairs"].get("device"), "it", timeout=ANSWER_S)
    one.node.ip("route", "del", str(two.subnet))
    until(lambda: one.daemon.status()["backend"]["repairs"].get("route"), "it", timeout=ANSWER_S)
    one.node.run(["nft", "flush", "ruleset"])
    until(lambda: one.daemon.status()["backend"]["repairs"].get("rules"), "it", timeout=ANSWER_S)
    one.node.run(["ip", "fou", "del", "port", "8285"])
    one.node.ip("link", "set", "tunneld0aa80003", "mtu", "1300")
    until(lambda: one.daemon.status()["backend"]["repairs"].get("link"), "it", timeout=ANSWER_S)
    wait_for_ping(two.container, one.container.address, timeout=ANSWER_S)

    def left() -> dict[str, list[str]]:
        return differing(before, unnumbered(tables(one.node)))

    def counted() -> dict[str, int]:
        found: dict[str, int] = one.daemon.status()["backend"]["repairs"]
        return found

    # The nft tables are compared by timers of their own, and what was repaired is counted last.
    with contextlib.suppress(AssertionError):
        until(lambda: counted().get("firewall_rules") and not left(), "them", timeout=ANSWER_S)
    # The tests say what is missing.
    return {**counted(), "left": left()}


def restart(cluster: Cluster) -> dict[str, Any]:
    """Killed and started again: traffic goes on, nothing is touched; then clashes and cleanup."""
    one, two, _ = cluster.nodes
    before = tables(one.node)
    monitor = one.node.popen(["ip", "monitor", "link", "address", "route"])
    one.daemon.kill()
    gone = ping(two.container, one.container.address, timeout=ANSWER_S)
    one.daemon.start(KERNEL)
    one.daemon.wait_ready(READY_S)
    facts: dict[str, Any] = {
        "answer_without_daemon": gone is not None and gone.type == 0,
        "repairs": one.daemon.status()["backend"]["repairs"],
        "differing": differing(before, tables(one.node)),
        "stopped": one.daemon.stop(),
    }
    monitor.terminate()
    facts["changes"] = monitor.communicate()[0]
    three = cluster.nodes[2]
    with RawPeer(three.node, three.public_ip):
        facts["auto_beside_it"], facts["clash_with_a_socket"] = tunneld(
            (one, ["run", *one.daemon.argv]), (three, ["run", *three.daemon.argv, *KERNEL])
        )
    three.node.run(["ip", "fou", "add", "port", "8285", "ipproto", "47"])
    facts["cleanup"], facts["clash_with_fou"] = tunneld(
        (one, ["cleanup", "--run-dir", str(one.daemon.run_dir)]),
        (three, ["run", *three.daemon.argv, *KERNEL]),
    )
    facts["after"] = tables(one.node)
    return facts


def main() -> None:
    with Cluster(nodes=3, setting="plain") as cluster:
        one, two, _ = cluster.nodes
        two.daemon.start()
        one.daemon.start(KERNEL)
        for host in (one, two):
            host.daemon.wait_ready(READY_S)
            host.set_mtu(int(host.daemon.environment()["FLANNEL_MTU"]))
        wait_for_ping(one.container, two.container.address, timeout=ANSWER_S)
        size = 1472 - 28
        answer = ping(
            two.container, one.container.address, size=size, dont_fragment=True, timeout=ANSWER_S
        )
        facts = {
            "network": str(NETWORK),
            "environment": one.daemon.environment(),
            "full_size_ping": answer is not None and answer.type == 0,
            "from_host": text(one.node, "ping", "-c1", "-W5", str(two.container.address)),
            "streams": [
                stream(one.container, two.container),
                stream(two.container, one.container),
            ],
            "tables": tables(one.node),
            "userspace": two.daemon.status(),
            "status": one.daemon.status(),
            "wire": wire(cluster),
            "repairs": repairs(cluster),
            "restart": restart(cluster),
            "log": one.daemon.tail(60),
        }
    print(MARK + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
