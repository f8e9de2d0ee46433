"""What the kernel target knows of the kernel: our objects and all links, kept by notifications. Used by `target.py`.

The mirror is filled by a full reading (`reading.py`), and from then on follows what we do ourselves and what the kernel
tells on the listening socket. Whatever can't be followed exactly makes it doubtful, and a doubtful mirror is read anew:

- what the kernel takes along without a word: routes and neighbours when a link goes down or away, or gets another MAC;
  routes when their next-hop object or their preferred source goes, or an address of a link that they go out of;
- a change by somebody else at the moment when we were writing: the order of the two is not known;
- lost notifications.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from weft.model import IPAddress, Mac
from weft.objects import PROTOCOL, Address, Fdb, Key, Link, NextHop, NextHopGroup, Object, Op, Route
from weft.targets.kernel.hops import RouteState
from weft.targets.kernel.links import LinkState
from weft.targets.kernel.refusals import Refusals
from weft.targets.kernel.sharing import (
    REGISTRARS,
    ROUTERS,
    Left,
    Shared,
    anywhere,
    has_owner,
    is_left_by_flannel,
    is_left_elsewhere,
    is_shared,
)

MARK = "weft:"


class Mirror:
    """`owner`: the ifalias of our links, `weft:<role>:<node>`. `vteps`: the names of our VTEPs with their MACs. By its
    MAC a link is recognised that was not marked yet, by its name one that was marked before the host was renamed."""

    def __init__(self, owner: str, vteps: Mapping[str, Mac]) -> None:
        self._owner = owner
        self._role = owner.rpartition(":")[0] + ":"
        self.vteps = vteps
        self.claimed: AbstractSet[str] = frozenset()
        """Names that no other daemon of our role can be looking after now."""
        self._raced = False
        self.removing = False
        self._echoing: list[Sequence[bytes]] = []
        self._echoes: set[bytes] = set()
        self._dropped_hops: set[int] = set()
        self.lacking: set[int] = set()
        """Ids of next hops that could not be made: what has that id is somebody else's, if anything has."""
        self._objects: dict[Key, Object] = {}
        self._unfiled: deque[Sequence[Op]] = deque()
        self.registrar = owner.startswith(REGISTRARS)
        self._one_of_several = owner.startswith(ROUTERS)
        self.shared: Shared | None = anywhere if self.registrar else None
        self.left: Left | None = None
        self.foreign: dict[Key, str] = {}
        self.links: dict[int, LinkState] = {}
        self.names: dict[int, str] = {}
        self.indexes: dict[str, int] = {}
        self.others: dict[int, str] = {}
        """Links that a shared route may go out of: all but the VXLAN devices of weft's daemons. The registrar's may go
        out of other daemons' too."""
        self.carriers: set[str] = set()
        """Names of links that routes of ours may go out of."""
        self.refusals = Refusals()
        self.hops: dict[int, str] = {}
        self.written_links: dict[int, Link] = {}
        """What was asked of links that are not filed yet, by interface index."""
        self.sources: set[IPAddress | None] = set()
        self.touched: set[Key] = set()
        self.doubtful = True

    # Links: ours and everybody's.

    def is_ours(self, link: LinkState) -> bool:
        """A VXLAN device with our mark, one whose making was cut short, or one of this host's before it was renamed. An
        ifalias is a note that anybody may overwrite; our name and our derived MAC together are nobody else's."""
        if link.vxlan is None:
            return False
        if link.alias == self._owner:
            return True
        if self._one_of_several and link.alias.startswith(MARK) and link.name not in self.claimed:
            return False
        if self.vteps.get(link.name) == link.mac:
            return True
        by_mac = link.mac in self.vteps.values()
        if link.alias.startswith(self._role):
            return by_mac or link.name in self.vteps or link.name in self.claimed
        return by_mac and not link.alias and not self.registrar  # beside flannel, whose device has no mark either

    def set_links(self, links: Iterable[LinkState]) -> None:
        """All links there are, as a full reading found them."""
        self.links = {link.ifindex: link for link in links}
        self.names, self.indexes, self.others, self.foreign = {}, {}, {}, {}
        for link in self.links.values():
            self._file(link)

    def put_link(self, link: LinkState) -> None:
        """A link is as `link` says: filed anew."""
        self.drop_link(link.ifindex)
        self.links[link.ifindex] = link
        self._file(link)

    def drop_link(self, ifindex: int) -> None:
        """A link is gone; what was on it is not looked at here."""
        old = self.links.pop(ifindex, None)
        if old is None:
            return
        self.others.pop(ifindex, None)
        if self.foreign.pop(("link", old.name), None) is not None and self._in_our_way(old):
            self.touched.update(("link", name) for name in self.vteps)
        if ifindex in self.names:
            name = self.names.pop(ifindex)
            self.indexes.pop(name, None)
            self.objects.pop(("link", name), None)

    def _own_name(self, link: LinkState) -> str:
        """The name that our device is to have. One that was renamed is filed under its own: to be renamed back, not to
        be made a second time."""
        if link.name in self.vteps:
            return link.name
        there = {other.name for other in self.links.values()}
        names = (name for name, mac in self.vteps.items() if name and mac == link.mac and name not in there)
        return next(names, link.name)

    def _in_our_way(self, link: LinkState) -> bool:
        """A link of somebody else's that has our device's name, or may have its VNI and port."""
        return any(self.vteps) and (link.name in self.vteps or link.vxlan is not None)

    def _file(self, link: LinkState) -> None:
        key = ("link", link.name)
        if link.vxlan is None or not self.is_ours(link):
            marked = link.alias.startswith(MARK)
            whose = f"marked {link.alias}" if marked else "without weft's mark"
            self.foreign[key] = f"a {link.kind or 'device'} {whose}"
            if self.registrar or not (marked and link.kind == "vxlan"):
                self.others[link.ifindex] = link.name
            return
        name = self._own_name(link)
        self.names[link.ifindex] = name
        self.indexes[name] = link.ifindex
        thing = Link(link.name, Mac(link.mac), link.mtu, link.vxlan, link.alias, link.up, link.master)
        self.objects["link", name] = thing

    # Routes: out of our own links, and shared ones out of others'.

    @property
    def route_links(self) -> Mapping[int, str]:
        """The links that a route of ours may go out of, by index."""
        return self.names if self.shared is None else {**self.others, **self.names}

    def route_index(self, name: str) -> int | None:
        """The index of the link of this name, if a route of ours may go out of it."""
        own = self.indexes.get(name)
        if own is not None or self.shared is None:
            return own
        return next((ifindex for ifindex, other in self.others.items() if other == name), None)

    def own_route(self, state: RouteState | None) -> Route | None:
        """The route, if it is ours: it has our protocol number and goes out of a link of ours, or is shared, or flannel
        left it. And it is in the registrar's band if that is who we are, and else it isn't."""
        if state is None or state.route is None or not has_owner(state.route, self.registrar):
            return None
        route = state.route
        if route.protocol != PROTOCOL and state.ifindex in self.names:
            ours = is_left_by_flannel(route, self.shared)
        elif route.protocol != PROTOCOL:
            ours = state.ifindex in self.others and is_left_elsewhere(route, self.shared, self.left)
        else:
            ours = state.ifindex not in self.others or is_shared(route, self.shared)
        return route if ours else None

    # Our own changes.

    def begin_writing(self) -> None:
        """From here to `caught_up`, a change by somebody else can't be put in order with ours."""
        self._raced = True

    def begin_removing(self) -> None:
        """Some of what is written now are removals."""
        self.removing = True

    def caught_up(self) -> None:
        """Every notification that there is has been heard."""
        self._raced = False
        self._echoing.clear()
        self._echoes.clear()

    def wrote(self, ops: Sequence[Op], requests: Sequence[bytes]) -> None:
        """The kernel carried out these ops, all of one kind; `requests` are what was asked of it. They are filed when
        somebody looks, or when the event loop comes to it: a cold start isn't held up by it. `ops` is kept."""
        self._unfiled.append(ops)
        first = ops[0].object if ops else None
        if type(first) is Fdb:
            self._echoing.append(requests)
        elif type(first) is Route:
            self.carriers.add(first.dev)
            self.refusals.over(ops)

    @property
    def objects(self) -> dict[Key, Object]:
        """Ours, by key."""
        self.file_written()
        return self._objects

    def replace_objects(self, found: dict[Key, Object]) -> dict[Key, Object]:
        """A full reading begins: from now on the objects are these; returns those until now."""
        before, self._objects = self.objects, found
        self.carriers = set()
        return before

    @property
    def unfiled(self) -> bool:
        """Something that we wrote is not filed yet."""
        return bool(self._unfiled)

    def file_written(self, limit: int | None = None) -> None:
        """File what we wrote since the last time, in the order in which it was written; if `limit` is given, about so
        many objects of it."""
        left = limit
        while self._unfiled and (left is None or left > 0):
            batch = self._unfiled.popleft()
            self._file_batch(batch)
            left = None if left is None else left - len(batch)

    def _file_batch(self, ops: Sequence[Op]) -> None:
        objects, source = self._objects, None
        for op in ops:
            thing = op.object
            if op.action == "remove":
                self._drop(thing)
                continue
            objects[thing.key] = thing
            if type(thing) is NextHop or type(thing) is NextHopGroup:
                self.hops[thing.id] = thing.dev
            elif type(thing) is Route and thing.src is not source:
                source = thing.src
                self.sources.add(source)

    def drop(self, thing: Object) -> None:
        """This is gone by our own doing."""
        self.file_written()
        self._drop(thing)

    def _drop(self, thing: Object) -> None:
        self._objects.pop(thing.key, None)
        if isinstance(thing, NextHop | NextHopGroup):
            self.hops.pop(thing.id, None)
            self._dropped_hops.add(thing.id)
        elif isinstance(thing, Address) and thing.address.ip in self.sources:
            self.doubtful = True

    @property
    def expected(self) -> int:
        """How many echoes are to be heard yet."""
        return len(self._echoes) + sum(map(len, self._echoing))

    def check_hops(self) -> None:
        """After a round of ops: if a route was left on a next-hop object that we removed, the kernel took it along; out
        of a group that was left with it, the kernel took it."""
        if not self.removing:
            return
        self.removing = False
        objects = self.objects
        gone, self._dropped_hops = self._dropped_hops, set()
        if gone and any(_is_on(thing, gone) for thing in objects.values()):
            self.doubtful = True

    def lacks(self, hop: int) -> bool:
        """This next hop could not be made, and isn't ours otherwise."""
        return hop in self.lacking and ("nexthop", hop) not in self.objects

    def is_echo(self, received: bytes) -> bool:
        """Is this what the kernel tells of a change of the FDB that we made? VXLAN's notifications don't say whose
        request they come from (vxlan_fdb_notify); ours are known by their content: as requested, plus an
        NDA_CACHEINFO of 20 octets."""
        while self._echoing:
            self._echoes.update([request[4:6] + request[16:] for request in self._echoing.pop()])
        return received[4:6] + received[16:-20] in self._echoes

    # What the kernel tells (`hearing.py`).

    def follow(self, key: Key, thing: Object | None) -> None:
        """This is what stands under `key` now, None for nothing more."""
        if self.objects.get(key) == thing:
            return
        self.doubtful |= self._raced
        if thing is None:
            del self.objects[key]
        else:
            self.objects[key] = thing
        self.touched.add(key)


def _is_on(thing: Object, hops: set[int]) -> bool:
    """A route on one of these next hops, or a group with one of them."""
    if type(thing) is NextHopGroup:
        return not hops.isdisjoint(thing.members)
    return type(thing) is Route and thing.nexthop in hops
