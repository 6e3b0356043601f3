"""The lessons: each one builds a cluster, shows real commands and real packets, and cleans up.

A lesson is one module with `run(screen, options) -> Results`, and one line in `LESSONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LESSONS: dict[str, str] = {
    "tour": "a packet's trip through the tunnel, and the same over kernel VXLAN",
}
"""Lesson -> one line about it; the module is `tunneld.demo.<lesson>`. The first is the default."""

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What a lesson can be asked for.

    Attributes:
        seconds: length of each iperf3 run.
        setting: offloads of the underlay.
        dataplane: rung of the daemons.
    """

    seconds: int = 4
    setting: str = "sgro"
    dataplane: str = "auto"
