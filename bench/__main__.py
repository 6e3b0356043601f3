"""`python -m bench SCRIPT [ARGUMENTS]`: run one of the benchmark scripts."""

from __future__ import annotations

import importlib
import sys

from tunneld.errors import TunneldError

SCRIPTS = {
    "ladder": "TCP and UDP through each rung of the dataplane and through kernel VXLAN",
    "bars": "every bar of the offload rung against kernel VXLAN, in three settings",
    "repair": "outage after the device was deleted, the daemon killed, the link set down",
    "lookup": "nanoseconds per route lookup with 10 and with 10,000 peers",
}


def main(arguments: list[str]) -> int:
    """Run the script that the first argument names; returns the exit code."""
    if not arguments or arguments[0] not in SCRIPTS:
        print("usage: python -m bench SCRIPT [ARGUMENTS]   (--help after SCRIPT tells more)\n")
        for name, line in SCRIPTS.items():
            print(f"  {name:8} {line}")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    module = importlib.import_module(f"bench.{arguments[0]}")
    try:
        return int(module.main(arguments[1:]))
    except TunneldError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
