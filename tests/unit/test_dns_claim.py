"""What is changed in a zone, and what never is: hosts register, crash and leave in any order, on a zone of values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.dns_hosts import router
from weft.discovery.dns_claim import Change, Conflict, Names, Registration, Standing, silence
from weft.discovery.dns_options import DnsSettings, Server, TsigKey, parse_key, parse_servers
from weft.errors import SettingsError
from weft.model import IPAddress, Node
from weft.wire.dns import Entry, Record, Srv, decode_txt
from weft.wire.hello import Stamp

DOMAIN = (b"example", b"com")
WALL = 1_700_000_000.0


@dataclass
class Zone:
    """The records, and RFC 2136's rules as far as they matter here."""

    records: set[Record] = field(default_factory=set)

    def standing(self, names: Names) -> Standing:
        return Standing(
            frozenset(r.value for r in self._at(names.stack, "TXT") if isinstance(r.value, tuple)),
            frozenset(
                r.value
                for r in self._at(names.service, "SRV")
                if isinstance(r.value, Srv) and r.value.target == names.host
            ),
            frozenset(
                r.value
                for kind in ("A", "AAAA")
                for r in self._at(names.host, kind)
                if isinstance(r.value, IPv4Address | IPv6Address)
            ),
        )

    def _at(self, name: tuple[bytes, ...], rtype: str) -> list[Record]:
        return [one for one in self.records if (one.name, one.rtype) == (name, rtype)]

    def update(self, change: Change) -> bool:
        if any(set(self._at(one.name, one.rtype)) != set(one.records) for one in change.expected):
            return False
        self.records -= set(change.removed)
        self.records |= set(change.added)
        return True


@dataclass
class Host:
    """One start of a node on a zone."""

    zone: Zone
    me: Node
    start: int = 0
    settings: DnsSettings = field(default_factory=lambda: DnsSettings("", "", "example.com"))

    def __post_init__(self) -> None:
        instance = f"{self.me.id}-{self.me.endpoints[0]}-{self.start}"
        self.claims = Registration(replace(self.settings, node=self.me.id, instance=instance), self.start)
        self.names = Names.of(self.me, DOMAIN)

    def register(self, now: float = 0.0) -> Change | Conflict:
        verdict = self.claims.claim(self.me, self.names, self.zone.standing(self.names), now, WALL + now)
        if isinstance(verdict, Change):
            assert self.zone.update(verdict)
            self.claims.written = True
        return verdict

    def leave(self) -> None:
        change = self.claims.withdrawal(self.me, self.names, self.zone.standing(self.names))
        if change is not None:
            assert self.zone.update(change)


SERVICE = Names.of(router("a", 1), DOMAIN).service
FOREIGN = frozenset(
    {
        Record(SERVICE, "SRV", Srv(10, 5, 4790, (b"a", *DOMAIN))),
        Record(SERVICE, "SRV", Srv(1, 2, 3, (b"printer", *DOMAIN))),
        Record((b"a", *SERVICE), "TXT", (b"v=other", b"id=a")),
        Record((b"a", *DOMAIN), "A", ip_address("192.0.2.1")),
    }
)


def test_what_was_there_before_is_neither_made_nor_removed() -> None:
    zone = Zone(set(FOREIGN))
    host = Host(zone, replace(router("a", 1), endpoints=(ip_address("192.0.2.1"), ip_address("2001:db8::1"))))
    host.register()
    (mine,) = [one for one in map(decode_txt, zone.standing(host.names).txt) if one is not None]
    assert mine.made == {"aaaa"}
    host.register(30.0)
    (mine,) = [one for one in map(decode_txt, zone.standing(host.names).txt) if one is not None]
    assert mine.made == {"aaaa"}
    host.leave()
    assert zone.records == FOREIGN


def test_an_update_between_looking_and_writing_is_noticed() -> None:
    zone = Zone()
    one, other = Host(zone, router("a", 1)), Host(zone, router("a", 2))
    seen = zone.standing(one.names)
    change = one.claims.claim(one.me, one.names, seen, 0.0, WALL)
    assert isinstance(other.register(), Change)
    assert isinstance(change, Change)
    assert not zone.update(change)
    assert isinstance(one.register(), Conflict)


def test_a_claim_is_dead_after_its_own_timeout_by_our_clock_and_an_outage_is_no_proof() -> None:
    zone = Zone()
    slow = DnsSettings("", "", "example.com", interval=100.0)
    Host(zone, router("a", 1), settings=slow).register()
    heir = Host(zone, router("a", 2))
    assert isinstance(heir.register(1000.0), Conflict)
    assert isinstance(heir.register(1299.0), Conflict)
    heir.claims.interrupted()
    assert isinstance(heir.register(1301.0), Conflict)
    assert isinstance(heir.register(1600.0), Conflict)
    assert isinstance(heir.register(1601.0), Change)
    assert {one.value for one in zone.records if one.rtype == "A"} == {ip_address("192.0.2.2")}


def test_a_claim_that_is_refreshed_is_alive() -> None:
    zone = Zone()
    first, second = Host(zone, router("a", 1)), Host(zone, router("a", 2))
    for at in range(0, 3000, 30):
        assert isinstance(first.register(at), Change)
        assert isinstance(second.register(at + 1.0), Conflict)


def test_another_program_at_our_endpoint_has_it_when_it_comes_later() -> None:
    """A restart can't be told from a second program, before both have spoken; then the first one waits."""
    zone = Zone()
    first, second = Host(zone, router("a", 1), 1), Host(zone, router("a", 1), 2)
    first.register()
    assert isinstance(second.register(1.0), Change)
    verdict = first.register(2.0)
    assert isinstance(verdict, Conflict)
    assert "another program on this host (192.0.2.1) has registered as a" in verdict.message
    assert isinstance(second.register(3.0), Change)


def test_a_claim_that_cant_be_read_is_not_touched_before_it_is_dead() -> None:
    zone = Zone()
    host = Host(zone, router("a", 1))
    broken = Record(host.names.stack, "TXT", (b"id=a", b"instance=x"))
    other = Record(host.names.stack, "TXT", (b"id=z", b"instance=x"))
    zone.records = {broken, other}
    verdict = host.register(0.0)
    assert isinstance(verdict, Conflict)
    assert "can't be read" in verdict.message
    assert isinstance(host.register(90.0), Change)
    assert broken not in zone.records
    host.leave()
    assert zone.records == {other, Record(SERVICE, "PTR", host.names.stack)}


def test_what_vanished_is_noticed() -> None:
    zone = Zone()
    host = Host(zone, router("a", 1))
    host.register()
    assert not host.claims.lost
    host.register(30.0)
    assert not host.claims.lost
    zone.records.clear()
    host.register(60.0)
    assert host.claims.lost


def test_an_alias_that_leads_elsewhere_is_a_conflict_and_no_prerequisite() -> None:
    host = Host(Zone(), router("a", 1))
    for found, words in ((frozenset[IPAddress](), "alias"), (frozenset({ip_address("192.0.2.9")}), "192.0.2.9")):
        verdict = host.claims.claim(host.me, host.names, Standing(addresses=found, alias=True), 0.0, WALL)
        assert isinstance(verdict, Conflict)
        assert words in verdict.message
    here = frozenset({ip_address("192.0.2.1")})
    verdict = host.claims.claim(host.me, host.names, Standing(addresses=here, alias=True), 0.0, WALL)
    assert isinstance(verdict, Change)
    assert [one.rtype for one in verdict.expected] == ["TXT"]
    assert not [one for one in verdict.added if one.rtype == "A"]


def test_silence_has_an_end() -> None:
    entry = Entry(router("a", 1), Stamp("i", 1, 1), WALL, 80000.0, 60, (1, 1, 1))
    assert silence(entry, 90.0, True) == 86400.0


_STEPS = st.lists(
    st.tuples(st.sampled_from(["register", "leave", "crash"]), st.integers(0, 4), st.floats(0, 200)), max_size=40
)
KINDS = [("a", 1, "a"), ("a", 2, "a"), ("b", 3, "s"), ("c", 4, "s"), ("c", 4, "other")]


@given(_STEPS)
def test_whatever_happens_nothing_foreign_is_touched_and_one_host_has_an_id(
    steps: Iterable[tuple[str, int, float]],
) -> None:
    zone, now, starts = Zone(set(FOREIGN)), 0.0, 0
    hosts = [Host(zone, router(name, number, stack=stack), at) for at, (name, number, stack) in enumerate(KINDS)]
    for what, at, wait in steps:
        now += wait
        host = hosts[at]
        if what == "register":
            host.register(now)
        else:
            if what == "leave":
                host.leave()
            starts += 1
            hosts[at] = Host(zone, host.me, 10 + starts)
        assert zone.records >= FOREIGN
        claims = [entry for one in zone.records if one.rtype == "TXT" and (entry := _entry(one)) is not None]
        per_stack = [(entry.node.stack, entry.node.id) for entry in claims]
        assert len(set(per_stack)) == len(per_stack)
    for (name, number, stack), host in zip(KINDS, hosts, strict=True):
        again = Host(zone, router(name, number, stack=stack), 1000)
        again.register(now)
        again.register(now + 100_000)
        again.leave()
        host.leave()
    assert {one for one in zone.records if one.rtype != "PTR"} == {one for one in FOREIGN if one.rtype != "PTR"}


def _entry(record: Record) -> Entry | None:
    return decode_txt(record.value) if isinstance(record.value, tuple) else None


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ()),
        ("10.0.0.53", (Server("10.0.0.53"),)),
        (" 10.0.0.53:5353, ns1.example.com ,", (Server("10.0.0.53", 5353), Server("ns1.example.com"))),
        ("[fd00::53]:54,[fd00::53],fd00::53", (Server("fd00::53", 54), Server("fd00::53"), Server("fd00::53"))),
    ],
)
def test_servers_are_read(text: str, servers: tuple[Server, ...]) -> None:
    assert parse_servers(text) == servers


@pytest.mark.parametrize("text", ["a:", ":53", "a:0", "a:65536", "a:x", "[fd00::53", "[fd00::53]x", "[]:53", "a:٣"])
def test_servers_that_are_none_are_refused(text: str) -> None:
    if text == "a:":
        assert parse_servers(text) == (Server("a"),)
        return
    with pytest.raises(SettingsError, match="DNS_SERVER"):
        parse_servers(text)


def test_servers_for_people() -> None:
    assert [str(one) for one in parse_servers("10.0.0.53,fd00::53")] == ["10.0.0.53:53", "[fd00::53]:53"]


def test_keys_are_read() -> None:
    assert parse_key(" ") is None
    assert parse_key("weft:c2VjcmV0") == TsigKey("weft", b"secret")
    assert parse_key("HMAC-SHA512:weft.:c2VjcmV0") == TsigKey("weft.", b"secret", "hmac-sha512")
    assert "secret" not in repr(parse_key("weft:c2VjcmV0"))


@pytest.mark.parametrize("text", ["weft", ":c2VjcmV0", "weft:", "weft:c2VjcmV", "rot13:weft:c2VjcmV0", "a:b:c:d"])
def test_keys_that_are_none_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(SettingsError, match="DNS_KEY") as caught:
        parse_key(text)
    assert "c2Vj" not in str(caught.value)


@pytest.mark.parametrize("domain", ["", ".", "x" * 200])
def test_a_domain_that_is_none_is_refused(domain: str) -> None:
    with pytest.raises(SettingsError, match="DNS_DOMAIN"):
        DnsSettings("a", "i", domain)
