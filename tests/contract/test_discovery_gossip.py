"""Gossip on real sockets: members are addresses of one network namespace, all in one event loop inside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest

from tests.support.eventually import soon
from tests.support.gossip_net import router
from tests.support.namespace import Namespace, namespace
from tests.support.needs import needs_root
from weft.core.swim_values import FAST, Address
from weft.discovery import DISCOVERIES, Discovery, Place
from weft.discovery.gossip import Gossip
from weft.discovery.gossip_options import GossipSettings
from weft.discovery.gossip_seeds import Seed, parse_seed, resolve
from weft.discovery.gossip_sockets import Connection
from weft.errors import DiscoveryError
from weft.model import IPAddress, Known, Node
from weft.settings.means import GossipMeans, Means
from weft.wire.table_sync import MOST

pytestmark = needs_root


@pytest.fixture(scope="module")
def ns() -> Iterator[Namespace]:
    with namespace("gossip") as made:
        for number in range(1, 10):
            made.ip(f"address add 10.9.0.{number}/32 dev lo")
            made.ip(f"address add fd00:9::{number}/128 dev lo nodad")
        yield made


@pytest.fixture
def inside(ns: Namespace) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a scenario in that namespace."""

    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with ns.entered():
            asyncio.run(scenario)

    return run


@dataclass
class Stage:
    """Members, and the last set of each."""

    members: dict[int, Gossip] = field(default_factory=dict)
    last: dict[int, Known[Node]] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def add(self, number: int, announce: Node | None = None, **changes: object) -> Gossip:
        settings = GossipSettings(
            f"host-{number}",
            ip_address(f"10.9.0.{number}"),
            f"i{number}-{len(self.tasks)}",
            seeds=("10.9.0.1",),
            pace=FAST,
            keys=(b"key",),
            goodbye_hold=0.3,
            fade=2.0,
        )
        made = Gossip(replace(settings, **changes))  # type: ignore[arg-type]
        self.follow(number, made)
        made.announce(announce or router(number, f"10.{number}.0.0/16"))
        return made

    def follow(self, number: int, made: Gossip) -> None:
        checked: Discovery = made
        self.members[number] = made

        async def follow() -> None:
            async for known in checked.peers():
                self.last[number] = known

        self.tasks.append(asyncio.create_task(follow()))

    def ids(self, number: int) -> list[str]:
        return [node.id for node in self.last.get(number, Known()).items]

    def texts(self, number: int) -> str:
        return "\n".join(f"{p.subject}: {p.message}" for p in self.last.get(number, Known()).problems)

    async def until_ids(self, number: int, *others: int) -> None:
        wanted = [f"host-{other}" for other in others]
        await soon(lambda: self.ids(number) == wanted, f"{number} to have {wanted}, it has {self.last.get(number)}")

    async def close(self) -> None:
        await asyncio.gather(*(member.close() for member in self.members.values()))
        await asyncio.gather(*self.tasks)


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    try:
        yield made
    finally:
        await made.close()


Inside = Callable[[Coroutine[Any, Any, None]], None]


def test_members_find_each_other_change_leave_and_die(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            for number in (1, 2, 3, 4):
                cluster.add(number)
            for number in (1, 2, 3, 4):
                await cluster.until_ids(number, *({1, 2, 3, 4} - {number}))
            await soon(lambda: all(known.complete for known in cluster.last.values()), "all to vouch")
            assert all(known.problems == () for known in cluster.last.values())
            changed = router(2, "10.2.0.0/16", "10.22.0.0/16")
            cluster.members[2].announce(changed)
            await soon(lambda: all(changed in cluster.last[n].items for n in (1, 3, 4)), "a change to be known", 1)
            await cluster.members[3].close()
            await soon(lambda: cluster.ids(1) == ["host-2", "host-4"], "who left to be gone", 3)
            assert set(cluster.members[1].departed()) == {"host-3"}
            await cluster.members[4].abandon()
            await cluster.until_ids(1, 2)
            assert set(cluster.members[1].departed()) == {"host-3"}
            assert set(cluster.members[1].last_seen()) == {"host-2"}
            counters = cluster.members[1].counters()
            assert counters["gossip.dead"] >= 1, "on a machine that stands still, others may be taken for dead, too"
            assert counters["received.PING"] > 0

    inside(scenario())


def test_a_large_set_comes_by_a_connection(inside: Inside) -> None:
    many = router(2, *(f"10.{n % 250}.{n // 250}.0/24" for n in range(0, 9000, 7)))

    async def scenario() -> None:
        async with stage() as cluster:
            cluster.add(1)
            cluster.add(2)
            cluster.add(3)
            await cluster.until_ids(3, 1, 2)
            cluster.members[2].announce(many)
            await soon(lambda: all(many in cluster.last[number].items for number in (1, 3)), "all networks")

    inside(scenario())


def test_seeds_are_tried_for_ever_and_a_host_may_have_several_members(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            cluster.add(2, seeds=("10.9.0.1:4799", "no-such-host.invalid", "10.9.0.1:99"))
            await soon(lambda: "10.9.0.1:4799" in cluster.texts(2), "the seed to be missed")
            assert cluster.ids(2) == []
            assert not cluster.last[2].complete
            cluster.add(1, seeds=())
            cluster.add(3, router(3, at="10.9.0.1"), source=ip_address("10.9.0.1"), port=4799)
            await cluster.until_ids(2, 1, 3)
            await soon(lambda: "4799" not in cluster.texts(2), "the seed to be met")
            assert "no-such-host.invalid" in cluster.texts(2)

    inside(scenario())


def test_a_port_that_is_taken_is_a_problem_until_it_is_free_and_a_listener_takes_another(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
                squatter.bind(("10.9.0.5", 4790))
                cluster.add(1)
                cluster.add(5)
                await soon(lambda: "another program has that port" in cluster.texts(5), "the port to be missed")
                settings = GossipSettings("dry", ip_address("10.9.0.5"), "dry", seeds=("10.9.0.1",), keys=(b"key",))
                dry = Gossip(settings)
                cluster.follow(50, dry)
                await cluster.until_ids(50, 1)
            await cluster.until_ids(5, 1)
            await cluster.until_ids(1, 5)
            assert "port" not in cluster.texts(5)
            assert "dry" not in cluster.ids(1)
            dry.announce(replace(router(6, at="10.9.0.5"), id="dry"))
            await soon(
                lambda: "another program has that port" in cluster.texts(50), "the listener to want to be a member"
            )

    inside(scenario())


def test_an_endpoint_that_changes_is_followed_and_one_that_is_missing_is_a_problem(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            cluster.add(1)
            cluster.add(2)
            await cluster.until_ids(1, 2)
            cluster.members[2].announce(router(2, at="10.9.0.7"))
            await soon(lambda: [str(n.endpoints[0]) for n in cluster.last[1].items] == ["10.9.0.7"], "the new endpoint")
            cluster.members[2].announce(router(2, at="fd00:9::2"))
            await soon(lambda: "has no IPv4 endpoint" in cluster.texts(2), "the problem")
            cluster.members[2].announce(router(2, at="10.9.0.66"))
            await soon(lambda: "not an address of this host" in cluster.texts(2), "the other problem")
            assert cluster.ids(2) == ["host-1"]

    inside(scenario())


def test_over_ipv6(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            for number in (1, 2):
                source = ip_address(f"fd00:9::{number}")
                cluster.add(number, router(number, at=str(source)), source=source, seeds=("[fd00:9::1]:4790",))
            await cluster.until_ids(1, 2)
            await cluster.until_ids(2, 1)

    inside(scenario())


def test_who_has_another_key_is_not_let_in_and_both_are_told(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            cluster.add(1, keys=(b"key", b"new"), fade=60.0)
            cluster.add(2, keys=(b"other",), fade=60.0)
            cluster.add(3, keys=(b"new", b"key"))
            cluster.add(4, keys=(b"key", b"new"))
            await cluster.until_ids(4, 1, 3)
            await soon(lambda: "another key" in cluster.texts(1), "the wrong key to be reported")
            assert cluster.ids(2) == []
            await soon(lambda: "the seed 10.9.0.1 is no live member" in cluster.texts(2), "the seed to be missed")

    inside(scenario())


def test_connections_that_say_nothing_or_too_much_do_no_harm(inside: Inside) -> None:
    async def scenario() -> None:
        async with stage() as cluster:
            cluster.add(1)
            await soon(lambda: 1 in cluster.last and cluster.last[1].complete, "it to run")
            silent = [await asyncio.open_connection("10.9.0.1", 4790, local_addr=("10.9.0.8", 0)) for _ in range(6)]
            reader, writer = await asyncio.open_connection("10.9.0.1", 4790, local_addr=("10.9.0.9", 0))
            writer.write((MOST + 1).to_bytes(4, "big"))
            assert await reader.read() == b""
            another = Connection(*await asyncio.open_connection("10.9.0.1", 4790, local_addr=("10.9.0.9", 0)))
            await another.send(b"\x02rubbish")
            with pytest.raises(EOFError):
                await another.receive()
            await another.close()
            cluster.add(2)
            await cluster.until_ids(1, 2)
            await soon(lambda: cluster.members[1].counters().get("refused.malformed") == 1, "the rubbish to be counted")
            for _, made in [*silent, (reader, writer)]:
                made.close()

    inside(scenario())


def test_the_table_makes_it(inside: Inside) -> None:
    async def scenario() -> None:
        means = Means(port=4795, gossip=GossipMeans(profile="fast"))
        made = DISCOVERIES["gossip"](means, Place("host-1", "lo", ip_address("10.9.0.1"), "x", b"key"))
        assert made.name == "gossip"
        made.announce(router(1))
        async for known in made.peers():
            if known.complete:
                break
        await made.close()
        await made.close()
        assert [known async for known in made.peers()] == []

    inside(scenario())


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.1.5", "10.0.1.5", 0),
        (" host-a:4791 ", "host-a", 4791),
        ("fd00::1", "fd00::1", 0),
        ("[fd00::1]:4791", "fd00::1", 4791),
        ("[fd00::1]", "fd00::1", 0),
    ],
)
def test_a_seed_is_read(text: str, host: str, port: int) -> None:
    assert parse_seed(text) == Seed(text, host, port)


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:x", "host:65536"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(DiscoveryError, match="is not host or host:port"):
        parse_seed(text)


async def test_a_seed_without_a_port_may_be_at_ours_or_at_the_documents() -> None:
    def at(ip: IPAddress, port: int) -> Address:
        return Address(ip.packed, port)

    here = ip_address("127.0.0.1")
    assert await resolve(parse_seed("127.0.0.1"), 4, 4791) == [at(here, 4791), at(here, 4790)]
    assert await resolve(parse_seed("127.0.0.1:5"), 4, 4791) == [at(here, 5)]
