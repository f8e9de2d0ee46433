"""A BFD session by itself: the rules of RFC 5880 §6, one by one, packets made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.core.bfd import SLOW, Session
from weft.wire.bfd import Auth, AuthKind, Diagnostic, Packet, State, decode, encode, genuine, reseal

KEY = b"a key"
INTERVAL = 200_000
FROM = Packet(State.DOWN, mine=7, yours=0, desired_tx=SLOW, required_rx=INTERVAL)
DOWN, INIT, UP = (
    replace(FROM, yours=1),
    replace(FROM, yours=1, state=State.INIT),
    replace(FROM, yours=1, state=State.UP),
)
GOODBYE = replace(FROM, state=State.ADMIN_DOWN, yours=1, diagnostic=Diagnostic.ADMINISTRATIVELY_DOWN)


def session(state: State = State.DOWN, multiplier: int = 3) -> Session:
    made = Session(1, INTERVAL, multiplier=multiplier)
    if state in (State.INIT, State.UP):
        assert made.hear(encode(FROM), 0.0) == ""
    if state == State.UP:
        assert made.hear(encode(INIT), 0.0) == ""
    assert made.state == state
    return made


def said(end: Session, now: float = 0.0) -> Packet:
    return decode(end.compose(now))


@pytest.mark.parametrize(
    ("state", "heard", "then", "diagnostic"),
    [
        (State.DOWN, FROM, State.INIT, Diagnostic.NONE),
        (State.DOWN, INIT, State.UP, Diagnostic.NONE),
        (State.DOWN, UP, State.DOWN, Diagnostic.NONE),
        (State.DOWN, GOODBYE, State.DOWN, Diagnostic.NONE),
        (State.INIT, DOWN, State.INIT, Diagnostic.NONE),
        (State.INIT, INIT, State.UP, Diagnostic.NONE),
        (State.INIT, UP, State.UP, Diagnostic.NONE),
        (State.INIT, GOODBYE, State.DOWN, Diagnostic.NEIGHBOUR_DOWN),
        (State.UP, DOWN, State.DOWN, Diagnostic.NEIGHBOUR_DOWN),
        (State.UP, INIT, State.UP, Diagnostic.NONE),
        (State.UP, UP, State.UP, Diagnostic.NONE),
        (State.UP, GOODBYE, State.DOWN, Diagnostic.NEIGHBOUR_DOWN),
    ],
)
def test_the_state_machine(state: State, heard: Packet, then: State, diagnostic: Diagnostic) -> None:
    end = session(state)
    assert end.hear(encode(heard), 1.0) == ""
    assert (end.state, end.diagnostic) == (then, diagnostic)


def test_before_anything_is_heard_it_sends_each_second_and_names_nobody() -> None:
    end = session()
    assert end.due_at < 0
    packet = said(end, 5.0)
    assert (packet.state, packet.mine, packet.yours, packet.poll) == (State.DOWN, 1, 0, False)
    assert (packet.desired_tx, packet.required_rx, packet.multiplier) == (SLOW, INTERVAL, 3)
    assert end.due_at == 6.0
    assert end.detection == 0


def test_a_change_of_state_is_said_at_once() -> None:
    end = session()
    end.compose(5.0)
    end.hear(encode(FROM), 5.1)
    assert end.due_at < 0
    assert said(end, 5.1).state == State.INIT
    assert end.due_at == pytest.approx(6.1)


def test_up_it_sends_fast_and_polls_until_it_is_answered() -> None:
    end = session(State.UP)
    assert end.polling
    packet = said(end, 1.0)
    assert (packet.desired_tx, packet.poll) == (INTERVAL, True)
    assert end.due_at == pytest.approx(1.2)
    end.hear(encode(replace(UP, final=True)), 1.1)
    assert not end.polling
    assert end.answered == 24
    assert not said(end, 1.2).poll


def test_the_slower_of_what_one_wants_to_send_and_the_other_to_hear_holds() -> None:
    end = session(State.UP)
    end.hear(encode(replace(UP, required_rx=700_000, desired_tx=400_000, multiplier=5)), 2.0)
    assert end.interval == pytest.approx(0.7)
    assert end.detection == pytest.approx(5 * 0.4)
    assert end.deadline == pytest.approx(4.0)
    end.hear(encode(replace(UP, desired_tx=50_000)), 2.0)
    assert end.interval == pytest.approx(0.2)
    assert end.detection == pytest.approx(3 * 0.2)


def test_it_sends_nothing_periodic_to_one_who_wants_to_hear_nothing() -> None:
    end = session(State.UP)
    end.compose(1.0)
    end.hear(encode(replace(UP, required_rx=0)), 1.0)
    assert end.due_at == float("inf")
    end.hear(encode(replace(UP, required_rx=1)), 1.0)
    assert end.due_at == pytest.approx(1.2)


def test_it_sends_nothing_periodic_on_demand_unless_it_polls() -> None:
    end = session(State.UP)
    end.compose(1.0)
    end.hear(encode(replace(UP, demand=True)), 1.0)
    assert end.due_at == pytest.approx(1.2)
    end.hear(encode(replace(UP, demand=True, final=True)), 1.0)
    assert end.due_at == float("inf")


def test_a_multiplier_of_one_leaves_a_tenth_of_the_interval() -> None:
    end = session(multiplier=1)
    end.compose(0.0)
    assert end.due_at == pytest.approx(0.9)


def test_silence_ends_it_and_the_other_end_is_forgotten() -> None:
    end = session(State.UP)
    end.hear(encode(replace(UP, desired_tx=INTERVAL)), 1.0)
    end.expire(1.59)
    assert end.state == State.UP
    end.expire(1.6)
    assert (end.state, end.diagnostic, end.remote) == (State.DOWN, Diagnostic.TIME_EXPIRED, 0)
    assert (said(end).desired_tx, said(end).yours) == (SLOW, 0)
    end.expire(99.0)
    assert end.deadline == float("inf")


def test_silence_while_down_only_makes_it_forget() -> None:
    end = session()
    end.hear(encode(GOODBYE), 0.0)
    assert end.remote == 7
    end.expire(10.0)
    assert (end.state, end.remote, end.diagnostic) == (State.DOWN, 0, Diagnostic.NONE)


def test_the_same_packet_again_is_told_apart_from_news() -> None:
    end = session(State.UP)
    end.hear(encode(UP), 1.0)
    assert end.repeated(encode(UP), 2.0)
    assert (end.heard_at, end.deadline) == (2.0, 5.0)
    assert not end.repeated(encode(DOWN), 2.0)
    assert not end.repeated(encode(UP) + b"\0", 2.0)


def test_what_is_meant_for_the_session_before_a_restart_is_not_heeded() -> None:
    end = session()
    assert end.hear(encode(replace(UP, yours=2)), 1.0) == "stranger"
    assert end.heard == 0


@pytest.mark.parametrize("news", [replace(UP, poll=True), replace(UP, final=True)])
def test_a_poll_or_an_answer_is_news_each_time(news: Packet) -> None:
    end = session(State.UP)
    end.hear(encode(news), 1.0)
    assert not end.repeated(encode(news), 1.0)


def test_a_poll_is_answered_as_long_as_it_was() -> None:
    end = session(State.UP)
    end.hear(encode(replace(UP, poll=True)) + bytes(76), 1.0)
    assert end.answer == 100
    answer = end.compose_answer()
    assert len(answer) == 100
    assert decode(answer).final
    assert not decode(answer).poll
    assert end.answer == 0


def test_a_padded_poll_is_as_long_as_asked_for() -> None:
    end = session(State.UP)
    poll = end.compose_padded(1422)
    assert len(poll) == 1422
    assert decode(poll).poll


# New intervals (§6.8.3). --------------------------------------------------------------------------------------------


def settled() -> Session:
    """Up, and nothing to poll for."""
    end = session(State.UP)
    end.hear(encode(replace(UP, desired_tx=INTERVAL, final=True)), 1.0)
    end.compose(1.0)
    assert not end.polling
    return end


def test_to_go_slower_waits_for_the_answer() -> None:
    end = settled()
    end.retime(500_000)
    assert end.polling
    assert end.interval == pytest.approx(0.2)
    assert end.detection == pytest.approx(1.5)
    packet = said(end, 1.2)
    assert (packet.desired_tx, packet.required_rx, packet.poll) == (500_000, 500_000, True)
    end.hear(encode(replace(UP, desired_tx=INTERVAL, required_rx=INTERVAL, final=True)), 1.3)
    assert end.interval == pytest.approx(0.5)
    assert end.due_at == pytest.approx(1.7)


def test_to_go_faster_the_detection_waits_for_the_answer() -> None:
    end = settled()
    end.hear(encode(replace(UP, desired_tx=50_000, required_rx=50_000)), 1.0)
    end.retime(100_000)
    assert end.interval == pytest.approx(0.1)
    assert end.detection == pytest.approx(0.6)
    end.hear(encode(replace(UP, desired_tx=50_000, required_rx=50_000, final=True)), 1.0)
    assert end.detection == pytest.approx(0.3)


def test_while_down_new_intervals_hold_at_once() -> None:
    end = session()
    end.retime(5_000_000)
    assert end.interval == pytest.approx(5.0)
    assert said(end).required_rx == 5_000_000
    end.retime(5_000_000)
    assert not end.polling


def test_a_session_of_long_intervals_does_not_speed_up_to_come_up() -> None:
    end = Session(1, 5_000_000)
    assert said(end).desired_tx == 5_000_000


# Taken out of service. ----------------------------------------------------------------------------------------------


def test_closed_it_says_so_and_heeds_nothing() -> None:
    end = session(State.UP)
    end.close()
    packet = said(end)
    assert (packet.state, packet.diagnostic, packet.poll) == (
        State.ADMIN_DOWN,
        Diagnostic.ADMINISTRATIVELY_DOWN,
        False,
    )
    assert end.hear(encode(UP), 1.0) == "closed"
    assert end.hear(b"rubbish", 1.0) == "malformed"
    end.expire(99.0)
    assert end.state == State.ADMIN_DOWN


# Authentication (§6.7.4). -------------------------------------------------------------------------------------------


def sealed(packet: Packet, sequence: int, key: bytes = KEY, key_id: int = 1) -> bytes:
    return encode(replace(packet, auth=Auth(AuthKind.METICULOUS_SHA1, key_id, sequence)), key)


def trusting(at: int = 100) -> Session:
    """Up, with the other end's number `at`."""
    end = Session(1, INTERVAL, KEY, sequence=2**32 - 1)
    assert end.hear(sealed(FROM, (at - 1) % 2**32), 0.0) == ""
    assert end.hear(sealed(INIT, at), 0.0) == ""
    assert end.state == State.UP
    return end


def test_each_packet_of_ours_has_the_next_number() -> None:
    end = trusting()
    numbers = [decode(end.compose(0.0)).auth for _ in range(3)]
    assert [auth.sequence if auth else None for auth in numbers] == [2**32 - 1, 0, 1]


@pytest.mark.parametrize(
    "datagram",
    [
        encode(UP),
        sealed(UP, 101, b"another"),
        sealed(UP, 101, key_id=2),
        encode(replace(UP, auth=Auth(AuthKind.SHA1, 1, 101)), KEY),
        encode(replace(UP, auth=Auth(AuthKind.PASSWORD, 1)), KEY),
    ],
)
def test_what_is_not_sealed_with_our_key_is_not_heeded(datagram: bytes) -> None:
    end = trusting()
    assert end.hear(datagram, 1.0) == "authentication"
    assert end.heard == 2


def test_a_seal_where_we_have_no_key_is_not_heeded() -> None:
    assert session().hear(sealed(FROM, 1), 0.0) == "authentication"


@pytest.mark.parametrize(
    ("number", "refusal"), [(100, "sequence"), (101, ""), (109, ""), (110, "sequence"), (3, "sequence")]
)
def test_a_number_is_heeded_if_it_is_one_of_the_next(number: int, refusal: str) -> None:
    assert trusting().hear(sealed(UP, number), 0.1) == refusal


def test_a_sealed_packet_that_says_the_same_with_the_next_number_is_no_news() -> None:
    end = trusting()
    assert end.hear(sealed(UP, 101), 0.1) == ""
    assert end.repeated(sealed(UP, 102), 0.2)
    assert end.heard_at == 0.2
    for other in (
        sealed(UP, 102),
        sealed(UP, 112),
        sealed(UP, 103, b"another"),
        sealed(DOWN, 103),
        sealed(UP, 103) + b"\0",
        sealed(UP, 103)[:40],
        encode(UP),
    ):
        assert not end.repeated(other, 0.3)
    assert not end.repeated(sealed(UP, 103), 0.2 + 2 * end.detection)
    assert end.heard_at == 0.2
    assert end.repeated(sealed(UP, 103), 0.4)


def test_what_is_sealed_again_is_what_would_be_sealed_anew() -> None:
    end = trusting()
    assert end.compose(0.0)[24:] != end.compose(0.1)[24:]
    packet = decode(end.compose(0.2))
    assert genuine(encode(packet, KEY), packet, KEY)
    assert encode(packet, KEY) == reseal(encode(packet, KEY), 1, KEY)


def test_numbers_wrap() -> None:
    end = trusting(2**32 - 1)
    assert end.hear(sealed(UP, 2), 0.1) == ""
    assert end.hear(sealed(UP, 2**32 - 1), 0.1) == "sequence"


def test_after_twice_the_detection_time_any_number_is_heeded_again() -> None:
    end = trusting()
    patience = 2 * end.detection
    assert end.hear(sealed(UP, 7), patience - 0.01) == "sequence"
    assert end.hear(sealed(UP, 7), patience) == ""


def test_a_restart_of_the_other_end_is_known_by_its_discriminator() -> None:
    end = settled()
    assert not end.restarted
    end.hear(encode(replace(FROM, mine=8)), 1.1)
    assert (end.restarted, end.state) == (True, State.DOWN)
    end.hear(encode(replace(INIT, mine=8)), 1.2)
    assert not end.restarted


def test_a_restart_is_known_even_while_its_numbers_are_not_believed() -> None:
    end = trusting()
    assert end.hear(sealed(replace(FROM, mine=8), 5_000), 0.1) == "sequence"
    assert end.restarted
    assert end.state == State.UP
    end.hear(sealed(UP, 101), 0.2)
    assert not end.restarted
    end.hear(sealed(replace(FROM, mine=8), 5_000), 0.3)
    assert end.restarted
    assert end.repeated(sealed(UP, 102), 0.4)
    assert not end.restarted
