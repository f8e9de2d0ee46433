"""The rules of each layout, by golden text: groups, refusals, devices of other daemons, relaying, diverted tunnels; and
what the plan makes of a View."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from tests.build import network, node, uplink, view
from tests.support.rulesets import DOCKER_28
from weft.core.firewall import Diversion, Site, Span, wanted, wanted_by_shared, wanted_by_span, wanted_for
from weft.core.firewall_places import objects, place
from weft.core.firewall_script import script
from weft.core.plan import plan
from weft.core.ruleset import HOOKS, SHARED, Family, Parent, Ruleset, device_in, parents, parse_save, shared_label
from weft.model import Host, IPNetwork, Profile, View
from weft.objects import Chain, Jump, Op, Why

WHY = Why("engine", "h1", "the exposed networks of this host")
OWN = ip_network("10.5.35.0/24")
RECIPE = "-s 10.5.35.0/24 -d 10.5.40.0/24 -j DROP"
LABEL = "reg-flannel.1"


def hooks(*families: Family) -> frozenset[Parent]:
    return frozenset((family, table, chain) for family in families for table, chain in HOOKS)


ALL = hooks(4)
BARE = frozenset({(4, "filter", "FORWARD"), (4, "mangle", "FORWARD")})
BESIDE = Site("flannel.1", (OWN,), ALL, transit=("flannel.1",), label=LABEL)


def text(things: Iterable[Chain | Jump], ruleset: Ruleset | None = None) -> str:
    return script([Op("add", thing, WHY) for thing in things], ruleset or Ruleset(4))[0]


def rules(things: Iterable[Chain | Jump], suffix: str) -> tuple[str, ...]:
    return next((t.rules for t in things if isinstance(t, Chain) and t.name.endswith(f"-{suffix}")), ())


# ---- another daemon's device ----


def test_a_shared_device_is_opened_and_never_closed() -> None:
    assert (
        text(wanted_by_shared(BESIDE, 4))
        == """*filter
:WEFT-reg-flannel.1-FWD - [0:0]
:WEFT-reg-flannel.1-IN - [0:0]
-A WEFT-reg-flannel.1-FWD -d 10.5.35.0/24 -i flannel.1 -j ACCEPT
-A WEFT-reg-flannel.1-FWD -s 10.5.35.0/24 -o flannel.1 -j ACCEPT
-A WEFT-reg-flannel.1-FWD -i flannel.1 -o flannel.1 -j ACCEPT
-A FORWARD -m comment --comment weft -j WEFT-reg-flannel.1-FWD
-A WEFT-reg-flannel.1-IN -i flannel.1 -p udp -m udp --dport 4784 -j ACCEPT
-A INPUT -m comment --comment weft -j WEFT-reg-flannel.1-IN
COMMIT
*nat
:WEFT-reg-flannel.1-NAT - [0:0]
-A WEFT-reg-flannel.1-NAT -s 10.5.35.0/24 -o flannel.1 -j ACCEPT
-A WEFT-reg-flannel.1-NAT -o flannel.1 -m connmark --mark 0x4c000000/0x4c000000 -j ACCEPT
-A POSTROUTING -m comment --comment weft -j WEFT-reg-flannel.1-NAT
COMMIT
*raw
:WEFT-reg-flannel.1-RAW - [0:0]
-A WEFT-reg-flannel.1-RAW -d 10.5.35.0/24 -i flannel.1 -j ACCEPT
-A PREROUTING -m comment --comment weft -j WEFT-reg-flannel.1-RAW
COMMIT
*mangle
:WEFT-reg-flannel.1-MSS - [0:0]
-A WEFT-reg-flannel.1-MSS -i flannel.1 -o flannel.1 -j CONNMARK --set-xmark 0x4c000000/0x4c000000
-A WEFT-reg-flannel.1-MSS -i flannel.1 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A WEFT-reg-flannel.1-MSS -o flannel.1 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -m comment --comment weft -j WEFT-reg-flannel.1-MSS
COMMIT
"""
    )


def test_on_a_shared_device_probes_come_to_the_leases_address_by_whatever_way() -> None:
    """With flannel's DirectRouting, hosts on one segment send them over the uplink."""
    heard = (ip_address("10.5.35.0"), ip_address("fc00:5:0:35::"))
    site = replace(BESIDE, chains=hooks(4, 6), heard=heard)
    things = wanted_by_shared(replace(site, own=(OWN, ip_network("fc00:5:0:35::/64"))), 4)
    four, six = (rules([t for t in things if t.family == family], "IN") for family in (4, 6))
    assert four == ("-d 10.5.35.0/32 -p udp -m udp --dport 4784 -j ACCEPT",)
    assert six == ("-d fc00:5:0:35::/128 -p udp -m udp --dport 4784 -j ACCEPT",)
    assert rules(wanted_by_shared(replace(BESIDE, heard=heard[1:]), 4), "IN") == ()


def test_the_plan_says_where_probes_are_heard() -> None:
    me = replace(node("babka", "192.0.2.1"), backend="lease", overlay=(ip_address("10.5.35.0"),))
    beside = Profile(role="registrar", device="flannel.1", shared=True, gateway="overlay")
    own = replace(me, backend="vxlan"), Profile(role="registrar"), "-i vxlan4096"
    for here, profile, rule in ((me, beside, "-d 10.5.35.0/32"), own):
        things = planned(view(me=here, host=Host(uplinks=(uplink(),), chains=ALL), profile=profile))
        assert rules(things, "IN") == (f"{rule} -p udp -m udp --dport 4784 -j ACCEPT",)


def test_without_others_rules_in_nat_nothing_is_marked() -> None:
    things = wanted_by_shared(replace(BESIDE, chains=BARE), 4)
    assert not any("CONNMARK" in rule for rule in rules(things, "MSS"))
    assert {thing.table for thing in things} == {"filter", "mangle"}


def test_a_relay_without_networks_has_its_underlays_family() -> None:
    site = replace(BESIDE, own=(), chains=hooks(4, 6))
    assert {thing.family for thing in wanted_by_shared(site, 4)} == {4}
    assert {thing.family for thing in wanted_by_shared(site, 6)} == {6}
    assert rules(wanted_by_shared(site, 4), "FWD") == ("-i flannel.1 -o flannel.1 -j ACCEPT",)


def test_its_jumps_are_placed_by_its_device() -> None:
    ruleset = parse_save(4, DOCKER_28)
    jump = Jump(4, "nat", "POSTROUTING", "WEFT-reg-flannel.1-NAT")
    assert place({"POSTROUTING": ("-o eth0 -j MASQUERADE", "-o flannel.1 -j MASQUERADE")}, jump) == 1
    things = wanted_by_shared(replace(BESIDE, chains=ALL | parents(ruleset)), 4)
    _, after = script([Op("add", thing, WHY) for thing in things], ruleset)
    assert objects(after, lambda label: label.startswith(SHARED)) == {thing.key: thing for thing in things}
    assert objects(after, "flannel.1".__eq__) == {}


@given(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789.-", min_size=1, max_size=15), st.sampled_from(["FWD", "ADM", "ISO"])
)
def test_names_fit_iptables_and_tell_the_device(device: str, suffix: str) -> None:
    things = wanted_by_shared(replace(BESIDE, dev=device, label=shared_label("registrar", device)), 4)
    names = {thing.name for thing in things if isinstance(thing, Chain)}
    assert max(map(len, names)) <= 28
    assert {device_in(name) for name in names} == {device}


def test_two_devices_of_one_daemon_relay_between_them() -> None:
    own = Site("vxlan7600", (OWN,), ALL, transit=("flannel.1", "vxlan7600"))
    assert rules(wanted(own), "FWD")[2:] == (
        "-i vxlan7600 -o flannel.1 -j ACCEPT",
        "-i vxlan7600 -o vxlan7600 -j ACCEPT",
        "-i flannel.1 -o vxlan7600 -j ACCEPT",
        "-i vxlan7600 -j DROP",
        "-o vxlan7600 -j REJECT --reject-with icmp-admin-prohibited",
    )


# ---- refusals ----


def test_refusals_come_before_what_is_accepted() -> None:
    refused = ((4, RECIPE), (4, "-i eth7 -o eth8 -j DROP"))
    things = wanted(Site("vxlan1", (OWN,), ALL, refused))
    assert rules(things, "ADM") == (RECIPE,)
    assert rules(things, "FWD")[:3] == (
        "-i vxlan1 -j WEFT-vxlan1-ADM",
        "! -i vxlan1 -o vxlan1 -j WEFT-vxlan1-ADM",
        "-d 10.5.35.0/24 -i vxlan1 -j ACCEPT",
    )
    span = wanted_by_span(Site("flannel.1", (OWN,), ALL, refused), [Span(ip_network("10.5.0.0/16"))])
    assert rules(span, "ADM") == (RECIPE, "-i eth7 -o eth8 -j DROP")
    assert rules(span, "FWD")[:2] == (
        "-s 10.5.0.0/16 -j WEFT-flannel.1-ADM",
        "! -s 10.5.0.0/16 -d 10.5.0.0/16 -j WEFT-flannel.1-ADM",
    )
    assert rules(wanted(Site("vxlan1", (), ALL, refused)), "ADM") == (), "nothing is accepted, so nothing is refused"


def test_the_inner_chain_is_made_first_and_goes_last() -> None:
    """In whatever order the ops come: a rule can't lead to a chain that isn't there."""
    things = wanted(Site("vxlan1", (OWN,), BARE, ((4, RECIPE),)))
    made, after = script([Op("add", thing, WHY) for thing in reversed(things)], Ruleset(4))
    assert made.index(":WEFT-vxlan1-ADM") < made.index("-j WEFT-vxlan1-ADM")
    found = list(objects(after, "vxlan1".__eq__))
    assert found[-1] == ("chain", 4, "filter", "WEFT-vxlan1-ADM")
    gone, left = script([Op("remove", thing, WHY) for thing in reversed(things)], after)
    assert gone.index("-F WEFT-vxlan1-FWD") < gone.index("-X WEFT-vxlan1-ADM")
    assert left.tables["filter"] == {"FORWARD": ()}


# ---- groups ----


def isolated(*pairs: tuple[str, str], chains: frozenset[Parent] = ALL, own: str = "10.5.35.0/24") -> list[Chain | Jump]:
    apart = tuple((ip_network(a), ip_network(b)) for a, b in pairs)
    return wanted(Site("vxlan1", (ip_network(own),), chains, apart=apart))


def test_groups_are_kept_apart_before_anybody_accepts() -> None:
    things = isolated(("10.5.35.0/24", "10.5.40.0/24"), ("10.5.41.0/24", "10.5.35.0/24"), ("fd00::/64", "fd01::/64"))
    assert rules(things, "ISO") == (
        "-s 10.5.35.0/24 -d 10.5.40.0/23 -j DROP",
        "-s 10.5.40.0/23 -d 10.5.35.0/24 -j DROP",
    )
    assert Jump(4, "mangle", "FORWARD", "WEFT-vxlan1-ISO") in things
    six = wanted(Site("vxlan1", (), hooks(6), apart=((ip_network("fd00::/64"), ip_network("fd01::/64")),)))
    assert rules(six, "ISO")[0] == "-s fd00::/64 -d fd01::/64 -j DROP"


def test_without_a_mangle_table_they_are_kept_apart_in_filter() -> None:
    things = isolated(("10.5.35.0/24", "10.5.40.0/24"), chains=frozenset({(4, "filter", "FORWARD")}))
    assert rules(things, "FWD")[:2] == (
        "-s 10.5.35.0/24 -d 10.5.40.0/24 -j DROP",
        "-s 10.5.40.0/24 -d 10.5.35.0/24 -j DROP",
    )


SUBNET = st.integers(0, 15).map(lambda n: ip_network(f"10.5.{n}.0/24"))


@given(st.lists(st.tuples(SUBNET, SUBNET).filter(lambda pair: pair[0] != pair[1]), max_size=12))
def test_exactly_the_pairs_are_kept_apart(pairs: list[tuple[IPNetwork, IPNetwork]]) -> None:
    site = Site("vxlan1", (ip_network("10.5.3.0/24"),), ALL, apart=tuple(pairs))
    drops = [rule.split() for rule in rules(wanted(site), "ISO")]
    subnets = [ip_network(f"10.5.{n}.0/24") for n in range(16)]
    apart = {
        (a, b) for words in drops for a in subnets for b in subnets
        if a.overlaps(ip_network(words[1])) and b.overlaps(ip_network(words[3]))
    }  # fmt: skip
    assert apart == {way for a, b in pairs for way in ((a, b), (b, a))}


# ---- diverted tunnels ----


def test_a_diverted_tunnel() -> None:
    asked = [
        Diversion(ip_address("172.24.90.1"), ip_address("172.24.90.6"), 8472),
        Diversion(ip_address("fd00::1"), ip_address("fd00::6"), 8472),
        Diversion(ip_address("fd00::1"), ip_address("172.24.90.6"), 8472),
    ]
    site = Site("flannel.1", chains=BARE, label=LABEL)
    things = wanted_for(asked, site)
    assert (
        text(things)
        == """*raw
:WEFT-reg-flannel.1-ZON - [0:0]
-A WEFT-reg-flannel.1-ZON -d 172.24.90.1/32 -p udp -m udp --dport 8472 -j CT --zone 14719
-A OUTPUT -m comment --comment weft -j WEFT-reg-flannel.1-ZON
COMMIT
*nat
:WEFT-reg-flannel.1-OUT - [0:0]
-A WEFT-reg-flannel.1-OUT -d 172.24.90.1/32 -p udp -m udp --dport 8472 -j DNAT --to-destination 172.24.90.6
-A OUTPUT -m comment --comment weft -j WEFT-reg-flannel.1-OUT
COMMIT
"""
    )
    six = wanted_for(asked, replace(site, chains=BARE | hooks(6)))
    assert "-d fd00::1/128 -p udp -m udp --dport 8472 -j DNAT --to-destination fd00::6" in rules(
        [thing for thing in six if thing.family == 6], "OUT"
    )
    assert wanted_for(asked, replace(site, chains=frozenset())) == [], "no tool, no rules"


# ---- the plan ----


def planned(view_: View) -> list[Chain | Jump]:
    return [w.object for w in plan(view_).wanted.values() if isinstance(w.object, Chain | Jump)]


def test_what_a_view_comes_to() -> None:
    """Beside flannel and on a device of its own at once: what is about neither is said once."""
    host = Host((uplink(),), chains=ALL, refused=((4, RECIPE),))
    apart = ((OWN, ip_network("10.5.50.0/24")),)
    me = node("h1", "192.0.2.1", networks=(network("lease", "10.5.10.0/24"),))
    first = view(
        me=replace(me, backend="lease", overlay=(ip_address("10.5.10.0"),)),
        networks=(network("web", str(OWN)),),
        host=host,
        profile=Profile(role="registrar", device="flannel.1", shared=True, gateway="overlay"),
    )
    first = replace(first, apart=apart, diverted=((ip_address("192.0.2.9"), ip_address("192.0.2.6")),))
    second = replace(first, me=me, profile=Profile(role="registrar"), diverted=(), beside=())
    things = planned(replace(first, beside=(second,)))
    names = {thing.name for thing in things if isinstance(thing, Chain)}
    own = f"vxlan{me.vni}"
    suffixes = {label: {n.rpartition("-")[2] for n in names if f"-{label}-" in n} for label in (LABEL, own)}
    assert suffixes == {
        LABEL: {"ADM", "FWD", "IN", "NAT", "RAW", "MSS", "ISO", "ZON", "OUT"},
        own: {"ADM", "FWD", "IN", "NAT", "RAW", "MSS"},
    }
    forward = next(t.rules for t in things if isinstance(t, Chain) and t.name == f"WEFT-{LABEL}-FWD")
    assert "-d 10.5.10.0/24 -i flannel.1 -j ACCEPT" in forward, "this host's lease, too"
    assert f"-i flannel.1 -o {own} -j ACCEPT" in forward


def test_an_agent_relays_for_nobody() -> None:
    things = planned(view(networks=(network("web", str(OWN)),), host=Host((uplink(),), chains=ALL)))
    forward = rules(things, "FWD")
    assert not any(rule.startswith("-i") and "-o" in rule for rule in forward)
