"""The Backend protocol: how leases become forwarding on this host. A backend is one file.

The daemon calls `prepare` (what will we announce?), acquires a lease with those attributes, then
`start`, `apply` on every change of the peers, `ensure` whenever the kernel's state may have
changed, and `stop`. Everything a backend does to the kernel is idempotent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tunneld.dataplane import DataplaneCounters, PeerCounters
    from tunneld.lease import Lease, LeaseAttrs
    from tunneld.link.underlay import Underlay


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What `status` shows of the backend (the JSON of `tunneld status --json`).

    Attributes:
        type: "udp", "vxlan", ...
        device: name of the overlay device.
        mtu: its MTU, which is also FLANNEL_MTU.
        dataplane: the rung that runs ("kernel" for kernel backends).
        threads: packet threads of this process.
        offload: gauges of effective features.
        queues: packets that each queue has read since the packet path began, by direction.
        repairs: what was repaired, by kind, since start.
        forwarding: False while the device or the packet path is down.
        skipped: subnet -> reason of each peer that this backend cannot reach (`skipped.py`).
    """

    type: str
    device: str
    mtu: int
    dataplane: str
    threads: int
    offload: Mapping[str, int | bool | str] = field(default_factory=dict)
    repairs: Mapping[str, int] = field(default_factory=dict)
    forwarding: bool = True
    queues: Sequence[Mapping[str, int]] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One way to carry the overlay."""

    async def prepare(self, underlay: Underlay) -> LeaseAttrs:
        """Check that the host can do it and return the attributes to announce.

        Raises:
            StartError: with the remedy, when the host cannot.
        """
        ...

    async def start(self, own: Lease) -> None:
        """Bring up unreachable routes, device, address, route and packet path, in this order."""
        ...

    async def apply(self, peers: Sequence[Lease]) -> None:
        """Make the forwarding state match exactly these admitted peers."""
        ...

    async def ensure(self) -> None:
        """Compare the kernel's state with the wanted one and repair what differs; counted."""
        ...

    async def underlay_changed(self, underlay: Underlay) -> None:
        """Follow a new address or MTU of the external interface."""
        ...

    async def stop(self) -> None:
        """Stop traffic and remove the device; the unreachable routes stay (fail closed)."""
        ...

    def status(self) -> BackendStatus:
        """Return the state as of now; never blocks."""
        ...

    def counters(self) -> DataplaneCounters:
        """Return the packet counters (empty for kernel backends)."""
        ...

    def kernel_counters(self) -> Mapping[str, int]:
        """Return `tun_queue_dropped` and `socket_dropped` where they apply."""
        ...

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Return per-peer counters by subnet."""
        ...


async def _no_leases() -> Sequence[Lease]:
    return ()


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What a backend takes from the network config and from the command line.

    Attributes:
        network: the overlay network.
        port: UDP port of the network config.
        mtu: device MTU asked for in the network config; None: derived from the underlay.
        dataplane: the `--dataplane` rung, or "auto".
        threads: the `--threads` choice: "auto", "1" or "2".
        source_check: "peer", "strict" or "off".
        allow_sources: the `--allow-source` prefixes.
        on_failure: called when the backend cannot go on; the daemon ends with exit code 1.
        backend: the Backend object of the network config as it stands there; each backend reads
            its own options out of it (`tunneld.backend.config`).
        source: where the network config came from, for errors.
        leases: returns every readable lease of the store as of now, our own too.
        queues: the `--queues` choice: of the TUN, each with a socket and threads of its own.
    """

    network: IPv4Network
    port: int
    mtu: int | None
    dataplane: str
    threads: str
    source_check: str
    allow_sources: tuple[IPv4Network, ...]
    on_failure: Callable[[BaseException], None]
    backend: Mapping[str, object] = field(default_factory=dict)
    source: str = ""
    leases: Callable[[], Awaitable[Sequence[Lease]]] = _no_leases
    queues: int = 1
