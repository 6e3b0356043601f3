"""What the service manager is told, and when."""

from __future__ import annotations

import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from tunneld.observe.notify import Manager, notify, status


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[str] = []

    def manager(self, **environ: str) -> Manager:
        return Manager(environ, self.sent.append, lambda: self.now)

    def run(self, manager: Manager, seconds: float, *, alive: bool = True) -> list[float]:
        """Call it at every tick; returns the moments of the beats."""
        beats = []
        end = self.now + seconds
        while self.now < end:
            before = len(self.sent)
            manager.beat(alive=alive)
            beats += [self.now] * (len(self.sent) - before)
            self.now += manager.tick
        return beats


@pytest.mark.parametrize("name", ["socket", "@abstract"])
def test_sent_to_the_socket(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = name + str(os.getpid()) if name.startswith("@") else str(tmp_path / name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if name.startswith("@") else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"


def test_no_manager_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


def test_a_status_is_one_line() -> None:
    assert status("lost\nREADY=1\n") == "STATUS=lost READY=1"


def test_a_status_is_told_once() -> None:
    clock = Clock()
    manager = clock.manager()
    for text in ("a", "a", "b", "b", "a"):
        manager.tell(text)
    assert clock.sent == ["STATUS=a", "STATUS=b", "STATUS=a"]


@pytest.mark.parametrize("seconds", [0.4, 3, 30, 600])
def test_the_watchdog_is_fed_at_half_its_time(seconds: float) -> None:
    clock = Clock()
    manager = clock.manager(WATCHDOG_USEC=str(int(seconds * 1e6)))
    beats = clock.run(manager, 10 * seconds)
    assert beats[0] == 100.0
    gaps = [later - sooner for sooner, later in pairwise(beats)]
    assert max(gaps) <= seconds / 2 + 1e-6
    assert min(gaps) >= seconds / 2 - 2 * manager.tick
    assert set(clock.sent) == {"WATCHDOG=1"}


def test_a_dead_part_starves_the_watchdog_until_it_lives_again() -> None:
    clock = Clock()
    manager = clock.manager(WATCHDOG_USEC="30000000")
    assert clock.run(manager, 60, alive=False) == []
    # At once, and not at the next half: by then it may be too late.
    assert clock.run(manager, 1)[0] == pytest.approx(160, abs=manager.tick)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog(environ: dict[str, str]) -> None:
    clock = Clock()
    assert clock.run(clock.manager(**environ), 100) == []


def test_our_own_pid() -> None:
    clock = Clock()
    manager = clock.manager(WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    assert clock.run(manager, 1) == [100.0]
