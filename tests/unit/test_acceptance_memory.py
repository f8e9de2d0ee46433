"""The memory of `accept` only saves time: over any sequence of changes the result is the one without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import PRIVATE, network, node, uplink
from weft.core import acceptance
from weft.core.acceptance import Accepted, Policy, accept
from weft.core.dispute import settle
from weft.model import Mac, Node

ME = node("a", "192.0.2.1", "10.1.0.0/24")
POLICY = Policy(ME, 4, PRIVATE, ME.networks, (uplink(),))
NO_IPV6 = replace(POLICY, no_ipv6="this host has no IPv6")
COUNT = 12


def plain(i: int) -> Node:
    """One of twelve that don't meet."""
    return node(f"n{i:02}", f"10.200.{i}.1", networks=(network("web", f"10.{i + 2}.0.0/16", since=float(i)),))


def claiming(i: int, *subnets: str) -> Node:
    return replace(plain(i), networks=(network("web", *subnets, since=float(i)),))


CHANGES: dict[str, Callable[[int, int], Node]] = {
    "as ever": lambda i, _: plain(i),
    "moved": lambda i, j: replace(plain(i), endpoints=(ip_address(f"10.201.{j}.{i}"),)),
    "moved into a subnet": lambda i, j: replace(plain(i), endpoints=(ip_address(f"10.{j + 2}.200.{i}"),)),
    "the same endpoint": lambda i, j: replace(plain(i), endpoints=plain(j).endpoints),
    "the same MAC": lambda i, j: replace(plain(i), mac=plain(j).mac),
    "no MAC": lambda i, _: replace(plain(i), mac=Mac(bytes(6))),
    "the same subnet": lambda i, j: claiming(i, f"10.{j + 2}.0.0/16"),
    "a part of it": lambda i, j: claiming(i, f"10.{j + 2}.7.0/24"),
    "two parts of it": lambda i, j: claiming(i, f"10.{j + 2}.7.0/24", f"10.{j + 2}.9.0/24"),
    "around it": lambda i, j: claiming(i, f"10.{j + 2 & ~1}.0.0/15"),
    "around an endpoint": lambda i, j: claiming(i, f"10.{i + 2}.0.0/16", f"10.200.{j}.0/24"),
    "around its own endpoint": lambda i, _: claiming(i, f"10.200.{i}.0/24"),
    "one in the other": lambda i, _: claiming(i, f"10.{i + 2}.0.0/16", f"10.{i + 2}.0.0/16", f"10.{i + 2}.3.0/24"),
    "nothing": lambda i, _: claiming(i),
    "a refused one": lambda i, j: claiming(i, f"8.8.{j}.0/24", f"10.{i + 2}.3.0/24"),
    "IPv6 too": lambda i, j: claiming(i, f"10.{i + 2}.0.0/16", f"fd00:{i}:{j}::/64"),
    "another VNI": lambda i, j: replace(plain(i), vni=j),
}
numbers = st.integers(0, COUNT - 1)
changes = st.builds(lambda how, i, j: CHANGES[how](i, j), st.sampled_from(sorted(CHANGES)), numbers, numbers)
steps = st.tuples(
    st.lists(changes, max_size=3),
    st.sets(numbers, max_size=2),
    st.sampled_from(["in order", "in order", "in order", "reversed", "one twice", "parsed anew"]),
)
Step = tuple[list[Node], set[int], str]


def taken(now: dict[str, Node], step: Step) -> list[Node]:
    """`now` is changed, too."""
    came, gone, how = step
    for i in gone:
        now.pop(f"n{i:02}", None)
    now.update((claim.id, claim) for claim in came)
    claims = [now[name] for name in sorted(now)]
    if how == "reversed":
        claims.reverse()
    elif how == "one twice" and claims:
        claims.append(replace(claims[len(came) % len(claims)], mtu=1400))
    elif how == "parsed anew":
        claims = [replace(claim) for claim in claims]
    return claims


@settings(max_examples=400)
@given(st.lists(steps, min_size=1, max_size=6), st.sampled_from([POLICY, NO_IPV6]))
def test_whatever_changes_the_result_is_the_one_without_memory(drawn: list[Step], policy: Policy) -> None:
    now = {claim.id: claim for claim in map(plain, range(COUNT))}
    remembered = accept(list(now.values()), policy)
    for step in drawn:
        claims = taken(now, step)
        before = replace(remembered)
        remembered = accept(claims, policy, before)
        assert remembered == accept(claims, policy)
        assert accept(claims, policy, before) == remembered, "the memory itself was changed"


@given(st.lists(changes, max_size=8))
def test_who_meets_nobody_makes_no_difference_to_those_who_do(drawn: list[Node]) -> None:
    now = {claim.id: claim for claim in map(plain, range(COUNT))} | {claim.id: claim for claim in drawn}
    judged = [verdict.node for verdict in accept(list(now.values()), POLICY).memory.verdicts.values()]
    nodes, problems = settle([one for one in judged if one is not None])
    accepted = accept(list(now.values()), POLICY)
    assert list(accepted.nodes) == nodes
    assert accepted.memory.disputes == tuple(problems)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The claims that were judged, from now on."""
    seen: list[Node] = []
    judge = acceptance._judge

    def noting(claim: Node, policy: Policy) -> acceptance.Verdict:
        seen.append(claim)
        return judge(claim, policy)

    monkeypatch.setattr(acceptance, "_judge", noting)
    return seen


def amended(claims: list[Node], previous: Accepted) -> Accepted | None:
    return acceptance._amend(tuple(claims), previous)


def test_only_what_changed_is_judged_and_the_rest_stays_the_same_objects(judged: list[Node]) -> None:
    claims = [plain(i) for i in range(COUNT)]
    first = accept(claims, POLICY)
    judged.clear()
    moved = replace(claims[5], mtu=1400)
    second = amended([*claims[:5], moved, *claims[6:]], first)
    assert second is not None
    assert judged == [moved]
    assert all(after is before for after, before in zip(second.nodes, claims, strict=True) if after.id != "n05")
    assert second.nodes[5] is moved
    fewer = amended([*claims[:5], *claims[6:]], second)
    assert fewer is not None
    assert [one.id for one in fewer.nodes] == [claim.id for claim in claims if claim.id != "n05"]


def test_a_standing_dispute_between_others_does_not_slow_it_down() -> None:
    claims = [*(plain(i) for i in range(COUNT)), node("late", "10.203.0.1", "10.2.0.0/24"), node("vni", "x::1"[1:])]
    first = accept(claims, POLICY)
    assert [problem.subject for problem in first.problems] == ["vni", "late"]
    claims[7] = CHANGES["moved"](7, 1)
    second = amended(claims, first)
    assert second == accept(claims, POLICY)
    claims[0] = CHANGES["moved"](0, 1)
    assert amended(claims, first) is None, "n00 is a party to it"


@pytest.mark.parametrize(
    "how",
    [
        "moved into a subnet",
        "the same endpoint",
        "the same MAC",
        "the same subnet",
        "a part of it",
        "around it",
        "around an endpoint",
        "around its own endpoint",
    ],
)
def test_who_meets_another_is_judged_with_all(how: str) -> None:
    claims = [plain(i) for i in range(COUNT)]
    first = accept(claims, POLICY)
    claims[3] = CHANGES["moved"](3, 8)
    assert amended(claims, first) is not None
    claims[3] = CHANGES[how](3, 8)
    assert amended(claims, first) is None
    assert accept(claims, POLICY).problems


def test_one_of_two_thousand_takes_a_fraction_of_all() -> None:
    peers = [node(f"n{i:04}", f"198.18.{i // 250}.{i % 250}", f"10.{i // 250 + 2}.{i % 250}.0/24") for i in range(2000)]
    begun = time.process_time()
    accepted = accept(peers, POLICY)
    whole = time.process_time() - begun
    times = []
    for i in range(20):
        peers[i * 99] = replace(peers[i * 99], mtu=1400)
        begun = time.process_time()
        accepted = accept(peers, POLICY, accepted)
        times.append(time.process_time() - begun)
    assert accepted == accept(peers, POLICY)
    assert sorted(times)[10] < whole / 20, "measured: a hundredth"


def test_of_two_claims_with_one_id_the_last_counts() -> None:
    claims = [plain(i) for i in range(COUNT)]
    first = accept(claims, POLICY)
    elsewhere, twin = replace(claims[4], vni=7), replace(claims[4], vni=8)
    doubled = [*claims[:4], elsewhere, twin, *claims[5:]]
    assert amended(doubled, first) is None
    second = accept(doubled, POLICY, first)
    assert [problem.message for problem in second.problems] == [
        "node n04 is not routed to: its VNI is 8, this host's is 4096"
    ]
    assert amended(claims, second) is None
    assert accept(claims, POLICY, second) == first
