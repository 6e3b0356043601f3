"""The table of all options of `tunneld run`: flannel's by their own names, and ours beside them.

One row serves the flag, the environment variable, the key in the file, the help text and the
refusal of what this release does not do yet.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from tunneld.store import etcd_options

MINUTES_PER_LEASE = 1440
"""flannel grants a lease for 24 hours."""

_LATER = "comes with a later release of tunneld"

RUNGS = ("auto", "python", "syscall", "mmsg", "gso", "offload", "kernel")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `tunneld run`.

    Attributes:
        name: the flag without dashes; `FLANNELD_` + upper case is its environment variable.
        default: as a user would write it; an empty string: not set.
        parse: turns the text into the value; raises ValueError with what was expected.
        help: one line.
        metavar: how the value is called in the help text; empty for a switch.
        repeatable: may be given several times, the value is a tuple.
        refusal: why a value other than the default is refused in this release, or empty.
    """

    name: str
    default: str
    parse: Callable[[str], object]
    help: str
    metavar: str = ""
    repeatable: bool = False
    refusal: str = ""

    @property
    def variable(self) -> str:
        """Name of the environment variable, by flannel's rule."""
        return "FLANNELD_" + self.name.upper().replace("-", "_")

    @property
    def switch(self) -> bool:
        """Whether the flag stands alone (`--ip-masq`), as Go's boolean flags do."""
        return self.parse is _bool


def _text(value: str) -> str:
    return value


def _utf8(value: str) -> str:
    # gRPC sends text; bytes that are none arrive from the system as lone surrogates.
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("is not UTF-8: write it in the encoding that etcd takes")
    return value


def _bool(value: str) -> bool:
    # The spellings of Go's strconv.ParseBool, which read flannel's flags.
    if value in {"1", "t", "T", "true", "TRUE", "True"}:
        return True
    if value in {"0", "f", "F", "false", "FALSE", "False"}:
        return False
    raise ValueError("is neither true nor false")


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError("is not a whole number") from None
        if not low <= number <= high:
            raise ValueError(f"is not between {low} and {high}")
        return number

    return parse


@dataclass(frozen=True, slots=True)
class Choice:
    """Parses one of a few words.

    Attributes:
        words: all of them, for completions.
    """

    words: tuple[str, ...]

    def __call__(self, value: str) -> str:
        """Return the word as it is.

        Raises:
            ValueError: it is none of them.
        """
        if value not in self.words:
            raise ValueError(f"is not one of {', '.join(self.words)}")
        return value


def _choice(*words: str) -> Choice:
    return Choice(words)


def _path(value: str) -> str:
    if not value:
        raise ValueError("is empty, a path is needed")
    return value


def _address(value: str) -> str:
    if value:
        try:
            ipaddress.IPv4Address(value)
        except ValueError:
            raise ValueError("is not an IPv4 address") from None
    return value


def _prefix(value: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(value)
    except ValueError as error:
        raise ValueError(f"is not an IPv4 prefix: {error}") from None


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


_KUBE = "tunneld does not run on the Kubernetes API; give it a store"

OPTIONS: tuple[Option, ...] = (
    Option(
        "store",
        "etcd:",
        _text,
        "where config and leases live: etcd: (the flags below), file:DIR",
        "URL",
    ),
    Option(
        "etcd-endpoints",
        etcd_options.DEFAULT_ENDPOINTS,
        etcd_options.parse_endpoints,
        "etcd servers, tried in turn",
        "URL,...",
    ),
    Option(
        "etcd-prefix",
        etcd_options.DEFAULT_PREFIX,
        etcd_options.parse_prefix,
        "prefix of all keys",
        "PREFIX",
    ),
    Option("etcd-keyfile", "", _text, "client key, PEM", "FILE"),
    Option("etcd-certfile", "", _text, "client certificate, PEM", "FILE"),
    Option("etcd-cafile", "", _text, "authority of the servers, PEM; else the system's", "FILE"),
    Option("etcd-username", "", _utf8, "user name", "NAME"),
    Option(
        "etcd-password", "", _utf8, "password; better in the environment or in a file", "PASSWORD"
    ),
    Option("iface", "", _text, "external interface, name or address", "NAME", repeatable=True),
    Option("iface-regex", "", _regex, "the first match is external", "REGEX", repeatable=True),
    Option("iface-can-reach", "", _text, "the interface that routes there", "ADDRESS"),
    Option("subnet-file", "/run/flannel/subnet.env", _path, "where to write subnet.env", "FILE"),
    Option("public-ip", "", _address, "address that peers send to", "ADDRESS"),
    Option("public-ipv6", "", _text, "IPv6 address", "ADDRESS", refusal=f"IPv6 {_LATER}"),
    Option(
        "subnet-lease-renew-margin",
        "60",
        _integer(1, MINUTES_PER_LEASE - 1),
        "renew this long before the lease ends",
        "MINUTES",
    ),
    Option("ip-masq", "false", _bool, "masquerade what containers send out of the network"),
    Option(
        "ip-masq-fully-random-disable",
        "false",
        _bool,
        "masquerade without random ports, for old kernels",
    ),
    Option(
        "iptables-forward-rules",
        "true",
        _bool,
        "accept the network in FORWARD; false and no --ip-masq: no firewall rule at all",
    ),
    Option(
        "iptables-resync",
        "5",
        _integer(1, 86400),
        "compare the firewall rules this often, nft's too",
        "SECONDS",
    ),
    Option(
        "ip-blackhole-route",
        "false",
        _bool,
        "taken and not needed: unreachable routes keep the own subnet, always",
    ),
    Option("healthz-ip", "0.0.0.0", _address, "address of the health port", "ADDRESS"),  # noqa: S104
    Option(
        "healthz-port",
        "0",
        _integer(0, 65535),
        "serve /healthz, /readyz and /metrics on this TCP port; 0: off",
        "PORT",
    ),
    Option("metrics-public", "false", _bool, "serve /metrics to others than loopback clients too"),
    Option("v", "0", _integer(0, 10), "log level: 0 info, 1 and more debug", "LEVEL"),
    Option(
        "dataplane",
        "auto",
        _choice(*RUNGS),
        "rung of the ladder: auto, python, syscall, mmsg, gso, offload or kernel",
        "RUNG",
    ),
    Option(
        "threads",
        "auto",
        _choice("auto", "1", "2"),
        "packet threads of each queue: 1, 2, or auto (1 on two cores, by load on more)",
        "N",
    ),
    Option(
        "queues",
        "1",
        _integer(1, 16),
        "TUN queues and sockets, for many cores: a flow out, a peer in stays on one",
        "N",
    ),
    Option(
        "source-check",
        "peer",
        _choice("peer", "strict", "off"),
        "admission: peer, strict or off",
        "MODE",
    ),
    Option("allow-source", "", _prefix, "further outer sources", "CIDR", repeatable=True),
    Option("run-dir", "/run/tunneld", _path, "control socket and lock", "DIR"),
    Option("state-dir", "/var/lib/tunneld", _path, "for the cached lease and peers", "DIR"),
    Option("kube-subnet-mgr", "false", _bool, "refused", refusal=_KUBE),
    Option("kube-api-url", "", _text, "refused", "URL", refusal=_KUBE),
    Option(
        "kube-annotation-prefix", "flannel.alpha.coreos.com", _text, "refused", "X", refusal=_KUBE
    ),
    Option("kubeconfig-file", "", _text, "refused", "FILE", refusal=_KUBE),
    Option(
        "net-config-path", "/etc/kube-flannel/net-conf.json", _text, "refused", "X", refusal=_KUBE
    ),
    Option("set-node-network-unavailable", "true", _bool, "refused", refusal=_KUBE),
    Option("use-multi-cluster-cidr", "false", _bool, "refused", refusal=_KUBE),
)

BY_NAME = {option.name: option for option in OPTIONS}
