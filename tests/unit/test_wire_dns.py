"""TXT records and names of nodes in DNS."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from string import ascii_lowercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import network, node
from weft.errors import WireError
from weft.model import Network, Node
from weft.wire.dns import (
    LABEL,
    Entry,
    Strings,
    decode_txt,
    encode_txt,
    fields,
    folded,
    host_label,
    name_text,
    plain_peer,
    stack_label,
)
from weft.wire.hello import Stamp

ME = replace(
    node("router-1", "192.0.2.1,2001:db8::1", networks=(network("web", "10.1.0.0/24", "fd00:1::/64"),)),
    source="dns",
    stack="stack-a",
    version="0.1.0",
    overlay=(ip_address("192.168.100.1"),),
)
KEPT = Entry(ME, Stamp("abc.1", 5, 7), 1705314600.0, 30.0, 60, (10, 5, 4790), frozenset({"srv", "a"}))


def changed(strings: Strings, key: str, value: str | None) -> Strings:
    """The record with another value of that key, or without it."""
    kept = [one for one in strings if not one.startswith(f"{key}=".encode())]
    return (*kept, f"{key}={value}".encode()) if value is not None else tuple(kept)


def test_a_node_survives() -> None:
    assert decode_txt(encode_txt(ME, KEPT)) == KEPT


def test_a_record_reads_as_the_document_does() -> None:
    strings = encode_txt(ME, KEPT)
    assert strings[0] == b"txtvers=1"  # RFC 6763, 6.7
    said = set(strings)
    assert {b"stack=stack-a", b"vni=4096", b"host_ip=192.0.2.1", b"vxlan_ip=192.168.100.1"} <= said
    assert {b"networks=10.1.0.0/24,fd00:1::/64", b"last_seen=2024-01-15T10:30:00Z", b"every=30", b"ttl=60"} <= said
    assert {b"srv=10 5 4790", b"made=a,srv"} <= said


def test_an_age_and_a_name_survive_and_what_is_not_exposed_is_not_told() -> None:
    networks = (
        Network("näme ☃", (ip_network("10.1.0.0/24"),), since=12.5),
        Network("eternal", (ip_network("10.2.0.0/24"),)),
        network("secret", "10.3.0.0/24", exposed=False),
    )
    me = replace(ME, networks=networks, overlay=(ip_address("10.3.0.1"),))
    found = decode_txt(encode_txt(me, KEPT))
    assert found is not None
    assert found.node.networks == networks[:2]
    assert found.node.overlay == ()
    assert not any(b"10.3.0" in one for one in encode_txt(me, KEPT))


def test_many_networks_go_on_over_several_strings_cut_behind_commas() -> None:
    many = tuple(network(f"n{i}", f"10.{i}.0.0/16") for i in range(200))
    strings = encode_txt(replace(ME, networks=many), KEPT)
    assert all(len(one) <= 255 for one in strings)
    lists = [one for one in strings if one.startswith(b"networks")]
    assert [one.partition(b"=")[0] for one in lists[:3]] == [b"networks", b"networks2", b"networks3"]
    assert all(one.endswith(b",") for one in lists[:-1])
    found = decode_txt(strings)
    assert found is not None
    assert found.node.networks == many


def test_a_long_id_is_cut_anywhere() -> None:
    me = replace(ME, id="ä" * 126, stack="ß" * 126)
    found = decode_txt(encode_txt(me, KEPT))
    assert found is not None
    assert (found.node.id, found.node.stack) == (me.id, me.stack)


def test_a_record_that_is_too_long_is_refused_with_what_to_do() -> None:
    many = tuple(network(f"a long name of a network {i}", f"10.{i >> 8}.{i & 255}.0/24") for i in range(1000))
    with pytest.raises(WireError, match=r"its 1000 networks make a TXT record of .* expose fewer networks"):
        encode_txt(replace(ME, networks=many), KEPT)


def test_who_would_not_be_believed_is_not_told() -> None:
    with pytest.raises(WireError, match="printable"):
        encode_txt(replace(ME, id="a\nb"), KEPT)


def test_of_two_strings_with_a_key_the_first_holds_and_keys_have_no_case() -> None:
    found = fields((b"VNI=7", b"vni=8", b"novalue", b"=x", b"other=1", b"networks=a,", b"networks2=b", b"networks4=d"))
    assert found == {"vni": b"7", "networks": b"a,b"}


@pytest.mark.parametrize(
    "strings",
    [(), (b"v=spf1 -all",), (b"id=somebody",), (b"instance=1",), (b"vni=1000", b"networks=10.0.0.0/8")],
    ids=str,
)
def test_a_record_of_another_program_is_none_of_ours(strings: Strings) -> None:
    assert decode_txt(strings) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vni", None),
        ("vni", "-1"),
        ("vni", "٣"),
        ("vni", "99999999"),
        ("vni", "1" * 5000),
        ("host_ip", "192.0.2.9"),
        ("host_ip", "127.0.0.1"),
        ("endpoints", "192.0.2.1,192.0.2.2"),
        ("endpoints", ""),
        ("port", "0"),
        ("port", "65536"),
        ("mtu", "100"),
        ("mac", "01:00:5e:00:00:01"),
        ("mac", None),
        ("networks", "10.1.0.0/24"),
        ("networks", "10.1.0.1/24,fd00:1::/64"),
        ("named", "[{"),
        ("named", '[{"name":"a","since":1e400,"subnets":2}]'),
        ("last_seen", None),
        ("last_seen", "2024-01-15T10:30:00"),
        ("last_seen", "yesterday"),
        ("last_seen", "0001-01-01T00:00:00+14:00"),
        ("last_seen", "9999-12-31T23:59:59-14:00"),
        ("every", "0"),
        ("every", "nan"),
        ("every", "1e9"),
        ("every", "soon"),
        ("srv", "1 2"),
        ("srv", "1 2 65536"),
        ("srv", None),
        ("id", "a\x1b[2J"),
        ("seq", "1e3"),
    ],
)
def test_a_record_of_ours_that_makes_no_sense_is_refused_and_named(key: str, value: str | None) -> None:
    with pytest.raises(WireError, match=r"the TXT record of .* can't be read"):
        decode_txt(changed(encode_txt(ME, KEPT), key, value))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(WireError, match="router-1"):
        decode_txt((*changed(encode_txt(ME, KEPT), "stack", None), b"stack=\xff"))


@given(st.lists(st.binary(max_size=255) | st.sampled_from(encode_txt(ME, KEPT)), max_size=30))
def test_any_strings_are_read_or_refused(strings: list[bytes]) -> None:
    try:
        decode_txt(strings)
    except WireError:
        return


_VALUE = st.text(max_size=40) | st.sampled_from(["1e999", "-1", "1" * 4400, "::1%x", "10.0.0.0/8", "[" * 5000, "\x00"])


@given(st.integers(0, len(encode_txt(ME, KEPT)) - 1), _VALUE)
def test_a_record_with_any_value_is_read_or_refused(at: int, value: str) -> None:
    strings = list(encode_txt(ME, KEPT))
    key = strings[at].partition(b"=")[0]
    strings[at] = key + b"=" + value.encode("utf-8", "surrogatepass")
    assert refusal(strings).isprintable()


def refusal(strings: list[bytes]) -> str:
    try:
        decode_txt(strings)
    except WireError as error:
        return str(error)
    return ""


_ids = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=80).filter(
    lambda text: text.isprintable() and len(text.encode()) <= 253
)


@given(_ids)
def test_every_id_has_labels_that_dns_takes(name: str) -> None:
    host = host_label(name).decode()
    assert 0 < len(host) <= LABEL
    assert set(host) <= set(ascii_lowercase + digits + "-")
    assert not host.startswith("-")
    assert not host.endswith("-")
    assert 0 < len(stack_label(name)) <= LABEL


@given(_ids, _ids)
def test_two_ids_have_two_host_names(one: str, other: str) -> None:
    assert (host_label(one) == host_label(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "host", "stack"),
    [
        ("stack-a", "stack-a", "stack-a"),
        ("Stack-A", "stack-a-", "Stack-A"),
        ("stack a.b", "stack-a-b-", "stack a.b"),
        ("größe", "gr--e-", "größe"),
        ("☃", "", "☃"),
        ("x" * 64, "x" * 52 + "-", "x" * 52 + "-"),
        ("-a", "a-", "-a"),
    ],
)
def test_names_of_unusual_ids(name: str, host: str, stack: str) -> None:
    assert host_label(name).decode().startswith(host)
    assert stack_label(name).decode().startswith(stack)


def test_an_empty_id_has_a_label_all_the_same() -> None:
    assert stack_label("") == host_label("") != b""


def test_names_for_people() -> None:
    assert name_text((b"my stack.1", "ö".encode(), b"com")) == "my\\032stack\\.1.\\195\\182.com"
    assert folded((b"Ab", b"COM")) == (b"ab", b"com")


def plain(*strings: str, addresses: str = "192.0.2.7") -> Node:
    where = [ip_address(one) for one in addresses.split()]
    return plain_peer("host1", where, [one.encode() for one in strings], 1000)


def test_a_plain_record_has_an_address_and_our_vni() -> None:
    found = plain(addresses="192.0.2.9 192.0.2.7 2001:db8::7")
    assert (found.id, found.stack, found.vni, found.port) == ("host1", "host1", 1000, 4789)
    assert found.endpoints == (ip_address("192.0.2.7"), ip_address("2001:db8::7"))
    assert not any(found.mac)
    assert found.source == "dns"


def test_a_plain_record_may_tell_more() -> None:
    found = plain("vni=7", "vxlan_ip=192.168.100.7", "networks=172.21.0.0/16,172.22.0.0/16", "port=4790")
    assert (found.vni, found.port, found.overlay) == (7, 4790, (ip_address("192.168.100.7"),))
    assert [str(n.subnets[0]) for n in found.networks] == ["172.21.0.0/16", "172.22.0.0/16"]


@pytest.mark.parametrize("said", ["vni=x", "vni=99999999", "vxlan_ip=1", "networks=0", "port=0", "port=70000"])
def test_a_plain_record_that_makes_no_sense_is_refused(said: str) -> None:
    with pytest.raises(WireError):
        plain(said)


def test_a_plain_record_without_an_address_that_a_host_can_have_is_refused() -> None:
    with pytest.raises(WireError, match="no address"):
        plain(addresses="")
    with pytest.raises(WireError, match="another host"):
        plain(addresses="127.0.0.1")
