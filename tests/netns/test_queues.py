"""Several queues in one daemon: every flow in order, every packet counted, all queues at work.

The steering program's choice depends on inner addresses alone, so which container uses which queue
is known; which socket a peer reaches depends on a secret of the kernel, so there are many peers.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Self

import pytest

from bench.common import require_udp_tools, udp
from tests.dataplane.packets import ipv4
from tests.netns.test_bad_start import refused, start, untouched
from tests.netns.test_repair import traffic
from tests.netns.waiting import until
from tests.netns.wire import SO_RCVBUFFORCE, Meter, RawPeer, wire
from tunneld.lab import ping, wait_for_ping
from tunneld.lab.iperf import tcp
from tunneld.observe.status import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netns.wire import Wire
    from tunneld.lab import Cluster, ClusterNode, Container, Daemon

QUEUES = 3
ARGS = ("--queues", str(QUEUES), "--dataplane")
PEERS = 16
PORT = 9200


def queues(daemon: Daemon, way: str) -> list[int]:
    """Packets that each queue has read."""
    found: list[dict[str, int]] = daemon.status()["backend"]["queues"]
    return [queue[way] for queue in found]


def change(before: list[int], now: list[int]) -> list[int]:
    return [new - old for old, new in zip(before, now, strict=True)]


def more_containers(host: ClusterNode, count: int) -> None:
    mtu = int(host.daemon.environment()["FLANNEL_MTU"])
    for last in range(20, 20 + count):
        host.add_container(last).set_mtu(mtu)


def stream(sender: Container, receiver: Container, seed: int) -> bool:
    """Send half a megabyte over one connection; whether its hash is the same at the other end."""
    data = random.Random(seed).randbytes(500_000)
    with sender.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        # The port decides about the queue.
        client.bind((str(sender.address), 40_000 + seed))
        client.connect((str(receiver.address), PORT))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.recv(32) == hashlib.sha256(data).digest()


def answer_with_hashes(listener: socket.socket, connections: int) -> None:
    """Serve connections at once: read each to its end, answer with its hash."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            digest = hashlib.sha256()
            while block := connection.recv(1 << 16):
                digest.update(block)
            connection.sendall(digest.digest())

    threads = []
    for _ in range(connections):
        threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
        threads[-1].start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("rung", ["offload", "gso", "mmsg", "syscall"])
def test_parallel_streams_arrive_intact_over_all_queues(rung: str) -> None:
    count = 24
    with wire(*ARGS, rung, daemons=[1, 2]) as w:
        one, two = w.one.container, w.two.container
        with two.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.settimeout(30)
            listener.bind((str(two.address), PORT))
            listener.listen(count)
            server = threading.Thread(target=answer_with_hashes, args=(listener, count))
            server.start()
            with ThreadPoolExecutor(count) as pool:
                intact = list(pool.map(lambda seed: stream(one, two, seed), range(count)))
            server.join()
        assert intact == [True] * count
        for host in (w.one, w.two):
            assert host.daemon.status()["backend"]["dataplane"] == rung
            # Ports are part of the hash: 24 streams between two addresses use all queues.
            assert all(queues(host.daemon, "outbound"))
            # All that comes from the one peer comes to one socket.
            assert sorted(queues(host.daemon, "inbound"))[:-1] == [0] * (QUEUES - 1)
            # The ends of connections may still be on their way.
            until(lambda: adds_up(host.daemon.status()), "all counts to agree")  # noqa: B023


def test_datagrams_keep_their_order_beside_tcp() -> None:
    """Four flows of numbered datagrams one way while TCP loads the other."""
    with wire(*ARGS, "offload", daemons=[1, 2], shape="cable") as w:
        more_containers(w.one, 4)
        more_containers(w.two, 4)
        pairs = list(zip(w.one.containers[1:], w.two.containers[1:], strict=True))
        meter = Meter(w.one.daemon)
        require_udp_tools()
        with ThreadPoolExecutor(len(pairs) + 1) as pool:
            load = pool.submit(
                tcp, w.two.container, w.one.container, w.one.container.address, seconds=2, streams=8
            )
            flows = [
                # Few enough for the queues of the TUN to hold all of them while it has no CPU.
                pool.submit(udp, sender, receiver, size="16-1400", seconds=2, pps=1000)
                for sender, receiver in pairs
            ]
            results = [flow.result() for flow in flows]
            assert load.result().bytes
        assert [(result.reordered, result.duplicates) for result in results] == [(0, 0)] * 4
        sent = sum(result.sent for result in results)
        assert sum(result.received for result in results) == sent
        out = meter.after(outbound=sent).outbound
        assert out["packets_written"] == out["packets_read"] >= sent
        assert sum(1 for packets in queues(w.one.daemon, "outbound") if packets > 1000) > 1


def adds_up(document: dict[str, Any]) -> bool:
    """Whether queues, directions and the only peer have counted the same packets."""
    spread: list[dict[str, int]] = document["backend"]["queues"]
    (peer,) = document["peers"]
    return all(
        sum(queue[way] for queue in spread) == total["packets_read"]
        and peer[counter] == total["packets_written"]
        for way, counter in (("outbound", "tx_packets"), ("inbound", "rx_packets"))
        for total in (document["counters"][way],)
    )


class Neighbours:
    """Many peers on one host of the wire, each with a lease and a socket of its own."""

    def __init__(self, w: Wire) -> None:
        self._to = w.one.public_ip
        self._inside = w.one.container.address
        self.peers: list[RawPeer] = []
        for number in range(100, 100 + PEERS):
            address = f"10.168.0.{number}"
            w.two.node.ip("address", "add", f"{address}/24", "dev", "eth0")
            w.cluster.reserve(IPv4Network(f"100.96.{number}.0/24"), address)
            self.peers.append(RawPeer(w.two.node, address))

    def send(self, numbers: range) -> None:
        """From each peer, in turns, what these numbers make."""
        for number in numbers:
            for index, peer in enumerate(self.peers):
                payload = struct.pack("!HHHHI", PORT, PORT, 12, 0, number)
                source = f"100.96.{100 + index}.2"
                # Peers send different amounts, so that their queues can be told apart.
                for _ in range(1 + index):
                    peer.send(self._to, ipv4(source, str(self._inside), payload))

    @staticmethod
    def in_a_round(count: int) -> int:
        return count * sum(range(1, PEERS + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()


def arrivals(sock: socket.socket, count: int) -> dict[str, list[int]]:
    """The next numbers, by sender."""
    numbers: dict[str, list[int]] = {}
    for _ in range(count):
        payload, (sender, _port) = sock.recvfrom(64)
        numbers.setdefault(sender, []).append(struct.unpack("!I", payload)[0])
    return numbers


def test_inbound_is_spread_by_peer_in_order_and_stays_where_it_was() -> None:
    with wire(*ARGS, "offload") as w:
        sock = w.one.container.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock, Neighbours(w) as neighbours:
            until(lambda: len(w.one.daemon.status()["peers"]) == PEERS + 1, "the peers")
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            sock.settimeout(30)
            sock.bind((str(w.one.container.address), PORT))
            rounds = []
            for numbers in (range(20), range(20, 40)):
                before, meter = queues(w.one.daemon, "inbound"), Meter(w.one.daemon)
                neighbours.send(numbers)
                expected = neighbours.in_a_round(len(numbers))
                found = arrivals(sock, expected)
                assert len(found) == PEERS
                assert all(got == sorted(got) for got in found.values())
                assert meter.after(inbound=expected).inbound["packets_written"] == expected
                rounds.append(change(before, queues(w.one.daemon, "inbound")))
        # 16 peers all on one of three sockets: once in ten million.
        assert sum(1 for packets in rounds[0] if packets) > 1
        assert rounds[0] == rounds[1]


def pinned(host: ClusterNode) -> dict[int, Container]:
    """For each queue a container whose pings to 100.96.2.3 go out of it."""
    found: dict[int, Container] = {}
    for container in host.containers:
        before = queues(host.daemon, "outbound")
        wait_for_ping(container, IPv4Address("100.96.2.3"))
        (queue,) = (
            number
            for number, packets in enumerate(change(before, queues(host.daemon, "outbound")))
            if packets
        )
        found[queue] = container
    assert sorted(found) == list(range(QUEUES))
    return found


def test_a_deleted_device_comes_back_with_all_queues_and_its_steering() -> None:
    with wire(*ARGS, "offload", daemons=[1, 2], lossy=True) as w:
        more_containers(w.one, 8)
        containers = pinned(w.one)
        with traffic(w.one, w.two.container.address):
            for count in range(1, 6):
                w.one.node.ip("link", "del", "flannel0")
                until(
                    lambda count=count: (
                        w.one.daemon.status()["backend"]["repairs"].get("device")  # type: ignore[misc]
                        == count
                    ),
                    "the repair",
                )
                wait_for_ping(w.one.container, w.two.container.address)
        # Behind this one there is no packet of the traffic.
        wait_for_ping(w.one.container, w.two.container.address)
        backend: dict[str, Any] = w.one.daemon.status()["backend"]
        assert "dataplane" not in backend["repairs"]
        assert len(backend["queues"]) == QUEUES
        # Answers come in by one queue. Unsteered, all pings would move there.
        for queue, container in containers.items():
            before = queues(w.one.daemon, "outbound")
            for _ in range(5):
                assert ping(container, w.two.container.address)
            expected = [5 if number == queue else 0 for number in range(QUEUES)]
            assert change(before, queues(w.one.daemon, "outbound")) == expected


def test_a_new_underlay_address_renews_all_sockets() -> None:
    with wire(*ARGS, "offload", daemons=[1, 2], lossy=True) as w:
        wait_for_ping(w.one.container, w.two.container.address)
        w.one.node.batch(
            [
                "address add 10.168.0.22/24 dev eth0",
                "address del 10.168.0.2/24 dev eth0",
                # The first one was a secondary address and went with its primary.
                "address replace 10.168.0.22/24 dev eth0",
            ]
        )
        until(
            lambda: w.one.daemon.status()["backend"]["repairs"].get("underlay_address") == 1,
            "the new address",
        )
        wait_for_ping(w.one.container, w.two.container.address)
        wait_for_ping(w.two.container, w.one.container.address)
        table = w.one.node.run(["cat", "/proc/net/udp"]).stdout.splitlines()[1:]
        local = [line.split()[1] for line in table]
        assert local == ["1600A80A:205D"] * QUEUES


@pytest.mark.parametrize("rung", ["mmsg", "offload"])
def test_a_narrow_path_is_found_and_told(rung: str) -> None:
    with wire(*ARGS, rung, daemons=[1, 2], shape="router") as w:
        more_containers(w.one, 8)
        w.one.set_mtu(1472)
        for container in pinned(w.one).values():

            def told(container: Container = container) -> bool:
                answer = ping(
                    container, w.two.container.address, size=1444, dont_fragment=True, timeout=0.5
                )
                return answer is not None and (answer.type, answer.mtu) == (3, 1372)

            until(told, "Fragmentation Needed")
            answer = ping(container, w.two.container.address, size=1444)
            assert answer is not None
            assert answer.type == 0


@pytest.fixture
def loaded(cluster: Cluster) -> Iterator[Cluster]:
    cluster.start_daemons([*ARGS, "auto"])
    yield cluster
    assert cluster.stop_daemons() == [0, 0]


def test_a_second_daemon_takes_no_share_of_the_traffic(loaded: Cluster) -> None:
    host = loaded.nodes[0]
    elsewhere = loaded.lab.directory / "elsewhere"
    argv = [
        str(elsewhere) if word == str(host.daemon.run_dir) else word for word in host.daemon.argv
    ]
    done = start(loaded, "--queues", "2", argv=argv)
    refused(done, 1, "UDP port 8285 on 10.168.0.2 is in use", f"(pid {host.daemon.pid})")


def test_status_shows_how_the_load_is_spread(loaded: Cluster) -> None:
    one = loaded.nodes[0]
    wait_for_ping(one.container, loaded.containers[1].address)
    text = render(one.daemon.status())
    assert f"queues   {QUEUES} outbound: " in text
    assert "100%" in text


def test_without_the_right_to_steer_it_is_refused_and_nothing_is_left(cluster: Cluster) -> None:
    drop = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"]
    refused(start(cluster, "--queues", "2", before=drop), 1, "CAP_BPF", "--queues=1")
    untouched(cluster)


def test_the_python_rung_has_one_queue(cluster: Cluster) -> None:
    done = start(cluster, "--queues", "2", "--dataplane", "python")
    refused(done, 1, "--queues=2", "python", "--dataplane=auto")
    untouched(cluster)


def test_more_queues_than_sixteen(cluster: Cluster) -> None:
    refused(start(cluster, "--queues", "17"), 2, "--queues", "between 1 and 16")
