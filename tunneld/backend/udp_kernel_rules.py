"""The nft table of `--dataplane kernel`: admission, as far as ipip and fou do not know of it.

The outer chain sees a datagram before fou takes it: its source must be a peer's public IP and its
source port the network's. The inner chain sees the packet as it comes in by an ipip device: its
source must be routed to that very device (strict reverse path filtering, RFC 3704, 2.2: the same
that the sysctl does, but counted, and whatever `conf.all.rp_filter` says), its destination must
lie in the own lease, which also ends loops and relaying. Counters bear the names of the daemon's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from tunneld.link import ipip, nft, nft_socket

if TYPE_CHECKING:
    from tunneld.backend import BackendOptions

TABLE = "tunneld_udp"
PORT_SET = "port"
"""Named set that holds the fou port, so that `tunneld cleanup` knows which one is ours."""

_PEERS = "peers"
_COUNTERS = (
    "drop_outer_source",
    "drop_outer_port",
    "drop_spoofed_source",
    "drop_foreign_destination",
)


def body(port: int, subnet: IPv4Network) -> str:
    """Return what stands in the table.

    Args:
        port: UDP port of the network.
        subnet: the own lease.
    """
    counters = "\n".join(f"counter {name} {{\n}}" for name in _COUNTERS)
    return f"""{counters}
set {PORT_SET} {{
  type inet_service
  elements = {{ {port} }}
}}
set {_PEERS} {{
  type ipv4_addr
}}
chain outer {{
  type filter hook input priority raw; policy accept;
  udp dport @{PORT_SET} ip saddr != @{_PEERS} counter name drop_outer_source drop
  udp dport @{PORT_SET} udp sport != {port} counter name drop_outer_port drop
}}
chain inner {{
  type filter hook prerouting priority raw; policy accept;
  iifname "{ipip.PREFIX}*" fib saddr . iif oif missing counter name drop_spoofed_source drop
  iifname "{ipip.PREFIX}*" ip daddr != {subnet} counter name drop_foreign_destination drop
}}"""


async def check(options: BackendOptions) -> None:
    """Have the kernel judge the table, before there is a lease.

    Raises:
        StartError: nft is not installed, or the kernel lacks an expression.
    """
    await nft.check(TABLE, body(options.port, options.network))


class Rules:
    """The table of one life of the backend.

    Args:
        options: from the network config.
        subnet: the own lease.

    Attributes:
        counters: name -> packets, as last read.
    """

    def __init__(self, options: BackendOptions, subnet: IPv4Network) -> None:
        self.counters: Mapping[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._body = body(options.port, subnet)
        self._admitted: frozenset[str] | None = None
        self._there: frozenset[str] = frozenset()
        self._generation: int | None = None

    def touched(self) -> bool:
        """Tell whether anybody has written a rule since the last `ensure`; costs next to nothing.

        False where the kernel does not say.
        """
        try:
            return nft_socket.generation() != self._generation
        except OSError:
            return False

    async def ensure(self) -> bool:
        """Have the table with its peers, and read the counters; True: something was not right.

        Raises:
            StartError: nft refuses.
        """
        # Before looking: what others write meanwhile is seen the next time.
        with suppress(OSError):
            self._generation = nft_socket.generation()
        changed = await nft.ensure(TABLE, self._body)
        found = await nft.read(TABLE)
        if found is None:
            return True
        self.counters = {name: tally.packets for name, tally in found.counters.items()}
        self._there = found.sets.get(_PEERS, frozenset())
        # None: no peers are known yet, those of the last life stay.
        if self._admitted is not None and self._there != self._admitted:
            await self._write(self._admitted)
            return True
        return changed

    async def admit(self, public_ips: set[IPv4Address]) -> None:
        """Take datagrams from exactly these.

        Raises:
            StartError: nft refuses.
        """
        self._admitted = frozenset(map(str, public_ips))
        if self._admitted != self._there:
            await self._write(self._admitted)

    async def _write(self, public_ips: frozenset[str]) -> None:
        await nft.set_elements(TABLE, _PEERS, sorted(public_ips))
        self._there = public_ips
