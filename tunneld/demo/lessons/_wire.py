"""One ping between two containers, and its request as it crosses the wire between the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunneld.demo import dissect
from tunneld.demo.waiting import wait_until
from tunneld.lab import Capture
from tunneld.lab import ping as ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunneld.demo.dissect import Layer
    from tunneld.demo.drawing.frame import FrameDrawing
    from tunneld.demo.story import Story
    from tunneld.lab import ClusterNode, Frame, Node

# Every frame on Ethernet has one Ethernet header; VXLAN carries a second one inside.
ADDED = ("outer IPv4", "UDP", "VXLAN", "inner Ethernet")


@dataclass(frozen=True, slots=True)
class Sighting:
    """An echo request on the wire.

    Attributes:
        layers: its headers, outermost first.
    """

    layers: Sequence[Layer]

    @property
    def length(self) -> int:
        """Bytes of the frame, the Ethernet header included."""
        return sum(layer.length for layer in self.layers)

    @property
    def inner_ttl(self) -> int:
        """TTL of the container's packet."""
        names = [layer.name for layer in self.layers]
        name = "inner IPv4" if "inner IPv4" in names else "IPv4"
        return dissect.find(self.layers, name).row("TTL").data[0]

    def says(self, layer: str, field: str) -> str:
        """Return what a field says."""
        return dissect.find(self.layers, layer).row(field).meaning

    def draw(self, title: str) -> FrameDrawing:
        """Return the frame as a row of boxes."""
        return dissect.draw(self.layers, title, added=ADDED, texts={})

    def added_words(self) -> list[str]:
        """Return the headers that a tunnel has added, each with its length."""
        return [f"{layer.length} {layer.name}" for layer in self.layers if layer.name in ADDED]

    def figures(self) -> dict[str, Any]:
        """Return it as the lesson's figures have it."""
        headers = [[layer.name, layer.length] for layer in self.layers]
        return {"frame": self.length, "headers": headers, "ttl": self.inner_ttl}


def ping(story: Story, one: ClusterNode, other: ClusterNode, *, count: int = 1) -> Sighting:
    """Show a ping from container to container, and return its request as it left node1.

    Raises:
        CommandError: no answer came.
    """
    wait_until(lambda: _answers(one, other), f"an answer of {other.container.name}")
    with Capture([(one.node, "eth0")]) as capture:
        story.shell(one.container, f"ping -c {count} {other.container.address}", keep=worth_reading)
        frames = capture.wait(lambda seen: any(map(_request, seen)))
    return next(found for found in map(_request, frames) if found)


def _answers(one: ClusterNode, other: ClusterNode) -> bool:
    """Tell whether a ping gets through, so that the one shown meets no half filled table."""
    answer = ask(one.container, other.container.address, timeout=0.5)
    return answer is not None and answer.type == 0


def worth_reading(line: str) -> bool:
    """Tell ping's lines that say something from its head, its statistics and empty lines."""
    return bool(line) and not line.startswith(("PING", "---", "rtt"))


def mac(node: Node, interface: str) -> str:
    """Return the MAC of an interface."""
    return node.run(["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()


def _request(frame: Frame) -> Sighting | None:
    layers = dissect.dissect(frame.frame)
    icmp = [layer for layer in layers if layer.name == "ICMP"]
    asks = icmp and icmp[0].row("type").meaning == "echo request"
    return Sighting(layers) if frame.outgoing and asks else None
