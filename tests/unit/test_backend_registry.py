"""Which backend a type opens, and what is said of options that it cannot follow."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any, cast

import pytest

from tunneld.backend import BackendOptions
from tunneld.backend.registry import BACKENDS, open_backend

DEFAULTS = BackendOptions(
    network=IPv4Network("100.96.0.0/16"),
    port=8472,
    mtu=None,
    dataplane="auto",
    threads="auto",
    source_check="peer",
    allow_sources=(),
    on_failure=lambda _error: None,
)


def told(kind: str, caplog: pytest.LogCaptureFixture, **changes: Any) -> list[str]:
    open_backend(kind, "config", replace(DEFAULTS, **changes), cast("Any", None))
    return [str(record.__dict__) for record in caplog.records]


@pytest.mark.parametrize("kind", BACKENDS)
def test_defaults_are_worth_no_word(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    assert told(kind, caplog) == []


@pytest.mark.parametrize("kind", sorted(BACKENDS.keys() - {"udp"}))
def test_options_without_effect_are_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    sources = (IPv4Network("192.0.2.0/24"),)
    (said,) = told(kind, caplog, source_check="strict", allow_sources=sources, dataplane="gso")
    assert "no effect" in said
    assert "--dataplane --source-check --allow-source" in said
    assert f"'{kind}'" in said


def test_udp_follows_them(caplog: pytest.LogCaptureFixture) -> None:
    assert told("udp", caplog, source_check="strict", dataplane="gso") == []
