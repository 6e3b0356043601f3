"""Chains of iptables by both binaries, and what netlink tells about nf_tables."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.platform.apart import apart
from tunneld.errors import StartError
from tunneld.link import nft, nft_socket, xtables
from tunneld.link.xtables import Chain

CHAINS = (
    Chain("filter", "OURS", "FORWARD", ("-s 10.0.0.0/8 -j ACCEPT", "-d 10.0.0.0/8 -j ACCEPT")),
    Chain("nat", "OURS-NAT", "POSTROUTING", ("-s 10.0.0.0/8 ! -d 224.0.0.0/4 -j MASQUERADE",)),
    Chain("mangle", "OURS-2", "FORWARD", ("-j DROP",), "-p udp -m udp --dport 9"),
)


@pytest.fixture(params=["nft", "legacy"])
def binary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Have `iptables` mean one of the two."""
    for name in ("iptables", "iptables-restore"):
        target = f"/usr/sbin/{name.replace('iptables', f'iptables-{request.param}')}"
        (tmp_path / name).symlink_to(target)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    kind: str = request.param
    return kind


def command(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


async def everything() -> list[str]:
    return [line for chain in CHAINS for line in await xtables.listing(chain.table)]


def test_written_once_repaired_and_removed(binary: str) -> None:
    @apart
    async def body() -> None:
        assert await xtables.legacy() == (binary == "legacy")
        before = await everything()
        assert await xtables.ensure(CHAINS)
        wanted = await everything()
        assert set(before) < set(wanted)
        assert not await xtables.ensure(CHAINS)
        for damage in (
            ["-F", "OURS"],
            ["-D", "FORWARD", "-j", "OURS"],
            ["-A", "FORWARD", "-j", "OURS"],
            ["-t", "nat", "-A", "OURS-NAT", "-j", "RETURN"],
            ["-t", "mangle", "-F"],
        ):
            command("iptables", *damage)
            assert await everything() != wanted
            assert await xtables.ensure(CHAINS)
            assert await everything() == wanted
        command("iptables", "-A", "OURS", "-j", "RETURN")
        command("iptables", "-A", "FORWARD", "-s", "10.9.9.9/32", "-j", "OURS")
        assert await xtables.remove(CHAINS) == ["filter OURS", "nat OURS-NAT", "mangle OURS-2"]
        assert await everything() == before
        assert await xtables.remove(CHAINS) == []

    body()


def test_only_looking_loads_no_table() -> None:
    """The nat table brings connection tracking, which costs every packet."""

    @apart
    async def body() -> None:
        assert await xtables.remove(CHAINS) == []
        assert command("nft", "list", "ruleset") == ""
        assert xtables._loaded() == frozenset()

    body()


@pytest.mark.usefixtures("binary")
def test_refusals() -> None:
    @apart
    async def body() -> None:
        with pytest.raises(StartError, match="iptables-restore refuses: "):
            await xtables.ensure([Chain("filter", "OURS", "FORWARD", ("-j NOWHERE",))])

    body()


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    @apart
    async def body() -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(StartError, match="apt-get install iptables"):
            await xtables.listing("filter")

    body()


@apart
async def test_the_generation_tells_that_somebody_wrote() -> None:
    before = nft_socket.generation()
    assert nft_socket.generation() == before
    await nft.read("none")
    assert nft_socket.generation() == before
    await nft.run("add table ip theirs\n")
    after = nft_socket.generation()
    assert after != before
    command("iptables-nft", "-N", "THEIRS")
    assert nft_socket.generation() != after


@apart
async def test_a_counter_by_netlink() -> None:
    body = """counter seen {
}
chain out {
  type filter hook output priority raw; policy accept;
  udp dport 9 counter name seen
}"""
    await nft.ensure("counting", body)
    assert nft_socket.counter("counting", "seen") == nft.Tally(0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"12", ("127.0.0.1", 9))
    assert nft_socket.counter("counting", "seen") == nft.Tally(packets=1, bytes=20 + 8 + 2)
    with pytest.raises(FileNotFoundError):
        nft_socket.counter("counting", "none")
    with pytest.raises(FileNotFoundError):
        nft_socket.counter("none", "seen")
