"""The ladder: `run` with every rung of the dataplane, kernel VXLAN and the direct path."""

from __future__ import annotations

from collections.abc import Sequence

from bench import run
from bench.contenders import ARGUMENTS, YARDSTICK

EXAMPLE = """
example:
  python -m bench ladder --rounds 5 --json ladder.json
"""
CONTENDERS = (*(name for name in ARGUMENTS if name != "udp"), "udp", YARDSTICK, "direct")
WORKLOADS = ("tcp1", "udp64")


def main(arguments: Sequence[str]) -> int:
    """Measure and print the tables; all options of `run` may be given."""
    return run.main(
        arguments,
        prog="python -m bench ladder",
        text=__doc__,
        example=EXAMPLE,
        wanted=CONTENDERS,
        loads=WORKLOADS,
    )
