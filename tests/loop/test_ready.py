"""READY, for daemons whose files others wait for: not before they are there."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_interface
from pathlib import Path

from tests.build import CHAINS
from weft.agent.flannel import FlannelWorld
from weft.agent.loop import Loop
from weft.agent.reconcile import Clock, Reconciler
from weft.core.flannel import Options
from weft.core.interface import Choice
from weft.core.tenancy import Tenancy
from weft.model import DefaultRoute, Host, Uplink
from weft.targets.files import FileTarget
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget
from weft.wire.flannel import AllocBackend, Config, Lease, Pool4

POOL = Pool4(IPv4Network("10.5.0.0/16"), 24, ip_address("10.5.1.0"), ip_address("10.5.255.0"))  # type: ignore[arg-type]
ETH0 = Uplink("eth0", 1500, (ip_interface("192.0.2.1/24"),), (DefaultRoute(4),))


async def test_a_daemon_is_not_ready_before_subnet_env_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "flannel"
    folder.write_text("in the way")
    mine = Lease(IPv4Network("10.5.10.0/24"), None, ip_address("192.0.2.1"))  # type: ignore[arg-type]
    world = FlannelWorld(
        Options("/network", subnet_file=f"{folder}/subnet.env"),
        lambda versions: Choice(versions=versions),
        lambda candidate: mine,
        host=Host((ETH0,), chains=CHAINS),
        tenancy=Tenancy(Config(POOL, None, AllocBackend()), mine, (), complete=True),
    )
    now = [0.0]
    targets = (MemoryTarget(KERNEL_KINDS + FIREWALL_KINDS), FileTarget((f"{folder}/subnet.env",)))
    loop = Loop(world, Reconciler(targets, Clock(lambda: now[0], lambda: now[0])), 30.0)
    await loop.step(full=True)
    assert list(loop.reconciler.account.statuses) == [("file", f"{folder}/subnet.env")]
    assert not loop.ready.is_set()
    folder.unlink()
    now[0] = 60.0
    await loop.step(full=True)
    assert (folder / "subnet.env").read_text().startswith("FLANNEL_NETWORK=10.5.0.0/16")
    assert loop.ready.is_set()
