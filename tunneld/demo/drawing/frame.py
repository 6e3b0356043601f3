"""A frame as the row of its headers, each with its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.demo.drawing import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 720.0
LEAST, CHAR, PAD = 62.0, 7.6, 14.0


@dataclass(frozen=True, slots=True)
class Header:
    """A part of the frame.

    Attributes:
        name: "IPv4", "UDP", ...
        length: bytes.
        text: what it says, in a few words.
        added: whether the tunnel put it there.
    """

    name: str
    length: int
    text: str = ""
    added: bool = False


@dataclass(frozen=True, slots=True)
class FrameDrawing:
    """A frame, outermost header first.

    Attributes:
        headers: its parts.
        title: which frame.
    """

    headers: Sequence[Header]
    title: str

    @property
    def description(self) -> str:
        """The parts in words."""
        parts = ", ".join(f"{each.name} {each.length} bytes" for each in self.headers)
        return f"From outside to inside: {parts}; {sum(h.length for h in self.headers)} in all."

    def text(self) -> str:
        """Return it as a row of boxes, two lines each; what the tunnel added is marked by `*`."""
        cells = [
            (each.name + (" *" if each.added else ""), f"{each.length} B", each.text)
            for each in self.headers
        ]
        widths = [max(map(len, cell)) for cell in cells]
        if sum(widths) + 3 * len(widths) + 1 > 94:
            cells = [(name, length, "") for name, length, _ in cells]
            widths = [max(map(len, cell)) for cell in cells]
        rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
        rows = [
            "|"
            + "|".join(f" {cell[row]:<{w}} " for cell, w in zip(cells, widths, strict=True))
            + "|"
            for row in range(3)
            if any(cell[row] for cell in cells)
        ]
        legend = ["* added by the tunnel"] if any(each.added for each in self.headers) else []
        return "\n".join([rule, *rows, rule, *legend])

    def svg(self, ident: str) -> str:
        """Return it as boxes; the widths only hint at the lengths."""
        shares = [max(each.length, 1) ** 0.5 for each in self.headers]
        least = [max(LEAST, CHAR * len(each.name) + PAD) for each in self.headers]
        spare = WIDTH - sum(least)
        body, left = [], 0.0
        for each, share, room in zip(self.headers, shares, least, strict=True):
            width = room + max(spare, 0.0) * share / sum(shares)
            style = "host added" if each.added else "host"
            body += [
                svg.element("rect", x=left, y=2.0, width=width, height=62.0, class_=style),
                svg.text(left + 7, 20, each.name, style="name"),
                svg.text(left + 7, 37, f"{each.length} bytes", style="soft"),
                svg.text(left + 7, 54, _fit(each.text, width), style="small"),
            ]
            left += width
        return svg.drawing(
            ident, left, 66, title=self.title, description=self.description, body=body
        )


def _fit(text: str, width: float) -> str:
    most = int((width - 10) / 5.6)
    return text if len(text) <= most else text[: max(most - 1, 0)] + "\N{HORIZONTAL ELLIPSIS}"
