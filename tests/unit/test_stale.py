"""Which entries of flannel's device contradict the leases, and what of it may be corrected."""

from __future__ import annotations

from ipaddress import ip_address

from weft.core import commands
from weft.core.stale import Wanted, corrections, reason
from weft.model import parse_mac
from weft.objects import ZERO_MAC, Fdb, Neighbour

B, C, OLD = (parse_mac(f"02:00:00:00:00:{end}") for end in ("0b", "0c", "99"))
HOST_B, HOST_C, ELSEWHERE = map(ip_address, ("192.0.2.2", "192.0.2.3", "198.51.100.1"))
GATE_B, GATE_C = map(ip_address, ("10.5.2.0", "10.5.3.0"))
WANTED = Wanted("flannel.1", {B: HOST_B, C: HOST_C}, {GATE_B: B, GATE_C: C})
RIGHT = (
    Fdb("flannel.1", B, HOST_B),
    Fdb("flannel.1", C, HOST_C),
    Neighbour("flannel.1", GATE_B, B),
    Neighbour("flannel.1", GATE_C, C),
)


def lines(wanted: Wanted, *found: Fdb | Neighbour) -> list[str]:
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
    wanted = Wanted(WANTED.device, WANTED.fdb, WANTED.neighbours, frozenset({HOST_B}))
    assert lines(wanted) == [
        "ip neigh add 10.5.2.0 lladdr 02:00:00:00:00:0b dev flannel.1 nud permanent",
        "bridge fdb add 02:00:00:00:00:0b dev flannel.1 dst 192.0.2.2 self permanent",
    ]
