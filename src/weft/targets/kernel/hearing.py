"""What the kernel tells on the listening socket, and what follows from it for the mirror. Called by `target.py`."""

from __future__ import annotations

from weft.objects import Address
from weft.targets.kernel.codec import Message
from weft.targets.kernel.constants import (
    AF_BRIDGE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNETCONF,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
)
from weft.targets.kernel.entries import decode_entry
from weft.targets.kernel.hops import decode_hop, decode_route
from weft.targets.kernel.links import LinkState, decode_address, decode_link, is_kernels_own
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.sysctl import forwarding_of


def hear(mirror: Mirror, message: Message) -> None:
    """The mirror follows one notification. Raises NetlinkDecodeError."""
    mirror.file_written()
    kind = message.kind
    if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        _hear_entry(mirror, message)
    elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
        _hear_route(mirror, message)
    elif kind in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
        _hear_hop(mirror, message)
    elif kind in (RTM_NEWLINK, RTM_DELLINK):
        _hear_link(mirror, message)
    elif kind in (RTM_NEWADDR, RTM_DELADDR):
        _hear_address(mirror, message)
    elif kind == RTM_NEWNETCONF:
        path = forwarding_of(message)
        mirror.touched.update({("sysctl", path)} if path else ())


def _hear_link(mirror: Mirror, message: Message) -> None:
    if message.body[:1] == bytes([AF_BRIDGE]):
        return  # a bridge port's state
    link = decode_link(message)
    if link.ifindex in mirror.written_links:
        return
    was_ours = link.ifindex in mirror.names
    old = mirror.links.get(link.ifindex)
    if message.kind == RTM_DELLINK:
        mirror.drop_link(link.ifindex)
        mirror.doubtful |= was_ours
        _watch_carrier(mirror, old, None)
        return
    if old == link:
        return
    mirror.put_link(link)
    _watch_carrier(mirror, old, link)
    if old is None or not was_ours or link.ifindex not in mirror.names:
        mirror.doubtful |= was_ours or link.ifindex in mirror.names
        return
    if (old.name, old.mac, old.master) != (link.name, link.mac, link.master) or (old.up and not link.up):
        mirror.doubtful = True
    mirror.touched.add(("link", link.name))


def _watch_carrier(mirror: Mirror, old: LinkState | None, new: LinkState | None) -> None:
    """A link changed, came (`old` None) or went (`new` None). If it went, went down or is another's port now, its
    routes went too; another MAC is a sign that its owner sets it up anew."""
    for link in (old, new):
        if link is not None:
            mirror.refusals.retry(link.name)
    if old is not None and old.name in mirror.carriers:
        stayed = new is not None and (old.name, old.master, old.mac) == (new.name, new.master, new.mac)
        mirror.doubtful |= new is None or not stayed or (old.up and not new.up)
    if old is not None and (new is None or (old.up and not new.up)):
        mirror.refusals.swept()


def _hear_address(mirror: Mirror, message: Message) -> None:
    state = decode_address(message)
    name = mirror.names.get(state.ifindex)
    other = mirror.others.get(state.ifindex, "")
    added = message.kind == RTM_NEWADDR
    if not added:
        mirror.doubtful |= state.address.ip in mirror.sources or (name or other) in mirror.carriers
        mirror.refusals.swept()
    mirror.refusals.retry(other)
    if name is not None and not is_kernels_own(state.scope, state.address.version):
        thing = Address(name, state.address)
        mirror.follow(thing.key, thing if added else None)


def _hear_entry(mirror: Mirror, message: Message) -> None:
    found = decode_entry(message, mirror.names)
    if found is None:
        return
    key, entry = found
    mirror.follow(key, entry if message.kind == RTM_NEWNEIGH else None)


def _hear_hop(mirror: Mirror, message: Message) -> None:
    state = decode_hop(message, mirror.names, mirror.hops)
    key = ("nexthop", state.id)
    if message.kind == RTM_NEWNEXTHOP and state.ours and state.hop is not None:
        mirror.follow(key, state.hop)
        mirror.hops[state.id] = state.hop.dev
    elif key in mirror.objects:
        mirror.doubtful = True


def _hear_route(mirror: Mirror, message: Message) -> None:
    state = decode_route(message, mirror.route_links, mirror.hops)
    if state is None:
        return
    route = mirror.own_route(state)
    if route is not None:
        mirror.follow(state.key, route if message.kind == RTM_NEWROUTE else None)
        mirror.sources.add(route.src)
        mirror.carriers.add(route.dev)
    elif message.kind == RTM_DELROUTE:
        mirror.refusals.freed(state.key)
    elif state.key in mirror.objects:
        mirror.follow(state.key, None)  # somebody put another route in the place of ours
