"""What the health port and the service manager are told by real daemons."""

from __future__ import annotations

import re
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.netns.waiting import until
from tests.netns.wire import at_rest
from tunneld.lab import wait_for_ping
from tunneld.lab.etcd import EtcdServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.lab import Cluster
    from tunneld.lab.cluster import ClusterNode
    from tunneld.lab.netns import Node

PORT = 8080
HEALTH = ("--healthz-port", str(PORT))
MOMENT = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
WAYS = [f"{way},{operation}" for way in ("outbound", "inbound") for operation in ("read", "write")]
EMPTY = "tunneld_batch_packets_bucket,{},0,{}"
WATCHDOG = ("env", "WATCHDOG_USEC=400000")
ASK = """\
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=20)
except urllib.error.HTTPError as error:
    answer = error
except OSError as error:
    sys.exit(f"0 {error}")
print(answer.status, answer.read().decode(), end="")
"""


def ask(node: Node, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
    """Return status and body; status 0 when nobody answers."""
    url = f"http://{address}:{PORT}/{path}"
    done = node.run(["/usr/bin/python3", "-c", ASK, url], check=False)
    status, _, body = (done.stdout or done.stderr).partition(" ")
    return int(status), body


def metrics(host: ClusterNode) -> dict[str, float]:
    status, body = ask(host.node, "metrics")
    assert status == 200
    return {
        ",".join([found.name, *(value for _, value in sorted(found.labels.items()))]): found.value
        for family in text_string_to_metric_families(body)
        for found in family.samples
    }


def shown_status(host: ClusterNode) -> str:
    """Return what `tunneld status` prints."""
    command = [sys.executable, "-m", "tunneld", "status", "--run-dir", str(host.daemon.run_dir)]
    return host.node.run(command).stdout


class Told:
    """What the daemon has sent to its service manager so far."""

    def __init__(self, host: ClusterNode) -> None:
        sock = host.daemon._notify
        assert sock is not None
        self._sock: socket.socket = sock
        self.lines: list[str] = []

    def read(self) -> list[str]:
        self._sock.setblocking(False)
        try:
            while True:
                self.lines += self._sock.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self.lines

    def matches(self, pattern: str) -> None:
        until(
            lambda: any(re.search(pattern, each) for each in self.read()),
            f"{pattern}, not {self.lines}",
            30,
        )

    def until(self, line: str) -> None:
        until(lambda: any(line in each for each in self.read()), f"{line}, not {self.lines}")


@pytest.fixture
def etcd(cluster: Cluster) -> Iterator[EtcdServer]:
    """An etcd that only the first daemon uses."""
    node = cluster.stranger()
    directory = cluster.lab.directory / "etcd"
    with EtcdServer(directory, host="10.168.0.66", node=node) as server:
        argv = cluster.nodes[0].daemon.argv
        argv[argv.index("--store") + 1] = "etcd:"
        argv += ["--etcd-endpoints", server.url]
        yield server


def test_health_and_metrics_of_a_running_daemon(cluster: Cluster) -> None:
    cluster.start_daemons(HEALTH)
    one, two = cluster.nodes
    wait_for_ping(one.container, two.container.address)
    # The answer may reach the container before its packet is counted.
    until(lambda: one.daemon.status()["peers"][0]["tx_packets"], "the packet to be counted")
    at_rest(one.daemon)
    assert ask(one.node, "healthz") == (200, "ok\n")
    assert ask(one.node, "readyz") == (200, "ready: forwarding 100.96.1.0/24, 1 peer\n")
    # flannel's health port is for everybody, the metrics are not.
    assert ask(two.node, "healthz", "10.168.0.2") == (200, "ok\n")
    assert ask(two.node, "metrics", "10.168.0.2")[0] == 403
    assert ask(one.node, "")[0] == 404
    found = metrics(one)
    document = one.daemon.status()
    assert found["tunneld_ready"] == 1
    assert found["tunneld_state,ready"] == 1
    (peer,) = document["peers"]
    series = f"tunneld_peer_packets_total,outbound,{peer['public_ip']},{peer['subnet']}"
    assert found[series] == peer["tx_packets"] > 0
    sent = document["counters"]["outbound"]["packets_written"]
    assert found["tunneld_packets_total,outbound,write"] == sent
    assert found["process_resident_memory_bytes"] < 150e6
    one.node.ip("link", "del", "flannel0")
    until(lambda: metrics(one).get("tunneld_repairs_total,device") == 1, "the repair")


def test_public_metrics(cluster: Cluster) -> None:
    one, two = cluster.nodes
    one.daemon.start([*HEALTH, "--metrics-public", "--healthz-ip", "10.168.0.2"])
    one.daemon.wait_ready()
    assert ask(two.node, "metrics", "10.168.0.2")[0] == 200
    assert ask(one.node, "healthz")[0] == 0, "only where it was told to listen"


def test_no_health_port_unless_asked_for(running_cluster: Cluster) -> None:
    listening = running_cluster.nodes[0].node.run(["ss", "-Hltn"]).stdout
    assert listening == ""


def test_a_health_port_in_use(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    with one.node.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("10.168.0.2", PORT))
        taken.listen()
        one.daemon.start(HEALTH)
        until(lambda: not one.daemon.running, "the end")
    assert one.daemon.stop() == 1
    assert f"cannot serve health on 0.0.0.0:{PORT}" in one.daemon.tail()
    assert "--healthz-port" in one.daemon.tail()


def test_a_store_that_is_missing_and_comes(cluster: Cluster, etcd: EtcdServer) -> None:
    one = cluster.nodes[0]
    etcd.kill()
    one.daemon.start(HEALTH)
    told = Told(one)
    told.until("STATUS=waiting for the store, to read the network config")
    # Which server, what is wrong with it, and since when.
    told.matches(rf"config: http://10\.168\.0\.66:\d+: .+ \(since {MOMENT}\)")
    assert ask(one.node, "healthz")[0] == 200
    status, body = ask(one.node, "readyz")
    assert status == 503
    assert body.startswith("starting: waiting for the store, to read the network config: ")
    found = metrics(one)
    assert (found["tunneld_ready"], found["tunneld_state,starting"]) == (0, 1)
    assert not any("READY=1" in line for line in told.read())
    etcd.start()
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"100.96.0.0/16"}')
    told.until("READY=1")
    told.until("STATUS=forwarding ")
    assert ask(one.node, "readyz")[0] == 200


def test_a_store_that_goes_away(cluster: Cluster, etcd: EtcdServer) -> None:
    one = cluster.nodes[0]
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"100.96.0.0/16"}')
    one.daemon.start(HEALTH)
    one.daemon.wait_ready()
    told = Told(one)
    etcd.kill()
    told.until("; waiting for the store: ")
    told.matches(
        rf"forwarding \S+, 0 peers as of {MOMENT};"
        rf" waiting for the store: http://10\.168\.0\.66:\d+: .+ \(since {MOMENT}\)"
    )
    document = one.daemon.status()
    assert document["store"]["away_s"] >= 0
    assert document["store"]["error"].startswith("http://10.168.0.66:")
    assert any(reason.startswith("waiting for the store: ") for reason in document["reasons"])
    shown = shown_status(one)
    assert ": degraded, up " in shown
    assert "\nnow      forwarding " in shown
    assert "\nbecause  waiting for the store: http://10.168.0.66:" in shown
    # Traffic goes on, so the node must not be taken out of service.
    assert ask(one.node, "readyz")[0] == 200
    assert ask(one.node, "readyz")[1].startswith("degraded: forwarding 100.96.")
    found = metrics(one)
    assert (found["tunneld_ready"], found["tunneld_state,degraded"]) == (1, 1)
    assert found["tunneld_store_state,disconnected"] == 1
    assert found["tunneld_lease_expiry_timestamp_seconds"] > time.time() + 80_000
    etcd.start()
    until(lambda: metrics(one)["tunneld_state,ready"] == 1, "the end of the outage")


def test_peers_of_the_last_run_are_called_so(cluster: Cluster, etcd: EtcdServer) -> None:
    one = cluster.nodes[0]
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"100.96.0.0/16"}')
    etcd.ctl("put", "/coreos.com/network/subnets/100.96.9.0-24", '{"PublicIP":"10.168.0.9"}')
    one.daemon.start(HEALTH)
    one.daemon.wait_ready()
    state = one.daemon.state_dir / "state.json"
    until(lambda: state.exists() and "100.96.9.0-24" in state.read_text(), "the cached peer")
    etcd.kill()
    one.daemon.kill()
    one.daemon.start(HEALTH)
    told = Told(one)
    told.matches(
        rf"STATUS=forwarding \S+, 1 peer of the last run, cached {MOMENT};"
        rf" waiting for the store: http://10\.168\.0\.66:\d+: .+ \(since {MOMENT}\)"
    )
    assert ask(one.node, "readyz")[0] == 200
    assert " 1 peer of the last run, cached 20" in ask(one.node, "readyz")[1]
    assert " 1 peer of the last run, cached 20" in shown_status(one)
    etcd.start()
    until(lambda: " of the last run" not in ask(one.node, "readyz")[1], "the store's peers", 30)


def test_every_system_call_is_in_the_histogram(cluster: Cluster) -> None:
    cluster.start_daemons(HEALTH)
    one, two = cluster.nodes
    wait_for_ping(one.container, two.container.address)

    def conserved() -> bool:
        found = metrics(one)
        return all(
            found[f"tunneld_batch_packets_count,{way}"] == found[f"tunneld_syscalls_total,{way}"]
            and found[f"tunneld_batch_packets_sum,{way}"] == found[f"tunneld_packets_total,{way}"]
            and found[f"tunneld_batch_packets_count,{way}"] > found[EMPTY.format(*way.split(","))]
            for way in WAYS
        )

    until(conserved, "the packet path to rest")
    batches = one.daemon.status()["batches"]
    assert all([*batches[way]] == ["read", "written"] for way in ("outbound", "inbound"))
    assert "reading calls by packets" in shown_status(one)


def test_the_watchdog_lives_and_dies_with_the_packet_path(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    # A mount namespace of its own, in which /dev/net can be taken away.
    one.daemon.prefix = ["unshare", "-m", *WATCHDOG]
    one.daemon.start(HEALTH)
    one.daemon.wait_ready()
    told = Told(one)
    told.until("WATCHDOG=1")
    inside = ["nsenter", "-m", "-t", str(one.daemon.pid)]
    one.node.run([*inside, "mount", "-t", "tmpfs", "none", "/dev/net"])
    one.node.ip("link", "del", "flannel0")
    told.until("STATUS=not forwarding 100.96.1.0/24; the device or the packet path is down")
    assert ask(one.node, "readyz")[0] == 503
    assert metrics(one)["tunneld_ready"] == 0
    told.read()
    told.lines.clear()
    enough = one.daemon.status()["uptime_s"] + 1.6
    until(lambda: one.daemon.status()["uptime_s"] > enough, "four times the watchdog's time")
    assert "WATCHDOG=1" not in told.read()
    one.node.run([*inside, "umount", "/dev/net"])
    told.until("WATCHDOG=1")
    until(lambda: ask(one.node, "readyz")[0] == 200, "the repair")


def test_an_interface_that_is_gone_is_named(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    told = Told(one)
    one.node.ip("address", "flush", "dev", "eth0")
    told.until("waiting for the external interface: ")
    assert one.daemon.status()["state"] == "degraded"
    assert "\nbecause  waiting for the external interface: " in shown_status(one)
    one.node.ip("address", "add", "10.168.0.2/24", "dev", "eth0")
    until(lambda: one.daemon.status()["state"] == "ready", "the interface")


MISSING = (
    (["--iface", "eth7"], "eth7"),
    (["--iface", "lacking"], "lacking (no IPv4 address)"),
    (["--iface-can-reach", "192.0.2.1"], "--iface-can-reach 192.0.2.1"),
)


@pytest.mark.parametrize(("flags", "words"), MISSING, ids=["absent", "no address", "no route"])
def test_the_last_words(cluster: Cluster, flags: list[str], words: str) -> None:
    """A start without the interface fails, as flannel's: the manager shows why and tries again."""
    one = cluster.nodes[0]
    one.node.ip("link", "add", "lacking", "type", "veth")
    one.node.ip("route", "add", "unreachable", "192.0.2.1")
    argv = one.daemon.argv
    at = argv.index("--iface")
    argv[at : at + 2] = flags
    one.daemon.start()
    told = Told(one)
    until(lambda: not one.daemon.running, "the end")
    told.until("STOPPING=1")
    assert words in told.read()[-1]
    assert told.lines[-1].startswith("STATUS=")
