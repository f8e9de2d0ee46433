"""Endpoints as operators write them, ranges of a prefix, and the words for etcd's refusals."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import SettingsError, StoreError, StoreForbidden, StoreUnreachable
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.stores.etcd.options import checked
from weft.stores.etcd.refusals import StaleToken, of_rpc, of_watch
from weft.stores.etcd.store import prefix_range


@pytest.mark.parametrize(
    ("given_as", "found"),
    [
        (("http://127.0.0.1:2379",), ["http://127.0.0.1:2379"]),
        (("127.0.0.1:2379",), ["http://127.0.0.1:2379"]),
        (("etcd-1:2379",), ["http://etcd-1:2379"]),
        (("https://a:2379,https://b:2379",), ["https://a:2379", "https://b:2379"]),
        (("https://a:2379", " https://b:2379/ , "), ["https://a:2379", "https://b:2379"]),
        (("http://a:1,http://a:1",), ["http://a:1"]),
        (("http://[fd00::1]:2379",), ["http://[fd00::1]:2379"]),
        (("HTTP://A:2379",), ["http://a:2379"]),
        (("http://127.0.0.1:4001,http://127.0.0.1:2379",), ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]),
    ],
)
def test_endpoints(given_as: tuple[str, ...], found: list[str]) -> None:
    assert [str(endpoint) for endpoint in checked(EtcdOptions(given_as))] == found


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (EtcdOptions(()), "no endpoint"),
        (EtcdOptions((" , ",)), "no endpoint"),
        (EtcdOptions(("http://a",)), "'http://a' has no port"),
        (EtcdOptions(("10.0.0.1",)), "no port"),
        (EtcdOptions(("http://:2379",)), "form that is not known"),
        (EtcdOptions(("ftp://a:2379",)), "scheme 'ftp'"),
        (EtcdOptions(("unix:///run/etcd",)), "scheme 'unix'"),
        (EtcdOptions(("http://a:2379/v3",)), "form that is not known"),
        (EtcdOptions(("http://u:p@a:2379",)), "form that is not known"),
        (EtcdOptions(("http://a:2379 http://b:2379",)), "http://HOST:PORT"),
        (EtcdOptions(("http://a:99999",)), "can't be read"),
        (EtcdOptions(("http://a:http",)), "can't be read"),
        (EtcdOptions(("http://[::1:2379",)), "can't be read"),
        (EtcdOptions(("fd00::1:2379",)), "HOST:PORT"),
        (EtcdOptions(("http://a:1,https://b:1",)), "mixes http and https"),
        (EtcdOptions(certfile="/c.pem"), "client certificate is given and its key is not"),
        (EtcdOptions(keyfile="/k.pem"), "client key is given and its certificate is not"),
        (EtcdOptions(password="x"), "no user name"),
        (EtcdOptions(timeout=0), "timeout"),
        (EtcdOptions(timeout=float("nan")), "timeout"),
    ],
)
def test_what_can_not_be_meant(options: EtcdOptions, text: str) -> None:
    with pytest.raises(SettingsError, match=text.replace("(", r"\(")):
        EtcdStore(options)


def test_a_password_in_an_endpoint_is_not_printed() -> None:
    with pytest.raises(SettingsError) as error:
        checked(EtcdOptions(("http://root:secret@10.0.1.2:2379",)))
    assert "secret" not in str(error.value)
    assert "…@10.0.1.2:2379" in str(error.value)


def test_a_password_is_not_printed() -> None:
    assert "secret" not in repr(EtcdOptions(username="u", password="secret"))


def test_a_store_is_made_without_a_loop_and_without_a_connection() -> None:
    assert EtcdStore(EtcdOptions(("http://127.0.0.1:1",))).endpoint == "http://127.0.0.1:1"


# ranges


@given(st.text(max_size=5), st.text(max_size=8))
def test_a_range_holds_exactly_the_keys_of_its_prefix(prefix: str, key: str) -> None:
    try:
        octets = key.encode()
        first, end = prefix_range(prefix)
    except UnicodeEncodeError:
        return  # half a character is no key
    inside = first <= octets and (end == b"\0" or octets < end)
    assert inside == (octets.startswith(prefix.encode()) and bool(octets)) or octets == b"" == prefix.encode()


@pytest.mark.parametrize(
    ("prefix", "first", "end"),
    [
        ("/a/", b"/a/", b"/a0"),
        ("", b"\0", b"\0"),
        ("\udcff", b"\xff", b"\0"),
        ("a\udcff\udcff", b"a\xff\xff", b"b"),
        ("/\x7f", b"/\x7f", b"/\x80"),
    ],
)
def test_the_end_of_a_prefix(prefix: str, first: bytes, end: bytes) -> None:
    assert prefix_range(prefix) == (first, end)


# refusals


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNAVAILABLE", "etcdserver: no leader", StoreUnreachable),
        ("UNAVAILABLE", "etcdserver: request timed out", StoreUnreachable),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", StoreUnreachable),
        ("INTERNAL", "Received RST_STREAM with error code 2", StoreUnreachable),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", StaleToken),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", StaleToken),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", StaleToken),
        ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", StoreForbidden),
        ("PERMISSION_DENIED", "etcdserver: permission denied", StoreForbidden),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", StoreError),
        ("INTERNAL", "etcdserver: corrupt", StoreError),
        ("UNIMPLEMENTED", "unknown service etcdserverpb.KV", StoreError),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", StoreError),
    ],
)
def test_what_a_refusal_means(code: str, details: str, kind: type[StoreError]) -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
    assert type(of_rpc(error)) is kind


def test_the_last_sentence_of_a_long_story_is_told() -> None:
    story = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:2379: connect: Connection refused"
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=story)
    assert str(of_rpc(error)) == "ipv4:10.0.0.1:2379: connect: Connection refused"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", StaleToken),
        ("etcdserver: invalid auth token", StaleToken),
        ("etcdserver: no leader", StoreUnreachable),
        ("", StoreUnreachable),
    ],
)
def test_what_a_canceled_watch_means(reason: str, kind: type[StoreError]) -> None:
    assert type(of_watch(reason)) is kind
