"""What faults of etcd cost: datagrams lost beside each, and seconds until all is well again.

Two nodes with daemons and a real etcd in namespaces, 10,000 numbered datagrams a second from one
container to the other. Recovered: both daemons say `ready`, a lease that is put then is a peer of
both, and both own keys are in the store; counted from the end of the fault, which is when etcd
itself answers again.

    python -m bench faults --json faults.json
    python -m bench faults --only "killed and started" "permission denied" --times 5
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import common
from bench.fault_list import FAULTS, Outcome, befall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def measure(names: Sequence[str], times: int) -> dict[str, list[Outcome]]:
    """Have each fault befall a new pair of daemons so many times."""
    found: dict[str, list[Outcome]] = {}
    for number, name in enumerate(names, start=1):
        for turn in range(1, times + 1):
            common.say(f"fault {number}/{len(names)}, {turn}/{times}: {name}")
            outcome = befall(FAULTS[name])
            found.setdefault(name, []).append(outcome)
            text = common.Spread.of(outcome.recovered_s).text(".2f")
            common.say(f"  {outcome.sent} sent, {outcome.lost} lost, recovered after {text} s")
    return found


def passed(name: str, outcomes: Sequence[Outcome]) -> bool:
    """Return whether every bar is met."""
    spared = FAULTS[name].peers_change
    return all(o.in_time and (spared or not o.lost) for o in outcomes)


def table(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Render the outcomes as Markdown."""
    lines = [
        "| fault of etcd | datagrams | lost | told after, s | recovered after, s | bar |",
        "|---" * 6 + "|",
    ]
    for name, outcomes in found.items():
        sent, lost = sum(o.sent for o in outcomes), sum(o.lost for o in outcomes)
        told = [o.told_s for o in outcomes if o.told_s is not None]
        recovered = [seconds for o in outcomes for seconds in o.recovered_s]
        cells = [
            f"{name} (other peers)" if FAULTS[name].peers_change else name,
            f"{sent:,}",
            str(lost),
            common.Spread.of(told).text(".2f") if told else "-",
            common.Spread.of(recovered).text(".2f"),
            f"{FAULTS[name].bar:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    good = all(passed(name, outcomes) for name, outcomes in found.items())
    lines += [
        "",
        "Told: both daemons say that they are cut off, and why; -: this fault does not cut off.",
        common.machine_line() + ".",
        "PASSED" if good else "FAILED",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FAULT", default=list(FAULTS), help=" | ".join(FAULTS)
    )
    parser.add_argument("--times", type=int, default=1, help="of each fault (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.only if name not in FAULTS]:
        parser.error(f"no fault {unknown[0]!r}; there are: {', '.join(FAULTS)}")
    if args.times < 1:
        parser.error("--times must be at least 1")
    common.warn_if_busy()
    found = measure(args.only, args.times)
    print(table(found))
    document = {
        "machine": common.machine(),
        "faults": {name: [asdict(o) for o in outcomes] for name, outcomes in found.items()},
    }
    common.write_json(args.json, document)
    return 0 if all(passed(name, outcomes) for name, outcomes in found.items()) else 1
