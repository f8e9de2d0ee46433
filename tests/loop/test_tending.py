"""When the ladder is asked, and about whom: `agent/tending.py` over a world and a healer that only notes."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path as File

from tests.loop.test_registrar_world import CONFIG, B, lease, peer, ready, world
from weft.agent.attempts import Attempts
from weft.agent.healing import Healed, Healer, Means
from weft.agent.journal import Journal, Scribe
from weft.agent.registrar import RegistrarWorld
from weft.agent.tending import Tending
from weft.core.ladder import Decision, LadderOptions, Step
from weft.core.registry import Registry
from weft.core.stale import Wanted
from weft.model import Path, Reach
from weft.objects import Op


class Noting(Healer):
    """Finds nothing wrong, and notes what it is to do."""

    def __init__(self, folder: File) -> None:
        super().__init__(Means(), Attempts(folder / "recovery.json"))
        self.taken: list[Step] = []

    async def stale(self, wanted: Wanted) -> tuple[Op, ...]:
        return ()

    async def take(self, step: Step, wanted: Wanted) -> Healed:
        self.taken.append(step)
        return Healed((step.rung,))


def reach(node: str, device: str, state: str, kind: str = "tunnel") -> dict[tuple[str, str], Reach]:
    path = Path(node, kind, device, ip_address("10.5.1.0"), B)  # type: ignore[arg-type]
    return {(node, kind): Reach(path, state, time.time() - 60)}  # type: ignore[arg-type]


def beside_flannel() -> RegistrarWorld:
    """b has flannel, c has not."""
    one = world()
    hosts = (peer("b", 2, "10.9.2.0/24"), peer("c", 3, "10.9.3.0/24"))
    ready(one, Registry(hosts, (lease(1), lease(2)), config=CONFIG, complete=True))
    return one


async def look(one: RegistrarWorld, folder: File) -> tuple[Decision, list[Step]]:
    healer, scribe = Noting(folder), Scribe()
    tending = Tending(one, healer, LadderOptions(), Journal(folder, scribe), lambda: False)
    assert one.scene is not None
    try:
        return await tending.look(one.scene), healer.taken
    finally:
        scribe.close()


async def test_flannels_device_is_judged_by_who_is_probed_through_it(tmp_path: File) -> None:
    one = beside_flannel()
    lost = reach("b", "flannel.1", "down") | reach("b", "", "up", "underlay")
    one.reaches = lost | reach("c", "vxlan7600", "up")
    _, taken = await look(one, tmp_path)
    assert [(step.rung, step.device) for step in taken] == [("cycle", "flannel.1")]


async def test_who_is_lost_on_another_device_is_no_reason_to_cycle_flannels(tmp_path: File) -> None:
    one = beside_flannel()
    one.reaches = reach("c", "vxlan7600", "down") | reach("c", "", "up", "underlay")
    decision, taken = await look(one, tmp_path)
    assert (decision, taken) == (Decision(), [])
    direct = {key: replace(r, path=replace(r.path, device="")) for key, r in reach("b", "", "down").items()}
    one.reaches = direct
    assert await look(one, tmp_path) == (Decision(), [])
