"""Short ways to make the model's values, for all tests: `node("b", "192.0.2.2", "10.2.0.0/24")`."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from weft.backends.tunnel import vtep_mac
from weft.model import DefaultRoute, Host, Known, Mac, Network, Node, Profile, Uplink, View

VNI = 4096
PRIVATE = tuple(ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
CHAINS = frozenset({(4, "filter", "FORWARD"), (4, "nat", "POSTROUTING")})


def net4(text: str) -> IPv4Network:
    return IPv4Network(text)


def net6(text: str) -> IPv6Network:
    return IPv6Network(text)


def network(name: str, *subnets: str, since: float = 100.0, exposed: bool = True) -> Network:
    return Network(name, tuple(ip_network(s) for s in subnets), since=since, exposed=exposed)


def node(
    name: str,
    endpoint: str,
    *subnets: str,
    vni: int = VNI,
    mtu: int = 1500,
    networks: tuple[Network, ...] = (),
    mac: Mac | None = None,
) -> Node:
    """A node with one network `web` of these subnets, or with `networks`."""
    own = networks or ((network("web", *subnets),) if subnets else ())
    return Node(
        id=name,
        endpoints=tuple(ip_address(e) for e in endpoint.split(",")),
        port=4789,
        vni=vni,
        mac=mac if mac is not None else vtep_mac(name, vni),
        mtu=mtu,
        networks=own,
        source="multicast",
    )


def uplink(
    name: str = "eth0",
    *addresses: str,
    mtu: int = 1500,
    default: tuple[int | DefaultRoute, ...] = (4,),
) -> Uplink:
    """`default`: its default routes; a number is a plain one of this IP version."""
    routes = tuple(d if isinstance(d, DefaultRoute) else DefaultRoute(d) for d in default)
    return Uplink(name, mtu, tuple(ip_interface(a) for a in addresses or ("192.0.2.1/24",)), routes)


def view(
    *nodes: Node,
    me: Node | None = None,
    networks: tuple[Network, ...] = (),
    host: Host | None = None,
    profile: Profile | None = None,
    synced: bool = True,
) -> View:
    """Host `a`, 192.0.2.1, network `home` 10.1.0.0/24 with this host's address 10.1.0.1 in it."""
    own = networks or (network("home", "10.1.0.0/24"),)
    here = me or Node(
        id="a",
        endpoints=(ip_address("192.0.2.1"),),
        port=4789,
        vni=VNI,
        mac=vtep_mac("a", VNI),
        mtu=1500,
        networks=own,
        overlay=(ip_address("10.1.0.1"),),
        source="multicast",
    )
    return View(
        me=here,
        networks=own,
        nodes=tuple(sorted(nodes, key=lambda n: n.id)),
        host=host or Host((uplink(),)),
        profile=profile or Profile(),
        synced=synced,
    )


def known(*nodes: Node, complete: bool = True) -> Known[Node]:
    return Known(nodes, complete)
