"""The benchmark on real clusters: it sees what is slow and what disturbs it, and can go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench import bed, contenders, noise, run, show, stats
from bench.contenders import Direct, Vxlan
from bench.results import load
from bench.runner import Plan
from tests.netns.waiting import until
from tunneld.lab import Cluster, tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent.parent


class Slowed:
    """The direct path through a token bucket of 100 Mb/s: a contender that is slow for certain."""

    def __init__(self) -> None:
        self.name = "slowed"
        self._direct = Direct()

    def missing(self) -> str | None:
        return None

    @contextlib.contextmanager
    def up(self, cluster: Cluster) -> Iterator[None]:
        with self._direct.up(cluster):
            bucket = ["root", "tbf", "rate", "100mbit", "burst", "64kb", "latency", "20ms"]
            for host in cluster.nodes:
                host.node.run(["tc", "qdisc", "add", "dev", "eth0", *bucket])
            try:
                yield
            finally:
                for host in cluster.nodes:
                    host.node.run(["tc", "qdisc", "del", "dev", "eth0", "root"])

    def pids(self) -> Sequence[int]:
        return ()

    def command_lines(self) -> list[str]:
        return self._direct.command_lines()


def test_slow_contender_is_reported_slow(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    plan = Plan("sgro", ("slowed", "vxlan"), ("tcp1",), rounds=1, seconds=1)
    said: list[str] = []
    document = run.measure(plan, path, chosen=[Slowed(), Vxlan()], tell=said.append, wait_s=0)
    ratio = stats.ratio(document["runs"], "slowed", "vxlan", "tcp1", "gbps")
    assert ratio is not None
    assert ratio.median < 0.5
    assert stats.verdict(ratio, "gbps") == "worse"
    assert "worse" in show.tables(document)
    assert load(path) == json.loads(json.dumps(document)), "the disk holds the same"
    assert any("2/2 round 1/1 vxlan tcp1" in line for line in said)
    assert document["machine"]["underlay"]["offload"]["node1"]["tx-udp-segmentation"] is False


@contextlib.contextmanager
def neighbour() -> Iterator[int]:
    """Keep one CPU busy with a process that is not ours: its parent has ended."""
    script = "timeout 60 sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $!"
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    pid = int(said.stdout)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)


def test_noisy_neighbour_is_flagged_and_system_calls_are_counted() -> None:
    with Cluster(nodes=2, setting="sgro", shape="cable") as cluster:
        chosen = contenders.choose(["udp"])
        lab = bed.LabBed(cluster, chosen, wait_s=0.0)
        with lab.up("udp") as told, neighbour():
            assert "tunneld run" in told["command_lines"][0]
            assert told["mtu"] == 1472
            got = lab.measure((1, "udp", "pingpong"), 1)
    share = 1 / (os.cpu_count() or 1)
    assert not got["quiet"]
    assert got["noise"]["before"] > noise.LIMIT
    assert got["noise"]["foreign"] > share / 4, "one CPU was wanted the whole time"
    assert got["histograms"]["rtt_us"]
    metrics = got["metrics"]
    assert metrics["syscalls_per_packet"] > 1, "nothing to batch: each packet is read and written"
    assert metrics["context_switches_per_packet"] > 0
    if tracing.tool() is None:
        assert "traced" not in got
    else:
        ratio = got["traced"]["syscalls_per_packet"] / metrics["syscalls_per_packet"]
        assert 0.5 < ratio < 2, f"counters and tracepoints disagree: {got['traced']}"


def test_interrupted_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    argv = ["run", "--contender", "direct", "vxlan", "--workload", "pingpong", "--wait", "0"]
    argv += ["--rounds", "1", "--seconds", "1", "--json", str(path)]
    command = [sys.executable, "-m", "bench", *argv]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        until(lambda: path.exists() and load(path)["runs"], "the first run", timeout=60)
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=60)
    assert child.returncode == 130, output
    assert f"1 runs are in {path}" in output
    assert "Traceback" not in output
    assert not list(Path("/run/netns").glob(f"tl{child.pid}-*"))
    first = load(path)["runs"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    runs = load(path)["runs"]
    assert [each["contender"] for each in runs] == ["direct", "vxlan"]
    assert runs[:1] == first, "what was there has stayed"
    assert "/ vxlan" in done.stdout
