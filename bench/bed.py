"""The lab as a test bed: two nodes, one cable, whatever contender is up, and all the counting."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from bench import common, machine, metrics, workloads
from bench.contenders import Contender, Counting, carrying
from bench.metrics import METRICS, Snapshot
from bench.noise import Foreign, Noise, wait_for_quiet
from bench.results import Run
from bench.runner import Step
from bench.workloads import WORKLOADS, Outcome
from tunneld.lab import Cluster, tracing

TRACED_S = 1
WARM_S = 0.2


class Meter:
    """Takes the counts before and after a block.

    Attributes:
        before: when the block began.
        after: when it ended.
    """

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self.before = self.after = self._read()

    def _read(self) -> Snapshot:
        counted: int | None = None
        if not self._contender.pids():
            counted = 0
        elif isinstance(self._contender, Counting):
            counted = self._contender.system_calls()
        return Snapshot.take(self._contender.pids(), counted)

    def __enter__(self) -> Self:
        self.before = self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.after = self._read()


class LabBed:
    """Runs contenders on a cluster (`runner.Bed`).

    Args:
        cluster: two nodes, up.
        contenders: who may be asked for.
        wait_s: longest wait for a quiet machine before a run.
        trace: count system calls by tracepoints in a short pass of its own, in the first round.
    """

    def __init__(
        self,
        cluster: Cluster,
        contenders: Sequence[Contender],
        *,
        wait_s: float = 10.0,
        trace: bool = True,
    ) -> None:
        self._cluster = cluster
        self._contenders = {item.name: item for item in contenders}
        self._wait_s = wait_s
        self._tracer = tracing.tool() if trace else None
        self._now: Contender | None = None

    def missing(self, contender: str) -> str | None:
        """Return why a contender cannot run here."""
        return self._contenders[contender].missing()

    @contextlib.contextmanager
    def up(self, contender: str) -> Iterator[Mapping[str, Any]]:
        """Bring it up, warm it up, and tell its command lines and the containers' MTU."""
        item = self._contenders[contender]
        with carrying(item, self._cluster):
            self._now = item
            one, other = self._cluster.containers
            common.ping_pong(one, other, seconds=WARM_S)
            # As fast as it goes: what chooses by load has then chosen once.
            common.udp(one, other, size=1000, seconds=WARM_S)
            link = json.loads(one.ip("-j", "link", "show", "dev", "eth0"))[0]
            yield {"command_lines": item.command_lines(), "mtu": link["mtu"]}
        self._now = None

    def measure(self, step: Step, seconds: int) -> Run:
        """Wait for quiet, run one load, and derive all figures."""
        item = self._now
        if item is None:
            raise RuntimeError("no contender is up")
        number, _, name = step
        before, waited = wait_for_quiet(self._wait_s)
        began = round(time.time(), 1)
        meter, foreign = Meter(item), Foreign.now(item.pids())
        outcome = self._load(name, seconds, meter)
        used, stolen = foreign.shares(Foreign.now(item.pids()))
        noise = Noise(before, used, stolen, waited)
        run = self._run(item, name, outcome, meter)
        run["quiet"], run["noise"] = noise.quiet, noise.as_dict()
        run["began"] = began
        if self._tracer is not None and number == 1 and item.pids():
            self._trace(item, name, run)
        return run

    def _load(self, name: str, seconds: int, meter: workloads.Meter) -> Outcome:
        one, other = self._cluster.containers
        return WORKLOADS[name].run(one, other, seconds, meter)

    @staticmethod
    def _run(item: Contender, name: str, outcome: Outcome, meter: Meter) -> Run:
        figures = outcome.metrics | metrics.derived(
            meter.before, meter.after, packets=outcome.packets, size=outcome.size
        )
        counting = isinstance(item, Counting)
        run: Run = {
            "metrics": figures,
            "sources": metrics.sources(processes=bool(item.pids()), counted=counting),
            "said": said(name, figures),
        }
        if outcome.histograms:
            run["histograms"] = outcome.histograms
        return run

    def _trace(self, item: Contender, name: str, run: Run) -> None:
        """Count once more by tracepoints, which slow the tunnel down: only counts are kept."""
        tracer = self._tracer or ""
        with tracing.counting(item.pids(), tracer) as counts:
            outcome = self._load(name, TRACED_S, contextlib.nullcontext())
        packets = max(outcome.packets, 1)
        run["traced"] = {
            "source": counts.source,
            "syscalls_per_packet": counts.syscalls / packets,
            "context_switches_per_packet": counts.switches / packets,
        }
        if "syscalls_per_packet" not in run["metrics"]:
            run["metrics"]["syscalls_per_packet"] = counts.syscalls / packets
            run["sources"]["syscalls_per_packet"] = counts.source


def said(workload: str, figures: Mapping[str, float]) -> str:
    """Return the first figures of a run as one short text."""
    names = [name for name in WORKLOADS[workload].columns[:2] if figures.get(name)]
    return ", ".join(METRICS[name].text(figures[name], unit=True) for name in names)


def describe(cluster: Cluster) -> dict[str, Any]:
    """Return the machine with the underlay as it really is."""
    return machine.machine() | {"underlay": machine.underlay(cluster)}
