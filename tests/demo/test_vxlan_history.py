"""Lesson vxlan-history: what a run must show on any machine, and the monitor's lines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.running import document
from tunneld.demo.lessons._asking import misses, parse

UNREACHABLE = "Destination Host Unreachable"

# A run takes some 18 s.
soak = pytest.mark.soak


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return document("vxlan-history")


@soak
def test_on_the_bridge_both_tables_are_asked_for_and_answered_by_hand(
    figures: dict[str, Any],
) -> None:
    bridge = figures["bridge"]
    for question in ("l3_misses", "l2_misses", "misses_back"):
        assert bridge[question] >= 1, question
    assert bridge["answered"] == 2
    assert bridge["entries"] == {"neighbours": 1, "fdb": 1}


@soak
def test_generation_1_asks_for_each_container_and_2_never(figures: dict[str, Any]) -> None:
    first, second = figures["generation1"], figures["generation2"]
    assert first["asked"] >= 1
    assert sorted(set(first["asked_more"])) == ["100.96.2.4", "100.96.2.5", "100.96.2.6"]
    assert first["entries"] == {"neighbours": [1, 2, 4], "fdb": [1, 1, 1]}
    assert second["entries"] == {"neighbours": [1, 1, 1], "fdb": [1, 1, 1]}
    assert second["asked"] == 0


@soak
def test_without_its_daemon_generation_1_fails_and_2_goes_on(figures: dict[str, Any]) -> None:
    assert figures["generation1"]["dead"] == {
        "known": "reply",
        "new": UNREACHABLE,
        "aged": UNREACHABLE,
    }
    # app_solicit
    assert figures["generation1"]["unanswered"] == 3
    assert figures["generation2"]["dead"] == {
        "known": "reply",
        "new": "reply",
        "aged": "cannot age",
    }


class TestMonitorLines:
    STAMP = "[2026-11-21T11:04:15.583198] "

    def test_a_question_for_an_address(self) -> None:
        told = parse(f"{self.STAMP}miss 100.96.2.3 dev flannel.1 INCOMPLETE ", "flannel.1")
        assert told is not None
        assert (told.miss, told.wanted, told.clock) == (True, "100.96.2.3", "11:04:15.583198")
        assert told.text == "miss 100.96.2.3 INCOMPLETE"
        assert misses([told], "100.96.2.3") == [told]
        assert misses([told], "100.96.2.4") == []

    def test_a_question_for_a_mac(self) -> None:
        told = parse(f"{self.STAMP}miss dev vtep0 lladdr 02:00:0a:14:01:03 STALE ", "vtep0")
        assert told is not None
        assert (told.miss, told.wanted) == (True, "02:00:0a:14:01:03")

    def test_an_answer_is_no_question(self) -> None:
        line = f"{self.STAMP}10.168.0.3 dev vtep0 lladdr 02:00:0a:14:01:03 NOARP PERMANENT "
        told = parse(line, "vtep0")
        assert told is not None
        assert (told.miss, told.wanted) == (False, "10.168.0.3")
        assert misses([told], "10.168.0.3") == []

    @pytest.mark.parametrize(
        "line",
        [
            "miss 100.96.2.3 dev flannel.1 INCOMPLETE",
            f"{STAMP}miss 100.96.2.3 dev flannel.10 INCOMPLETE ",
            f"{STAMP}10.168.0.3 dev eth0 lladdr aa:c3:d0:c5:cf:61 REACHABLE ",
            "",
        ],
    )
    def test_other_lines_are_passed_over(self, line: str) -> None:
        assert parse(line, "flannel.1") is None
