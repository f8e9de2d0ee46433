"""Probing over real cables: two namespaces, cut in every way that a network knows, and FRR at one end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from benchmarks.starvation import starve
from tests.support.eventually import patience, soon, until
from tests.support.frr import bfdd, needs_frr
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.agent.liveness import Liveness, LivenessOptions, Reaches, session_key
from weft.agent.prober import Prober
from weft.core.probing import pace
from weft.model import IPAddress, Path, Reach

pytestmark = needs_root

DETECTED = 3.0
"""Seconds in which a cut path of 200 ms × 3 is noticed on any machine; that it takes 600 ms, and no more, is tested in
virtual time (tests/unit/test_bfd_session.py)."""
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


@dataclass
class Pair:
    """Two hosts, a and b, with one cable between them."""

    a: Namespace
    b: Namespace

    def path(self, name: str, version: int = 4, mtu: int = 0, device: str = "eth0") -> Path:
        """The path that host `name` probes to the other one."""
        here, there = ADDRESSES[version] if name == "a" else reversed(ADDRESSES[version])
        other = "b" if name == "a" else "a"
        return Path(other, "tunnel" if device else "underlay", device, ip_address(here), ip_address(there), mtu)

    def drop(self, name: str, rule: str) -> None:
        """What host `name` sends is dropped if this holds of it, silently, as on a path far away."""
        ns = self.a if name == "a" else self.b
        ns.run("nft", "-f", "-", stdin=DROPS.format(rule=rule))

    def mend(self) -> None:
        for ns in (self.a, self.b):
            ns.run("nft", "flush", "ruleset")


# Behind the output hook: what is dropped there, the sender hears of (EPERM).
DROPS = """
table netdev cut {{
    chain out {{ type filter hook egress device "eth0" priority 0; {rule} drop; }}
}}
"""


@pytest.fixture
def pair() -> Iterator[Pair]:
    with namespace("a") as a, namespace("b") as b:
        veth(a, "eth0", b, "eth0")
        for ns, number in ((a, 0), (b, 1)):
            ns.ip(f"address add {ADDRESSES[4][number]}/24 dev eth0")
            ns.ip(f"address add {ADDRESSES[6][number]}/64 dev eth0 nodad")
        yield Pair(a, b)


@dataclass
class Watched:
    """A Liveness, and every set that it has yielded, with its time."""

    liveness: Liveness
    seen: list[tuple[float, Reaches]] = field(default_factory=list)

    @property
    def reach(self) -> Reach:
        """Of the one path that is probed."""
        (reach,) = self.seen[-1][1].values()
        return reach

    @property
    def all(self) -> dict[str, str]:
        """Kind → state, of every path."""
        return {kind: reach.state for (_, kind), reach in self.seen[-1][1].items()} if self.seen else {}

    @property
    def state(self) -> str:
        return self.reach.state if self.seen and self.seen[-1][1] else ""

    @property
    def states(self) -> list[str]:
        return [reach.state for _, reaches in self.seen for reach in reaches.values()]

    async def wait(self, fits: Callable[[Reach], bool], what: str, timeout: float = 10.0) -> Reach:
        await soon(lambda: bool(self.seen and self.seen[-1][1]) and fits(self.reach), what, timeout)
        return self.reach

    async def comes_to(self, state: str, timeout: float = 10.0) -> float:
        """When it did, on time.monotonic()."""
        await self.wait(lambda reach: reach.state == state, f"the path to be {state}", timeout)
        return self.seen[-1][0]


@asynccontextmanager
async def watching(ns: Namespace, *paths: Path, key: str = "") -> AsyncIterator[Watched]:
    watched = Watched(Liveness(LivenessOptions(key=key, netns=str(ns.path))))

    async def read() -> None:
        async for reaches in watched.liveness.reaches():
            watched.seen.append((time.monotonic(), reaches))

    task = asyncio.create_task(read())
    try:
        watched.liveness.probe(paths)
        yield watched
    finally:
        await watched.liveness.close()
        await task


@asynccontextmanager
async def both_up(pair: Pair, mtu: int = 0, key: str = "") -> AsyncIterator[tuple[Watched, Watched]]:
    async with (
        watching(pair.a, pair.path("a", mtu=mtu), key=key) as a,
        watching(pair.b, pair.path("b", mtu=mtu), key=key) as b,
    ):
        await a.comes_to("up")
        await b.comes_to("up")
        yield a, b


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("device", ["eth0", ""])
@pytest.mark.parametrize("key", ["", "a key of more than twenty octets"])
async def test_two_hosts_find_each_other_at_once(pair: Pair, version: int, device: str, key: str) -> None:
    began = time.monotonic()
    async with (
        watching(pair.a, pair.path("a", version, 1500, device), key=key) as a,
        watching(pair.b, pair.path("b", version, 1500, device), key=key) as b,
    ):
        assert await a.comes_to("up") - began < patience(1.0)
        await b.comes_to("up")
        assert (await a.wait(lambda reach: reach.full is True, "large packets to get through")).reason == ""
        assert abs(a.reach.since - time.time()) < 10
        assert list(a.seen[-1][1]) == [("b", "tunnel" if device else "underlay")]
        assert a.states[0] == "unknown"


@pytest.mark.parametrize(("cut", "reason"), [("a", "one way only"), ("b", "nothing is heard"), ("ab", "nothing")])
async def test_a_cut_is_noticed_in_time_whichever_way_it_is(pair: Pair, cut: str, reason: str) -> None:
    async with both_up(pair) as (a, b):
        await soon(lambda: a.liveness.counters()["received"] > 10, "fast packets")
        for name in cut:
            pair.drop(name, "")
        began = time.monotonic()
        assert await a.comes_to("down") - began < DETECTED
        assert await b.comes_to("down") - began < DETECTED
        assert a.reach.reason.startswith(reason)
        pair.mend()
        await a.comes_to("up", 2.5)
        await b.comes_to("up", 2.5)


async def test_a_link_that_goes_down_is_named_and_comes_back(pair: Pair) -> None:
    async with both_up(pair) as (a, b):
        pair.a.ip("link set eth0 down")
        await a.comes_to("down")
        await b.comes_to("down")
        await a.wait(lambda reach: "no way to 192.0.2.2 over eth0" in reach.reason, "the reason")
        pair.a.ip("link set eth0 up")
        await a.comes_to("up")
        await b.comes_to("up")


async def test_a_device_and_an_address_that_come_later_are_found(pair: Pair) -> None:
    path = Path("b", "tunnel", "late0", ip_address("198.51.100.1"), ip_address("198.51.100.2"))
    back = Path("a", "tunnel", "late0", ip_address("198.51.100.2"), ip_address("198.51.100.1"))
    async with watching(pair.a, path) as a, watching(pair.b, back) as b:
        await a.wait(lambda reach: reach.reason == "there is no interface late0 here", "the reason")
        veth(pair.a, "late0", pair.b, "late0")
        await a.wait(lambda reach: reach.reason == "198.51.100.1 is not an address of this host", "the reason")
        for ns, host in ((pair.a, 1), (pair.b, 2)):
            ns.ip(f"address add 198.51.100.{host}/24 dev late0")
        await a.comes_to("up")
        await b.comes_to("up")
        pair.a.ip("link delete late0")  # the same name, another device: what was bound to the old one hears nothing
        await a.comes_to("down")
        veth(pair.a, "late0", pair.b, "late0")
        for ns, host in ((pair.a, 1), (pair.b, 2)):
            ns.ip(f"address add 198.51.100.{host}/24 dev late0")
        await a.comes_to("up")
        await b.comes_to("up")


async def test_a_hole_for_large_packets_is_no_cut(pair: Pair) -> None:
    pair.drop("a", "meta length > 1400")
    async with both_up(pair, mtu=1500) as (a, b):
        for watched in (a, b):
            reach = await watched.wait(lambda reach: reach.full is False, "the hole to be noticed")
            assert reach.state == "up"
            assert "packets of 1500 octets" in reach.reason
        assert "down" not in a.states + b.states


async def test_a_device_with_a_smaller_mtu_is_known_at_once(pair: Pair) -> None:
    pair.a.ip("link set eth0 mtu 1400")
    async with both_up(pair, mtu=1500) as (a, _):
        reach = await a.wait(lambda reach: reach.full is False, "the MTU to be noticed", 2.0)
        assert reach.reason == "packets of 1500 octets to 192.0.2.2 over eth0 don't fit: eth0 has a smaller MTU"


async def test_a_peer_without_the_key_never_comes_up(pair: Pair) -> None:
    async with (
        watching(pair.a, pair.path("a"), key="a key") as a,
        watching(pair.b, pair.path("b"), key="another") as b,
    ):
        for watched in (a, b):
            await watched.comes_to("down")
            await watched.wait(lambda reach: reach.reason.startswith("authentication"), "the reason")
            assert watched.liveness.counters()["refused.authentication"] > 0
            assert "up" not in watched.states


async def test_a_goodbye_is_no_alarm(pair: Pair) -> None:
    async with watching(pair.a, pair.path("a")) as a:
        async with watching(pair.b, pair.path("b")):
            await a.comes_to("up")
        await a.comes_to("unknown", 1.0)
        assert "goodbye" in a.reach.reason
        async with watching(pair.b, pair.path("b")):
            await a.comes_to("up")
        assert "down" not in a.states


CHILD = """
import asyncio, sys
from ipaddress import ip_address
from weft.agent.liveness import Liveness, LivenessOptions
from weft.model import Path

async def main():
    liveness = Liveness(LivenessOptions())
    liveness.probe([Path("a", "tunnel", sys.argv[1], ip_address("192.0.2.2"), ip_address("192.0.2.1"), mtu=1400)])
    async for reaches in liveness.reaches():
        print(*(reach.state for reach in reaches.values()), flush=True)

asyncio.run(main())
"""


@contextmanager
def child(ns: Namespace, device: str = "eth0") -> Iterator[subprocess.Popen[bytes]]:
    """Host b's end, as a process of its own; its lines are read without waiting."""
    process = subprocess.Popen(ns.command(sys.executable, "-c", CHILD, device), stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_crashed_agent_is_no_cut_and_its_restart_no_alarm(pair: Pair) -> None:
    """kill -9: its host says that the port is closed, which proves the path."""
    async with watching(pair.a, pair.path("a")) as a:
        with child(pair.b):
            await a.comes_to("up", 20.0)
        await a.comes_to("unknown")
        assert "refuses UDP port 4784" in a.reach.reason
        async with watching(pair.b, pair.path("b")):
            await a.comes_to("up")
        assert a.states.count("down") <= (a.states.index("up") > 1)  # before it was up, at most


@pytest.mark.parametrize("key", ["", "a key"])
async def test_a_restart_without_a_goodbye_is_not_even_noticed(pair: Pair, key: str) -> None:
    async with watching(pair.a, pair.path("a"), key=key) as a:
        async with watching(pair.b, pair.path("b"), key=key) as b:
            await a.comes_to("up")
            await b.comes_to("up")
            pair.drop("b", "")
        pair.mend()
        heard = a.liveness.counters()["received"]
        async with watching(pair.b, pair.path("b"), key=key) as b:
            await b.comes_to("up")
            await soon(lambda: a.liveness.counters()["received"] > heard + 15, "packets to flow again")
            assert set(a.states) == {"unknown", "up"}
            assert a.states.count("up") == 1


async def test_a_process_that_was_stopped_raises_no_alarm_of_its_own(pair: Pair) -> None:
    """The other end's alarm is right: it hears nothing. Ours would be wrong."""
    async with watching(pair.a, pair.path("a")) as a:
        with child(pair.b) as process:
            assert process.stdout is not None
            await a.comes_to("up", 20.0)
            process.send_signal(signal.SIGSTOP)
            await a.comes_to("down")
            process.stdout.read()
            process.send_signal(signal.SIGCONT)
            await a.comes_to("up")
            said = (process.stdout.read() or b"").decode().split()
        # Host a told it that it is down, for it was; that is a fact of the other end's, and names itself as such.
        assert said.count("down") <= 1


async def test_paths_may_come_and_go_while_others_stay(pair: Pair) -> None:
    for ns, host in ((pair.a, 11), (pair.b, 12)):
        ns.ip(f"address add 192.0.2.{host}/24 dev eth0")
    more = Path("c", "underlay", "", ip_address("192.0.2.11"), ip_address("192.0.2.12"))
    back = Path("c", "underlay", "", ip_address("192.0.2.12"), ip_address("192.0.2.11"))
    async with both_up(pair) as (a, b):
        since = a.reach.since
        a.liveness.probe([pair.path("a"), more, more])
        b.liveness.probe([pair.path("b"), back])
        await soon(lambda: a.all == {"tunnel": "up", "underlay": "up"}, "both paths to be up")
        assert a.seen[-1][1]["b", "tunnel"].since == since
        a.liveness.probe([pair.path("a")])
        await soon(lambda: list(a.seen[-1][1]) == [("b", "tunnel")], "one path to be left")
        await soon(lambda: b.seen[-1][1]["c", "underlay"].state == "unknown", "the goodbye to be heard")
        a.liveness.probe([])
        await soon(lambda: not a.seen[-1][1], "no path to be left")


def tunnelled(pair: Pair) -> tuple[IPAddress, IPAddress]:
    """weft's own VXLAN between the two; their addresses, which are the underlay's."""
    one, two = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    for ns, here, other in ((pair.a, one, two), (pair.b, two, one)):
        mine, its = (f"02:00:00:00:00:0{str(address)[-1]}" for address in (here, other))
        ns.ip(f"link add vxlan7600 address {mine} type vxlan id 7600 dstport 8472 local {here} nolearning")
        ns.ip("link set vxlan7600 up")
        ns.ip(f"neighbour add {other} lladdr {its} dev vxlan7600 nud permanent")
        ns.bridge(f"fdb add {its} dev vxlan7600 dst {other}")
    return one, two


async def test_a_crashed_agent_behind_wefts_own_tunnel_is_no_cut_either(pair: Pair) -> None:
    """What its host answers comes by the underlay: the tunnel's addresses are the underlay's."""
    one, two = tunnelled(pair)
    async with watching(pair.a, Path("b", "tunnel", "vxlan7600", one, two, 1400)) as a:
        with child(pair.b, "vxlan7600"):
            await a.comes_to("up", 20.0)
            began = len(a.seen)
        await a.comes_to("unknown")
        assert "refuses UDP port 4784" in a.reach.reason
        assert "down" not in [reach.state for _, reaches in a.seen[began:] for reach in reaches.values()]


async def test_the_underlay_does_not_hear_what_came_through_the_tunnel(pair: Pair) -> None:
    """The same two addresses on both ways, as weft's own VXLAN has them."""
    one, two = tunnelled(pair)
    ways = [("tunnel", "vxlan7600"), ("underlay", "")]
    paths = {
        name: [Path("x", kind, device, here, there) for kind, device in ways]  # type: ignore[arg-type]
        for name, here, there in (("a", one, two), ("b", two, one))
    }
    async with watching(pair.a, *paths["a"]) as a, watching(pair.b, *paths["b"]) as b:
        for watched in (a, b):
            await soon(lambda: watched.all == {"tunnel": "up", "underlay": "up"}, "both ways to be up")  # noqa: B023
        pair.a.ip("link set vxlan7600 down")
        for watched in (a, b):
            await soon(lambda: watched.all == {"tunnel": "down", "underlay": "up"}, "the tunnel to be down")  # noqa: B023


async def test_rubbish_and_strangers_are_counted_and_change_nothing(pair: Pair) -> None:
    async with both_up(pair) as (a, _):
        with pair.b.entered():
            stranger = asyncio.get_running_loop().run_in_executor(None, _throw_rubbish, pair.b)
        await stranger
        counters = a.liveness.counters
        await soon(lambda: counters().get("refused.malformed", 0) >= 80, "the rubbish to be refused")
        assert counters()["refused.unknown"] >= 100
        assert set(a.states) == {"unknown", "up"}


def _throw_rubbish(ns: Namespace) -> None:
    import socket

    with ns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(100):
            sender.sendto(bytes(number), ("192.0.2.1", 4784))  # its discriminator, if any, is 0: the sender's address
            sender.sendto(b"\x20\xc0\x03\x18" + b"\xff" * 20, ("192.0.2.1", 4784))


async def test_another_program_on_the_port_is_named(pair: Pair) -> None:
    import socket

    with pair.a.entered():
        squatter = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        squatter.bind(("0.0.0.0", 4784))
    async with watching(pair.a, pair.path("a")) as a:
        await a.wait(lambda reach: "another program here listens" in reach.reason, "the reason")
        squatter.close()
        async with watching(pair.b, pair.path("b")):
            await a.comes_to("up")


async def test_a_firewall_here_is_named(pair: Pair) -> None:
    pair.a.run("nft", "add table ip f; add chain ip f o { type filter hook output priority 0; policy drop; }")
    async with watching(pair.a, pair.path("a")) as a:
        await a.wait(lambda reach: "a firewall here" in reach.reason, "the reason")
        await a.comes_to("down")


async def test_packets_are_as_the_rfcs_want_them(pair: Pair) -> None:
    """RFC 5883: port 4784, from 49152 to 65535, with TTL 255; and never fragmented."""
    capture = await asyncio.create_subprocess_exec(
        *pair.b.command("tcpdump", "-nvl", "-c", "4", "-i", "eth0", "udp port 4784 and src 192.0.2.1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert capture.stderr is not None
    assert b"listening" in await capture.stderr.readline()
    async with both_up(pair):
        out, _ = await capture.communicate()
    text = out.decode()
    assert text.count("ttl 255") == text.count("flags [DF]") == 4
    ports = {int(word.rsplit(".", 1)[1]) for word in text.split() if word.startswith("192.0.2.1.")}
    assert len(ports) == 1
    assert 49152 <= ports.pop() <= 65535


def test_a_key_that_fits_is_taken_as_it_is() -> None:
    assert session_key("") == b""
    assert session_key("exactly twenty octet") == b"exactly twenty octet"
    assert len(session_key("exactly twenty octets")) == 20


async def test_close_ends_the_reading_and_probing_does_not_begin_again(pair: Pair) -> None:
    liveness = Liveness(LivenessOptions(netns=str(pair.a.path)))
    assert liveness.counters() == {}
    await liveness.close()
    liveness.probe([pair.path("a")])
    assert [reaches async for reaches in liveness.reaches()] == []


async def test_what_breaks_probing_is_raised_and_it_begins_anew(pair: Pair) -> None:
    liveness = Liveness(LivenessOptions(netns=str(pair.a.path)))
    broken = pair.path("a")
    object.__setattr__(broken, "local", None)
    liveness.probe([broken])
    with pytest.raises(AttributeError):
        await anext(liveness.reaches())
    liveness.probe([pair.path("a")])
    async for reaches in liveness.reaches():
        assert reaches["b", "tunnel"].state == "unknown"
        break
    await liveness.close()


def test_a_stall_of_ones_own_is_no_silence_of_the_other(pair: Pair) -> None:
    """Ticks at times of the test's own: one end ticks 5 s late, and what was said meanwhile is lost."""
    hosts = {"a": pair.a, "b": pair.b}
    ends = {name: Prober(120) for name in hosts}
    for name, end in ends.items():
        with hosts[name].entered():
            end.probe([pair.path(name)], 0.0)

    def tick(name: str, now: float, late: float = 0.0) -> str:
        with hosts[name].entered():
            ends[name].tick(now, late)
        return next(iter(ends[name].reaches.values())).state

    for number in range(1, 50):
        assert "down" not in (tick("a", number * 0.09), tick("b", number * 0.09))
    pair.drop("b", "")
    ends["b"].close(4.5)
    assert tick("a", 9.5, late=5.0) == "up"
    assert ends["a"].counters["stalls"] == 1
    assert tick("a", 9.95) == "up"
    assert tick("a", 10.15) == "down"
    ends["a"].close(10.2)


async def test_an_event_loop_that_is_busy_makes_no_peer_miss_a_packet(pair: Pair) -> None:
    async with both_up(pair) as (a, b):
        sent = a.liveness.counters()["sent"]
        began = time.monotonic()
        until_then = began + patience(1.5)
        while (now := time.monotonic()) < began + 1.5 or (
            a.liveness.counters()["sent"] < sent + 6 and now < until_then
        ):
            sum(range(1000))
        assert a.liveness.counters()["sent"] >= sent + 6
        await soon(lambda: a.liveness.counters()["received"] > sent + 10, "packets")
        assert "down" not in a.states + b.states


def test_busy_cores_raise_no_alarm() -> None:
    """A short run of `python -m benchmarks.starvation`."""
    assert starve(5.0) == []


# FRR. ---------------------------------------------------------------------------------------------------------------


@needs_frr
@pytest.mark.parametrize("version", [4, 6])
async def test_frr_and_weft_agree(pair: Pair, version: int) -> None:
    here, there = ADDRESSES[version]
    peer = f"peer {here} multihop local-address {there}"
    with bfdd(pair.b, peer, "receive-interval 200", "transmit-interval 200", "detect-multiplier 3") as frr:

        def status() -> str:
            return str(frr.peers()[here]["status"])

        async with watching(pair.a, pair.path("a", version, 1500)) as a:
            await a.comes_to("up")
            until(lambda: status() == "up", "FRR to say up")
            until(lambda: frr.peers()[here]["remote-transmit-interval"] == 200, "FRR to learn the interval")
            assert frr.peers()[here]["remote-detect-multiplier"] == 3
            await a.wait(lambda reach: reach.full is True, "FRR to answer a large packet")
            pair.drop("b", "")
            began = time.monotonic()
            assert await a.comes_to("down") - began < DETECTED
            await soon(lambda: status() == "down", "FRR to hear of it")
            pair.mend()
            await a.comes_to("up")
            frr.vtysh("configure", "bfd", peer, "shutdown")
            await a.comes_to("unknown")
            assert "goodbye" in a.reach.reason
            frr.vtysh("configure", "bfd", peer, "no shutdown")
            await a.comes_to("up")
        until(lambda: status() == "down", "FRR to hear the goodbye")
        assert frr.peers()[here]["remote-diagnostic"] == "administratively down"


@needs_frr
async def test_new_intervals_are_agreed_on_with_frr(pair: Pair) -> None:
    peer = "peer 192.0.2.1 multihop local-address 192.0.2.2"
    with bfdd(pair.b, peer, "receive-interval 300", "transmit-interval 300") as frr:
        async with watching(pair.a, pair.path("a")) as a:
            await a.comes_to("up")
            many = [
                Path(f"n{n}", "underlay", "", ip_address("192.0.2.1"), ip_address(f"192.0.2.{n}"))
                for n in range(20, 60)
            ]
            rarer = 1000 * pace(41, a.liveness.options.budget).interval
            a.liveness.probe([pair.path("a"), *many])
            await soon(
                lambda: frr.peers()["192.0.2.1"]["remote-transmit-interval"] == rarer, "FRR to hear of the new interval"
            )
            assert a.seen[-1][1]["b", "tunnel"].state == "up"
            a.liveness.probe([pair.path("a")])
            await soon(lambda: frr.peers()["192.0.2.1"]["remote-transmit-interval"] == 200, "and of the old one")
            with suppress(AssertionError):
                await soon(lambda: a.state != "up", "an alarm, which there is none", 0.4)
            assert a.state == "up"
