"""Tables of nftables: written once, compared, repaired, read back and removed; by the real nft."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.platform.apart import apart
from tunneld.backend import BackendOptions, udp_kernel, udp_kernel_rules
from tunneld.errors import StartError
from tunneld.link import nft
from tunneld.link.rtnl import Rtnl

NAME = "tunneld_test"
BODY = """counter seen {
}
set peers {
  type ipv4_addr
}
set prefixes {
  type ipv4_addr; flags interval
  elements = { 10.0.0.0/8, 192.0.2.1 }
}
chain in {
  type filter hook input priority raw; policy accept;
  ip saddr @peers counter name seen
  udp dport 9 counter drop
}"""


def command(*words: str) -> str:
    done = subprocess.run(["nft", *words], check=True, capture_output=True, text=True)
    return done.stdout


def handles() -> list[int]:
    listed = json.loads(command("-j", "list", "table", "ip", NAME))["nftables"]
    return [inner["handle"] for item in listed for inner in item.values() if "handle" in inner]


@apart
async def test_a_table_is_written_once() -> None:
    assert await nft.read(NAME) is None
    assert await nft.ensure(NAME, BODY)
    before = handles()
    assert not await nft.ensure(NAME, BODY)
    assert handles() == before
    table = await nft.read(NAME)
    assert table
    assert table.counters == {"seen": nft.Tally(0, 0)}
    assert table.sets == {"peers": frozenset(), "prefixes": {"10.0.0.0/8", "192.0.2.1"}}
    assert await nft.delete(NAME)
    assert not await nft.delete(NAME)
    assert command("list", "ruleset") == ""


@apart
async def test_counters_are_read_and_are_no_change_of_the_table() -> None:
    await nft.ensure(NAME, BODY)
    await nft.set_elements(NAME, "peers", ["127.0.0.1"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"12", ("127.0.0.1", 9))
    async with asyncio.timeout(30):
        # On a busy machine the kernel may put off what has come in.
        while (table := await nft.read(NAME)) and not table.counters["seen"].packets:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert table
    assert table.counters["seen"] == nft.Tally(packets=1, bytes=20 + 8 + 2)
    assert not await nft.ensure(NAME, BODY)


@apart
async def test_elements_are_no_change_of_the_table() -> None:
    await nft.ensure(NAME, BODY)
    await nft.set_elements(NAME, "peers", ["10.168.0.2", "10.168.0.3"])
    await nft.set_elements(NAME, "peers", ["10.168.0.3", "10.168.0.4"])
    assert not await nft.ensure(NAME, BODY)
    table = await nft.read(NAME)
    assert table
    assert table.sets["peers"] == {"10.168.0.3", "10.168.0.4"}
    await nft.set_elements(NAME, "peers", [])
    table = await nft.read(NAME)
    assert table
    assert table.sets["peers"] == frozenset()


@pytest.mark.parametrize(
    "change",
    [
        f"flush table ip {NAME}",
        f"delete table ip {NAME}",
        f"add rule ip {NAME} in accept",
        f"insert rule ip {NAME} in udp dport 9 accept",
        f"add chain ip {NAME} other",
        "flush ruleset",
    ],
)
def test_what_others_do_to_it_is_undone(change: str) -> None:
    @apart
    async def body() -> None:
        await nft.ensure(NAME, BODY)
        right = command("list", "table", "ip", NAME)
        command(*change.split())
        assert await nft.ensure(NAME, BODY)
        assert command("list", "table", "ip", NAME) == right
        assert not await nft.ensure(NAME, BODY)

    body()


@apart
async def test_another_text_replaces_it() -> None:
    await nft.ensure(NAME, BODY)
    assert await nft.ensure(NAME, "chain other {\n}")
    assert "peers" not in command("list", "table", "ip", NAME)


@apart
async def test_a_wrong_text_changes_nothing() -> None:
    await nft.ensure(NAME, BODY)
    before = command("list", "table", "ip", NAME)
    with pytest.raises(StartError, match=r"nft refuses: .*syntax error"):
        await nft.ensure(NAME, BODY + "\nnonsense")
    assert command("list", "table", "ip", NAME) == before
    with pytest.raises(StartError, match="nft refuses"):
        await nft.check(NAME, "nonsense")
    await nft.check("another", BODY)
    assert await nft.read("another") is None


async def test_no_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StartError, match="apt-get install nftables"):
        await nft.read(NAME)


@apart
async def test_the_rules_of_the_kernel_dataplane_are_taken() -> None:
    text = udp_kernel_rules.body(8285, IPv4Network("100.96.1.0/24"))
    assert await nft.ensure(udp_kernel_rules.TABLE, text)
    assert not await nft.ensure(udp_kernel_rules.TABLE, text)
    table = await nft.read(udp_kernel_rules.TABLE)
    assert table
    assert table.sets == {"port": {"8285"}, "peers": frozenset()}
    assert set(table.counters) == {
        "drop_outer_source",
        "drop_outer_port",
        "drop_spoofed_source",
        "drop_foreign_destination",
    }


@apart
async def test_a_flushed_ruleset_is_noticed_long_before_the_next_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(udp_kernel, "RULES_S", 1e6)
    options = BackendOptions(
        network=IPv4Network("100.96.0.0/16"),
        port=8285,
        mtu=None,
        dataplane="kernel",
        threads="auto",
        source_check="peer",
        allow_sources=(),
        on_failure=lambda _error: None,
    )
    backend = udp_kernel.UdpKernelBackend(options, Rtnl())
    rules = udp_kernel_rules.Rules(options, IPv4Network("100.96.1.0/24"))
    await rules.ensure()
    await rules.admit({IPv4Address("10.168.0.3")})
    async with asyncio.timeout(60):
        # What we wrote ourselves is looked at once, and found right.
        watch = asyncio.create_task(backend._watch_rules(rules))
        while rules.touched():  # noqa: ASYNC110 - the kernel's state
            await asyncio.sleep(0.01)
        command("flush", "ruleset")
        assert rules.touched()
        table = None
        while table is None or "10.168.0.3" not in table.sets.get("peers", ()):
            await asyncio.sleep(0.01)
            table = await nft.read(udp_kernel_rules.TABLE)
        while not backend.status().repairs:  # noqa: ASYNC110 - a state of the code under test
            await asyncio.sleep(0.01)
    watch.cancel()
    # Twice, when it was flushed in the middle of a comparison.
    assert set(backend.status().repairs) == {"rules"}
