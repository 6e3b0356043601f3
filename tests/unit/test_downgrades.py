"""One line for each downgrade, none for a packet path that begins anew."""

from __future__ import annotations

import pytest

from tunneld.backend.downgrades import Downgrades

GOOD: dict[str, int | bool | str] = {
    "batch": 64,
    "segments": 128,
    "coalesce_tcp": True,
    "coalesce_udp": True,
    "downgrades_udp": 0,
    "downgrades_tun": 0,
}


class Watch:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._now = dict(GOOD)
        self._caplog = caplog
        self._downgrades = Downgrades(lambda: self._now)
        assert self.after() == []

    def after(self, **changes: int | bool | str) -> list[str]:
        """What is logged when the gauges have changed so."""
        self._now = {**self._now, **changes}
        return self.look()

    def anew(self, *, running: bool) -> list[str]:
        self._now = dict(GOOD) if running else {}
        return self.look()

    def look(self) -> list[str]:
        self._caplog.clear()
        self._downgrades.look()
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Watch:
    return Watch(caplog)


def test_the_end_of_segments_is_told_once_with_the_remedy(watch: Watch) -> None:
    (line,) = watch.after(segments=1, downgrades_udp=1)
    assert "UDP_SEGMENT" in line
    assert "ethtool -K" in line
    assert watch.after() == []
    assert watch.after(downgrades_udp=1) == []


@pytest.mark.parametrize("gauge", ["coalesce_tcp", "coalesce_udp"])
def test_a_tun_that_takes_no_superpackets(watch: Watch, gauge: str) -> None:
    (line,) = watch.after(**{gauge: False, "downgrades_tun": 1})
    assert gauge[-3:].upper() in line
    assert watch.after() == []


def test_refusals_second_after_second_are_one_episode(watch: Watch) -> None:
    (line,) = watch.after(downgrades_udp=3)
    assert "one by one" in line
    assert watch.after(downgrades_udp=9) == []
    assert watch.after(downgrades_udp=20) == []
    assert watch.after() == []
    assert len(watch.after(downgrades_udp=21)) == 1


def test_how_many_times(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.after(downgrades_udp=3)
    watch.after()
    watch.after(downgrades_udp=5)
    (record,) = caplog.records
    assert record.__dict__["fields"] == {"times": 2, "in_all": 5}


def test_a_new_packet_path_is_no_downgrade(watch: Watch) -> None:
    watch.after(segments=1, downgrades_udp=5)
    assert watch.anew(running=False) == []
    assert watch.anew(running=True) == []
    assert len(watch.after(segments=1, downgrades_udp=1)) == 1


def test_rungs_without_such_gauges(caplog: pytest.LogCaptureFixture) -> None:
    downgrades = Downgrades(lambda: {"batch": 1})
    downgrades.look()
    downgrades.look()
    assert caplog.records == []
