"""Keeps the firewall rules of the overlay: written at start, compared again and again, repaired.

nft where it is installed, with a table of our own; the accepting rules then still go into the
FORWARD chain of iptables when that is installed too, because docker's DROP stands there. iptables
alone only where there is no nft.

The rules outlive the daemon. Containers go on reaching the world while it restarts (docker was
told with FLANNEL_IPMASQ not to masquerade), kernel backends go on forwarding, and the port is never
so easily taken by a container as while no daemon holds it. `tunneld cleanup` removes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from shutil import which
from typing import TYPE_CHECKING

from tunneld.errors import StartError
from tunneld.link import conntrack, masquerade, nft, nft_socket, xtables
from tunneld.link.masquerade import CHAINS, FORGED, TABLE, Wanted
from tunneld.link.xtables import Chain
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from tunneld.config import Config
    from tunneld.netconf import NetworkConfig

log = logging.getLogger(__name__)

REPAIR = "firewall_rules"
"""The kind under which repairs are counted."""

NO_RULES: Mapping[str, object] = {
    "tools": [],
    "masquerade": "",
    "forward": False,
    "error": "",
    FORGED: None,
}
"""What `status` shows before there are any."""


def of(config: Config, network: NetworkConfig, subnet: IPv4Network, own: IPv4Address) -> HostRules:
    """Return the rules that the flags ask for.

    Args:
        config: the flags.
        network: whose port is guarded, when its backend is udp.
        subnet: the own lease.
        own: address of the external interface.
    """
    wanted = Wanted(
        network=network.network,
        subnet=subnet,
        port=network.port if network.backend_type == "udp" else None,
        masquerade=masquerade.expression(ip_masq=config.ip_masq, random=config.ip_masq_random),
        forward=config.forward_rules,
    )
    return HostRules(wanted, config.rules_resync, own)


class HostRules:
    """The rules of one daemon.

    Args:
        wanted: what there shall be.
        resync: seconds between two comparisons.
        own: address of the external interface.

    Attributes:
        repairs: how often something had to be brought back, by kind; empty: never.
    """

    def __init__(self, wanted: Wanted, resync: float, own: IPv4Address) -> None:
        self.repairs: Counter[str] = Counter()
        self._wanted = wanted
        self._resync = resync
        self._own = own
        self._nft = which("nft") is not None
        self._iptables = which("iptables") is not None
        self._legacy = False
        # None: no peers are known yet.
        self._peers: frozenset[IPv4Address] | None = None
        self._written: frozenset[IPv4Address] | None = None
        # For whom older flows were ended; empty: for nobody yet.
        self._freed: list[frozenset[IPv4Address] | None] = []
        self._peers_changed = asyncio.Event()
        self._generation: int | None = None
        self._error = ""

    @property
    def masquerades(self) -> bool:
        """Whether we masquerade, so that docker does not need to (FLANNEL_IPMASQ)."""
        return bool(self._wanted.masquerade)

    async def start(self) -> None:
        """Write the rules.

        Raises:
            StartError: masquerading was asked for and cannot be had.
        """
        try:
            if not self._nft and not self._iptables:
                remedy = "apt-get install nftables"
                raise StartError("neither nft nor iptables is installed", remedy=remedy)  # noqa: TRY301
            if self._iptables:
                await self._try_iptables()
            if not self._wanted:
                await remove()
                return
            await self._ensure()
        except StartError as error:
            if self._wanted.masquerade:
                raise
            # As flannel does: most hosts forward without these rules too.
            self._tell(error)

    async def _try_iptables(self) -> None:
        """Do without iptables where nft is enough and the kernel has no iptables."""
        try:
            self._legacy = await xtables.legacy()
            wanted = {chain.name for chain in self._chains(None)}
            # Of an earlier life that wanted more, or had no nft.
            await xtables.remove(chain for chain in CHAINS if chain.name not in wanted)
            if wanted:
                await xtables.listing("filter")
        except StartError as error:
            if not self._nft:
                raise
            self._iptables = False
            pair = fields(error=error)
            log.warning("iptables does not work here, going on with nft alone", extra=pair)

    def _chains(self, peers: frozenset[IPv4Address] | None) -> list[Chain]:
        """Return what belongs into iptables on this host."""
        if not self._nft:
            return masquerade.xtables_chains(self._wanted, peers)
        if self._iptables and self._wanted.forward:
            return [masquerade.forward_chain(self._wanted)]
        return []

    def follow(self, public_ips: Iterable[IPv4Address]) -> None:
        """Guard the port at exactly these addresses, soon."""
        self._peers = frozenset(public_ips)
        if self._peers != self._written:
            self._peers_changed.set()

    def moved(self, own: IPv4Address) -> None:
        """Take note of another address of the external interface."""
        if own != self._own:
            self._own = own
            # What is written now is another thing; that is no repair.
            self._written = None
            self._peers_changed.set()

    async def run(self) -> None:
        """Follow the peers, and compare every `resync` seconds, for ever."""
        while self._wanted:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._peers_changed.wait(), self._resync)
            if not self._peers_changed.is_set() and self._unchanged():
                continue
            self._peers_changed.clear()
            try:
                changed = await self._ensure()
            except StartError as error:
                self._tell(error)
                continue
            if self._error:
                self._error = ""
                log.info("the firewall rules are there")
            elif changed:
                self.repairs[REPAIR] += 1
                log.warning("repaired", extra=fields(kind=REPAIR))
        await asyncio.Event().wait()

    def status(self) -> dict[str, object]:
        """Return what `status` shows of the rules; never blocks."""
        forged: int | None = None
        if self._nft and self._wanted.port is not None:
            with suppress(OSError):
                forged = nft_socket.counter(TABLE, FORGED).packets
        tools: Mapping[str, bool] = {"nft": self._nft, "iptables": self._iptables}
        if not self._wanted:
            return dict(NO_RULES)
        return {
            "tools": [name for name, there in tools.items() if there],
            "masquerade": self._wanted.masquerade,
            "forward": self._wanted.forward,
            "error": self._error,
            FORGED: forged,
        }

    def _unchanged(self) -> bool:
        """Whether nobody has written a rule since we looked; only nf_tables can tell."""
        if self._error or (self._iptables and self._legacy):
            return False
        try:
            return nft_socket.generation() == self._generation
        except OSError:
            return False

    async def _ensure(self) -> bool:
        """Have the rules; True when something that was there before had to be brought back."""
        # Before looking: what others write meanwhile is seen the next time.
        with suppress(OSError):
            self._generation = nft_socket.generation()
        peers = self._peers
        changed = await xtables.ensure(self._chains(peers))
        if self._nft:
            changed = await self._ensure_table() or changed
            changed = await self._ensure_sets(peers) or changed
        elif peers != self._written:
            changed = False
        self._written = peers
        if self._wanted.port is not None and (changed or self._freed != [peers]):
            await self._end_older_flows(self._wanted.port, peers)
        return changed

    async def _end_older_flows(self, port: int, peers: frozenset[IPv4Address] | None) -> None:
        """End what slipped through before the guard was there; it would keep the tunnel's port."""
        self._freed = [peers]
        try:
            count = await asyncio.to_thread(conntrack.end_masqueraded, port, peers, self._own)
        except OSError as error:
            log.debug("cannot look for flows that are older than the rules: %s", error)
            return
        if count:
            pair = fields(count=count, port=port)
            log.warning("ended flows of containers that held the tunnel's port", extra=pair)

    async def _ensure_table(self) -> bool:
        body = masquerade.nft_body(self._wanted, accept=not self._iptables)
        if body:
            return await nft.ensure(TABLE, body)
        await nft.delete(TABLE)
        return False

    async def _ensure_sets(self, peers: frozenset[IPv4Address] | None) -> bool:
        if self._wanted.port is None:
            return False
        sets = masquerade.nft_sets(self._wanted.port, peers, self._own)
        table = await nft.read(TABLE)
        if table and all(table.sets.get(name) == wanted for name, wanted in sets.items()):
            return False
        await nft.set_all(TABLE, sets)
        return peers == self._written

    def _tell(self, error: StartError) -> None:
        # An outage of a day is one line.
        if str(error) != self._error:
            self._error = str(error)
            log.warning("cannot write firewall rules", extra=fields(error=error))


async def remove() -> list[str]:
    """Remove every rule of ours.

    Returns:
        What was removed, one line each.

    Raises:
        StartError: a tool refuses.
    """
    removed = []
    if which("nft") and await nft.delete(TABLE):
        removed.append(f"nft table {TABLE}")
    if which("iptables"):
        # Where the kernel has no iptables there is nothing to remove.
        with suppress(StartError):
            removed += [
                f"iptables chain {name}" for name in await xtables.remove(masquerade.CHAINS)
            ]
    return removed
