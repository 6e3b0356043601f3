"""Count system calls and context switches of processes by tracepoints, with perf or bpftrace.

This counts everything, of any process, and it slows every traced system call down: never during a
run whose figures are kept. It is the cross-check of tunneld's own counters, and the only source
for contenders that do not count.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunneld.lab import process

SYSCALLS = "raw_syscalls:sys_enter"
SWITCHES = "context-switches"
_ATTACH_S = 10.0

BPFTRACE = """
BEGIN {{ printf("ready\\n"); }}
tracepoint:raw_syscalls:sys_enter /{who}/ {{ @syscalls = count(); }}
tracepoint:sched:sched_switch /{who}/ {{ @switches = count(); }}
"""


@dataclass(slots=True)
class Counts:
    """What the tracepoints have counted; filled when the block has ended.

    Attributes:
        source: the tool and its tracepoints, for the result.
        syscalls: of the traced processes.
        switches: context switches away from them.
    """

    source: str
    syscalls: int = 0
    switches: int = 0


@functools.cache
def tool() -> str | None:
    """Return "perf" or "bpftrace", whichever may count here; None: neither."""
    trials = {
        "perf": ["perf", "stat", "-j", "-e", f"{SYSCALLS},{SWITCHES}", "true"],
        "bpftrace": ["bpftrace", "-e", "tracepoint:raw_syscalls:sys_enter { exit(); }"],
    }
    for name, argv in trials.items():
        if shutil.which(name) is None:
            continue
        with contextlib.suppress(process.CommandError):
            done = process.run(argv, timeout=_ATTACH_S)
            if name != "perf" or len(parse_perf(done.stderr)) == 2:
                return name
    return None


@contextlib.contextmanager
def counting(pids: Sequence[int], name: str) -> Iterator[Counts]:
    """Count while the block runs.

    Args:
        pids: whose calls; all their threads.
        name: of `tool()`.

    Raises:
        CommandError: the tool failed.
    """
    yield from _perf(pids) if name == "perf" else _bpftrace(pids)


def _perf(pids: Sequence[int]) -> Iterator[Counts]:
    (from_us, to_perf), (from_perf, to_us) = os.pipe(), os.pipe()
    # It begins switched off and answers once it is on: attaching takes longer than a short load.
    control = ["-D", "-1", "--control", f"fd:{from_us},{to_us}"]
    argv = ["perf", "stat", "-j", *control, "-e", f"{SYSCALLS},{SWITCHES}"]
    argv += ["-p", ",".join(map(str, pids))]
    child = process.start(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=(from_us, to_us)
    )
    os.close(from_us)
    os.close(to_us)
    counts = Counts(f"perf {SYSCALLS}")
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended: the next line says why
            os.write(to_perf, b"enable\n")
        if not os.read(from_perf, 64).startswith(b"ack"):
            said = _interrupt(child).strip().split("\n", 1)[0]
            raise process.CommandError(f"perf: {said}")
        yield counts
        found = parse_perf(_interrupt(child))
        counts.syscalls, counts.switches = found.get(SYSCALLS, 0), found.get(SWITCHES, 0)
    finally:
        os.close(to_perf)
        os.close(from_perf)
        process.stop([child])
        if child.stderr is not None:
            child.stderr.close()


def _bpftrace(pids: Sequence[int]) -> Iterator[Counts]:
    program = BPFTRACE.format(who=" || ".join(f"pid == {pid}" for pid in pids))
    child = process.start(["bpftrace", "-e", program])
    counts = Counts("bpftrace raw_syscalls:sys_enter")
    try:
        for line in child.stdout or ():
            if line == "ready\n":
                break
        yield counts
        found = parse_bpftrace(_interrupt(child))
        counts.syscalls, counts.switches = found.get("syscalls", 0), found.get("switches", 0)
    finally:
        process.stop([child])


def _interrupt(child: subprocess.Popen[str]) -> str:
    child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=_ATTACH_S)
    except subprocess.TimeoutExpired:
        raise process.CommandError("the tracer does not end") from None
    return (out or "") + (err or "")


def parse_perf(text: str) -> dict[str, int]:
    """Return event -> count from `perf stat -j`; events that could not be counted are absent."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        with contextlib.suppress(ValueError, KeyError):
            entry = json.loads(line)
            found[str(entry["event"])] = int(float(entry["counter-value"]))
    return found


def parse_bpftrace(text: str) -> dict[str, int]:
    """Return name -> count from the maps that bpftrace prints at its end."""
    return {name: int(count) for name, count in re.findall(r"^@(\w+): (\d+)$", text, re.MULTILINE)}
