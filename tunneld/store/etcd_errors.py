"""What an error of gRPC or etcd means for us, in words that a user can act on."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any

from tunneld.store import StoreUnavailableError


class Cure(enum.Enum):
    """What helps against an error."""

    ELSEWHERE = "ask another server"
    LOG_IN = "log in again"
    SMALLER = "ask for less at once"
    NONE = "somebody has to change something"


@dataclass(frozen=True, slots=True)
class Fault:
    """One error, understood.

    Attributes:
        cure: what helps.
        text: what happened.
        remedy: what a user can do, or an empty string.
    """

    cure: Cure
    text: str
    remedy: str = ""

    def error(self, where: object) -> StoreUnavailableError:
        """Return it as the store's error; `where` is the server."""
        return StoreUnavailableError(f"{where}: {self.text}", remedy=self.remedy)


# etcd's own words (api/v3rpc/rpctypes/error.go); its codes do not tell these apart.
_WORDS: tuple[tuple[str, Cure, str], ...] = (
    ("invalid auth token", Cure.LOG_IN, ""),
    ("revision of auth store is old", Cure.LOG_IN, ""),
    ("authentication failed", Cure.NONE, "check --etcd-username and --etcd-password"),
    ("user name is empty", Cure.NONE, "this etcd wants --etcd-username and --etcd-password"),
    ("permission denied", Cure.NONE, "give the user's role readwrite on the prefix"),
    ("database space exceeded", Cure.NONE, "compact and defragment etcd, then disarm its alarm"),
    ("received message larger than max", Cure.SMALLER, ""),
)

_TLS: tuple[tuple[str, str], ...] = (
    ("has expired", "renew the certificate of the server, or set the clock"),
    ("CERTIFICATE_VERIFY_FAILED", "give the authority of the servers with --etcd-cafile"),
    ("Hostname Verification", "the certificate must name the host of the endpoint"),
    ("Handshake read failed", "if the server speaks no TLS, use http:// in --etcd-endpoints"),
    # What gRPC makes of the alert that a TLS 1.3 server sends after the handshake.
    ("Unwrap failed", "the server wants a certificate: --etcd-certfile and --etcd-keyfile"),
    ("Socket closed", "if the server speaks TLS, use https:// in --etcd-endpoints"),
    ("Connection reset", "if the server speaks TLS, use https:// in --etcd-endpoints"),
)


def is_foreign(error: BaseException) -> bool:
    """Tell whether an error comes from the network or from files, and is no mistake of ours."""
    if type(error).__module__.partition(".")[0] in {"grpc", "etcd3"}:
        return True
    # ValueError: gRPC's word for a channel that was closed meanwhile.
    return isinstance(error, OSError | ValueError)


def understand(error: BaseException) -> Fault:
    """Tell what `error` means; it is a `grpc.RpcError`, or what python-etcd3 made of one."""
    cause: Any = error
    # python-etcd3 raises its own exceptions while it handles those of gRPC.
    while not hasattr(cause, "code") and cause.__context__ is not None:
        cause = cause.__context__
    code = cause.code().name if hasattr(cause, "code") and cause.code() else ""
    text = (cause.details() or "") if hasattr(cause, "details") else str(error)
    if not code:
        return Fault(Cure.ELSEWHERE, text or type(error).__name__)
    lowered = text.casefold()
    for words, cure, remedy in _WORDS:
        if words in lowered:
            return Fault(cure, text, remedy)
    if code == "UNAUTHENTICATED":
        return Fault(Cure.LOG_IN, text)
    if code == "DEADLINE_EXCEEDED":
        return Fault(Cure.ELSEWHERE, "no answer in time")
    for words, remedy in _TLS:
        if words in text:
            return Fault(Cure.ELSEWHERE, _shortened(text), remedy)
    return Fault(Cure.ELSEWHERE, _shortened(text) or code)


def _shortened(text: str) -> str:
    """Leave out what gRPC puts around the reason: the list of addresses it tried."""
    reason = text.rpartition("last error: ")[2]
    reason = re.sub(r"^[A-Z_]+: ", "", reason)
    return re.sub(r"^(ipv4|ipv6):\S+: ", "", reason).strip()
