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
from dataclasses import dataclass, field
from pathlib import Path

from tunneld.lab import process

SYSCALLS = "raw_syscalls:sys_enter"
SWITCHES = "sched:sched_switch"
TRACEFS = Path("/sys/kernel/tracing")
_ATTACH_S = 10.0

BPFTRACE = """
BEGIN {{ printf("ready\\n"); }}
tracepoint:raw_syscalls:sys_enter /{who}/ {{ @syscalls = count(); }}
tracepoint:sched:sched_switch /{who}/ {{ @switches = count(); }}
"""
BPFTRACE_CALL = """
tracepoint:syscalls:sys_enter_{call} /{who}/ {{ @made_{call} = count(); }}
tracepoint:syscalls:sys_exit_{call} /({who}) && args->ret > 0/ {{ @moved_{call} = count(); }}
"""


@dataclass(frozen=True, slots=True)
class Calls:
    """One kind of system call.

    Attributes:
        made: how often it was called.
        moved: how often it returned more than 0: for reads and writes, it moved something.
    """

    made: int = 0
    moved: int = 0


@dataclass(slots=True)
class Counts:
    """What the tracepoints have counted; filled when the block has ended.

    Attributes:
        source: the tool and its tracepoints, for the result.
        syscalls: of the traced processes.
        switches: context switches away from them.
        calls: of the kinds that were asked for, those that were made at all.
    """

    source: str
    syscalls: int = 0
    switches: int = 0
    calls: dict[str, Calls] = field(default_factory=dict)

    def take(self, found: dict[str, int], kinds: Sequence[str]) -> None:
        """Fill in what `parse_perf` or `parse_bpftrace` has found."""
        self.syscalls = found.get(SYSCALLS, found.get("syscalls", 0))
        self.switches = found.get(SWITCHES, found.get("switches", 0))
        for kind in kinds:
            made = found.get(f"syscalls:sys_enter_{kind}", found.get(f"made_{kind}", 0))
            moved = found.get(f"syscalls:sys_exit_{kind}", found.get(f"moved_{kind}", 0))
            if made:
                # A call may have begun before the counting, and ended in it.
                self.calls[kind] = Calls(max(made, moved), moved)


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


@functools.cache
def known(kind: str) -> bool:
    """Tell whether this kernel has a tracepoint for a kind of system call (arm64: no `poll`)."""
    return (TRACEFS / f"events/syscalls/sys_enter_{kind}").is_dir()


@contextlib.contextmanager
def counting(pids: Sequence[int], name: str, kinds: Sequence[str] = ()) -> Iterator[Counts]:
    """Count while the block runs.

    Args:
        pids: whose calls; all their threads.
        name: of `tool()`.
        kinds: system calls to count one by one, such as "read"; what this kernel lacks is left out.

    Raises:
        CommandError: the tool failed.
    """
    kinds = [kind for kind in kinds if known(kind)]
    yield from _perf(pids, kinds) if name == "perf" else _bpftrace(pids, kinds)


def _perf(pids: Sequence[int], kinds: Sequence[str]) -> Iterator[Counts]:
    (from_us, to_perf), (from_perf, to_us) = os.pipe(), os.pipe()
    # It begins switched off and answers once it is on: attaching takes longer than a short load.
    control = ["-D", "-1", "--control", f"fd:{from_us},{to_us}"]
    argv = ["perf", "stat", "-j", *control, "-e", f"{SYSCALLS},{SWITCHES}"]
    for kind in kinds:
        argv += ["-e", f"syscalls:sys_enter_{kind}"]
        # A filter belongs to the event before it.
        argv += ["-e", f"syscalls:sys_exit_{kind}", "--filter", "ret > 0"]
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
        counts.take(parse_perf(_interrupt(child)), kinds)
    finally:
        os.close(to_perf)
        os.close(from_perf)
        process.stop([child])
        if child.stderr is not None:
            child.stderr.close()


def _bpftrace(pids: Sequence[int], kinds: Sequence[str]) -> Iterator[Counts]:
    who = " || ".join(f"pid == {pid}" for pid in pids)
    program = BPFTRACE.format(who=who)
    program += "".join(BPFTRACE_CALL.format(who=who, call=kind) for kind in kinds)
    child = process.start(["bpftrace", "-e", program])
    counts = Counts("bpftrace raw_syscalls:sys_enter")
    try:
        for line in child.stdout or ():
            if line == "ready\n":
                break
        yield counts
        counts.take(parse_bpftrace(_interrupt(child)), kinds)
    finally:
        process.stop([child])


def _interrupt(child: subprocess.Popen[str]) -> str:
    """End a tracer as Ctrl-C does and return what it prints."""
    for _ in range(3):
        child.send_signal(signal.SIGINT)
        # bpftrace now and then misses one.
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = child.communicate(timeout=_ATTACH_S)
            return (out or "") + (err or "")
    raise process.CommandError("the tracer does not end")


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
