"""Networks that may not talk, whoever said so: the administrator in iptables, wherever his rule stands, or the groups
of the settings. By real packets, for each of the ways in which weft lays its rules out.

The hosts are those of `support/firewall_wire.py`; blue is in the overlay, and red at its other end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.eventually import soon
from tests.support.firewall_wire import BLUE, DEV, GREY, RED, Loader, Wire, lost, reaches, seen_as, settle, wired
from tests.support.needs import needs_root
from tests.support.rulesets import DOCKER_20, DOCKER_28
from weft.core.firewall import Site, Span, wanted, wanted_by_shared, wanted_by_span
from weft.core.ruleset import SHARED, shared_label
from weft.model import IPNetwork
from weft.objects import Chain, Jump, Key
from weft.targets.firewall import FirewallTarget

pytestmark = needs_root

OWN = (ip_network("172.18.0.0/16"), ip_network("fd18::/64"))
THERE = ip_network("172.20.0.0/16")
SPAN = ip_network("172.16.0.0/13")
"""Of 172.18, 172.19 and 172.20."""
RECIPE = "FORWARD -s 172.18.0.0/16 -d 172.20.0.0/16 -j DROP"
DOCKER_STARTS = "*filter\n-D FORWARD -j DOCKER-USER\n-I FORWARD 1 -j DOCKER-USER\nCOMMIT\n"
"""What the engine does at its start: its jump to DOCKER-USER, our accepts behind it, is on top again."""
Layout = Callable[[Site], list[Chain | Jump]]


def beside(site: Site) -> list[Chain | Jump]:
    """`weft registrar` on another daemon's device, which is a relay, too."""
    return wanted_by_shared(site, 4)


def alone(site: Site) -> list[Chain | Jump]:
    """`weft agent`."""
    return wanted(site)


def spanning(site: Site) -> list[Chain | Jump]:
    """`weft flanneld -ip-masq`."""
    return wanted_by_span(site, [Span(SPAN, masquerade=True)])


LAYOUTS: dict[str, Layout] = {"agent": alone, "flanneld": spanning, "registrar": beside}


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


Combination = tuple[str, str]
COMBINATIONS = [("nft", "agent"), ("nft", "flanneld"), ("nft", "registrar"), ("legacy", "registrar")]
"""Implementations of iptables and layouts: the first differ in nothing but how they are told, and tell."""


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def combination(request: pytest.FixtureRequest) -> Combination:
    found: Combination = request.param
    return found


@pytest.fixture
def east(combination: Combination, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """`east` is a host whose plain `iptables` is this implementation."""
    loader = Loader(wire.east, combination[0], tmp_path)
    if not loader.works:
        pytest.skip(f"iptables-{combination[0]} does not work here")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return loader


class Agent:
    """The firewall part of a daemon on `east`."""

    def __init__(self, target: FirewallTarget, layout: Layout) -> None:
        self.target = target
        self.layout = layout
        self.own: tuple[IPNetwork, ...] = OWN
        self.apart: tuple[tuple[IPNetwork, IPNetwork], ...] = ()

    async def cycle(self) -> list[Key]:
        await self.target.read(full=True)
        label = shared_label("registrar", DEV) if self.layout is beside else ""
        transit = (DEV,) if self.layout is beside else ()
        site = Site(DEV, self.own, self.target.chains, self.target.refused, self.apart, transit, label)
        return await settle(self.target, self.layout(site))


@pytest_asyncio.fixture
async def agent(combination: Combination, wire: Wire) -> AsyncIterator[Agent]:
    target = FirewallTarget(str(wire.east.path), lambda label: label == DEV or label.startswith(SHARED))
    yield Agent(target, LAYOUTS[combination[1]])
    target.close()


def only(*combinations: Combination) -> pytest.MarkDecorator:
    """Where the layouts, or the implementations, don't differ."""
    return pytest.mark.parametrize("combination", combinations, ids="-".join, indirect=True)


WORDS = [
    f"-I {RECIPE}",
    f"-A {RECIPE}",
    "-A FORWARD -i br-blue -o vxlan4096 -j DROP",
    "-I FORWARD -s 172.18.0.2/32 -p udp -m comment --comment none -j REJECT --reject-with icmp-port-unreachable",
    "-I DOCKER-USER -d 172.20.0.0/16 -j DROP",
    "-A DOCKER-USER ! -i vxlan4096 -d 172.20.0.0/16 -j REJECT",
    "-I FORWARD -s 172.18.0.0/16 -d 172.20.0.0/16 -m conntrack --ctstate NEW -j DROP",
]


async def test_an_administrators_word_holds_wherever_it_stands(wire: Wire, east: Loader, agent: Agent) -> None:
    east(DOCKER_28 if agent.layout is alone else DOCKER_20)
    await agent.cycle()
    assert seen_as(wire.blue, wire.red, RED) == BLUE
    for words in WORDS:
        east.iptables(words)
        await agent.cycle()
        assert lost(wire.blue, wire.red, RED), words
        assert await agent.cycle() == [], words
        east.iptables(words.replace("-I ", "-D ", 1).replace("-A ", "-D ", 1))
        await agent.cycle()
    assert seen_as(wire.blue, wire.red, RED) == BLUE
    assert seen_as(wire.red, wire.blue, BLUE) == RED
    assert "ADM" not in east.save()


async def test_the_recipe_is_there_before_us_and_outlives_a_restart_of_docker(
    wire: Wire, east: Loader, agent: Agent
) -> None:
    east(DOCKER_20)
    east.iptables(f"-I {RECIPE}")
    await agent.cycle()
    assert lost(wire.blue, wire.red, RED)
    assert seen_as(wire.red, wire.blue, BLUE) == RED, "the recipe's other half is another rule"
    east(DOCKER_STARTS)
    assert lost(wire.blue, wire.red, RED)
    await agent.cycle()
    assert lost(wire.blue, wire.red, RED)


@only(COMBINATIONS[0], *COMBINATIONS[2:])
async def test_the_recipe_for_ipv6(wire: Wire, east: Loader, agent: Agent) -> None:
    east("*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\nCOMMIT\n", 6)
    await agent.cycle()
    assert seen_as(wire.blue, wire.red, "fd20::2") == "fd18::2"
    east.iptables("-A FORWARD -s fd18::/64 -d fd20::/64 -j DROP", 6)
    await agent.cycle()
    assert lost(wire.blue, wire.red, "fd20::2")


async def test_an_exception_stays_one(wire: Wire, east: Loader, agent: Agent) -> None:
    """Of a network that may not be talked to, one address may."""
    east(DOCKER_20)
    east.iptables(f"-I {RECIPE}")
    east.iptables("-I FORWARD -s 172.18.0.2/32 -d 172.20.0.0/16 -j ACCEPT")
    east(DOCKER_STARTS)
    await agent.cycle()
    assert seen_as(wire.blue, wire.red, RED) == BLUE
    wire.blue.ip("address add 172.18.0.3/16 dev eth0")
    wire.blue.ip("route replace default via 172.18.0.1 src 172.18.0.3")
    assert lost(wire.blue, wire.red, RED)


async def test_answers_may_come_back_if_the_administrator_says_so(wire: Wire, east: Loader, agent: Agent) -> None:
    """One direction: blue begins no conversation with red, and answers red's."""
    east(DOCKER_20)
    east.iptables(f"-I {RECIPE}")
    east.iptables("-I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    east(DOCKER_STARTS)
    await agent.cycle()
    assert reaches(wire.red, BLUE)
    assert not reaches(wire.blue, RED)


async def test_a_rule_that_counts_is_left_where_it_stands(wire: Wire, east: Loader, agent: Agent) -> None:
    """`limit` twice would be twice the limit, and its DROP alone would be no limit at all."""
    east(DOCKER_20)
    east.iptables("-I FORWARD -s 172.18.0.0/16 -j DROP")
    east.iptables("-I FORWARD -s 172.18.0.0/16 -m limit --limit 1/sec -j ACCEPT")
    east(DOCKER_STARTS)
    await agent.cycle()
    assert "ADM" not in east.save()
    assert seen_as(wire.blue, wire.red, RED) == BLUE


async def test_a_rule_about_the_overlay_alone_touches_nothing_else(wire: Wire, east: Loader, agent: Agent) -> None:
    east(DOCKER_20)
    east("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
    east.iptables("-A FORWARD -s 10.66.0.0/16 -d 10.67.0.0/16 -i eth7 -o eth8 -j DROP")
    await agent.cycle()
    if agent.layout is not spanning:
        assert "ADM" not in east.save(), "no packet of ours is ever in on eth7 and out on eth8"
    assert seen_as(wire.grey, wire.blue, BLUE) == GREY, "from bridge to bridge"


@only(COMBINATIONS[0])
async def test_the_kernel_tells_of_a_new_refusal(east: Loader, agent: Agent) -> None:
    east(DOCKER_20)
    woken: list[bool] = []
    agent.target.watch(lambda: woken.append(True))
    await agent.cycle()
    woken.clear()
    east.iptables(f"-A {RECIPE}")
    await soon(lambda: woken, "the kernel to tell of the rule")
    await agent.target.read()
    assert (4, RECIPE.removeprefix("FORWARD ")) in agent.target.refused


# ---- groups ----


async def test_groups_do_not_talk_whoever_accepts(wire: Wire, east: Loader, agent: Agent) -> None:
    east(DOCKER_20)
    east.iptables("-I DOCKER-USER -j ACCEPT")
    await agent.cycle()
    assert reaches(wire.blue, RED)
    agent.apart = ((OWN[0], THERE),)
    await agent.cycle()
    assert lost(wire.blue, wire.red, RED)
    assert lost(wire.red, wire.blue, BLUE)
    assert ", 0% packet loss" in wire.east.run("ping", "-c1", "-W1", RED), "the host itself is in no group"
    agent.apart = ()
    await agent.cycle()
    assert reaches(wire.blue, RED)
    assert "WEFT" in east.save()
    assert "-ISO\n" not in east.save()


async def test_groups_of_one_host_do_not_talk_either(wire: Wire, east: Loader, agent: Agent) -> None:
    east("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
    agent.apart = ((OWN[0], ip_network("172.19.0.0/16")),)
    await agent.cycle()
    assert lost(wire.grey, wire.blue, BLUE)
    assert lost(wire.blue, wire.grey, GREY)


# ---- relaying ----

PINK = "172.21.0.2"


@pytest.fixture
def relay(wire: Wire) -> None:
    """What red sends to 172.21.0.2, west sends to east, which sends it back by the same device: two hosts' packets, as
    a relay sees them."""
    wire.east.run("sysctl", "-qw", f"net.ipv4.conf.{DEV}.send_redirects=0", "net.ipv4.conf.all.send_redirects=0")
    wire.east.ip("route add 172.21.0.0/16 via 192.0.2.2")
    wire.west.ip("link add br-pink type veth peer name eth9 netns " + wire.blue.name)
    wire.west.ip("address add 172.21.0.1/16 dev br-pink")
    wire.west.ip("link set br-pink up")
    wire.west.ip("rule add iif br-red lookup 99")
    wire.west.ip("route add default via 192.0.2.1 table 99")
    wire.west.ip("rule add iif br-pink lookup 99")
    # The second container is blue's namespace with another cable: pink.
    wire.blue.ip("address add 172.21.0.2/16 dev eth9")
    wire.blue.ip("link set eth9 up")
    wire.blue.ip("route add 172.20.0.0/16 via 172.21.0.1")


@only(*COMBINATIONS[2:])
async def test_a_relay_forwards_and_does_not_translate(wire: Wire, east: Loader, agent: Agent, relay: None) -> None:
    east(DOCKER_28)
    east("*nat\n-A POSTROUTING -o vxlan4096 -j MASQUERADE\nCOMMIT\n")
    assert lost(wire.red, wire.blue, PINK), "FORWARD's policy is DROP: without this the test proves nothing"
    await agent.cycle()
    assert seen_as(wire.red, wire.blue, PINK) == RED
    agent.own = ()
    await agent.cycle()
    assert seen_as(wire.red, wire.blue, PINK) == RED, "a relay needs no network of its own"
    east.iptables("-I FORWARD -s 172.20.0.0/16 -d 172.21.0.0/16 -j DROP")
    await agent.cycle()
    assert lost(wire.red, wire.blue, PINK)


@only(*COMBINATIONS[2:])
async def test_another_daemons_packets_pass_untouched(wire: Wire, east: Loader, agent: Agent) -> None:
    """grey is flannel's own, and not the registrar's."""
    east("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
    east("*nat\n-A POSTROUTING -s 172.19.0.0/16 ! -d 172.19.0.0/16 -j MASQUERADE\nCOMMIT\n")
    await agent.cycle()
    assert seen_as(wire.red, wire.grey, GREY) == RED
    assert seen_as(wire.grey, wire.red, RED) == "192.0.2.1", "as flanneld translates it"
    assert seen_as(wire.blue, wire.red, RED) == BLUE
