"""What routes are made of beside flannel's leases: registrars' networks, agents and docker-routers, in virtual time."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tests.loop.route_sources import (
    AGENTS,
    FLANNEL,
    GONE,
    REGISTRAR,
    WALL,
    Case,
    Server,
    in_a_world,
)
from tests.support.virtual import reached
from weft.errors import StoreError
from weft.model import Mac, Network, Node
from weft.stores import Delete, Put
from weft.stores.memory import MemoryStore
from weft.wire.discovery_keys import values
from weft.wire.hello import Stamp
from weft.wire.registrar import Note, Status, note_value, status_value

# ---- the registrar's networks ----


def register(server: Server, host: str, ip: str, networks: dict[str, str], seconds: int = 180) -> int:
    """As weft's registrar does; `seconds` 0: as flannel-registrar, on no lease."""
    lease = server.grant(seconds) if seconds else 0
    status = Status(host, None, IPv4Address(ip), IPv4Address(ip), 1_800_000_000)
    server.put(f"{REGISTRAR}/_host_status/{host}", status_value(status), lease)
    for called, subnet in networks.items():
        server.put(f"{REGISTRAR}/{host}/{called}", subnet, lease)
    return lease


@in_a_world
async def test_a_registered_host_is_a_node_with_all_its_networks(case: Case) -> None:
    lease = register(
        case.server, "babka", "10.0.0.1", {"web": "10.244.1.0/24", "web~2": "fc00:5::/64", "db": "10.244.2.0/24"}
    )
    case.server.put(f"{REGISTRAR}/_weft/babka", note_value(Note(machine="m", since=(("web", 5.0),))), lease)
    register(case.server, "older", "10.0.0.2", {"web": "10.244.3.0/24"}, seconds=0)
    ear = case.registrars()
    await reached(lambda: ear.seen, "hosts")
    babka, older = ear.known().items
    assert ear.known().complete
    assert (babka.id, babka.endpoints, babka.source, babka.backend) == (
        "babka",
        (IPv4Address("10.0.0.1"),),
        "registrar",
        "cloud",
    )
    assert [(n.name, [str(s) for s in n.subnets], n.since) for n in babka.networks] == [
        ("db", ["10.244.2.0/24"], float("inf")),
        ("web", ["10.244.1.0/24", "fc00:5::/64"], 5.0),
    ]
    assert older.endpoints == (IPv4Address("10.0.0.2"),)
    case.server.delete(f"{REGISTRAR}/babka/db")
    await reached(lambda: len(ear.known().items[0].networks) == 1, "one network less", 1)


@in_a_world
async def test_a_heartbeat_is_no_news(case: Case) -> None:
    lease = register(case.server, "babka", "10.0.0.1", {"web": "10.244.1.0/24"})
    ear = case.registrars()
    await reached(lambda: ear.seen, "hosts")
    status = Status("babka", None, IPv4Address("10.0.0.1"), IPv4Address("10.0.0.1"), 1_800_000_060)
    case.server.put(f"{REGISTRAR}/_host_status/babka", status_value(status), lease)
    case.server.lease_of("10.244.9.0/24", "10.0.0.9")
    await case.pass_by(1)
    assert len(ear.seen) == 1


@in_a_world
async def test_a_registered_host_that_dies_is_kept_for_the_grace_time_and_one_that_leaves_is_not(case: Case) -> None:
    register(case.server, "babka", "10.0.0.1", {"web": "10.244.1.0/24"}, seconds=60)
    register(case.server, "strudel", "10.0.0.2", {"web": "10.244.2.0/24"})
    register(case.server, "older", "10.0.0.3", {"web": "10.244.3.0/24"}, seconds=0)
    ear = case.registrars()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2", _3="10.0.0.3")
    for key in [key for key in case.server.entries if "strudel" in key or "older" in key]:
        case.server.delete(key)
    await ear.has(_1="10.0.0.1")
    assert await ear.has(within=130) > 115
    assert not ear.texts()


@in_a_world
async def test_hosts_without_a_place_are_told(case: Case) -> None:
    register(case.server, "lost", "127.0.0.1", {"web": "10.244.1.0/24"})
    case.server.put(f"{REGISTRAR}/nobody/web", "10.244.2.0/24")
    case.server.put(f"{REGISTRAR}/bad/web", "no subnet")
    register(case.server, "idle", "10.0.0.4", {})
    case.server.put(f"{FLANNEL}/subnets/10.244.7.0-24", "{")
    ear = case.registrars()
    await reached(lambda: ear.seen, "hosts")
    assert [node.id for node in ear.known().items] == ["idle"]
    texts = "\n".join(ear.texts())
    assert "host nobody registered networks and no address" in texts
    assert "10.244.7.0" not in texts


@in_a_world
async def test_a_registrar_of_old_is_where_its_lease_says(case: Case) -> None:
    value = (
        '{"PublicIP": "10.0.0.5", "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": "82:00:0a:00:00:05"}}'
    )
    case.server.put(f"{FLANNEL}/subnets/10.244.5.0-24", value, case.server.grant(86400))
    old = '{"last_seen": 1800000000, "boot_time": 1, "vtep_mac": "82:00:0a:00:00:05"}'
    case.server.put(f"{REGISTRAR}/_host_status/old", old)
    case.server.put(f"{REGISTRAR}/old/web", "10.244.1.0/24")
    ear = case.registrars()
    await ear.has(_1="10.0.0.5")


@in_a_world
async def test_what_a_heartbeat_hangs_on_is_what_counts(case: Case) -> None:
    """Networks that hang on nothing stay behind, and nobody knows any more where they are."""
    lease = register(case.server, "babka", "10.0.0.1", {}, seconds=60)
    case.server.put(f"{REGISTRAR}/babka/web", "10.244.1.0/24")
    ear = case.registrars()
    await ear.has(_1="10.0.0.1")
    await case.pass_by(70)
    assert lease not in case.server.leases
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    assert "host babka registered networks and no address" in ear.texts()[0]
    await ear.has(within=60)


# ---- agents and docker-routers ----


def router(server: Server, called: str, ip: str, subnet: str, seconds: int = 30) -> int:
    """As another program registers itself: plain keys, no MAC."""
    lease = server.grant(seconds) if seconds else 0
    values = {"host_ip": ip, "vni": "1000", "networks": f'["{subnet}"]'}
    for key, value in values.items():
        server.put(f"{AGENTS}/{called}/{key}", value, lease)
    return lease


@in_a_world
async def test_a_docker_router_is_a_node_and_nothing_is_announced(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=86400)
    case.server.commits.clear()
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    (node,) = ear.known().items
    assert (node.id, node.source, node.backend, node.mac) == ("stack-a", "etcd", "cloud", bytes(6))
    assert ear.known().complete
    assert not ear.texts()
    assert not case.server.commits
    await case.pass_by(600)
    assert len(ear.seen) == 1


@in_a_world
async def test_a_node_whose_lease_ran_out_is_kept_and_one_that_was_deleted_is_not(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=30)
    router(case.server, "stack-b", "10.0.0.2", "10.244.2.0/24", seconds=30)
    ear = case.nodes()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2")
    lease = router(case.server, "stack-b", "10.0.0.2", "10.244.2.0/24", seconds=86400)  # it was restarted
    await case.pass_by(60)
    assert lease in case.server.leases
    case.server.change(*(Delete(f"{AGENTS}/stack-b/{key}") for key in ("host_ip", "vni", "networks")))
    await ear.has(_1="10.0.0.1")
    assert 89 < (await ear.has(within=60), case.loop.time())[1] < 91


@in_a_world
async def test_a_node_that_was_restarted_and_is_deleted_goes_at_once(case: Case) -> None:
    """Nothing but the etcd lease of its keys has changed since it was first seen."""
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=30)
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=86400)
    await case.pass_by(60)
    assert len(ear.seen) == 1
    case.server.change(*(Delete(f"{AGENTS}/stack-a/{key}") for key in ("host_ip", "vni", "networks")))
    assert await ear.has() < 0.2


@in_a_world
async def test_a_node_that_said_goodbye_goes_with_its_keys(case: Case) -> None:
    network = Network("n", (IPv4Network("10.244.1.0/24"),), since=1.0)
    me = Node("stack-a", (IPv4Address("10.0.0.1"),), 4789, 1000, Mac(b"\x82\x00\x00\x00\x00\x01"), 1500, (network,))
    for departed, seconds in ((False, 86400), (True, 10)):
        lease = case.server.grant(seconds)
        told = values(me, Stamp("run", 1, 1 + departed), WALL, departed)
        case.server.change(*(Put(f"{AGENTS}/stack-a/{key}", value, lease) for key, value in told.items()))
        if not departed:
            ear = case.nodes()
            await ear.has(_1="10.0.0.1")
    assert 9 < await ear.has(within=12) < 11
    assert not ear.texts()


@in_a_world
async def test_a_node_without_a_lease_is_given_time_after_an_outage(case: Case) -> None:
    """Its last_seen could not be written either."""
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=0)
    case.server.put(f"{AGENTS}/stack-a/last_seen", "2026-01-15T10:30:00Z")
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    case.server.fail(GONE)
    await case.pass_by(600)
    case.server.fail(None)
    await case.pass_by(60)
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    await ear.has(within=60)


@in_a_world
async def test_nodes_that_can_not_be_read_or_reached_are_told(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=0)
    router(case.server, "stack-b", "127.0.0.1", "10.244.2.0/24", seconds=0)
    case.server.put(f"{AGENTS}/stack-c/host_ip", "nonsense")
    case.server.put(f"{AGENTS}/stack-c/vni", "many")
    case.server.put(f"{AGENTS}/stack-d/host_ip", "10.0.0.4")
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    texts = "\n".join(ear.texts())
    assert "stack-c" in texts
    await reached(lambda: "some of its keys are missing" in "\n".join(ear.texts()), "a word on stack-d", 10)
    case.server.put(f"{AGENTS}/stack-d/vni", "1000")
    await reached(lambda: len(ear.known().items) == 2, "stack-d")


@in_a_world
async def test_nodes_stay_while_etcd_is_away(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=30)
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    case.server.fail(GONE)
    await case.pass_by(600)
    case.server.fail(None)
    await case.pass_by(35)
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    await ear.has(within=70)


@in_a_world
async def test_a_watch_that_ends_by_itself_is_begun_anew(case: Case) -> None:
    class Ending(MemoryStore):
        async def watch(self, prefix: str) -> Any:
            async with contextlib.aclosing(MemoryStore.watch(self, prefix)) as sets:
                async for one in sets:
                    yield one
                    return

    case.store = Ending(case.server)
    ear = case.leases()
    await case.pass_by(1)
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    await ear.has(_1="10.0.0.1", within=30)


@in_a_world
async def test_an_error_of_another_kind_is_told_and_tried_again(case: Case) -> None:
    case.server.fail_next(StoreError("memory: database space exceeded"))
    ear = case.leases()
    await ear.has()
    assert "database space exceeded" in case.world.told[0]
