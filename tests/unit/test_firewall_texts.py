"""The texts of the firewall rules: flannel's order, in nft's words and in iptables'."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from tunneld.link import masquerade
from tunneld.link.masquerade import CLOSED, OWN, PEERS, Wanted
from tunneld.link.xtables import Chain, _changes

ALL = Wanted(
    network=IPv4Network("100.96.0.0/16"),
    subnet=IPv4Network("100.96.1.0/24"),
    port=8285,
    masquerade="masquerade fully-random",
    forward=True,
)
PEER = IPv4Address("10.168.0.3")
OURS = IPv4Address("10.168.0.2")

# pkg/trafficmngr/iptables/iptables.go of flannel, masqRules: as `iptables -S` prints them.
MASQUERADE = (
    "-m mark --mark 0x4000/0x4000 -j RETURN",
    "-s 100.96.1.0/24 -d 100.96.0.0/16 -j RETURN",
    "-s 100.96.0.0/16 -d 100.96.1.0/24 -j RETURN",
    "! -s 100.96.0.0/16 -d 100.96.1.0/24 -j RETURN",
    "-s 100.96.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    "! -s 100.96.0.0/16 -d 100.96.0.0/16 -j MASQUERADE --random-fully",
)


def test_flannels_order_in_both_words() -> None:
    chains = {chain.name: chain for chain in masquerade.xtables_chains(ALL, frozenset({PEER}))}
    assert chains["TUNNELD-POSTRTG"].rules == MASQUERADE
    body = masquerade.nft_body(ALL, accept=True)
    ours = body[body.index("chain postrouting") :].splitlines()[2:8]
    assert [line.strip() for line in ours] == [
        "meta mark & 0x4000 == 0x4000 return",
        "ip saddr 100.96.1.0/24 ip daddr 100.96.0.0/16 return",
        "ip saddr 100.96.0.0/16 ip daddr 100.96.1.0/24 return",
        "ip saddr != 100.96.0.0/16 ip daddr 100.96.1.0/24 return",
        "ip saddr 100.96.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
        "ip saddr != 100.96.0.0/16 ip daddr 100.96.0.0/16 masquerade fully-random",
    ]


@pytest.mark.parametrize(
    ("ip_masq", "random", "expected"),
    [
        (False, True, ""),
        (False, False, ""),
        (True, True, "masquerade fully-random"),
        (True, False, "masquerade"),
    ],
)
def test_the_flags(ip_masq: bool, random: bool, expected: str) -> None:
    assert masquerade.expression(ip_masq=ip_masq, random=random) == expected
    plain = replace(ALL, masquerade=expected)
    rules = str(masquerade.xtables_chains(plain, None))
    assert ("MASQUERADE" in rules) == ip_masq
    assert ("--random-fully" in rules) == (ip_masq and random)


def test_each_part_is_there_only_where_it_is_wanted() -> None:
    bare = Wanted(ALL.network, ALL.subnet, port=None, masquerade="", forward=False)
    assert not bare
    assert masquerade.nft_body(bare, accept=True) == ""
    assert masquerade.xtables_chains(bare, None) == []
    # Where iptables has a FORWARD chain the accepting rules go there.
    assert masquerade.nft_body(replace(bare, forward=True), accept=False) == ""
    assert "forward" in masquerade.nft_body(replace(bare, forward=True), accept=True)


def test_the_guard_is_closed_until_the_peers_are_known() -> None:
    def sets(peers: frozenset[IPv4Address] | None) -> tuple[object, object]:
        found = masquerade.nft_sets(8285, peers, OURS)
        assert found[OWN] == {"10.168.0.2"}
        return found[PEERS], found[CLOSED]

    assert sets(None) == (set(), {"8285"})
    assert sets(frozenset({PEER})) == ({"10.168.0.3"}, set())
    assert sets(frozenset()) == (set(), set())
    guards = [masquerade.xtables_chains(ALL, peers)[-1] for peers in (None, frozenset({PEER}))]
    assert [guard.rules for guard in guards] == [("-j DROP",), ("-d 10.168.0.3/32 -j DROP",)]
    assert guards[0].jump == "-A FORWARD -p udp -m udp --dport 8285 -j TUNNELD-GUARD"


CHAIN = Chain("filter", "OURS", "FORWARD", ("-s 10.0.0.0/8 -j ACCEPT", "-j DROP"))
RIGHT = ["-P FORWARD ACCEPT", "-N OURS", CHAIN.jump, *(f"-A OURS {rule}" for rule in CHAIN.rules)]
WHOLE = [":OURS - [0:0]", "-A OURS -s 10.0.0.0/8 -j ACCEPT", "-A OURS -j DROP"]
JUMP = "-A FORWARD -j OURS"


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        (RIGHT, []),
        (["-N OTHER", "-A OTHER -j DROP", *RIGHT], []),
        ([], [*WHOLE, JUMP]),
        ([line for line in RIGHT if line != JUMP], [JUMP]),
        ([*RIGHT, JUMP], ["-D FORWARD -j OURS"]),
        ([*RIGHT, "-A OURS -j RETURN"], WHOLE),
        (RIGHT[:-1], WHOLE),
        ([*RIGHT[:-2], *reversed(RIGHT[-2:])], WHOLE),
    ],
)
def test_what_makes_a_chain_right(found: list[str], changes: list[str]) -> None:
    assert _changes(CHAIN, found) == changes
