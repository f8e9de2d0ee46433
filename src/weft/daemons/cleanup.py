"""Remove everything of weft's from this host: `weft cleanup`. The plan is empty, the diff does the rest."""

from __future__ import annotations

from dataclasses import dataclass

from weft.backends.tunnel import device_name, vtep_mac
from weft.core.diff import Facts, diff
from weft.daemons.agent import ROLE, mark, node_id
from weft.daemons.process import claim
from weft.objects import Failure
from weft.settings import Settings
from weft.targets import Target
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.owners import owners
from weft.targets.kernel.target import KernelTarget


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing of weft's, the lines that remove it, and how its removal went (None: well, or not tried)."""

    lines: tuple[str, ...]
    failure: Failure | None = None


async def cleanup(settings: Settings, dry_run: bool) -> list[Removal]:
    """Every device, route, next hop and firewall chain of any weft daemon. Routes go first, devices last. Sysctls stay
    as they are. Raises WeftError while a daemon runs here, TargetError if the kernel or the firewall can't be read."""
    if dry_run:
        return await _remove(settings, dry_run)
    with claim(ROLE):
        return await _remove(settings, dry_run)


async def _remove(settings: Settings, dry_run: bool) -> list[Removal]:
    done: list[Removal] = []
    own = mark(settings)
    kernels: list[Target] = [KernelTarget(owner) for owner in await owners() if owner != own]
    kernels.append(KernelTarget(own, vtep_mac(node_id(settings), settings.vni), device=device_name(settings.vni)))
    for target in [*kernels, FirewallTarget()]:
        try:
            reading = await target.read(full=True)
            ops = diff({}, Facts(reading.objects)).ops
            lines = [tuple(target.lines([op])) for op in ops]
            answers = [None] * len(ops) if dry_run else await target.apply(ops)
            done.extend(Removal(*one) for one in zip(lines, answers, strict=True))
        finally:
            target.close()
    return done
