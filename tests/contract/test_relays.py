"""Packets between two hosts, directly and through a third, in both layouts of the registrar: on three real kernels.

The direct way between a and b is cut as a broken underlay would do it: neither finds a route to the other's endpoint.
Reverse path filters are strict everywhere, as on RHEL.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

import pytest

from tests.build import network, uplink
from tests.contract.targets import done
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.backends.tunnel import REGISTRAR_METRICS, vtep_mac
from weft.core.diff import Facts, diff
from weft.core.plan import plan
from weft.model import Host, Node, Profile, Relay, View, mac_text
from weft.objects import Chain, Jump
from weft.targets.kernel.target import KernelTarget

pytestmark = needs_root

NUMBERS = {"a": 1, "b": 2, "r": 9}
VNI = 7600
OWN = "vxlan7600"
FLANNEL = "flannel.1"


@dataclass
class Rig:
    """Three hosts on one segment. `shared`: flannel made the device, and the routes lead through its leases."""

    shared: bool
    spaces: dict[str, Namespace] = field(default_factory=dict)
    targets: dict[str, KernelTarget] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        number = NUMBERS[name]
        lease = ip_network(f"10.5.{number}.0/24")
        docker = network("web", f"10.9.{number}.0/24")
        return Node(
            id=name,
            endpoints=(ip_address(f"192.0.2.{number}"),),
            port=8472,
            vni=1 if self.shared else VNI,
            mac=vtep_mac(name, VNI),
            mtu=1500,
            networks=(network("lease", str(lease)), docker) if self.shared else (docker,),
            overlay=(lease.network_address,) if self.shared else (ip_address(f"10.9.{number}.1"),),
            backend="lease" if self.shared else "vxlan",
            source="etcd",
        )

    def view(self, name: str, relayed: bool) -> View:
        """`relayed`: a and b reach each other through r."""
        others = [self.node(other) for other in sorted(NUMBERS) if other != name]
        end = self.node("r")
        relay = Relay("r", end.endpoints, end.mac, end.overlay)
        nodes = [replace(one, relay=relay) if relayed and "r" not in (name, one.id) else one for one in others]
        device = {"device": FLANNEL, "gateway": "overlay"} if self.shared else {}
        profile = Profile(role="registrar", shared=self.shared, metric=REGISTRAR_METRICS.start, **device)  # type: ignore[arg-type]
        me = self.node(name)
        return View(me=me, networks=me.networks, nodes=tuple(nodes), host=Host((uplink(),)), profile=profile)

    async def mend(self, relayed: bool) -> None:
        for name, target in self.targets.items():
            wanted = {
                key: want
                for key, want in plan(self.view(name, relayed)).wanted.items()
                if not isinstance(want.object, Chain | Jump)
            }
            reading = await target.read(full=True)
            await done(target, diff(wanted, Facts(reading.objects, reading.foreign)).ops)

    def flannel_starts(self) -> None:
        for name, space in self.spaces.items():
            me = self.node(name)
            kind = f"vxlan id 1 local {me.endpoints[0]} dstport 8472 nolearning"
            space.ip(f"link add {FLANNEL} address {mac_text(me.mac)} mtu 1450 type {kind}")
            space.ip(f"address add {me.overlay[0]}/32 dev {FLANNEL}")
            space.ip(f"link set {FLANNEL} up")
            for peer in (self.node(other) for other in NUMBERS if other != name):
                gateway, mac = peer.overlay[0], mac_text(peer.mac)
                space.ip(f"neigh add {gateway} lladdr {mac} dev {FLANNEL} nud permanent")
                space.bridge(f"fdb add {mac} dev {FLANNEL} dst {peer.endpoints[0]} self permanent")
                space.ip(f"route add {gateway}/24 via {gateway} dev {FLANNEL} onlink")

    def cut(self, verb: str) -> None:
        """`add`: between a and b, nothing leaves by the underlay any more; `del`: it does again."""
        self.spaces["a"].ip(f"route {verb} blackhole 192.0.2.2/32")
        self.spaces["b"].ip(f"route {verb} blackhole 192.0.2.1/32")

    def ttl(self, start: str, source: str, to: str) -> int:
        """The hop limit that is left of an answer's 64; 0: there was none."""
        said = self.spaces[start].run("ping", "-nc1", "-W1", "-I", source, to, check=False)
        return int(said.split("ttl=")[1].split()[0]) if "ttl=" in said else 0

    def networks(self) -> int:
        """From a's Docker network to b's."""
        return self.ttl("a", "10.9.1.1", "10.9.2.1")

    def leases(self) -> int:
        """From a container on flannel's own bridge to another."""
        return self.ttl("a", "10.5.1.1", "10.5.2.1")

    def probe(self) -> bool:
        """As liveness does it: between the leases' own addresses, or between endpoints through the device."""
        ends = ("10.5.1.0", "10.5.2.0") if self.shared else ("192.0.2.1", "192.0.2.2")
        device = FLANNEL if self.shared else OWN
        with _bound(self.spaces["a"], ends[0], device) as near, _bound(self.spaces["b"], ends[1], device) as far:
            with suppress(OSError):  # the kernel may say at once that there is no way
                near.sendto(b"direct?", far.getsockname())
            with suppress(TimeoutError):
                _, sender = far.recvfrom(99)
                return bool(sender == near.getsockname())
            return False


@contextmanager
def _bound(space: Namespace, address: str, device: str) -> Iterator[socket.socket]:
    with space.entered():
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with closing(found):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        found.bind((address, 0))
        found.settimeout(0.5)
        yield found


@pytest.fixture(params=[False, True], ids=["own device", "beside flannel"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    found = Rig(request.param)
    with ExitStack() as stack, namespace("lan") as segment:
        segment.ip("link add br0 type bridge")
        segment.ip("link set br0 up")
        for name, number in NUMBERS.items():
            space = found.spaces[name] = stack.enter_context(namespace(name))
            space.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
            veth(space, "eth0", segment, f"to-{name}")
            segment.ip(f"link set to-{name} master br0")
            space.ip(f"address add 192.0.2.{number}/24 dev eth0")
            space.ip("link add docker0 type bridge")
            space.ip(f"address add 10.9.{number}.1/24 dev docker0")
            space.ip(f"address add 10.5.{number}.1/24 dev docker0")
            space.ip("link set docker0 up")
            target = KernelTarget(f"weft:registrar:{name}", vtep_mac(name, VNI), str(space.path), OWN)
            found.targets[name] = stack.enter_context(closing(target))
        if found.shared:
            found.flannel_starts()
        yield found


async def test_a_relay_carries_what_the_direct_way_does_not_and_the_probe_stays_on_it(rig: Rig) -> None:
    await rig.mend(relayed=False)
    assert (rig.networks(), rig.probe()) == (64, True)
    rig.cut("add")
    assert (rig.networks(), rig.probe()) == (0, False)
    await rig.mend(relayed=True)
    assert (rig.networks(), rig.probe()) == (63, False)
    if rig.shared:
        assert rig.leases() == 63
    rig.cut("del")
    assert (rig.networks(), rig.probe()) == (63, True)
    await rig.mend(relayed=False)
    assert (rig.networks(), rig.probe()) == (64, True)
    if rig.shared:
        assert rig.leases() == 64
