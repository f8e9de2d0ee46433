"""Who is let in by a real etcd: certificates, users, and tokens that end in the middle of it all."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.stores import PREFIX, back, seen, watching
from tests.support.etcd import Etcd, Tls, certificates, cluster, jwt_option, needs_etcd, needs_openssl
from tests.support.eventually import soon
from weft.errors import StoreForbidden, StoreUnreachable
from weft.stores import Put
from weft.stores.etcd import EtcdOptions, EtcdStore

pytestmark = [needs_etcd, needs_openssl]
USER, PASSWORD = "weft", "secret"
CHEAP = ("--bcrypt-cost", "4")
TOKEN_SECONDS = 1


@contextlib.asynccontextmanager
async def opened(options: EtcdOptions) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(options)
    try:
        yield store
    finally:
        await store.close()


async def refused(options: EtcdOptions, text: str, key: str = "/a") -> None:
    """Every question is forbidden, and the error says why."""
    async with opened(options) as store:
        with pytest.raises(StoreForbidden, match=text):
            await store.get(key)
        with pytest.raises(StoreForbidden, match=text):
            async with watching(store, key):
                pass


# TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Of another authority, and for another server."""
    return certificates(tmp_path_factory.mktemp("strangers"), address="127.0.0.9")


@pytest.fixture(scope="module")
def private(tls: Tls) -> Iterator[Etcd]:
    """It speaks TLS and asks for no certificate."""
    with cluster(tls=tls) as etcd:
        yield etcd


@pytest.fixture(scope="module")
def strict(tls: Tls) -> Iterator[Etcd]:
    """It lets in only whoever has a certificate; its users are their common names."""
    with cluster(tls=tls, options=(*tls.wanted, *CHEAP)) as etcd:
        yield etcd


async def test_with_the_authority_alone(private: Etcd, tls: Tls) -> None:
    async with opened(EtcdOptions(private.endpoints, cafile=str(tls.ca))) as store:
        assert await store.commit([Put("/a", b"private")]) is not None
    assert private.ctl("get", "--print-value-only", "/a") == "private\n"


async def test_with_a_certificate_of_its_own(strict: Etcd, tls: Tls) -> None:
    async with opened(with_certificate(strict, tls)) as store, watching(store) as sets:
        await store.commit([Put(f"{PREFIX}a", b"")])
        await seen(sets, lambda snapshot: f"{PREFIX}a" in snapshot.entries)


async def test_a_member_of_another_authority_is_not_trusted(private: Etcd, strangers: Tls) -> None:
    await refused(EtcdOptions(private.endpoints, cafile=str(strangers.ca)), "not of the CA that was given")
    await refused(EtcdOptions(private.endpoints), "not of the CA that was given")


async def test_a_member_under_another_name_is_not_trusted(strangers: Tls) -> None:
    with cluster(tls=strangers) as etcd:
        await refused(EtcdOptions(etcd.endpoints, cafile=str(strangers.ca)), "for another name")


async def test_who_has_no_certificate_or_a_strangers_is_not_let_in(strict: Etcd, tls: Tls, strangers: Tls) -> None:
    await refused(EtcdOptions(strict.endpoints, cafile=str(tls.ca)), "it wants one, or one of another CA")
    await refused(with_certificate(strict, tls, strangers), "it wants one, or one of another CA")


async def test_files_that_are_no_pem_or_not_there(private: Etcd, tls: Tls) -> None:
    no_pem = str(tls.ca.parent / "server.ext")
    await refused(EtcdOptions(private.endpoints, cafile=no_pem), "can't be used")
    await refused(EtcdOptions(private.endpoints, cafile="/nowhere/ca.pem"), "/nowhere/ca.pem can't be read")


async def test_http_to_a_tls_port_and_the_other_way_round(private: Etcd, tls: Tls) -> None:
    async with opened(EtcdOptions(tuple(one.replace("https", "http") for one in private.endpoints))) as store:
        with pytest.raises(StoreUnreachable, match="http or https"):
            await store.get("/a")
    with cluster() as plain:
        endpoints = tuple(one.replace("http", "https") for one in plain.endpoints)
        async with opened(EtcdOptions(endpoints, cafile=str(tls.ca))) as store:
            with pytest.raises(StoreUnreachable, match="http or https"):
                await store.get("/a")


async def test_files_that_were_mended_are_read_again(private: Etcd, tls: Tls, strangers: Tls, tmp_path: Path) -> None:
    """A renewed certificate needs no restart of ours."""
    ca = tmp_path / "ca.pem"
    shutil.copy(strangers.ca, ca)
    async with opened(EtcdOptions(private.endpoints, cafile=str(ca))) as store:
        with pytest.raises(StoreForbidden):
            await store.get("/a")
        shutil.copy(tls.ca, ca)
        await store.get("/a")


async def test_one_member_that_is_not_trusted_is_passed_over(private: Etcd, tls: Tls, strangers: Tls) -> None:
    with cluster(tls=strangers) as other:
        for _ in range(6):  # the first member is drawn by lot
            async with opened(EtcdOptions((*other.endpoints, *private.endpoints), cafile=str(tls.ca))) as store:
                await store.get("/a")


async def test_the_common_name_is_the_user(strict: Etcd, tls: Tls) -> None:
    strict.enable_auth("weft-client", PASSWORD, "/mine")
    try:
        async with opened(with_certificate(strict, tls)) as store:
            assert await store.commit([Put("/mine/a", b"")]) is not None
            with pytest.raises(StoreForbidden, match="permission denied"):
                await store.commit([Put("/yours/a", b"")])
    finally:
        strict.disable_auth("weft-client")


def with_certificate(etcd: Etcd, tls: Tls, client: Tls | None = None) -> EtcdOptions:
    client = client or tls
    return EtcdOptions(
        etcd.endpoints, str(tls.ca), certfile=str(client.client_certificate), keyfile=str(client.client_key)
    )


# users


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    with cluster(options=CHEAP) as one:
        yield one


def as_user(etcd: Etcd, password: str = PASSWORD) -> EtcdOptions:
    return EtcdOptions(etcd.endpoints, username=USER, password=password)


async def test_who_is_allowed_what(etcd: Etcd) -> None:
    etcd.enable_auth(USER, PASSWORD, PREFIX)
    async with opened(as_user(etcd)) as store, watching(store) as sets:
        await store.commit([Put(f"{PREFIX}a", b"")])
        await seen(sets, lambda snapshot: f"{PREFIX}a" in snapshot.entries)
    await refused(as_user(etcd), "permission denied", "/elsewhere")
    await refused(as_user(etcd, "wrong"), "authentication failed", PREFIX)
    await refused(EtcdOptions(etcd.endpoints), "give a name and a password", PREFIX)
    await refused(EtcdOptions(etcd.endpoints, username="nobody", password="x"), "authentication failed", PREFIX)


async def test_a_user_is_no_fault_where_there_are_none(etcd: Etcd) -> None:
    """And when users are turned on while we run, the next question brings a token."""
    async with opened(as_user(etcd)) as store:
        await store.commit([Put(f"{PREFIX}a", b"")])
        etcd.enable_auth(USER, PASSWORD, PREFIX)
        assert await store.get(f"{PREFIX}a") is not None
        async with watching(store):
            etcd.disable_auth(USER)
        assert await store.get(f"{PREFIX}a") is not None


async def test_a_restart_is_no_end_for_a_user(etcd: Etcd) -> None:
    etcd.enable_auth(USER, PASSWORD, PREFIX)
    async with opened(as_user(etcd)) as store:
        await store.commit([Put(f"{PREFIX}a", b"")])
        etcd.members[0].restart()
        await back(store, f"{PREFIX}a")
        assert await store.commit([Put(f"{PREFIX}a", b"")]) is not None


@pytest.fixture(params=["simple", "jwt"])
def brief(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Etcd]:
    """Its tokens end after a second: simple ones if they aren't used, the others whatever is done with them."""
    simple = ("--auth-token-ttl", str(TOKEN_SECONDS), "--log-level", "info")
    kind = simple if request.param == "simple" else jwt_option(tmp_path, TOKEN_SECONDS)
    with cluster(options=(*CHEAP, *kind)) as one:
        one.enable_auth(USER, PASSWORD, PREFIX)
        yield one


async def test_a_watch_that_begins_with_an_ended_token(brief: Etcd) -> None:
    """A token is looked at when the stream begins, and etcd 3.4 calls an ended one a missing permission."""
    async with opened(as_user(brief)) as store, watching(store) as sets:  # listed, and no stream yet
        await ended(brief, store)
        brief.ctl("put", f"{PREFIX}a", "")
        await seen(sets, lambda snapshot: f"{PREFIX}a" in snapshot.entries)


async def test_a_token_that_ends_is_renewed_and_its_watch_goes_on(brief: Etcd) -> None:
    async with opened(as_user(brief)) as store, watching(store) as sets:
        await store.commit([Put(f"{PREFIX}a", b"1")])
        await seen(sets, lambda snapshot: f"{PREFIX}a" in snapshot.entries)
        await ended(brief, store)
        await store.commit([Put(f"{PREFIX}a", b"2")])
        await seen(sets, lambda snapshot: snapshot.entries[f"{PREFIX}a"].value == b"2")
        await ended(brief, store)
        async with watching(store) as second:
            lease = await store.grant(60)
            assert await store.keep_alive(lease) == 60
            await store.commit([Put(f"{PREFIX}a", b"3", lease)])
            for one in (sets, second):
                await seen(one, lambda snapshot: snapshot.entries[f"{PREFIX}a"].value == b"3")


async def test_many_questions_with_an_ended_token(brief: Etcd) -> None:
    async with opened(as_user(brief)) as store:
        await store.commit([Put(f"{PREFIX}a", b"")])
        await ended(brief, store)
        answers = await asyncio.gather(*(store.get(f"{PREFIX}a") for _ in range(50)))
        assert all(answers)


async def test_a_token_from_before_a_user_changed(brief: Etcd) -> None:
    async with opened(as_user(brief)) as store:
        for number in range(3):
            await store.commit([Put(f"{PREFIX}a", b"%d" % number)])
            brief.ctl("user", "add", f"somebody{number}:x")
            got = await store.get(f"{PREFIX}a")
            assert got is not None
            assert got.value == b"%d" % number


async def ended(etcd: Etcd, store: EtcdStore) -> None:
    """Returns when the store's token is no longer known. A simple one lives on by being tried, so the log tells."""
    token = store._connection._token
    assert token
    if token.count(".") == 1:
        name = token.split(".")[0]
        log = etcd.members[0].log
        await soon(lambda: any("deleted" in line and name in line for line in log().splitlines()), "a token's end")
        return
    async with opened(EtcdOptions(etcd.endpoints)) as other:  # it knows no password and can't renew
        other._connection._token = token
        async with asyncio.timeout(10):
            with contextlib.suppress(StoreForbidden):
                while True:
                    await other.get(f"{PREFIX}a")
