"""The lessons: each one builds hosts out of namespaces, runs real commands, and cleans up.

A lesson is one module `tunneld.demo.lessons.NAME` (hyphens as underscores) with

* `LESSON`, a `Lesson`: what the course says about it, what it needs, its exercise;
* `run(story, options) -> Results`: tells it, and returns the figures that it saw.

The order of `LESSONS` is the order of the course.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tunneld.errors import ConfigError

if TYPE_CHECKING:
    from tunneld.demo.story import Story

LESSONS: Mapping[str, str] = {
    "tour": "a packet's trip through the tunnel, and the same over kernel VXLAN",
    "one-host": "veth, bridge, ARP, a pod, MASQUERADE: how containers of one host talk",
    "one-packet": "one ping through the tunnel, caught at every station of both nodes",
    "three-crossings": "what the three crossings between user and kernel space cost, counted",
    "ladder": "one idea at a time, from 0.1 of VXLAN's throughput to its level",
    "vxlan": "the same without leaving the kernel: VTEP, three tables, the frame",
    "vxlan-history": "the first generation: the kernel asks, the daemon answers",
    "host-gw": "no tunnel at all, and where that cannot work",
    "when-it-breaks": "loss, MTU, a dead peer, a wrong key: what one sees, and where",
    "store": "what etcd holds, and how it changes as nodes come and go",
    "cidr": "addresses by hand: `tunneld demo cidr 10.233.64.0/18`",
}
"""Lesson -> one line about it."""

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the course says about a lesson.

    Attributes:
        title: its headline.
        learn: what one will have learned, a sentence each.
        question: the exercise.
        answer: shown with `--solution` only.
        needs: what the machine must have; names of `needs.CHECKS`, or "tool:package" for a program.
        arguments: how many words may follow the name.
    """

    title: str
    learn: tuple[str, ...]
    question: str
    answer: str
    needs: tuple[str, ...] = ("root", "tun")
    arguments: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What a lesson can be asked for.

    Attributes:
        seconds: length of each load; None: as the lesson likes.
        setting: offloads of the underlay.
        dataplane: rung of the daemons.
        throttle: rate of the underlay as tc(8) writes it ("200mbit"); None: as fast as it goes.
        keep: leave everything up at the end.
        arguments: words behind the lesson's name.
    """

    seconds: int | None = None
    setting: str = "sgro"
    dataplane: str = "auto"
    throttle: str | None = None
    keep: bool = False
    arguments: tuple[str, ...] = field(default=())


class LessonModule(Protocol):
    """What the module of a lesson has."""

    LESSON: Lesson

    def run(self, story: Story, options: Options) -> Results:
        """Tell the lesson and return its figures."""


def load(name: str) -> LessonModule:
    """Return the module of a lesson.

    Raises:
        ConfigError: there is no such lesson; with the names of all.
    """
    if name not in LESSONS:
        raise ConfigError(f"no lesson {name!r}", remedy="one of: " + ", ".join(LESSONS))
    module: LessonModule = importlib.import_module(f"tunneld.demo.lessons.{name.replace('-', '_')}")
    return module
