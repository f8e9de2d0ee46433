"""flannel-registrar's keys and values: what is written octet for octet, every older layout, and garbage."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.model import IPNetwork, Mac
from weft.wire.flannel import Lease, Vtep, lease_value, parse_lease
from weft.wire.registrar import (
    LONGEST,
    Key,
    NetworkKey,
    Note,
    NoteKey,
    Status,
    StatusKey,
    entry_value,
    escape,
    is_nowhere,
    key_text,
    note_value,
    parse_key,
    parse_note,
    parse_status,
    parse_subnet,
    registrar_of,
    status_value,
    subnet_value,
    unescape,
)

MAC = Mac(bytes.fromhex("823dcd46bc78"))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
ODD = st.sampled_from(
    ["_x", "__", "a~2", "a~2~3", "~2", "a~02", "a~1", "%41", "%", "a/b", "\n", "\x7f", "é", "a b", "web.x-y", "subnets"]
)
HOSTS = NAMES | ODD | st.sampled_from(["_host_status", "_weft", "babka", "BABKA"])
NUMBERS = st.integers(1, 99999)
KEYS = st.one_of(
    st.builds(NetworkKey, HOSTS, NAMES | ODD, NUMBERS, st.booleans()),
    st.builds(StatusKey, HOSTS, st.booleans()),
    st.builds(NoteKey, HOSTS),
)
NETWORKS = st.one_of(
    st.builds(lambda a, n: ip_network((a, n), strict=False), st.ip_addresses(v=4), st.integers(1, 32)),
    st.builds(lambda a, n: ip_network((a, n), strict=False), st.ip_addresses(v=6), st.integers(1, 128)),
)
ADDRESSES = st.ip_addresses()
PAIRS = st.dictionaries(NAMES, NAMES, max_size=3).map(lambda d: tuple(sorted(d.items())))
MACS = st.binary(min_size=6, max_size=6).map(Mac)
NOTES = st.builds(
    Note,
    machine=NAMES,
    instance=NAMES,
    version=NAMES,
    endpoints=st.lists(ADDRESSES, max_size=2).map(tuple),
    mac=st.none() | MACS,
    vni=st.integers(0, 0xFFFFFF),
    port=st.integers(0, 0xFFFF),
    mtu=st.integers(0, 0xFFFFFF),
    overlay=st.lists(ADDRESSES, max_size=3).map(tuple),
    since=st.dictionaries(NAMES, st.floats(0, 1e12), max_size=3).map(lambda d: tuple(sorted(d.items()))),
    groups=PAIRS,
    reaches=st.lists(NAMES, max_size=3).map(tuple),
    misses=st.lists(NAMES, max_size=3).map(tuple),
    via=PAIRS,
    segments=st.lists(
        st.builds(lambda a: IPv4Interface((a, 24)), st.ip_addresses(v=4))
        | st.builds(lambda a: IPv6Interface((a, 64)), st.ip_addresses(v=6)),
        max_size=3,
    ).map(tuple),
)


@given(KEYS)
def test_every_key_is_read_as_it_was_meant(key: Key) -> None:
    text = key_text(key)
    assert parse_key(text) == key
    assert text.isprintable()
    assert text.count("/") == 1 + getattr(key, "doubled", False)
    text.encode()


@given(st.sets(KEYS, min_size=2, max_size=8))
def test_no_two_keys_are_one(keys: set[Key]) -> None:
    assert len({key_text(key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (NetworkKey("babka", "web"), "babka/web"),
        (NetworkKey("babka", "web", 2), "babka/web~2"),
        (NetworkKey("lower.case-host_1", "my_net-1.x"), "lower.case-host_1/my_net-1.x"),
        (NetworkKey("_host_status", "web"), "%5Fhost_status/web"),
        (NetworkKey("babka", "web~2"), "babka/web%7E2"),
        (NetworkKey("babka", "web~2", 3), "babka/web%7E2~3"),
        (NetworkKey("babka", "a/b%c\n"), "babka/a%2Fb%25c%0A"),
        (NetworkKey("babka", "_web", doubled=True), "subnets/babka/_web"),
        (NetworkKey("subnets", "web"), "subnets/web"),
        (StatusKey("babka"), "_host_status/babka"),
        (StatusKey("babka", doubled=True), "subnets/_host_status/babka"),
        (NoteKey("_x"), "_weft/_x"),
    ],
)
def test_what_keys_look_like(key: Key, text: str) -> None:
    assert key_text(key) == text
    assert parse_key(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_exists",
        "babka",
        "a/b/c",
        "subnets/a/b/c",
        "/x",
        "x/",
        "//",
        "_other/x",
        "subnets/_weft/x",
        "a/" + "n" * 1537,
    ],
)
def test_what_is_nothing_of_the_registrars(text: str) -> None:
    assert parse_key(text) is None


@pytest.mark.parametrize(
    ("text", "name"), [("100%", "100%"), ("a%zz", "a%zz"), ("%4", "%4"), ("a%2Fb", "a/b"), ("%c3%A9", "é")]
)
def test_names_that_an_older_program_did_not_escape(text: str, name: str) -> None:
    assert unescape(text) == name


@pytest.mark.parametrize("name", ["", "x" * (LONGEST + 1), "\ud800", "a\udcff"])
def test_names_that_no_key_can_hold(name: str) -> None:
    with pytest.raises(WireError, match="part of a key"):
        escape(name)


@pytest.mark.parametrize("octets", [b"a/b\xff", b"a\xff/b", b"_weft/%FF", b"a/%C3", b"a/%ff%00"])
def test_octets_that_are_no_text_are_no_key(octets: bytes) -> None:
    """A name from there is told on: in JSON, where half a character is an error."""
    assert parse_key(octets.decode("utf-8", "surrogateescape")) is None


@given(
    st.text(max_size=60)
    | st.text(st.characters(), max_size=9)
    | st.lists(st.sampled_from(["/", "subnets", "_weft", "%", "~2", "x"])).map("".join)
)
def test_any_text_is_a_key_or_none(text: str) -> None:
    key = parse_key(text)
    if key is not None and len(key.host) <= LONGEST:
        assert parse_key(key_text(key)) == key


@given(NETWORKS)
def test_a_subnet_is_the_bare_cidr(subnet: IPNetwork) -> None:
    assert subnet_value(subnet) == str(subnet).encode()
    assert parse_subnet(subnet_value(subnet), "k") == subnet


@pytest.mark.parametrize(
    ("value", "subnet"),
    [(b"10.5.40.1/24", "10.5.40.0/24"), (b" 10.5.40.0/24\n", "10.5.40.0/24"), (b"fd00:1::5/64", "fd00:1::/64")],
)
def test_host_bits_and_white_space_are_tolerated(value: bytes, subnet: str) -> None:
    assert parse_subnet(value, "k") == ip_network(subnet)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"10.5.40.0",
        b"0.0.0.0/0",
        b"::/0",
        b"10.5.40.0/33",
        b"true",
        b"\xff/8",
        b"fe80::1%eth0/64",
        b"1/2/3",
        b"9" * 999,
    ],
)
def test_what_is_no_subnet(value: bytes) -> None:
    with pytest.raises(WireError, match="the key must be a subnet such as"):
        parse_subnet(value, "the key")


def test_a_status_is_written_exactly_so() -> None:
    status = Status("babka", MAC, IPv4Address("192.168.4.88"), IPv4Address("192.168.4.88"), 1743000000)
    assert status_value(status) == (
        b'{"hostname":"babka","vtep_mac":"82:3d:cd:46:bc:78","primary_ip":"192.168.4.88",'
        b'"public_ip":"192.168.4.88","timestamp":1743000000}'
    )
    assert parse_status("babka", status_value(status)).timestamp == 1743000000
    assert parse_status("babka", status_value(status)) == status
    assert status == Status("babka", MAC, status.primary_ip, status.public_ip, 1), "the time tells no difference"
    bare = b'{"hostname":"x","vtep_mac":"","primary_ip":"","public_ip":"","timestamp":0}'
    assert status_value(Status("x")) == bare
    assert parse_status("x", bare) == Status("x")


@pytest.mark.parametrize(
    ("value", "status", "timestamp"),
    [
        (
            b'{"PublicIP":"192.168.4.88","PublicIPv6":null,"BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"82:3d:cd:46:bc:78"}}',
            Status("h", MAC, None, IPv4Address("192.168.4.88")),
            0,
        ),
        (
            b'{"last_seen":1743000000,"boot_time":1742000000,"vtep_mac":"82:3d:cd:46:bc:78"}',
            Status("h", MAC),
            1743000000,
        ),
        (b'{"last_seen":1743000000,"boot_time":1742000000,"vtep_mac":"unknown"}', Status("h"), 1743000000),
        (
            b'{"hostname":"other","vtep_mac":"82:3d:cd:46:bc:78","primary_ip":"192.168.4.88","timestamp":7}',
            Status("h", MAC, IPv4Address("192.168.4.88")),
            7,
        ),
        (
            b'{"hostname":"h","public_ip":"fd00::1","timestamp":"soon"}',
            Status("h", public_ip=IPv6Address("fd00::1")),
            0,
        ),
        (b'{"vtep_mac":5,"primary_ip":[],"timestamp":-1,"last_seen":1e300,"BackendData":7}', Status("h"), 0),
        (b"{}", Status("h"), 0),
    ],
)
def test_statuses_of_every_version(value: bytes, status: Status, timestamp: int) -> None:
    read = parse_status("h", value)
    assert read == status
    assert read.timestamp == timestamp


def test_a_host_is_known_by_its_public_address_or_its_first() -> None:
    one, other = IPv4Address("192.168.4.88"), IPv4Address("10.0.0.1")
    assert Status("h", None, one, other).address == other
    assert Status("h", None, one).address == one
    assert Status("h").address is None


STATUSES = st.builds(
    Status, NAMES, st.none() | MACS, st.none() | ADDRESSES, st.none() | ADDRESSES, st.integers(0, 10**11)
)


@given(STATUSES)
def test_any_status_comes_back(status: Status) -> None:
    read = parse_status(status.host, status_value(status))
    assert read == status
    assert read.timestamp == status.timestamp


@given(NOTES)
def test_any_note_comes_back(note: Note) -> None:
    value = note_value(note)
    assert parse_note("h", value) == note
    assert note_value(parse_note("h", value)) == value


def test_a_later_versions_note_is_read_as_far_as_it_is_known() -> None:
    value = b'{"v":9,"machine":"m","future":{"a":[1]},"reaches":["lavash"],"via":{"culvert":"lavash"}}'
    assert parse_note("h", value) == Note("m", reaches=("lavash",), via=(("culvert", "lavash"),))
    assert b'"v":1' in note_value(Note("m"))


@pytest.mark.parametrize(
    "member",
    [
        '"vni":16777216',
        '"vni":-1',
        '"port":70000',
        '"mtu":-5',
        '"mac":"zz"',
        '"endpoints":["x"]',
        '"endpoints":["fe80::1%eth0"]',
        '"segments":["fe80::1%eth0/64"]',
        '"segments":["10.0.0.1/40"]',
        '"since":{"a":"b"}',
        '"since":{"a":1e999}',
        '"reaches":"babka"',
        '"machine":5',
    ],
)
def test_notes_that_cannot_be_read(member: str) -> None:
    with pytest.raises(WireError, match="the note of host h can't be read"):
        parse_note("h", f"{{{member}}}".encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            [
                "PublicIP", "publicip", "PublicIPv6", "BackendData", "VtepMAC", "timestamp", "last_seen", "vtep_mac",
                "public_ip", "primary_ip", "v", "since", "groups", "endpoints", "segments", "mac", "vni", "via",
            ]
        ),
        inner,
        max_size=8,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.binary(max_size=200) | JSON.map(lambda v: msgspec.json.encode(v)))
def test_garbage_is_a_wire_error_and_nothing_else(value: bytes) -> None:
    for read in (parse_status, parse_note):
        with contextlib.suppress(WireError):
            read("h", value)
    with contextlib.suppress(WireError):
        parse_subnet(value, "k")
    is_nowhere(value)


@given(st.lists(st.sampled_from(["[", '{"a":', "{"])).map(lambda parts: "".join(parts * 2000).encode()))
def test_depth_is_no_end(value: bytes) -> None:
    with pytest.raises(WireError):
        parse_note("h", value)
    with pytest.raises(WireError):
        parse_status("h", value)
    assert not is_nowhere(value)


@pytest.mark.parametrize(
    ("value", "nowhere"),
    [
        (b'{"PublicIP":"127.0.0.1"}', True),
        (b'{"PublicIP":"127.8.9.1","PublicIPv6":null,"BackendType":"vxlan"}', True),
        (b'{"PublicIP":"127.0.0.1","PublicIPv6":"fd00::1"}', True),
        (b'{"PublicIP":"10.0.0.1","PublicIPv6":"::1"}', True),
        (b'{"publicip":""}', True),
        (b'{"PublicIP":"0.0.0.0","PublicIPv6":null}', True),
        (b'{"PublicIP":"0.0.0.0","PublicIPv6":"::"}', True),
        (b'{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}', False),
        (b'{"PublicIP":"192.168.4.88"}', False),
        (b'{"PublicIP":"nonsense"}', False),
        (b'{"PublicIP":null}', False),
        (b'{"vtep_mac":"unknown"}', False),
        (b"garbage", False),
        (b'{"hostname":"h","primary_ip":"127.0.0.1","public_ip":"192.168.4.88"}', False),
        (b'{"hostname":"h","primary_ip":"127.0.0.1","public_ip":""}', True),
        (b'{"hostname":"h","primary_ip":"","public_ip":"192.168.4.88"}', False),
        (b'{"hostname":"h","primary_ip":"","public_ip":"0.0.0.0"}', True),
    ],
)
def test_addresses_that_lead_every_host_to_itself(value: bytes, nowhere: bool) -> None:
    assert is_nowhere(value) is nowhere


def test_a_status_of_ours_without_addresses_is_told_all_the_same() -> None:
    assert ip_address("::1").is_loopback
    assert is_nowhere(status_value(Status("h", MAC))), "such a one says nothing of where its host is"


ENTRY = Lease(IPv4Network("10.5.40.0/24"), None, IPv4Address("192.168.4.88"), None, "vxlan", Vtep(1, Mac(b"\x82" * 6)))


@given(st.text().filter(lambda host: host.isprintable() and host))
def test_flannel_reads_an_entry_as_a_lease_and_the_registrar_whose_it_is(host: str) -> None:
    value = entry_value(ENTRY, host)
    assert parse_lease("10.5.40.0-24", value) == ENTRY
    assert registrar_of(value) == host


def test_an_entry_is_a_lease_with_one_member_more() -> None:
    assert entry_value(ENTRY, "babka") == (
        b'{"PublicIP":"192.168.4.88","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"82:82:82:82:82:82"},"Registrar":"babka"}'
    )


@pytest.mark.parametrize(
    "value",
    [lease_value(ENTRY), b"", b"x", b'{"Registrar"', b'{"Registrar":7}', b'{"Registrar":null}', b'["Registrar"]'],
)
def test_what_no_registrar_of_ours_wrote(value: bytes) -> None:
    assert registrar_of(value) == ""
