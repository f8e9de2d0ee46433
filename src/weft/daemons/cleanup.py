"""Remove everything of weft's from this host: `weft cleanup`. The plan is empty, the diff does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.backends.tunnel import device_name, vtep_mac
from weft.core.diff import Facts, diff
from weft.core.flannel import inside
from weft.daemons.agent import ROLE, mark, node_id
from weft.daemons.process import claim, claimed
from weft.errors import WeftError
from weft.objects import Failure
from weft.settings import Settings
from weft.targets import Target
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.owners import owners, wireguard_devices
from weft.targets.kernel.sharing import REGISTRARS
from weft.targets.kernel.target import KernelTarget
from weft.targets.wireguard import WireguardTarget
from weft.targets.wireguard_tools import HostKey
from weft.wire.subnet_env import SubnetEnv, parse_subnet_env

NO_KEY = HostKey("", "none")


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing of weft's, the lines that remove it, and how its removal went (None: well, or not tried)."""

    lines: tuple[str, ...]
    failure: Failure | None = None


async def cleanup(settings: Settings, dry_run: bool, subnet_file: Path) -> list[Removal]:
    """Every device, route, next hop and firewall chain of any weft daemon. Routes go first, devices last; the
    registrar's before the others, since they may lead out of flanneld's device. Sysctls stay as they are.
    `subnet_file`: names the network whose routes out of others' links are ours too (host-gw's). Raises WeftError while
    a daemon runs here, TargetError if the kernel or the firewall can't be read."""
    if dry_run:
        return await _remove(await _targets(settings, subnet_file), dry_run)
    with claim(ROLE):
        others = [name for name in claimed() if name != ROLE]
        if others:
            raise WeftError(f"a weft {others[0]} is running in this network namespace; stop it first")
        return await _remove(await _targets(settings, subnet_file), dry_run)


async def _targets(settings: Settings, subnet_file: Path) -> list[Target]:
    try:
        env = parse_subnet_env(subnet_file.read_bytes())
    except OSError:
        env = SubnetEnv()
    spans = [network for network in (env.network, env.network6) if network is not None]
    own, marked = mark(settings), await owners()
    registrars = [owner for owner in marked if owner.startswith(REGISTRARS)] or [REGISTRARS]  # it may have no device
    others = [owner for owner in marked if owner != own and owner not in registrars]
    kernels: list[Target] = [KernelTarget(owner) for owner in (*registrars, *others)]
    kernels.append(
        KernelTarget(
            own,
            vtep_mac(node_id(settings), settings.vni),
            device=device_name(settings.vni),
            shared=lambda subnet: any(inside(subnet, span) for span in spans),
        )
    )
    tunnels = [WireguardTarget(owner, NO_KEY, names) for owner, names in (await wireguard_devices()).items()]
    return [*kernels, *tunnels, FirewallTarget()]


async def _remove(targets: Sequence[Target], dry_run: bool) -> list[Removal]:
    done: list[Removal] = []
    for target in targets:
        try:
            reading = await target.read(full=True)
            ops = diff({}, Facts(reading.objects)).ops
            lines = [tuple(target.lines([op])) for op in ops]
            answers = [None] * len(ops) if dry_run else await target.apply(ops)
            done.extend(Removal(*one) for one in zip(lines, answers, strict=True))
        finally:
            target.close()
    return done
