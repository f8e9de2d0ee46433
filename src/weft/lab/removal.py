"""Taking a lab away: everything that `up` can have left at any moment, finished or not, crashed or not.

It goes by names alone (namespaces, folders, control groups), reads no state and trusts no pid. `weft lab down` and a
failed `up` call this.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weft.lab import netns, shell, state, wiring

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Removed:
    """What was there to be removed: processes killed directly, namespaces."""

    processes: int
    namespaces: int


async def remove(lab: str) -> Removed:
    """Remove every trace of the lab; nothing of it being there is no error."""
    state.need_root()
    spaces = [name for name in netns.names() if wiring.belongs(name, lab)]
    with netns.held(spaces) as identities:
        processes = netns.end_processes(identities)
        for mount in _mounts((state.folder(lab), state.data(lab))):
            await shell.run(["umount", "--lazy", mount])
        for name in spaces:
            await shell.run(["ip", "netns", "delete", name])
        for group in _cgroups(lab):
            with contextlib.suppress(OSError):  # a dying process may still be in it: an empty group harms nobody
                group.rmdir()
        for top in (state.data(lab), state.folder(lab)):  # the folder last: while it is there, the name is taken
            if top.exists():
                shutil.rmtree(top)
        processes += netns.end_processes(identities)  # what an interrupted `up` had begun to start
    return Removed(processes, len(spaces))


def _mounts(below: tuple[Path, ...]) -> Iterator[str]:
    """Mount points at or below these folders, innermost first. There should be none: each host has its own mounts. But
    removing files must never reach through one."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if any(Path(point).is_relative_to(top) for top in below):
            yield point


def _cgroups(lab: str) -> Iterator[Path]:
    """The control groups that the lab's containers had, in every hierarchy (v1) or the one (v2), innermost first."""
    for top in (*CGROUPS.glob(f"weft-lab/{lab}"), *CGROUPS.glob(f"*/weft-lab/{lab}")):
        yield from sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
        yield top
        yield top.parent  # shared with other labs: only the last one's goes
