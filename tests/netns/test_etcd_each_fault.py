"""The faults of `python -m bench faults` that no other test has: what the daemons tell of each.

Beside each goes the stream of 10,000 datagrams a second; none may be lost.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.fault_bed import PASSWORD, FaultBed, wait_for
from bench.fault_list import BAD_KEYS, BAD_VALUES, FAULTS, OTHER_PASSWORD, befall
from tests.netns.test_observe import metrics
from tests.netns.waiting import until
from tunneld.lab import wait_for_ping

if TYPE_CHECKING:
    from tunneld.lab import ClusterNode

ELSEWHERE = {
    "killed and started",
    "frozen for 30 s",
    "one of three killed, in turn",
    "compacted, 100 changes unseen",
    "data directory wiped",
}
"""Those of test_etcd_faults.py."""

PUT_AGAIN = {"own keys deleted", "tokens expired"}


def tells_the_truth(bed: FaultBed, *, cut_off: bool) -> None:
    """Compare status and metrics of every daemon with what is so."""
    state, store = ("degraded", "disconnected") if cut_off else ("ready", "connected")
    for host in bed.nodes:
        # The one may be asked before the other has noticed.
        until(lambda host=host: host.daemon.status()["state"] == state, state)  # type: ignore[misc]
        until(lambda host=host: host.daemon.status()["store"]["state"] == store, store)  # type: ignore[misc]
        told = metrics(host)
        assert told[f"tunneld_state,{state}"] == told[f"tunneld_store_state,{store}"] == 1
        assert told["tunneld_ready"] == 1, "packets are forwarded all the same"


def all_that_is_written(host: ClusterNode) -> str:
    """Return whatever a daemon tells anybody: its debug log, status, metrics and cache."""
    cache = host.daemon.state_dir / "state.json"
    until(cache.exists, "the cache")
    told = [host.daemon.log.read_text(), cache.read_text(), json.dumps(host.daemon.status())]
    return " ".join([*told, *metrics(host)])


def check(name: str) -> None:
    """Have one fault happen, and compare everything that can be seen of it."""
    fault = FAULTS[name]

    def meanwhile(bed: FaultBed) -> None:
        tells_the_truth(bed, cut_off=bool(fault.says))

    def after(bed: FaultBed) -> None:
        tells_the_truth(bed, cut_off=False)
        for host in bed.nodes:
            count = host.daemon.status()["lease"]["put_again"]
            assert count == metrics(host)["tunneld_lease_restored_total"] == (name in PUT_AGAIN)
            text = all_that_is_written(host)
            assert "Traceback" not in text
            assert PASSWORD not in text
            assert OTHER_PASSWORD not in text

    outcome = befall(fault, meanwhile, after)
    assert outcome.sent > 500
    if not fault.peers_change:
        assert outcome.lost == 0, outcome
    assert max(outcome.recovered_s) < 2 * fault.bar, "the bar itself is for a quiet machine"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.soak] if name == "10,000 leases at once" else [])
        for name in FAULTS
        if name not in ELSEWHERE
    ],
)
def test_a_fault_costs_no_packet(name: str) -> None:
    check(name)


def test_nonsense_among_500_costs_no_route() -> None:
    """Not when it comes, and not when a daemon starts and finds it all there."""
    fault = FAULTS["nonsense among 500"]
    with FaultBed(fault.setup) as bed:
        good = {host.name: bed.peers(host) for host in bed.nodes}
        assert {len(peers) for peers in good.values()} == {500}
        fault.begin(bed)
        one = bed.nodes[0]
        bad = len(BAD_KEYS) + len(BAD_VALUES)
        for start in (1, 2):
            assert good[one.name] < bed.peers(one)
            assert len(bed.peers(one)) == 501, "and the lease that came behind the nonsense"
            told = metrics(one)
            assert told["tunneld_leases_quarantined"] == bad
            wait_for_ping(one.container, bed.nodes[1].container.address)
            assert one.daemon.stop() == 0
            assert one.daemon.log.read_text().count("lease skipped") == start * bad, "each once"
            one.daemon.start()
            one.daemon.wait_ready()
            wait_for(lambda: len(bed.peers(one)) == 501, "the listing")


def test_a_clock_that_jumps_renews_nothing() -> None:
    fault = FAULTS["clock a day on, then back"]
    with FaultBed(fault.setup) as bed:
        keys = bed.own_keys()
        before = [bed.ctl("get", key, "-w", "fields").splitlines() for key in keys]
        fault.begin(bed)
        for host in bed.nodes:
            left = host.daemon.status()["lease"]["expires_in_s"]
            assert 86_000 < left <= 86_400
        after = [bed.ctl("get", key, "-w", "fields").splitlines() for key in keys]
        for one, other in zip(before, after, strict=True):
            kept = [line for line in one if line.startswith(('"ModRevision"', '"Lease"'))]
            assert len(kept) == 2
            assert set(kept) <= set(other)
        # The jump is real: the log is written by it.
        days = {line[5:15] for line in bed.nodes[0].daemon.log.read_text().splitlines()}
        assert len(days) > 1, days
