"""What this host knows: the latest full set of every source, and the View made of them.

Each source only replaces its set here and wakes the loop; the loop asks for a View when it gets to it, so a burst of
events costs one cycle. Called by `agent/loop.py` and the daemons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from weft.agent.broken import Broken
from weft.backends.tunnel import OVERHEAD, device_name, no_ipv6
from weft.core.acceptance import Accepted, Policy, accept
from weft.core.identity import Identity, Self, describe
from weft.model import Host, IPAddress, IPNetwork, Known, Network, Node, Problem, Profile, View


@dataclass(slots=True)
class World(Broken):
    """`engine`, `peers` and `host` are None until their source has answered for the first time. `chains`: asks the
    firewall which foreign chains it had at its last reading (`model.Host.chains`), `refused`: what an administrator
    forbids there."""

    identity: Identity
    profile: Profile
    allowed: tuple[IPNetwork, ...]
    engine: Known[Network] | None = None
    peers: Known[Node] | None = None
    host: Host | None = None
    chains: Callable[[], frozenset[tuple[int, str, str]]] = frozenset
    refused: Callable[[], tuple[tuple[int, str], ...]] = tuple
    _accepted: Accepted | None = field(default=None)
    _endpoints: tuple[IPAddress, ...] = ()

    @property
    def name(self) -> str:
        """This host's id."""
        return self.identity.id

    @property
    def device(self) -> str:
        """The VXLAN device's name."""
        return device_name(self.identity.vni)

    def me(self) -> Self | None:
        """This host as the others are to know it; None while this host's networks or its kernel are unknown (a HELLO
        without networks would make the peers drop our routes)."""
        if self.host is None or self.engine is None or not self.engine.complete:
            return None
        here = describe(self.identity, self.host, self.engine.items, self._endpoints)
        if here.node is not None:
            self._endpoints = here.node.endpoints
        return here

    def view(self) -> View | None:
        """What to plan from; None as long as nothing may be planned: a peer's claim can't be judged before this host's
        own networks are known."""
        here = self.me()
        if here is None or here.node is None or self.host is None or self.engine is None:
            return None
        claims = self.peers.items if self.peers is not None else ()
        node = here.node
        lacking = no_ipv6(self.host, node.mtu - OVERHEAD[here.underlay])
        if lacking:
            node = replace(node, overlay=tuple(a for a in node.overlay if a.version == 4))
        policy = Policy(node, here.underlay, self.allowed, self.engine.items, self.host.uplinks, lacking)
        self._accepted = accept(claims, policy, self._accepted)
        return View(
            me=node,
            networks=self.engine.items,
            nodes=self._accepted.nodes,
            problems=tuple(self.problems()),
            host=replace(self.host, chains=self.chains(), refused=self.refused()),
            profile=replace(self.profile, underlay=here.underlay),
            synced=self.peers is not None and self.peers.complete,
        )

    def waiting(self) -> list[str]:
        """Sources that have not vouched for their set yet."""
        waiting = ["host"] if self.host is None else []
        waiting.extend(["engine"] if self.engine is None or not self.engine.complete else [])
        waiting.extend(["discovery"] if self.peers is None or not self.peers.complete else [])
        return waiting

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know, from every source and from judging the claims."""
        me = self.me()
        yield from self.broken.values()
        if me is not None and me.problem is not None:
            yield me.problem
        for known in (self.engine, self.peers):
            if known is not None:
                yield from known.problems
        if self._accepted is not None:
            yield from self._accepted.problems
