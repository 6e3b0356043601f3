"""Crossings between user and kernel space, one row each, with what was measured on the arrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.demo.drawing import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW, LANE, MIDDLE = 46.0, 210.0, 300.0
CHAR = 8.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """One way over the border.

    Attributes:
        user: who, in user space.
        kernel: what, in the kernel.
        down: from user space into the kernel; otherwise up.
        label: the measured figures.
        host: where.
    """

    user: str
    kernel: str
    down: bool
    label: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Crossings:
    """The way of a packet over the border, in order.

    Attributes:
        rows: the crossings.
        title: of which way.
    """

    rows: Sequence[Crossing]
    title: str

    @property
    def description(self) -> str:
        """The crossings in words."""
        parts = [
            f"{row.user} {'down to' if row.down else 'up from'} {row.kernel}: {row.label}"
            for row in self.rows
        ]
        return f"{len(self.rows)} crossings. " + "; ".join(parts) + "."

    def text(self) -> str:
        """Return two columns with an arrow between them."""
        user = max(len(row.user) for row in self.rows)
        host = max(len(row.host) for row in self.rows)
        label = max(len(row.label) for row in self.rows)
        lines = [f"{'':<{host}}  {'user space':<{user}}  {'':<{label + 8}}  kernel"]
        for row in self.rows:
            arrow = (
                f"---{row.label.center(label + 2)}-->"
                if row.down
                else f"<--{row.label.center(label + 2)}---"
            )
            lines.append(f"{row.host:<{host}}  {row.user:<{user}}  {arrow}  {row.kernel}")
        return "\n".join(lines)

    def svg(self, ident: str) -> str:
        """Return two columns, the border between them, and arrows."""
        names = ["user space", *(name for row in self.rows for name in (row.user, row.host))]
        lane = min(CHAR * max(map(len, names)) + 12, LANE)
        far, border = lane + MIDDLE, lane + MIDDLE / 2
        width = far + LANE
        height = ROW * len(self.rows) + 30
        left, right = lane + 6, far - 6
        body = [
            svg.text(0, 14, "user space", style="soft"),
            svg.text(far, 14, "kernel", style="soft"),
            svg.line(border, 20, border, height, "border"),
        ]
        for number, row in enumerate(self.rows):
            y = 30 + ROW * number + ROW / 2
            start, end = (left, right) if row.down else (right, left)
            tip = -7 if row.down else 7
            body += [
                svg.text(0, y - 2, row.user, style="name"),
                svg.text(0, y + 13, row.host, style="small"),
                svg.text(far, y + 4, row.kernel),
                svg.line(start, y, end, y, "arrow"),
                svg.line(end + tip, y - 4, end, y, "arrow"),
                svg.line(end + tip, y + 4, end, y, "arrow"),
                svg.element(
                    "rect",
                    x=border - 3.3 * len(row.label),
                    y=y - 17,
                    width=6.6 * len(row.label),
                    height=14.0,
                    class_="label",
                ),
                svg.text(border, y - 6, row.label, style="value", anchor="middle"),
            ]
        return svg.drawing(
            ident, width, height, title=self.title, description=self.description, body=body
        )
