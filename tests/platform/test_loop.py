"""pyroute2 on uvloop: why the bridge is there, and that it holds."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket

import pytest
import uvloop
from pyroute2 import AsyncIPRoute

from tests.platform.apart import apart, descriptors, ip
from tunneld import loop as loops
from tunneld.errors import StartError
from tunneld.link import rtnl_socket
from tunneld.link.rtnl import Rtnl


async def _names() -> list[str]:
    async with AsyncIPRoute() as ipr:
        return [message.get("ifname") async for message in await ipr.link("dump")]


@apart
async def test_pyroute2_works_on_our_loop() -> None:
    ip("link add veth-a type veth peer name veth-b")
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    assert set(await _names()) == {"lo", "veth-a", "veth-b"}


# uvloop forgets to close the transport that it could not use.
@pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning")
def test_plain_uvloop_still_refuses_netlink() -> None:
    """If this fails, uvloop has learned it: the bridge in tunneld/loop.py can go."""

    async def attempt() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE) as sock:
            await asyncio.get_running_loop().create_datagram_endpoint(
                asyncio.DatagramProtocol, sock=sock
            )

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(ValueError, match="invalid family 16"),
    ):
        runner.run(attempt())


@apart
async def test_other_datagram_endpoints_are_left_to_uvloop() -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _address: object) -> None:
            received.set_result(data)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Receiver, local_addr=("127.0.0.1", 0)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"abc", transport.get_extra_info("sockname"))
        assert await asyncio.wait_for(received, 30) == b"abc"
    transport.close()
    assert type(transport).__module__.startswith("uvloop")


@apart
async def test_the_transport_tells_of_lost_messages() -> None:
    errors: list[Exception] = []
    told = asyncio.Event()

    class Listener(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            errors.append(exc)
            told.set()

    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.bind((0, 1))  # RTMGRP_LINK
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Listener, sock=sock)
    for _ in range(20):
        ip("link set lo down")
        ip("link set lo up")
    await asyncio.wait_for(told.wait(), 30)
    transport.close()
    assert "No buffer space" in str(errors[0])


@apart
async def test_after_an_error_the_next_question_gets_a_new_socket() -> None:
    """pyroute2 gives an ENOBUFS back to every later question: repairs would be over for good."""
    async with Rtnl() as rtnl:
        await rtnl.links()
        before = descriptors()
        rtnl._socket._ipr.local.protocol.error_received(OSError(errno.ENOBUFS, "No buffer space"))
        with pytest.raises(StartError, match=r"answer over netlink was lost.*No buffer space"):
            await rtnl.links()
        assert [link.name for link in await rtnl.links()] == ["lo"]
        await asyncio.sleep(0)
        assert descriptors() == before


@apart
async def test_an_answer_that_never_comes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rtnl_socket, "ANSWER_S", 0.05)
    async with Rtnl() as rtnl:
        asyncio.get_running_loop().remove_reader(rtnl._socket._ipr.fileno())
        with pytest.raises(StartError, match="TimeoutError"):
            await rtnl.links()
        assert [link.name for link in await rtnl.links()] == ["lo"]


@apart
async def test_closing_leaves_no_descriptor_and_no_reader() -> None:
    async with Rtnl() as rtnl:
        await rtnl.links()
    await asyncio.sleep(0)
    gc.collect()
    before = descriptors()
    for _ in range(10):
        async with Rtnl() as rtnl:
            await rtnl.links()
        # The number is free again at once: whoever gets it must not be taken for the socket.
        left, right = os.pipe()
        ours: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(left, ours.set_result, b"ready")
        os.write(right, b"x")
        assert await asyncio.wait_for(ours, 30) == b"ready"
        asyncio.get_running_loop().remove_reader(left)
        os.close(left)
        os.close(right)
    await asyncio.sleep(0)
    gc.collect()
    assert descriptors() == before


def test_run_returns_the_exit_code_and_installs_nothing() -> None:
    async def main() -> int:
        return 3 if isinstance(asyncio.get_running_loop(), uvloop.Loop) else 1

    assert loops.run(main()) == 3
    with asyncio.Runner() as runner:
        assert not isinstance(runner.get_loop(), uvloop.Loop)
