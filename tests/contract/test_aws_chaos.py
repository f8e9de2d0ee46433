"""A thousand random changes while every tenth call of EC2 fails, in every way that one can, and the process is started
anew again and again: no wanted destination is absent at any instant, no route of others is touched, nothing is left.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from tests.contract.aws_place import AwsPlace, aws_place
from tests.contract.route_tables import add, change, remove
from tests.support.aws import Fault
from weft.errors import TargetError
from weft.model import IPAddress, IPNetwork
from weft.objects import Key, Op
from weft.objects.cloud import CloudRoute
from weft.targets.cloud import pace

CHANGES = 1000
AT_ONCE = 25
SUBNETS = 40
FAILING = 0.1
RESTARTS = 0.1
FAULTS: tuple[Fault, ...] = ("refused", "lost", "busy", "throttled")


class Chaos:
    def __init__(self, place: AwsPlace, chance: random.Random) -> None:
        self.place = place
        self.chance = chance
        self.wanted: dict[IPNetwork, IPAddress] = {}
        self.changes = 0

    def fault(self, _: str) -> Fault | None:
        return self.chance.choice(FAULTS) if self.chance.random() < FAILING else None

    def change_wishes(self) -> None:
        for _ in range(AT_ONCE):
            dst = self.place.dst(self.chance.randrange(SUBNETS))
            via = self.chance.choice((None, *self.place.vias, *self.place.vias))
            before = self.wanted.pop(dst, None)
            if via is not None:
                self.wanted[dst] = via
            self.changes += via != before

    def route(self, dst: IPNetwork) -> CloudRoute:
        return CloudRoute(self.place.table, dst, self.wanted[dst])

    def ops(self, routes: Mapping[Key, CloudRoute]) -> list[Op]:
        """As the loop would ask."""
        want = {route.key: route for route in map(self.route, self.wanted)}
        ops = [change(route, routes[key]) for key, route in want.items() if key in routes and routes[key] != route]
        ops += [add(route) for key, route in want.items() if key not in routes]
        return ops + [remove(route) for key, route in routes.items() if key not in want]

    async def attempt(self) -> bool:
        """One cycle; whether there was nothing to do."""
        try:
            ops = self.ops((await self.place.tables.read()).routes)
        except TargetError:
            return False
        await self.place.tables.apply(ops)
        return not ops


async def test_nothing_that_is_wanted_is_ever_absent_and_nothing_foreign_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "FIRST_DELAY", 0.0005)
    monkeypatch.setattr(pace, "LAST_DELAY", 0.001)
    with aws_place(monkeypatch) as place:
        await chaos(place, random.Random(20260611))
        await place.tables.close()


async def chaos(place: AwsPlace, chance: random.Random) -> None:
    cloud = place.cloud
    foreign = {place.dst(n) for n in range(SUBNETS, SUBNETS + 5)}
    for dst in foreign:
        place.put_foreign(dst)
    run = Chaos(place, chance)
    looked = 0
    cloud.before = run.fault
    while run.changes < CHANGES:
        there, before = set(cloud.routes()), set(run.wanted)
        run.change_wishes()
        steady = there & before & run.wanted.keys()
        if chance.random() < RESTARTS:
            await place.tables.close()
            place.tables = place.another()
        began = len(cloud.history)
        await run.attempt()
        for state in cloud.history[began:]:
            assert steady <= state.routes.keys(), state.call
            assert {dst for dst, to in state.routes.items() if to == place.somebodys} == foreign, state.call
            looked += 1
        ours = {dst for dst, to in cloud.routes().items() if to != place.somebodys}
        assert ours <= place.listed(), "a route of ours that the tags don't list is a leak"
    cloud.before = lambda _: None
    for _ in range(5):
        if await run.attempt():
            break
    assert {dst: place.hops(dst) for dst in run.wanted} == {dst: [via] for dst, via in run.wanted.items()}
    assert set(cloud.routes()) == run.wanted.keys() | foreign
    met = Counter(fault for _, fault in cloud.met)
    assert all(met[fault] > 10 for fault in FAULTS), met
    assert looked > CHANGES / 2, "it was looked at"
    assert len(cloud.met) > len(cloud.calls) / 20
    run.wanted.clear()
    await run.attempt()
    assert set(cloud.routes()) == foreign
    assert cloud.tags() == {}
