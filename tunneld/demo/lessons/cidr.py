"""Lesson "cidr": network, host part, first and last address of a prefix, bit by bit."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from tunneld.demo import Lesson
from tunneld.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="reading addresses",
    learn=(
        "what the number behind the slash says: how many bits are the network's",
        "how to find mask, network address and last address by hand",
        "how to tell whether two addresses are in one network",
    ),
    question=(
        "Are 192.168.0.3/26 and 192.168.0.192/26 in one network? Can the two talk without a router?"
    ),
    answer=(
        "/26 leaves 6 bits, 64 addresses: .3 is in 192.168.0.0-63, .192 in 192.168.0.192-255. Two"
        " networks, so a router is needed. See: tunneld demo cidr 192.168.0.3/26 192.168.0.192/26"
    ),
    needs=(),
    arguments=8,
)
DEFAULT = ("10.233.64.0/18", "192.168.0.3/26", "192.168.0.192/26")


def run(story: Story, options: Options) -> Results:
    """Take each prefix apart, and compare them two by two."""
    found = [_parse(text) for text in options.arguments or DEFAULT]
    for each in found:
        story.step(f"{each}")
        take_apart(story, each)
    if len(found) > 1:
        story.step("Who is in one network with whom?")
        compare(story, found)
    return {"prefixes": [_figures(each) for each in found]}


def _parse(text: str) -> IPv4Interface:
    try:
        if "/" not in text:
            raise ValueError("no prefix length")  # noqa: TRY301
        return IPv4Interface(text)
    except ValueError as error:
        raise ConfigError(
            str(error), source=f"argument {text!r}", remedy="write it as 10.233.64.0/18"
        ) from None


def _bits(address: IPv4Address, length: int) -> str:
    """Return the address in bits, a bar between the network's and the host's."""
    bits = f"{int(address):032b}"
    shown = ""
    for at, bit in enumerate(bits):
        if at == length:
            shown += "|"
        elif at and at % 8 == 0:
            shown += "."
        shown += bit
    return shown


def take_apart(story: Story, each: IPv4Interface) -> None:
    """Show an address in bits, with its mask, network address and last address."""
    network, length = each.network, each.network.prefixlen
    rows = [
        ["the address", str(each.ip), _bits(each.ip, length)],
        ["mask", str(network.netmask), _bits(network.netmask, length)],
        ["network address", str(network.network_address), _bits(network.network_address, length)],
        [
            "last address",
            str(network.broadcast_address),
            _bits(network.broadcast_address, length),
        ],
    ]
    story.table(["", "", "bits: network | host"], rows, left=(0, 1, 2))
    host = int(each.ip) - int(network.network_address)
    story.say(
        f"{length} bits belong to the network, {32 - length} to the host: 2^{32 - length} ="
        f" {network.num_addresses} addresses. The mask has {length} ones. The network address is"
        " the address with all host bits 0, the last one has them all 1 (a link's broadcast). The"
        f" host part of {each.ip} is {host}."
    )


def compare(story: Story, found: Sequence[IPv4Interface]) -> None:
    """Show for each two whether they can talk without a router."""
    rows = []
    for at, one in enumerate(found):
        for other in found[at + 1 :]:
            same = together(one, other)
            words = "yes: no router needed" if same else "no: through a router"
            rows.append([str(one), str(other), words])
    story.table(["", "", "one network?"], rows, left=(0, 1, 2))


def together(one: IPv4Interface, other: IPv4Interface) -> bool:
    """Tell whether each thinks that the other is on its own link."""
    return other.ip in one.network and one.ip in other.network


def _figures(each: IPv4Interface) -> dict[str, object]:
    network: IPv4Network = each.network
    return {
        "address": str(each.ip),
        "length": network.prefixlen,
        "mask": str(network.netmask),
        "network": str(network.network_address),
        "last": str(network.broadcast_address),
        "addresses": network.num_addresses,
        "host_part": int(each.ip) - int(network.network_address),
    }
