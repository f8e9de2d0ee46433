"""Multicast on real sockets: hosts are network namespaces on a bridge, which is in a namespace of its own.

Each host runs an event loop of its own in a thread that lives in its namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_address

import pytest

from tests.support.eventually import patience, until
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.discovery import Discovery
from weft.discovery.multicast import Multicast
from weft.discovery.options import MulticastSettings, default_group
from weft.discovery.tally import Refused
from weft.model import IPAddress, Known, Mac, Network, Node
from weft.wire.hello import Stamp
from weft.wire.router import encode_goodbye, encode_hello

pytestmark = needs_root
PORT = 4790


def node(number: int, *subnets: str, at: str = "") -> Node:
    networks = tuple(Network(text, (IPv4Network(text),), since=1.0) for text in subnets)
    endpoint = ip_address(at or f"192.0.2.{number}")
    mac = Mac(bytes((2, 0, 0, 0, 0, number)))
    return Node(f"host-{number}", (endpoint,), 4789, 4096, mac, 1500, networks, source="multicast")


@dataclass
class Cable:
    """A host's namespace, its number, and the bridge with the other end of its cable."""

    ns: Namespace
    number: int
    switch: Namespace

    def settings(self, **changes: object) -> MulticastSettings:
        source = ip_address(f"192.0.2.{self.number}")
        instance = f"{self.ns.name}-{time.monotonic_ns()}"
        base = MulticastSettings(f"host-{self.number}", "eth0", source, instance, goodbye_hold=0.2)
        return replace(base, **changes)  # type: ignore[arg-type]


class Host:
    """A running Multicast, driven from the test's thread. `announce` None: it only listens."""

    def __init__(self, cable: Cable, announce: Node | None, settings: MulticastSettings | None = None) -> None:
        self._cable = cable
        self._settings = settings or cable.settings()
        self._announced = announce
        self.known: list[tuple[float, Known[Node]]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._settings.node)

    def __enter__(self) -> Host:
        self._thread.start()
        assert self._ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with self._cable.ns.entered():
            asyncio.run(self._live())

    async def _live(self) -> None:
        self.discovery = Multicast(self._settings)
        checked: Discovery = self.discovery
        self._loop = asyncio.get_running_loop()
        if self._announced is not None:
            checked.announce(self._announced)
        self.started = time.monotonic()
        self._stop = asyncio.Event()
        self._ready.set()
        following = asyncio.create_task(self._follow(checked))
        await self._stop.wait()
        await checked.close()
        await following

    async def _follow(self, discovery: Discovery) -> None:
        async for known in discovery.peers():
            self.known.append((time.monotonic(), known))

    def announce(self, me: Node) -> None:
        self._loop.call_soon_threadsafe(self.discovery.announce, me)

    def close(self) -> None:
        """Goodbye, and wait until the loop has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(patience(30))
        frame = sys._current_frames().get(self._thread.ident or 0)
        assert not self._thread.is_alive(), "it has not ended:\n" + "".join(traceback.format_stack(frame))

    def die(self) -> None:
        """End without a goodbye, as kill -9 does: the cable is cut first."""
        self._cable.ns.ip("link set eth0 down")
        self.close()

    @property
    def last(self) -> Known[Node]:
        return self.known[-1][1] if self.known else Known()

    def ids(self) -> list[str]:
        return [peer.id for peer in self.last.items]

    def texts(self) -> str:
        return "\n".join(f"{p.subject}: {p.message}" for p in self.last.problems)

    def count(self, name: str) -> int:
        return self.discovery.counters().get(name, 0)

    def refused(self, why: Refused) -> int:
        return self.count(f"refused.{why}")

    def until(self, condition: Callable[[Known[Node]], bool], what: str, timeout: float = 10.0) -> float:
        """Wait until a set that it yields is so, and tell when that set came (monotonic)."""

        def came() -> list[float]:
            return [at for at, known in reversed(self.known[-1:]) if condition(known)]

        return until(came, f"{self._settings.node}: {what}; it has {self.last}", timeout)[0]

    def until_ids(self, *ids: str, timeout: float = 10.0) -> float:
        return self.until(lambda known: [peer.id for peer in known.items] == list(ids), f"peers {ids}", timeout)


@contextlib.contextmanager
def segment(count: int) -> Iterator[list[Cable]]:
    """So many hosts, 192.0.2.<number> and fd00::<number>, on one bridge."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(namespace("switch"))
        switch.ip("link add br0 type bridge mcast_snooping 0")
        switch.ip("link set br0 up")
        cables = []
        for number in range(1, count + 1):
            ns = stack.enter_context(namespace(f"h{number}"))
            veth(ns, "eth0", switch, f"port{number}")
            switch.ip(f"link set port{number} master br0")
            ns.ip(f"address add 192.0.2.{number}/24 dev eth0")
            ns.ip(f"address add fd00::{number}/64 dev eth0 nodad")
            cables.append(Cable(ns, number, switch))
        yield cables


@pytest.fixture
def pair() -> Iterator[list[Cable]]:
    with segment(2) as cables:
        yield cables


def send_from(cable: Cable, datagram: bytes, source: str = "", to: str = "239.1.1.1") -> None:
    """A datagram from this host's namespace. `source` may be an address that it gives itself first."""
    with cable.ns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mouth.bind((source or f"192.0.2.{cable.number}", 0))
        interface = socket.inet_aton(source or f"192.0.2.{cable.number}")
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        mouth.sendto(datagram, (to, PORT))


@contextlib.contextmanager
def ears_of(cable: Cable, at: str = "") -> Iterator[socket.socket]:
    """A socket that records what the group says, on the interface that has the address `at`."""
    with cable.ns.entered():
        ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ears.bind(("239.1.1.1", PORT))
        member = socket.inet_aton("239.1.1.1") + socket.inet_aton(at or f"192.0.2.{cable.number}")
        ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        ears.settimeout(patience(10))
    with ears:
        yield ears


def socket_index(cable: Cable) -> int:
    with cable.ns.entered():
        return socket.if_nametoindex("eth0")


@pytest.mark.parametrize("key", [None, b"secret"])
def test_hosts_find_each_other_within_a_second(key: bytes | None) -> None:
    with segment(3) as cables, contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(Host(cable, node(cable.number, f"10.{cable.number}.0.0/16"), cable.settings(key=key)))
            for cable in cables
        ]
        for number, host in enumerate(hosts, 1):
            others = [f"host-{other}" for other in (1, 2, 3) if other != number]
            assert host.until_ids(*others) - hosts[-1].started < patience(1.0)
            assert host.last.items[0].networks[0].subnets
            assert not host.last.complete
            assert not host.last.problems
            assert not any(name.startswith("refused.") for name in host.discovery.counters())
        seen = hosts[0].discovery.last_seen()
        assert set(seen) == {"host-2", "host-3"}
        assert all(abs(at - time.time()) < 20 for at in seen.values())


def test_a_late_host_learns_of_the_others_within_a_second(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first:
        until(lambda: first.count("received.own"), "the first to hear itself")
        with Host(pair[1], node(2)) as second:
            assert second.until_ids("host-1") - second.started < patience(1.0)
            assert first.until_ids("host-2") - second.started < patience(1.0)


def test_a_change_arrives_at_once_and_a_goodbye_after_its_hold(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2)) as second:
        first.until_ids("host-2")
        second.until_ids("host-1")
        changed = node(2, "10.2.0.0/16")
        begun = time.monotonic()
        second.announce(changed)
        assert first.until(lambda known: known.items == (changed,), "the change") - begun < patience(0.5)
        begun = time.monotonic()
        second.close()
        assert 0.2 <= first.until_ids() - begun < patience(0.7)
        assert second.count("sent.GOODBYE") == 2


def test_an_unchanged_announcement_yields_nothing(pair: list[Cable]) -> None:
    often = {"announce_interval": 0.05, "peer_timeout": 60.0}
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2), pair[1].settings(**often)):
        first.until_ids("host-2")
        before = len(first.known)
        until(lambda: first.count("received.HELLO") > 40, "many HELLOs")
        assert len(first.known) == before


def test_silence_ends_a_peer_and_the_set_gets_complete(pair: list[Cable]) -> None:
    short = {"announce_interval": 0.2, "peer_timeout": 0.8}
    with Host(pair[0], node(1), pair[0].settings(**short)) as first:
        with Host(pair[1], node(2), pair[1].settings(**short)) as second:
            first.until_ids("host-2")
            first.until(lambda known: known.complete, "a complete set")
            heard = first.discovery.last_seen()["host-2"] - time.time() + time.monotonic()
            second.die()
            begun = time.monotonic()
            gone = first.until_ids()
            assert gone - heard > 0.7
            assert gone - begun < patience(3.0)
        assert first.last.complete


def test_after_the_cable_was_out_they_find_each_other_again(pair: list[Cable]) -> None:
    """The peers stay meanwhile: routes to them are no worse than no routes."""
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2)) as second:
        first.until_ids("host-2")
        second.until_ids("host-1")
        begun = time.monotonic()
        pair[0].switch.ip("link set port1 down")
        assert first.until(
            lambda known: "eth0 has no carrier" in str(known.problems), "the problem"
        ) - begun < patience(0.4)
        assert first.ids() == ["host-2"]
        second.announce(node(2, "10.2.0.0/16"))
        pair[0].switch.ip("link set port1 up")
        first.until(lambda known: known.items == (node(2, "10.2.0.0/16"),) and not known.problems, "the new set")


def test_an_interface_that_is_taken_down_and_deleted_and_comes_back(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2)) as second:
        first.until_ids("host-2")
        pair[0].ns.ip("link set eth0 down")
        first.until(lambda known: "eth0 is down" in str(known.problems), "the problem")
        pair[0].ns.ip("link delete eth0")
        first.until(lambda known: "no such interface" in str(known.problems), "the other problem")
        veth(pair[0].ns, "eth0", pair[0].switch, "port1")
        pair[0].switch.ip("link set port1 master br0")
        first.until(lambda known: "is not an address of this host" in str(known.problems), "the third problem")
        pair[0].ns.ip("address add 192.0.2.1/24 dev eth0")
        second.announce(node(2, "10.2.0.0/16"))
        first.until(lambda known: known.items == (node(2, "10.2.0.0/16"),) and not known.problems, "the new set")


def test_an_address_that_goes_and_comes_back(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2)) as second:
        first.until_ids("host-2")
        begun = time.monotonic()
        pair[0].ns.ip("address delete 192.0.2.1/24 dev eth0")
        told = first.until(
            lambda known: "192.0.2.1 is not an address of this host" in str(known.problems), "the problem"
        )
        assert told - begun < patience(0.4)
        pair[0].ns.ip("address add 192.0.2.1/24 dev eth0")
        first.until(lambda known: not known.problems, "its end")
        second.announce(node(2, "10.2.0.0/16"))
        first.until(lambda known: known.items == (node(2, "10.2.0.0/16"),), "the change")


def test_a_group_that_was_lost_unnoticed_is_joined_again(pair: list[Cable]) -> None:
    often = pair[0].settings(announce_interval=0.3, peer_timeout=60.0)
    with Host(pair[0], node(1), often) as first, Host(pair[1], node(2)) as second:
        first.until_ids("host-2")
        assert first.discovery._group is not None
        member = struct.pack("=4s4si", socket.inet_aton("239.1.1.1"), bytes(4), socket_index(pair[0]))
        first.discovery._group.ears.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, member)
        assert "239.1.1.1" not in pair[0].ns.ip("maddress show dev eth0")
        until(lambda: "239.1.1.1" in pair[0].ns.ip("maddress show dev eth0"), "the group to be joined again")
        second.announce(node(2, "10.2.0.0/16"))
        first.until(lambda known: known.items == (node(2, "10.2.0.0/16"),) and not known.problems, "the change")


def test_only_the_uplink_is_spoken_and_listened_to(pair: list[Cable]) -> None:
    """The default route leads out of another interface, on which another program has joined the group."""
    with namespace("elsewhere") as elsewhere, contextlib.ExitStack() as stack:
        veth(pair[0].ns, "eth1", elsewhere, "eth0")
        pair[0].ns.ip("address add 198.51.100.1/24 dev eth1")
        elsewhere.ip("address add 198.51.100.9/24 dev eth0")
        pair[0].ns.ip("route add default via 198.51.100.9")
        stack.enter_context(ears_of(pair[0], at="198.51.100.1"))
        far = Cable(elsewhere, 9, pair[0].switch)
        settings = far.settings(source=ip_address("198.51.100.9"))
        stranger = stack.enter_context(Host(far, node(9, at="198.51.100.9"), settings))
        until(lambda: stranger.count("received.own"), "the stranger to speak")
        first, second = stack.enter_context(Host(pair[0], node(1))), stack.enter_context(Host(pair[1], node(2)))
        first.until_ids("host-2")
        second.until_ids("host-1")
        stranger.announce(node(9, "10.9.0.0/16", at="198.51.100.9"))
        until(lambda: stranger.count("received.own") >= 2, "the stranger to speak again")
        second.announce(node(2, "10.2.0.0/16"))
        first.until(lambda known: known.items == (node(2, "10.2.0.0/16"),), "the change, and nobody else")
        assert stranger.ids() == []


def test_a_changed_endpoint_is_followed_by_both_sides(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2)) as second:
        first.until_ids("host-2")
        pair[1].ns.ip("address add 192.0.2.77/24 dev eth0")
        moved = node(2, at="192.0.2.77")
        second.announce(moved)
        first.until(lambda known: known.items == (moved,), "the new endpoint")
        first.announce(node(1, "10.1.0.0/16"))
        second.until(lambda known: known.items == (node(1, "10.1.0.0/16"),), "the change")
        assert not first.refused(Refused.SPOOFED)


def test_an_endpoint_on_the_loopback_is_announced_out_of_the_uplink(pair: list[Cable]) -> None:
    """As routed fabrics have it: the tunnel ends on an address that is on no link."""
    pair[0].ns.ip("address add 192.0.2.77/32 dev lo")
    settings = pair[0].settings(source=ip_address("192.0.2.77"))
    with Host(pair[0], node(1, at="192.0.2.77"), settings), Host(pair[1], node(2)) as second:
        second.until(lambda known: known.items == (node(1, at="192.0.2.77"),), "the host behind its loopback")


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_a_host_that_was_killed_and_comes_back_renamed_is_known_at_once(pair: list[Cable], name: str) -> None:
    renamed = replace(node(2, "10.2.0.0/16"), id=name)
    with Host(pair[0], node(1)) as first:
        with Host(pair[1], node(2)) as second:
            first.until_ids("host-2")
            second.die()
        pair[1].ns.ip("link set eth0 up")
        assert first.ids() == ["host-2"]
        with Host(pair[1], renamed, pair[1].settings(node=name)) as third:
            first.until(lambda known: known.items == (renamed,), "the new name alone")
            third.until_ids("host-1")
        assert "host-2 at 192.0.2.2 is now " + name in first.texts()


def test_one_who_only_listens_learns_of_the_others_and_they_do_not_learn_of_it(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first:
        until(lambda: first.count("received.own"), "the first to hear itself")
        with Host(pair[1], None) as silent:
            assert silent.until_ids("host-1") - silent.started < patience(1.0)
        assert [name for name in silent.discovery.counters() if name.startswith("sent.")] == ["sent.QUERY"]
        assert first.ids() == []
        assert first.count("received.QUERY") >= 1


def test_several_programs_of_one_host_hear_each_other(pair: list[Cable]) -> None:
    other = pair[0].settings(node="host-9", instance="another")
    me = replace(node(9), endpoints=(ip_address("192.0.2.1"),), vni=5000)
    with Host(pair[0], node(1)) as first, Host(pair[0], me, other) as second, Host(pair[1], node(2)) as third:
        first.until_ids("host-2", "host-9")
        second.until_ids("host-1", "host-2")
        third.until_ids("host-1", "host-9")


def test_ipv6(pair: list[Cable]) -> None:
    def host(cable: Cable) -> Host:
        source: IPAddress = ip_address(f"fd00::{cable.number}")
        settings = cable.settings(source=source, group=default_group(source))
        return Host(cable, node(cable.number, at=str(source)), settings)

    with host(pair[0]) as first, host(pair[1]) as second:
        assert first.until_ids("host-2") - second.started < patience(1.0)
        assert second.until_ids("host-1") - second.started < patience(1.0)


def test_hosts_that_the_group_does_not_reach_are_told_directly(pair: list[Cable]) -> None:
    """One side names the other; the other answers directly whoever spoke to it directly."""
    apart = {"group": ip_address("239.9.9.9"), "direct": (ip_address("192.0.2.2"),)}
    with Host(pair[0], node(1), pair[0].settings(**apart)) as first, Host(pair[1], node(2)) as second:
        second.until_ids("host-1")
        first.until_ids("host-2")
        second.announce(node(2, "10.2.0.0/16"))
        first.until(lambda known: known.items == (node(2, "10.2.0.0/16"),), "the change")


def test_a_named_host_that_can_not_be_told_or_does_not_answer_is_a_problem(pair: list[Cable]) -> None:
    """The others are told all the same, and a host may name itself: one list for all hosts."""
    unreachable, forbidden, nobody = (ip_address(f"198.51.100.{number}") for number in (1, 2, 3))
    ns = pair[0].ns
    ns.ip("route add 198.51.100.0/24 dev eth0")
    ns.ip("route add unreachable 198.51.100.1")
    ns.run("iptables", "-I", "OUTPUT", "-d", "198.51.100.2", "-j", "DROP")
    named = (unreachable, forbidden, nobody, ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    often = {"announce_interval": 0.1, "peer_timeout": 0.5}
    settings = pair[0].settings(**often, group=ip_address("239.9.9.9"), direct=named)
    with Host(pair[0], node(1), settings) as first, Host(pair[1], node(2), pair[1].settings(**often)):
        first.until(lambda known: len(known.problems) == 3, "three problems")
        assert first.ids() == ["host-2"]
        assert (
            "198.51.100.1: host 198.51.100.1, named in `peers`, can't be told about this one: No route" in first.texts()
        )
        assert (
            "198.51.100.2, named in `peers`, can't be told about this one: Operation not permitted; a fire"
            in first.texts()
        )
        assert "198.51.100.3, named in `peers`, has not answered since 20" in first.texts()
        ns.ip("route delete unreachable 198.51.100.1")
        ns.run("iptables", "-F", "OUTPUT")
        first.until(lambda known: "can't be told" not in str(known.problems), "the end of both")
        first.until(lambda known: str(known.problems).count("has not answered") == 3, "silence")


def test_two_hundred_networks_cross_a_small_mtu_unfragmented(pair: list[Cable]) -> None:
    for cable in pair:
        cable.ns.ip("link set eth0 mtu 1280")
    many = node(2, *(f"10.{number}.0.0/16" for number in range(200)))
    with ears_of(pair[0]) as ears, Host(pair[0], node(1)) as first, Host(pair[1], many):
        first.until(lambda known: known.items == (many,), "all networks")
        heard = [ears.recv(65535) for _ in range(10)]
        assert max(map(len, heard)) <= 1280 - 28
        names, values = (line.split() for line in pair[1].ns.run("cat", "/proc/net/snmp").splitlines()[:2])
        assert dict(zip(names, values, strict=True))["FragCreates"] == "0"


def test_a_problem_of_the_announcement_itself_is_told_at_once(pair: list[Cable]) -> None:
    with Host(pair[0], None) as first:
        until(lambda: first.count("received.own"), "the first to hear itself")
        begun = time.monotonic()
        first.announce(node(1, at="fd00::1"))
        assert first.until(
            lambda known: "has no IPv4 endpoint" in str(known.problems), "the problem"
        ) - begun < patience(0.4)


def test_close_ends_it_at_any_moment(pair: list[Cable]) -> None:
    """Whatever its task is at: not begun, joining, sending, asleep, or just woken by a timer."""

    async def live(turns: int) -> None:
        discovery = Multicast(pair[0].settings(announce_interval=0.001))
        if turns % 3:
            discovery.announce(node(1))

        async def follow() -> None:
            async for _ in discovery.peers():
                pass

        following = asyncio.create_task(follow())
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(patience(10)):
            await discovery.close()
            await following

    with pair[0].ns.entered():
        for turns in range(100):
            asyncio.run(live(turns))


# Enemies. -----------------------------------------------------------------------------------------------------------


def test_a_wrong_key_and_none_are_refused_and_said() -> None:
    with segment(3) as cables, contextlib.ExitStack() as stack:
        keys = (b"right", b"wrong", None)
        first, second, third = [
            stack.enter_context(Host(cable, node(cable.number), cable.settings(key=key)))
            for cable, key in zip(cables, keys, strict=True)
        ]
        for host in (first, second, third):
            host.until(lambda known: len(known.problems) == 2, "two problems")
            assert host.ids() == []
        assert "192.0.2.2: a datagram from 192.0.2.2 is sealed with another key" in first.texts()
        assert "192.0.2.3: 192.0.2.3 sends without a key" in first.texts()
        assert "192.0.2.1: 192.0.2.1 seals its datagrams" in third.texts()
        assert first.refused(Refused.WRONG_KEY) >= 1
        assert first.refused(Refused.UNSEALED) >= 1
        assert third.refused(Refused.SEALED) >= 2


def test_a_recorded_datagram_sent_again_brings_nobody_back() -> None:
    with segment(3) as cables:
        key = {"key": b"secret"}
        with ears_of(cables[2]) as ears, Host(cables[0], node(1), cables[0].settings(**key)) as first:
            with Host(cables[1], node(2), cables[1].settings(**key)):
                first.until_ids("host-2")
                recorded = next(data for data in iter(lambda: ears.recv(65535), b"") if b'"host-2"' in data)
            first.until_ids()
            cables[2].ns.ip("address add 192.0.2.2/32 dev eth0")
            begun = time.monotonic()
            while not first.refused(Refused.REPLAYED) and time.monotonic() < begun + patience(10):
                send_from(cables[2], recorded, source="192.0.2.2")
                ears.recv(65535)
            first.until(lambda known: "refused as a replay" in str(known.problems), "the problem")
            assert first.ids() == []


def test_a_spoofed_hello_and_a_spoofed_goodbye_are_refused() -> None:
    with segment(3) as cables, Host(cables[0], node(1)) as first, Host(cables[1], node(2)):
        first.until_ids("host-2")
        stamp = Stamp("whatever", 1, 10_000)
        send_from(cables[2], encode_hello(node(2, "10.66.0.0/16"), stamp, 1400)[0])
        send_from(cables[2], encode_goodbye(node(2), stamp))
        until(lambda: first.refused(Refused.SPOOFED) == 2, "both to be refused")
        assert first.last.items == (node(2),)
        first.until(lambda known: "192.0.2.3 claims to come from host-2 at 192.0.2.2" in str(known.problems), "it said")


def test_a_second_host_with_the_same_id_is_refused_and_both_are_named() -> None:
    with segment(3) as cables, Host(cables[0], node(1)) as first, Host(cables[1], node(2)) as second:
        first.until_ids("host-2")
        twin = replace(node(3), id="host-2")
        with Host(cables[2], twin, cables[2].settings(node="host-2")) as third:
            first.until(
                lambda known: "at 192.0.2.2, which was first, and one at 192.0.2.3" in str(known.problems), "it"
            )
            second.until(lambda known: "it is at 192.0.2.3, this one at 192.0.2.2" in str(known.problems), "it")
            third.until(lambda known: "it is at 192.0.2.2, this one at 192.0.2.3" in str(known.problems), "it")
            assert first.last.items == (node(2),)


def test_a_firewall_that_drops_the_group_is_noticed(pair: list[Cable]) -> None:
    pair[0].ns.run("iptables", "-I", "INPUT", "-p", "udp", "--dport", str(PORT), "-j", "DROP")
    with Host(pair[0], node(1)) as first, Host(pair[1], node(2)):
        first.until(lambda known: "does not come back to it" in str(known.problems), "the problem")
        pair[0].ns.run("iptables", "-F", "INPUT")
        first.until(lambda known: not known.problems, "its end")
        first.until_ids("host-2")


def test_rubbish_on_the_port_is_counted(pair: list[Cable]) -> None:
    with Host(pair[0], node(1)) as first:
        until(lambda: first.count("received.own"), "the first to hear itself")
        for datagram in (b"", b"{}", b"\xff" * 1400, b'{"type":"TABLE_SYNC","version":1}'):
            send_from(pair[1], datagram)
        until(lambda: first.refused(Refused.MALFORMED) == 4, "all to be counted")
        assert not first.last.problems
