"""Run a lesson as a student does, and what must hold for every lesson."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunneld.demo.screen import WIDTH
from tunneld.lab.sweep import NETNS_DIR

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "tunneld", "demo"]


@dataclass(frozen=True, slots=True)
class Done:
    """A lesson that has ended.

    Attributes:
        code: exit code.
        out: what it printed.
        err: its errors.
        left: what of its lab is still there.
    """

    code: int
    out: str
    err: str
    left: list[Path]


def left_of(pid: int) -> list[Path]:
    """Return the namespaces and files that the lab of a process has left."""
    return [*NETNS_DIR.glob(f"tl{pid}-*"), *Path(tempfile.gettempdir()).glob(f"tl{pid}-*")]


def start(*args: str) -> subprocess.Popen[str]:
    """Start `tunneld demo ARGS`."""
    return subprocess.Popen(
        [*DEMO, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finish(child: subprocess.Popen[str], timeout: float = 240.0) -> Done:
    """Wait for the end of a lesson."""
    out, err = child.communicate(timeout=timeout)
    return Done(child.returncode, out, err, left_of(child.pid))


def demo(*args: str) -> Done:
    """Run `tunneld demo ARGS` to its end."""
    return finish(start(*args))


def document(*args: str) -> dict[str, Any]:
    """Run a lesson with --json and return its figures."""
    done = demo(*args, "--json")
    assert done.code == 0, done.err
    assert done.left == []
    found: dict[str, Any] = json.loads(done.out)
    return found


def check_story(done: Done) -> None:
    """See that a lesson went well, fits the screen and has all its parts."""
    assert done.code == 0, done.err
    assert done.err == ""
    assert done.left == []
    lines = done.out.splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    assert "\033" not in done.out
    for part in ("What you will learn:", "1  ", "Exercise", "The answer: "):
        assert part in done.out, part
    assert "Traceback" not in done.out
