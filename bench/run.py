"""Measure contenders under workloads in interleaved rounds, and write one result file.

The file grows by a run at a time. After Ctrl-C, or a crash, the same command with the same --json
goes on where it was; with more --rounds it adds the missing ones.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import common, contenders, results, show, workloads
from bench.bed import LabBed, describe
from bench.contenders import Contender, Options
from bench.results import SETTINGS, Document
from bench.runner import Plan, Runner, continued, duration, new_document, pending
from tunneld.errors import ConfigError, StartError
from tunneld.lab import Cluster
from tunneld.lab.netns import require_tool

EXAMPLE = """
example:
  python -m bench run --contender udp vxlan direct --workload tcp1 udp64 --rounds 5 --json r.json
"""


def measure(
    plan: Plan,
    path: Path,
    *,
    options: Options | None = None,
    chosen: Sequence[Contender] | None = None,
    tell: Callable[[str], None] = common.say,
    wait_s: float = 10.0,
    trace: bool = True,
    within_s: float | None = None,
) -> Document:
    """Do what is missing of a plan in the lab, and return the document.

    Args:
        plan: what is wanted.
        path: the result file; an earlier one of the same plan is continued.
        options: of optional contenders.
        chosen: the contenders; None: those of the registry that the plan names.
        tell: takes progress.
        wait_s: longest wait for a quiet machine before each run.
        trace: count system calls by tracepoints in a pass of their own, in the first round.
        within_s: begin no round that would end later.

    Raises:
        ConfigError: the file belongs to another plan or machine.
        StartError: a tool is missing, or no contender can run.
    """
    if chosen is None:
        chosen = contenders.choose(plan.contenders, options or Options())
    workloads.choose(plan.workloads)
    require_tool("iperf3", "iperf3")
    common.require_udp_tools()
    with (
        _alone(path),
        Cluster(nodes=2, setting=plan.setting, shape="cable") as cluster,
    ):
        machine = describe(cluster)
        if path.exists():
            document = continued(results.load(path), plan, machine, str(path))
        else:
            document = new_document(plan, machine)
        _tell_plan(plan, document, path, tell)
        runner = Runner(
            plan,
            document,
            LabBed(cluster, chosen, wait_s=wait_s, trace=trace),
            save=lambda grown: results.save(path, grown),
            tell=tell,
        )
        try:
            runner.execute(within_s=within_s)
        except KeyboardInterrupt:
            tell(f"{len(document['runs'])} runs are in {path}; the same plan with it goes on there")
            raise
    if not document["runs"]:
        reasons = "; ".join(f"{name}: {why}" for name, why in document["skipped"].items())
        failures = "; ".join(entry["error"] for entry in document["failures"])
        raise StartError(f"nothing could be measured: {reasons or failures}")
    return document


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep a second benchmark away from the file."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", source="flag --json", field=str(path)
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"another benchmark writes {path}", remedy="wait for it") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _tell_plan(plan: Plan, document: Document, path: Path, tell: Callable[[str], None]) -> None:
    todo = len(pending(plan, document))
    done = len(plan.steps()) - todo
    tell(f"{todo} runs, about {duration(todo * (plan.seconds + 1.5))}; results: {path}")
    if done:
        tell(f"{done} runs are in the file already")


def default_path(name: str) -> Path:
    """Return where results go when nobody says: the cache directory, stamped."""
    directory = common.cache_dir() / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"


def parser(prog: str, text: str | None, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all measuring commands share."""
    made = argparse.ArgumentParser(
        prog=prog,
        description=text,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--rounds", type=_positive, default=3, help="default %(default)s")
    made.add_argument("--seconds", type=_positive, default=2, help="of each load (default 2)")
    made.add_argument("--json", metavar="FILE", help="the result file; continued when it exists")
    made.add_argument("--wait", type=float, default=10.0, metavar="S", help="for quiet, each run")
    made.add_argument("--no-trace", action="store_true", help="no counting by tracepoints")
    made.add_argument("--flanneld", metavar="PATH", help="the binary, for the contender flannel")
    return made


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1: {text!r}")
    return int(text)


def main(
    arguments: Sequence[str],
    *,
    prog: str = "python -m bench run",
    text: str | None = __doc__,
    example: str = EXAMPLE,
    wanted: Sequence[str] = ("udp", "vxlan", "direct"),
    loads: Sequence[str] = tuple(workloads.WORKLOADS),
) -> int:
    """Measure and print tables; exit code 1 when a run failed."""
    made = parser(prog, text, example)
    made.add_argument("--contender", nargs="+", default=list(wanted), metavar="NAME")
    made.add_argument("--workload", nargs="+", default=list(loads), metavar="NAME")
    made.add_argument("--setting", choices=SETTINGS, default="sgro")
    args = made.parse_args(arguments)
    plan = Plan(
        args.setting,
        tuple(dict.fromkeys(args.contender)),
        tuple(dict.fromkeys(args.workload)),
        args.rounds,
        args.seconds,
    )
    path = Path(args.json) if args.json else default_path(f"run-{args.setting}")
    document = measure(
        plan,
        path,
        options=Options(flanneld=args.flanneld),
        wait_s=args.wait,
        trace=not args.no_trace,
    )
    print(show.tables(document))
    return 1 if document["failures"] else 0
