"""Errors of gRPC in words that help."""

from __future__ import annotations

from enum import Enum

import pytest

from tunneld.store.etcd_errors import Cure, understand

_REFUSED = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect"
    " to remote host: Connection refused"
)


class _Code(Enum):
    UNAVAILABLE = 1
    UNAUTHENTICATED = 2
    DEADLINE_EXCEEDED = 3
    INVALID_ARGUMENT = 4
    RESOURCE_EXHAUSTED = 5


class _Error(Exception):
    def __init__(self, code: _Code, details: str) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> _Code:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "cure", "text"),
    [
        (
            _Code.UNAVAILABLE,
            _REFUSED,
            Cure.ELSEWHERE,
            "Failed to connect to remote host: Connection refused",
        ),
        (_Code.UNAVAILABLE, "", Cure.ELSEWHERE, "UNAVAILABLE"),
        (_Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Cure.ELSEWHERE, "no answer in time"),
        (_Code.UNAUTHENTICATED, "whatever", Cure.LOG_IN, "whatever"),
        (
            _Code.INVALID_ARGUMENT,
            "etcdserver: revision of auth store is old",
            Cure.LOG_IN,
            "etcdserver: revision of auth store is old",
        ),
        (
            _Code.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (5 vs. 4)",
            Cure.SMALLER,
            "CLIENT: Received message larger than max (5 vs. 4)",
        ),
        (
            _Code.RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded",
            Cure.NONE,
            "etcdserver: mvcc: database space exceeded",
        ),
    ],
)
def test_what_helps(code: _Code, details: str, cure: Cure, text: str) -> None:
    fault = understand(_Error(code, details))
    assert (fault.cure, fault.text) == (cure, text)


def test_python_etcd3s_own_errors_hide_grpcs() -> None:
    def translate() -> None:
        try:
            raise _Error(_Code.DEADLINE_EXCEEDED, "x")  # noqa: TRY301
        except _Error:
            raise RuntimeError  # noqa: B904 - as python-etcd3 does it

    with pytest.raises(RuntimeError) as caught:
        translate()
    assert understand(caught.value).text == "no answer in time"


def test_a_file_that_is_gone() -> None:
    assert "ca.pem" in understand(FileNotFoundError(2, "No such file", "ca.pem")).text
