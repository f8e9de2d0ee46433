"""What holds of the router's overlays whatever stacks there are here and whatever peers say; and that a thousand of
them take a moment."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import PRIVATE
from tests.support.stacks import NO_MAC, config, data, first, listing, peer, remote, scene, stack, thousand
from weft.core.stacks import Options, Scene, Survey, survey
from weft.core.stacks_here import meet
from weft.model import IPNetwork, Mac, Peer
from weft.wire.routing import StackConfig

SUBNETS = st.sampled_from(
    [
        *("172.21.0.0/16", "172.21.0.0/17", "172.22.0.0/16", "172.20.0.0/16", "0.0.0.0/0", "8.0.0.0/8"),
        *("fd00:21::/64", "192.168.100.0/24", "10.0.0.0/16", "172.23.0.0/16", "172.16.0.0/12"),
    ]
)
ADDRESSES = st.sampled_from(["", "192.168.100.1", "192.168.100.2", "192.168.100.3", "192.168.101.2", "10.9.9.9"])
PEERS = st.builds(
    lambda number, name, end, overlay, nets, since, vni, mac, stale: peer(
        name,
        f"10.0.0.{end}",
        overlay,
        ",".join(sorted(nets)),
        id=f"p{number}",
        vni=vni,
        since=since,
        mac=mac,
        status=stale,
    ),
    st.integers(0, 9),
    st.sampled_from(["stack-a", "stack-b", "stack-c", "stack-d"]),
    st.integers(1, 5),
    ADDRESSES,
    st.sets(SUBNETS, max_size=3),
    st.sampled_from([0.0, 1.0, 50.0, float("inf")]),
    st.sampled_from([1000, 1001, 1002]),
    st.sampled_from([None, NO_MAC, Mac(bytes.fromhex("020000000001"))]),
    st.sampled_from(["active", "stale"]),
)
MANY = st.lists(PEERS, max_size=8, unique_by=lambda one: one.node.id)
HERE = st.sampled_from(
    [
        (stack(),),
        (listing(remote("stack-b", "192.168.100.2, 192.168.100.3", "172.21.0.0/16")),),
        (
            listing(remote("stack-c", "192.168.100.3", "172.22.0.0/16")),
            config("stack-y", 1001, "192.168.101.0/24", "192.168.101.1", "172.23.0.0/16"),
        ),
    ]
)
OPTIONS = st.builds(Options, st.just(PRIVATE), st.booleans(), st.sampled_from([1, 256]), st.booleans(), st.booleans())


@given(MANY, HERE, OPTIONS)
@settings(max_examples=60, deadline=None)
def test_no_subnet_is_in_two_places_and_nothing_outside_of_what_is_allowed(
    peers: list[Peer], stacks: tuple[StackConfig, ...], options: Options
) -> None:
    found = survey(scene(*peers, stacks=stacks, options=options))
    own = [s for overlay in found.overlays for n in overlay.networks for s in n.subnets]
    spaces = [s for overlay in found.overlays for s in overlay.spaces]
    claimed: list[tuple[str, str, IPNetwork]] = []
    for overlay in found.overlays:
        vni, several = overlay.me.vni, {one.subnet: [end.id for end in one.ends] for one in overlay.multipath}
        for node in overlay.nodes:
            claimed.extend((f"{vni}/{n.stack}", f"{vni}/{node.id}", s) for n in node.networks for s in n.subnets)
            assert not several.keys() & {s for n in node.networks for s in n.subnets}
        claimed.extend((f"{vni}/{overlay.owners[subnet]}", f"{vni}/{ends}", subnet) for subnet, ends in several.items())
        assert all(len(ends) > 1 and {*ends} <= {node.id for node in overlay.nodes} for ends in several.values())
        addresses = [address for node in overlay.nodes for address in node.overlay]
        assert len(addresses) == len(set(addresses))
        assert not set(addresses) & set(overlay.me.overlay)
        assert all(any(a in space for space in overlay.spaces) for a in addresses)
        assert all(any(node.mac) or node.overlay for node in overlay.nodes)
    for number, (stack_, behind, subnet) in enumerate(claimed):
        assert any(meet(subnet, allowed) and subnet.prefixlen >= allowed.prefixlen for allowed in PRIVATE)
        assert not any(meet(subnet, other) for other in [*own, *spaces])
        for other_stack, other_behind, other in claimed[:number]:
            assert subnet != other
            assert stack_ == other_stack or behind == other_behind or not meet(subnet, other)


@given(MANY, HERE, OPTIONS, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_peers_does_not_matter(
    peers: list[Peer], stacks: tuple[StackConfig, ...], options: Options, shuffle: random.Random
) -> None:
    one = scene(*peers, stacks=stacks, options=options)
    mixed = list(one.data.peers)
    shuffle.shuffle(mixed)
    two = replace(one, data=replace(one.data, peers=tuple(mixed)))
    assert survey(one).overlays == survey(two).overlays
    assert set(survey(one).problems) == set(survey(two).problems)
    assert [fate.node for fate in survey(one).fates()] == [fate.node for fate in survey(two).fates()]


@given(MANY, MANY, HERE, OPTIONS)
@settings(max_examples=40, deadline=None)
def test_memory_changes_nothing(
    before: list[Peer], after: list[Peer], stacks: tuple[StackConfig, ...], options: Options
) -> None:
    last: Survey | None = None
    for peers in (before, after, after[1:], before, [*before, *after]):
        unique = {one.node.id: one for one in peers}
        here: Scene = scene(*unique.values(), stacks=stacks, options=options)
        last = survey(here, last)
        fresh = survey(here)
        assert (last.overlays, last.problems, last.fates()) == (fresh.overlays, fresh.problems, fresh.fates())


def test_a_thousand_peers_take_a_moment_and_one_more_less() -> None:
    wide = stack(vxlan_subnets=(ip_network("172.31.0.0/16"),), local_vxlan_ips=(ip_address("172.31.0.1"),))
    peers = thousand()
    began = time.process_time()
    found = survey(scene(*peers, stacks=(wide,)))
    took = time.process_time() - began
    assert len(first(found).nodes) == 1000
    assert took < 5
    same = scene(*peers[1:], stacks=(wide,))
    again = survey(same, found)
    assert len(first(again).nodes) == 999
    assert all(one is other for one, other in zip(first(again).nodes, first(found).nodes[1:], strict=True))


def test_data_of_nobody() -> None:
    assert survey(replace(scene(), data=data())).problems == ()
