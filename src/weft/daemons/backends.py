"""What some of flannel's backends need before this host can have a lease: a key, a command's output, a target of their
own. Called by `daemons/flanneld.py`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from weft.core.flannel import WIREGUARD_DEVICES
from weft.core.tenancy import Tenancy
from weft.targets import Target
from weft.targets.extension import ExtensionTarget
from weft.targets.extension_commands import Command, Variables
from weft.targets.kernel.owners import wireguard_devices
from weft.targets.wireguard import WireguardTarget
from weft.targets.wireguard_tools import KEY_FILE, KEY_FILE_VARIABLE, HostKey, host_key
from weft.wire.flannel import BackendData, Config, ExtensionBackend, ExtensionData, WireguardBackend, WireguardPeer

NO_KEY = HostKey("", "none")


@dataclass(frozen=True, slots=True)
class Prepared:
    """`data`: what the lease is to publish. `target`: one more for the reconciler. `after`: to be done when the first
    plan was carried out. `former`: devices that a former run's backend left, for which `target` is there."""

    data: BackendData | None = None
    target: Target | None = None
    after: Callable[[Tenancy | None], Awaitable[None]] | None = None
    former: tuple[str, ...] = ()


async def prepare(config: Config, owner: str, shell: bool) -> Prepared:
    """`owner`: the mark of our devices. `shell`: commands are run by one. Raises TargetError if a tool is missing or a
    command fails, SettingsError if a command can't be run."""
    backend = config.backend
    if isinstance(backend, WireguardBackend):
        key = await host_key(os.environ.get(KEY_FILE_VARIABLE) or KEY_FILE)
        target = WireguardTarget(owner, key, WIREGUARD_DEVICES)  # both: a former run's mode may have been another one
        return Prepared(WireguardPeer(key.public, backend.listen_port), target)
    if isinstance(backend, ExtensionBackend):
        return await _extension(backend, config, shell)
    left = (await wireguard_devices()).get(owner)
    return Prepared(target=WireguardTarget(owner, NO_KEY, left), former=tuple(left)) if left else Prepared()


async def _extension(backend: ExtensionBackend, config: Config, shell: bool) -> Prepared:
    network = next((pool.network for pool in (config.ipv4, config.ipv6) if pool is not None), None)

    def command(text: str) -> Command | None:
        return Command(text, shell) if text else None

    before, after = command(backend.pre_startup), command(backend.post_startup)
    data = await before.run(Variables(network=network)) if before is not None else ""

    async def started(tenancy: Tenancy | None) -> None:
        mine = tenancy.mine if tenancy is not None else None
        if after is not None and mine is not None:
            await after.run(Variables(mine.subnet, mine.subnet6, mine.public_ip, mine.public_ip6, network))

    target = ExtensionTarget(command(backend.subnet_add), command(backend.subnet_remove))
    return Prepared(ExtensionData(data), target, started)
