"""What the host's firewall should hold for the overlay: pure texts, for nft and for iptables.

Three things, each only where it is wanted:
* Masquerading (`--ip-masq`), flannel's rules in flannel's order (pkg/trafficmngr/iptables of
  flannel: masqRules). C is the network, P the own subnet.
* Accepting the network in FORWARD, both ways (`--iptables-forward-rules`).
* The guard of the udp backend. Peers know each other by public IP and port. A container's
  datagram to a peer's port that is masqueraded, by us, by docker or by anybody, bears this host's
  address; while the tunnel is idle it may even get the tunnel's port (RFC 4787, 4.2.1 prefers port
  preservation), and then the peers' answers go to the container as well. So what is forwarded to
  the network's port at a peer's public IP is dropped once it bears an address of this host. The
  same for what pretends to be another peer and does not come from where that peer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tunneld.link.xtables import Chain

TABLE = "tunneld"
PEERS = "peers"
CLOSED = "closed"
"""Named set that holds the port as long as the peers are not known: then anybody may be one."""

OWN = "own"
"""Named set that holds the tunnel's own address."""

FORGED = "drop_forged_outer"
"""Named counter of the guard."""

_MULTICAST = "224.0.0.0/4"
_MARK = "0x4000"
"""kube-proxy masquerades packets with this mark itself (flannel's KubeProxyMark)."""

_POSTROUTING = Chain("nat", "TUNNELD-POSTRTG", "POSTROUTING")
_FORWARD = Chain("filter", "TUNNELD-FWD", "FORWARD")
_GUARD = Chain("mangle", "TUNNELD-GUARD", "FORWARD")
CHAINS = (_POSTROUTING, _FORWARD, _GUARD)
"""Every chain that can be ours, for removing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the rules depend on.

    Attributes:
        network: the overlay network.
        subnet: the own lease.
        port: of the udp backend; None: no guard.
        masquerade: "", "masquerade" or "masquerade fully-random".
        forward: accept the network in FORWARD.
    """

    network: IPv4Network
    subnet: IPv4Network
    port: int | None
    masquerade: str
    forward: bool

    def __bool__(self) -> bool:
        """Whether there is to be any rule; without one the guard keeps out of the firewall too."""
        return self.forward or bool(self.masquerade)


def expression(*, ip_masq: bool, random: bool) -> str:
    """Return `Wanted.masquerade` for the flags."""
    if not ip_masq:
        return ""
    return "masquerade fully-random" if random else "masquerade"


def nft_body(wanted: Wanted, *, accept: bool) -> str:
    """Return what stands in the nft table; the guard knows no peers and is closed to all.

    Args:
        wanted: see there.
        accept: whether the accepting rules go here, because iptables has no FORWARD for them.
    """
    parts = []
    if wanted.port is not None:
        parts.append(_nft_guard(wanted.port))
    if wanted.masquerade:
        parts.append(_nft_masquerade(wanted))
    if accept and wanted.forward:
        parts.append(f"""chain forward {{
  type filter hook forward priority filter; policy accept;
  ip saddr {wanted.network} accept
  ip daddr {wanted.network} accept
}}""")
    return "\n".join(parts)


def _nft_guard(port: int) -> str:
    # Behind source NAT (srcnat) a datagram of a container is known by its new source: one of ours
    # on a packet that was translated. Not by `iif`: what ipip and fou wrap (--dataplane kernel)
    # keeps that of the packet within. The tunnel's own may be translated too, by an administrator
    # who has it come from another address of this host: its flow begins or ends at ours.
    by_others = f"ct status snat,dnat ct original ip saddr != @{OWN} ct reply ip saddr != @{OWN}"
    to_peer = f"udp dport {port} ip daddr @{PEERS}"
    return f"""counter {FORGED} {{
}}
set {PEERS} {{
  type ipv4_addr
}}
set {OWN} {{
  type ipv4_addr
}}
set {CLOSED} {{
  type inet_service
  elements = {{ {port} }}
}}
chain pretended {{
  type filter hook prerouting priority raw; policy accept;
  {to_peer} ip saddr @{PEERS} fib saddr . iif oif missing counter name {FORGED} drop
}}
chain masqueraded {{
  type filter hook postrouting priority srcnat + 10; policy accept;
  {by_others} {to_peer} fib saddr type local counter name {FORGED} drop
  {by_others} udp dport @{CLOSED} fib saddr type local counter name {FORGED} drop
}}"""


def nft_sets(
    port: int, peers: frozenset[IPv4Address] | None, own: IPv4Address
) -> dict[str, frozenset[str]]:
    """Return the elements of the guard's sets.

    Args:
        port: of the udp backend.
        peers: their public IPs; None: not known yet.
        own: the address that the tunnel's socket is bound to.
    """
    ours = {OWN: frozenset({str(own)})}
    if peers is None:
        return {PEERS: frozenset(), CLOSED: frozenset({str(port)}), **ours}
    return {PEERS: frozenset(map(str, peers)), CLOSED: frozenset(), **ours}


def _nft_masquerade(wanted: Wanted) -> str:
    c, p, verdict = wanted.network, wanted.subnet, wanted.masquerade
    return f"""chain postrouting {{
  type nat hook postrouting priority srcnat; policy accept;
  meta mark & {_MARK} == {_MARK} return
  ip saddr {p} ip daddr {c} return
  ip saddr {c} ip daddr {p} return
  ip saddr != {c} ip daddr {p} return
  ip saddr {c} ip daddr != {_MULTICAST} {verdict}
  ip saddr != {c} ip daddr {c} {verdict}
}}"""


def forward_chain(wanted: Wanted) -> Chain:
    """Return the accepting rules for the filter table of iptables.

    An accept in a table of nft's own would not do: a packet must be accepted by every base chain
    of the hook (nft(8)), and docker sets the policy of this one to DROP.
    """
    c = wanted.network
    return Chain(
        _FORWARD.table, _FORWARD.name, _FORWARD.hook, (f"-s {c} -j ACCEPT", f"-d {c} -j ACCEPT")
    )


def xtables_chains(wanted: Wanted, peers: frozenset[IPv4Address] | None) -> list[Chain]:
    """Return everything for iptables, for a host without nft.

    Its guard is coarser: iptables cannot filter behind source NAT, so nothing may be forwarded to
    a peer's port at all, by whomever.

    Args:
        wanted: see there.
        peers: public IPs; None: not known yet.
    """
    chains = []
    if wanted.forward:
        chains.append(forward_chain(wanted))
    if wanted.masquerade:
        c, p = wanted.network, wanted.subnet
        verdict = "-j MASQUERADE"
        if "random" in wanted.masquerade:
            verdict += " --random-fully"
        rules = (
            f"-m mark --mark {_MARK}/{_MARK} -j RETURN",
            f"-s {p} -d {c} -j RETURN",
            f"-s {c} -d {p} -j RETURN",
            f"! -s {c} -d {p} -j RETURN",
            f"-s {c} ! -d {_MULTICAST} {verdict}",
            f"! -s {c} -d {c} {verdict}",
        )
        chains.append(Chain(_POSTROUTING.table, _POSTROUTING.name, _POSTROUTING.hook, rules))
    if wanted.port is not None:
        match = f"-p udp -m udp --dport {wanted.port}"
        drops: tuple[str, ...] = ("-j DROP",)
        if peers is not None:
            drops = tuple(f"-d {peer}/32 -j DROP" for peer in sorted(peers))
        chains.append(Chain(_GUARD.table, _GUARD.name, _GUARD.hook, drops, match))
    return chains
