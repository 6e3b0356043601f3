"""What one route lookup costs in the C core with few and with many peers.

Network 10.0.0.0/8, one /24 per peer, addresses drawn at random (fixed seed). Two questions apart:
"to 10 of them" keeps the traffic and changes the size of the table, so it must cost the same with
10,000 peers; "to all" also spreads the traffic, and what it adds is cache misses, not steps.

    python -m bench lookup --peers 10 10000
"""

from __future__ import annotations

import argparse
import array
import random
import time
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from bench import common
from bench.common import Spread
from tunneld.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

NETWORK = IPv4Network("10.0.0.0/8")
PUBLIC = IPv4Network("172.16.0.0/12")
BATCH = 4096
MAX_PEERS = 65534
FEW = 10


class Table:
    """A C route table of `peers` peers, and addresses to look up in it."""

    def __init__(self, core: Any, peers: int, seed: int) -> None:
        self._core = core
        lib, ffi = core.lib, core.ffi
        rng = random.Random(seed)
        subnets = [int(NETWORK[0]) + (i << 8) for i in rng.sample(range(1, 65535), peers)]
        routes = ffi.new("struct tnl_route[]", peers)
        for i, subnet in enumerate(subnets):
            routes[i].subnet = subnet
            routes[i].public_ip = int(PUBLIC[i + 2])
            routes[i].prefix_len = 24
        snapshot = ffi.new("struct tnl_snapshot *")
        snapshot.network = int(NETWORK.network_address)
        snapshot.network_len = NETWORK.prefixlen
        snapshot.subnet = int(NETWORK[0])
        snapshot.subnet_len = 24
        snapshot.tun_address = int(NETWORK[0])
        snapshot.mtu = 1472
        snapshot.port = 8285
        snapshot.routes = routes
        snapshot.route_count = peers
        out = ffi.new("struct tnl_routes **")
        code = lib.tnl_routes_new(snapshot, out)
        if code < 0:
            raise OSError(-code, "tnl_routes_new")
        self._routes = out[0]
        self._check(subnets)
        self._few = self._addresses_in(rng, rng.sample(subnets, min(FEW, peers)))
        self._all = self._addresses_in(rng, subnets)

    def _addresses_in(self, rng: random.Random, subnets: Sequence[int]) -> Any:
        chosen = [rng.choice(subnets) + rng.randrange(256) for _ in range(BATCH)]
        return self._core.ffi.from_buffer("uint32_t[]", array.array("I", chosen))

    def _check(self, subnets: Sequence[int]) -> None:
        find = self._core.lib.tnl_routes_lookup
        for i in range(0, len(subnets), max(1, len(subnets) // 50)):
            if find(self._routes, subnets[i] + 5) < 0:
                raise StartError(f"{IPv4Address(subnets[i])} is not found: nothing to measure")

    def lookup(self, repeats: int, *, everywhere: bool) -> float:
        """Return nanoseconds per lookup over `repeats` batches."""
        many, routes = self._core.lib.tnl_routes_lookup_many, self._routes
        addresses = self._all if everywhere else self._few
        began = time.perf_counter_ns()
        for _ in range(repeats):
            many(routes, addresses, BATCH)
        return (time.perf_counter_ns() - began) / (repeats * BATCH)

    def close(self) -> None:
        """Free the C table."""
        self._core.lib.tnl_routes_free(self._routes)


def load_core() -> Any:
    """Return the C module.

    Raises:
        StartError: it was not built.
    """
    try:
        from tunneld import _dataplane  # noqa: PLC0415 - a missing core is a message
    except ImportError as error:
        raise StartError(
            f"the C core is not built: {error}", remedy="pip install -e . with a C compiler"
        ) from error
    return _dataplane


def measure(sizes: Sequence[int], rounds: int, repeats: int) -> list[dict[str, Any]]:
    """Measure all sizes in interleaved rounds; nanoseconds per lookup."""
    core = load_core()
    rows: list[dict[str, Any]] = [{"peers": peers, "to_10": [], "to_all": []} for peers in sizes]
    for number in range(rounds):
        for row in rows:
            # New subnets each round: which keys collide is luck, and belongs into the spread.
            table = Table(core, row["peers"], seed=number)
            table.lookup(10, everywhere=True)  # warm the caches
            row["to_10"].append(table.lookup(repeats, everywhere=False))
            row["to_all"].append(table.lookup(repeats, everywhere=True))
            table.close()
    return rows


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench lookup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", type=int, nargs="+", default=[10, 10_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=500, help=f"batches of {BATCH} per round")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    args = parser.parse_args(arguments)
    if not all(1 <= peers <= MAX_PEERS for peers in args.peers) or args.rounds < 1:
        parser.error(f"--peers must be 1..{MAX_PEERS}, --rounds at least 1")
    rows = measure(args.peers, args.rounds, args.repeats)
    print("| peers | ns per lookup, traffic to 10 of them | traffic to all of them |")
    print("|---|---|---|")
    for row in rows:
        cells = (Spread.of(row[name]).text(".2f") for name in ("to_10", "to_all"))
        print(f"| {row['peers']:,} | {' | '.join(cells)} |")
    print(f"\nMedian (lowest-highest) of {args.rounds} rounds, each with other subnets.")
    print(common.machine_line() + ".")
    common.write_json(args.json, {"machine": common.machine(), "ns_per_lookup": rows})
    return 0
