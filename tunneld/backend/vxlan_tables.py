"""The tables of the vxlan backends: what each peer needs, compared with the kernel's, and written.

A peer needs three entries, in this order: the neighbour (`base lladdr VtepMAC PERMANENT`), the FDB
entry (`VtepMAC dst PublicIP self permanent`), the route (`subnet via base dev flannel.1 onlink`):
a route before its neighbour would let the kernel ask for it by ARP. A peer that is routed directly
needs the route alone. Each table is listed once, whatever the number of peers, and what is right
is not touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tunneld.backend.vxlan_peers import Vtep
from tunneld.errors import StartError
from tunneld.link import rtnl_neigh, rtnl_routes
from tunneld.link.rtnl import METRIC_LAST, PROTO_TUNNELD
from tunneld.link.rtnl_bulk import BulkSocket, Request
from tunneld.link.rtnl_info import SCOPE_GLOBAL, RouteInfo
from tunneld.link.rtnl_neigh import NUD_PERMANENT, Neighbour

_RTPROT_KERNEL = 2


@dataclass(frozen=True, slots=True)
class Synced:
    """What one comparison did.

    Attributes:
        repaired: entries written that had been there before, by kind.
        failed: subnet -> what the kernel said, of each peer that could not be entered.
    """

    repaired: Counter[str]
    failed: dict[IPv4Network, str]


def unreachable(dst: IPv4Network) -> RouteInfo:
    """Return the route that keeps `dst` from leaving by another way (fail closed)."""
    return RouteInfo(dst, None, None, METRIC_LAST, PROTO_TUNNELD, SCOPE_GLOBAL, unreachable=True)


def route(dst: IPv4Network, ifindex: int, via: IPv4Address | None, *, onlink: bool) -> RouteInfo:
    """Return a route of ours."""
    return RouteInfo(
        dst, ifindex, via, 0, PROTO_TUNNELD, SCOPE_GLOBAL, unreachable=False, onlink=onlink
    )


def compare_routes(
    there: Sequence[RouteInfo], wanted: Sequence[RouteInfo]
) -> tuple[list[RouteInfo], list[RouteInfo]]:
    """Return the routes to write and those to remove. Pure.

    What is written takes the place of a route with its prefix and metric in one step: packets meet
    the one or the other.
    """
    have, want = set(there), set(wanted)
    missing = [new for new in wanted if new not in have]
    replaced = {(new.dst, new.metric) for new in missing}
    stale = [old for old in there if old not in want and (old.dst, old.metric) not in replaced]
    return missing, stale


class VxlanTables:
    """Neighbours and FDB of one device, and our routes.

    Args:
        bulk: the socket for them.
        network: the overlay network; routes outside it are not looked at.
    """

    def __init__(self, bulk: BulkSocket, network: IPv4Network) -> None:
        self._bulk = bulk
        self._network = network
        self._complete: dict[IPv4Network, tuple[Vtep, RouteInfo]] = {}
        self._neighbours: dict[IPv4Address, str] = {}
        self._fdb: dict[str, IPv4Address] = {}
        self._first = True

    def forget(self) -> None:
        """Take note that the device is another one: what it lacks was not removed by others."""
        self._complete.clear()

    def wrong(self, entry: Neighbour, *, deleted: bool) -> bool:
        """Tell whether a change of our device's entries is none of ours. Pure."""
        if entry.dst is None:
            return False
        wanted: object = self._fdb.get(entry.mac) if entry.fdb else self._neighbours.get(entry.dst)
        if wanted is None:
            return entry.permanent and not deleted
        right = entry.permanent and wanted == (entry.dst if entry.fdb else entry.mac)
        return right if deleted else not right

    async def sync_routes(self, ifindex: int, wanted: Sequence[RouteInfo]) -> Counter[str]:
        """Make our routes in the network exactly these; returns what was written, by kind.

        Raises:
            StartError: the kernel refuses one of them.
        """
        missing, stale = compare_routes(await self._our_routes(ifindex), wanted)
        await self._must_put(missing)
        await self._drop(map(rtnl_routes.drop, stale))
        return Counter("unreachable_route" if new.unreachable else "route" for new in missing)

    async def sync(
        self,
        ifindex: int,
        vteps: Sequence[Vtep],
        direct: Mapping[IPv4Address, int],
        blocked: Iterable[IPv4Network],
    ) -> Synced:
        """Make all three tables exactly those of the peers.

        Args:
            ifindex: of our VTEP.
            vteps: the peers.
            direct: public IP -> interface of those that are routed without a tunnel.
            blocked: destinations of the unreachable routes.

        Raises:
            StartError: the kernel refuses an unreachable route.
        """
        hops = {
            vtep.subnet: route(vtep.subnet, direct[vtep.public_ip], vtep.public_ip, onlink=False)
            if vtep.public_ip in direct
            else route(vtep.subnet, ifindex, vtep.base, onlink=True)
            for vtep in vteps
        }
        routes = await self._our_routes(ifindex)
        neighbours = await rtnl_neigh.neighbours(self._bulk, ifindex, fdb=False)
        fdb = await rtnl_neigh.neighbours(self._bulk, ifindex, fdb=True)

        missing, stale = compare_routes(routes, [*map(unreachable, blocked), *hops.values()])
        closed = [new for new in missing if new.unreachable]
        await self._must_put(closed)
        # First the routes of peers that left: packets for them are refused, not lost.
        await self._drop(map(rtnl_routes.drop, stale))

        wanted = {vtep.subnet: (vtep, hops[vtep.subnet]) for vtep in vteps}
        tunnelled = [vtep for vtep in vteps if vtep.public_ip not in direct]
        steps = _Steps(
            self._bulk, {net for net in wanted if wanted[net] == self._complete.get(net)}
        )
        await steps.write("neighbour", _missing_neighbours(ifindex, tunnelled, neighbours))
        await steps.write("fdb", _missing_fdb(ifindex, tunnelled, fdb))
        await steps.write(
            "route",
            {
                new.dst: (rtnl_routes.put(new), rtnl_routes.drop(new))
                for new in missing
                if not new.unreachable
            },
        )
        await steps.roll_back({vtep.subnet: vtep.mac for vtep in tunnelled})

        failed = steps.failed
        self._neighbours = {v.base: v.mac for v in tunnelled if v.subnet not in failed}
        self._fdb = {v.mac: v.public_ip for v in tunnelled if v.subnet not in failed}
        needed = {v.base for v in tunnelled}, {v.mac for v in tunnelled}
        left = [e for e in neighbours if e.permanent and e.dst not in needed[0]]
        left += [e for e in fdb if e.permanent and e.mac not in needed[1]]
        await self._drop(map(rtnl_neigh.drop, left))
        self._complete = {net: what for net, what in wanted.items() if net not in failed}
        repaired = steps.repaired
        if closed:
            repaired["unreachable_route"] = len(closed)
        return Synced(repaired, failed)

    async def _our_routes(self, ifindex: int) -> list[RouteInfo]:
        found = await rtnl_routes.routes(self._bulk, proto=PROTO_TUNNELD)
        if self._first:
            # A flanneld that had this device before us left routes under other numbers.
            there = await rtnl_routes.routes(self._bulk, ifindex=ifindex)
            found += [old for old in there if old.proto not in {PROTO_TUNNELD, _RTPROT_KERNEL}]
            self._first = False
        return [ours for ours in found if ours.dst.subnet_of(self._network)]

    async def _must_put(self, routes: Sequence[RouteInfo]) -> None:
        answers = await self._bulk.exchange([rtnl_routes.put(new) for new in routes])
        for new, answer in zip(routes, answers, strict=True):
            if answer.errno:
                raise StartError(f"the kernel refuses the route {new}: {answer.reason}")

    async def _drop(self, requests: Iterable[Request]) -> None:
        # What cannot be removed now is still there at the next comparison.
        await self._bulk.exchange(list(requests))


class _Steps:
    """Writes kind after kind; a peer that fails in one step takes no part in the next ones.

    Args:
        bulk: the socket.
        complete: peers that had everything: what they lack now, others removed.
    """

    def __init__(self, bulk: BulkSocket, complete: Collection[IPv4Network]) -> None:
        self._bulk = bulk
        self._complete = complete
        self._written: list[tuple[str, IPv4Network, Request]] = []
        self.failed: dict[IPv4Network, str] = {}
        self.repaired: Counter[str] = Counter()

    async def write(
        self, kind: str, missing: Mapping[IPv4Network, tuple[Request, Request]]
    ) -> None:
        """Write what each subnet lacks of one kind; `missing` has the request and its undoing."""
        todo = [(net, *missing[net]) for net in missing if net not in self.failed]
        answers = await self._bulk.exchange([put for _, put, _ in todo])
        for (net, _, undo), answer in zip(todo, answers, strict=True):
            if answer.errno:
                self.failed[net] = f"the kernel refuses its {kind}: {answer.reason}"
            else:
                self._written.append((kind, net, undo))
                self.repaired[kind] += net in self._complete
        self.repaired = +self.repaired

    async def roll_back(self, macs: Mapping[IPv4Network, str]) -> None:
        """Undo what was written for the peers that failed, the last step first."""
        shared = {mac for net, mac in macs.items() if net not in self.failed}
        undo = [
            request
            for kind, net, request in reversed(self._written)
            if net in self.failed and not (kind == "fdb" and macs.get(net) in shared)
        ]
        await self._bulk.exchange(undo)


def _missing_neighbours(
    ifindex: int, vteps: Sequence[Vtep], there: Sequence[Neighbour]
) -> dict[IPv4Network, tuple[Request, Request]]:
    have = {(entry.dst, entry.mac) for entry in there if entry.permanent}
    return {
        vtep.subnet: _requests(Neighbour(ifindex, vtep.mac, vtep.base, NUD_PERMANENT, fdb=False))
        for vtep in vteps
        if (vtep.base, vtep.mac) not in have
    }


def _missing_fdb(
    ifindex: int, vteps: Sequence[Vtep], there: Sequence[Neighbour]
) -> dict[IPv4Network, tuple[Request, Request]]:
    # One station's MAC has one destination: the kernel appends only to those of many.
    have = {(entry.mac, entry.dst) for entry in there if entry.permanent}
    return {
        vtep.subnet: _requests(
            Neighbour(ifindex, vtep.mac, vtep.public_ip, NUD_PERMANENT, fdb=True)
        )
        for vtep in vteps
        if (vtep.mac, vtep.public_ip) not in have
    }


def _requests(entry: Neighbour) -> tuple[Request, Request]:
    return rtnl_neigh.put(entry), rtnl_neigh.drop(entry)
