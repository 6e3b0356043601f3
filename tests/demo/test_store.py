"""Lesson store: what etcd tells a watch, and who follows it, wherever it runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.running import check_story, demo, document

pytestmark = pytest.mark.soak

PEER = "100.96.2.0/24"


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, Any]]:
    return {step["what"]: step for step in document("store")["steps"]}


def summary(step: dict[str, Any]) -> tuple[list[str], list[str], str]:
    return step["events"], step["peers"], step["ping"]


class TestStore:
    def test_a_node_that_joins_puts_its_key_and_the_other_follows(
        self, steps: dict[str, dict[str, Any]]
    ) -> None:
        first, second = steps["node 1 joins"], steps["node 2 joins"]
        assert summary(first) == (["PUT"], [], "net unreachable")
        assert first["keys"] == ["100.96.1.0-24"]
        assert first["lease_s"] == 86400
        assert summary(second) == (["PUT"], [PEER], "answered")
        assert second["keys"] == ["100.96.2.0-24"]
        assert second["values"] == ['{"PublicIP":"10.168.0.3","PublicIPv6":null}']

    def test_a_node_that_stops_keeps_its_key(self, steps: dict[str, dict[str, Any]]) -> None:
        stops, back = steps["node 2 stops"], steps["node 2 comes back"]
        assert summary(stops) == ([], [PEER], "silence")
        assert stops["exit_code"] == 0
        # Nothing else came before it: the key was there all the time.
        assert summary(back) == (["PUT"], [PEER], "answered")
        assert back["values"] == steps["node 2 joins"]["values"]

    def test_a_dead_node_goes_with_its_lease(self, steps: dict[str, dict[str, Any]]) -> None:
        ends = steps["node 2's lease ends"]
        assert summary(ends) == (["DELETE"], [], "net unreachable")
        assert ends["keys"] == ["100.96.2.0-24"]
        assert 86000 < ends["remaining_s"] <= 86400
        assert ends["known_after_ms"] > 0

    def test_a_lease_expires_by_itself(self, steps: dict[str, dict[str, Any]]) -> None:
        expires = steps["a lease expires"]
        assert expires["events"] == ["PUT", "DELETE"]
        assert expires["keys"] == ["100.96.7.0-24"] * 2
        assert expires["peers"] == []
        assert expires["lived_s"] >= 5

    def test_a_wrong_value_costs_nobody_else_anything(
        self, steps: dict[str, dict[str, Any]]
    ) -> None:
        wrong = steps["a wrong value"]
        assert summary(wrong) == (["PUT"], [PEER], "answered")
        assert wrong["named"] is True


def test_the_story_is_whole() -> None:
    done = demo("store", "--solution")
    check_story(done)
    for part in (
        "etcd $ ETCDCTL_API=3 etcdctl get --prefix /coreos.com/network",
        "etcd $ ETCDCTL_API=3 etcdctl watch --prefix /coreos.com/network/subnets &",
        '/coreos.com/network/subnets/100.96.2.0-24\n   {"PublicIP":"10.168.0.3","PublicIPv6":null}',
        "granted with TTL(86400s)",
        "The watch says nothing.",
        'skipped  100.96.9.0-24: malformed value: PublicIP "10.168.0.300" is no IPv4 address',
        "exit code 3",
    ):
        assert part in done.out, part
