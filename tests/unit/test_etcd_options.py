"""The texts of the etcd flags."""

from __future__ import annotations

import pytest

from tunneld.store.etcd_options import (
    DEFAULT_ENDPOINTS,
    Endpoint,
    EtcdOptions,
    parse_endpoints,
    parse_prefix,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (DEFAULT_ENDPOINTS, "http://127.0.0.1:4001 http://127.0.0.1:2379"),
        ("https://etcd.example:2380/", "https://etcd.example:2380"),
        ("http://a, http://b,", "http://a:2379 http://b:2379"),
        ("10.0.0.1:2379", "http://10.0.0.1:2379"),
        ("http://[fd00::1]:2379", "http://[fd00::1]:2379"),
    ],
)
def test_endpoints(text: str, shown: str) -> None:
    assert " ".join(map(str, parse_endpoints(text))) == shown


@pytest.mark.parametrize(
    "text", ["", ",", "ftp://a:1", "http://a:x", "http://a:99999", "http://", "http://a/b"]
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|holds|names) "):
        parse_endpoints(text)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="--etcd-password") as caught:
        parse_endpoints("http://me:secret@a:2379")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("/coreos.com/network", "/coreos.com/network"), ("a//b/", "/a/b"), ("/x/", "/x")],
)
def test_prefixes(text: str, prefix: str) -> None:
    assert parse_prefix(text) == prefix


@pytest.mark.parametrize("text", ["", "/", "//", "/a\0b"])
def test_prefixes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no prefix"):
        parse_prefix(text)


def test_the_password_is_not_in_the_representation() -> None:
    options = EtcdOptions((Endpoint("a", 1, tls=False),), username="me", password="secret")
    assert "secret" not in repr(options)
    assert "me" in repr(options)
