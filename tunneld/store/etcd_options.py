"""What the etcd flags say: servers, prefix, TLS and user. Pure, and free of grpc."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

DEFAULT_ENDPOINTS = "http://127.0.0.1:4001,http://127.0.0.1:2379"
DEFAULT_PREFIX = "/coreos.com/network"
_DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One etcd server.

    Attributes:
        host: name or address; an IPv6 address without brackets.
        port: TCP port.
        tls: whether the URL said https.
    """

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """The host as gRPC and URLs want it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}:{self.port}"


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """The etcd flags of one daemon.

    Attributes:
        endpoints: the servers, in the order in which they are tried.
        prefix: of all keys, with a leading slash and none behind.
        keyfile: client key, PEM.
        certfile: client certificate, PEM.
        cafile: authorities of the servers, PEM; empty: the system's.
        username: empty: no authentication.
        password: never printed.
    """

    endpoints: tuple[Endpoint, ...]
    prefix: str = DEFAULT_PREFIX
    keyfile: str = ""
    certfile: str = ""
    cafile: str = ""
    username: str = ""
    password: str = field(default="", repr=False)


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Parse `URL,...`; a URL may be a bare HOST:PORT, as etcd's own client takes it.

    Raises:
        ValueError: with what was expected, as a sentence without subject.
    """
    parts = [part.strip() for part in text.split(",")]
    endpoints = tuple(_parse_endpoint(part) for part in parts if part)
    if not endpoints:
        raise ValueError("names no server, for example http://10.0.0.1:2379")
    return endpoints


def _parse_endpoint(text: str) -> Endpoint:
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("holds a port that is none") from None
    if parts.username or parts.password:
        # Not shown: what stands there may be a password.
        raise ValueError("holds a user; give it with --etcd-username and --etcd-password")
    if parts.scheme not in {"http", "https"}:
        raise ValueError("holds a URL that begins neither with http:// nor with https://")
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("is not like http://10.0.0.1:2379,http://10.0.0.2:2379")
    return Endpoint(parts.hostname, port or _DEFAULT_PORT, parts.scheme == "https")


def parse_prefix(text: str) -> str:
    """Bring the prefix of the keys into its normal form, as flannel's path.Join does.

    Raises:
        ValueError: it is empty, or is no text that a key can hold.
    """
    names = [name for name in text.split("/") if name]
    if not names or "\0" in text:
        raise ValueError("is no prefix, for example /coreos.com/network")
    return "/" + "/".join(names)
