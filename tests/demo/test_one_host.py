"""Lesson one-host: what is true of a bridge, a pod and a masquerading host wherever it runs."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.demo.running import DEMO, ROOT, check_story, demo, document
from tunneld.demo.lessons._bridge import Sighting, whole

EVERYBODY = "ff:ff:ff:ff:ff:ff"
BOTH = {"veth2", "veth3"}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return document("one-host")


class TestOneHost:
    def test_a_container_is_a_namespace_and_its_cable_is_found(self, told: dict[str, Any]) -> None:
        assert len(set(told["namespaces"].values())) == 2
        assert told["veth"]["name"] == "veth2"
        assert told["veth"]["iflink"] > 1

    def test_arp_goes_to_everybody_and_the_rest_to_one(self, told: dict[str, Any]) -> None:
        frames = {each["frame"]: each for each in told["frames"]}
        assert [each["frame"] for each in told["frames"]] == [
            *("ARP request", "ARP reply", "echo request", "echo reply"),
        ]
        assert frames["ARP request"]["to"] == EVERYBODY
        assert set(frames["ARP request"]["ports"]) == {*BOTH, "veth4"}
        for name in ("ARP reply", "echo request", "echo reply"):
            assert frames[name]["to"] != EVERYBODY
            assert set(frames[name]["ports"]) == BOTH

    def test_the_bridge_has_learned_who_is_where(self, told: dict[str, Any]) -> None:
        assert told["learned_before"] == 0
        to = {each["frame"]: each["to"] for each in told["frames"]}
        first, second = to["ARP reply"], to["echo request"]
        assert told["learned_after"] == {first: "veth2", second: "veth3"}

    def test_nothing_is_routed_on_one_host(self, told: dict[str, Any]) -> None:
        assert told["ttl"] == {"container": 64, "from_host": 64, "to_host": 64}

    def test_a_pod_is_one_namespace(self, told: dict[str, Any]) -> None:
        pod = told["pod"]
        assert pod["one_namespace"] is True
        assert pod["address"] == ["100.96.1.4"]
        assert "[Errno 98]" in pod["clash"]
        assert pod["localhost"] == pod["by_address"] == "HTTP/1.0 200 OK"
        assert "refused" in pod["localhost_elsewhere"]

    def test_masquerade_changes_the_source_and_brings_the_answer(
        self, told: dict[str, Any]
    ) -> None:
        outside = told["outside"]
        assert outside["without"] == {"source": "100.96.1.2", "ttl": 0}
        assert outside["with"] == {
            "source": "10.168.0.2",
            "source_inside": "100.96.1.2",
            "ttl": 63,
        }
        if outside["conntrack"]:
            assert outside["conntrack"] == [
                "src=100.96.1.2 dst=10.168.0.66",
                "src=10.168.0.66 dst=10.168.0.2",
            ]


def test_the_story_is_whole() -> None:
    done = demo("one-host", "--solution")
    check_story(done)
    for part in (
        "docker0  100.96.1.1/24",
        "node1 $ grep -x ",
        "mask              255.255.255.0",
        "tunneld demo cidr 10.233.64.0/18",
        "ARP, Request who-has 100.96.1.3 tell 100.96.1.2",
        "nft add rule ip lesson out ip saddr 100.96.1.0/24",
        "Network is unreachable",
    ):
        assert part in done.out, part


def test_a_ping_is_whole_once_each_frame_went_in_and_out() -> None:
    names = ("ARP request", "ARP reply", "echo request", "echo reply")
    seen = [Sighting(name, EVERYBODY, ("veth2", "veth3")) for name in names]
    assert whole(seen)
    assert not whole(seen[:3])
    assert not whole([*seen[:3], Sighting("echo reply", EVERYBODY, ("veth3",))])


def test_in_a_user_namespace_it_says_what_cannot_be_done_there() -> None:
    inside = 'mount -t tmpfs none /run && mkdir /run/netns && exec "$@"'
    argv = ["unshare", "-Urnm", "sh", "-c", inside, "sh", *DEMO, "one-host"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "lesson one-host cannot run here: tcpdump cannot change its groups" in done.stderr
    assert "sudo" in done.stderr
