"""Write to an etcd inside a node from this process, many keys at once, by its HTTP gateway.

gRPC opens its sockets in threads of its own, so it cannot be moved into a namespace, and `etcdctl`
takes 20 ms to start. The gateway is part of every etcd from 3.4 on.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tunneld.lab.process import CommandError

if TYPE_CHECKING:
    from tunneld.lab.netns import Node

_MAX_OPERATIONS = 128  # etcd's --max-txn-ops


class EtcdGateway(http.client.HTTPConnection):
    """One connection; `close` ends it, and the next call makes a new one.

    Args:
        url: of the server, `http://HOST:PORT`.
        node: whose network it uses.
    """

    def __init__(self, url: str, node: Node) -> None:
        host, _, port = url.rpartition("//")[2].rpartition(":")
        super().__init__(host, int(port), timeout=10)
        self._node = node

    def connect(self) -> None:
        """Connect inside the node; called by the base class."""
        self.sock = self._node.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect((self.host, self.port))

    def begin_put(self, key: str, value: str) -> None:
        """Send the request and do not wait; `finish` must come next."""
        self._begin("put", _put(key, value))

    def put(self, key: str, value: str) -> None:
        """Put one key.

        Raises:
            CommandError: etcd refuses.
        """
        self.begin_put(key, value)
        self.finish()

    def delete(self, key: str) -> None:
        """Delete one key."""
        self._begin("deleterange", {"key": _encode(key)})
        self.finish()

    def put_all(self, pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Put any number of different keys, in transactions as large as etcd takes."""
        rest = iter(pairs.items() if isinstance(pairs, Mapping) else pairs)
        while part := list(itertools.islice(rest, _MAX_OPERATIONS)):
            self._begin("txn", {"success": [{"request_put": _put(*pair)} for pair in part]})
            self.finish()

    def compact(self) -> None:
        """Forget every revision before the latest one."""
        self._begin("range", {"key": _encode("-")})
        revision = self.finish()["header"]["revision"]
        self._begin("compaction", {"revision": revision, "physical": True})
        self.finish()

    def finish(self) -> Any:
        """Wait for the answer of what was begun, and return it.

        Raises:
            CommandError: etcd refuses.
        """
        answer = self.getresponse()
        text = answer.read().decode()
        if answer.status != http.HTTPStatus.OK:
            raise CommandError(f"etcd at {self.host}:{self.port}: {text}")
        return json.loads(text)

    def _begin(self, call: str, request: Mapping[str, Any]) -> None:
        # The generated paths of the gateway: all but compaction's have one word.
        self.request("POST", f"/v3/kv/{call}", json.dumps(request))


def _put(key: str, value: str) -> dict[str, str]:
    return {"key": _encode(key), "value": _encode(value)}


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
