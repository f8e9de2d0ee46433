"""What a topology file says of docker-router: `discovery`, `router`, `routing`, and `bind` for the mode dns. Pure.

`daemons` calls this for each host that runs one of the two. What the file leaves open follows from the lab: whose stack
it is, its networks, its address on the VXLAN, and whom its discovery asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from weft.errors import SettingsError, TopologyError, WireError
from weft.lab import fields
from weft.lab.topology import Bind, ContainerNetwork, DockerRouter, Port, nth
from weft.model import IPAddress, IPNetwork
from weft.settings import discovery, router
from weft.settings.stack import SHARED_VARIABLES
from weft.wire.routing import StackConfig, decode_routing

KINDS = ("discovery", "router")
PLACES = frozenset({"DATA_DIR", "ROUTING_CONFIG", "RUN_DIR", "WEFT_SOCKET", "DISCOVERY_CONFIG"})
"""Variables that a lab's host is found by."""
VARIABLES = {
    "discovery": discovery.VARIABLES - PLACES - frozenset(discovery.ALSO),
    "router": router.VARIABLES - PLACES,
}
LOADS: dict[str, Callable[[Mapping[str, str]], object]] = {"discovery": discovery.load, "router": router.load}
TOLD_BOTH = SHARED_VARIABLES - {"LOG_LEVEL"}
"""Said of one of the two, they hold for the other one, too: both must come to the same."""
VNI = "1000"
SPACE = "192.168.100.0/24"
"""The document's own VXLAN_SUBNET."""
SEEDS = 3
"""Members that are named to all others for a start; gossip tells of the rest."""
DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A domain name in lower case (RFC 1035, 2.3.1)."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the rest of the file says. `number`: of the host, from 1 on. `etcd`: ETCD_ENDPOINTS, "" without an etcd.
    `seeds`: addresses of hosts that gossip."""

    number: int
    networks: tuple[ContainerNetwork, ...]
    etcd: str
    bind: Bind | None
    seeds: tuple[IPAddress, ...]


def read(
    raw: Mapping[str, object], top: Mapping[str, object], where: str, kinds: frozenset[str], around: Around
) -> DockerRouter:
    """What the host that says `raw` runs of `kinds`, in a file whose top says `top`. TopologyError for what can't
    be."""
    text, stacks = _routing(raw.get("routing"), f"{where}.routing")
    said = {kind: _said(kind, raw, top, where) for kind in KINDS}
    common = {key: value for kind in KINDS for key, value in said[kind].items() if key in TOLD_BOTH}
    if len(stacks) == 1:
        common = dict(_left_open(stacks[0], common | said["router"], where, around)) | common
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    keyed = ""
    for kind in kinds:
        given = {key: value for key, value in common.items() if key in VARIABLES[kind]} | said[kind]
        if kind == "discovery":
            given, keyed = _means(given, f"{where}.discovery", around)
        try:
            LOADS[kind](given)
        except SettingsError as error:
            raise TopologyError(f"{where}.{kind}: {error}") from error
        found[kind] = tuple(sorted(given.items()))
    spaces = tuple(_space(stack, common, where) for stack in stacks)
    return DockerRouter(around.number, found.get("discovery"), found.get("router"), text, spaces, keyed)


def _routing(raw: object, where: str) -> tuple[str, tuple[StackConfig, ...]]:
    """routing.yaml's text, and the stacks in it; "" and one that says nothing where there is no file."""
    content = fields.mapping(raw, where)
    if not content:
        return "", (StackConfig(""),)
    text = yaml.safe_dump(content, sort_keys=False)
    try:
        return text, decode_routing(text).stacks
    except WireError as error:
        raise TopologyError(f"{where}: {error}") from error


def _said(kind: str, raw: Mapping[str, object], top: Mapping[str, object], where: str) -> dict[str, str]:
    """The variables of one daemon: the host's over those of the top of the file."""
    given: dict[str, str] = {}
    for source in (top.get(kind), raw.get(kind)):
        told = fields.mapping(source, f"{where}.{kind}", sorted(VARIABLES[kind]))
        given |= {key: fields.text(item) for key, item in told.items()}
    return given


def gossips(raw: Mapping[str, object], top: Mapping[str, object], where: str) -> bool:
    """Whether the discovery of the host that says `raw` does. TopologyError for a variable that there isn't."""
    return _said("discovery", raw, top, where).get("DISCOVERY_MODE") == "gossip"


def _left_open(stack: StackConfig, said: Mapping[str, str], where: str, around: Around) -> Iterator[tuple[str, str]]:
    """What neither variables nor routing.yaml say of a host's one stack."""
    yield "STACK_ID", stack.stack_id or where.rpartition(".")[2]
    if stack.vni is None:
        yield "VNI", VNI
    if not stack.vxlan_subnets:
        yield "VXLAN_SUBNET", SPACE
    if not stack.networks:
        told = [network for network in around.networks if network.exposed(by_default=True)]
        yield "NETWORKS", ",".join(f"{network.name}={subnet}" for network in told for subnet in network.subnets)
    if "LOCAL_VXLAN_IP" not in said and not stack.local_vxlan_ips:
        spaces = said.get("VXLAN_SUBNET", ",".join(map(str, stack.vxlan_subnets)) or SPACE).split(",")
        subnets = [fields.subnet(one.strip(), f"{where}.router.VXLAN_SUBNET") for one in spaces]
        try:
            yield "LOCAL_VXLAN_IP", ",".join(str(nth(subnet, around.number).ip) for subnet in subnets)
        except IndexError as error:
            raise TopologyError(f"{where}.router.VXLAN_SUBNET: {error}: name a larger one") from error


def _means(given: dict[str, str], where: str, around: Around) -> tuple[dict[str, str], str]:
    """How discovery finds the others, with the lab's own servers where the file names none; and whose key it has."""
    mode = given.get("DISCOVERY_MODE", "multicast")
    if mode == "etcd" and "ETCD_ENDPOINTS" not in given:
        if not around.etcd:
            raise TopologyError(f"{where}: it needs an etcd: `etcd: {{}}` on a host of the lab, or `ETCD_ENDPOINTS`")
        return given | {"ETCD_ENDPOINTS": around.etcd}, ""
    if mode == "dns" and "DNS_SERVER" not in given:
        if around.bind is None:
            wanted = "`bind: {domain: example.com}` on a host of the lab, or `DNS_SERVER`"
            raise TopologyError(f"{where}: it needs a name server: {wanted}")
        keyed = "" if given.keys() & {"DNS_KEY", "DNS_KEY_FILE"} else around.bind.host
        return {"DNS_DOMAIN": around.bind.domain} | given | {"DNS_SERVER": str(around.bind.address)}, keyed
    if mode == "gossip" and "GOSSIP_SEEDS" not in given:
        return given | {"GOSSIP_SEEDS": ",".join(map(str, around.seeds[:SEEDS]))}, ""
    return given, ""


def _space(stack: StackConfig, common: Mapping[str, str], where: str) -> tuple[int, tuple[IPNetwork, ...]]:
    """VNI and subnets of a stack."""
    told = [item.rpartition("=")[2].strip() for item in common.get("NETWORKS", "").split(",")]
    own = tuple(fields.subnet(item, f"{where}.discovery.NETWORKS") for item in told if item)
    return int(common.get("VNI", stack.vni or VNI)), own or tuple(s for net in stack.networks for s in net.subnets)


# -- the name server ------------------------------------------------------------------------------------------------


def bind(hosts: Mapping[str, Mapping[str, object]], ports: Mapping[str, Sequence[Port]]) -> Bind | None:
    """The lab's name server, or None. TopologyError for a second one, and for a zone that can't be."""
    named = [name for name, raw in hosts.items() if "bind" in raw and raw["bind"] is not False]
    if not named:
        return None
    if len(named) > 1:
        raise TopologyError(f"hosts.{named[1]}.bind: {named[0]} has a name server already; keep one of them")
    where = f"hosts.{named[0]}.bind"
    given = fields.mapping(hosts[named[0]]["bind"], where, ("domain",))
    domain = str(given.get("domain", "")).rstrip(".").lower()
    if not DOMAIN.fullmatch(domain):
        raise TopologyError(f"{where}.domain: {domain!r} is no domain, like example.com")
    return Bind(named[0], ports[named[0]][0].addresses[0].ip, domain)
