"""`python -m bench COMMAND [ARGUMENTS]`: run one of the benchmarks."""

from __future__ import annotations

import importlib
import sys

from tunneld.errors import TunneldError

COMMANDS = {
    "list": ("listing", "contenders, workloads and settings, and what is missing here"),
    "run": ("run", "measure contenders under workloads, write a result file"),
    "report": ("report", "one static HTML page out of result files"),
    "compare": ("compare", "what has become worse between two result files, beyond noise"),
    "ladder": ("ladder", "run: every rung of the dataplane, kernel VXLAN and the direct path"),
    "bars": ("bars", "every bar of the daemon against kernel VXLAN, in three settings"),
    "repair": ("repair", "outage after the device was deleted, the daemon killed, the link down"),
    "tables": ("tables", "500 peers of the vxlan backend come, stay over a restart, leave"),
    "lookup": ("lookup", "nanoseconds per route lookup with 10 and with 10,000 peers"),
    "etcd": ("etcd_events", "a lease in etcd becomes a route; 10,000 leases listed again"),
    "faults": ("faults", "what faults of etcd cost: datagrams, and seconds until all is well"),
    "syscalls": ("syscalls", "system calls per packet at TCP saturation, by tracepoints"),
}
"""Command -> module of this package with a `main(arguments)`, and what it does."""

QUICK = "--quick"


def usage() -> str:
    """Return what can be called."""
    lines = ["usage: python -m bench COMMAND [ARGUMENTS]   (--help after COMMAND tells more)", ""]
    lines += [f"  {name:8} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [f"  {QUICK:8} the headline in under 90 seconds: udp against kernel VXLAN"]
    lines += ["", "example:", "  python -m bench run --contender udp vxlan --json r.json"]
    lines += ["  python -m bench report r.json -o report.html"]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names; returns the exit code."""
    if arguments[:1] == [QUICK]:
        module = "quick"
    elif arguments and arguments[0] in COMMANDS:
        module = COMMANDS[arguments[0]][0]
    else:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(usage(), file=sys.stdout if asked else sys.stderr)
        if arguments and not asked:
            print(f"\nbench: no command {arguments[0]!r}", file=sys.stderr)
        return 0 if asked else 2
    try:
        return int(importlib.import_module(f"bench.{module}").main(arguments[1:]))
    except TunneldError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
