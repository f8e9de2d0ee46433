"""What firewall rules weft wants, and where it puts them among other people's."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rulesets import DOCKER_20, DOCKER_28, FIREWALLD, UFW
from weft.core.firewall import Site
from weft.core.firewall import wanted as wanted_at
from weft.core.firewall_places import objects, place
from weft.core.firewall_script import script
from weft.core.ruleset import (
    HOOKS,
    JUMP,
    Family,
    Parent,
    Ruleset,
    has_docker,
    labels,
    parents,
    parse_rule,
    parse_save,
)
from weft.errors import DecodeError
from weft.model import IPNetwork
from weft.objects import Chain, Jump, Object, Op, Route, Why

DEV = "vxlan4096"
WHY = Why("engine", "h1", "the exposed networks of this host")
FWD = Jump(4, "filter", "FORWARD", "WEFT-vxlan4096-FWD")
USER = Jump(4, "filter", "DOCKER-USER", "WEFT-vxlan4096-FWD")
NAT = Jump(4, "nat", "POSTROUTING", "WEFT-vxlan4096-NAT")
RAW = Jump(4, "raw", "PREROUTING", "WEFT-vxlan4096-RAW")
MSS = Jump(4, "mangle", "FORWARD", "WEFT-vxlan4096-MSS")


def hooks(family: Family) -> frozenset[Parent]:
    """Every chain to hook into, as on a host where others use every table."""
    return frozenset((family, table, chain) for table, chain in HOOKS)


def wanted(dev: str, subnets: Iterable[IPNetwork], chains: frozenset[Parent]) -> list[Chain | Jump]:
    return wanted_at(Site(dev, tuple(subnets), chains))


def adds(things: Iterable[Object]) -> list[Op]:
    return [Op("add", thing, WHY) for thing in things]


def every(device: str) -> bool:
    return True


def one_chain(table: str, chain: str, *rules: str) -> Ruleset:
    return Ruleset(4, {table: {chain: rules}})


# ---- what is wanted ----


def test_rules_of_a_docker_28_host() -> None:
    ruleset = parse_save(4, DOCKER_28)
    text, _ = script(adds(wanted(DEV, [ip_network("172.18.0.0/16")], hooks(4) | parents(ruleset))), ruleset)
    assert (
        text
        == """*filter
:WEFT-vxlan4096-FWD - [0:0]
-A WEFT-vxlan4096-FWD -d 172.18.0.0/16 -i vxlan4096 -j ACCEPT
-A WEFT-vxlan4096-FWD -s 172.18.0.0/16 -o vxlan4096 -j ACCEPT
-A WEFT-vxlan4096-FWD -i vxlan4096 -j DROP
-A WEFT-vxlan4096-FWD -o vxlan4096 -j REJECT --reject-with icmp-admin-prohibited
-A DOCKER-USER -m comment --comment weft -j WEFT-vxlan4096-FWD
-A FORWARD -m comment --comment weft -j WEFT-vxlan4096-FWD
COMMIT
*nat
:WEFT-vxlan4096-NAT - [0:0]
-A WEFT-vxlan4096-NAT -s 172.18.0.0/16 -o vxlan4096 -j ACCEPT
-I POSTROUTING 1 -m comment --comment weft -j WEFT-vxlan4096-NAT
COMMIT
*raw
:WEFT-vxlan4096-RAW - [0:0]
-A WEFT-vxlan4096-RAW -d 172.18.0.0/16 -i vxlan4096 -j ACCEPT
-I PREROUTING 2 -m comment --comment weft -j WEFT-vxlan4096-RAW
COMMIT
*mangle
:WEFT-vxlan4096-MSS - [0:0]
-A WEFT-vxlan4096-MSS -i vxlan4096 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A WEFT-vxlan4096-MSS -o vxlan4096 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -m comment --comment weft -j WEFT-vxlan4096-MSS
COMMIT
"""
    )


def test_each_family_has_its_own_subnets_and_its_own_refusal() -> None:
    both = hooks(4) | hooks(6)
    subnets = [ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"), ip_network("10.2.0.0/24")]
    forward = {
        thing.family: thing.rules
        for thing in wanted(DEV, subnets, both)
        if isinstance(thing, Chain) and thing.table == "filter"
    }
    assert forward[4][:2] == ("-d 10.1.0.0/24 -i vxlan4096 -j ACCEPT", "-d 10.2.0.0/24 -i vxlan4096 -j ACCEPT")
    assert forward[6] == (
        "-d fd00:1::/64 -i vxlan4096 -j ACCEPT",
        "-s fd00:1::/64 -o vxlan4096 -j ACCEPT",
        "-i vxlan4096 -j DROP",
        "-o vxlan4096 -j REJECT --reject-with icmp6-adm-prohibited",
    )


def test_a_family_without_a_tool_gets_nothing() -> None:
    things = wanted(DEV, [ip_network("10.1.0.0/24"), ip_network("fd00:1::/64")], hooks(4))
    assert {thing.family for thing in things} == {4}


def test_without_exposed_subnets_only_the_door_is_kept_shut() -> None:
    chain, jump = wanted(DEV, [], hooks(4))
    assert isinstance(chain, Chain)
    assert chain.rules == ("-i vxlan4096 -j DROP", "-o vxlan4096 -j REJECT --reject-with icmp-admin-prohibited")
    assert jump == FWD


def test_names_fit_iptables_for_the_longest_device() -> None:
    things = wanted("x" * 15, [ip_network("10.1.0.0/24")], hooks(4))
    assert max(len(thing.name) for thing in things if isinstance(thing, Chain)) <= 28


# ---- reading ----


def test_two_devices_do_not_know_each_other() -> None:
    ruleset = parse_save(4, DOCKER_20)
    for dev in ("vxlan1", "flannel.1-b"):
        things = wanted(dev, [ip_network("172.18.0.0/16")], hooks(4) | parents(ruleset))
        _, ruleset = script(adds(things), ruleset)
    first = objects(ruleset, "vxlan1".__eq__)
    second = objects(ruleset, "flannel.1-b".__eq__)
    assert len(first) == len(second) == 9
    assert not set(first) & set(second)
    assert set(objects(ruleset, every)) == set(first) | set(second)


def test_what_was_applied_is_what_is_read() -> None:
    for text in (DOCKER_20, DOCKER_28, UFW, FIREWALLD, ""):
        ruleset = parse_save(4, text)
        things = wanted(DEV, [ip_network("172.18.0.0/16")], hooks(4) | parents(ruleset))
        _, after = script(adds(things), ruleset)
        assert objects(after, every) == {thing.key: thing for thing in things}


def test_removing_everything_leaves_the_others_as_they_were() -> None:
    before = parse_save(4, DOCKER_28)
    things = wanted(DEV, [ip_network("172.18.0.0/16")], hooks(4) | parents(before))
    _, ruleset = script(adds(things), before)
    removals = [Op("remove", thing, WHY) for thing in sorted(things, key=lambda thing: -thing.rank)]
    text, after = script(removals, ruleset)
    assert {name: dict(chains) for name, chains in after.tables.items() if any(chains.values())} == before.tables
    assert "-D DOCKER-USER -m comment --comment weft -j WEFT-vxlan4096-FWD\n" in text
    assert text.index("-D FORWARD") < text.index("-X WEFT")
    assert script(removals, after)[0] == ""


def test_a_jump_of_somebody_elses_into_our_chain_is_not_ours() -> None:
    ruleset = one_chain("filter", "FORWARD", "-i wg0 -j WEFT-vxlan4096-FWD", "-j WEFT-vxlan4096-FWD")
    assert objects(ruleset, every) == {}


def test_docker_is_seen() -> None:
    assert has_docker(parse_save(4, DOCKER_20))
    assert not has_docker(parse_save(4, UFW))
    assert (4, "filter", "DOCKER-USER") in parents(parse_save(4, DOCKER_28))
    assert (4, "filter", "DOCKER-USER") not in parents(parse_save(4, UFW))


def test_without_rules_of_others_in_nat_and_raw_there_is_nothing_to_be_exempt_from() -> None:
    bare = frozenset({(4, "filter", "FORWARD"), (4, "filter", "INPUT"), (4, "mangle", "FORWARD")})
    assert parents(Ruleset(4)) == bare
    _, ours_alone = script(adds(wanted(DEV, [ip_network("172.18.0.0/16")], hooks(4))), Ruleset(4))
    assert "nat" in ours_alone.tables
    assert parents(ours_alone) == bare
    docker = parents(parse_save(4, DOCKER_28))
    assert {(4, "nat", "POSTROUTING"), (4, "raw", "PREROUTING")} <= docker


@pytest.mark.parametrize("line", ["rubbish", "[1:2] -A FORWARD -j ACCEPT", "-I FORWARD -j DROP"])
def test_unknown_output_is_refused(line: str) -> None:
    with pytest.raises(DecodeError, match="iptables-save printed"):
        parse_save(4, f"*filter\n:FORWARD ACCEPT [0:0]\n{line}\nCOMMIT\n")


def test_comments_and_empty_rules_are_read() -> None:
    text = "# Warning: iptables-legacy tables present, use iptables-legacy to see them\n*filter\n-A FORWARD\n\nCOMMIT\n"
    assert parse_save(4, text).tables == {"filter": {"FORWARD": ("",)}}


def test_rules_are_parsed_for_their_place() -> None:
    rule = parse_rule(
        '-s 10.0.0.0/8 ! -o br-1 -m comment --comment "do not -j DROP" -m set ! --match-set a src -j X --y z'
    )
    assert (rule.target, rule.goto) == ("X", False)
    assert rule.conditions == (("-s", "10.0.0.0/8"), ("! -o", "br-1"), ("-m", "set"), ("! --match-set", "a src"))
    assert parse_rule("-g ZONE").goto
    assert parse_rule('-m comment --comment "open').conditions == (("?", '-m comment --comment "open'),)
    assert parse_rule("-j").target == ""


def test_only_chains_and_jumps_are_taken() -> None:
    with pytest.raises(TypeError, match="not a Route"):
        script(adds([Route(ip_network("10.1.0.0/24"), DEV)]), Ruleset(4))


# ---- where it belongs ----

PLACED = {
    "Docker's RETURN at the end of DOCKER-USER": (DOCKER_20, USER, 0),
    "an empty DOCKER-USER": (DOCKER_28, USER, 0),
    "behind an administrator's DROP, before the RETURN": (
        DOCKER_20.replace(
            "-A DOCKER-USER -j RETURN", "-A DOCKER-USER -s 10.9.0.0/16 -j DROP\n-A DOCKER-USER -j RETURN"
        ),
        USER,
        1,
    ),
    "an administrator who drops everything in DOCKER-USER is obeyed": (
        DOCKER_28.replace("-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j DROP"),
        USER,
        1,
    ),
    "and not got round in FORWARD either": (
        DOCKER_28.replace("-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j DROP"),
        FWD,
        2,
    ),
    "at the end of Docker's FORWARD": (DOCKER_20, FWD, 10),
    "before ufw's chain that rejects everything, behind its users' rules": (UFW, FWD, 2),
    "at the end with ufw's policy DROP": (
        UFW.replace("-A ufw-reject-forward -j REJECT", "-A ufw-reject-forward -p x"),
        FWD,
        4,
    ),
    "before firewalld's last REJECT": (FIREWALLD, FWD, 6),
    "before firewalld's zones if the default zone rejects": (
        FIREWALLD.replace("COMMIT", "-A FWDI_public -j REJECT\nCOMMIT"),
        FWD,
        3,
    ),
    "Docker's masquerading": (DOCKER_20, NAT, 0),
    "Docker 28's drops in raw, behind others": (DOCKER_28, RAW, 1),
    "an empty mangle table": (DOCKER_28, MSS, 0),
}


@pytest.mark.parametrize(("text", "jump", "expected"), PLACED.values(), ids=PLACED)
def test_place(text: str, jump: Jump, expected: int) -> None:
    ruleset = parse_save(4, text)
    assert place(ruleset.tables.get(jump.table, {}), jump) == expected


@pytest.mark.parametrize(
    ("rule", "in_the_way"),
    [
        ("-s 172.18.0.0/16 ! -o br-blue -j MASQUERADE", True),
        ("-j MASQUERADE", True),
        ("-s 10.0.0.0/8 ! -d 10.0.0.0/8 -j SNAT --to-source 192.0.2.1", True),
        ("-o vxlan+ -j MASQUERADE", True),
        ("-o eth0 -j MASQUERADE", False),
        ("! -o vxlan4096 -j MASQUERADE", False),
        ("! -o vxlan+ -j MASQUERADE", False),
        ("-s 10.0.0.0/8 -m set ! --match-set pools dst -j MASQUERADE", False),
        ("-m mark --mark 0x4000/0x4000 -j MASQUERADE", False),
        ("-j LOG", False),
        ("-o docker0 -m addrtype --src-type LOCAL -j MASQUERADE", False),
    ],
)
def test_what_is_in_the_way_of_the_nat_exemption(rule: str, in_the_way: bool) -> None:
    ours = JUMP + NAT.chain
    found = objects(one_chain("nat", "POSTROUTING", rule, ours), every)
    assert found[NAT.key] == Jump(4, "nat", "POSTROUTING", NAT.chain, placed=not in_the_way)
    assert objects(one_chain("nat", "POSTROUTING", ours, rule), every)[NAT.key] == NAT


def test_a_masquerade_in_a_chain_of_its_own_is_found() -> None:
    rules = {"POSTROUTING": ("-j MINE", JUMP + NAT.chain), "MINE": ("-o eth0 -j RETURN", "-j MASQUERADE")}
    assert objects(Ruleset(4, {"nat": rules}), every)[NAT.key] != NAT
    rules["MINE"] = ("-j RETURN", "-j MASQUERADE")
    assert objects(Ruleset(4, {"nat": rules}), every)[NAT.key] == NAT


@pytest.mark.parametrize(
    ("rule", "in_the_way"),
    [
        ("-d 172.18.0.2/32 ! -i br-blue -j DROP", True),
        ("! -i br-blue -j DROP", True),
        ("-d 172.18.0.2/32 ! -i vxlan4096 -j DROP", False),
        ("-s 203.0.113.0/24 -j DROP", False),
        ("-i vxlan4096 -s 10.9.0.0/16 -j DROP", False),
        ("-m rpfilter --invert -j DROP", False),
        ("-d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8081 -j DROP", False),
    ],
)
def test_what_is_in_the_way_in_raw(rule: str, in_the_way: bool) -> None:
    found = objects(one_chain("raw", "PREROUTING", rule, JUMP + RAW.chain), every)
    assert found[RAW.key] == Jump(4, "raw", "PREROUTING", RAW.chain, placed=not in_the_way)


@pytest.mark.parametrize(
    ("rule", "in_the_way"),
    [
        ("-j REJECT --reject-with icmp-host-prohibited", True),
        ('-m comment --comment "the end" -j DROP', True),
        ("-j ACCEPT", True),
        ("-i vxlan4096 -j DROP", False),
        ("-s 10.9.0.0/16 -j DROP", False),
        ("-m set --match-set blocked src -j DROP", False),
        ("-m conntrack --ctstate INVALID -j DROP", False),
        ("-j LOG", False),
        ("-j SOMEWHERE", False),
    ],
)
def test_what_is_in_the_way_in_forward(rule: str, in_the_way: bool) -> None:
    found = objects(one_chain("filter", "FORWARD", rule, JUMP + FWD.chain), every)
    assert found[FWD.key] == Jump(4, "filter", "FORWARD", FWD.chain, placed=not in_the_way)


def test_chains_that_lead_to_each_other_end() -> None:
    rules = {"FORWARD": ("-j A",), "A": ("-j B",), "B": ("-j A",)}
    assert place(rules, FWD) == 1


def test_nothing_behind_a_goto_counts() -> None:
    assert place({"FORWARD": ("-j A",), "A": ("-g B", "-j DROP"), "B": ()}, FWD) == 1
    assert place({"FORWARD": ("-j A",), "A": ("-g B",), "B": ("-j DROP",)}, FWD) == 0


def test_our_jump_twice_is_wrong_and_is_mended() -> None:
    ours = JUMP + USER.chain
    ruleset = one_chain("filter", "DOCKER-USER", ours, "-s 10.9.0.0/16 -j DROP", ours, "-j RETURN")
    assert objects(ruleset, every)[USER.key] != USER
    text, after = script([Op("change", USER, WHY)], ruleset)
    assert text.splitlines()[1:3] == [f"-D DOCKER-USER {ours}"] * 2
    assert after.tables["filter"]["DOCKER-USER"] == ("-s 10.9.0.0/16 -j DROP", ours, "-j RETURN")


def test_a_new_docker_network_moves_the_exemption() -> None:
    """Docker inserts the masquerading of a new network before everything else."""
    ours = JUMP + NAT.chain
    ruleset = one_chain(
        "nat", "POSTROUTING", "-s 172.19.0.0/16 ! -o br-new -j MASQUERADE", ours, "-o eth0 -j MASQUERADE"
    )
    text, after = script([Op("change", NAT, WHY)], ruleset)
    assert text == f"*nat\n-D POSTROUTING {ours}\n-I POSTROUTING 1 {ours}\nCOMMIT\n"
    assert objects(after, every)[NAT.key] == NAT


FOREIGN = st.sampled_from([
    "-j DROP", "-j RETURN", "-j REJECT", "-s 10.9.0.0/16 -j DROP", "-j LOG", "-j A", "-g B", "-i eth0 -j A",
    "-s 172.18.0.0/16 ! -o br-blue -j MASQUERADE", "-d 172.18.0.2/32 ! -i br-blue -j DROP", "! -o br+ -j A",
])  # fmt: skip


@given(
    jump=st.sampled_from([USER, FWD, NAT, RAW, MSS]),
    before=st.lists(st.one_of(FOREIGN, st.just("ours")), max_size=6),
    a=st.lists(FOREIGN, max_size=3),
    b=st.lists(FOREIGN, max_size=3),
)
def test_once_put_right_it_stays_and_nothing_else_is_moved(
    jump: Jump, before: list[str], a: list[str], b: list[str]
) -> None:
    ours = JUMP + jump.chain
    rules = tuple(ours if rule == "ours" else rule for rule in before)
    ruleset = Ruleset(4, {jump.table: {jump.parent: rules, "A": tuple(a), "B": tuple(b)}})
    _, after = script([Op("change", jump, WHY)], ruleset)
    assert objects(after, every)[jump.key] == jump
    others = tuple(rule for rule in rules if rule != ours)
    assert tuple(rule for rule in after.tables[jump.table][jump.parent] if rule != ours) == others


def test_whose_chains_there_are_and_jumps_to_them() -> None:
    chains = {"INPUT": (f"{JUMP}WEFT-vxlan0-IN",), "WEFT-flannel.1-FWD": (), "DOCKER": ("-j ACCEPT",)}
    assert labels(Ruleset(4, {"filter": chains, "nat": {"WEFT-flannel.1-NAT": ()}})) == {"vxlan0", "flannel.1"}
    assert labels(Ruleset(4)) == frozenset()
