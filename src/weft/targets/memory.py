"""A target in memory: the kernel as far as weft needs one, with switches that make it fail.

It ships, because it stands for the kernel wherever there is none: the loop tests run on it, and a dry run can.
It passes the same contract suite as the kernel target (`tests/contract/test_target.py`), so what it does when a link
goes down, say, is what Linux does:

- a link that goes takes everything on it along; a link set down loses its IPv6 addresses, neighbours, next hops and
  routes, and keeps its IPv4 addresses and its FDB; a link with a new MAC loses its neighbours;
- a next-hop object takes the routes on it along and leaves its groups, the last one takes the group; a WireGuard
  device takes its peers, an address the routes whose preferred source it is, unless it is there a second time;
- next hops and routes are refused while their link is down;
- routes that are shared (`KernelTarget.share`) may go out of uplinks too, go when those do, and come when they come;
- a sysctl is never reverted: one that is removed is only no longer reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Interface

from weft.core import commands
from weft.errors import TargetError
from weft.model import IPNetwork
from weft.objects import (
    MAIN_TABLE,
    REGISTRAR_METRICS,
    Address,
    Chain,
    Failure,
    Fdb,
    Jump,
    Key,
    Link,
    Neighbour,
    NextHop,
    NextHopGroup,
    Object,
    Op,
    Route,
    Sysctl,
)
from weft.objects.wireguard import WireguardDevice, WireguardPeer
from weft.targets import Reading

KERNEL_KINDS: tuple[type[Object], ...] = (Sysctl, Link, Address, Neighbour, Fdb, NextHop, NextHopGroup, Route)
FIREWALL_KINDS: tuple[type[Object], ...] = (Chain, Jump)
WIREGUARD_KINDS: tuple[type[Object], ...] = (WireguardDevice, WireguardPeer)
LOST_ON_DOWN = (Neighbour, NextHop, NextHopGroup, Route)


class Faults:
    """Failures to inject, and the record that they were met.

    Ops are numbered from 1 over the life of a target. `consumed` holds the ops that were made to fail."""

    def __init__(self) -> None:
        self.ops_seen = 0
        self.consumed: list[Op] = []
        self.reads_failed = 0
        self._next = 0
        self._numbers: set[int] = set()
        self._reads = 0

    def fail_next(self, count: int = 1) -> None:
        """The next `count` ops fail."""
        self._next += count

    def fail_at(self, *numbers: int) -> None:
        """The ops of these numbers fail."""
        self._numbers.update(numbers)

    def fail_reads(self, count: int = 1) -> None:
        """The next `count` readings raise TargetError."""
        self._reads += count

    @property
    def outstanding(self) -> int:
        """How many of the failures that were asked for have not been met yet."""
        return self._next + len(self._numbers) + self._reads

    def hits(self, op: Op) -> bool:
        """Count `op`; True if it is to fail."""
        self.ops_seen += 1
        if self.ops_seen in self._numbers:
            self._numbers.remove(self.ops_seen)
        elif self._next:
            self._next -= 1
        else:
            return False
        self.consumed.append(op)
        return True

    def check_read(self) -> None:
        """Raise TargetError if this reading is to fail."""
        if self._reads:
            self._reads -= 1
            self.reads_failed += 1
            raise TargetError("reading was made to fail")


class MemoryTarget:
    """A kernel (and, with `FIREWALL_KINDS`, a firewall) in a dict. `registrar`: routes may go out of every link, and
    have metrics of the registrar's band."""

    def __init__(
        self, kinds: tuple[type[Object], ...] = KERNEL_KINDS, name: str = "memory", registrar: bool = False
    ) -> None:
        self._registrar = registrar
        self._name = name
        self._kinds = kinds
        self._objects: dict[Key, Object] = {}
        self._foreign: dict[Key, str] = {}
        self._uplinks: dict[str, bool] = {}
        self._shared: Callable[[IPNetwork], bool] | None = _anywhere if registrar else None
        self._unshared: dict[Key, Object] = {}
        self._refused: dict[Key, str] = {}
        self._touched: set[Key] | None = None
        self._wake: Callable[[], None] | None = None
        self.faults = Faults()
        self.applied: list[Op] = []
        """Every op that succeeded, in order."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return self._kinds

    def share(self, shared: Callable[[IPNetwork], bool] | None) -> None:
        """As of the kernel target."""
        self._shared = shared
        everything = {**self._objects, **self._unshared}
        self._unshared = {k: o for k, o in everything.items() if self._is_elsewhere(o) and not self._may_share(o)}
        self._objects = {key: thing for key, thing in everything.items() if key not in self._unshared}
        self.lose_track()

    async def read(self, full: bool = False) -> Reading:
        """Everything that is there. Raises TargetError if `faults` says so."""
        self.faults.check_read()
        touched = None if full or self._touched is None else frozenset(self._touched)
        self._touched = set()
        return Reading(self._objects, self._foreign, touched)

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops in this order; one answer each."""
        return [self._apply(op) for op in ops]

    def lines(self, ops: Sequence[Op]) -> list[str]:
        return commands.script(ops)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` at every tampering."""
        self._wake = wake

    def close(self) -> None:
        """Wake nobody any more."""
        self._wake = None

    # What somebody else does to the kernel, behind our back.

    def tamper_put(self, thing: Object) -> None:
        """Somebody makes or overwrites one of our objects; LookupError if what it needs isn't there."""
        if (missing := self._missing(thing)) is not None:
            raise LookupError(missing)
        self._put(thing)
        self._touch(thing.key)

    def tamper_delete(self, key: Key) -> None:
        """Somebody deletes one of our objects, and what hangs on it with it; KeyError if it isn't there."""
        if key not in self._objects:
            raise KeyError(key)
        self._remove(key)
        self._touch(key)

    def put_foreign(self, key: Key, description: str) -> None:
        """Somebody else's object stands at `key` from now on."""
        self._objects.pop(key, None)
        self._foreign[key] = description
        self._touch(key)

    def remove_foreign(self, key: Key) -> None:
        """Somebody else's object is gone; KeyError if there was none."""
        del self._foreign[key]
        self._touch(key)

    def put_uplink(self, name: str, up: bool = True) -> None:
        """Somebody else's link that routes may go out of is there, or goes up or down."""
        self._uplinks[name] = up
        if not up:
            self._drop(lambda o: _on(o, name))
        for key in [key for key, dev in self._refused.items() if dev == name]:
            self._touch(key)

    def remove_uplink(self, name: str) -> None:
        """Somebody else's link is gone, and routes out of it with it; KeyError if there was none."""
        del self._uplinks[name]
        self._drop(lambda o: _on(o, name))

    def lose_track(self) -> None:
        """Notifications were lost: the next reading can't say what was touched."""
        self._touched = None
        self._call_wake()

    # The kernel.

    def _apply(self, op: Op) -> Failure | None:
        thing = op.object
        asked = f"{op.action} {thing.key}"
        if type(thing) not in self._kinds:
            return Failure(f"{asked}: this target doesn't take a {type(thing).__name__}")
        if self.faults.hits(op):
            return Failure(f"{asked}: made to fail")
        if op.action == "remove":
            self._remove(thing.key)
        else:
            failure = self._refusal(op, asked)
            if failure is not None:
                self._refused.update({thing.key: thing.dev} if isinstance(thing, Route) else {})
                return failure
            self._refused.pop(thing.key, None)
            self._put(thing)
        self.applied.append(op)
        return None

    def _refusal(self, op: Op, asked: str) -> Failure | None:
        """Why the kernel would not add or change this."""
        thing = op.object
        if thing.key in self._foreign:
            return Failure(f"{asked}: {self._foreign[thing.key]} stands there and was left alone", conflict=True)
        if op.action == "change" and thing.key not in self._objects:
            return Failure(f"{asked}: it isn't there")
        if (missing := self._missing(thing)) is not None:
            return Failure(f"{asked}: {missing}")
        old = self._objects.get(thing.key)
        if isinstance(thing, Link) and isinstance(old, Link) and thing.fixed != old.fixed:
            return Failure(f"{asked}: VNI, port, local address and group policy can't change while a device lives")
        return None

    def _missing(self, thing: Object) -> str | None:
        """What `thing` needs and the kernel doesn't have."""
        if self._is_elsewhere(thing) and isinstance(thing, Route) and self._shared is not None:
            if not self._may_share(thing):
                return f"{thing.dev} isn't ours, and neither are routes to there out of it"
            state = self._uplinks.get(thing.dev)
            return None if state else f"there is no link {thing.dev}" if state is None else f"{thing.dev} is down"
        for key in thing.needs:
            if key not in self._objects:
                return f"{key} isn't there"
        if isinstance(thing, NextHop | NextHopGroup | Route):
            link = self._objects.get(("link", thing.dev))
            if isinstance(link, Link) and not link.up:
                return f"{thing.dev} is down"
        return None

    def _is_elsewhere(self, thing: Object) -> bool:
        return isinstance(thing, Route) and not thing.nexthop and ("link", thing.dev) not in self._objects

    def _may_share(self, thing: Object) -> bool:
        if not isinstance(thing, Route) or self._shared is None:
            return False
        in_band = (thing.metric in REGISTRAR_METRICS) == self._registrar
        return in_band and thing.table == MAIN_TABLE and self._shared(thing.dst)

    def _put(self, thing: Object) -> None:
        old = self._objects.get(thing.key)
        self._objects[thing.key] = thing
        if not isinstance(thing, Link) or not isinstance(old, Link):
            return
        if old.up and not thing.up:
            self._drop(lambda o: _on(o, thing.name) and _lost_on_down(o))
        if old.mac != thing.mac:
            self._drop(lambda o: isinstance(o, Neighbour) and o.dev == thing.name)

    def _remove(self, key: Key) -> None:
        thing = self._objects.pop(key, None)
        if isinstance(thing, Link):
            self._drop(lambda o: _on(o, thing.name))
        elif isinstance(thing, NextHop):
            self._leave_groups(thing.id)
            self._drop(lambda o: isinstance(o, Route) and key in o.needs)
        elif isinstance(thing, NextHopGroup | Chain | WireguardDevice):
            self._drop(lambda o: key in o.needs)
        elif isinstance(thing, Address) and not self._has_address(thing):
            self._drop(lambda o: isinstance(o, Route) and o.src == thing.address.ip)

    def _leave_groups(self, member: int) -> None:
        """A next hop is gone, and out of its groups; one without a member goes too."""
        groups = [o for o in self._objects.values() if isinstance(o, NextHopGroup) and member in o.members]
        for group in groups:
            rest = tuple(one for one in group.members if one != member)
            if rest:
                self._objects[group.key] = NextHopGroup(group.id, group.dev, rest)
            else:
                self._remove(group.key)
            self._touch(group.key)

    def _has_address(self, gone: Address) -> bool:
        return any(isinstance(o, Address) and o.address.ip == gone.address.ip for o in self._objects.values())

    def _drop(self, goes: Callable[[Object], bool]) -> None:
        """The kernel's cascade, and the cascades of what went. It touches what it takes."""
        for key in [key for key, thing in self._objects.items() if goes(thing)]:
            self._remove(key)
            self._touch(key)

    def _touch(self, key: Key) -> None:
        if self._touched is not None:
            self._touched.add(key)
        self._call_wake()

    def _call_wake(self) -> None:
        if self._wake is not None:
            self._wake()


def _anywhere(destination: IPNetwork) -> bool:
    return True


def _on(thing: Object, device: str) -> bool:
    return isinstance(thing, Address | Neighbour | Fdb | NextHop | NextHopGroup | Route) and thing.dev == device


def _lost_on_down(thing: Object) -> bool:
    if isinstance(thing, Address):
        return isinstance(thing.address, IPv6Interface)
    return isinstance(thing, LOST_ON_DOWN)
