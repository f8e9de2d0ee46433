"""Which subnet is this host's: every case of the decision, on values."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core import tenancy
from weft.core.tenancy import Action, Book, Candidate, Full, Held, Keep, Lost, Mine, Sorted, Take, Write, decide
from weft.model import Mac
from weft.wire.flannel import Config, Lease, Pool4, Pool6, Vtep

POOL = Pool4(IPv4Network("10.5.0.0/16"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
POOL6 = Pool6(IPv6Network("fc00:5::/48"), 64, IPv6Address("fc00:5:0:1::"), IPv6Address("fc00:5:0:ffff::"))
CONFIG = Config(POOL, None)
DUAL = Config(POOL, POOL6)
ME = Candidate(IPv4Address("192.0.2.1"), None, "vxlan", Vtep(1, Mac(bytes.fromhex("820000000001"))))
OTHER = "192.0.2.2"


REGISTRARS = 99
"""The etcd lease of a registrar on this host."""


def held(
    subnet: str, ip: str = OTHER, subnet6: str = "", hangs_on: int = 7, at: int = 5, readable: bool = True
) -> Held:
    """A lease as this host would write it if `ip` is this host's."""
    candidate = replace(ME, public_ip=IPv4Address(ip))
    lease = candidate.lease(IPv4Network(subnet), IPv6Network(subnet6) if subnet6 else None)
    name = subnet.replace("/", "-") + (f"&{subnet6.replace('/', '-')}" if subnet6 else "")
    return Held(f"/p/subnets/{name}", lease, at, at, hangs_on)


def book(*entries: Held) -> Book:
    return Book(9, tuple(sorted(entries, key=lambda h: h.key)))


def mine(subnet: str, fresh: bool = False, subnet6: str = "") -> Mine:
    return Mine(held(subnet, "192.0.2.1", subnet6).lease, fresh)


def acquire(*entries: Held, me: Candidate = ME, config: Config = CONFIG, random: float = 0.0) -> Action:
    return decide(book(*entries), config, me, None, random)


def taken(action: Action) -> str:
    assert isinstance(action, Take), action
    return tenancy.name(action.lease)


class TestAtTheStart:
    def test_what_a_registrar_wrote_is_not_adopted_whatever_else_there_is(self) -> None:
        """The real key was deleted by hand; subnet.env still names it."""
        entry = replace(held("10.5.40.0/24", "192.0.2.1", hangs_on=REGISTRARS), added=True)
        me = replace(ME, previous=IPv4Network("10.5.7.0/24"))
        action = acquire(entry, me=me)
        assert taken(action) == "10.5.7.0/24"
        assert isinstance(action, Take)
        assert action.instead == ()
        own = held("10.5.50.0/24", "192.0.2.1", at=9)
        assert acquire(entry, own) == Keep(own), "younger than the entry"
        assert tenancy.remarks(book(entry, own), CONFIG, ME, own.lease) == ()

    def test_the_lease_that_names_this_host_is_kept(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        assert acquire(held("10.5.1.0/24"), own) == Keep(own)

    def test_it_is_written_anew_if_it_says_something_else(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        moved = replace(ME, data=Vtep(1, Mac(b"\x82\x00\x00\x00\x00\x09")))
        assert acquire(own, me=moved) == Write(own, moved.lease(own.lease.subnet, None))

    def test_a_bare_reservation_is_filled_in(self) -> None:
        bare = Held("k", Lease(IPv4Network("10.5.7.0/24"), None, ME.public_ip), 5, 5, 0)
        assert acquire(bare) == Write(bare, ME.lease(bare.lease.subnet, None))

    def test_a_lease_that_does_not_fit_goes_in_the_same_transaction(self) -> None:
        own = held("10.5.7.0/25", "192.0.2.1")
        action = acquire(own, held("10.5.1.0/24"))
        assert isinstance(action, Take)
        assert (taken(action), action.instead) == ("10.5.2.0/24", (own,))

    def test_a_reservation_that_does_not_fit_is_left_alone(self) -> None:
        own = held("10.9.7.0/24", "192.0.2.1", hangs_on=0)
        assert acquire(own) == Take(ME.lease(IPv4Network("10.5.1.0/24"), None))

    def test_what_of_it_fits_stays_when_the_config_becomes_dual_stack(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        action = acquire(own, config=DUAL)
        assert taken(action) == "10.5.7.0/24 & fc00:5:0:1::/64"
        assert isinstance(action, Take)
        assert action.instead == (own,)

    def test_what_of_it_fits_stays_when_the_config_becomes_ipv4_only(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1", "fc00:5:0:7::/64")
        assert taken(acquire(own)) == "10.5.7.0/24"

    def test_of_several_the_one_of_the_file_then_a_reservation_then_the_first(self) -> None:
        three = [
            held("10.5.3.0/24", "192.0.2.1"),
            held("10.5.4.0/24", "192.0.2.1", hangs_on=0),
            held("10.5.5.0/24", "192.0.2.1"),
        ]
        assert acquire(*three, me=replace(ME, previous=IPv4Network("10.5.5.0/24"))) == Keep(three[2])
        assert acquire(*three) == Keep(three[1])
        assert acquire(three[0], three[2]) == Keep(three[0])

    def test_the_subnet_of_the_file_if_it_is_free(self) -> None:
        me = replace(ME, previous=IPv4Network("10.5.42.0/24"))
        assert taken(acquire(me=me)) == "10.5.42.0/24"
        assert taken(acquire(held("10.5.42.0/24"), me=me)) == "10.5.1.0/24"
        assert taken(acquire(held("10.5.42.0/25"), me=me)) == "10.5.1.0/24"

    def test_the_subnet_of_the_file_if_the_config_has_it(self) -> None:
        for subnet in ("10.5.42.0/25", "10.5.0.0/24", "10.9.42.0/24"):
            assert taken(acquire(me=replace(ME, previous=IPv4Network(subnet)))) == "10.5.1.0/24"

    def test_both_families_of_the_file(self) -> None:
        me = replace(ME, previous=IPv4Network("10.5.42.0/24"), previous6=IPv6Network("fc00:5:0:42::/64"))
        assert taken(acquire(me=me, config=DUAL)) == "10.5.42.0/24 & fc00:5:0:42::/64"

    def test_an_unreadable_value_holds_its_subnet(self) -> None:
        broken = Held("k", Lease(IPv4Network("10.5.1.0/24")), 5, 5, 7, readable=False)
        assert taken(acquire(broken)) == "10.5.2.0/24"

    def test_the_dice_decide_among_the_first_hundred(self) -> None:
        assert taken(acquire(random=0.999)) == "10.5.100.0/24"

    def test_no_subnet_is_free(self) -> None:
        small = Config(Pool4(IPv4Network("10.5.0.0/22"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.2.0")), None)
        action = acquire(held("10.5.1.0/24"), held("10.5.2.0/24", "192.0.2.3"), config=small)
        assert isinstance(action, Full)
        assert action.why.startswith("out of subnets: ")
        narrow = replace(POOL6, last=POOL6.first)
        action = acquire(held("10.5.1.0/24", OTHER, "fc00:5:0:1::/64"), config=Config(POOL, narrow))
        assert isinstance(action, Full)

    def test_an_ipv6_host_is_known_by_its_ipv6_address(self) -> None:
        me = Candidate(None, IPv6Address("fd00:99::1"), "vxlan", None, ME.data)
        config = Config(None, POOL6)
        assert taken(acquire(me=me, config=config)) == "fc00:5:0:1::/64"
        own = Held("k", me.lease(None, IPv6Network("fc00:5:0:7::/64")), 5, 5, 7)
        assert acquire(own, me=me, config=config) == Keep(own)


class TestBesideARegistrar:
    """It keeps entries for this host's Docker networks, which say of the host what its lease says."""

    own = held("10.5.7.0/24", "192.0.2.1", at=5)
    added = held("10.5.3.0/24", "192.0.2.1", hangs_on=REGISTRARS, at=6)
    misfit = held("10.5.40.0/26", "192.0.2.1", hangs_on=REGISTRARS, at=7)

    def test_its_entries_are_never_adopted_in_place_of_the_lease(self) -> None:
        assert acquire(self.added, self.own, self.misfit) == Keep(self.own)
        me = replace(ME, previous=IPv4Network("10.5.7.0/24"))
        assert acquire(replace(self.added, created=1), self.own, me=me) == Keep(self.own)

    def test_a_lease_that_does_not_fit_goes_without_them(self) -> None:
        outgrown = held("10.5.7.0/25", "192.0.2.1", at=5)
        action = acquire(outgrown, self.misfit)
        assert isinstance(action, Take)
        assert (taken(action), action.instead) == ("10.5.1.0/24", (outgrown,))

    def test_a_lease_that_was_deleted_comes_back_beside_them(self) -> None:
        action = decide(book(self.added), CONFIG, ME, mine("10.5.7.0/24"), 0.0)
        assert action == Take(mine("10.5.7.0/24").lease)

    def test_they_are_not_worth_a_word(self) -> None:
        lease = self.own.lease
        assert tenancy.remarks(book(self.own, self.added, self.misfit), CONFIG, ME, lease) == ()
        stranger = replace(self.added, lease=replace(self.added.lease, data=Vtep(1, Mac(b"\x82\0\0\0\0\x09"))))
        nameless = Held("k", Lease(IPv4Network("10.5.4.0/24"), None, ME.public_ip), 6, 6, REGISTRARS)
        for other in (stranger, nameless, replace(self.added, hangs_on=0), replace(self.added, hangs_on=7)):
            (problem,) = tenancy.remarks(book(self.own, other), CONFIG, ME, lease)
            assert "this host's public address 192.0.2.1 too" in problem.message
        (problem,) = tenancy.remarks(book(self.added), CONFIG, ME, lease)
        assert "10.5.3.0/24 is leased to this host's public address" in problem.message

    def test_they_are_nobody_elses_and_nobody_follows_them_to_this_host(self) -> None:
        assert Sorted().after(book(self.own, self.added), ME, self.own.lease).others == ()


class TestWhileItRuns:
    def decide(self, *entries: Held, me: Candidate = ME, has: Mine | None = None) -> Action:
        return decide(book(*entries), CONFIG, me, has or mine("10.5.7.0/24"), 0.0)

    def test_all_is_well(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        assert self.decide(own, held("10.5.8.0/24")) == Keep(own)

    def test_the_key_was_deleted(self) -> None:
        assert self.decide(held("10.5.8.0/24")) == Take(mine("10.5.7.0/24").lease)

    def test_the_key_was_deleted_and_another_lease_names_this_host(self) -> None:
        """It stays where its containers are."""
        assert taken(self.decide(held("10.5.1.0/24", "192.0.2.1"))) == "10.5.7.0/24"

    def test_the_key_was_overwritten(self) -> None:
        rival = held("10.5.7.0/24")
        assert self.decide(rival) == Lost((rival,))

    def test_the_key_was_overwritten_with_nonsense(self) -> None:
        broken = replace(held("10.5.7.0/24"), readable=False)
        assert self.decide(broken) == Lost((broken,))

    def test_the_key_was_deleted_and_others_sit_on_parts_of_it(self) -> None:
        rivals = (held("10.5.7.0/25"), held("10.5.7.128/25", "192.0.2.3"))
        assert self.decide(*rivals) == Lost(rivals)

    def test_the_public_address_changed(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        me = replace(ME, public_ip=IPv4Address("192.0.2.77"))
        assert self.decide(own, me=me) == Write(own, me.lease(own.lease.subnet, None))

    def test_the_public_address_changed_to_one_that_has_a_lease_already(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        me = replace(ME, public_ip=IPv4Address(OTHER))
        assert self.decide(own, held("10.5.8.0/24"), me=me) == Write(own, me.lease(own.lease.subnet, None))

    def test_somebody_comes_to_overlap_later(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1", at=5)
        assert self.decide(own, held("10.5.0.0/20", at=8)) == Keep(own)

    def test_a_config_that_changed_moves_nobody(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        other = Config(replace(POOL, length=25), None)
        assert decide(book(own), other, ME, mine("10.5.7.0/24"), 0.0) == Keep(own)


class TestJustCreated:
    def test_an_older_lease_on_a_part_of_it_comes_first(self) -> None:
        """With two families, or two lengths, two keys may overlap: the guard on one key does not see that."""
        own = held("10.5.7.0/24", "192.0.2.1", "fc00:5:0:7::/64", at=6)
        rival = held("10.5.7.0/24", OTHER, "fc00:5:0:9::/64", at=5)
        action = decide(book(own, rival), DUAL, ME, mine("10.5.7.0/24", True, "fc00:5:0:7::/64"), 0.0)
        assert isinstance(action, Take)
        assert (taken(action), action.instead) == ("10.5.1.0/24 & fc00:5:0:7::/64", (own,))

    def test_a_younger_one_does_not(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1", at=5)
        assert decide(book(own, held("10.5.7.0/25", at=6)), CONFIG, ME, mine("10.5.7.0/24", True), 0.0) == Keep(own)

    def test_gone_or_taken_again_before_anybody_knew(self) -> None:
        for entries in ([], [held("10.5.7.0/24")]):
            action = decide(book(*entries), CONFIG, ME, mine("10.5.7.0/24", True), 0.0)
            assert taken(action) == "10.5.1.0/24"


class TestWhatIsSaid:
    def said(self, *entries: Held, me: Candidate = ME) -> list[str]:
        return [p.message for p in tenancy.remarks(book(*entries), CONFIG, me, mine("10.5.7.0/24").lease)]

    def test_nothing(self) -> None:
        assert self.said(held("10.5.7.0/24", "192.0.2.1"), held("10.5.8.0/24")) == []

    def test_a_conflict_names_both_owners_and_what_to_do(self) -> None:
        (text,) = self.said(held("10.5.7.0/24"))
        assert text.startswith("the subnet 10.5.7.0/24 of this host (192.0.2.1) is held by 192.0.2.2 (10.5.7.0/24) now")
        assert "`weft leases release '10.5.7.0/24'`" in text
        (text,) = self.said(Held("k", Lease(IPv4Network("10.5.7.0/24")), 5, 5, 7, readable=False))
        assert "is held by somebody whose value can't be read (10.5.7.0/24) now" in text

    def test_a_second_lease_of_this_host(self) -> None:
        own = held("10.5.7.0/24", "192.0.2.1")
        (text,) = self.said(own, held("10.5.8.0/24", "192.0.2.1"))
        assert text == (
            "10.5.8.0/24 is leased to this host's public address 192.0.2.1 too and nobody routes to it; this host has"
            " 10.5.7.0/24. If no other host has that address: weft leases release '10.5.8.0/24'"
        )
        (text,) = self.said(own, held("10.9.8.0/24", "192.0.2.1", hangs_on=0))
        assert "is reserved for this host's public address 192.0.2.1 too, does not fit the config," in text
        assert "weft leases unreserve '10.9.8.0/24'" in text

    def test_another_subnet_than_subnet_env_had(self) -> None:
        me = replace(ME, previous=IPv4Network("10.5.3.0/24"))
        (problem,) = tenancy.remarks(book(), CONFIG, me, mine("10.5.7.0/24").lease)
        assert not problem.wrong
        assert problem.message.startswith("subnet.env named 10.5.3.0/24")


def test_the_others_are_those_that_can_be_followed() -> None:
    rows = [
        held("10.5.7.0/24", "192.0.2.1"),
        held("10.5.8.0/24"),
        held("10.5.7.128/25", "192.0.2.3"),
        held("10.5.9.0/24", "192.0.2.1"),
        replace(held("10.5.10.0/24"), readable=False),
    ]
    assert Sorted().after(book(*rows), ME, rows[0].lease).others == (rows[1].lease,)


def test_a_forgetful_store_is_believed_where_it_contradicts() -> None:
    a, b, c = held("10.5.1.0/24", "192.0.2.2"), held("10.5.2.0/24", "192.0.2.3"), held("10.5.3.0/24", "192.0.2.4")
    own = mine("10.5.7.0/24").lease
    moved = held("10.5.9.0/24", "192.0.2.2").lease
    rival = held("10.5.2.0/24", "192.0.2.5").lease
    former = (a.lease, b.lease, c.lease, held("10.5.7.0/24", "192.0.2.6").lease)
    assert tenancy.remembering((moved, rival), former, own) == (moved, rival, c.lease)


@pytest.mark.parametrize("seed", [0.0, 0.25, 0.5, 0.999])
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(20, 30), st.integers(1, 5), st.booleans()), max_size=12))
def test_whatever_is_in_the_store_what_is_taken_overlaps_with_nobody(
    seed: float, rows: list[tuple[int, int, int, bool]]
) -> None:
    entries = {}
    for octet, length, host, leased in rows:
        subnet = IPv4Network(f"10.5.{octet}.0/{length}", strict=False)
        one = held(str(subnet), f"192.0.2.{host}", hangs_on=7 * leased)
        entries[one.key] = one
    action = acquire(*entries.values(), random=seed)
    if isinstance(action, Take):
        assert action.lease.subnet is not None
        assert tenancy.fits(CONFIG, action.lease.subnet, None)
        assert all(h.hangs_on and h.address == ME.public_ip for h in action.instead)
        staying = [h for h in entries.values() if h not in action.instead]
        assert not any(h.lease.subnet and h.lease.subnet.overlaps(action.lease.subnet) for h in staying)
    elif isinstance(action, Keep | Write):
        assert action.held.address == ME.public_ip
    else:
        assert isinstance(action, Full)


rows = st.builds(
    held,
    st.sampled_from(["10.5.1.0/24", "10.5.1.128/25", "10.5.2.0/24", "10.5.3.0/24"]),
    st.sampled_from(["192.0.2.1", OTHER, "192.0.2.3"]),
    hangs_on=st.sampled_from([0, 7, REGISTRARS]),
    at=st.integers(1, 9),
)
books = st.lists(rows, max_size=4, unique_by=lambda h: h.key).map(lambda found: book(*found))


@given(st.lists(st.tuples(books, st.sampled_from(["10.5.1.0/24", "10.5.2.0/24"])), max_size=5))
def test_what_is_near_is_all_that_a_decision_needs_and_memory_changes_nothing(steps: list[tuple[Book, str]]) -> None:
    remembered = Sorted()
    for now, subnet in steps:
        lease = mine(subnet).lease
        remembered = remembered.after(now, ME, lease)
        assert remembered == Sorted().after(now, ME, lease)
        for fresh in (False, True):
            found = decide(now, CONFIG, ME, Mine(lease, fresh), 0.5, remembered.near)
            assert found == decide(now, CONFIG, ME, Mine(lease, fresh), 0.5)
        assert tenancy.remarks(remembered.near, CONFIG, ME, lease) == tenancy.remarks(now, CONFIG, ME, lease)
