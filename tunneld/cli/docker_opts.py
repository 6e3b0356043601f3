"""`tunneld docker-opts`: subnet.env as options for dockerd, as flannel's mk-docker-opts.sh.

Same flags, same files, same bytes (flannel's dist/mk-docker-opts.sh, v0.28). It differs where
flannel's script would hide a mistake: a subnet.env that is missing or holds no subnet is an error,
not an empty list of options that gives docker0 another subnet.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.errors import ConfigError, StartError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

_EPILOG = """\
Examples, the second one in a systemd unit of the daemon:
  tunneld docker-opts -d /dev/stdout
  ExecStartPost=tunneld docker-opts -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker
Variables DOCKER_OPT_* and KEY of the environment are taken along, as mk-docker-opts.sh does.
"""
_INVERSE = {"true": "false", "false": "true"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `docker-opts` command."""
    parser = subparsers.add_parser(
        "docker-opts",
        help="write dockerd's options from subnet.env",
        description="Writes what flannel's mk-docker-opts.sh writes, with its flags.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, shown = parser.add_argument, " [%(default)s]"
    add("-f", dest="subnet_file", default="/run/flannel/subnet.env", metavar="FILE",
        help="subnet.env" + shown)  # fmt: skip
    add("-d", dest="docker_file", default="/run/docker_opts.env", metavar="FILE",
        help="environment file to write" + shown)  # fmt: skip
    add("-i", dest="single", action="store_true", help="each option as a variable of its own")
    add("-c", dest="combined", action="store_true", help="all options in one variable")
    add("-k", dest="key", default="DOCKER_OPTS", metavar="KEY", help="its name" + shown)
    add("-m", dest="no_ip_masq", action="store_true", help="leave out --ip-masq")


def run(args: argparse.Namespace) -> int:
    """Write the file; both forms when neither -i nor -c is given.

    Raises:
        ConfigError: -k is no name of a variable, or subnet.env makes no sense.
        StartError: a file cannot be read or written, or another route has the subnet.
    """
    if not _NAME.fullmatch(args.key):
        raise ConfigError(f"{args.key!r} is not the name of a variable", source="flag -k")
    subnet = _read(Path(args.subnet_file))
    source = f"file {args.subnet_file}"
    options = _options(subnet, source, ip_masq=not args.no_ip_masq)
    both = args.single == args.combined
    text = render(
        {**_inherited(os.environ), **options},
        single=both or args.single,
        combined=args.key if both or args.combined else "",
        before=os.environ.get(args.key, ""),
    )
    try:
        # Not replaced as one: /dev/stdout is a good name for it.
        Path(args.docker_file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StartError(
            f"cannot write {args.docker_file}: {error.strerror}",
            remedy="name another file with -d, or make its directory",
        ) from error
    _check_routes(subnet["FLANNEL_SUBNET"], source)
    return 0


def render(
    options: Mapping[str, str], *, single: bool = True, combined: str = "", before: str = ""
) -> str:
    """Return the text of the file.

    Args:
        options: variable -> option.
        single: whether each gets a line.
        combined: name of the variable that holds all; empty: none.
        before: what that variable holds already; the script keeps it, with two spaces.
    """
    ordered = sorted(options.items())
    lines = [f'{name}="{value}"\n' for name, value in ordered] if single else []
    if combined:
        value = (before + " " if before else "") + "".join(f" {value}" for _, value in ordered)
        lines.append(f'{combined}="{value}"\n')
    return "".join(lines)


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StartError(
            f"cannot read {path}: {reason}",
            remedy="start tunneld first, or name the file with -f",
        ) from error
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _options(found: Mapping[str, str], source: str, *, ip_masq: bool) -> dict[str, str]:
    subnet = found.get("FLANNEL_SUBNET", "")
    try:
        IPv4Interface(subnet)
    except ValueError:
        raise ConfigError(
            f"{subnet!r} is not an address with a length", field="FLANNEL_SUBNET", source=source
        ) from None
    options = {"DOCKER_OPT_BIP": f"--bip={subnet}"}
    if mtu := found.get("FLANNEL_MTU"):
        options["DOCKER_OPT_MTU"] = f"--mtu={mtu}"
    masquerades = found.get("FLANNEL_IPMASQ")
    if masquerades and ip_masq:
        if masquerades not in _INVERSE:
            raise ConfigError(
                f"{masquerades!r} is neither true nor false", field="FLANNEL_IPMASQ", source=source
            )
        # One of the two does it.
        options["DOCKER_OPT_IPMASQ"] = f"--ip-masq={_INVERSE[masquerades]}"
    return options


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith("DOCKER_OPT_")}


def _check_routes(bridge: str, source: str) -> None:
    """Tell when the subnet is routed to another host: docker0 would then not get its packets.

    Raises:
        StartError: it is.
    """
    network = IPv4Interface(bridge).network
    for via in _gateways(Path("/proc/net/route"), network):
        raise StartError(
            f"{network} of {source} is routed via {via} already",
            remedy=f"ip route del {network} via {via}, or see which program wants it there",
        )


def _gateways(table: Path, network: IPv4Network) -> list[IPv4Address]:
    """Return the gateways that `/proc/net/route` has for exactly this network (proc(5))."""
    found = []
    for line in table.read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        destination, gateway, mask = (_address(words[index]) for index in (1, 2, 7))
        same = (destination, mask) == (network.network_address, network.netmask)
        if same and int(gateway):
            found.append(gateway)
    return found


def _address(text: str) -> IPv4Address:
    # Hexadecimal, the four bytes read as a number of this machine.
    return IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))
