"""The five stations of a packet, found in what the taps of both nodes have captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.lab import PORT, Frame
from tunneld.lab.headers import Packet, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST, REPLY = 8, 0
SEQUENCE = 1


@dataclass(frozen=True, slots=True)
class Station:
    """One sighting of the packet.

    Attributes:
        node: where.
        interface: at which interface.
        time: when, seconds since the epoch.
        inner: the container's packet.
        outer: the packet around it, on the wire only.
    """

    node: str
    interface: str
    time: float
    inner: Packet
    outer: Packet | None


def find(frames: Sequence[Frame], icmp_type: int) -> list[Station]:
    """Return the sightings of the first echo request (8) or reply (0), in order of time."""
    stations = []
    for frame in frames:
        packet = parse(frame.packet)
        if packet is None:
            continue
        inner = packet.encapsulated(PORT)
        container_packet = inner or packet
        if container_packet.icmp_type == icmp_type and container_packet.icmp_sequence == SEQUENCE:
            outer = packet if inner else None
            stations.append(
                Station(frame.node, frame.interface, frame.time, container_packet, outer)
            )
    return sorted(stations, key=lambda station: station.time)


def complete(frames: Sequence[Frame]) -> bool:
    """Tell whether request and reply have been seen at all five stations."""
    return all(len(find(frames, kind)) >= 5 for kind in (REQUEST, REPLY))
