"""The google backend against a local Compute Engine API that holds every call against Google's discovery document."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

import google.auth.compute_engine._metadata as google_metadata
import pytest

from tests.support.compute import Gce
from tests.support.google import World, manager
from weft.errors import ProviderBusy, TargetError
from weft.lab.compute.faults import Fault
from weft.lab.compute.paging import Paging
from weft.lab.compute.table import GivenRoute, Instance, Network, ServiceAccount, Subnetwork, Table, small
from weft.objects import Failure, Op, Why
from weft.objects.cloud import CloudRoute, cloud_key

WHY = Why("flannel", "host-2", "lease 10.244.1.0/24")
MARK = "weft route-manager /coreos.com/network: "
FIRST, SECOND = "10.128.0.2", "10.128.0.3"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def route(dst: str = "10.244.1.0/24", via: str = FIRST, network: str = "default") -> CloudRoute:
    return CloudRoute(network, ip_network(dst), ip_address(via))


def op(action: Literal["add", "change", "remove"], *routes: CloudRoute) -> list[Op]:
    return [Op(action, one, WHY, one if action != "add" else None) for one in routes]


def given(name: str, dst: str = "10.244.1.0/24", via: str = FIRST, mark: str = MARK, **more: object) -> GivenRoute:
    return GivenRoute(name=name, dest_range=dst, next_hop_ip=via, description=mark + "a lease" if mark else "", **more)  # type: ignore[arg-type]


def names(gce: Gce) -> set[str]:
    return {name for name in gce.compute.routes() if not name.startswith("default-")}


def static(gce: Gce) -> int:
    """Routes that the quota counts."""
    return sum(one.route_type == "STATIC" for one in gce.compute.routes().values())


def messages(answers: Sequence[Failure | None]) -> str:
    return "; ".join(answer.message for answer in answers if answer is not None)


class TestReadingAndWriting:
    async def test_project_and_network_come_from_the_metadata_server(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                assert not tables.tables
                contents = await tables.read()
                assert tables.tables == ("default",)
                assert contents.routes == {}
                assert contents.calls == 1
                assert any("default-route" in who for who in contents.foreign.values())

    async def test_a_route_is_there_when_it_is_said_to_be(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                assert await tables.apply(op("add", route())) == [None]
                assert names(gce) == {"flannel-default-10-244-1-0-24"} == {tables.called(route())}
                made = next(one for one in gce.compute.routes().values() if one.name.startswith("flannel"))
                assert (made.priority, made.next_hop_ip, made.description) == (
                    1000,
                    FIRST,
                    f"{MARK}lease 10.244.1.0/24, host-2",
                )
                assert (await tables.read()).routes == {route().key: route()}
                assert await tables.apply(op("remove", route())) == [None]
                assert names(gce) == set()
                assert (await tables.read()).routes == {}

    async def test_one_call_for_each_change(self, world: World) -> None:
        many = [route(f"10.244.{n}.0/24") for n in range(60)]
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                assert await tables.apply(op("add", *many)) == [None] * 60
                assert len(gce.history.called("routes.insert")) == 60
                assert len(gce.history.called("projects.get")) == 1
                assert len((await tables.read()).routes) == 60
                assert tables.calls["routes.insert", "ok"] == 60

    async def test_ipv6_and_an_instance_as_next_hop(self, world: World) -> None:
        hosts = Instance(name="dual", zone="us-central1-b", addresses=(ip_address(SECOND), ip_address("fd20::3")))
        networks = (
            Network(
                name="default", subnetworks=(Subnetwork(name="default", range="10.128.0.0/20", range6="fd20::/64"),)
            ),
        )
        four, six = route(via=SECOND), route("fd00:1::/64", "fd20::3")
        with world.cloud(Table(networks=networks, instances=(hosts,))) as gce:
            async with manager(gce, google_next_hop="instance") as tables:
                await tables.read()
                assert await tables.apply(op("add", four, six)) == [None, None]
                made = {one.dest_range: one for one in gce.compute.routes().values() if one.name.startswith("flannel")}
                assert made["fd00:1::/64"].next_hop_instance.endswith("/zones/us-central1-b/instances/dual")
                assert made["10.244.1.0/24"].next_hop_ip == ""
                assert (await tables.read()).routes == {four.key: four, six.key: six}
            async with manager(gce, google_next_hop="instance") as again:
                assert (await again.read()).routes == {four.key: four, six.key: six}
                failures = await again.apply(op("add", route("10.244.9.0/24", "10.128.0.99")))
                assert "no instance in any zone has that address" in messages(failures)
            async with manager(gce, google_zone="us-central1-a") as elsewhere:
                assert "in zone us-central1-a" in messages(
                    await elsewhere.apply(op("add", route("10.1.0.0/24", SECOND)))
                )

    async def test_by_address_again_after_by_instance(self, world: World) -> None:
        """Where such a route leads is known before it is replaced: what leads nowhere known has no guard."""
        with world.cloud() as gce:
            async with manager(gce, google_next_hop="instance") as tables:
                assert await tables.apply(op("add", route())) == [None]
            async with manager(gce) as tables:
                [found] = (await tables.read()).routes.values()
                assert (found.via, found.flaw) == (ip_address(FIRST), "it leads to an instance, not to an address")
                assert (await tables.read()).calls == 1
            fault = gce.faults.fail("instances.aggregatedList", 403, times=None, reason="forbidden")
            async with manager(gce) as tables:
                [found] = (await tables.read()).routes.values()
                assert (found.via, fault.taken) == (None, 1), "no permission for it is needed"
                assert await tables.apply(op("change", route())) == [None]
                [found] = (await tables.read()).routes.values()
                assert found == route()

    async def test_every_page_is_asked_for_with_the_filter(self, world: World) -> None:
        """flannel-route-manager's second page came without it, and so did other networks' routes."""
        ours = [given(f"flannel-default-10-244-{n}-0-24", f"10.244.{n}.0/24") for n in range(7)]
        theirs = [
            given(f"flannel-default-foo-10-1-{n}-0-24", f"10.1.{n}.0/24", network="default-foo") for n in range(7)
        ]
        networks = tuple(
            Network(name=name, subnetworks=(Subnetwork(name=name, range="10.128.0.0/20"),))
            for name in ("default", "default-foo")
        )
        table = small(routes=tuple(ours + theirs), networks=networks)
        with world.cloud(table, paging=Paging(cap=2, sparse=True)) as gce:
            async with manager(gce) as tables:
                contents = await tables.read()
                pages = gce.history.called("routes.list")
                assert len(contents.routes) == 7
                assert contents.calls == len(pages) >= 4
                assert len({page.query["filter"] for page in pages}) == 1


class TestMakeBeforeBreak:
    async def test_a_new_hop_is_there_before_the_old_one_goes(self, world: World) -> None:
        old, new = route(via=FIRST), route(via=SECOND)
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", old))
                start = gce.now
                assert await tables.apply(op("change", new)) == [None]
                assert gce.history.always(new.dst, start)
                assert len(names(gce)) == 1
                assert (await tables.read()).routes == {new.key: new}
                assert await tables.apply(op("change", old)) == [None]
                assert gce.history.always(new.dst, start)
                assert names(gce) == {"flannel-default-10-244-1-0-24"}

    async def test_what_a_broken_off_change_left_is_told_and_ended(self, world: World) -> None:
        left = (given("flannel-default-10-244-1-0-24"), given("flannel-default-10-244-1-0-24-abc", via=SECOND))
        with world.cloud(small(routes=left)) as gce:
            async with manager(gce) as tables:
                [found] = (await tables.read()).routes.values()
                assert found.flaw == "it is there twice"
                assert await tables.apply(op("change", route(via=SECOND))) == [None]
                assert names(gce) == {"flannel-default-10-244-1-0-24-abc"}
                assert gce.history.called("routes.insert") == []

    @pytest.mark.parametrize(
        ("wrong", "flaw"),
        [
            (given("flannel-default-10-244-1-0-24", priority=900), "priority 900, not 1000"),
            (given("flannel-default-10-244-1-0-24", tags=("web",)), "only for instances with the tag web"),
        ],
    )
    async def test_what_is_not_as_we_make_it_is_replaced(self, world: World, wrong: GivenRoute, flaw: str) -> None:
        with world.cloud(small(routes=(wrong,))) as gce:
            async with manager(gce) as tables:
                [found] = (await tables.read()).routes.values()
                assert found.flaw == flaw
                start = gce.now
                assert await tables.apply(op("change", route())) == [None]
                assert (await tables.read()).routes == {route().key: route()}
                assert gce.history.always(route().dst, start)

    async def test_an_old_route_that_cannot_be_deleted_is_told(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                fault = gce.faults.fail_operation("routes.delete")
                answers = await tables.apply(op("change", route(via=SECOND)))
                assert fault.taken == 1
                assert "could not be deleted" in messages(answers)
                assert await tables.apply(op("change", route(via=SECOND))) == [None]
                assert len(names(gce)) == 1


class TestWhoseItIs:
    async def test_what_lacks_any_of_the_three_signs_is_never_touched(self, world: World) -> None:
        networks = tuple(
            Network(name=name, subnetworks=(Subnetwork(name=name, range="10.128.0.0/20"),))
            for name in ("default", "default-foo")
        )
        foreign = (
            given("flannel-default-10-1-0-0-24", "10.1.0.0/24", mark=""),
            given("by-hand", "10.2.0.0/24"),
            given("flannel-default-foo-10-3-0-0-24", "10.3.0.0/24", network="default-foo"),
            given("flannel-default-10-4-0-0-24", "10.4.0.0/24", mark="weft route-manager /another: "),
        )
        wanted = [route(f"10.{n}.0.0/24") for n in range(1, 5)]
        with world.cloud(small(routes=foreign, networks=networks)) as gce:
            async with manager(gce) as tables:
                contents = await tables.read()
                assert contents.routes == {}
                assert "by-hand" in contents.foreign[cloud_key("default", ip_network("10.2.0.0/24"))]
                assert "/another" in contents.foreign[cloud_key("default", ip_network("10.4.0.0/24"))]
                await tables.apply(op("remove", *wanted))
                answers = await tables.apply(op("add", *wanted))
                conflicts = [answer.conflict if answer is not None else None for answer in answers]
                assert conflicts == [True, True, None, True]
                for one in foreign:
                    assert gce.history.touched(one.name) == []

    async def test_a_name_that_is_taken_elsewhere_is_not_ours_to_have(self, world: World) -> None:
        taken = given("flannel-default-10-244-1-0-24", "10.9.0.0/24", mark="")
        with world.cloud(small(routes=(taken,))) as gce:
            async with manager(gce) as tables:
                assert await tables.apply(op("add", route())) == [None]
                assert gce.history.touched(taken.name) == []
                assert (await tables.read()).routes == {route().key: route()}

    async def test_a_foreign_route_that_came_since_is_a_conflict(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                gce.compute.put(given("flannel-default-10-244-1-0-24", mark=""))
                [answer] = await tables.apply(op("add", route()))
                assert answer is not None
                assert answer.conflict
                assert "flannel-default-10-244-1-0-24" in answer.message

    async def test_our_own_right_one_that_came_since_is_success(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                gce.compute.put(given("flannel-default-10-244-1-0-24"))
                assert await tables.apply(op("add", route())) == [None]
                assert len(names(gce)) == 1

    async def test_a_name_that_became_somebody_elses_is_not_deleted(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                gce.compute.drop("flannel-default-10-244-1-0-24")
                gce.compute.put(given("flannel-default-10-244-1-0-24", mark=""))
                assert await tables.apply(op("remove", route())) == [None]
                assert names(gce) == {"flannel-default-10-244-1-0-24"}

    async def test_a_route_that_another_manager_of_ours_made_anew_is_not_deleted(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                gce.compute.drop("flannel-default-10-244-1-0-24")
                gce.compute.put(given("flannel-default-10-244-1-0-24", via=SECOND))
                since = gce.now
                assert await tables.apply(op("change", route(via=SECOND))) == [None]
                assert gce.history.touched("flannel-default-10-244-1-0-24", since) == []

    async def test_adopted_routes_are_ours_and_get_our_mark_when_they_change(self, world: World) -> None:
        old = given("flannel-default-10-244-1-0-24", mark="")
        other = given("flannel-default-custom", "10.9.0.0/24", mark="")
        with world.cloud(small(routes=(old, other))) as gce:
            async with manager(gce, adopt=True) as tables:
                contents = await tables.read()
                assert contents.routes == {route().key: route()}
                assert await tables.apply(op("change", route(via=SECOND))) == [None]
                [made] = [one for one in gce.compute.routes().values() if one.dest_range == "10.244.1.0/24"]
                assert made.description.startswith(MARK)
                assert gce.history.touched(other.name) == []


class TestRefusals:
    async def test_an_operation_that_fails_after_it_was_accepted_is_the_routes_failure(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                fault = gce.faults.fail_operation("routes.insert")
                answers = await tables.apply(op("add", route(), route("10.244.2.0/24")))
                assert fault.taken == 1
                assert sum(answer is not None for answer in answers) == 1
                assert "INTERNAL_ERROR" in messages(answers)

    async def test_a_lost_answer_does_not_do_it_twice(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                insert, delete = gce.faults.lose("routes.insert"), gce.faults.lose("routes.delete")
                assert await tables.apply(op("add", route())) == [None]
                assert await tables.apply(op("remove", route())) == [None]
                assert (insert.taken, delete.taken) == (1, 1)
                assert names(gce) == set()
                for method in ("routes.insert", "routes.delete"):
                    assert len({call.query["requestId"] for call in gce.history.called(method)}) == 1

    async def test_not_found_by_its_id_is_looked_for_by_name_before_it_counts_as_gone(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                fault = gce.faults.fail("routes.delete", 404, reason="notFound")
                assert await tables.apply(op("remove", route())) == [None]
                assert fault.taken == 1
                assert names(gce) == set()

    async def test_not_found_in_words_that_are_not_the_apis_is_no_deletion(self, world: World) -> None:
        """A proxy's 404, or one of a front end that knows no such path: the route stands where it stood."""
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                for method in ("routes.delete", "routes.get"):
                    gce.faults.order(Fault(method=method, kind="html", status=404, times=None))
                [answer] = await tables.apply(op("remove", route()))
                assert answer is not None
                assert "routes.delete: 404" in answer.message
                gce.faults.clear()
                assert await tables.apply(op("remove", route())) == [None]
                assert names(gce) == set()

    @pytest.mark.parametrize(("status", "reason"), [(429, ""), (403, "rateLimitExceeded"), (500, ""), (503, "")])
    async def test_not_now_is_asked_again(self, world: World, status: int, reason: str) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                fault = gce.faults.fail("*", status, times=3, reason=reason)
                assert await tables.apply(op("add", route())) == [None]
                assert fault.taken == 3

    async def test_a_reading_that_fails_is_an_error_and_not_an_empty_table(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                gce.faults.fail("routes.list", 503, times=None)
                with pytest.raises(ProviderBusy, match=r"routes\.list: 503"):
                    await tables.read()

    async def test_without_permission_it_is_said_which_and_what_to_do(self, world: World) -> None:
        account = ServiceAccount(denied=("compute.routes.create", "compute.projects.get"))
        with world.cloud(small(account=account)) as gce:
            async with manager(gce) as tables:
                [answer] = await tables.apply(op("add", route()))
                assert answer is not None
                assert "compute.routes.create" in answer.message
                assert "roles/compute.networkAdmin" in answer.message
                assert account.email in answer.message
                problems = (await tables.read()).problems
                assert any("compute.projects.get" in one.message and not one.wrong for one in problems)

    async def test_without_the_scope_it_is_said_how_to_get_it(self, world: World) -> None:
        account = ServiceAccount(scopes=("https://www.googleapis.com/auth/compute.readonly",))
        with world.cloud(small(account=account)) as gce:
            async with manager(gce) as tables:
                await tables.read()
                assert "--scopes=compute-rw" in messages(await tables.apply(op("add", route())))

    async def test_deleting_what_is_gone_is_success(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                gce.compute.drop("flannel-default-10-244-1-0-24")
                assert await tables.apply(op("remove", route())) == [None]

    async def test_a_netrc_file_is_not_ours_to_read(
        self, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Who has one with a default entry is who he is to other hosts."""
        netrc = tmp_path / "netrc"
        netrc.write_text("default login somebody password sesame\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()

    async def test_by_way_of_a_proxy(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """The local cloud is no proxy, but it answers what was asked of one."""
        with world.cloud(check=False) as gce:
            monkeypatch.setenv("http_proxy", gce.url)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            async with manager(gce, google_endpoint="http://compute.example") as tables:
                with pytest.raises(TargetError, match=r"http://compute\.example/compute/v1/projects/.* was not found"):
                    await tables.read()
            async with manager(gce) as tables:
                assert not (await tables.read()).routes

    async def test_a_token_that_is_refused_is_renewed(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.read()
                fault = gce.faults.fail("routes.list", 401)
                await tables.read()
                assert fault.taken == 1
                assert len(gce.history.called("metadata.token")) >= 2

    async def test_there_are_no_credentials(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with world.cloud() as gce:
            monkeypatch.setenv("NO_GCE_CHECK", "true")
            monkeypatch.setattr(google_metadata, "_NO_GCE_CHECK", True)
            async with manager(gce) as tables:
                with pytest.raises(TargetError, match="GOOGLE_APPLICATION_CREDENTIALS"):
                    await tables.read()


class TestQuota:
    async def test_only_what_does_not_fit_is_refused_with_the_figures(self, world: World) -> None:
        with world.cloud(small(quotas={"ROUTES": 4.0})) as gce:
            async with manager(gce) as tables:
                await tables.read()
                used = static(gce)
                answers = await tables.apply(op("add", *(route(f"10.244.{n}.0/24") for n in range(5))))
                fit = 4 - used - 1
                assert sum(answer is None for answer in answers) == fit
                assert f"room for {fit} of the 5 routes" in messages(answers)
                assert "4 in all" in messages(answers)
                assert len(gce.history.called("routes.insert")) == fit
                assert tables.room["default"].free == 1, "that is for what is replaced"

    async def test_a_table_that_is_full_is_made_smaller(self, world: World) -> None:
        """Whoever says -aggregate because nothing fits any more finds room for the larger routes, one by one."""
        with world.cloud(small(quotas={"ROUTES": 6.0})) as gce:
            async with manager(gce) as tables:
                small_ones = [route(f"10.244.{n}.0/24") for n in range(5)]
                assert sum(answer is None for answer in await tables.apply(op("add", *small_ones))) == 4
                larger = op("add", route("10.244.0.0/23"), route("10.244.2.0/23"), small_ones[4])
                answers = await tables.apply(larger)
                assert [answer is None for answer in answers] == [True, False, False]
                assert await tables.apply(op("remove", *small_ones[:2])) == [None] * 2
                assert await tables.apply(larger[1:2]) == [None]
                assert await tables.apply(op("remove", *small_ones[2:4])) == [None] * 2
                assert await tables.apply(larger[2:]) == [None]
                assert static(gce) == 4

    async def test_changes_go_one_by_one_through_the_last_gap(self, world: World) -> None:
        ours = tuple(given(f"flannel-default-10-244-{n}-0-24", f"10.244.{n}.0/24") for n in range(6))
        with world.cloud(small(routes=ours, quotas={"ROUTES": 8.0})) as gce:
            used = static(gce)
            assert used == 7
            async with manager(gce) as tables:
                await tables.read()
                start = gce.now
                changed = [route(f"10.244.{n}.0/24", SECOND) for n in range(6)]
                assert await tables.apply(op("change", *changed)) == [None] * 6
                assert all(gce.history.always(one.dst, start) for one in changed)
                assert static(gce) == used

    async def test_what_is_replaced_goes_before_what_is_added(self, world: World) -> None:
        with world.cloud(small(routes=(given("flannel-default-10-244-1-0-24"),), quotas={"ROUTES": 4.0})) as gce:
            async with manager(gce) as tables:
                await tables.read()
                added = op("add", route("10.244.2.0/24"), route("10.244.3.0/24"))
                answer, refused, done = await tables.apply([*added, *op("change", route(via=SECOND))])
                assert (answer, done) == (None, None)
                assert refused is not None
                assert "room for 1 of the 2 routes" in refused.message

    async def test_google_has_the_last_word(self, world: World) -> None:
        with world.cloud(small(quotas={"ROUTES": 3.0}), quota_as="operation") as gce:
            async with manager(gce) as tables:
                gce.faults.fail("projects.get", 503, times=4)
                answers = await tables.apply(op("add", *(route(f"10.244.{n}.0/24") for n in range(3))))
                assert "QUOTA_EXCEEDED" in messages(answers)


class TestHops:
    async def test_instances_that_drop_what_is_not_theirs_are_told_without_a_call(self, world: World) -> None:
        shut = Instance(name="shut", addresses=(ip_address("10.128.0.9"),), can_ip_forward=False)
        table = small()
        with world.cloud(Table(networks=table.networks, instances=(*table.instances, shut))) as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route(via="10.128.0.9"), route("10.244.2.0/24", "10.128.0.77")))
                contents = await tables.read()
                said = {problem.subject: problem.message for problem in contents.problems}
                assert "canIpForward" in said["10.128.0.9"]
                assert "flannel-default-10-244-1-0-24" in said["10.128.0.9"]
                assert "no instance here" in said["10.128.0.77"]
                assert contents.calls == 1

    async def test_another_instance_that_has_the_address_by_now_is_found(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce, google_next_hop="instance") as tables:
                await tables.apply(op("add", route()))
                assert (await tables.read()).routes == {route().key: route()}
                gce.compute.drop_instance("host-1")
                [found] = (await tables.read()).routes.values()
                assert (found.via, found.flaw) == (None, "its instance is gone")
                [answer] = await tables.apply(op("change", route()))
                assert answer is not None
                assert "no instance in any zone" in answer.message
                gce.compute.put_instance(Instance(name="host-1b", addresses=(ip_address(FIRST),)))
                start = gce.now
                await tables.read()
                assert await tables.apply(op("change", route())) == [None]
                assert gce.history.always(route().dst, start)
                assert (await tables.read()).routes == {route().key: route()}
                [made] = [one for name, one in gce.compute.routes().items() if name.startswith("flannel")]
                assert made.next_hop_instance.endswith("/host-1b")


class TestLines:
    async def test_gcloud_would_do_the_same(self, world: World) -> None:
        with world.cloud() as gce:
            async with manager(gce) as tables:
                await tables.apply(op("add", route()))
                create, delete = tables.lines(op("change", route(via=SECOND)))
                assert create.startswith("gcloud compute routes create flannel-default-10-244-1-0-24-")
                for part in ("--network=default", "--destination-range=10.244.1.0/24", f"--next-hop-address={SECOND}"):
                    assert part in create
                assert delete == "gcloud compute routes delete flannel-default-10-244-1-0-24 --project=weft-lab --quiet"
