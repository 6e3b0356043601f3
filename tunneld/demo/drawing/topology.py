"""Hosts, their interfaces, their containers, and the wire between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.demo.drawing import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 6
LINE, PAD, CHAR = 18.0, 12.0, 7.25
BOX_GAP = 70.0


@dataclass(frozen=True, slots=True)
class Host:
    """A box.

    Attributes:
        name: of the host.
        rows: what it has, from the containers' side to the wire: (interface, its address), or
            ("", text) for what is no interface.
        containers: (name, address) of what hangs on it.
        wired: whether the wire touches it.
    """

    name: str
    rows: Sequence[tuple[str, str]]
    containers: Sequence[tuple[str, str]] = ()
    wired: bool = True

    def lines(self) -> list[str]:
        """Return the rows, names and addresses in columns."""
        width = max((len(name) for name, _ in self.rows), default=0)
        return [
            f"{name:<{width}}  {text}".rstrip() if name else f"[ {text} ]"
            for name, text in self.rows
        ]

    def columns(self) -> list[int]:
        """Return where each container's cable meets the box, in characters from its left edge."""
        found, at = [], 4
        for name, address in self.containers:
            found.append(at)
            at += max(len(name), len(address)) + 3
        return found

    def width(self) -> int:
        """Return the width of its box in characters, borders included."""
        inside = max([len(line) for line in self.lines()] + [len(self.name) + 8])
        above = 0
        for (name, address), column in zip(self.containers, self.columns(), strict=True):
            above = max(above, column - 4 + max(len(name), len(address)) + 2)
        # The name stands in the upper border, behind the cables.
        border = max(self.columns(), default=0) + len(self.name) + 7
        return max(inside + 6, above, border)


@dataclass(frozen=True, slots=True)
class Topology:
    """Hosts side by side on one wire, or on one wire from each to the next.

    Attributes:
        hosts: from left to right.
        wires: one label: a shared wire; several: that between each host and the next.
        title: what it shows.
        description: for those who do not see it.
    """

    hosts: Sequence[Host]
    wires: Sequence[str]
    title: str = "The topology"
    description: str = ""

    def text(self) -> str:
        """Return the drawing as lines."""
        height = max(len(host.rows) for host in self.hosts)
        tall = any(host.containers for host in self.hosts)
        blocks = [_block(host, height, tall=tall) for host in self.hosts]
        rows = [(" " * GAP).join(parts).rstrip() for parts in zip(*blocks, strict=True)]
        return "\n".join([*rows, *self._wire_lines()])

    def _anchors(self) -> list[int]:
        found, left = [], 0
        for host in self.hosts:
            found.append(left + 4)
            left += host.width() + GAP
        return found

    def _wire_lines(self) -> list[str]:
        hosts = zip(self.hosts, self._anchors(), strict=True)
        anchors = [at for host, at in hosts if host.wired]
        if not self.wires or not anchors:
            return []
        if len(anchors) == 1:
            return [" " * anchors[0] + f"+--- {self.wires[0]}"]
        if len(self.wires) == 1:
            width = anchors[-1] - anchors[0] - 1
            inner = list(f" {self.wires[0]} ".center(width, "-"))
            for at in anchors[1:-1]:
                inner[at - anchors[0] - 1] = "+"
            return [" " * anchors[0] + "+" + "".join(inner) + "+"]
        line = " " * anchors[0] + "+"
        for label, start, end in zip(self.wires, anchors, anchors[1:], strict=False):
            line += f" {label} ".center(end - start - 1, "-") + "+"
        return [line]

    def svg(self, ident: str) -> str:
        """Return the drawing as SVG."""
        height = max(len(host.rows) for host in self.hosts)
        tall = any(host.containers for host in self.hosts)
        top = 62.0 if tall else 8.0
        box_height = LINE * (height + 1) + 2 * PAD
        widths = [host.width() * CHAR + PAD for host in self.hosts]
        body, left, anchors = [], 8.0, []
        for host, width in zip(self.hosts, widths, strict=True):
            body += _svg_host(host, left, top, width, box_height)
            if host.wired:
                anchors.append(left + width / 2)
            left += width + BOX_GAP
        bottom = top + box_height
        body += self._svg_wires(anchors, bottom)
        return svg.drawing(
            ident,
            left - BOX_GAP + 8,
            bottom + 44,
            title=self.title,
            description=self.description or _describe(self),
            body=body,
        )

    def _svg_wires(self, anchors: list[float], bottom: float) -> list[str]:
        if not self.wires or not anchors:
            return []
        y = bottom + 20
        body = [svg.line(at, bottom, at, y, "wire") for at in anchors]
        if len(anchors) == 1:
            return [*body, svg.text(anchors[0] + 8, y, self.wires[0], style="soft")]
        body.append(svg.line(anchors[0], y, anchors[-1], y, "wire"))
        if len(self.wires) == 1:
            middle = (anchors[0] + anchors[-1]) / 2
            return [*body, svg.text(middle, y + 16, self.wires[0], style="soft", anchor="middle")]
        for label, start, end in zip(self.wires, anchors, anchors[1:], strict=False):
            body.append(svg.text((start + end) / 2, y + 16, label, style="soft", anchor="middle"))
        return body


def _block(host: Host, height: int, *, tall: bool) -> list[str]:
    width = host.width()
    rows = []
    if tall:
        names, addresses, cables = [[" "] * width for _ in range(3)]
        for (name, address), at in zip(host.containers, host.columns(), strict=True):
            start = at - 3
            names[start : start + len(name)] = name
            addresses[start : start + len(address)] = address
            cables[at] = "|"
        rows += ["".join(line).ljust(width)[:width] for line in (names, addresses, cables)]
    head = list("-" * (width - len(host.name) - 5) + f" {host.name} -")
    for at in host.columns():
        head[at - 1] = "+"
    rows.append("+" + "".join(head).ljust(width - 2, "-") + "+")
    lines = host.lines() + [""] * (height - len(host.rows))
    rows += [f"|  {line}".ljust(width - 1) + "|" for line in lines]
    foot = list("+" + "-" * (width - 2) + "+")
    if host.wired:
        foot[4] = "+"
    return [*rows, "".join(foot)]


def _svg_host(host: Host, left: float, top: float, width: float, height: float) -> list[str]:
    body = [svg.element("rect", x=left, y=top, width=width, height=height, rx=6.0, class_="host")]
    body.append(svg.text(left + PAD, top + PAD + 8, host.name, style="name"))
    column = max((len(name) for name, _ in host.rows), default=0) * CHAR + 14
    for number, (name, words) in enumerate(host.rows, 1):
        y = top + PAD + 8 + number * LINE
        if name:
            body.append(svg.text(left + PAD, y, name, style="mono"))
            body.append(svg.text(left + PAD + column, y, words, style="mono soft"))
        else:
            body.append(svg.text(left + PAD, y, words, style="process"))
    for (name, address), at in zip(host.containers, host.columns(), strict=True):
        x = left + at * CHAR
        body.append(svg.text(x - 3 * CHAR, top - 40, name, style="name"))
        body.append(svg.text(x - 3 * CHAR, top - 24, address, style="mono soft"))
        body.append(svg.line(x, top - 18, x, top, "wire"))
    return body


def _describe(topology: Topology) -> str:
    hosts = []
    for host in topology.hosts:
        rows = ", ".join(f"{name} {text}".strip() for name, text in host.rows)
        inside = " and ".join(f"{name} {address}" for name, address in host.containers)
        hosts.append(f"{host.name} with {rows}" + (f"; on it {inside}" if inside else ""))
    return "; ".join(hosts) + (f". Wire: {', '.join(topology.wires)}." if topology.wires else ".")


def nodes(
    device: tuple[str, str] | None = None, process: str = "", *, wire: str = "underlay, MTU 1500"
) -> Topology:
    """Return the two nodes of the lab.

    Args:
        device: the overlay's interface and its address on node N, with `N` for the number;
            None: there is none.
        process: what runs between it and eth0.
        wire: label of the wire.
    """
    hosts = []
    for number in (1, 2):
        rows = [("docker0", f"100.96.{number}.1/24")]
        if device is not None:
            rows.append((device[0], device[1].replace("N", str(number))))
        if process:
            rows.append(("", process))
        rows.append(("eth0", f"10.168.0.{number + 1}/24"))
        inside = ((f"container-{number}", f"100.96.{number}.{number + 1}"),)
        hosts.append(Host(f"node{number}", tuple(rows), inside))
    return Topology(tuple(hosts), (wire,), title="Two nodes with a container each")
