"""What the members of a gossiping cluster come to as nodes: their payloads are read, and whoever claims an endpoint
that it is not at is refused. Sans I/O; `discovery/gossip_talk.py` asks it after each change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weft.core.swim import Swim
from weft.core.swim_table import Member
from weft.core.swim_values import State
from weft.discovery.gossip_options import GossipSettings
from weft.discovery.tally import Complaints, Counters, Refused
from weft.errors import WireError
from weft.model import Node
from weft.wire.gossip_payload import unpack

LATE = 30.0
"""Seconds after which a member's payload that nobody has is not waited for any longer."""

_REASONS = (Refused.MALFORMED, Refused.SPOOFED, Refused.LIMIT)


@dataclass(frozen=True, slots=True)
class _Read:
    """A payload (by its digest, from where) and the node in it, None if it is refused."""

    digest: bytes
    at: bytes
    node: Node | None


class Roster:
    """`nodes`: sorted by id. `version` differs from before whenever they do."""

    def __init__(self, settings: GossipSettings, counters: Counters, complaints: Complaints) -> None:
        self._settings = settings
        self._counters = counters
        self._complaints = complaints
        self._read: dict[str, _Read] = {}
        self._departed: set[str] = set()
        self.nodes: tuple[Node, ...] = ()
        self.version = 0
        self.next_event = float("inf")
        """Who said goodbye is let go then."""
        self.waits_until = float("-inf")
        """Until then, somebody's payload is waited for."""

    def departed(self) -> frozenset[str]:
        """Who said goodbye and is let go, as long as that is remembered."""
        return frozenset(self._departed)

    def look(self, swim: Swim, now: float) -> None:
        """Somebody may have come, gone, or changed."""
        nodes: list[Node] = []
        self._departed.clear()
        self.next_event, self.waits_until = float("inf"), float("-inf")
        members = swim.table.members
        for name in sorted(members):
            member = members[name]
            if member.state is State.DEAD or (member.state is State.LEFT and not self._is_held(member, now)):
                continue
            if member.missing:
                self.waits_until = max(self.waits_until, member.since + LATE)
            node = self._node(member) if member.has else None
            if node is not None:
                nodes.append(node)
        self.forget(members)
        if len(nodes) != len(self.nodes) or any(a is not b for a, b in zip(nodes, self.nodes, strict=True)):
            self.nodes = tuple(nodes)
            self.version += 1

    def _is_held(self, member: Member, now: float) -> bool:
        """A host that only restarts says goodbye too: its routes wait for it."""
        until = member.since + self._settings.goodbye_hold
        if until <= now:
            self._departed.add(member.id)
            return False
        self.next_event = min(self.next_event, until)
        return True

    def _node(self, member: Member) -> Node | None:
        read = self._read.get(member.id)
        if read is None or (read.digest, read.at) != (member.has, member.address.packed):
            node = self._believed(member)
            if read is not None and read.node == node:
                node = read.node
            self._read[member.id] = _Read(member.has, member.address.packed, node)
            return node
        return read.node

    def _believed(self, member: Member) -> Node | None:
        """The node that its payload tells, if it may; else that is a problem for as long as it tells nothing better."""
        for why in _REASONS:
            self._complaints.clear(f"payload {why}", member.id)
        try:
            node = unpack(member.payload)
        except WireError as error:
            why, text = Refused.MALFORMED, f"what {member.id} tells of itself can't be read: {error}"
        else:
            refused = self._objection(member, node)
            if refused is None:
                return node
            why, text = refused
        self._counters.refused[why] += 1
        self._complaints.report(f"payload {why}", member.id, text)
        return None

    def _objection(self, member: Member, node: Node) -> tuple[Refused, str] | None:
        subnets, limit = sum(len(network.subnets) for network in node.networks), self._settings.limits.subnets
        if node.id != member.id:
            text = f"the member {member.id} at {member.address} tells of {node.id}: refused; somebody pretends to be it"
            return Refused.SPOOFED, text
        if member.address.ip not in node.endpoints:
            claimed = " and ".join(map(str, node.endpoints))
            text = (
                f"{member.id} gossips from {member.address} and claims to be at {claimed}: refused; somebody pretends "
                f"to be that host, or there is address translation between it and the others"
            )
            return Refused.SPOOFED, text
        if subnets > limit:
            return Refused.LIMIT, f"{member.id} announces {subnets} subnets, and {limit} is the limit: refused"
        return None

    def forget(self, members: Mapping[str, Member]) -> None:
        """Who is gone is no problem any more."""
        for name in [name for name in self._read if name not in members or not members[name].live]:
            for why in _REASONS:
                self._complaints.clear(f"payload {why}", name)
            if name not in members:
                del self._read[name]
