"""Which frame was seen at which port of the bridge, and what its table says."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.lab.headers import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tunneld.lab import Frame

ETH_P_ARP = 0x0806
ARP = {1: "ARP request", 2: "ARP reply"}
ECHO = {8: "echo request", 0: "echo reply"}


@dataclass(frozen=True, slots=True)
class Sighting:
    """One frame, wherever it was seen.

    Attributes:
        frame: what it is.
        to: MAC address that it is for.
        ports: interfaces that carried it.
    """

    frame: str
    to: str
    ports: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {"frame": self.frame, "to": self.to, "ports": list(self.ports)}

    @staticmethod
    def table(text: str) -> dict[str, str]:
        """Return MAC -> port of what `bridge fdb show` prints."""
        rows = [line.split() for line in text.splitlines()]
        return {row[0]: row[2] for row in rows if len(row) > 2 and row[1] == "dev"}


def sightings(frames: Sequence[Frame]) -> list[Sighting]:
    """Return ARP and ping frames in the order in which they were first seen."""
    found: dict[tuple[str, str], list[str]] = {}
    for frame in sorted(frames, key=lambda each: each.time):
        name = _name(frame)
        if name:
            ports = found.setdefault((name, frame.frame[:6].hex(":")), [])
            if frame.interface not in ports:
                ports.append(frame.interface)
    return [Sighting(name, to, tuple(ports)) for (name, to), ports in found.items()]


def whole(seen: Iterable[Sighting]) -> bool:
    """Tell whether all four frames of a first ping have been seen where they came in and out."""
    carried = {each.frame: len(each.ports) for each in seen}
    return all(carried.get(name, 0) >= 2 for name in (*ARP.values(), *ECHO.values()))


def _name(frame: Frame) -> str:
    if struct.unpack("!H", frame.frame[12:14])[0] == ETH_P_ARP:
        return ARP.get(frame.frame[21], "")
    packet = parse(frame.packet)
    return ECHO.get(packet.icmp_type, "") if packet and packet.icmp_type is not None else ""
