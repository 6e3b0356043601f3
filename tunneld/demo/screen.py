"""What a lesson writes on: at most 100 columns, colours on a terminal only, one live line."""

from __future__ import annotations

import os
import re
import select
import shutil
import textwrap
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH = 100
NARROWEST = 60
BOLD, DIM, CYAN, GREEN, YELLOW = "1", "2", "36", "32", "33"
BAR = 30


class Screen:
    """Writes a lesson.

    Args:
        stream: where to; colours and the live line only if it is a terminal.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._colour = self._live and "NO_COLOR" not in os.environ
        self._steps = 0
        columns = shutil.get_terminal_size((WIDTH, 24)).columns if self._live else WIDTH
        self._width = min(max(columns, NARROWEST), WIDTH)

    def paint(self, text: str, code: str) -> str:
        """Return the text in a colour, where colours are wanted."""
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def line(self, text: str = "") -> None:
        """Write one line."""
        print(text, file=self._stream, flush=True)

    def title(self, text: str) -> None:
        """Write the head of the lesson."""
        self.line(self.paint(text, BOLD))

    def step(self, text: str) -> None:
        """Begin a numbered step."""
        self._steps += 1
        self.line()
        self.line(self.paint(f"{self._steps}  {text}", f"{BOLD};{CYAN}"))

    def say(self, text: str) -> None:
        """Write an explanation, wrapped."""
        self._fill(text, "   ", "   ")

    def item(self, text: str) -> None:
        """Write one point of a list, wrapped."""
        self._fill(text, "   - ", "     ")

    def _fill(self, text: str, first: str, rest: str) -> None:
        width = self._width - 3
        self.line(textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest))

    def command(self, host: str, command: str) -> None:
        """Write a command that is run and the host where; long ones are continued by a backslash.

        Without the host's name in front it can be pasted into a shell there.
        """
        prompt = f"   {host} $ "
        # What is quoted stays whole, an option with its value; the backslash needs two columns.
        quoted = re.sub(r"'[^']*'|\"[^\"]*\"", lambda match: match[0].replace(" ", "\0"), command)
        glued = re.sub(r"(--\S+) (?=[^-])", "\\1\0", quoted)
        lines = textwrap.wrap(
            glued, self._width - 2 - len(prompt), break_long_words=False, break_on_hyphens=False
        )
        for number, part in enumerate(lines):
            start = self.paint(prompt, GREEN) if number == 0 else " " * len(prompt)
            end = " \\" if number < len(lines) - 1 else ""
            text = part.replace("\0", " ") + end
            self.line(f"{start}{self.paint(text, BOLD)}")

    def output(self, text: str, notes: Mapping[str, str] | None = None) -> None:
        """Write what a command printed.

        Args:
            text: the lines.
            notes: beginning of a line -> a remark that is set behind it.
        """
        lines = [raw.rstrip() for raw in text.rstrip().splitlines()]
        column = max(len(line) for line in lines) + 5
        for raw in lines:
            shown = f"   {raw}"
            for start, note in (notes or {}).items():
                if raw.startswith(start):
                    shown = shown.ljust(column) + self.paint(f"<- {note}", YELLOW)
            self.line(shown)

    def progress(self, seconds: float, of: float, text: str) -> None:
        """Redraw the live line; on something that is not a terminal, write nothing."""
        if self._live:
            done = min(BAR, round(BAR * seconds / of))
            bar = self.paint("█" * done, CYAN) + "░" * (BAR - done)
            # A line that wraps could not be redrawn.
            shown = text[: self._width - BAR - 5]
            print(f"\r   {bar} {shown}\033[K", end="", file=self._stream, flush=True)

    def progress_done(self, text: str) -> None:
        """Replace the live line by its result."""
        if self._live:
            print("\r\033[K", end="", file=self._stream)
        self.line(f"   {text}")

    def progress_clear(self) -> None:
        """Remove the live line."""
        if self._live:
            print("\r\033[K", end="", file=self._stream, flush=True)

    def wait_for_enter(self, source: IO[str]) -> None:
        """Wait until the reader wants the next step; the end of the input is Enter too."""
        print(self.paint("   Enter: the next step", DIM), end="", file=self._stream, flush=True)
        # The reader's own Enter moves the cursor down, unless it was typed before it was asked for.
        moved = source.isatty() and not select.select([source], [], [], 0)[0]
        source.readline()
        if self._live:
            up = "\033[A" if moved else ""
            print(f"{up}\r\033[K", end="", file=self._stream, flush=True)
        else:
            self.line()

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
    ) -> None:
        """Write a table; the columns in `left` are set left, the others right."""
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

        def render(row: Sequence[str]) -> str:
            cells = [
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            return "   " + "   ".join(cells).rstrip()

        self.line(self.paint(render(head), BOLD))
        self.line("   " + "-" * (sum(widths) + 3 * (len(widths) - 1)))
        for row in rows:
            self.line(render(row))
