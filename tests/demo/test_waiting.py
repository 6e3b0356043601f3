"""What lessons wait with, and what Ctrl-C does to it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

import pytest

from tunneld.demo import Options
from tunneld.demo.screen import Screen
from tunneld.demo.story import Story
from tunneld.demo.waiting import Beside, wait_until
from tunneld.lab import CommandError, Lab, Node

START = threading.Thread.start


@pytest.fixture
def node() -> Iterator[Node]:
    with Lab() as lab:
        yield lab.node("node1")


def test_the_first_true_state_is_returned_and_a_late_one_is_named() -> None:
    states = iter((0, "", "there"))
    assert wait_until(lambda: next(states), "it") == "there"
    with pytest.raises(CommandError, match=r"waited 0\.05 s for it"):
        wait_until(lambda: False, "it", 0.05)


class TestBeside:
    def test_lines_are_told_once_and_whole(self, node: Node) -> None:
        beside = Beside(node, "NAME=value env")
        beside.wait_for("NAME=")
        beside.wait_end()
        assert not {"NAME=value"}.isdisjoint(beside.new())
        assert not beside.waiting
        assert beside.new() == []
        assert "NAME=value" in beside.lines

    def test_one_that_ends_too_early_is_named_with_what_it_said(self, node: Node) -> None:
        beside = Beside(node, "ip link show nosuch")
        with pytest.raises(CommandError, match=r"nosuch: ended: .*does not exist"):
            beside.wait_for("listening")
        beside.close()


def test_ctrl_c_while_the_live_line_starts_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        START(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    story = Story(Screen(io.StringIO()), Options())
    with pytest.raises(KeyboardInterrupt), story.working("something"):
        pass
    deadline = time.monotonic() + 30
    while any(each.name == "progress" for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
