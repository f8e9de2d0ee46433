"""What `weft discovery` knows: the peers that its discoveries hear, one for each stack of this host, and the file that
is made of them. Called by `agent/loop.py` and `daemons/discovery.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from weft.agent.announcer import Announcer
from weft.agent.broken import Broken
from weft.agent.stacks import router_of
from weft.core.ageing import Aged, Heard, age
from weft.core.identity import Identity, Self
from weft.model import DiscoveryData, Host, IPAddress, Known, Mac, Network, Node, Peer, Problem, Profile, TextFile, View
from weft.wire.discovery_data import FILE, encode
from weft.wire.routing import StackConfig

ROLE = "discovery"
MODE = 0o640
"""Of discovery.json: its owner writes it, the router's group reads it."""
NOBODY: Known[Node] = Known()
REFRESH = 5.0
"""Seconds after which the file says anew when peers were last heard, if nothing else changed."""


@dataclass(slots=True)
class Member:
    """One stack of this host, and the discovery that tells of it. `known`: None until that has spoken. `endpoints`:
    this host's, as they were found last."""

    stack: StackConfig
    identity: Identity
    announcer: Announcer
    known: Known[Node] | None = None
    endpoints: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Clocks:
    """`now` never jumps and measures silence; `wall`, seconds since 1970, is what others read."""

    now: Callable[[], float]
    wall: Callable[[], float]


@dataclass(slots=True)
class DiscoveryWorld(Broken):
    """`members`: by stack id. `timeout`: of the peers, seconds. `changed`: called with the peers whenever somebody
    came, went or is another one. `host`: None until the kernel has answered."""

    name: str
    mode: str
    folder: Path
    timeout: float
    members: dict[str, Member]
    clocks: Clocks
    changed: Callable[[tuple[Peer, ...]], None]
    host: Host | None = None
    _aged: Aged = field(default_factory=Aged)
    _text: TextFile | None = None
    _told: tuple[object, ...] = ()
    _told_at: float = 0.0

    @property
    def device(self) -> str:
        """None: nothing of the kernel's is this daemon's."""
        return ""

    @property
    def engine(self) -> Known[Network]:
        """This host's networks: all that its stacks have."""
        networks = (network for member in self.members.values() for network in member.stack.networks)
        return Known(tuple(networks), True)

    @property
    def data(self) -> tuple[Peer, ...]:
        """The peers of the last cycle."""
        return self._aged.peers

    @property
    def next_change(self) -> float | None:
        """When a stale peer is forgotten, by `clocks.now`; None: nobody is stale."""
        return self._aged.next_change

    @property
    def peers(self) -> Known[Node] | None:
        """The nodes that all discoveries hear, sorted by id, without this host's own. Complete when all of them are."""
        told = [member.known for member in self.members.values() if member.known is not None]
        if not told:
            return None
        own = {member.identity.id for member in self.members.values()}
        nodes = {node.id: node for known in told for node in known.items if node.id not in own}
        problems = dict.fromkeys(problem for known in told for problem in known.problems)
        complete = len(told) == len(self.members) and all(known.complete for known in told)
        return Known(tuple(nodes[name] for name in sorted(nodes)), complete, tuple(problems))

    def here(self, stack: str) -> Self | None:
        """This host as a router of that stack; None while the kernel has not answered."""
        member = self.members[stack]
        if self.host is None:
            return None
        here = router_of(member.stack, member.identity, self.host, member.endpoints)
        if here.node is not None:
            member.endpoints = here.node.endpoints
        return here

    def view(self) -> View:
        """What to plan from: the file alone. What isn't known yet, the file says."""
        known = self.peers or NOBODY
        now = self.clocks.now()
        before, self._aged = self._aged, age(self._aged, known, self._heard(), self.timeout, now)
        if [(p.node, p.status) for p in before.peers] != [(p.node, p.status) for p in self._aged.peers]:
            self.changed(self._aged.peers)
        return View(
            me=_nobody(self.name),
            profile=Profile(ROLE, plane=False),
            synced=True,
            files=(self._file(known, now),),
            problems=tuple(self.problems()),
        )

    def waiting(self) -> list[str]:
        """Sources that have not vouched for their set yet."""
        waiting = ["host"] if self.host is None else []
        known = self.peers
        return waiting if known is not None and known.complete else [*waiting, "discovery"]

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know."""
        yield from self.broken.values()
        known = self.peers
        yield from known.problems if known is not None else ()
        for stack in self.members:
            here = self.here(stack)
            if here is not None and here.problem is not None:
                yield here.problem

    def _heard(self) -> Heard:
        voices = [member.announcer for member in self.members.values()]
        seen: dict[str, float] = {}
        for name, at in (heard for voice in voices for heard in voice.last_seen().items()):
            seen[name] = max(at, seen.get(name, at))
        return Heard(seen, {name for voice in voices for name in voice.departed()})

    def _file(self, known: Known[Node], now: float) -> TextFile:
        """Written anew when something changed, or a while after somebody was heard."""
        here = tuple(one.node for one in map(self.here, self.members) if one is not None and one.node is not None)
        problems = tuple(self.problems())
        told = ([replace(peer, last_seen=0.0) for peer in self._aged.peers], here, known.complete, problems)
        if self._text is None or told != self._told or now - self._told_at >= REFRESH:
            wall = self.clocks.wall()
            own = tuple(Peer(node, wall) for node in here)
            data = DiscoveryData(self._aged.peers, own, wall, known.complete, problems)
            self._told, self._told_at = told, now
            self._text = TextFile(str(self.folder / FILE), encode(data, self.mode), MODE)
        return self._text


def _nobody(name: str) -> Node:
    """A plan is somebody's; this one has no end of a tunnel."""
    return Node(name, (), 0, 0, Mac(bytes(6)), 0, backend="alloc")
