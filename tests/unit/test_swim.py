"""One member, message by message: the rules that a whole cluster (`test_swim_world.py`) hardly ever comes to."""

from __future__ import annotations

from random import Random

from tests.support.gossip_net import address
from weft.core import swim_sync
from weft.core.swim import Swim
from weft.core.swim_probing import _RELAYED
from weft.core.swim_rumours import Rumours, transmissions
from weft.core.swim_suspicion import LocalHealth, Suspicion
from weft.core.swim_values import (
    LAN,
    MAX_HEALTH,
    Ack,
    Address,
    Indirect,
    Message,
    Nack,
    Ping,
    Rumour,
    Shape,
    State,
    Update,
    check_of,
    digest_of,
)
from weft.wire.gossip import update_size


def member(number: int = 1, **shape: object) -> Swim:
    swim = Swim(Shape(f"m{number}", LAN, update_size, **shape), address(number), 10, Random(number))  # type: ignore[arg-type]
    swim.announce(b"p%d" % number, 0.0)
    swim.start(0.0)
    return swim


def alive(number: int, incarnation: int = 10, at: Address | None = None, payload: bytes | None = b"p") -> Update:
    digest = digest_of(payload or b"p")
    return Update(State.ALIVE, f"m{number}", incarnation, "", at or address(number), digest, payload)


def group(size: int, **shape: object) -> Swim:
    swim = member(1, **shape)
    for number in range(2, size + 1):
        swim.apply(alive(number), address(number), 0.0)
    swim.outbox.clear()
    return swim


def sent(swim: Swim, kind: type[Message]) -> list[Message]:
    taken = [message for _, message in swim.outbox if isinstance(message, kind)]
    swim.outbox.clear()
    return taken


def test_who_has_left_hears_nothing_more() -> None:
    swim = group(3)
    swim.leave()
    left = sent(swim, Rumour)
    assert len(left) == 2
    assert swim.receive(Ping(1, swim.check, 0), address(2), 1.0)
    assert swim.outbox == []


def test_a_ping_that_means_somebody_else_is_not_answered() -> None:
    swim = group(2)
    swim.receive(Ping(1, check_of("who was here before"), 0), address(2), 1.0)
    assert sent(swim, Ack) == []
    swim.receive(Ping(2, swim.check, 0), address(2), 1.0)
    assert sent(swim, Ack) != []


def test_somebody_new_introduces_itself_only_from_where_it_is() -> None:
    swim = group(2)
    assert not swim.receive(Rumour((alive(5), alive(6))), address(7), 1.0)
    assert swim.receive(Rumour((alive(5), alive(6))), address(6), 1.0)
    assert sorted(swim.table.members) == ["m2", "m5", "m6"]


def test_who_is_alive_and_nowhere_is_nobody() -> None:
    swim = group(2)
    swim.apply(Update(State.ALIVE, "m9", 1), address(2), 1.0)
    assert "m9" not in swim.table.members


def test_news_of_nobody_known_are_no_news() -> None:
    swim = group(2)
    swim.apply(Update(State.DEAD, "m9", 1, "m2"), address(2), 1.0)
    swim.apply(Update(State.SUSPECT, "m9", 1, "m2"), address(2), 1.0)
    assert "m9" not in swim.table.members


def test_what_is_outdated_is_corrected() -> None:
    swim = group(3)
    swim.apply(alive(2, 20), address(2), 1.0)
    swim.outbox.clear()
    swim.apply(Update(State.LEFT, "m2", 12), address(3), 1.0)
    assert swim.outbox == []
    swim.apply(Update(State.SUSPECT, "m2", 12, "m3"), address(3), 1.0)
    (to, message), *_ = swim.outbox
    assert to == address(3)
    assert message.updates[0].incarnation == 20
    assert swim.table.members["m2"].state is State.ALIVE


def test_a_payload_comes_after_the_news_of_it() -> None:
    swim = group(2)
    swim.apply(alive(3, payload=None), address(2), 1.0)
    assert swim.fetches == [("m3", address(2))]
    assert swim.table.members["m3"].missing
    swim.apply(alive(3, payload=b"another"), address(2), 1.0)
    assert swim.table.members["m3"].missing, "not what it said that it has"
    version = swim.version
    swim.apply(alive(3), address(2), 1.0)
    assert swim.table.members["m3"].payload == b"p"
    assert swim.version > version
    swim.supply("m3", b"late", 1.0)
    swim.supply("nobody", b"late", 1.0)
    assert swim.table.members["m3"].payload == b"p"


def test_a_payload_is_asked_for_again_until_it_is_there_or_its_member_gone() -> None:
    swim = group(2)
    swim.apply(alive(3, payload=None), address(2), 0.0)
    swim.apply(alive(4, payload=None), address(2), 0.5)
    swim.fetches.clear()
    swim.due(1.0)
    assert swim.fetches == [("m3", address(3))]
    swim.due(1.5)
    assert swim.fetches[1:] == [("m4", address(4))]
    for number in (3, 4):
        swim.apply(Update(State.DEAD, f"m{number}", 10, "m2"), address(2), 2.0)
    swim.fetches.clear()
    for tenth in range(20, 100):
        swim.due(tenth / 10)
    assert swim.fetches == []


def test_the_memory_for_payloads_is_bounded() -> None:
    swim = group(3, octets=4)
    swim.apply(alive(4, payload=b"too much"), address(2), 1.0)
    assert swim.table.members["m4"].missing
    assert swim.tally.full == 1
    assert swim.octets == 2


def test_somebody_who_moved_is_followed_once_the_old_place_is_doubted() -> None:
    swim = group(3)
    moved = alive(2, 20, at=address(9))
    swim.apply(moved, address(9), 1.0)
    assert swim.table.members["m2"].address == address(2)
    assert swim.tally.twins == {"m2": (address(2), address(9))}
    swim.apply(alive(3, 20, at=address(2)), address(2), 1.0)
    swim.apply(Update(State.SUSPECT, "m2", 10, "m3"), address(3), 1.0)
    swim.apply(moved, address(9), 1.0)
    assert swim.table.members["m2"].address == address(9)


def test_two_at_one_address_the_living_one_is_meant() -> None:
    swim = group(2)
    swim.apply(alive(3, at=address(2)), address(2), 1.0)
    swim.apply(Update(State.DEAD, "m2", 10, "m3"), address(2), 1.0)
    assert swim.table.at[address(2)].id == "m3"
    swim.apply(alive(4, at=address(2)), address(2), 1.0)
    swim.apply(Update(State.DEAD, "m4", 10, "m3"), address(2), 1.0)
    swim.apply(alive(3, 20, at=address(2)), address(2), 1.0)
    swim.table.forget(swim.table.members["m4"])
    assert swim.table.at[address(2)].id == "m3"
    swim.apply(alive(2, 30, at=address(7)), address(7), 1.0)
    assert swim.table.at[address(2)].id == "m3"
    assert swim.table.at[address(7)].id == "m2"


def test_what_was_said_of_us_by_ourselves_elsewhere_is_a_twin_unless_we_were_there() -> None:
    swim = group(2)
    swim.moved(address(8), 1.0)
    swim.apply(alive(1, 10, at=address(1)), address(2), 1.0)
    assert swim.tally.twins == {}
    swim.apply(alive(1, 10, at=address(7)), address(2), 1.0)
    assert swim.tally.twins == {"m1": (address(7), address(8))}


def test_a_probe_for_another_one_is_made_and_its_answer_passed_on() -> None:
    swim = group(3)
    swim.receive(Indirect(77, address(3), check_of("m3")), address(2), 1.0)
    (ping,) = sent(swim, Ping)
    assert isinstance(ping, Ping)
    swim.receive(Ack(ping.seq), address(3), 1.05)
    assert sent(swim, Ack) == [Ack(77)]
    swim.receive(Indirect(78, address(3), check_of("m3")), address(2), 1.1)
    swim.outbox.clear()
    swim.due(1.3)
    assert Nack(78) in [message for _, message in swim.outbox]


def test_probes_for_others_are_bounded_and_only_of_members() -> None:
    swim = group(3)
    for ask in (Indirect(1, address(66), 0), Indirect(1, address(3), check_of("m2"))):
        swim.receive(ask, address(2), 1.0)
    assert sent(swim, Ping) == []
    for number in range(_RELAYED + 10):
        swim.receive(Indirect(number, address(3), check_of("m3")), address(2), 1.0)
    assert len(sent(swim, Ping)) == _RELAYED


def test_answers_to_nothing_change_nothing() -> None:
    swim = group(2)
    before = swim.next_event
    swim.receive(Ack(4711), address(2), 0.1)
    swim.receive(Nack(4711), address(2), 0.1)
    assert swim.next_event == before
    assert swim.health.score == 0


def test_a_probe_of_who_went_meanwhile_accuses_nobody() -> None:
    swim = group(2)
    swim.due(0.6)
    assert len(sent(swim, Ping)) == 1
    swim.apply(Update(State.LEFT, "m2", 10), address(2), 0.7)
    swim.due(0.9)
    swim.due(1.2)
    assert swim.tally.suspicions == 0


def test_alone_there_is_nobody_to_tell() -> None:
    swim = member()
    for tenth in range(30):
        swim.due(tenth / 10)
    assert swim.outbox == []
    assert swim.table.in_turn() is None
    assert swim.table.successor() is None


def test_all_are_suspected_and_the_ring_is_empty() -> None:
    swim = group(3)
    for number in (2, 3):
        swim.apply(Update(State.SUSPECT, f"m{number}", 10, "m4"), address(2), 1.0)
    assert swim.table.successor() is None
    assert swim.table.in_turn() is not None


def test_each_is_the_successor_of_one_and_those_who_are_suspected_are_passed_over() -> None:
    members = [member(number) for number in range(1, 6)]
    for swim in members:
        for other in members:
            swim.apply(other.me(), other.address, 0.0)
    successors = {swim.shape.id: swim.table.successor() for swim in members}
    assert sorted(found.id for found in successors.values() if found) == ["m1", "m2", "m3", "m4", "m5"]
    first = successors["m1"]
    assert first is not None
    members[0].accuse(first, 1.0)
    second = members[0].table.successor()
    after = successors[first.id]
    assert second is not None
    assert after is not None
    assert second.id == after.id


def test_time_in_which_this_program_did_not_run_is_no_time_to_answer() -> None:
    swim = group(5)
    for by in (3, 4, 5):
        swim.apply(Update(State.SUSPECT, "m2", 10, f"m{by}"), address(by), 1.0)
    swim.due(1.2)
    for tenth in range(400, 440):
        swim.receive(Rumour(()), address(3), tenth / 10)
        swim.due(tenth / 10)
        assert swim.table.members["m2"].live or tenth > 415, "the answer may still be in the socket, and on its way"
    assert not swim.table.members["m2"].live


def test_tables_that_differ_for_long_are_compared_but_not_all_the_time() -> None:
    swim = group(2)
    wanted = []
    for second in range(3, 400):
        swim.receive(Ping(second, swim.check, 1234), address(2), float(second))
        wanted += swim.wanted
        swim.wanted.clear()
    assert wanted[0] == address(2)
    assert 3 <= len(wanted) <= 8


def test_a_table_passes_the_budget_and_the_rest_is_fetched() -> None:
    swim = member()
    for number in range(2, 14):
        swim.apply(alive(number, payload=bytes((number,)) * 256_000), address(number), 0.0)
    told, _ = swim_sync.answer(swim, (), address(99), 1.0)
    assert 0 < sum(update.payload is None for update in told) < len(told)


def test_a_death_that_a_table_tells_is_put_to_the_accused() -> None:
    swim = group(3)
    swim_sync.merge(swim, [Update(State.DEAD, "m3", 10, "m9", address(3)), alive(7)], address(2), 1.0)
    assert swim.table.members["m3"].state is State.ALIVE
    assert swim.outbox[0][0] == address(3)
    assert "m7" in swim.table.members
    swim_sync.merge(swim, [Update(State.SUSPECT, "m8", 10, "m9", address(8))], address(2), 1.0)
    assert "m8" not in swim.table.members


def test_payloads_that_a_table_brings_late_are_taken() -> None:
    swim = group(2)
    swim.apply(alive(3, payload=None), address(2), 1.0)
    swim_sync.merge(swim, [alive(3)], address(2), 1.0)
    assert not swim.table.members["m3"].missing
    assert swim_sync.payloads(swim, ["m1", "m3", "nobody"]) == [swim.me(True), alive(3)]
    swim_sync.take_payloads(swim, [alive(4, payload=None)], 1.0)


def test_a_suspicion_shrinks_with_each_who_confirms_it_down_to_the_least() -> None:
    suspicion = Suspicion.begin(0.0, LAN, 50, "a")
    ends = [suspicion.until]
    for by in ("b", "b", "c", "d"):
        suspicion.confirm(by)
        ends.append(suspicion.until)
    assert ends[0] == LAN.most(50)
    assert ends[1] == ends[2] < ends[0]
    assert ends[3] == ends[4] == LAN.least(50)
    assert Suspicion.begin(0.0, LAN, 2, "a").until == LAN.least(2)


def test_health_has_bounds() -> None:
    health = LocalHealth()
    health.change(-5)
    assert health.factor == 1
    health.change(+99)
    assert health.factor == MAX_HEALTH + 1


def test_news_are_told_so_often_and_the_freshest_first() -> None:
    rumours = Rumours(lambda _: 10)
    old, new = alive(2), alive(3)
    rumours.add(old)
    assert rumours.fresh
    assert rumours.take(100, 3) == (old,)
    assert not rumours.fresh
    rumours.add(new)
    assert rumours.take(10, 3) == (new,)
    assert rumours.take(100, 3) == (old, new)
    assert rumours.take(5, 3) == ()
    assert rumours.take(100, 3) == (new, old) or rumours.take(100, 3) == ()
    assert len(rumours) == 0
    assert transmissions(50) < transmissions(1000)
