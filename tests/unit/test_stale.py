"""Which entries of flannel's device contradict the leases, and what of it may be corrected."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from weft.core import commands
from weft.core.stale import Entry, Wanted, corrections, reason, relayed
from weft.model import parse_mac
from weft.objects import ZERO_MAC, Fdb, Neighbour, Route

B, C, OLD = (parse_mac(f"02:00:00:00:00:{end}") for end in ("0b", "0c", "99"))
HOST_B, HOST_C, ELSEWHERE = map(ip_address, ("192.0.2.2", "192.0.2.3", "198.51.100.1"))
GATE_B, GATE_C = map(ip_address, ("10.5.2.0", "10.5.3.0"))
NET_B, NET_C = map(ip_network, ("10.5.2.0/24", "10.5.3.0/24"))
WANTED = Wanted("flannel.1", {B: HOST_B, C: HOST_C}, {GATE_B: B, GATE_C: C}, {NET_B: GATE_B, NET_C: GATE_C})
RIGHT = (
    Fdb("flannel.1", B, HOST_B),
    Fdb("flannel.1", C, HOST_C),
    Neighbour("flannel.1", GATE_B, B),
    Neighbour("flannel.1", GATE_C, C),
    Route(NET_B, "flannel.1", via=GATE_B, onlink=True, protocol=3),
)


def lines(wanted: Wanted, *found: Entry) -> list[str]:
    return commands.script(corrections(wanted, found))


def test_what_is_right_and_what_nobody_speaks_of_is_left_alone() -> None:
    foreign = (
        Fdb("flannel.1", OLD, ELSEWHERE),
        Fdb("flannel.1", ZERO_MAC, HOST_B),
        Neighbour("flannel.1", ip_address("10.66.0.1"), OLD),
        Fdb("other", B, ELSEWHERE),
        Neighbour("other", GATE_B, OLD),
    )
    assert lines(WANTED, *RIGHT, *foreign) == []
    assert lines(WANTED) == [], "flannel may well do without an entry, for whoever answers"


def test_whose_lease_is_routed_through_another_host() -> None:
    leases = {GATE_B: NET_B, GATE_C: NET_C}

    def by(dst: str, via: str, device: str = "flannel.1") -> Route:
        return Route(ip_network(dst), device, via=ip_address(via), onlink=True)

    assert relayed("flannel.1", leases, RIGHT) == {}
    assert relayed("flannel.1", leases, (*RIGHT, by("10.5.2.0/25", "10.5.3.0"))) == {GATE_B: GATE_C}
    for other in (
        by("10.5.2.0/32", "10.5.2.0"),
        by("10.5.2.0/24", "10.5.3.0"),
        by("10.5.2.0/25", "10.5.9.0"),
        by("10.5.9.0/25", "10.5.3.0"),
        by("10.5.2.0/25", "10.5.3.0", "eth0"),
        by("fd00::/65", "fd00::1"),
    ):
        assert relayed("flannel.1", leases, (*RIGHT, other)) == {}


def test_a_destination_that_is_not_the_leases_is_corrected() -> None:
    """The guide's first problem: "VTEPs pointing to wrong destination"."""
    ops = corrections(WANTED, (Fdb("flannel.1", B, ELSEWHERE), *RIGHT[1:]))
    assert [reason(op) for op in ops] == [
        "frames for 02:00:00:00:00:0b go to 198.51.100.1, its lease is at 192.0.2.2: bridge fdb replace"
        " 02:00:00:00:00:0b dev flannel.1 dst 192.0.2.2 self permanent"
    ]


def test_the_former_mac_of_a_host_that_was_rebooted_goes() -> None:
    ops = corrections(WANTED, (*RIGHT, Fdb("flannel.1", OLD, HOST_B), Neighbour("flannel.1", GATE_B, OLD)))
    assert [reason(op) for op in ops] == [
        "10.5.2.0 is taken for 02:00:00:00:00:99, its lease says 02:00:00:00:00:0b: ip neigh replace 10.5.2.0 lladdr"
        " 02:00:00:00:00:0b dev flannel.1 nud permanent",
        "02:00:00:00:00:99 is at 192.0.2.2 no more, whose lease says 02:00:00:00:00:0b: bridge fdb del"
        " 02:00:00:00:00:99 dev flannel.1 dst 192.0.2.2 self",
    ]


def test_what_is_missing_is_made_for_those_who_do_not_answer() -> None:
    wanted = replace(WANTED, lost=frozenset({HOST_B}))
    assert lines(wanted) == [
        "ip neigh add 10.5.2.0 lladdr 02:00:00:00:00:0b dev flannel.1 nud permanent",
        "bridge fdb add 02:00:00:00:00:0b dev flannel.1 dst 192.0.2.2 self permanent",
        "ip route add 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 76",
    ]
    assert lines(wanted, *RIGHT) == []
    (op,) = corrections(Wanted("flannel.1", routes={NET_B: GATE_B}, lost=frozenset({GATE_B})), ())
    assert op.why.rule == "no route leads to 10.5.2.0/24, the lease of 10.5.2.0"
