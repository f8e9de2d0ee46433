"""What probing a path comes to: two ends in virtual time, over a path that loses, delays, is cut, and has holes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bfd_link import TICK, End, Link
from weft.core.bfd import Session
from weft.core.probing import FIRST, GOODBYE, REFUSED, Probe, Track, pace, usual
from weft.wire.bfd import Auth, AuthKind, Packet, State, decode, encode

KEYS = (b"one key", b"one key")
few = settings(max_examples=25)
"""Each example is half a minute of two ends."""
DETECTED = 0.75
"""Seconds in which a cut path of 200 ms × 3 is noticed."""


def up(link: Link) -> Link:
    """Run until both ends are settled."""
    link.run(3.0)
    assert (link.a.state, link.b.state) == ("up", "up")
    assert not link.a.session.polling
    return link


def states(end: End, since: float = 0.0) -> list[str]:
    """Those that it came to, one after the other."""
    return [state for state, _ in groupby(state for at, state, _ in end.history if at > since)]


def when(end: End, state: str, since: float) -> float:
    """Seconds after `since` at which it first was so."""
    return next(at for at, its, _ in end.history if at > since and its == state) - since


@pytest.mark.parametrize("keys", [(b"", b""), KEYS])
def test_two_ends_come_up_within_ticks(keys: tuple[bytes, bytes]) -> None:
    link = Link(keys)
    link.run(0.3)
    assert (link.a.state, link.b.state) == ("up", "up")


def test_packets_are_no_rarer_than_agreed_and_not_much_more_frequent() -> None:
    link = up(Link())
    since = link.now
    link.run(20.0)
    times = [at for at, _ in link.a.sent if at > since]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) <= 0.2 + 1e-6
    assert min(gaps) >= 0.15 - 1e-6


@pytest.mark.parametrize("keys", [(b"", b""), KEYS])
@pytest.mark.parametrize("cut", ["a", "b", "ab"])
def test_a_cut_is_noticed_at_both_ends_whichever_way_is_cut(cut: str, keys: tuple[bytes, bytes]) -> None:
    link = up(Link(keys))
    since = link.now
    for name in cut:
        link.cut[name] = True
    link.run(DETECTED + 2 * TICK)
    assert when(link.a, "down", since) <= DETECTED + TICK
    assert when(link.b, "down", since) <= DETECTED + TICK
    link.run(30.0)
    assert states(link.a, since) == states(link.b, since) == ["down"]
    reasons = {link.a.probe.verdict.reason.split(":")[0], link.b.probe.verdict.reason.split(":")[0]}
    if cut == "ab":
        assert reasons == {"nothing is heard from 192.0.2.1 over tun0", "nothing is heard from 192.0.2.2 over tun0"}
    else:
        assert "one way only" in reasons


@pytest.mark.parametrize("keys", [(b"", b""), KEYS])
def test_it_is_back_within_slow_packets_after_the_cut_is_mended(keys: tuple[bytes, bytes]) -> None:
    link = up(Link(keys))
    link.cut = {"a": True, "b": True}
    link.run(20.0)
    link.cut = {"a": False, "b": False}
    link.run(1.3)
    assert (link.a.state, link.b.state) == ("up", "up")


@pytest.mark.parametrize("keys", [(b"", b""), KEYS])
def test_a_restart_of_one_end_is_no_alarm_at_the_other(keys: tuple[bytes, bytes]) -> None:
    link = up(Link(keys))
    since = link.now
    link.restart("b")
    link.run(6.0)
    assert states(link.a, since) == []
    assert link.a.state == link.b.state == "up"


def test_a_restart_onto_a_path_that_breaks_is_an_alarm_after_all() -> None:
    link = up(Link())
    since = link.now
    link.restart("b")
    link.run(TICK)
    link.cut = {"a": True, "b": True}
    link.run(6.0)
    assert 0.6 < when(link.a, "down", since) <= 4.0


def test_a_goodbye_is_no_alarm_and_the_return_is_seen() -> None:
    link = up(Link(KEYS))
    since = link.now
    link.b.session.close()
    link.say("b", [link.b.session.compose(link.now)])
    link.b.asleep_until = float("inf")
    link.run(10.0)
    assert states(link.a, since) == ["unknown"]
    assert "goodbye" in link.a.probe.verdict.reason
    link.restart("b")
    link.run(3.0)
    assert states(link.a, since) == ["unknown", "up"]


def test_who_said_goodbye_long_ago_and_answers_nothing_is_down() -> None:
    link = up(Link())
    since = link.now
    link.b.session.close()
    link.say("b", [link.b.session.compose(link.now)])
    link.b.asleep_until = float("inf")
    link.run(GOODBYE + 1)
    assert states(link.a, since) == ["unknown", "down"]


def test_nobody_there_is_unknown_at_first_and_then_down() -> None:
    link = Link()
    link.b.asleep_until = float("inf")
    link.run(FIRST - TICK)
    assert link.a.state == "unknown"
    link.run(2 * TICK)
    assert link.a.state == "down"
    assert link.a.probe.verdict.reason == "nothing is heard from 192.0.2.2 over tun0"


def test_a_host_that_refuses_the_port_proves_the_path_and_no_more() -> None:
    """Its program has crashed: that is no broken path."""
    link = up(Link())
    since = link.now
    link.b.asleep_until = float("inf")
    link.run(2 * TICK)
    for _ in range(10):
        link.a.probe.refused(link.now)
        link.run(1.0)
    assert states(link.a, since) == ["unknown"]
    assert "refuses UDP port 4784" in link.a.probe.verdict.reason
    link.run(REFUSED)
    assert states(link.a, since) == ["unknown", "down"]


@pytest.mark.parametrize("keys", [(b"one key", b""), (b"", b"one key"), (b"one key", b"another")])
def test_without_the_same_key_it_never_comes_up_and_says_why(keys: tuple[bytes, bytes]) -> None:
    link = Link(keys)
    link.run(10.0)
    for end in (link.a, link.b):
        assert end.state == "down"
        assert end.probe.verdict.reason.startswith("authentication: what comes from ")
        assert set(end.refusals) == {"authentication"}


def test_old_packets_said_again_change_nothing() -> None:
    link = up(Link(KEYS))
    since = link.now
    for _, old in link.b.sent[:20]:
        link.say("b", [old])
        link.run(TICK)
    assert states(link.a, since) == []
    assert set(link.a.refusals) == {"sequence"}


def test_why_nothing_can_be_sent_is_the_reason_that_counts() -> None:
    link = Link()
    link.b.asleep_until = float("inf")
    link.a.probe.trouble = "there is no interface tun0 here"
    link.run(1.0)
    assert (link.a.state, link.a.probe.verdict.reason) == ("unknown", "there is no interface tun0 here")
    link.run(FIRST)
    assert (link.a.state, link.a.probe.verdict.reason) == ("down", "there is no interface tun0 here")


def test_the_other_end_can_say_down_for_a_reason_of_its_own() -> None:
    probe = Probe(Track("", ip_address("192.0.2.1"), ip_address("192.0.2.2")), Session(1, 200_000), 0.0)
    for state in (State.DOWN, State.INIT, State.DOWN):
        probe.hear(encode(Packet(state, 7, 1, 200_000, 200_000)), 4.0)
        probe.judge(4.0)
    assert probe.verdict.state == "down"
    assert probe.verdict.reason == "the other end, 192.0.2.2, says that it is down"


@few
@given(st.integers(0, 2**32), st.floats(0.0, 0.3), st.sampled_from([(b"", b""), KEYS]))
def test_loss_now_and_then_may_take_it_down_and_never_keeps_it_down(
    seed: int, loss: float, keys: tuple[bytes, bytes]
) -> None:
    link = Link(keys, seed=seed)
    link.loss = {"a": loss, "b": loss}
    link.run(30.0)
    link.loss = {"a": 0.0, "b": 0.0}
    link.run(12.0)
    assert (link.a.state, link.b.state) == ("up", "up")


@few
@given(st.integers(0, 2**32), st.sampled_from([(b"", b""), KEYS]))
def test_packets_that_overtake_each_other_are_no_alarm(seed: int, keys: tuple[bytes, bytes]) -> None:
    link = up(Link(keys, seed=seed))
    since = link.now
    link.delay = lambda: link.rng.uniform(0.0, 0.3)
    link.run(20.0)
    assert states(link.a, since) == states(link.b, since) == []


@st.composite
def mishaps(draw: st.DrawFn) -> list[tuple[str, str, float]]:
    """(what, to which end, for how many seconds)."""
    kinds = st.sampled_from(["cut", "restart", "sleep", "retime", "loss", "goodbye"])
    return draw(st.lists(st.tuples(kinds, st.sampled_from("ab"), st.floats(0.05, 8.0)), max_size=8))


@few
@given(mishaps(), st.sampled_from([(b"", b""), KEYS]), st.integers(0, 2**32))
def test_after_any_mishaps_a_whole_path_comes_up_at_both_ends(
    done: list[tuple[str, str, float]], keys: tuple[bytes, bytes], seed: int
) -> None:
    link = Link(keys, seed=seed)
    for what, name, seconds in done:
        end = link.b if name == "b" else link.a
        if what == "cut":
            link.cut[name] = True
        elif what == "restart":
            link.restart(name)
        elif what == "sleep":
            end.asleep_until = link.now + seconds
        elif what == "retime":
            end.session.retime(int(seconds * 250_000))
        elif what == "loss":
            link.loss[name] = 0.5
        else:
            end.session.close()
            link.say(name, [end.session.compose(link.now)])
            link.restart(name)
        link.run(seconds)
        link.cut[name], link.loss[name] = False, 0.0
    link.run(20.0)
    assert (link.a.state, link.b.state) == ("up", "up")
    assert not link.a.session.polling
    assert not link.b.session.polling


# Large packets. -----------------------------------------------------------------------------------------------------


def large(mtu: int = 1450, seed: int = 0) -> Link:
    link = Link(seed=seed)
    link.a.probe.size(mtu)
    link.b.probe.size(mtu)
    return link


def test_a_whole_path_lets_large_packets_through_and_is_asked_every_ten_seconds() -> None:
    link = large()
    link.run(2.0)
    assert link.a.probe.verdict.full is link.b.probe.verdict.full is True
    since = link.now
    link.run(60.0)
    polls = [datagram for at, datagram in link.a.sent if at > since and len(datagram) == 1422 and decode(datagram).poll]
    assert 5 <= len(polls) <= 7
    assert states(link.a) == ["up"]


@pytest.mark.parametrize("way", ["a", "b"])
def test_a_hole_for_large_packets_one_way_is_noticed_at_both_ends(way: str) -> None:
    link = large()
    link.run(20.0)
    since = link.now
    link.hole[way] = 1400
    link.run(14.0)
    for end in (link.a, link.b):
        assert end.state == "up"
        assert end.probe.verdict.full is False
        assert "1450 octets" in end.probe.verdict.reason
    link.hole[way] = 0
    link.run(12.0)
    assert [full for at, _, full in link.a.history if at > since] == [False, True]
    assert link.a.probe.verdict.reason == ""


def test_a_host_that_cannot_send_large_ones_knows_at_once() -> None:
    link = large()
    link.a.mtu = 1400
    link.run(1.0)
    assert (link.a.state, link.a.probe.verdict.full) == ("up", False)
    assert link.a.probe.verdict.reason == "1450 octets don't fit"


def test_an_end_that_answers_small_answers() -> None:
    link = large()
    link.b.answers_small = True
    link.hole["b"] = 1400
    link.run(2.0)
    assert link.a.probe.verdict.full is True


def test_after_a_hole_two_answers_in_a_row_are_wanted() -> None:
    link = large()
    link.hole["a"] = 1400
    link.run(30.0)
    link.hole["a"] = 0
    before = len(link.a.history)
    while link.a.session.answered == 0:
        link.run(TICK)
    link.hole["a"] = 1400
    link.run(30.0)
    assert len(link.a.history) == before


def test_no_size_is_known_of_a_path_that_is_down_and_none_is_asked() -> None:
    link = large()
    link.cut = {"a": True, "b": True}
    link.run(20.0)
    assert link.a.probe.verdict.full is None
    assert all(len(datagram) == 24 for _, datagram in link.a.sent)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [0.05, 0.15])
def test_loss_of_packets_of_any_size_is_not_taken_for_a_hole(seed: int, loss: float) -> None:
    link = large(seed=seed)
    link.run(20.0)
    link.loss = {"a": loss, "b": loss}
    link.run(60.0)
    assert False not in [full for _, state, full in link.a.history if state == "up"]


def test_a_change_of_intervals_ends_the_wait_for_an_answer_that_could_be_to_either() -> None:
    link = large()
    link.run(5.0)
    link.hole["b"] = 1400
    while not link.a.sent or len(link.a.sent[-1][1]) < 100:
        link.run(TICK)
    link.a.session.retime(300_000)
    link.run(TICK)
    link.hole["b"] = 0
    link.run(5.0)
    assert link.a.probe.verdict.full is True
    assert link.a.session.interval == pytest.approx(0.3)


def test_another_size_is_another_question() -> None:
    link = large()
    link.run(3.0)
    link.a.probe.size(1450)
    link.run(TICK)
    assert link.a.probe.verdict.full is True
    link.a.probe.size(0)
    link.run(TICK)
    assert link.a.probe.verdict.full is None
    since = link.now
    link.run(30.0)
    assert all(len(datagram) == 24 for at, datagram in link.a.sent if at > since and not decode(datagram).final)


def test_a_size_that_leaves_no_room_for_a_packet_is_not_asked() -> None:
    link = large(60)
    link.run(30.0)
    assert link.a.probe.verdict.full is None
    assert not link.a.probe.large_due(link.now)


def test_ipv6_headers_are_longer() -> None:
    probe = Probe(Track("", ip_address("2001:db8::1"), ip_address("2001:db8::2")), Session(1, 200_000), 0.0)
    probe.size(1430)
    assert probe.payload == 1382


# The budget. --------------------------------------------------------------------------------------------------------


def test_a_host_spends_less_where_there_are_more() -> None:
    assert [usual(n) for n in (0, 1, 10, 12, 20, 30, 49, 500)] == [120, 120, 120, 100, 60, 40, 40, 40]
    assert [pace(n).interval for n in (1, 9, 20, 49)] == [0.2, 0.2, 0.85, 3.125]


@given(st.integers(0, 2000), st.integers(20, 500))
def test_all_sessions_together_stay_within_the_budget(sessions: int, budget: int) -> None:
    its = pace(sessions, budget)
    assert 2 * sessions / (0.875 * its.interval) + 4 * sessions / its.period <= budget * 1.000001
    assert its.interval >= 0.2
    assert its.period >= 10.0


def test_few_peers_are_probed_each_200_ms() -> None:
    assert pace(0, 120).interval == pace(8, 120).interval == 0.2
    assert pace(49, 500).interval == 0.25


def test_a_forged_section_is_no_packet_of_the_other_end() -> None:
    """Wrong keys are told apart from silence even on a path that was up."""
    link = up(Link(KEYS))
    link.b.asleep_until = float("inf")
    forged = Packet(State.UP, 9, link.a.session.discriminator, 1, 1, auth=Auth(AuthKind.METICULOUS_SHA1, 1, 5))
    link.run(0.5)
    for _ in range(20):
        link.say("b", [encode(forged, b"guess")])
        link.run(0.1)
    assert link.a.state == "down"
    assert link.a.probe.verdict.reason.startswith("authentication")
    assert replace(link.a.probe.verdict, reason="").full is None
