"""What is AWS' own about its route tables: which tables, which interfaces, blackholes, limits. Whose a route is, is in
`test_aws_ownership.py`; what every cloud's tables do, in `test_route_tables.py`; where moto differs from AWS is told in
`tests/support/aws.py`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.contract.aws_place import AwsPlace, aws_place, done, failure, net, tables_of, told
from tests.contract.route_tables import add, change, remove
from tests.support.aws import Fault
from weft.errors import SettingsError, TargetError
from weft.objects.cloud import CloudRoute
from weft.targets.cloud import pace
from weft.targets.cloud.aws import INTERFACES_EVERY, PROBLEMS_EVERY
from weft.targets.cloud.aws_tables import BLACKHOLE, CHECKED, LIMIT_HOLDS
from weft.wire.aws_tags import owner_key


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsPlace]:
    monkeypatch.setattr(pace, "FIRST_DELAY", 0.002)
    with aws_place(monkeypatch) as where:
        yield where


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
    await place.tables.read()  # the first one asks for all interfaces, whatever the routes are like
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


async def test_the_command_lines_leave_the_tags_of_others_alone(place: AwsPlace) -> None:
    place.cloud.tag(place.table, {"Name": "the main one"})
    await place.tables.read()
    await done(place.tables, add(place.route(1)), add(place.route(2)))
    await place.tables.read()
    for ops in ([remove(place.route(1))], [remove(place.route(1)), remove(place.route(2))]):
        assert "Name" not in "".join(place.tables.lines(ops))
    for line in place.tables.lines([remove(place.route(1)), remove(place.route(2))]):
        carry_out(place, shlex.split(line))
    assert place.cloud.tags() == {"Name": "the main one"}


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
