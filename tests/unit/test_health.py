"""The one judgement of state, readiness and life."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest

from tunneld.lease import Lease, LeaseAttrs
from tunneld.observe.health import Health, assess
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
    peers: list[Lease] = field(default_factory=lambda: [OWN])

    def assess(self) -> Health:
        backend = SimpleNamespace(forwarding=self.forwarding, dataplane=self.dataplane)
        service: Any = SimpleNamespace(
            ready=self.ready,
            no_underlay=self.no_underlay,
            guard=SimpleNamespace(doubles=self.doubles),
            parts=SimpleNamespace(
                backend=SimpleNamespace(status=lambda: backend),
                store=SimpleNamespace(health=lambda: self.store),
                keeper=SimpleNamespace(held=SimpleNamespace(lease=OWN), announced=self.announced),
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
    assert "waiting for the store" in str(health)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts(no_underlay="no eth0"), "waiting for the external interface: no eth0"),
        (Facts(store=StoreHealth("disconnected", 1.0, "refused")), "for the store: refused"),
        (Facts(store=StoreHealth("connecting", 1.0)), "for the store: connecting"),
        (Facts(announced=False), "waiting to write our lease"),
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


def test_a_link_that_is_down_is_no_reason_to_be_restarted() -> None:
    health = Facts(forwarding=False, dataplane="kernel").assess()
    assert (health.serving, health.alive) == (False, True)


def test_several_reasons() -> None:
    health = Facts(announced=False, doubles=("a",)).assess()
    assert len(health.reasons) == 2
    assert str(health).count("; ") == 2
