"""What is AWS' own about its route tables: which tables, which interfaces, tags, blackholes, limits. What every cloud's
tables do is in `test_route_tables.py`; where moto differs from AWS is told in `tests/support/aws.py`."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.contract.aws_place import AwsPlace, aws_place
from tests.contract.route_tables import add, change, remove
from tests.support.aws import Aws, Fault
from weft.errors import SettingsError, TargetError
from weft.model import IPNetwork
from weft.objects import Failure, Op
from weft.objects.cloud import CloudRoute, cloud_key
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import pace
from weft.targets.cloud.aws import INTERFACES_EVERY, PROBLEMS_EVERY, AwsRoutes
from weft.targets.cloud.aws_tables import BLACKHOLE, CHECKED, ECHO, LIMIT_HOLDS, UNMADE
from weft.wire.aws_tags import owner_key


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsPlace]:
    monkeypatch.setattr(pace, "FIRST_DELAY", 0.002)
    with aws_place(monkeypatch) as where:
        yield where


def tables_of(cloud: Aws, *named: str, **settings: object) -> AwsRoutes:
    given = {"aws_route_table": named, "requests_per_second": 1e5, **settings}
    return AwsRoutes(RouteManagerSettings(backend="aws", **given), cloud.client)  # type: ignore[arg-type]


def net(text: str) -> IPNetwork:
    return ip_network(text)


async def told(tables: AwsRoutes) -> list[str]:
    return [f"{problem.subject}: {problem.message}" for problem in (await tables.read()).problems]


async def done(tables: AwsRoutes, *ops: Op) -> None:
    assert await tables.apply(ops) == [None] * len(ops)


async def failure(tables: AwsRoutes, op: Op) -> Failure:
    (answer,) = await tables.apply([op])
    assert answer is not None
    return answer


# Which tables.


async def test_tables_are_chosen_by_id_and_by_tag_within_the_vpc(place: AwsPlace) -> None:
    cloud = place.cloud
    one, two = cloud.another_table(role="pods"), cloud.another_table(role="pods", size="l")
    other = cloud.ec2.create_vpc(CidrBlock="10.129.0.0/16")["Vpc"]["VpcId"]
    elsewhere = cloud.ec2.create_route_table(VpcId=other)["RouteTable"]["RouteTableId"]
    cloud.tag(elsewhere, {"role": "pods"})
    chosen = tables_of(cloud, cloud.main, "tag:role=pods", aws_vpc=cloud.vpc)
    await chosen.read()
    assert set(chosen.tables) == {cloud.main, one, two}
    by_size = tables_of(cloud, "tag:size=l", "tag:size=xl", aws_vpc=cloud.vpc)
    await by_size.read()
    assert by_size.tables == (two,)
    main = tables_of(cloud, aws_vpc=cloud.vpc)
    await main.read()
    assert main.tables == (cloud.main,)


async def test_several_tables_are_one_call_at_rest(place: AwsPlace) -> None:
    """At most two calls a minute: the target asks every 30 s for each call that a reading takes."""
    cloud = place.cloud
    more = [cloud.another_table(role="pods") for _ in range(3)]
    tables = tables_of(cloud, cloud.main, "tag:role=pods", aws_vpc=cloud.vpc)
    await tables.read()
    await done(tables, *(add(CloudRoute(table, place.dst(1), place.vias[0])) for table in more))
    calls = [(await tables.read()).calls for _ in range(INTERFACES_EVERY - 1)]
    assert calls == [1] * (INTERFACES_EVERY - 1)
    assert (await tables.read()).calls == 3  # now and then: both questions, and the interfaces


async def test_a_table_that_is_not_there_does_not_stop_the_other(place: AwsPlace) -> None:
    tables = tables_of(place.cloud, place.table, "rtb-0abc")
    assert any("there is no route table rtb-0abc in eu-central-1" in problem for problem in await told(tables))
    assert tables.tables == (place.table,)
    answers = await tables.apply([add(CloudRoute("rtb-0abc", place.dst(1), place.vias[0])), add(place.route(1))])
    assert answers[1] is None
    assert answers[0] is not None
    assert "there is no route table rtb-0abc" in answers[0].message
    assert place.hops(place.dst(1)) == [place.vias[0]]


async def test_what_one_table_refuses_does_not_stop_the_other(place: AwsPlace) -> None:
    other = place.cloud.another_table()
    tables = tables_of(place.cloud, place.table, other)
    await tables.read()
    place.cloud.tag(other, {f"user{n}": "" for n in range(50)})
    answers = await tables.apply([add(CloudRoute(other, place.dst(1), place.vias[0])), add(place.route(1))])
    assert answers[1] is None
    assert answers[0] is not None
    assert "it needs 1 tags, others have" in answers[0].message
    assert place.cloud.routes(other) == {}


async def test_no_table_at_all_is_an_error_that_says_what_was_asked(place: AwsPlace) -> None:
    with pytest.raises(TargetError, match=r"no such route table in eu-central-1: rtb-0abc"):
        await tables_of(place.cloud, "rtb-0abc").read()
    with pytest.raises(TargetError, match=rf"tag:role=none in {place.cloud.vpc}: check -aws-route-table"):
        await tables_of(place.cloud, "tag:role=none", aws_vpc=place.cloud.vpc).read()


@pytest.mark.parametrize("text", ["vpc-1", "rtb", "rtb-*", "tag:", "tag:role", "tag:=x", ""])
def test_what_is_no_table_is_refused_at_once(place: AwsPlace, text: str) -> None:
    with pytest.raises(SettingsError, match=r"rtb-… or tag:Key=Value|tag:Key=Value is meant"):
        tables_of(place.cloud, text)


async def test_a_table_that_is_not_meant_any_more_keeps_its_routes_and_that_is_told(place: AwsPlace) -> None:
    cloud = place.cloud
    kept, left = cloud.another_table(role="pods"), cloud.another_table(role="pods")
    tables = tables_of(cloud, "tag:role=pods", aws_vpc=cloud.vpc)
    await tables.read()
    await done(tables, add(CloudRoute(left, place.dst(1), place.vias[0])))
    cloud.tag(left, {"role": "none"})
    assert any(f"-delete-all-routes -aws-route-table={left}" in problem for problem in await told(tables))
    assert tables.tables == (kept,)
    assert place.dst(1) in cloud.routes(left)


async def test_pages_are_read_to_the_last(place: AwsPlace) -> None:
    cloud = place.cloud
    more = [cloud.another_table(role="pods") for _ in range(5)]
    cloud.page = 2
    tables = tables_of(cloud, "tag:role=pods", aws_vpc=cloud.vpc)
    await tables.read()
    assert set(tables.tables) == set(more)
    await done(tables, *(add(CloudRoute(more[0], place.dst(n), via)) for n, via in enumerate(place.vias)))
    assert len((await tables_of(cloud, more[0]).read()).routes) == 3


# Where routes lead.


async def test_an_interface_is_known_by_its_secondary_and_ipv6_addresses(place: AwsPlace) -> None:
    cloud = place.cloud
    six = str(cloud.six.network_address + 77)
    name = cloud.interface("10.128.1.1", "10.128.1.2", six=six)
    for number, via in enumerate(("10.128.1.1", "10.128.1.2", six)):
        route = CloudRoute(place.table, place.dst(number), ip_address(via))
        await done(place.tables, add(route))
        assert cloud.routes()[place.dst(number)] == name
        assert (await place.tables.read()).routes[route.key] == route
    v6 = CloudRoute(place.table, net("fd00:5:1::/64"), ip_address(six))
    await done(place.tables, add(v6), remove(place.route(0)))
    assert (await place.tables.read()).routes[v6.key] == v6
    await done(place.tables, change(CloudRoute(place.table, v6.dst, place.vias[0]), v6))
    assert cloud.routes()[v6.dst] != name
    await done(place.tables, remove(v6))
    assert v6.dst not in cloud.routes()


async def test_after_a_restart_a_secondary_address_costs_no_write(place: AwsPlace) -> None:
    """A route leads to an interface, so the next process can't know by which of its addresses the host is known; to be
    told is enough."""
    place.cloud.interface("10.128.1.1", "10.128.1.2")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.2"))
    await done(place.tables, add(route))
    after = place.another()
    found = (await after.read()).routes[route.key]
    assert found.via == ip_address("10.128.1.1")
    began = len(place.cloud.calls)
    await done(after, change(route, found))
    assert set(place.cloud.calls[began:]) <= {"describe_network_interfaces"}
    assert (await after.read()).routes[route.key] == route


async def test_an_address_that_no_interface_has_is_an_error_that_says_what_to_do(place: AwsPlace) -> None:
    other = place.cloud.ec2.create_vpc(CidrBlock="10.130.0.0/16")["Vpc"]["VpcId"]
    subnet = place.cloud.ec2.create_subnet(VpcId=other, CidrBlock="10.130.0.0/24")["Subnet"]["SubnetId"]
    place.cloud.ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress="10.130.0.9")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.130.0.9"))
    answer = await failure(place.tables, add(route))
    assert f"no network interface in {place.cloud.vpc} has the address 10.130.0.9" in answer.message
    assert "flanneld -public-ip" in answer.message
    assert place.listed() == set()


async def test_an_address_that_moved_to_another_interface_is_noticed(place: AwsPlace) -> None:
    old = place.cloud.interface("10.128.1.1", "10.128.1.9")
    new = place.cloud.interface("10.128.1.2")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.9"))
    await done(place.tables, add(route))
    place.cloud.ec2.unassign_private_ip_addresses(NetworkInterfaceId=old, PrivateIpAddresses=["10.128.1.9"])
    place.cloud.ec2.assign_private_ip_addresses(NetworkInterfaceId=new, PrivateIpAddresses=["10.128.1.9"])
    for _ in range(INTERFACES_EVERY + 1):
        found = (await place.tables.read()).routes[route.key]
        if found != route:
            break
    assert found.via == ip_address("10.128.1.1")
    await done(place.tables, change(route, found))
    assert place.cloud.routes()[route.dst] == new


async def test_an_interface_that_is_not_led_to_yet_is_asked_for_anew(place: AwsPlace) -> None:
    """It may be another one since it was asked for last."""
    old = place.cloud.interface("10.128.1.1")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1"))
    await place.tables.read()
    place.cloud.fail(3, "refused")
    await failure(place.tables, add(route))
    assert place.cloud.met == [("create_route", "refused")]
    place.cloud.ec2.delete_network_interface(NetworkInterfaceId=old)
    new = place.cloud.interface("10.128.1.1")
    await done(place.tables, add(route))
    assert place.cloud.routes()[route.dst] == new


# The source/destination check.


async def test_a_check_that_is_on_is_told_and_left_alone(place: AwsPlace) -> None:
    name = place.cloud.interface("10.128.1.1", check=True)
    await done(place.tables, add(CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1"))))
    (problem,) = await told(place.tables)
    assert f"the source/destination check of {name}" in problem
    assert "--no-source-dest-check" in problem
    assert place.cloud.backend.get_network_interface(name).source_dest_check is True
    place.cloud.backend.get_network_interface(name).source_dest_check = False
    later = [await told(place.tables) for _ in range(PROBLEMS_EVERY + 1)]
    assert later[-1] == [], "people look whether the complaint goes"


async def test_with_the_flag_a_check_is_switched_off_once(place: AwsPlace) -> None:
    tables = tables_of(place.cloud, place.table, aws_disable_source_dest_check=True)
    name = place.cloud.interface("10.128.1.1", check=True)
    routes = [CloudRoute(place.table, place.dst(n), ip_address("10.128.1.1")) for n in range(3)]
    await done(tables, *map(add, routes))
    assert place.cloud.backend.get_network_interface(name).source_dest_check is False
    assert place.cloud.count("modify_network_interface_attribute") == 1
    assert await told(tables) == []


async def test_a_check_that_was_switched_on_again_is_a_flaw_and_mended_by_a_change(place: AwsPlace) -> None:
    name = place.cloud.interface("10.128.1.1")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1"))
    await done(place.tables, add(route))
    place.cloud.backend.get_network_interface(name).source_dest_check = True
    tables = tables_of(place.cloud, place.table, aws_disable_source_dest_check=True)
    found = (await tables.read()).routes[route.key]
    assert found == CloudRoute(place.table, route.dst, route.via, CHECKED)
    place.cloud.fail(1, "refused")
    answer = await failure(tables, change(route, found))
    assert "can't be switched off" in answer.message
    assert place.cloud.met
    await done(tables, change(route, found))
    assert (await tables.read()).routes[route.key] == route
    assert place.cloud.count("replace_route") == 0


# Blackholes.


async def test_a_blackhole_whose_host_has_a_new_interface_is_mended_without_a_gap(place: AwsPlace) -> None:
    old = place.cloud.interface("10.128.1.1")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1"))
    await done(place.tables, add(route))
    place.begin()
    place.cloud.ec2.delete_network_interface(NetworkInterfaceId=old)
    new = place.cloud.interface("10.128.1.1")
    found = (await place.tables.read()).routes[route.key]
    assert found == CloudRoute(place.table, route.dst, None, BLACKHOLE)
    await done(place.tables, change(route, found))
    assert place.cloud.routes()[route.dst] == new
    assert (await place.tables.read()).routes[route.key] == route
    assert not place.absent(route.dst)


async def test_a_blackhole_that_nobody_wants_is_removed(place: AwsPlace) -> None:
    name = place.cloud.interface("10.128.1.1")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1"))
    await done(place.tables, add(route))
    place.cloud.ec2.delete_network_interface(NetworkInterfaceId=name)
    after = place.another()
    await done(after, remove((await after.read()).routes[route.key]))
    assert place.cloud.routes() == {}
    assert place.cloud.tags() == {}


async def test_a_stopped_instance_is_told_and_not_written_to_again_and_again(place: AwsPlace) -> None:
    name = place.cloud.interface("10.128.1.1")
    route = CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1"))
    await done(place.tables, add(route))
    place.cloud.dead.add(name)
    contents = await place.tables.read()
    assert contents.routes[route.key] == route
    assert contents.calls <= 2
    assert any("is a blackhole, though it leads where it should" in p.message for p in contents.problems)


# Whose a route is.


async def test_routes_of_all_other_kinds_are_foreign_and_named(place: AwsPlace) -> None:
    cloud = place.cloud
    gateway = cloud.gateway()
    cloud.put(str(place.dst(1)), gateway=gateway)
    cloud.put(str(place.dst(2)), interface=place.somebodys)
    cloud.propagated[place.table] = [str(place.dst(3))]
    await done(place.tables, add(place.route(4)))
    cloud.put(str(place.dst(4)), gateway=gateway)  # in place of ours, by hand
    before = cloud.routes()
    contents = await place.tables.read()
    assert contents.routes == {}
    phrases = {n: contents.foreign[place.route(n).key] for n in range(1, 5)}
    assert f"to {gateway} that somebody else made" in phrases[1]
    assert f"to {place.somebodys} that somebody else made" in phrases[2]
    assert phrases[3] == f"a propagated route of {place.table} to vgw-1"
    assert gateway in phrases[4]
    assert "local route" in contents.foreign[cloud_key(place.table, net("10.128.0.0/16"))]
    for number in range(1, 5):
        for op in (add(place.route(number)), change(place.route(number, 1), place.route(number))):
            assert (await failure(place.tables, op)).conflict
        await done(place.tables, remove(place.route(number)))
    assert cloud.routes() == before


async def test_our_route_beside_a_propagated_one_stays_ours(place: AwsPlace) -> None:
    await done(place.tables, add(place.route(1)))
    place.cloud.propagated[place.table] = [str(place.dst(1))]
    contents = await place.tables.read()
    assert contents.routes == {place.route(1).key: place.route(1)}
    assert place.route(1).key not in contents.foreign
    await done(place.tables, change(place.route(1, 1), place.route(1)))
    assert place.hops(place.dst(1)) == [place.vias[1]]
    await done(place.tables, remove(place.route(1, 1)))
    assert (await place.tables.read()).foreign[place.route(1).key].startswith("a propagated route")


async def test_what_became_somebody_elses_since_the_last_reading_is_looked_at_first(
    place: AwsPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two readings a minute may pass."""
    monkeypatch.setattr("weft.targets.cloud.aws_writing.RECENT", -1.0)
    await done(place.tables, add(place.route(1)), add(place.route(2)))
    gateway = place.cloud.gateway()
    place.cloud.put(str(place.dst(1)), gateway=gateway)
    place.cloud.put(str(place.dst(2)), gateway=gateway)
    assert (await failure(place.tables, change(place.route(1, 1), place.route(1)))).conflict
    await done(place.tables, remove(place.route(2)))
    assert set(place.cloud.routes().values()) == {gateway}


async def test_a_hop_that_was_changed_by_hand_is_mended(place: AwsPlace) -> None:
    await done(place.tables, add(place.route(1)))
    place.cloud.put(str(place.dst(1)), interface=place.somebodys)
    found = (await place.tables.read()).routes[place.route(1).key]
    assert found.via == ip_address("10.128.0.250")
    await done(place.tables, change(place.route(1), found))
    assert place.hops(place.dst(1)) == [place.vias[0]]


async def test_managers_with_different_prefixes_share_a_table(place: AwsPlace) -> None:
    """They write at once, and neither knows of the other but by what is foreign to it."""
    mine = place.tables
    theirs = tables_of(place.cloud, place.table, etcd_prefix="/other/network")
    await asyncio.gather(mine.read(), theirs.read())
    ours, others = range(20), range(20, 40)
    await asyncio.gather(
        done(mine, *(add(place.route(n)) for n in ours)), done(theirs, *(add(place.route(n, 1)) for n in others))
    )
    answers = await asyncio.gather(failure(mine, add(place.route(25))), failure(theirs, add(place.route(5, 1))))
    assert all(answer.conflict for answer in answers)
    for tables, whose in ((mine, ours), (theirs, others)):
        contents = await tables.read()
        assert {route.dst for route in contents.routes.values()} == {place.dst(n) for n in whose}
        assert len(contents.foreign) == 22
    await asyncio.gather(
        done(mine, *(remove(place.route(n)) for n in ours)),
        done(theirs, *(change(place.route(n, 2), place.route(n, 1)) for n in others)),
    )
    assert {place.hops(place.dst(n))[0] for n in others} == {place.vias[2]}
    assert place.listed() == set()
    assert len((await theirs.read()).routes) == 20
    assert all("/other/network" in key for key in place.cloud.tags())


async def test_tags_of_ours_that_somebody_broke_stop_that_table_alone(place: AwsPlace) -> None:
    other = place.cloud.another_table()
    tables = tables_of(place.cloud, place.table, other)
    await tables.read()
    await done(tables, add(place.route(1)), add(CloudRoute(other, place.dst(1), place.vias[0])))
    (key, value), *_ = place.cloud.tags().items()
    place.cloud.tag(place.table, {key: "all of them"})
    after = tables_of(place.cloud, place.table, other)
    contents = await after.read()
    assert [route.table for route in contents.routes.values()] == [other]
    assert any(f"the tag {key} with the value 'all of them' can't be read" in p.message for p in contents.problems)
    assert "mend the tag" in (await failure(after, remove(place.route(1)))).message
    await done(after, remove(CloudRoute(other, place.dst(1), place.vias[0])))
    place.cloud.tag(place.table, {key: value})
    assert (await after.read()).routes == {place.route(1).key: place.route(1)}


# A process that dies between two calls.


def stranger(place: AwsPlace, dst: IPNetwork) -> None:
    place.cloud.put(str(dst), interface=place.somebodys)


@pytest.mark.parametrize("answered", [True, False], ids=["before-the-call", "after-it"])
@pytest.mark.parametrize("step", range(1, 12))
async def test_a_crash_at_any_step_leaks_nothing_and_takes_nothing_of_others(
    place: AwsPlace, step: int, answered: bool
) -> None:
    """The process dies at one of its calls; somebody makes a route wherever one of ours isn't; another process starts.
    Eleven calls are more than there are: the last rounds end well, and that is seen too."""
    start = [place.route(n) for n in (1, 2, 3)]
    await done(place.tables, *map(add, start))
    dying = place.another()
    await dying.read()
    began = len(place.cloud.calls)

    def dies(_: str) -> Fault | None:
        number = len(place.cloud.calls) - began
        return None if number < step else "lost" if number == step and not answered else "refused"

    place.cloud.before = dies
    ops = [change(place.route(2, 1), place.route(2)), *(add(place.route(n)) for n in (4, 5))]
    await dying.apply([*ops, remove(place.route(1)), remove(place.route(3))])
    place.cloud.before = lambda _: None
    await dying.close()
    held = place.cloud.routes()
    assert all(dst in place.listed() for dst in held), "a route of ours that nobody knows to be ours is a leak"
    strangers = {place.dst(n) for n in (1, 3, 4, 5)} - set(held)
    for dst in strangers:
        stranger(place, dst)
    wanted = [place.route(2, 1), place.route(4), place.route(5)]
    after = place.another()
    for _ in range(3):
        contents = await after.read()
        assert not strangers & {route.dst for route in contents.routes.values()}
        asked = [add(r) for r in wanted if r.key not in contents.routes and r.key not in contents.foreign]
        asked += [change(r, contents.routes[r.key]) for r in wanted if contents.routes.get(r.key, r) != r]
        asked += [remove(r) for key, r in contents.routes.items() if key not in {r.key for r in wanted}]
        await done(after, *asked)
    ours = {route.dst for route in wanted} - strangers
    assert {dst for dst, to in place.cloud.routes().items() if to != place.somebodys} == ours
    assert {dst for dst, to in place.cloud.routes().items() if to == place.somebodys} == strangers
    await done(after, *(remove(route) for route in (await after.read()).routes.values()))
    assert set(place.cloud.routes()) == strangers
    await done(after, add(place.route(9)))
    await done(after, remove(place.route(9)))
    assert place.cloud.tags() == {}, "nothing is left behind"


@pytest.mark.parametrize("wanted", [True, False])
async def test_what_is_listed_and_not_there_is_a_flaw(place: AwsPlace, wanted: bool) -> None:
    """A change makes it, a removal takes it off the list. It can't be taken for a route: it leads nowhere."""
    await done(place.tables, add(place.route(1)))
    place.delete(place.dst(1))
    found = (await place.tables.read()).routes[place.route(1).key]
    assert found == CloudRoute(place.table, place.dst(1), None, UNMADE)
    await done(place.tables, change(place.route(1, 1), found) if wanted else remove(found))
    assert place.hops(place.dst(1)) == ([place.vias[1]] if wanted else [])
    assert place.listed() == ({place.dst(1)} if wanted else set())


async def test_readings_that_lag_behind_lose_nothing(place: AwsPlace) -> None:
    """EC2 may show for a while what was before: here neither the new route nor its tag."""
    await place.tables.read()
    await done(place.tables, add(place.route(1)))
    place.cloud.echo = 1
    assert (await place.tables.read()).routes[place.route(1).key].flaw == UNMADE
    await done(place.tables, add(place.route(2)))
    await done(place.tables, remove(place.route(1)))
    place.cloud.echo = 0
    assert set(place.cloud.routes()) == place.listed() == {place.dst(2)}
    assert (await place.another().read()).routes == {place.route(2).key: place.route(2)}
    assert ECHO >= 2


async def test_a_route_that_was_led_elsewhere_while_new_is_ours_after_a_restart(place: AwsPlace) -> None:
    await done(place.tables, add(place.route(1)))
    await done(place.tables, change(place.route(1, 1), place.route(1)))
    assert (await place.another().read()).routes == {place.route(1).key: place.route(1, 1)}


async def test_a_write_of_tags_of_which_nothing_is_known_loses_no_claim(place: AwsPlace) -> None:
    """Its first answer was lost, the second attempt is refused: what is there now isn't what was there before, and
    what is written next must not go by that."""
    await done(place.tables, add(place.route(1)), add(place.route(2)))
    await done(place.tables, add(place.route(8)))
    await done(place.tables, remove(place.route(8)))
    settled = place.tables
    began = len(place.cloud.met)
    place.cloud.fail(1, "lost")
    place.cloud.fail(2, "refused")
    await failure(settled, remove(place.route(1)))
    assert place.cloud.met[began:] == [("create_tags", "lost"), ("create_tags", "refused")]
    await done(settled, add(place.route(3)))
    assert place.listed() == set(place.cloud.routes()) == {place.dst(n) for n in (1, 2, 3)}


async def test_what_was_not_made_stays_new_while_others_are_written(place: AwsPlace) -> None:
    await place.tables.read()
    place.cloud.fail(3, "busy")
    place.cloud.fail(4, "refused")
    await failure(place.tables, add(place.route(1)))
    assert place.cloud.met == [("create_route", "busy"), ("create_route", "refused")]
    assert place.listed() == {place.dst(1)}, "it may have been made the first time"
    await done(place.tables, add(place.route(2)))
    stranger(place, place.dst(1))
    contents = await place.another().read()
    assert set(contents.routes) == {place.route(2).key}
    assert place.somebodys in contents.foreign[place.route(1).key]


# Limits.


async def test_a_full_table_is_told_with_figures_and_not_asked_again_for_each_route(place: AwsPlace) -> None:
    place.cloud.limit = 5
    await place.tables.read()
    answers = await place.tables.apply([add(place.route(n)) for n in range(20)])
    assert sum(answer is None for answer in answers) == 5
    messages = {answer.message for answer in answers if answer is not None}
    assert len(messages) == 1
    assert "takes no more IPv4 routes: it has 6, without the propagated ones" in messages.pop()
    room = place.tables.room[place.table]
    assert (room.what, room.limit, room.free) == (f"table {place.table} (IPv4 routes)", 6, 0)
    before = len(place.cloud.calls)
    assert "-aggregate" in (await failure(place.tables, add(place.route(30)))).message
    assert place.cloud.count("create_route") <= 20
    assert "create_route" not in place.cloud.calls[before:]
    assert place.listed() == set(place.cloud.routes())
    six = CloudRoute(place.table, net("fd00:5:1::/64"), place.vias[0])
    gone = next(dst for dst in place.cloud.routes())
    await done(place.tables, add(six), remove(CloudRoute(place.table, gone, place.vias[0])))
    assert place.tables.room[place.table].free == 1
    await done(place.tables, add(place.route(30)))


async def test_a_limit_that_was_met_is_tried_again_some_time(place: AwsPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIMIT_HOLDS > 60
    monkeypatch.setattr("weft.targets.cloud.aws_tables.LIMIT_HOLDS", -1.0)
    place.cloud.limit = 1
    await done(place.tables, add(place.route(1)))
    await failure(place.tables, add(place.route(2)))
    place.cloud.limit = 5
    await done(place.tables, add(place.route(2)))


# Faults.


@pytest.mark.parametrize("fault", ["busy", "throttled", "lost"])
async def test_what_aws_cannot_do_now_is_asked_again(place: AwsPlace, fault: Fault) -> None:
    for number in (1, 3, 5):
        place.cloud.fail(number, fault)
    await place.tables.read()
    await done(place.tables, *(add(place.route(n)) for n in range(3)))
    assert len(place.cloud.met) == 3
    assert [place.hops(place.dst(n)) for n in range(3)] == [[place.vias[0]]] * 3
    code = {"busy": "Unavailable", "throttled": "RequestLimitExceeded", "lost": "ReadTimeoutError"}[fault]
    assert sum(n for (_, outcome), n in place.tables.calls.items() if outcome == code) == 3


async def test_a_route_whose_answer_was_lost_is_known_to_be_ours(place: AwsPlace) -> None:
    await place.tables.read()
    place.cloud.fail(3, "lost")  # after the interfaces and the tags
    await done(place.tables, add(place.route(1)))
    assert place.cloud.met == [("create_route", "lost")]
    assert place.tables.calls["CreateRoute", "RouteAlreadyExists"] == 1


async def test_a_refusal_says_what_permission_is_missing(place: AwsPlace) -> None:
    place.cloud.fail(1, "refused")
    with pytest.raises(TargetError, match=r"ec2:DescribeRouteTables: UnauthorizedOperation: .*cloud-routes-aws.md"):
        await place.tables.read()
    assert len(place.cloud.met) == 1


# What operators read.

DOCUMENT = Path(__file__).parents[2] / "docs" / "cloud-routes-aws.md"


async def test_the_documented_policy_allows_what_is_called_and_nothing_else(place: AwsPlace) -> None:
    tables = tables_of(place.cloud, place.table, aws_disable_source_dest_check=True)
    place.cloud.interface("10.128.1.1", check=True)
    await done(tables, add(place.route(1)))
    await done(tables, change(CloudRoute(place.table, place.dst(1), ip_address("10.128.1.1")), place.route(1)))
    await done(tables, remove(place.route(1)))
    (policy,) = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    statements = json.loads(policy)["Statement"]
    allowed = {action for one in statements for action in one["Action"]}
    assert allowed == {f"ec2:{method}" for method, _ in tables.calls}
    (tags,) = (one for one in statements if one["Sid"] == "TheListOfOurRoutes")
    (pattern,) = tags["Condition"]["ForAllValues:StringLike"]["aws:TagKeys"]
    await done(tables, add(place.route(1)))
    assert all(fnmatchcase(key, pattern) for key in place.cloud.tags())


async def test_a_route_is_handed_over_by_its_tag(place: AwsPlace) -> None:
    place.put_foreign(place.dst(1))
    place.cloud.tag(place.table, {f"{owner_key(place.settings.etcd_prefix)}0": str(place.dst(1))})
    found = (await place.tables.read()).routes[place.route(1).key]
    await done(place.tables, change(place.route(1), found))
    assert place.hops(place.dst(1)) == [place.vias[0]]


async def test_the_command_lines_do_the_same(place: AwsPlace) -> None:
    """Each is one that AWS' own tool takes; here they are carried out by hand, in their order."""
    await place.tables.read()
    await done(place.tables, add(place.route(1)), add(place.route(2)))
    ops = [change(place.route(2, 1), place.route(2)), add(place.route(3, 2)), remove(place.route(1))]
    for line in place.tables.lines(ops):
        carry_out(place, shlex.split(line.replace('"$(', "'$(").replace(')"', ")'")))
    after = place.another()
    assert (await after.read()).routes == {route.key: route for route in (place.route(2, 1), place.route(3, 2))}
    assert place.tables.lines([]) == []
    assert (
        "aws ec2 create-route --route-table-id rtb-0abc"
        in tables_of(place.cloud, "rtb-0abc").lines(
            [add(CloudRoute("rtb-0abc", net("fd00:1::/64"), ip_address("fd00::1")))]
        )[0]
    )


def carry_out(place: AwsPlace, words: list[str]) -> None:
    assert words[:2] == ["aws", "ec2"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    asked: dict[str, object] = {}
    for option, value in options.items():
        name = "".join(part.capitalize() for part in option.removeprefix("--").split("-"))
        asked[name] = value
    if "Tags" in asked:
        asked["Tags"] = json.loads(options["--tags"])
        asked["Resources"] = [asked["Resources"]]
    if options.get("--network-interface-id", "").startswith("$("):
        via = re.findall(r"Values=([0-9.]+) ", options["--network-interface-id"])[0]
        asked["NetworkInterfaceId"] = next(n for n, at in place.interfaces.items() if str(at) == via)
    getattr(place.cloud.client(), words[2].replace("-", "_"))(**asked)
