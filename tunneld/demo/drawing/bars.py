"""Figures as bars, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.demo.drawing import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS = 40
ROW, LABEL, ROOM, VALUE, CHAR = 26.0, 170.0, 400.0, 150.0, 7.6


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure.

    Attributes:
        name: of what.
        value: in the unit of the drawing.
        note: behind the figure.
        strong: whether it is the one to look at.
    """

    name: str
    value: float
    note: str = ""
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars from zero, all on one scale.

    Attributes:
        rows: the bars.
        unit: of their values.
        title: what is compared.
        form: format of a value.
    """

    rows: Sequence[Bar]
    unit: str
    title: str
    form: str = ".2f"

    @property
    def description(self) -> str:
        """The figures in words."""
        return (
            "; ".join(f"{row.name} {row.value:{self.form}} {self.unit}" for row in self.rows) + "."
        )

    @property
    def _top(self) -> float:
        return max([row.value for row in self.rows] + [1e-12])

    def _said(self, row: Bar) -> str:
        figure = f"{row.value:{self.form}} {self.unit}"
        return f"{figure} \N{MIDDLE DOT} {row.note}" if row.note else figure

    def text(self) -> str:
        """Return one line for each."""
        name = max(len(row.name) for row in self.rows)
        lines = [f"{self.title}, {self.unit}"]
        for row in self.rows:
            cells = round(CELLS * row.value / self._top)
            bar = "\N{FULL BLOCK}" * cells
            line = f"{row.name:<{name}}  {bar:<{CELLS}}  {row.value:{self.form}}  {row.note}"
            lines.append(line.rstrip())
        return "\n".join(lines)

    def svg(self, ident: str) -> str:
        """Return the bars as SVG."""
        body = []
        for number, row in enumerate(self.rows):
            y = ROW * number
            width = max(ROOM * row.value / self._top, 1.0)
            said = self._said(row)
            style = "bar strong" if row.strong else "bar"
            body += [
                svg.text(0, y + 16, row.name, style="name" if row.strong else ""),
                svg.element("rect", x=LABEL, y=y + 4, width=width, height=16.0, class_=style),
                svg.text(LABEL + width + 7, y + 16, said, style="value"),
            ]
        return svg.drawing(
            ident,
            LABEL + ROOM + max([VALUE, *(CHAR * len(self._said(row)) + 10 for row in self.rows)]),
            ROW * len(self.rows) + 4,
            title=f"{self.title}, {self.unit}",
            description=self.description,
            body=body,
        )
