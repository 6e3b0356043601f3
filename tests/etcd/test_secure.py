"""TLS, users and tokens against a real etcd."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.etcd.conftest import MakeStore
from tests.etcd.following import PREFIX, QUICK, SUBNETS, VALUE, Follower, disconnected, name
from tunneld.lab.certificates import Authority
from tunneld.lab.etcd import EtcdServer, Tls
from tunneld.store import NoNetworkConfigError, StoreUnavailableError

SECRET = "correct horse"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> Tls:
    server = authority.issue("server")
    return Tls(authority.certificate.cert, server, authority.issue("client"))


@pytest.fixture
def secure(tmp_path: Path, tls: Tls) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path, tls=tls) as etcd:
        yield etcd


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EtcdServer]:
    args = ["--auth-token-ttl", "2", "--bcrypt-cost", "4"]
    with EtcdServer(tmp_path, args=args) as etcd:
        users = [("node", SECRET, PREFIX), ("other", "x", "/other")]
        etcd.enable_auth("rootsecret", users)
        yield etcd


async def test_the_authority_alone_is_enough(
    secure: EtcdServer, tls: Tls, make_store: MakeStore
) -> None:
    store = make_store(secure.url, cafile=str(tls.authority))
    async with Follower(store) as follower:
        await store.create(name(1), VALUE, 86400)
        await follower.until(lambda: name(1) in follower.keys, "the key")


async def test_client_certificates(tmp_path: Path, tls: Tls, make_store: MakeStore) -> None:
    with EtcdServer(tmp_path, tls=replace(tls, client_required=True)) as etcd:
        alone = make_store(etcd.url, cafile=str(tls.authority))
        with pytest.raises(StoreUnavailableError, match="--etcd-certfile"):
            await alone.list_entries()
        store = make_store(
            etcd.url,
            cafile=str(tls.authority),
            certfile=str(tls.client.cert),
            keyfile=str(tls.client.key),
        )
        assert await store.list_entries() == ()


async def test_another_authority_is_not_believed(
    secure: EtcdServer, tmp_path: Path, make_store: MakeStore
) -> None:
    other = Authority(tmp_path / "other")
    for cafile in (str(other.certificate.cert), ""):
        store = make_store(secure.url, cafile=cafile)
        with pytest.raises(StoreUnavailableError, match="--etcd-cafile"):
            await store.list_entries()


async def test_an_expired_certificate_is_named(
    tmp_path: Path, authority: Authority, tls: Tls, make_store: MakeStore
) -> None:
    expired = authority.issue("expired", days=-1)
    etcd = EtcdServer(tmp_path, tls=replace(tls, server=expired))
    etcd.start(wait=False)
    try:
        store = make_store(etcd.url, cafile=str(tls.authority))
        async with asyncio.timeout(30):
            while "expired" not in store.health().detail:
                with pytest.raises(StoreUnavailableError):
                    await store.list_entries()
        assert "renew the certificate" in store.health().detail
    finally:
        etcd.close()


async def test_a_server_with_another_name(
    tmp_path: Path, authority: Authority, tls: Tls, make_store: MakeStore
) -> None:
    elsewhere = authority.issue("elsewhere", hosts=("DNS:etcd.example",))
    etcd = EtcdServer(tmp_path, tls=replace(tls, server=elsewhere))
    etcd.start(wait=False)
    try:
        store = make_store(etcd.url, cafile=str(tls.authority))
        async with asyncio.timeout(30):
            while "must name the host" not in store.health().detail:
                with pytest.raises(StoreUnavailableError):
                    await store.list_entries()
    finally:
        etcd.close()


async def test_tls_where_there_is_none(etcd: EtcdServer, make_store: MakeStore) -> None:
    store = make_store(etcd.url.replace("http:", "https:"))
    with pytest.raises(StoreUnavailableError, match="http://"):
        await store.list_entries()


async def test_none_where_there_is_tls(secure: EtcdServer, make_store: MakeStore) -> None:
    store = make_store(secure.url.replace("https:", "http:"))
    with pytest.raises(StoreUnavailableError, match="https://"):
        await store.list_entries()


async def test_the_token_expires(
    guarded: EtcdServer, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # Without probes: each call prolongs the token.
    quiet = replace(QUICK, probe=60.0)
    store = make_store(guarded.url, quiet, username="node", password=SECRET)
    with pytest.raises(NoNetworkConfigError):
        await store.get_config()
    async with Follower(store) as follower:
        held = await store.create(name(1), VALUE, 86400)
        # The watch outlives its token; calls need a new one. Twice as long as the token lives.
        await asyncio.sleep(5)
        assert held is not None
        assert await store.renew(held, VALUE, 86400) is not None
        guarded.ctl("put", SUBNETS + name(2), "two")
        await follower.until(lambda: follower.keys == {name(1), name(2)}, "both keys")
        # A restart forgets every token.
        guarded.kill()
        await asyncio.to_thread(guarded.start)
        guarded.ctl("put", SUBNETS + name(3), "three")
        await follower.until(lambda: name(3) in follower.keys, "the third")
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("user", "words"),
    [
        (("node", "a wrong one"), "--etcd-username and --etcd-password"),
        (("nobody", SECRET), "--etcd-username and --etcd-password"),
        (("", ""), "wants --etcd-username"),
        (("other", "x"), "permission denied .*readwrite on the prefix"),
    ],
)
async def test_who_may_not(
    guarded: EtcdServer,
    make_store: MakeStore,
    caplog: pytest.LogCaptureFixture,
    user: tuple[str, str],
    words: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    store = make_store(guarded.url, username=user[0], password=user[1])
    with pytest.raises(StoreUnavailableError, match=words) as caught:
        await store.list_entries()
    said = caplog.text + str(caught.value) + store.health().detail + store.url + repr(store)
    for secret in ("a wrong one", SECRET):
        assert secret not in said
    assert store.health().state == "disconnected"


async def test_a_permission_that_is_taken_away_and_given_back(
    guarded: EtcdServer, make_store: MakeStore
) -> None:
    store = make_store(guarded.url, username="node", password=SECRET)
    async with Follower(store) as follower:
        guarded.ctl("role", "revoke-permission", "node", "--prefix=true", PREFIX)
        await disconnected(store, "permission denied")
        guarded.ctl("role", "grant-permission", "node", "--prefix=true", "readwrite", PREFIX)
        guarded.ctl("put", SUBNETS + name(1), "v")
        await follower.until(lambda: name(1) in follower.keys, "the key")


async def test_a_user_where_nobody_asks_for_one(etcd: EtcdServer, make_store: MakeStore) -> None:
    store = make_store(etcd.url, username="node", password=SECRET)
    assert await store.list_entries() == ()
