"""Ops as the `ip`, `bridge` and `sysctl` lines that would do the same. Pure. (`iptables` lines: `core/firewall.py`.)

`weft plan` prints them, `weft explain` quotes them, and the golden tests are written in them: what weft does can be
read by anyone who can read `ip`, and done by hand where weft isn't.
"""

from __future__ import annotations

from collections.abc import Iterable

from weft.model import mac_text
from weft.objects import (
    MAIN_TABLE,
    PROTOCOL,
    ZERO_MAC,
    Address,
    Chain,
    Fdb,
    Jump,
    Link,
    Neighbour,
    NextHop,
    NextHopGroup,
    Object,
    Op,
    Route,
    Sysctl,
)
from weft.objects.cloud import CloudRoute
from weft.objects.outside import File, Hook
from weft.objects.wireguard import WireguardDevice, WireguardPeer


def script(ops: Iterable[Op]) -> list[str]:
    """The lines for all ops, in order."""
    return [text for op in ops for text in lines(op)]


def lines(op: Op) -> list[str]:
    """The lines for one op of the kernel's; a link takes several. TypeError for a firewall's."""
    thing = op.object
    if isinstance(thing, Sysctl):
        return [f"sysctl -w {_setting(thing)}={thing.value}"] if op.action != "remove" else []
    if isinstance(thing, Link):
        return _link(op, thing)
    tool, group, what = _parts(thing)
    if op.action == "remove":
        return [f"{tool} {group} del {_name(thing)}"]
    several = isinstance(thing, Fdb) and thing.mac == ZERO_MAC  # of these there is one for each destination
    verb = ("append" if several else "add") if op.action == "add" else "replace"
    return [f"{tool} {group} {verb} {what}"]


def _setting(thing: Sysctl) -> str:
    """With dots, as people write it; with the path's slashes where a dot is part of a name (`eth0.100`)."""
    return thing.path if "." in thing.path else thing.path.replace("/", ".")


def text(thing: Object) -> str:
    """One object in the words of `ip` and `bridge`: `route 10.2.0.0/24 nhid 1879048192 dev vxlan4096 …`."""
    if isinstance(thing, Sysctl):
        return f"sysctl {_setting(thing)} = {thing.value}"
    if isinstance(thing, Link):
        return f"link {thing.name} {_vxlan(thing)} mtu {thing.mtu} address {mac_text(thing.mac)}"
    if isinstance(thing, Chain):
        return f"chain {thing.table} {thing.name} (IPv{thing.family}, {len(thing.rules)} rules)"
    if isinstance(thing, Jump):
        return f"jump {thing.table} {thing.parent} → {thing.chain} (IPv{thing.family})"
    if isinstance(thing, WireguardDevice | WireguardPeer | Hook | File | CloudRoute):
        return _other(thing)
    _, group, what = _parts(thing)
    return f"{group.split()[-1]} {what}"


def _other(thing: WireguardDevice | WireguardPeer | Hook | File | CloudRoute) -> str:
    """What no `ip` word is known for. No key that is a secret is in it."""
    if isinstance(thing, WireguardDevice):
        return f"link {thing.name} type wireguard port {thing.listen_port} mtu {thing.mtu} key {thing.public_key}"
    if isinstance(thing, WireguardPeer):
        return f"wireguard peer {thing.public_key} dev {thing.dev} endpoint {endpoint_text(thing)}"
    if isinstance(thing, Hook):
        return f"hook {' '.join(str(subnet) for subnet in (thing.subnet, thing.subnet6) if subnet is not None)}"
    if isinstance(thing, CloudRoute):
        via = thing.via if thing.via is not None else "an instance that is not known"
        return f"cloud route {thing.dst} via {via} in table {thing.table}" + f" ({thing.flaw})" * bool(thing.flaw)
    return f"file {thing.path}"


def endpoint_text(peer: WireguardPeer) -> str:
    """`192.0.2.2:51820`, `[2001:db8::2]:51821`, `(none)`."""
    if peer.endpoint is None:
        return "(none)"
    address, port = peer.endpoint
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _parts(thing: Object) -> tuple[str, str, str]:
    """Tool, its object word, and the object: `ip`, `neigh`, `192.0.2.2 lladdr … dev vxlan4096 nud permanent`."""
    if isinstance(thing, Address):
        how = " nodad" * (thing.address.version == 6)
        how += " noprefixroute" * (thing.address.network.num_addresses > 1)
        return "ip", "address", f"{thing.address} dev {thing.dev}{how}"
    if isinstance(thing, Neighbour):
        return "ip", "neigh", f"{thing.address} lladdr {mac_text(thing.mac)} dev {thing.dev} nud permanent"
    if isinstance(thing, Fdb):
        return "bridge", "fdb", f"{mac_text(thing.mac)} dev {thing.dev} dst {thing.dst} self permanent"
    if isinstance(thing, NextHop):
        onlink = " onlink" if thing.onlink else ""
        return "ip", "nexthop", f"id {thing.id} via {thing.via} dev {thing.dev}{onlink} proto {PROTOCOL}"
    if isinstance(thing, NextHopGroup):
        return "ip", "nexthop", f"id {thing.id} group {'/'.join(map(str, thing.members))} proto {PROTOCOL}"
    if isinstance(thing, Route):
        return "ip", "-6 route" if thing.dst.version == 6 else "route", _route(thing)
    raise TypeError(f"no line is known for a {type(thing).__name__}")


def _name(thing: Object) -> str:
    """What is enough to name an object that is to be removed."""
    if isinstance(thing, Neighbour | Address):
        return f"{thing.address} dev {thing.dev}"
    if isinstance(thing, NextHop | NextHopGroup):
        return f"id {thing.id}"
    if isinstance(thing, Route):
        table = f" table {thing.table}" if thing.table != MAIN_TABLE else ""
        return f"{thing.dst} proto {thing.protocol}{table}" + (f" metric {thing.metric}" if thing.metric else "")
    return _parts(thing)[2].removesuffix(" permanent")


def _route(route: Route) -> str:
    words = [str(route.dst)]
    if route.nexthop:
        words.append(f"nhid {route.nexthop}")
    elif route.via is not None:
        family = "inet6 " if route.via.version != route.dst.version else ""
        words.append(f"via {family}{route.via} dev {route.dev}" + (" onlink" if route.onlink else ""))
    else:
        words.append(f"dev {route.dev}")
    words.append(f"proto {route.protocol}")
    if route.table != MAIN_TABLE:
        words.append(f"table {route.table}")
    if route.metric:
        words.append(f"metric {route.metric}")
    if route.src is not None:
        words.append(f"src {route.src}")
    if route.mtu:
        words.append(f"mtu {route.mtu}")
    return " ".join(words)


def _vxlan(link: Link) -> str:
    made = f"type vxlan id {link.vxlan.vni} dstport {link.vxlan.port} local {link.vxlan.local} {_learning(link)}"
    return made + " gbp" * link.vxlan.gbp


def _learning(link: Link) -> str:
    return "learning" if link.vxlan.learning else "nolearning"


def _link(op: Op, link: Link) -> list[str]:
    name = f"ip link set dev {link.name}"
    if op.action == "remove":
        return [f"ip link del dev {link.name}"]
    state = "up" if link.up else "down"
    if op.action == "add":
        add = f"ip link add {link.name} address {mac_text(link.mac)} mtu {link.mtu} {_vxlan(link)}"
        return [add, f"{name} alias {link.alias} {state}"]
    old = op.old if isinstance(op.old, Link) else None
    changes = {
        "address": (old and mac_text(old.mac), mac_text(link.mac)),
        "mtu": (old and old.mtu, link.mtu),
        "alias": (old and old.alias, link.alias),
    }
    words = [f"{word} {new}" for word, (before, new) in changes.items() if before != new]
    if old is not None and old.master:
        words.append("nomaster")
    if old is None or old.up != link.up:
        words.append(state)
    said = [f"{name} {' '.join(words)}"] if words else []
    if old is not None and old.vxlan.learning != link.vxlan.learning:
        said.append(f"{name} type vxlan {_learning(link)}")
    return said
