"""The one judgement of state, readiness and life."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest

from tunneld.lease import Lease, LeaseAttrs
from tunneld.observe.health import Health, assess
from tunneld.parts import Cached
from tunneld.store import StoreHealth

OWN = Lease(IPv4Network("100.96.1.0/24"), LeaseAttrs(IPv4Address("10.168.0.2")))
WELL = StoreHealth("connected", 1.0)


@dataclass
class Facts:
    """A service with nothing wrong."""

    forwarding: bool = True
    dataplane: str = "offload"
    ready: bool = True
    no_underlay: str = ""
    announced: bool = True
    store: StoreHealth = WELL
    doubles: tuple[str, ...] = ()
    cached: Cached | None = None
    failing: dict[str, str] = field(default_factory=dict)
    expires_in: float | None = 1000.0
    peers: list[Lease] = field(default_factory=lambda: [OWN])

    def assess(self) -> Health:
        backend = SimpleNamespace(forwarding=self.forwarding, dataplane=self.dataplane)
        service: Any = SimpleNamespace(
            ready=self.ready,
            no_underlay=self.no_underlay,
            guard=SimpleNamespace(doubles=self.doubles),
            cached=self.cached,
            failing=self.failing,
            parts=SimpleNamespace(
                backend=SimpleNamespace(status=lambda: backend),
                store=SimpleNamespace(health=lambda: self.store),
                keeper=SimpleNamespace(
                    held=SimpleNamespace(lease=OWN),
                    announced=self.announced,
                    expires_in=self.expires_in,
                ),
                subnet_map=SimpleNamespace(peers=self.peers),
            ),
        )
        return assess(service)


def test_well() -> None:
    health = Facts().assess()
    assert (health.state, health.serving, health.alive, health.reasons) == ("ready", True, True, ())
    assert str(health) == "forwarding 100.96.1.0/24, 1 peer"


def test_before_there_is_a_service() -> None:
    health = assess(None, waiting="waiting for the store: gone")
    assert (health.state, health.serving, health.alive) == ("starting", False, True)
    assert str(health) == "waiting for the store: gone"
    assert str(assess(None)) == "starting"


def test_stopping() -> None:
    health = assess(None, stopping=True)
    assert (health.state, health.serving, str(health)) == ("stopping", False, "stopping")


def test_no_listing_yet() -> None:
    health = Facts(ready=False).assess()
    assert (health.state, health.serving, health.alive) == ("starting", False, True)
    assert str(health) == "waiting for the store: no list of peers yet"


def test_no_listing_yet_and_why() -> None:
    store = StoreHealth("connecting", None).failed("http://10.0.0.9:2379: refused")
    health = Facts(ready=False, store=store, failing={"peers": "no right"}).assess()
    said = str(health)
    assert said.startswith("waiting for the store: no list of peers yet: http://10.0.0.9:2379: ref")
    assert re.search(r"refused \(since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\); ", said)
    assert said.endswith("the newest list of peers is not in force: no right")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts(no_underlay="no eth0"), "waiting for the external interface: no eth0"),
        (Facts(store=StoreHealth("disconnected", 1.0, "refused")), "for the store: refused"),
        (Facts(store=StoreHealth("connecting", 1.0)), "for the store: connecting"),
        (Facts(announced=False), "waiting to write our lease to the store"),
        (Facts(announced=False, expires_in=-1), "lease to the store, where it has ended"),
        (Facts(failing={"peers": "no right"}), "newest list of peers is not in force: no right"),
        (Facts(failing={"repair": "disk full"}), "are not all right: disk full"),
        (Facts(doubles=("a", "b")), "other hosts have our public IP: a, b"),
    ],
)
def test_degraded_but_traffic_goes_on(facts: Facts, reason: str) -> None:
    health = facts.assess()
    assert (health.state, health.serving, health.alive) == ("degraded", True, True)
    assert reason in str(health)
    assert str(health).startswith("forwarding 100.96.1.0/24")


def test_a_dead_packet_path() -> None:
    health = Facts(forwarding=False).assess()
    assert (health.state, health.serving, health.alive) == ("degraded", False, False)
    assert str(health).startswith("not forwarding 100.96.1.0/24; the device or the packet path")


def test_why_a_packet_path_is_dead() -> None:
    health = Facts(forwarding=False, failing={"repair": "no /dev/net/tun"}).assess()
    (reason,) = health.reasons
    assert reason == "the device or the packet path is down: no /dev/net/tun"


def test_an_outage_has_a_beginning() -> None:
    first = StoreHealth("connected", time.monotonic() - 120).failed("a")
    assert first.away_since == pytest.approx(time.monotonic(), abs=60)
    later = replace(first, away_since=time.monotonic() - 60).failed("b")
    assert (later.detail, later.last_sync) == ("b", first.last_sync)
    assert later.away_since == pytest.approx(time.monotonic() - 60, abs=30)
    said = str(Facts(store=later).assess())
    away, seen = (time.gmtime(time.time() - age) for age in (60, 120))
    assert f"waiting for the store: b (since {time.strftime('%Y-%m-%dT', away)}" in said
    assert f"forwarding 100.96.1.0/24, 1 peer as of {time.strftime('%Y-%m-%dT', seen)}" in said


def test_the_words_stay_while_the_outage_does() -> None:
    """The service manager is told what is new: an age would be that in each second."""
    facts = Facts(store=StoreHealth("connected", 1.0).failed("refused"))
    assert str(facts.assess()) == str(facts.assess())


def test_peers_of_the_last_run_are_called_so() -> None:
    store = StoreHealth("connecting", None).failed("refused")
    cached = Cached((), never, 1_800_000_000.0)
    said = str(Facts(store=store, cached=cached).assess())
    assert "1 peer of the last run, cached 2027-01-15T08:00:00Z; waiting for the store" in said
    said = str(Facts(store=store, cached=Cached((), never)).assess())
    assert "1 peer of the last run; waiting for the store" in said


async def never() -> None:
    """Confirm nothing."""


def test_a_link_that_is_down_is_no_reason_to_be_restarted() -> None:
    health = Facts(forwarding=False, dataplane="kernel").assess()
    assert (health.serving, health.alive) == (False, True)


def test_several_reasons() -> None:
    health = Facts(announced=False, doubles=("a",)).assess()
    assert len(health.reasons) == 2
    assert str(health).count("; ") == 2
