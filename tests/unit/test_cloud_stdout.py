"""-backend=stdout and -dry-run: changes told, as text and as JSON lines."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address, ip_network

import pytest

from tests.support.cloud import CloudRig, host, subnet
from tests.support.virtual import reached, virtually
from weft.objects import Op, Route, Why
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud.stdout import StdoutRoutes, Telling

WHY = Why("etcd", "10.0.0.1", "its lease")


def route(number: int, via: int = 1) -> CloudRoute:
    return CloudRoute("default", ip_network(f"10.244.{number}.0/24"), ip_address(f"192.0.2.{via}"))


OPS = (
    Op("remove", route(3), WHY),
    Op("add", route(10), WHY),
    Op("add", route(9), WHY),
    Op("change", route(2, 7), WHY, route(2, 5)),
)


async def test_each_change_is_a_line_as_it_happens_and_the_table_remembers() -> None:
    told: list[str] = []
    tables = StdoutRoutes(write=told.append)
    assert (await tables.read()).routes == {}
    assert await tables.apply([Op("add", route(1), WHY), Op("add", route(2, 5), WHY)]) == [None, None]
    assert await tables.apply([Op("change", route(2, 7), WHY, route(2, 5)), Op("remove", route(1), WHY)]) == [
        None,
        None,
    ]
    assert told == [
        "+ flannel-default-10-244-1-0-24: 10.244.1.0/24 via 192.0.2.1 in default # its lease (10.0.0.1, told by etcd)",
        "+ flannel-default-10-244-2-0-24: 10.244.2.0/24 via 192.0.2.5 in default # its lease (10.0.0.1, told by etcd)",
        "~ flannel-default-10-244-2-0-24: 10.244.2.0/24 via 192.0.2.7 in default, was via 192.0.2.5"
        " # its lease (10.0.0.1, told by etcd)",
        "- flannel-default-10-244-1-0-24: 10.244.1.0/24 via 192.0.2.1 in default # its lease (10.0.0.1, told by etcd)",
    ]
    assert (await tables.read()).routes == {route(2).key: route(2, 7)}
    assert await tables.apply([Op("remove", route(1), WHY)]) == [None]
    assert len(told) == 4, "what isn't there is not told to go"
    assert tables.calls == {("add", "ok"): 2, ("change", "ok"): 1, ("remove", "ok"): 1}
    assert (tables.name, tables.tables, tables.room, tables.lines(OPS)) == ("stdout", ("default",), {}, [])
    await tables.close()


def test_nobody_who_reads_is_no_fault_of_wefts(caplog: pytest.LogCaptureFixture) -> None:
    """`weft route-manager -backend=stdout | head -1`: told once, and what was not told is not there."""

    async def scenario() -> int:
        told: list[str] = []

        def pipe(line: str) -> None:
            if told:
                raise BrokenPipeError(32, "Broken pipe")
            told.append(line)

        tables = StdoutRoutes("memory", write=pipe)
        rig = CloudRig({subnet(n): host(n) for n in range(3)}, tables)  # type: ignore[arg-type]
        running = asyncio.create_task(rig.loop.run())
        await asyncio.sleep(300)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len((await tables.read()).routes) == len(told) == 1
        return sum("stdout can't be written: Broken pipe" in record.message for record in caplog.records)

    assert virtually(scenario()) == 2
    assert "fault in weft" not in caplog.text


async def test_as_json_each_line_is_a_document() -> None:
    told: list[str] = []
    tables = StdoutRoutes("vpc-1", "json", told.append)
    six = CloudRoute("vpc-1", ip_network("fd00:1::/64"), ip_address("2001:db8::1"))
    await tables.apply([Op("add", six, WHY)])
    assert json.loads(told[0]) == {
        "action": "add",
        "table": "vpc-1",
        "destination": "fd00:1::/64",
        "name": "flannel-vpc-1-fd00-1---64",
        "why": "its lease (10.0.0.1, told by etcd)",
        "via": "2001:db8::1",
    }


def test_a_plan_is_told_once_and_again_when_it_is_another() -> None:
    told: list[str] = []
    telling = Telling(StdoutRoutes().called, write=told.append)
    assert telling.plan(OPS, lambda ops: [f"do {op.action}" for op in ops])
    assert [line.split(" #")[0] for line in told] == [
        "plan: change 1, add 2, remove 1",
        "  ~ flannel-default-10-244-2-0-24: 10.244.2.0/24 via 192.0.2.7 in default, was via 192.0.2.5",
        "  + flannel-default-10-244-9-0-24: 10.244.9.0/24 via 192.0.2.1 in default",
        "  + flannel-default-10-244-10-0-24: 10.244.10.0/24 via 192.0.2.1 in default",
        "  - flannel-default-10-244-3-0-24: 10.244.3.0/24 via 192.0.2.1 in default",
        "  do change",
        "  do add",
        "  do add",
        "  do remove",
    ]
    assert not telling.plan(reversed(OPS)), "the same, in whatever order"
    assert telling.plan(())
    assert told[-1] == "plan: nothing is to be done"
    assert not telling.plan(())


def test_a_plan_as_json_is_one_document() -> None:
    told: list[str] = []
    telling = Telling(StdoutRoutes().called, "json", told.append)
    telling.plan(())
    telling.plan(OPS)
    assert json.loads(told[0]) == {"plan": []}
    (change, *_) = json.loads(told[1])["plan"] if isinstance(json.loads(told[1]), dict) else []
    assert (change["action"], change["was"], change["via"]) == ("change", "192.0.2.5", "192.0.2.7")


def test_it_writes_to_stdout_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling(StdoutRoutes().called)
    telling.change(OPS[1])
    assert capsys.readouterr().out.startswith("+ flannel-default-10-244-10-0-24: ")


def test_its_settings_name_the_table_and_the_form() -> None:
    tables = StdoutRoutes.of(RouteManagerSettings(google_network="lab", output="json"))
    assert tables.tables == ("lab",)
    assert StdoutRoutes.of(RouteManagerSettings()).tables == ("default",)


async def test_a_route_of_the_kernels_is_refused() -> None:
    kernels = Op("add", Route(ip_network("10.0.0.0/24"), "eth0"), WHY)
    with pytest.raises(TypeError, match="no route of a cloud's"):
        await StdoutRoutes().apply([kernels])
    with pytest.raises(TypeError, match="no route of a cloud's"):
        Telling(StdoutRoutes().called).change(kernels)


def test_under_the_loop_each_change_is_told_once() -> None:
    async def scenario() -> list[str]:
        told: list[str] = []
        rig = CloudRig({subnet(1): host(1)}, StdoutRoutes("memory", write=told.append))  # type: ignore[arg-type]
        await rig.loop.step()
        rig.world.wanted = {subnet(2): host(2)}
        await rig.loop.step()
        await rig.loop.step(full=True)
        await reached(lambda: len(told) == 3, "three lines")
        return [line[0] for line in told]

    assert virtually(scenario()) == ["+", "+", "-"]
