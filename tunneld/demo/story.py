"""What a lesson is told with: it goes to the terminal at once, and is kept for the page.

    story.step("Where does the packet go?")
    story.say("The most specific route wins.")
    story.shell(node1, "ip route get 100.96.2.3")
    story.draw(topology.nodes(("flannel0", "100.96.N.0/32"), "tunneld"))

A command is run by a shell in the node exactly as it is shown, so a reader can type it there.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal, TypeVar

from tunneld.errors import ConfigError, TunneldError
from tunneld.lab import Lab
from tunneld.lab.process import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tunneld.demo import Options
    from tunneld.demo.drawing import Drawing
    from tunneld.demo.screen import Screen
    from tunneld.lab import Cluster, Node

Stage = TypeVar("Stage", "Cluster", "Lab")

Kind = Literal["step", "say", "command", "output", "table", "drawing", "result"]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the lesson, as the page needs it.

    Attributes:
        kind: what it is.
        text: step, say and result: the words; command: what was typed; output: what it printed.
        host: command: where.
        notes: output: beginning of a line -> a remark on it.
        rows: table: the head and the rows.
        left: table: columns that are set left.
        drawing: what was drawn.
    """

    kind: Kind
    text: str = ""
    host: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Sequence[str]] = ()
    left: Sequence[int] = ()
    drawing: Drawing | None = None


class Story:
    """Tells a lesson.

    Args:
        screen: the terminal.
        options: what the lesson was asked for.
        stepping: where Enter comes from between the steps; None: does not wait.

    Attributes:
        blocks: everything that was told, in order.
        kept: labs that stay up.
    """

    def __init__(self, screen: Screen, options: Options, stepping: IO[str] | None = None) -> None:
        self.screen = screen
        self.blocks: list[Block] = []
        self.kept: list[Lab] = []
        self._options = options
        self._stepping = stepping
        self._current = ""

    # What is told

    def step(self, text: str) -> None:
        """Begin a numbered step; with `--step`, wait for Enter first."""
        if self._stepping is not None and self._current:
            self.screen.wait_for_enter(self._stepping)
        self._current = text
        self.blocks.append(Block("step", text))
        self.screen.step(text)

    def say(self, text: str) -> None:
        """Tell something, a paragraph."""
        self._add(Block("say", text))
        self.screen.say(text)

    def command(self, host: str, command: str) -> None:
        """Show a command that is run in another way than by `shell` (a daemon, a load)."""
        self._add(Block("command", command, host=host))
        self.screen.command(host, command)

    def output(self, text: str, notes: Mapping[str, str] | None = None) -> None:
        """Show what a command printed.

        Args:
            text: the lines.
            notes: beginning of a line -> a remark that is set behind it.
        """
        if text.strip():
            self.blocks.append(Block("output", text, notes=notes or {}))
            self.screen.output(text, notes)

    def shell(
        self,
        node: Node,
        command: str,
        *,
        notes: Mapping[str, str] | None = None,
        keep: Callable[[str], bool] | None = None,
        check: bool = True,
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Show a command, run it in a node, show what it printed, and return that.

        Args:
            node: where; its name is what the reader sees.
            command: a line for bash, exactly as shown.
            notes: as for `output`.
            keep: which lines of the output are shown; None: all.
            check: whether a status other than 0 ends the lesson.
            timeout: seconds.

        Raises:
            CommandError: it failed or took too long.
        """
        self.command(node.name, command)
        done = node.run(["bash", "-c", command], check=check, timeout=timeout)
        lines = (done.stdout + done.stderr).splitlines()
        shown = [line for line in lines if keep is None or keep(line)]
        self.output("\n".join(shown), notes)
        return done

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
    ) -> None:
        """Show a table; the columns in `left` are set left, the others right."""
        self._add(Block("table", rows=[head, *rows], left=left))
        self.screen.table(head, rows, left=left)

    def draw(self, drawing: Drawing) -> None:
        """Show a drawing."""
        self._add(Block("drawing", drawing=drawing))
        self.screen.output(drawing.text())

    def _add(self, block: Block) -> None:
        """Keep a block; an empty line sets it off from another kind before it."""
        before = self.blocks[-1].kind if self.blocks else "step"
        if before not in {"step", block.kind}:
            self.screen.line()
        self.blocks.append(block)

    # What takes time

    def progress(self, seconds: float, of: float, text: str) -> None:
        """Redraw the live line of a measurement; on something that is no terminal, nothing."""
        self.screen.progress(seconds, of, text)

    def progress_done(self, text: str) -> None:
        """Replace the live line by the measurement's result."""
        self.blocks.append(Block("result", text))
        self.screen.progress_done(text)

    @contextlib.contextmanager
    def working(self, text: str, expected: float = 5.0) -> Iterator[None]:
        """Show a live line while the block runs.

        Args:
            text: what is being done.
            expected: about how long it takes, seconds; for the bar only.
        """
        done = threading.Event()

        def draw() -> None:
            began = time.monotonic()
            while not done.wait(0.2):
                elapsed = time.monotonic() - began
                self.screen.progress(min(elapsed, expected), expected, f"{elapsed:3.0f} s  {text}")

        thread = threading.Thread(target=draw, name="progress", daemon=True)
        try:
            # Ctrl-C may come while start() waits for the thread, which then runs already.
            thread.start()
            yield
        finally:
            done.set()
            if thread.is_alive():
                thread.join()
            self.screen.progress_clear()

    @contextlib.contextmanager
    def open(self, stage: Stage) -> Iterator[Stage]:
        """Build a cluster or a lab, throttled if asked for; at the end it goes, or stays (--keep).

        Raises:
            CommandError: something failed; one line that names the step of the lesson.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._step_named())
            with self.working("building hosts out of namespaces"):
                built = stack.enter_context(stage)
                lab = built if isinstance(built, Lab) else built.lab
                if self._options.throttle:
                    throttle(lab, self._options.throttle)
            yield built
            if self._options.keep:
                lab.keep()
                self.kept.append(lab)

    @contextlib.contextmanager
    def _step_named(self) -> Iterator[None]:
        """Turn what can fail in a lesson into one line that names its step."""
        try:
            yield
        except (BrokenPipeError, ConfigError):
            # The reader has what it wanted; a flag is wrong, not the lesson.
            raise
        except (TunneldError, OSError, subprocess.SubprocessError) as error:
            remedy = error.remedy if isinstance(error, TunneldError) else ""
            said = error.args[0] if isinstance(error, TunneldError) else error
            where = f"in step {self._current!r}" if self._current else "before its first step"
            text = "; ".join(line.strip() for line in str(said).splitlines() if line.strip())
            raise CommandError(f"the lesson stopped {where}: {text}", remedy=remedy) from error


def throttle(lab: Lab, rate: str) -> None:
    """Slow down the eth0 of every host (node1, node2, ...) with a token bucket (tc-tbf(8)).

    Raises:
        ConfigError: tc refuses the rate.
    """
    for node in lab.nodes:
        if node.name.startswith("node"):
            words = f"tc qdisc replace dev eth0 root tbf rate {rate} burst 128kb latency 50ms"
            done = node.run(words.split(), check=False)
            if done.returncode != 0:
                said = done.stderr.partition("\n")[0]
                raise ConfigError(
                    f"tc refuses {rate!r}: {said}",
                    source="flag --throttle",
                    remedy="try 200mbit or 1gbit",
                )
