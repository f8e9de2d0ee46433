"""Discovery by gossip without sockets: who is known when, and what hostile or mistaken members can do: nothing, and it
is reported."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.support.gossip_net import EPOCH, Net, address, ids, refused, router, texts
from weft.core.swim_values import LAN, Ack, Address, Message, Ping, Rumour, State, Update, check_of, digest_of
from weft.discovery.gossip_roster import LATE
from weft.discovery.gossip_talk import PERSISTS, Talk
from weft.discovery.options import Limits
from weft.errors import WireError
from weft.model import Network
from weft.wire import gossip, table_sync
from weft.wire.gossip_payload import pack
from weft.wire.gossip_seal import Seal
from weft.wire.hello import Stamp
from weft.wire.seal import derive_key
from weft.wire.table_sync import Table

KEY = derive_key(b"key")


def sealed(*messages: Message, key: Any = KEY, salt: bytes = b"intruder") -> list[bytes]:
    seal = Seal([key] if key else [], lambda: salt)
    return [seal.seal(gossip.encode(message)) for message in messages]


def alive(number: int, at: Address | None = None, **fields: object) -> Update:
    payload = pack(router(number, f"10.{number}.0.0/16"), Stamp("x", 1, 1))
    update = Update(State.ALIVE, f"host-{number}", EPOCH, "", at or address(number), digest_of(payload), payload)
    return Update(**({name: getattr(update, name) for name in update.__struct_fields__} | fields))


def test_members_know_each_other_and_vouch_for_it_after_a_suspicion_time() -> None:
    net = Net()
    first, second, third = (net.add(number) for number in (1, 2, 3))
    net.join(second, first)
    assert second.joined
    net.run(LAN.least(2) - 0.1)
    assert ids(second) == ["host-1"]
    assert not second.known().complete
    net.run(0.3)
    assert second.known().complete
    net.join(third, first)
    net.run(5)
    for talk, others in ((first, [2, 3]), (second, [1, 3]), (third, [1, 2])):
        known = talk.known()
        assert known.complete
        assert known.problems == ()
        assert known.items == tuple(router(number, f"10.{number}.0.0/16") for number in others)


def test_a_change_is_told_once_and_what_is_the_same_is_not() -> None:
    net = Net()
    first, second = net.members(2)
    before = second.version
    first.announce(router(1, "10.1.0.0/16"), net.now)
    net.run(2)
    assert second.version == before
    first.announce(router(1, "10.77.0.0/16"), net.now)
    net.run(0.2)
    assert second.known().items == (router(1, "10.77.0.0/16"),)


def test_who_said_goodbye_is_held_for_a_moment_and_then_departed() -> None:
    net = Net()
    first, second = net.members(2, goodbye_hold=10.0)
    for to, datagram in second.farewell():
        net.deliver(address(2), to, datagram)
    del net.talks[address(2)]
    net.run(9)
    assert ids(first) == ["host-2"]
    assert first.last_seen(net.now)["host-2"] <= net.now - 8
    assert first.roster.departed() == frozenset()
    net.run(2)
    assert ids(first) == []
    assert first.roster.departed() == {"host-2"}
    assert first.known().complete
    net.join(net.add(2, epoch=EPOCH + 20_000), first)
    net.run(1)
    assert ids(first) == ["host-2"]
    assert first.roster.departed() == frozenset()


def test_last_seen_is_now_for_who_is_alive_and_stands_still_for_a_suspect() -> None:
    net = Net()
    first, *_ = net.members(4)
    assert first.last_seen(net.now) == {f"host-{n}": net.now for n in (2, 3, 4)}
    net.cut.add(address(2))
    net.run(1.9)
    assert first.last_seen(net.now)["host-2"] <= net.now - 0.2
    assert first.last_seen(net.now)["host-3"] == net.now


def test_clocks_an_hour_apart_and_one_that_went_back() -> None:
    net = Net()
    first = net.add(1)
    second = net.add(2, epoch=EPOCH + 3_600_000)
    net.join(second, first)
    net.run(4)
    assert ids(first) == ["host-2"]
    del net.talks[address(2)]
    net.run(1)
    second = net.add(2, router(2, "10.22.0.0/16"), epoch=EPOCH)
    net.join(second, first)
    net.run(5)
    assert first.known().items == (router(2, "10.22.0.0/16"),)
    assert texts(first) == texts(second) == ""


def test_who_is_cut_off_keeps_its_peers_says_so_and_does_not_vouch() -> None:
    net = Net()
    first, *_ = net.members(4)
    net.cut.add(address(1))
    net.run(30)
    assert ids(first) == ["host-2", "host-3", "host-4"]
    assert not first.known().complete
    assert "hears none of the 3 others" in texts(first)
    net.cut.clear()
    net.run(15)
    assert first.known().complete
    assert texts(first) == ""


def test_a_large_set_of_networks_is_fetched() -> None:
    net = Net()
    first, second, third = net.members(3)
    many = router(1, *(f"10.{n % 250}.{n // 250}.0/24" for n in range(0, 4000, 7)))
    first.announce(many, net.now)
    net.run(1)
    assert second.known().items[0] == third.known().items[0] == many


def test_a_node_that_nobody_would_believe_is_not_told() -> None:
    net = Net()
    first, second = net.members(2)
    first.announce(replace(router(1), mtu=40), net.now)
    net.run(1)
    assert "MTU of 40" in texts(first)
    assert second.known().items == (router(1, "10.1.0.0/16"),)
    first.announce(router(1), net.now)
    assert texts(first) == ""


def test_who_never_announces_learns_and_is_no_member() -> None:
    net = Net()
    first, _ = net.members(2)
    settings = replace(first._settings, node="dry", source=ip_address("10.9.0.9"), instance="dry")
    dry = Talk(settings, EPOCH, first.swim.chance)  # type: ignore[arg-type]
    asked = dry.ask()
    answer, more = first.asked(asked, ip_address("10.9.0.9"), net.now)
    assert not more
    assert dry.answered(asked, answer, ip_address("10.9.0.1"), net.now) is None
    assert ids(dry) == ["host-1", "host-2"]
    assert ids(first) == ["host-2"]
    assert dry.next_event > net.now


# Hostile ones. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "why", "text"),
    [
        (derive_key(b"other"), "wrong_key", "another key"),
        (None, "unsealed", "without a key"),
    ],
)
def test_who_has_not_the_key_changes_nothing_and_is_reported(key: Any, why: str, text: str) -> None:
    net = Net()
    first, second = net.members(2)
    for datagram in sealed(Rumour((alive(6), Update(State.LEFT, "host-2", EPOCH + 9))), key=key):
        net.deliver(address(66), address(1), datagram)
        net.deliver(address(2), address(1), datagram)
    net.run(2)
    assert ids(first) == ["host-2"]
    assert second.swim.tally.refuted == 0
    assert refused(first, why) == 2
    assert text in texts(first)
    net.run(100)
    assert texts(first) == ""


def test_who_has_no_key_tells_who_has_one() -> None:
    net = Net()
    first = net.add(1, keys=())
    net.deliver(address(2), address(1), sealed(Ping(1, 2, 3))[0])
    assert refused(first, "sealed") == 1
    assert "this host has no key" in texts(first)


def test_a_recorded_datagram_is_taken_once() -> None:
    net = Net()
    first, _ = net.members(2)
    recorded = [item for item in net.recorded if item[1] == address(1)]
    for moment in range(2):
        for item in recorded:
            net.deliver(*item)
        assert refused(first, "replayed") == len(recorded) * (moment + 1)
        assert ("replays" in texts(first)) == bool(moment)
        net.run(PERSISTS + 1)
    assert ids(first) == ["host-2"]


def test_old_news_bring_nobody_back_and_remove_nobody() -> None:
    """Recorded before a restart of the one who hears them: the seal can't tell, incarnations do."""
    net = Net()
    first, second = net.members(2)
    first.announce(router(1, "10.55.0.0/16"), net.now)
    net.run(1)
    old = [gossip.decode(Seal([KEY], bytes, window=False).open(item[2])) for item in net.recorded]
    told = tuple(update for message in old for update in message.updates if update.id == "host-1")
    assert told
    for datagram in sealed(Rumour(told[:3])):
        net.deliver(address(1), address(2), datagram)
    net.run(1)
    assert second.known().items == (router(1, "10.55.0.0/16"),)


def test_a_stranger_who_tells_of_members_is_refused_and_reported_if_it_goes_on() -> None:
    net = Net()
    first, _ = net.members(2)
    claims = (alive(7), Update(State.DEAD, "host-2", EPOCH + 5, "host-1"))
    for moment in range(3):
        for datagram in sealed(Rumour(claims), salt=b"%08d" % moment):
            net.deliver(address(66), address(1), datagram)
        assert ("pretends to be a member" in texts(first)) == (moment >= 2)
        net.run(2)
    assert ids(first) == ["host-2"]
    assert refused(first, "spoofed") == 3


def test_a_stranger_who_only_asks_is_answered_and_learns_nothing() -> None:
    net = Net()
    first, _ = net.members(2)
    first.receive(sealed(Ping(5, check_of("host-1"), 0))[0], address(66), net.now)
    answers = [gossip.decode(Seal([KEY], bytes, False).open(d)) for to, d in first.take_out() if to == address(66)]
    assert answers == [Ack(5)]
    first.receive(sealed(Ping(5, check_of("somebody else"), 0), salt=b"another1")[0], address(66), net.now)
    assert first.take_out() == []
    assert refused(first, "spoofed") == 0


def test_a_member_that_claims_an_endpoint_where_it_is_not_is_not_listed() -> None:
    net = Net()
    first, second = net.members(2)
    second.announce(router(2, "10.2.0.0/16", at="10.9.0.1"), net.now)
    net.run(1)
    assert ids(first) == []
    assert refused(first, "spoofed") == 1
    assert "claims to be at 10.9.0.1" in texts(first)
    second.announce(router(2, "10.2.0.0/16"), net.now)
    net.run(1)
    assert ids(first) == ["host-2"]
    assert texts(first) == ""


def test_a_member_that_tells_of_another_node_or_rubbish_or_too_much_is_not_listed() -> None:
    net = Net()
    limits = Limits(subnets=3)
    first, second = net.members(2, limits=limits)
    second.announce(replace(router(2), id="host-1"), net.now)
    net.run(1)
    assert "tells of host-1" in texts(first)
    second.swim.announce(b"rubbish", net.now)
    net.run(1)
    assert "can't be read" in texts(first)
    assert "tells of host-1" not in texts(first)
    second.announce(router(2, *(f"10.2.{n}.0/24" for n in range(4))), net.now)
    net.run(1)
    assert "announces 4 subnets, and 3 is the limit" in texts(first)
    assert ids(first) == []
    net.cut.add(address(2))
    net.run(10)
    assert texts(first) == ""


@pytest.mark.parametrize("state", [State.LEFT, State.DEAD, State.SUSPECT])
def test_what_a_member_says_of_another_that_lives_is_contradicted(state: State) -> None:
    net = Net()
    first, second, third = net.members(3)
    by = "" if state is State.LEFT else "host-3"
    claim = Update(state, "host-2", second.swim.incarnation, by)
    for to in (1, 2):
        net.deliver(address(3), address(to), sealed(Rumour((claim,)), salt=b"%08d" % to)[0])
    net.run(1)
    assert second.swim.incarnation == claim.incarnation + 1
    assert ids(first) == ["host-2", "host-3"]
    assert first.swim.table.members["host-2"].state is State.ALIVE
    assert ("said goodbye for host-2" in texts(second)) == (state is State.LEFT)
    assert third.swim.table.members["host-2"].incarnation == second.swim.incarnation


def test_two_with_one_id_are_reported_and_the_first_holds() -> None:
    net = Net()
    first, second = net.members(2)
    twin = net.add(3, replace(router(2, "10.66.0.0/16"), endpoints=(ip_address("10.9.0.3"),)), node="host-2")
    twin.swim.incarnation += 100
    net.join(twin, first)
    net.run(2)
    assert first.known().items == (router(2, "10.2.0.0/16"),)
    assert "two members use the id 'host-2'" in texts(first)
    assert "two members use the id 'host-2'" in texts(second) + texts(twin)
    del net.talks[address(2)]
    net.run(30)
    net.join(twin, first)
    net.run(2)
    assert [str(node.endpoints[0]) for node in first.known().items] == ["10.9.0.3"]


def test_who_moves_is_followed() -> None:
    net = Net()
    first, second = net.members(2)
    del net.talks[address(2)]
    second.move(ip_address("10.9.0.9"), net.now)
    second.announce(router(2, "10.2.0.0/16", at="10.9.0.9"), net.now)
    net.talks[address(9)] = second
    net.run(12)
    net.join(second, first)
    net.run(2)
    assert [str(node.endpoints[0]) for node in first.known().items] == ["10.9.0.9"]


@pytest.mark.parametrize("limits", [Limits(peers=3), Limits(octets=400)])
def test_a_full_table_takes_no_more_and_says_so(limits: Limits) -> None:
    net = Net()
    first = net.add(1, limits=limits)
    for number in range(2, 8):
        net.join(net.add(number), first)
    net.run(1)
    assert len(first.known().items) == len(ids(first)) < 6
    assert refused(first, "limit") > 0
    assert "is the limit" in texts(first)


def test_a_payload_that_nobody_has_is_waited_for_only_so_long() -> None:
    net = Net()
    first, _ = net.members(2)
    ghost = alive(5, payload=None, digest=b"nowhere!", incarnation=EPOCH + 99)
    net.add(5)
    first.swim.apply(ghost, address(2), net.now)
    net.talks[address(5)].swim.announce = lambda *_: None  # type: ignore[method-assign]
    first.due(net.now)
    assert not first.known().complete
    first._look(net.now + LATE + 1)
    assert first.known().complete


def test_a_table_from_elsewhere_is_refused() -> None:
    net = Net()
    first, second = net.members(2)
    with pytest.raises(WireError, match="claims to come from host-2"):
        first.asked(second.ask(), ip_address("10.9.0.66"), net.now)
    assert "claims to come from host-2" in texts(first)
    seal = Seal([KEY], lambda: b"intruder", window=False)
    lie = Table("host-6", address(6), "ask", 1, (alive(6, at=address(7)),))
    with pytest.raises(WireError, match="says that it is elsewhere"):
        first.asked(seal.seal(table_sync.encode(lie), b"table"), ip_address("10.9.0.6"), net.now)
    assert refused(first, "spoofed") == 2
    assert ids(first) == ["host-2"]


def test_a_table_of_another_key_or_of_rubbish_or_of_another_exchange_is_refused() -> None:
    net = Net()
    first, second = net.members(2)
    here = ip_address("10.9.0.2")
    for octets in (b"", b"rubbish", Seal([derive_key(b"x")], lambda: b"intruder").seal(b"x", b"table")):
        with pytest.raises(WireError):
            first.asked(octets, here, net.now)
    with pytest.raises(WireError):
        first.asked(Seal([KEY], lambda: b"intruder").seal(b"rubbish", b"table"), here, net.now)
    assert refused(first, "wrong_key") == 1
    assert refused(first, "malformed") == 3
    asked, again = second.ask(), second.ask()
    answer, _ = first.asked(asked, here, net.now)
    with pytest.raises(WireError):
        second.answered(again, answer, ip_address("10.9.0.1"), net.now)


def test_rubbish_with_the_right_key_is_counted() -> None:
    net = Net()
    first, _ = net.members(2)
    first.receive(Seal([KEY], lambda: b"intruder").seal(b"rubbish"), address(2), net.now)
    first.receive(b"\x07rubbish", address(2), net.now)
    assert refused(first, "malformed") == 2
    assert texts(first) == ""


def test_many_strangers_take_no_more_memory_than_is_meant() -> None:
    net = Net()
    first = net.add(1, limits=Limits(problems=8), keys=())
    body = gossip.encode(Rumour((alive(7),)))
    for number in range(50):
        first.receive(b"\x01" + body, Address(bytes((10, 8, 0, number)), 1), net.now)
    assert len(first._since) <= 8
    net.run(200)
    first.receive(b"\x01" + body, Address(bytes((10, 8, 0, 99)), 1), net.now)
    assert len(first._since) == 1
    first.receive(b"\x01" + body, Address(bytes((10, 8, 0, 99)), 1), net.now + 1000)
    assert texts(first) == ""


def test_networks_that_are_not_exposed_are_not_told() -> None:
    net = Net()
    first, second = net.members(2)
    secret = Network("secret", (ip_network("10.99.0.0/16"),), exposed=False)
    first.announce(replace(router(1, "10.1.0.0/16"), networks=(*router(1, "10.1.0.0/16").networks, secret)), net.now)
    net.run(1)
    assert second.known().items == (router(1, "10.1.0.0/16"),)
