"""Where a lab lives on the machine's disk, and which labs there are.

    /run/weft-lab/<lab>/                root's alone (0700)
    /run/weft-lab/<lab>/state.json      the topology file's content: every verb works it out again
    /run/weft-lab/<lab>/<host>/         pid marks, logs, sockets (docker.sock, agent.sock)
    /var/lib/weft-lab/<lab>/<host>/     Docker's and etcd's data

Nothing that the kernel can tell is kept here (which cable is cut, which process lives): it is asked each time.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import LabError
from weft.lab import fields, netns, schema, wiring
from weft.lab.topology import Topology

RUN = Path("/run/weft-lab")
DATA = Path("/var/lib/weft-lab")


@dataclass(frozen=True, slots=True)
class Mark:
    """A process, so that a recycled pid is never taken for it: its pid and its start time (clock ticks since boot)."""

    pid: int
    started: int

    @staticmethod
    def read(path: Path) -> Mark | None:
        """From a line of the form of /proc/<pid>/stat; None if there is none (yet)."""
        try:
            text = path.read_text()
        except OSError:
            return None
        if not text.endswith("\n"):
            return None  # being written
        head, _, tail = text.rpartition(")")  # the name in parentheses may hold anything
        return Mark(int(head.split()[0]), int(tail.split()[19]))

    def alive(self, proc: Path = Path("/proc")) -> bool:
        """Whether this very process runs, as a /proc of its pid namespace says."""
        path = proc / str(self.pid) / "stat"
        if Mark.read(path) != self:
            return False
        try:
            return path.read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False


def folder(lab: str) -> Path:
    """The lab's folder below /run."""
    return RUN / lab


def data(lab: str) -> Path:
    """The lab's folder for Docker's and etcd's data."""
    return DATA / lab


def need_root() -> None:
    """LabError for anybody else: namespaces are root's to make and to enter."""
    if os.geteuid() != 0:
        raise LabError(f"a lab needs root, and this is user {os.geteuid()}: sudo weft lab …")


def labs() -> list[str]:
    """Every lab that is up or that something is left of. `up` makes the folder first and `down` removes it last, so
    there is no lab without one; a namespace alone, whatever its name, is somebody else's."""
    return sorted({entry.name for top in (RUN, DATA) if top.is_dir() for entry in top.iterdir()})


def create(topology: Topology, document: object, file: str) -> None:
    """Claim the lab's name and write down what it is. LabError if anything of that name exists."""
    need_root()
    if topology.name in labs():
        raise LabError(
            f"a lab {topology.name!r} is up already, or left over: `weft lab down {topology.name}` removes it,"
            f" `weft lab up FILE --name OTHER` brings one up beside it"
        )
    for foreign in (name for name in netns.names() if wiring.belongs(name, topology.name)):
        raise LabError(f"a namespace {foreign!r} is there already and no lab's: choose another name with --name")
    RUN.mkdir(exist_ok=True)
    try:
        folder(topology.name).mkdir(mode=0o700)  # the file may hold the agents' key, and logs tell a lot
    except FileExistsError as error:
        raise LabError(f"another `weft lab up` is making lab {topology.name!r} right now") from error
    content = {"file": file, "name": topology.name, "document": document}
    path = folder(topology.name) / "state.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))
    for host in topology.hosts:
        (folder(topology.name) / host.name).mkdir()


def load(lab: str) -> Topology:
    """The topology of a lab that is up. LabError if there is none of that name."""
    need_root()
    path = folder(lab) / "state.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        known = labs()
        if lab in known:
            raise LabError(f"lab {lab!r} is not whole: `weft lab down {lab}` removes what is left of it") from error
        raise LabError(f"no lab {lab!r} is up; {fields.nearest(lab, known)}") from error
    except (OSError, ValueError) as error:
        raise LabError(f"{path} can't be read ({error}): `weft lab down {lab}` removes the lab") from error
    return schema.read({**content["document"], "name": content["name"]}, lab)


def only() -> str:
    """The one lab that is up. LabError if there is none, or more than one."""
    known = labs()
    if len(known) != 1:
        found = f"these are up: {', '.join(known)}" if known else "no lab is up"
        hint = "say which with --lab NAME" if known else "`weft lab up examples/plain.yaml` brings one up"
        raise LabError(f"{found}; {hint}")
    return known[0]
