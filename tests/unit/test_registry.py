"""What stands in etcd, read; what must be written there, decided: by rows, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.backend_entries import backend_entries
from weft.core.registering import (
    Decision,
    Moment,
    Write,
    beside,
    complete,
    entries,
    nowhere,
    registrations,
)
from weft.core.registry import Announcement, Found, Prefixes, Reader, Registered, Registry, Row
from weft.model import IPNetwork, Mac, Network
from weft.wire.flannel import Lease, Vtep, lease_key, lease_value
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import Note, NoteKey, Status, entry_value, key_text, note_value, status_value

P = Prefixes()
CFG, FLANNEL = P.config, P.flannel
CONFIG = b'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'
BABKA, PITA = IPv4Address("192.168.4.88"), IPv4Address("192.168.4.99")
MINE, THEIRS = 77, 88
NOW = 1_800_000_000.0


@dataclass(frozen=True)
class Line:
    """A Row."""

    key: str
    value: bytes
    lease: int = 0
    modified: int = 1
    created: int = 1


def rows(prefix: str, found: dict[str, object], lease: int = 0) -> tuple[Row, ...]:
    made = [
        Line(f"{prefix}/{key}", value.encode() if isinstance(value, str) else bytes(value), lease)  # type: ignore[call-overload]
        for key, value in found.items()
    ]
    return tuple(sorted(made, key=lambda row: row.key))


def both(*parts: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(sorted((row for part in parts for row in part), key=lambda row: row.key))


def mac(ip: IPv4Address) -> Mac:
    return Mac(b"\x82\x00" + ip.packed)


def lease(subnet: str, ip: IPv4Address = BABKA, backend: str = "vxlan") -> Lease:
    return Lease(IPv4Network(subnet), None, ip, None, backend, Vtep(1, mac(ip)) if backend == "vxlan" else None)


def leased(*leases: Lease, on: int = 0) -> tuple[Row, ...]:
    return rows(FLANNEL, {f"subnets/{lease_key(one)}": lease_value(one) for one in leases}, on)


def added(*entries: Lease, on: int = 0, by: str = "babka") -> tuple[Row, ...]:
    return rows(FLANNEL, {f"subnets/{lease_key(one)}": entry_value(one, by) for one in entries}, on)


def network(name: str, *subnets: str, since: float = 5.0, group: str = "", exposed: bool = True) -> Network:
    return Network(name, tuple(map(ip_network, subnets)), since=since, group=group, exposed=exposed)


def read(config: tuple[Row, ...] = (), flannel: tuple[Row, ...] = ()) -> Registry:
    return Reader(P).read(config, flannel)


def messages(registry: Registry) -> str:
    return "\n".join(problem.message for problem in registry.problems)


# reading


def test_hosts_of_every_version_side_by_side() -> None:
    registry = read(
        both(
            rows(
                CFG,
                {
                    "_exists": "true",
                    "_host_status/babka": status_value(Status("babka", mac(BABKA), BABKA, BABKA, 5)),
                    "_weft/babka": note_value(Note("m", "i", since=(("web", 7.0),), groups=(("web", "front"),))),
                    "babka/web": "10.5.40.0/24",
                    "babka/web~2": "10.6.0.0/24",
                },
                MINE,
            ),
            rows(CFG, {"babka/left": "10.5.99.0/24", "subnets/babka/web": "10.5.98.0/24"}),
            rows(
                CFG,
                {
                    "subnets/_host_status/pita": '{"vtep_mac":"","primary_ip":"192.168.4.99","timestamp":9}',
                    "subnets/pita/x": "10.5.50.1/24",
                    "pita/x": "10.5.50.0/24",
                    "pita/x~3": "10.5.52.0/24",
                    "pita/bad": "nonsense",
                },
            ),
        )
    )
    assert registry.hosts == (
        Registered(
            "babka",
            (Network("web", (IPv4Network("10.5.40.0/24"), IPv4Network("10.6.0.0/24")), since=7.0, group="front"),),
            Status("babka", mac(BABKA), BABKA, BABKA),
            Note("m", "i", since=(("web", 7.0),), groups=(("web", "front"),)),
            True,
        ),
        Registered(
            "pita",
            (network("x", "10.5.50.0/24", "10.5.52.0/24", since=float("inf")),),
            Status("pita", None, PITA, PITA),
        ),
    )
    assert "pita/bad must be a subnet" in messages(registry)
    assert registry.complete
    assert registry.host("pita") == registry.hosts[1]
    assert registry.host("nobody") is None


@pytest.mark.parametrize(
    "where", [f"{CFG}/_host_status", f"{FLANNEL}/subnets/_host_status", f"{FLANNEL}/subnets/subnets/_host_status"]
)
def test_a_status_without_an_address_is_placed_by_its_vtep(where: str) -> None:
    text = f'{{"last_seen":9,"boot_time":1,"vtep_mac":"{mac(PITA).hex(":")}"}}'
    prefix, _, rest = where.partition("/network/")
    row = rows(f"{prefix}/network", {f"{rest}/pita": text})
    config, flannel = (row, ()) if where.startswith(CFG) else ((), row)
    registry = read(config, both(flannel, leased(lease("10.5.30.0/24", PITA), on=5)))
    assert registry.hosts == (Registered("pita", (), Status("pita", mac(PITA), None, PITA)),)
    alone = read(config, flannel)
    assert alone.hosts == (Registered("pita", (), Status("pita", mac(PITA))),)


def test_the_latest_of_two_statuses_holds() -> None:
    made = {
        "_host_status/pita": '{"primary_ip":"192.168.4.1","timestamp":5}',
        "subnets/_host_status/pita": '{"primary_ip":"192.168.4.99","timestamp":6}',
    }
    (host,) = read(rows(CFG, dict(made))).hosts
    assert host.status is not None
    assert host.status.address == PITA


@pytest.mark.parametrize("on", [0, MINE, THEIRS])
@pytest.mark.parametrize("registered", [True, False])
def test_entries_say_themselves_that_they_are(on: int, registered: bool) -> None:
    """Whoever still runs, whatever they hang on, older than the lease or younger, and with a MAC of before a reboot."""
    status = rows(CFG, {"_host_status/babka": status_value(Status("babka", None, BABKA, BABKA))}, MINE)
    stale = replace(lease("10.5.42.0/24"), data=Vtep(1, mac(PITA)))
    flannel = both(
        rows(FLANNEL, {"config": CONFIG, "weft/daemons/192.168.4.88": "{}", "subnets/a/b": "x"}),
        leased(lease("10.5.50.0/24"), on=THEIRS),
        added(lease("10.5.40.0/24"), stale, on=on),
        leased(lease("10.5.41.0/24", PITA)),
    )
    registry = read(status if registered else (), flannel)
    assert registry.leases == (lease("10.5.41.0/24", PITA), lease("10.5.50.0/24"))
    assert registry.entries == (lease("10.5.40.0/24"), stale)
    assert registry.config == parse_config(CONFIG)
    assert registry.problems == ()


def test_a_status_is_placed_by_a_lease_not_by_an_entry() -> None:
    text = f'{{"last_seen":9,"boot_time":1,"vtep_mac":"{mac(PITA).hex(":")}"}}'
    config, stale = rows(CFG, {"_host_status/pita": text}), replace(lease("10.5.20.0/24"), data=Vtep(1, mac(PITA)))
    flannel = both(added(stale), leased(lease("10.5.30.0/24", PITA), on=5))
    assert read(config, flannel).hosts == (Registered("pita", (), Status("pita", mac(PITA), None, PITA)),)


def test_where_weft_flanneld_runs_is_known_by_its_marks() -> None:
    marks = rows(FLANNEL, {"weft/daemons/192.168.4.88": "{}", "weft/daemons/x": "{}", "weft/other": "{}"}, THEIRS)
    left = rows(FLANNEL, {"weft/daemons/192.168.4.99": "{}"})
    assert read((), both(marks, left)).woven == {BABKA}
    assert read((), left).woven == frozenset()


def test_what_cannot_be_read_is_a_problem_and_costs_no_other() -> None:
    config = rows(CFG, {"_host_status/a": "x", "_weft/b": '{"vni":-1}', "c/n": "10.9.0.0/16"})
    flannel = rows(
        FLANNEL,
        {
            "config": "{",
            "subnets/10.5.1.0-24": "x",
            "subnets/nonsense": '{"PublicIP":"1.2.3.4"}',
            "subnets/other": '{"PublicIP":"127.0.0.1"}',
            "subnets/_host_status/d": "[]",
        },
    )
    registry = read(config, flannel)
    assert [host.host for host in registry.hosts] == ["c"]
    for what in (
        "host a is not a JSON",
        "note of host b",
        "10.5.1.0-24",
        "nonsense",
        "other",
        "host d is not a JSON",
        "config",
    ):
        assert what in messages(registry)
    assert registry.config is None
    assert len(registry.problems) == 7


def test_a_host_at_a_loopback_address_counts_for_nothing() -> None:
    config = rows(CFG, {"_host_status/a": '{"primary_ip":"127.0.0.1"}'})
    reader = Reader(P)
    registry = reader.read(config, leased(lease("10.5.1.0/24", IPv4Address("127.0.0.1"))))
    assert (registry.hosts, registry.leases, registry.problems) == ((), (), ())
    decisions = [nowhere(found) for found in (reader.registrations(), reader.leases())]
    assert [write.key for d in decisions for write in d.writes] == [
        f"{CFG}/_host_status/a",
        f"{FLANNEL}/subnets/10.5.1.0-24",
    ]
    assert all(write.value is None and write.modified == 1 for d in decisions for write in d.writes)
    assert all("127.0.0.1" in p.message and "FLANNELD_PUBLIC_IP" in p.message for d in decisions for p in d.problems)


def test_a_heartbeat_is_nothing_new_and_nothing_is_read_twice() -> None:
    reader = Reader(P)
    status = rows(CFG, {"_host_status/a": status_value(Status("a", None, BABKA, BABKA, 5))}, MINE)
    rest = rows(CFG, {"a/n": "10.9.0.0/16"}, MINE)
    flannel = rows(FLANNEL, {"config": CONFIG})
    first = reader.read(both(status, rest), flannel)
    assert reader.last_seen() == {"a": 5}
    later = rows(CFG, {"_host_status/a": status_value(Status("a", None, BABKA, BABKA, 65))}, MINE)
    config = both(later, rest)
    assert reader.read(config, flannel) is first
    assert reader.last_seen() == {"a": 65}
    assert reader.read(config, flannel) is first
    assert reader.read(config, flannel, complete=False) == replace(first, complete=False)
    assert reader.read(config, flannel, complete=True) == first
    assert reader.read(later, flannel) != first
    assert reader.read(later, ()).config is None


PARTS = st.sampled_from(
    [
        "subnets",
        "_weft",
        "_host_status",
        "babka",
        "config",
        "10.5.1.0-24",
        "a~2",
        "%41",
        "\udcff",
        "",
        "\udcff10.5.1.0-24",
    ]
)
VALUES = st.sampled_from(
    [b"{}", b"null", b"\xff", b"10.5.1.0/24", CONFIG, b'{"PublicIP":"127.0.0.1"}', b'{"PublicIP":"1.2.3.4"}']
)
ROWS = st.dictionaries(st.lists(PARTS, max_size=4).map("/".join), st.tuples(VALUES, st.integers(0, 2)), max_size=12)


@given(st.lists(st.tuples(ROWS, ROWS), min_size=1, max_size=3))
def test_whatever_stands_there_is_read(
    sets: list[tuple[dict[str, tuple[bytes, int]], dict[str, tuple[bytes, int]]]],
) -> None:
    """And it comes to the same as when it had been read at once."""
    reader = Reader(P)
    for parts in sets:
        config, flannel = (
            tuple(Line(f"{prefix}/{key}", value, on) for key, (value, on) in sorted(part.items()))
            for prefix, part in zip((CFG, FLANNEL), parts, strict=True)
        )
        registry = reader.read(config, flannel)
        assert registry == read(config, flannel)
        removed = nowhere((*reader.registrations(), *reader.leases()))
        for text in (f"{p.subject} {p.message}" for p in (*registry.problems, *removed.problems)):
            text.encode()
        for host in registry.hosts:
            host.host.encode()
        there = applied(config, registrations(own(WEB), reader.registrations(), P, MOMENT).writes)
        assert decide(own(WEB), there).writes == ()
        entries(own(WEB, backing=(ENTRY,)), reader.leases(), P, MINE)


# writing


def own(
    *networks: Network, host: str = "babka", status: Status | None = None, backing: tuple[Lease, ...] = ()
) -> Announcement:
    status = status or Status(host, mac(BABKA), BABKA, BABKA)
    return complete(Announcement(host, networks, status, Note(version="1", endpoints=(BABKA,)), backing), "m1", "i1")


WEB = network("web", "10.5.40.0/24", "10.6.0.0/24", group="front")
MOMENT = Moment(MINE, NOW)
AGAIN = Moment(MINE, NOW, seen=True)


def decide(announcement: Announcement, found: tuple[Row, ...] = (), moment: Moment = MOMENT) -> Decision:
    reader = Reader(P)
    reader.read(found, ())
    return registrations(announcement, reader.registrations(), P, moment)


def applied(found: tuple[Row, ...], writes: Sequence[Write], lease: int = MINE) -> tuple[Row, ...]:
    """What a store holds afterwards; every guard must hold."""
    there = {row.key: row for row in found}
    for write in writes:
        held = there.pop(write.key, None)
        assert (held.modified if held is not None else 0) == write.modified, write
        if write.value is not None:
            there[write.key] = Line(write.key, write.value, lease if write.lease is None else write.lease, 9)
    return tuple(there[key] for key in sorted(there))


def test_the_note_follows_from_the_networks() -> None:
    hidden = network("hidden", "10.9.0.0/16", exposed=False)
    made = own(WEB, hidden, network("new", "10.8.0.0/16", since=float("inf")))
    assert [n.name for n in made.networks] == ["web", "new"]
    assert made.note == Note("m1", "i1", "1", (BABKA,), since=(("web", 5.0),), groups=(("web", "front"),))


def test_the_first_time_all_is_written_in_one_the_note_first() -> None:
    decision = decide(own(WEB))
    assert [(w.key.removeprefix(f"{CFG}/"), w.modified) for w in decision.writes] == [
        ("_weft/babka", 0),
        ("_host_status/babka", 0),
        ("babka/web", 0),
        ("babka/web~2", 0),
    ]
    assert b'"timestamp":1800000000' in (decision.writes[1].value or b"")
    assert not decision.problems


def test_without_a_status_there_is_no_heartbeat() -> None:
    made = replace(own(WEB), status=None)
    assert not any("_host_status" in write.key for write in decide(made).writes)
    there = applied((), decide(own(WEB)).writes)
    assert [(w.key, w.value) for w in decide(made, there).writes] == [(f"{CFG}/_host_status/babka", None)]


def test_the_time_alone_is_written_when_it_is_due() -> None:
    there = applied((), decide(own(WEB)).writes)
    assert decide(own(WEB), there, Moment(MINE, NOW + 30)).writes == ()
    (beat,) = decide(own(WEB), there, Moment(MINE, NOW + 30, beat=True)).writes
    assert beat.key == f"{CFG}/_host_status/babka"
    assert b"1800000030" in (beat.value or b"")
    moved = own(WEB, status=Status("babka", mac(BABKA), BABKA, PITA))
    assert [write.key for write in decide(moved, there).writes] == [f"{CFG}/_host_status/babka"]


def test_a_key_on_another_lease_is_put_on_ours() -> None:
    there = applied((), decide(own(WEB)).writes, lease=5)
    assert {write.key for write in decide(own(WEB), there).writes} == {row.key for row in there}


def test_ours_under_another_name_go_too() -> None:
    there = applied((), decide(own(WEB)).writes)
    decision = decide(own(WEB, host="pita", status=Status("pita", mac(BABKA), BABKA, BABKA)), there)
    assert {w.key.removeprefix(f"{CFG}/") for w in decision.writes if w.value is None} == {
        "_host_status/babka",
        "_weft/babka",
        "babka/web",
        "babka/web~2",
    }


def rival(note: bytes | None, status: str = "", lease: int = THEIRS, moment: Moment = MOMENT) -> Decision:
    found: dict[str, object] = {"babka/its": "10.9.0.0/16"}
    if note is not None:
        found["_weft/babka"] = note
    if status:
        found["_host_status/babka"] = status
    return decide(own(WEB), rows(CFG, found, lease), moment)


LIVE = '{"public_ip":"192.168.4.77","timestamp":1799999900}'


@pytest.mark.parametrize(
    ("decision", "who"),
    [
        (rival(note_value(Note("m2", "i9"))), "the machine m2, and this one (machine m1)"),
        (rival(note_value(Note("m2", "i9")), LIVE), "the machine m2 at 192.168.4.77"),
        (rival(note_value(Note())), "the machine without an id"),
        (rival(b"garbage"), "somebody whose note can't be read"),
        (rival(note_value(Note("m1", "i9")), moment=AGAIN), "a second registrar on this very"),
        (rival(None, LIVE), "a registrar without weft at 192.168.4.77"),
        (rival(None, LIVE, lease=0), "a registrar without weft at 192.168.4.77"),
    ],
)  # fmt: skip
def test_nothing_of_another_live_host_of_this_name_is_touched(decision: Decision, who: str) -> None:
    assert decision.rival
    assert decision.writes == ()
    (problem,) = decision.problems
    assert "two hosts are called babka" in problem.message
    assert who in problem.message


@pytest.mark.parametrize(
    "decision",
    [
        rival(note_value(Note("m1", "i9"))),
        rival(note_value(Note("m1", "i1")), moment=AGAIN),
        rival(note_value(Note("m2", "i9")), lease=0),
        rival(b"garbage", lease=0),
        rival(b"garbage", lease=MINE),
        rival(None, LIVE, lease=MINE),
        rival(None, LIVE.replace("1799999900", "1799990000"), lease=0),
        rival(None, LIVE.replace(".77", ".88"), lease=0),
        rival(None, '{"vtep_mac":"unknown","last_seen":1799999900}', lease=0),
        rival(None, '{"public_ip":"127.0.0.1","timestamp":1799999900}', lease=0),
        rival(None, lease=0),
    ],
)
def test_what_a_dead_host_or_an_earlier_run_left_is_taken_over(decision: Decision) -> None:
    assert not decision.rival
    assert f"{CFG}/babka/its" in {write.key for write in decision.writes if write.value is None}


@pytest.mark.parametrize("host", ["", "x" * 600])
def test_a_host_name_that_no_key_can_hold(host: str) -> None:
    decision = decide(complete(Announcement(host), "m", "i"))
    assert "set HOST_NAME" in decision.problems[0].message
    assert not decision.writes


def test_a_network_whose_name_no_key_can_hold_costs_no_other() -> None:
    decision = decide(own(network("x" * 600, "10.9.0.0/16"), WEB))
    assert "is told to nobody" in decision.problems[0].message
    assert f"{CFG}/babka/web" in {write.key for write in decision.writes}
    assert not decision.rival


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0"])
def test_an_address_that_leads_every_host_to_itself_is_not_announced(ip: str) -> None:
    decision = decide(own(WEB, status=Status("babka", None, None, IPv4Address(ip))))
    assert "set FLANNELD_PUBLIC_IP" in decision.problems[0].message
    assert ip in decision.problems[0].message
    assert not decision.writes


NAMES = st.sampled_from(["web", "db-1.x", "a~2", "_x", "a/b", "%", "lower", "UPPER"])
SUBNETS = st.integers(0, 200).map(lambda n: IPv4Network(f"10.{n}.0.0/16"))
ANNOUNCED = st.dictionaries(NAMES, st.lists(SUBNETS, min_size=1, max_size=3, unique=True), max_size=5).map(
    lambda made: own(*(Network(name, tuple(subnets), since=1.0) for name, subnets in made.items()))
)
OTHERS = st.dictionaries(
    st.sampled_from(
        [
            "_exists", "_weft/pita", "_host_status/pita", "pita/web", "subnets/pita/web", "subnets/_host_status/pita",
            "babka/web", "babka/old", "subnets/babka/web", "subnets/babka/old", "subnets/_host_status/babka",
            "_host_status/babka",
        ]
    ),
    st.sampled_from([b"10.1.0.0/16", b"10.2.0.1/16", b"garbage", b"{}", b'{"machine":"m9"}']),
    max_size=10,
)  # fmt: skip


@given(OTHERS, st.lists(ANNOUNCED, min_size=1, max_size=4))
def test_deciding_again_decides_nothing_and_no_other_host_is_touched(
    others: dict[str, object], told: list[Announcement]
) -> None:
    there = rows(CFG, dict(others))
    theirs = {row for row in there if "babka" not in row.key}
    for announcement in told:
        decision = decide(announcement, there)
        there = applied(there, decision.writes)
        assert decide(announcement, there).writes == ()
        assert theirs <= set(there)
        (me,) = (host for host in read(there).hosts if host.host == "babka")
        wanted = {n.name: n.subnets for n in announcement.networks}
        assert {n.name: n.subnets for n in me.networks} == wanted
        assert all(n.since == 1.0 for n in me.networks)


# below flannel's prefix


def below(announcement: Announcement, found: tuple[Row, ...], lease: int = MINE) -> Decision:
    reader = Reader(P)
    reader.read((), found)
    return entries(announcement, reader.leases(), P, lease)


ENTRY = lease("10.5.40.0/24")
VALUE = entry_value(ENTRY, "babka")
KEY = f"{FLANNEL}/subnets/10.5.40.0-24"


def test_an_entry_is_written_once_and_kept_right() -> None:
    there = leased(lease("10.5.20.0/24"), on=THEIRS)
    made = own(WEB, backing=(ENTRY,))
    assert below(made, there) == Decision((Write(KEY, VALUE),))
    there = applied(there, below(made, there).writes)
    assert below(made, there) == Decision()
    wrong = both(leased(lease("10.5.20.0/24"), on=THEIRS), rows(FLANNEL, {"subnets/10.5.40.0-24": "x"}, MINE))
    assert below(made, wrong).writes == (Write(KEY, VALUE, 1),)
    stale = replace(ENTRY, data=Vtep(1, mac(PITA)))
    assert below(made, added(stale, on=MINE)).writes == (Write(KEY, VALUE, 1),)


def test_an_entry_that_goes_takes_its_vtep_along_so_that_is_said_again() -> None:
    mine, theirs = lease("10.5.20.0/24"), lease("10.5.30.0/24", PITA)
    there = both(leased(mine, lease("10.5.21.0/24"), theirs, on=THEIRS), added(ENTRY, lease("10.5.41.0/24"), on=MINE))
    decision = below(own(WEB), there)
    again = Write(f"{FLANNEL}/subnets/10.5.20.0-24", lease_value(mine), 1, THEIRS)
    assert decision.writes == (Write(KEY, None, 1), again)
    there = applied(there, decision.writes)
    second = below(own(WEB), there)
    assert second.writes == (Write(f"{FLANNEL}/subnets/10.5.41.0-24", None, 1), replace(again, modified=9))
    assert below(own(WEB), applied(there, second.writes)) == Decision()
    gw = both(
        leased(lease("10.5.20.0/24", backend="host-gw"), on=THEIRS),
        added(lease("10.5.40.0/24", backend="host-gw"), lease("10.5.41.0/24", backend="host-gw"), on=MINE),
    )
    assert [write.key for write in below(own(WEB), gw).writes] == [KEY, f"{FLANNEL}/subnets/10.5.41.0-24"]
    bad = rows(FLANNEL, {"subnets/10.5.40.0-24": "x"}, MINE)
    assert below(own(WEB), bad).writes == (Write(KEY, None, 1),)


def test_with_a_stale_mac_nothing_of_the_lease_is_forgotten_so_nothing_is_said_again() -> None:
    stale = replace(ENTRY, data=Vtep(1, mac(PITA)))
    there = both(leased(lease("10.5.20.0/24"), on=THEIRS), added(stale, on=MINE))
    assert below(own(WEB), there).writes == (Write(KEY, None, 1),)


@pytest.mark.parametrize("on", [0, 5, MINE])
def test_of_two_networks_one_goes_and_one_stays(on: int) -> None:
    both_there = added(ENTRY, lease("10.5.41.0/24"), on=on)
    stays = own(WEB, backing=(ENTRY,))
    writes = below(stays, both_there).writes
    assert [(w.key, w.value) for w in writes if w.value is None] == [(f"{FLANNEL}/subnets/10.5.41.0-24", None)]
    assert [w.key for w in writes if w.value is not None] == ([] if on == MINE else [KEY])


def test_an_earlier_run_with_another_address_or_another_name() -> None:
    other = lease("10.5.41.0/24", PITA)
    assert below(own(WEB), added(other, on=5)).writes == (Write(f"{FLANNEL}/subnets/10.5.41.0-24", None, 1),)
    renamed = added(lease("10.5.41.0/24"), on=5, by="old")
    made = own(WEB, backing=(ENTRY,))
    assert [w.key for w in below(made, renamed).writes] == [KEY, f"{FLANNEL}/subnets/10.5.41.0-24"]
    assert below(made, added(other, on=5, by="pita")).writes == (Write(KEY, VALUE),)


def test_the_lease_that_entries_stand_beside() -> None:
    made = own(WEB, backing=(ENTRY,))

    def found(*parts: tuple[Row, ...], of: Announcement = made) -> str:
        reader = Reader(P)
        reader.read((), both(*parts))
        row = beside(of, reader.leases())
        return row.key.rpartition("/")[2] if row is not None else ""

    late = rows(FLANNEL, {"subnets/10.5.50.0-24": lease_value(lease("10.5.50.0/24"))}, THEIRS)
    late = tuple(replace(row, created=9) for row in late if isinstance(row, Line))
    assert found(late, added(lease("10.5.41.0/24"))) == "10.5.50.0-24", "it may be younger than an entry"
    assert found(late, leased(lease("10.5.60.0/24"), on=THEIRS)) == "10.5.60.0-24"
    assert found(late, leased(lease("10.5.60.0/24"))) == "10.5.50.0-24", "the old program's stay for ever"
    assert found(leased(lease("10.5.60.0/24"))) == "10.5.60.0-24", "a reservation"
    assert found(leased(ENTRY), leased(lease("10.5.30.0/24", PITA), on=3)) == ""
    assert found(late, of=own(WEB)) == ""


@pytest.mark.parametrize("on", [0, THEIRS])
def test_an_entry_of_anothers_is_a_conflict_that_names_both(on: int) -> None:
    made = own(WEB, backing=(ENTRY,))
    decision = below(made, leased(lease("10.5.40.0/24", PITA), on=on))
    assert decision.writes == ()
    assert "192.168.4.88" in decision.problems[0].message
    assert "192.168.4.99" in decision.problems[0].message
    unreadable = below(made, rows(FLANNEL, {"subnets/10.5.40.0-24": "x"}, on))
    assert "somebody whose value can't be read" in unreadable.problems[0].message
    assert unreadable.writes == ()
    named = below(made, added(lease("10.5.40.0/24", PITA), on=on, by="pita"))
    assert named.writes == ()
    assert "if host pita has none such any more" in named.problems[0].message
    loop = below(made, leased(lease("10.5.40.0/24", IPv4Address("127.0.0.1")), on=on))
    assert loop == Decision(), "that is about to be removed"


@pytest.mark.parametrize("there", [leased(ENTRY), added(ENTRY), added(ENTRY, on=5), added(ENTRY, on=5, by="old")])
def test_what_an_older_program_or_run_left_for_this_host_is_taken_over(there: tuple[Row, ...]) -> None:
    assert below(own(WEB, backing=(ENTRY,)), there).writes == (Write(KEY, VALUE, 1),)


def test_what_flanneld_here_took_for_its_lease_is_not_detached() -> None:
    decision = below(own(WEB, backing=(ENTRY,)), leased(ENTRY, on=5))
    assert decision.writes == ()
    assert "is what flannel leased to this host (192.168.4.88)" in decision.problems[0].message


def flannel(*leases: Lease, text: bytes = CONFIG, added: tuple[Lease, ...] = ()) -> Registry:
    config = parse_config(text) if text else None
    return Registry(leases=leases, entries=added, config=config, woven=frozenset({BABKA}))


OWN = lease("10.5.20.0/24")
VTEP = Vtep(1, mac(BABKA))


def test_a_docker_subnet_inside_flannels_network_gets_an_entry() -> None:
    networks = (WEB, network("v6", "fd00::/64"), network("hidden", "10.5.60.0/24", exposed=False))
    assert backend_entries(networks, flannel(OWN), OWN, BABKA, VTEP) == ((ENTRY,), ())
    assert backend_entries((network("bip", "10.5.20.0/24"),), flannel(OWN), OWN, BABKA, VTEP) == ((), ())
    assert backend_entries((WEB,), flannel(OWN, ENTRY), OWN, BABKA, VTEP) == ((ENTRY,), ())
    assert backend_entries((WEB,), flannel(OWN, text=b""), OWN, BABKA, VTEP) == ((), ())
    assert backend_entries((WEB,), flannel(OWN), OWN, IPv6Address("fd00::1"), VTEP) == ((), ())


def test_with_host_gw_there_is_no_vtep_to_tell() -> None:
    text = CONFIG.replace(b"vxlan", b"host-gw")
    made, problems = backend_entries((WEB,), flannel(OWN, text=text), OWN, BABKA, None)
    assert made == (lease("10.5.40.0/24", backend="host-gw"),)
    assert problems == ()


SIX = b'{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00:5::/48", "Backend": {"Type": "vxlan"}}'


@pytest.mark.parametrize(
    ("registry", "mine", "vtep", "why"),
    [
        (flannel(text=CONFIG.replace(b"vxlan", b"wireguard")), OWN, None, "wireguard has one subnet per host"),
        (flannel(), None, VTEP, "holds no flannel lease"),
        (flannel(), Lease(None, IPv6Network("fc00:5:0:1::/64"), BABKA), VTEP, "holds no flannel lease"),
        (flannel(OWN), OWN, None, "its MAC is not known"),
        (replace(flannel(OWN), woven=frozenset({PITA})), OWN, VTEP, "lay its route over the network's bridge"),
    ],
)  # fmt: skip
def test_where_there_can_be_no_entry_at_all(
    registry: Registry, mine: Lease | None, vtep: Vtep | None, why: str
) -> None:
    made, (problem,) = backend_entries((WEB,), registry, mine, BABKA, vtep)
    assert made == ()
    assert why in problem.message
    assert "web (10.5.40.0/24)" in problem.message
    assert not problem.wrong


def test_flannel_for_ipv6_alone_has_no_room_for_docker_networks() -> None:
    assert backend_entries((WEB,), flannel(text=SIX), OWN, BABKA, VTEP) == ((), ())


@pytest.mark.parametrize(
    ("subnet", "registry", "why", "wrong"),
    [
        ("10.5.10.0/24", flannel(OWN), "sorts before this host's lease", False),
        ("10.5.100.0/24", flannel(OWN), "sorts before this host's lease", False),
        ("10.5.40.0/24", flannel(OWN, lease("10.5.40.0/24", PITA)), "of 192.168.4.99; this host is 192.168.4.88", True),
        ("10.5.40.0/24", flannel(OWN, added=(lease("10.5.32.0/20", PITA),)), "10.5.32.0/20 of 192.168.4.99", True),
        ("10.5.40.0/24", flannel(OWN, lease("10.5.32.0/20")), "overlaps 10.5.32.0/20, which is this host's too", False),
    ],
)  # fmt: skip
def test_entries_that_may_not_be_written(subnet: str, registry: Registry, why: str, wrong: bool) -> None:
    six = Lease(None, IPv6Network("fc00:5::/64"), BABKA)
    registry = replace(registry, leases=(six, *registry.leases))
    made, (problem,) = backend_entries((network("net", subnet),), registry, OWN, BABKA, VTEP)
    assert made == ()
    assert why in problem.message
    assert problem.wrong is wrong


def test_two_of_this_hosts_own_networks_do_not_overlap_each_other() -> None:
    made, (problem,) = backend_entries(
        (network("a", "10.5.40.0/24"), network("b", "10.5.40.128/25")), flannel(OWN), OWN, BABKA, VTEP
    )
    assert made == (ENTRY,)
    assert "10.5.40.0/24" in problem.message


@given(st.lists(st.integers(0, 255).map(lambda n: f"10.5.{n}.0/24"), unique=True, max_size=6), st.integers(0, 255))
def test_no_entry_ever_sorts_before_the_own_lease_or_leaves_flannels_network(subnets: list[str], mine: int) -> None:
    held = lease(f"10.5.{mine}.0/24")
    networks = [network(f"n{n}", subnet, "192.168.7.0/24") for n, subnet in enumerate(subnets)]
    made, _ = backend_entries(networks, flannel(held), held, BABKA, VTEP)
    inside: list[IPNetwork] = [IPv4Network("10.5.0.0/16")]
    for one in made:
        assert one.subnet is not None
        assert lease_key(one) > lease_key(held)
        assert one.subnet.subnet_of(inside[0])  # type: ignore[arg-type]
        assert one.public_ip == BABKA


def test_rows_are_found_by_their_keys() -> None:
    reader = Reader(P)
    reader.read(rows(CFG, {key_text(NoteKey("a")): "{}", "x": "y"}), ())
    assert [found for _, found in reader.registrations()] == [Found(NoteKey("a"), note=Note()), Found()]
