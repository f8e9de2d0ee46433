"""Compute Engine's routes read: which are ours, which are somebody else's, and what is wrong with them. Pure functions
of what routes.list answered; called by `google.py`.

Ours: the name begins `flannel-<network>-`, the network is ours, and the description begins with our mark. All three,
because a name alone is anybody's (network `default-foo` has routes that begin `flannel-default-`), and a mark can be
copied with a route into another network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TypeAlias

import msgspec

from weft.core.cloud_names import name_prefix, route_name
from weft.model import IPAddress, IPNetwork, Problem
from weft.objects import Key, Why
from weft.objects.cloud import CloudRoute, cloud_key
from weft.targets.cloud.google_api import ListWarning

MARK = "weft route-manager "
"""What the description of every route of any manager's begins with."""
TWICE = "it is there twice"
GONE = "its instance is gone"
_GONE_CODES = frozenset({"NEXT_HOP_INSTANCE_NOT_FOUND", "NEXT_HOP_INSTANCE_NOT_ON_NETWORK"})
LONGEST_DESCRIPTION = 500
NAMED = 3
"""Routes that one problem names."""

WARNINGS: Mapping[str, str] = {
    "NEXT_HOP_CANNOT_IP_FORWARD": (
        "the instance {hop} may not forward packets that aren't its own, so what {routes} sends it is dropped: set "
        "canIpForward: true with gcloud compute instances export and gcloud compute instances update-from-file "
        "--most-disruptive-allowed-action=REFRESH"
    ),
    "NEXT_HOP_ADDRESS_NOT_ASSIGNED": "no instance here has the address {hop}: what {routes} sends it is dropped",
    "NEXT_HOP_INSTANCE_NOT_FOUND": "the instance {hop} is gone: what {routes} sends it is dropped",
    "NEXT_HOP_INSTANCE_NOT_ON_NETWORK": "the instance {hop} is not on this network: what {routes} sends it is dropped",
    "NEXT_HOP_INSTANCE_HAS_NO_IPV6_INTERFACE": "the instance {hop} has no IPv6 here: what {routes} sends it is dropped",
    "NEXT_HOP_NOT_RUNNING": "the instance {hop} doesn't run: what {routes} sends it is dropped",
}
"""Google's own warnings about next hops, in our words. They come with every list: looking at instances for this would
cost calls, and a permission."""


class RouteResource(msgspec.Struct, frozen=True, rename="camel"):
    """The discovery document's Route, as far as it is looked at."""

    name: str
    id: str = ""
    network: str = ""
    dest_range: str = ""
    priority: int = 1000
    description: str = ""
    tags: list[str] = []
    next_hop_ip: str = ""
    next_hop_instance: str = ""
    next_hop_gateway: str = ""
    next_hop_ilb: str = ""
    next_hop_network: str = ""
    next_hop_vpn_tunnel: str = ""
    next_hop_peering: str = ""
    next_hop_hub: str = ""
    next_hop_interconnect_attachment: str = ""
    warnings: list[ListWarning] = []

    @property
    def hop(self) -> str:
        """Where it leads, for people."""
        others = (
            self.next_hop_gateway,
            self.next_hop_ilb,
            self.next_hop_network,
            self.next_hop_vpn_tunnel,
            self.next_hop_peering,
            self.next_hop_hub,
            self.next_hop_interconnect_attachment,
        )
        return self.next_hop_ip or short(self.next_hop_instance) or next((short(one) for one in others if one), "")

    @property
    def dst(self) -> IPNetwork | None:
        try:
            return ip_network(self.dest_range)
        except ValueError:
            return None


class RoutePage(msgspec.Struct, frozen=True, rename="camel"):
    """routes.list."""

    items: list[RouteResource] = []
    next_page_token: str = ""
    warning: ListWarning | None = None


FIELDS = (
    "items(name,id,network,destRange,priority,description,tags,nextHopIp,nextHopInstance,nextHopGateway,nextHopIlb,"
    "nextHopNetwork,nextHopVpnTunnel,nextHopPeering,nextHopHub,nextHopInterconnectAttachment,warnings(code,message)),"
    "nextPageToken,warning(code,message)"
)
"""What is asked for: RoutePage, and no more."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop as a route has it: an instance (zones/<zone>/instances/<name>), or "" and the address alone."""

    address: IPAddress
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What our routes are like. `mark`: what their descriptions begin with; `by_instance`: they lead to instances;
    `adopt`: routes with our names and no mark are ours too."""

    project: str
    network: str
    mark: str
    priority: int = 1000
    by_instance: bool = False
    adopt: bool = False

    def key(self, dst: IPNetwork) -> Key:
        return cloud_key(self.network, dst)


Addresses: TypeAlias = Callable[[RouteResource], Sequence[IPAddress]]
"""Of the instance that a route leads to, the likeliest first; () if they aren't known."""


@dataclass(slots=True)
class Sorted:
    """`ours`: by key, more than one where a change was interrupted. `foreign`: everything else in our network, by key,
    and who it is. `beside`: of those, what stands beside a route of ours."""

    ours: dict[Key, tuple[RouteResource, ...]] = field(default_factory=dict)
    foreign: dict[Key, str] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)


def mark_of(etcd_prefix: str) -> str:
    """What descriptions of one manager's routes begin with, and no other manager's."""
    return f"{MARK}/{etcd_prefix.strip('/')}: "


def short(url: str) -> str:
    """The last part of a URL: a resource's name."""
    return url.rpartition("/")[2]


def instance_path(url: str) -> str:
    """zones/<zone>/instances/<name> of any way to write an instance's URL; "" if it is none."""
    parts = url.split("/")
    return "/".join(parts[-4:]) if len(parts) >= 4 and parts[-4] == "zones" and parts[-2] == "instances" else ""


def in_network(resource: RouteResource, rules: Rules) -> bool:
    """The list's filter, again: a filter that was forgotten on the way must not make a neighbour's route ours."""
    parts = resource.network.split("/")
    return len(parts) >= 2 and parts[-2] == "networks" and parts[-1] == rules.network


def is_ours(resource: RouteResource, rules: Rules) -> bool:
    if not in_network(resource, rules) or not resource.name.startswith(name_prefix(rules.network)):
        return False
    return resource.description.startswith(rules.mark) or (rules.adopt and is_adoptable(resource, rules))


def is_adoptable(resource: RouteResource, rules: Rules) -> bool:
    """Whether it is what we would make, but for the mark: flannel-route-manager's."""
    dst = resource.dst
    return (
        not resource.description.startswith(MARK)
        and dst is not None
        and resource.name == route_name(rules.network, dst)
        and resource.priority == rules.priority
    )


def sort_out(resources: Iterable[RouteResource], rules: Rules) -> Sorted:
    """Every route of our network has its place; the rest is nobody's business."""
    ours: dict[Key, list[RouteResource]] = defaultdict(list)
    others: dict[Key, RouteResource] = {}
    for resource in resources:
        dst = resource.dst
        if dst is None or not in_network(resource, rules):
            continue
        if is_ours(resource, rules):
            ours[rules.key(dst)].append(resource)
        else:
            others[rules.key(dst)] = resource
    foreign = {key: whose(resource, rules) for key, resource in others.items() if key not in ours}
    beside = [
        f"{named(resource)} stands beside our {ours[key][0].name}: whichever has the lower priority takes the packets, "
        "and both do if it is the same"
        for key, resource in others.items()
        if key in ours
    ]
    return Sorted({key: tuple(found) for key, found in ours.items()}, foreign, beside)


def named(resource: RouteResource) -> str:
    """`route NAME (10.0.0.0/24 to 192.0.2.1)`."""
    return f"route {resource.name} ({resource.dest_range} to {resource.hop or 'nowhere that weft knows'})"


def whose(resource: RouteResource, rules: Rules) -> str:
    """Somebody else's route that stands where one of ours would, and what can be done about it."""
    text = named(resource)
    if is_adoptable(resource, rules):
        return f"{text}, which has our name and not our mark; -adopt takes it over"
    if resource.description.startswith(rules.mark):
        text = f"{text}, which has our mark and not our name"
    elif resource.description.startswith(MARK):
        text = f"{text} of another manager's ({resource.description.removeprefix(MARK).split(':')[0]})"
    return f"{text}; delete it if weft's is to come"


def as_route(found: Sequence[RouteResource], rules: Rules, addresses: Addresses) -> CloudRoute:
    """Our routes of one destination as one object."""
    first = found[0]
    dst = first.dst
    assert dst is not None, "sort_out leaves out what has no destination"
    if len(found) > 1:
        return CloudRoute(rules.network, dst, _via(first, addresses), TWICE)
    return CloudRoute(rules.network, dst, _via(first, addresses), _flaw(first, rules))


def _via(resource: RouteResource, addresses: Addresses) -> IPAddress | None:
    if resource.next_hop_instance:
        return next(iter(addresses(resource)), None)
    try:
        return ip_address(resource.next_hop_ip)
    except ValueError:
        return None


def is_gone(resource: RouteResource) -> bool:
    """Whether Google says that the instance which it leads to isn't there: one of the same name may come, with another
    address."""
    return any(warning.code in _GONE_CODES for warning in resource.warnings)


def _flaw(resource: RouteResource, rules: Rules) -> str:
    flaws = [GONE] if resource.next_hop_instance and is_gone(resource) else []
    if resource.priority != rules.priority:
        flaws.append(f"priority {resource.priority}, not {rules.priority}")
    if resource.tags:
        flaws.append(f"only for instances with the tag {', '.join(resource.tags)}")
    if resource.next_hop_ip and rules.by_instance:
        flaws.append("it leads to an address, not to an instance")
    elif resource.next_hop_instance and not rules.by_instance:
        flaws.append("it leads to an instance, not to an address")
    elif not resource.next_hop_ip and not resource.next_hop_instance:
        flaws.append(f"it leads to {resource.hop or 'nowhere'}")
    return "; ".join(flaws)


def is_right(resource: RouteResource, rules: Rules, dst: IPNetwork, hop: Hop) -> bool:
    """Whether it is just what we would make."""
    if resource.dst != dst or _flaw(resource, rules):
        return False
    if rules.by_instance:
        return instance_path(resource.next_hop_instance) == hop.instance
    return _via(resource, lambda _: ()) == hop.address


def made(name: str, rules: Rules, dst: IPNetwork, hop: Hop, why: Why) -> RouteResource:
    """The route that we make."""
    root = f"https://www.googleapis.com/compute/v1/projects/{rules.project}"
    said = " ".join(f"{why.rule or 'a route'}, {why.peer or 'of no peer'}".split())
    return RouteResource(
        name=name,
        network=f"{root}/global/networks/{rules.network}",
        dest_range=str(dst),
        priority=rules.priority,
        description=f"{rules.mark}{said}"[:LONGEST_DESCRIPTION],
        next_hop_ip="" if rules.by_instance else str(hop.address),
        next_hop_instance=f"{root}/{hop.instance}" if rules.by_instance else "",
    )


def body(resource: RouteResource) -> bytes:
    """What routes.insert takes."""
    sent = {name: value for name, value in msgspec.to_builtins(resource).items() if value not in ("", [])}
    return msgspec.json.encode(sent)


def hop_problems(ours: Mapping[Key, tuple[RouteResource, ...]]) -> list[Problem]:
    """Google's warnings about our routes' next hops, one for all routes of a hop."""
    warned: dict[tuple[str, str], list[str]] = defaultdict(list)
    for found in ours.values():
        for resource in found:
            for code in {warning.code for warning in resource.warnings} & WARNINGS.keys():
                warned[resource.hop, code].append(resource.name)
    problems = []
    for (hop, code), names in sorted(warned.items()):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        problems.append(Problem(hop, WARNINGS[code].format(hop=hop, routes=", ".join(sorted(names)[:NAMED]) + more)))
    return problems
