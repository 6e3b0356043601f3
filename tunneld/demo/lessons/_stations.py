"""The stations of a packet, found in what the taps of both nodes have captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.lab import PORT, Capture, CommandError, Frame
from tunneld.lab.headers import UDP, Packet, parse
from tunneld.lab.vxlan import PORT as VXLAN_PORT

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
        frame: all bytes.
    """

    node: str
    interface: str
    time: float
    inner: Packet
    outer: Packet | None
    frame: bytes

    @property
    def packet(self) -> Packet:
        """The outermost IPv4 packet."""
        return self.outer or self.inner

    @property
    def link(self) -> bytes:
        """The Ethernet header; empty on a TUN, which has none."""
        return self.frame[: len(self.frame) - self.packet.length]


def find(frames: Sequence[Frame], icmp_type: int) -> list[Station]:
    """Return the sightings of the first echo request (8) or reply (0), in order of the way.

    The TTL tells the order; time does only between two routers. Two stamps may be equal, and one
    of the first packets may be stamped when it is read: the kernel begins to stamp a little after
    the first socket has asked for it (net/core/dev.c, net_enable_timestamp).
    """
    stations = []
    for frame in frames:
        packet = parse(frame.packet)
        if packet is None:
            continue
        inner = _inside(packet)
        container_packet = inner or packet
        if container_packet.icmp_type == icmp_type and container_packet.icmp_sequence == SEQUENCE:
            outer = packet if inner else None
            seen = Station(
                frame.node, frame.interface, frame.time, container_packet, outer, frame.frame
            )
            stations.append(seen)
    return sorted(stations, key=lambda station: (-station.inner.ttl, station.time))


def _inside(packet: Packet) -> Packet | None:
    """Return the container's packet in a datagram of the UDP tunnel or of VXLAN."""
    if packet.protocol == UDP and packet.ports[1] == VXLAN_PORT:
        # 8 bytes of UDP, 8 of VXLAN, 14 of Ethernet.
        return parse(packet.payload[30:])
    return packet.encapsulated(PORT)


def complete(frames: Sequence[Frame]) -> bool:
    """Tell whether request and reply have been seen at all five stations."""
    return all(len(find(frames, kind)) >= 5 for kind in (REQUEST, REPLY))


def along(
    frames: Sequence[Frame], path: Sequence[tuple[str, str]], icmp_type: int
) -> list[Station] | None:
    """Return the first sighting at each (node, interface) of a path; None: one is missing.

    In the path's order, not in that of time: the kernel stamps a packet when it comes in, and what
    hands it on without copying hands the stamp on too.
    """
    seen: dict[tuple[str, str], Station] = {}
    for station in find(frames, icmp_type):
        seen.setdefault((station.node, station.interface), station)
    if any(place not in seen for place in path):
        return None
    return [seen[place] for place in path]


def there_and_back(
    capture: Capture, path: Sequence[tuple[str, str]]
) -> tuple[list[Station], list[Station]]:
    """Wait until request and reply have been seen all along the path, and return both ways.

    Raises:
        CommandError: they were not; names where.
    """
    back = path[::-1]

    def enough(frames: list[Frame]) -> bool:
        return along(frames, path, REQUEST) is not None and along(frames, back, REPLY) is not None

    try:
        frames = capture.wait(enough)
    except TimeoutError:
        frames = capture.frames
        seen = {
            (one.node, one.interface) for kind in (REQUEST, REPLY) for one in find(frames, kind)
        }
        missing = ", ".join(" ".join(place) for place in path if place not in seen)
        raise CommandError(
            f"the ping was not seen at every station; missing: {missing or 'one direction'}",
            remedy="run the lesson again",
        ) from None
    return along(frames, path, REQUEST) or [], along(frames, back, REPLY) or []
