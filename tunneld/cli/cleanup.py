"""`tunneld cleanup`: remove what a daemon left in the kernel; may be run again and again."""

from __future__ import annotations

import argparse
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from tunneld.link.rtnl_vxlan import ALIAS
from tunneld.observe.status import SOCKET_NAME
from tunneld.run_dir import RunDirLock

if TYPE_CHECKING:
    from tunneld.link.rtnl import Rtnl

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

DEVICE_PREFIX = "flannel"


def add_parser(subparsers: Subparsers) -> None:
    """Add the `cleanup` command."""
    parser = subparsers.add_parser(
        "cleanup",
        help="remove what a daemon left in the kernel",
        description="Removes our devices, our routes, the port and rules of --dataplane=kernel,"
        " the unreachable routes that keep overlay packets off the default route, and the rules of"
        " --ip-masq and --iptables-forward-rules. The lease and subnet.env stay.",
    )
    parser.add_argument("--run-dir", default="/run/tunneld", metavar="DIR", help="as `run` had it")


def run(args: argparse.Namespace) -> int:
    """Remove everything of ours and say what it was.

    Raises:
        StartError: a daemon runs with this run directory, or we may not change the kernel.
    """
    from tunneld.loop import run as run_loop  # noqa: PLC0415 - not for `--help`

    run_dir = Path(args.run_dir)
    with RunDirLock(run_dir):
        (run_dir / SOCKET_NAME).unlink(missing_ok=True)
        return run_loop(_cleanup())


async def _cleanup() -> int:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    from tunneld import host_rules  # noqa: PLC0415
    from tunneld.link.rtnl import Rtnl, refusal  # noqa: PLC0415

    async with Rtnl() as rtnl:
        try:
            removed = [
                *await remove_kernel_dataplane(),
                *await remove_all(rtnl),
                *await host_rules.remove(),
            ]
        except NetlinkError as error:
            raise refusal(error) from error
    for line in removed:
        print(f"removed {line}")
    if not removed:
        print("nothing of tunneld is here")
    return 0


async def remove_all(rtnl: Rtnl) -> list[str]:
    """Remove our devices and every route that carries our protocol number.

    Returns:
        What was removed, one line each.
    """
    names = {link.index: link.name for link in await rtnl.links()}
    routes = await rtnl.our_routes()
    # The device first: while it goes, the unreachable routes still hold.
    devices = {names.get(route.ifindex or 0, "") for route in routes}
    # A VTEP may have no routes, and a udp device bears no mark: it never outlives its daemon.
    marked = {info.name for info in await rtnl.vxlans() if info.alias == ALIAS}
    ours = sorted(marked | {name for name in devices if name.startswith(DEVICE_PREFIX)})
    removed = [f"device {name}" for name in ours if await rtnl.remove_link(name)]
    for route in await rtnl.our_routes():
        await rtnl.remove_route(route)
        removed.append(f"route {route}")
    return removed


async def remove_kernel_dataplane() -> list[str]:
    """Remove what `--dataplane kernel` left: its devices, its port and its rules, in this order.

    Returns:
        What was removed, one line each.

    Raises:
        StartError: the kernel refuses.
    """
    from tunneld.backend.udp_kernel_rules import PORT_SET, TABLE  # noqa: PLC0415
    from tunneld.link import ipip, nft  # noqa: PLC0415
    from tunneld.link.fou import Fou  # noqa: PLC0415
    from tunneld.link.rtnl_bulk import BulkSocket  # noqa: PLC0415

    bulk, fou = BulkSocket(), Fou()
    there = [device for device in (await ipip.devices(bulk)).values() if device.ipip]
    answers = await bulk.exchange([ipip.delete(device.name) for device in there])
    removed = [
        f"device {device.name}"
        for device, answer in zip(there, answers, strict=True)
        if not answer.errno
    ]
    # Without nft there was never a table, so also no device and no port.
    table = await nft.read(TABLE) if which("nft") else None
    ports = {device.port for device in there} - {0}
    ports |= {int(port) for port in table.sets.get(PORT_SET, ())} if table else set()
    removed += [f"fou port {port}" for port in sorted(ports) if await fou.remove(port)]
    if table and await nft.delete(TABLE):
        removed.append(f"nft table {TABLE}")
    bulk.close()
    fou.close()
    return removed
