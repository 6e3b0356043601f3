"""Lesson when-it-breaks: each fault is seen where the lesson says, and heals."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.demo.running import document
from tunneld.demo.lessons._fault import pings
from tunneld.demo.lessons._fault_trust import echo_request
from tunneld.lab import CommandError

Figures = dict[str, Any]


@pytest.fixture(scope="module")
def seen() -> Figures:
    """What one run saw; it takes half a minute."""
    return document("when-it-breaks")


class TestWhatPingSays:
    def test_losses_and_errors_are_read(self) -> None:
        text = (
            "From 100.96.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1472)\n"
            "2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 201ms\n"
        )
        found = pings("ping", text)
        assert (found.sent, found.received, found.lost, found.errors) == (2, 0, 2, 2)
        assert found.teller == ("100.96.1.1", 1472)

    def test_one_that_did_not_start_is_an_error(self) -> None:
        with pytest.raises(CommandError, match="ping -x: usage"):
            pings("ping -x", "usage\n")


def test_the_forged_packet_is_a_whole_one() -> None:
    """Byte for byte: both checksums were taken from a packet of the kernel."""
    data = echo_request(IPv4Address("100.96.2.3"), IPv4Address("100.96.1.2"))
    assert data == "RQAAHAABAABAAa8bZGACA2RgAQIIAPf3AAcAAQ=="


@pytest.mark.soak
@pytest.mark.timeout(300)
class TestFaults:
    def test_nothing_is_lost_before(self, seen: Figures) -> None:
        assert seen["healthy"]["pings_lost"] == 0

    def test_loss_is_the_difference_of_two_counters(self, seen: Figures) -> None:
        loss = seen["loss"]
        assert loss["lost"] == loss["written"] - loss["read"] > 0
        assert loss["lost"] == loss["dropped_by_switch"] + loss["dropped_by_queues"]
        assert 0 < loss["pings_lost"] < loss["pings"] / 2
        assert loss["retransmits"] > 0
        assert loss["pings_lost_when_healed"] == 0

    def test_the_kernel_tells_of_flannel0s_mtu(self, seen: Figures) -> None:
        mtu = seen["mtu"]
        assert (mtu["told_by"], mtu["told"], mtu["learnt"]) == ("100.96.1.1", 1472, 1472)

    def test_without_icmp_small_packets_pass_and_streams_hang(self, seen: Figures) -> None:
        hole = seen["mtu"]["black_hole"]
        assert hole == {"small_lost": 0, "mbps": 0.0, "full_lost_when_healed": 0}

    def test_tunneld_tells_of_a_narrow_link(self, seen: Figures) -> None:
        narrow = seen["narrow"]
        assert (narrow["told_by"], narrow["told"], narrow["learnt"]) == ("100.96.1.0", 1372, 1372)
        assert narrow["drop_too_big"] >= 1
        assert narrow["full_lost_when_healed"] == 0

    def test_a_dead_peer_answers_on_the_wire_only(self, seen: Figures) -> None:
        dead = seen["dead_peer"]
        assert dead["pings_lost"] == dead["sent"] == 5
        assert dead["received"] == 0
        assert dead["port_unreachable_on_the_wire"]
        assert dead["container_behind_it_was_told"]
        assert dead["pings_lost_when_healed"] == 0

    def test_a_wrong_key_costs_nobody_else_anything(self, seen: Figures) -> None:
        store = seen["store"]
        assert store["skipped"] == ["100.96.7.0-24"]
        assert store["peers"] == ["100.96.2.0/24", "100.96.9.0/24"]
        assert store["good_pings_lost"] == 0
        assert store["lied_pings_lost"] == store["drop_foreign_destination"] == 3
        assert store["unassigned_told"]
        assert store["drop_no_route"] == 1

    def test_no_forged_packet_arrives(self, seen: Figures) -> None:
        assert seen["spoofed"] == {
            "sent": 5,
            "reached": 0,
            "drop_outer_source": 1,
            "drop_outer_port": 1,
            "drop_spoofed_source": 3,
        }

    def test_the_device_comes_back(self, seen: Figures) -> None:
        device = seen["device"]
        assert device["repairs"] == 1
        assert device["pings_lost"] < device["pings"]
        assert device["back_after_ms"] > 0
