"""`weft registrar` where the ground moves under it, while containers talk: flannel comes to its hosts and goes again, a
host's address changes, the underlay is IPv6."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.flannel_lab import address, pinged
from tests.lab.harness import bridge_json, failing, ip_json, lab_up, on, settle
from tests.lab.registrar_lab import FLANNEL, PATIENT, amiss, etcdctl, keys, never_more, service, show
from tests.support.etcd import needs_etcd
from tests.support.needs import needs_root
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

HOSTS = "abc"
OURS, FLANNELS = "vxlan7600", "flannel.1"
CONFIG = {"Network": "10.5.0.0/16", "SubnetMin": "10.5.10.0", "SubnetMax": "10.5.19.0", "Backend": {"Type": "vxlan"}}
DOCUMENT: dict[str, Any] = {
    "engine": "none",
    "daemon": ["flanneld", "registrar"],
    "registrar": PATIENT,
    "segments": {"lan": {"subnet": "192.168.77.0/24"}},
    "hosts": {
        "store": {"daemon": "none", "etcd": {"config": CONFIG}, "segments": {"lan": "192.168.77.9"}},
        "a": {"networks": {"web": "10.9.1.0/24"}, "segments": {"lan": "192.168.77.11"}},
        "b": {"networks": {"web": "10.9.2.0/24"}, "segments": {"lan": "192.168.77.12"}},
        "c": {"networks": {"web": "10.9.3.0/24"}, "segments": {"lan": "192.168.77.13"}},
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "moving") as found:
        settle(found)
        never_more(lambda: amiss(found), 20)
        yield found


def devices(lab: Lab) -> dict[str, set[str]]:
    """Host → tunnels' devices."""
    return {host: {link["ifname"] for link in ip_json(lab, host, "link show type vxlan")} for host in HOSTS}


def not_by(lab: Lab, device: str) -> dict[object, object]:
    """Host → its routes to the others' networks that lead out of another device, and networks without a route."""
    wrong: dict[object, object] = {}
    for number, host in enumerate(HOSTS, start=1):
        out = {route["dst"]: route.get("dev") for route in ip_json(lab, host, "route show proto 76")}
        others = [f"10.9.{n}.0/24" for n in (1, 2, 3) if n != number]
        if any(out.get(subnet) != device for subnet in others):
            wrong[host] = {subnet: out.get(subnet) for subnet in others}
    return wrong


def chains(lab: Lab, host: str) -> set[str]:
    """Devices for which weft has firewall chains, as their names tell it."""
    saved = on(lab, host, "iptables-save")
    names = (line.split()[0] for line in saved.splitlines() if line.startswith(":WEFT-"))
    return {name.removeprefix(":WEFT-").rpartition("-")[0] for name in names}


def moved(lab: Lab, device: str) -> dict[object, object]:
    """What is still as it was before all hosts' tunnels were `device`'s, or left from then."""
    wrong = not_by(lab, device)
    for host, there in devices(lab).items():
        label = device if device == OURS else f"reg-{device}"
        if there != {device} or chains(lab, host) - {FLANNELS} != {label}:  # flanneld's own stay when it goes
            wrong[host, "has"] = there | chains(lab, host)
    return wrong | amiss(lab)


def lose_flannel(lab: Lab, hosts: str) -> None:
    """flanneld ends, its leases are released, and where that is done its device is deleted."""
    for host in hosts:
        service(lab, host, "stop", "flanneld")
        etcdctl(lab, "del", lease(lab, host))
    for host in hosts:
        never_more(lambda: {h: found for h, found in not_by(lab, OURS).items() if h in set(hosts)}, 20)
        on(lab, host, f"ip link delete {FLANNELS}")


def lease(lab: Lab, host: str) -> str:
    """The key of flannel's lease."""
    address = str(lab.host(host).host.ports[0].addresses[0].ip)
    return next(FLANNEL + key for key, value in keys(lab, FLANNEL).items() if json.loads(value)["PublicIP"] == address)


@contextlib.contextmanager
def losing_at_most(lab: Lab, most: int, words: str) -> Iterator[None]:
    with pinged(lab, "a/web1", address(lab, "b/web1")) as pings:
        yield
    print(f"{words}: {pings.lost} of {pings.sent} pings at 200 Hz lost")
    assert pings.lost <= most, f"{words}: {pings.lost} of {pings.sent} pings at 200 Hz lost"


def test_flannel_goes_and_comes_while_containers_talk_and_leaves_nothing(lab: Lab) -> None:
    """Every host's flanneld, its lease, its device."""
    assert moved(lab, FLANNELS) == {}, "nobody needs a device of weft's"
    with losing_at_most(lab, 40, "flannel goes"):
        lose_flannel(lab, HOSTS)
        never_more(lambda: moved(lab, OURS), 30)
    assert failing(lab) == []
    with losing_at_most(lab, 40, "flannel comes"):
        for host in HOSTS:
            service(lab, host, "start", "flanneld")
        never_more(lambda: moved(lab, FLANNELS), 30)
    assert failing(lab) == []


def test_one_host_without_flannel_is_reached_by_wefts_device_and_the_others_by_flannels(lab: Lab) -> None:
    with losing_at_most(lab, 0, "another host's flannel goes and comes"):
        lose_flannel(lab, "c")
        never_more(lambda: amiss(lab), 30)
        assert devices(lab) == {"a": {FLANNELS, OURS}, "b": {FLANNELS, OURS}, "c": {OURS}}
        assert {r["dev"] for r in ip_json(lab, "a", "route show 10.9.2.0/24 proto 76")} == {FLANNELS}
        assert {r["dev"] for r in ip_json(lab, "a", "route show 10.9.3.0/24 proto 76")} == {OURS}
        assert failing(lab) == []
        service(lab, "c", "start", "flanneld")
        never_more(lambda: moved(lab, FLANNELS), 30)
    assert failing(lab) == []


def test_a_host_gets_another_address_and_everybody_follows(lab: Lab) -> None:
    """FLANNELD_PUBLIC_IP names none. Without flannel, whose lease would go on naming the old one."""
    lose_flannel(lab, HOSTS)
    on(lab, "a", "sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1")  # as systemd has it everywhere
    for old, new in (("192.168.77.11", "192.168.77.21"), ("192.168.77.21", "192.168.77.11")):
        on(lab, "a", f"ip address add {new}/24 dev eth0")
        on(lab, "a", f"ip address delete {old}/24 dev eth0")
        began = time.monotonic()
        for host in "bc":
            never_more(lambda host=host, new=new, old=old: {new, old} & fdb(lab, host) ^ {new}, 30)  # type: ignore[misc]
        print(f"{new} is known everywhere after {time.monotonic() - began:.1f} s")
        settle(lab)
        never_more(lambda: amiss(lab), 30)

        def told() -> set[str]:
            status = json.loads(keys(lab)["_host_status/a"])
            return {status["public_ip"], status["primary_ip"]}

        never_more(lambda told=told, new=new: told() ^ {new}, 30)  # type: ignore[misc]
        (link,) = ip_json(lab, "a", f"link show dev {OURS}")
        assert link["linkinfo"]["info_data"]["local"] == new
    for host in HOSTS:
        service(lab, host, "start", "flanneld")
    never_more(lambda: moved(lab, FLANNELS), 30)


def fdb(lab: Lab, host: str) -> set[str]:
    """Where a host's tunnel packets go to."""
    return {entry["dst"] for entry in bridge_json(lab, host, f"fdb show dev {OURS}") if "dst" in entry}


def test_an_underlay_of_ipv6_alone() -> None:
    webs = {host: {"subnets": [f"10.9.{n}.0/24", f"fd00:9:{n}::/64"]} for n, host in enumerate(HOSTS, start=1)}
    hosts = {
        "store": {"daemon": "none", "etcd": {}},
        **{host: {"networks": {"web": web}} for host, web in webs.items()},
    }
    lan = {"lan": {"subnet": "fd77::/64"}}
    with lab_up({"engine": "none", "daemon": "registrar", "segments": lan, "hosts": hosts}, "six") as six:
        settle(six)
        never_more(lambda: amiss(six), 20)
        assert failing(six) == []
        (link,) = ip_json(six, "a", f"link show dev {OURS}")
        assert link["linkinfo"]["info_data"]["local6"].startswith("fd77::")
        assert {peer["liveness"] for host in HOSTS for peer in show(six, host, "peers")} == {"up"}
