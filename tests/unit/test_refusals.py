"""What an administrator forbids: which of his rules are repeated in front of weft's accepts, and which are not."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rulesets import DOCKER_20, DOCKER_28, FIREWALLD, UFW
from weft.core.firewall_walk import Packets, walk
from weft.core.refusals import Traffic, about, refusals
from weft.core.ruleset import Ruleset, parse_save

A, B = "10.5.35.0/24", "10.5.40.0/24"
RECIPE = f"-s {A} -d {B} -j DROP"
DOCKERS = "-j DOCKER-USER"
EVERYTHING = (Traffic(),)


def found(forward: list[str], user: list[str] | None = None) -> list[str]:
    chains = {"FORWARD": tuple(forward)} | ({"DOCKER-USER": tuple(user)} if user is not None else {})
    return [text for _, text in refusals(Ruleset(4, {"filter": chains}))]


@pytest.mark.parametrize("text", [DOCKER_20, DOCKER_28, UFW, FIREWALLD, ""], ids=["20", "28", "ufw", "firewalld", "-"])
def test_nothing_of_dockers_or_a_firewalls_own_is_an_administrators(text: str) -> None:
    assert refusals(parse_save(4, text)) == ()


def test_the_recipe_in_either_family() -> None:
    tables = {"filter": {"FORWARD": (RECIPE,)}}
    assert refusals(Ruleset(4, tables)) == ((4, RECIPE),)
    assert about(refusals(Ruleset(6, tables)), 6, EVERYTHING) == (RECIPE,)
    assert about(refusals(Ruleset(6, tables)), 4, EVERYTHING) == ()


@pytest.mark.parametrize(
    "rule",
    [
        RECIPE,
        f"-s {A} -d {B} -j REJECT --reject-with icmp-port-unreachable",
        "-i br-blue -o flannel.1 -j DROP",
        f"! -s {A} -o flannel.1 -j DROP",
        f"-s {A} -p tcp -m tcp --dport 5432 -j DROP",
        "-p tcp -m multiport --dports 25,465 -j REJECT --reject-with tcp-reset",
        f'-s {A} -m comment --comment "front may not -j ACCEPT back" -j DROP',
        f"-s {A} -d {B} -m conntrack --ctstate NEW -j DROP",
        "-m mark --mark 0x7 -j DROP",
        "-m iprange --src-range 10.5.35.7-10.5.35.9 -j DROP",
        f"-d {B} -m time --timestart 22:00:00 --timestop 06:00:00 -j DROP",
    ],
)
def test_repeated(rule: str) -> None:
    assert found([rule]) == found([DOCKERS], [rule, "-j RETURN"]) == found([DOCKERS], ["-j RETURN", rule]) == [rule]


@pytest.mark.parametrize(
    "rule",
    [
        "-j DROP",
        "-m conntrack --ctstate INVALID -j DROP",
        "-m state --state INVALID -j DROP",
        f"-s {A} -m limit --limit 5/min -j DROP",
        f"-s {A} -m recent --update --seconds 60 -j DROP",
        f"-s {A} -m statistic --mode random --probability 0.1 -j DROP",
        f"-s {A} -m quota --quota 1000 -j DROP",
        f"-s {A} -m connbytes --connbytes 1000: --connbytes-mode bytes --connbytes-dir both -j DROP",
        "-m set --match-set bad src -j DROP",
        f"-s {A} -j MYCHAIN",
        f"-s {A} -g MYCHAIN",
        f"-s {A} -j LOG",
        f'-s {A} -m comment --comment "open',
    ],
)
def test_left_where_it_stands(rule: str) -> None:
    assert found([rule]) == found([DOCKERS], [rule]) == []


def test_the_order_in_which_packets_come_by() -> None:
    forward = ["-s 10.0.0.1/32 -j DROP", DOCKERS, "-s 10.0.0.3/32 -j DROP"]
    assert found(forward, ["-s 10.0.0.2/32 -j DROP"]) == [f"-s 10.0.0.{n}/32 -j DROP" for n in (1, 2, 3)]


def test_exceptions_go_with_what_they_are_exempt_from() -> None:
    one = "-s 10.5.35.7/32 -d 10.5.40.0/24"
    assert found([f"{one} -j ACCEPT", RECIPE]) == [f"{one} -j RETURN", RECIPE]
    assert found([RECIPE, f"{one} -j ACCEPT"]) == [RECIPE]
    for elsewhere in ("-s 10.9.0.0/16", "-d 10.9.0.0/16"):
        assert found([f"{elsewhere} -j ACCEPT", RECIPE]) == [RECIPE]
    by_interface = [f"-i wg0 -s {A} -j ACCEPT", "-i br-+ -p tcp -j DROP"]
    assert found(by_interface) == by_interface[1:]
    assert found(["-i br-1 -p tcp -j ACCEPT", by_interface[1]])[0] == "-i br-1 -p tcp -j RETURN"
    assert found(["-p udp -j ACCEPT", by_interface[1]]) == by_interface[1:]
    holes = "-s 10.0.0.1/255.0.0.255"
    assert found([f"{holes} -j ACCEPT", RECIPE]) == [f"{holes} -j RETURN", RECIPE]


def test_answers_that_are_let_through_are_an_exception() -> None:
    answers = "-m conntrack --ctstate RELATED,ESTABLISHED"
    assert found([f"{answers} -j ACCEPT", RECIPE]) == [f"{answers} -j RETURN", RECIPE]


def test_accepts_of_daemons_are_none() -> None:
    """They would make `iptables -A` of the recipe say nothing."""
    docker = ["-i br-1 ! -o br-1 -j ACCEPT", "-o br-1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    flannel = ['-s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT']
    assert found([*docker, *flannel, "-s 10.5.35.0/24 -j RETURN", RECIPE]) == [RECIPE]
    assert found([DOCKERS], [docker[0], RECIPE]) == ["-i br-1 ! -o br-1 -j RETURN", RECIPE]


def test_what_docker_user_lets_go_on_forward_still_judges() -> None:
    user = [f"-s {A} -j RETURN", f"-d {B} -j ACCEPT", RECIPE]
    assert found([DOCKERS], user) == [f"-s {A} -j RETURN", f"-d {B} -j RETURN", RECIPE]
    assert found([DOCKERS, RECIPE], user) == [f"-d {B} -j RETURN", RECIPE, RECIPE]


@pytest.mark.parametrize(
    ("exception", "left"),
    [
        (f"-s {A} -d {B} -m limit --limit 1/sec -j ACCEPT", True),
        ("-s 10.5.0.0/16 -m limit --limit 1/sec -j ACCEPT", True),
        ("-m set --match-set good src -j ACCEPT", True),
        ("-p icmp -m limit --limit 1/sec -j ACCEPT", False),
        ("-s 10.5.35.7/32 -m limit --limit 1/sec -j ACCEPT", False),
        ("-s 10.0.0.1/255.0.0.255 -m limit --limit 1/sec -j ACCEPT", False),
        ("-m limit --limit 1/sec -j LOG", False),
    ],
)
def test_half_of_a_rule_that_counts_is_not_repeated(exception: str, left: bool) -> None:
    assert found([exception, RECIPE]) == ([] if left else [RECIPE])


# ---- which are about us ----

OWN = (ip_network(A),)
INTO = Traffic(targets=OWN, into="vx0")
OUT = Traffic(sources=OWN, out="vx0")


@pytest.mark.parametrize(
    ("rule", "traffic", "concerned"),
    [
        (RECIPE, OUT, True),
        (RECIPE, INTO, False),
        (f"-s {B} -d {A} -j DROP", INTO, True),
        ("-s 203.0.113.5/32 -j DROP", INTO, True),
        ("-s 203.0.113.5/32 -j DROP", OUT, False),
        ("-s 10.5.35.7/32 -j DROP", OUT, True),
        (f"! -s {A} -j DROP", OUT, False),
        ("! -s 10.5.35.7/32 -j DROP", OUT, True),
        ("! -s 10.5.0.0/16 -j DROP", OUT, False),
        ("-s 10.0.0.1/255.0.0.255 -j DROP", OUT, True),
        ("-i eth7 -o eth8 -j DROP", OUT, False),
        ("-i eth7 -j DROP", OUT, True),
        ("-i eth7 -j DROP", INTO, False),
        ("-i vx+ -j DROP", INTO, True),
        ("! -i vx0 -j DROP", INTO, False),
        ("! -i eth0 -j DROP", INTO, True),
        ("-o vx1 -p tcp -j DROP", Traffic(into="vx0", out="vx0"), False),
        ("-s 10.9.0.0/16 -d 10.8.0.0/16 -j DROP", Traffic(into="vx0", out="vx0"), True),
    ],
)
def test_what_could_be_about_our_packets(rule: str, traffic: Traffic, concerned: bool) -> None:
    assert about([(4, rule)], 4, [traffic]) == ((rule,) if concerned else ())


def test_an_exception_to_nothing_of_ours_is_not_repeated() -> None:
    refused = [(4, "-s 10.5.35.7/32 -j RETURN"), (4, "-i eth7 -o eth8 -j DROP")]
    assert about(refused, 4, [OUT]) == ()


# ---- what it comes to ----

ADDRESS = st.sampled_from(["10.5.35.0/24", "10.5.35.7/32", "10.5.0.0/16", "10.5.40.0/24", "10.5.40.9/32"])
RULE = st.builds(
    lambda source, target, verdict: f"{source}{target}-j {verdict}",
    st.one_of(st.just(""), ADDRESS.map("-s {} ".format)),
    ADDRESS.map("-d {} ".format),
    st.sampled_from(["DROP", "ACCEPT"]),
)


@given(before=st.lists(RULE, max_size=4), user=st.lists(RULE, max_size=4), behind=st.lists(RULE, max_size=4))
def test_the_repeated_rules_refuse_what_the_administrators_refuse(
    before: list[str], user: list[str], behind: list[str]
) -> None:
    """For any two addresses: a packet is refused by the copy exactly if it would be without us."""
    forward = (*before, DOCKERS, *behind)
    his = Ruleset(4, {"filter": {"FORWARD": forward, "DOCKER-USER": tuple(user)}}, {("filter", "FORWARD"): "ACCEPT"})
    copy = tuple(text for _, text in refusals(his))
    ours = Ruleset(4, {"filter": {"FORWARD": ("-j COPY",), "COPY": copy}})
    for source in ("10.5.35.1/32", "10.5.35.7/32"):
        for target in ("10.5.40.1/32", "10.5.40.9/32", "10.5.35.7/32"):
            packets = Packets(source=ip_network(source), target=ip_network(target))
            verdicts = {walk(one, "filter", "FORWARD", packets).target for one in (his, ours)}
            assert len(verdicts) == 1
