"""`weft flanneld` while things happen to it: restarts, other people's hands in the kernel and in etcd, stale state."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.lab.cells import (
    DEVICE,
    ages,
    cells,
    changes,
    etcdctl,
    lease_of,
    leases,
    log_of,
    pinging,
    routed,
    status,
    strange,
    well,
    whole,
)
from tests.lab.harness import AT_ONCE, do, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import repair, services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    with lab_up(cells("abc"), "flanneld") as found:
        settle(found)
        yield found


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """All daemons run and say that all is well; and in the end each host is what it was in the beginning."""
    before = {host: whole(module_lab, host) for host in "abc"}
    yield module_lab
    etcdctl(module_lab, "del", "--prefix", "/coreos.com/network/subnets/10.5.2")
    for host in module_lab.hosts:
        if host.host.flanneld is not None and not host.running("flanneld"):
            do(services.start(host, "flanneld"))
    until(lambda: well(module_lab), "every daemon to be well")
    for host_name, found in before.items():
        until(lambda name=host_name, lines=found: whole(module_lab, name) == lines, f"{host_name} to be as before")  # type: ignore[misc]


# -- restart ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["a", "b"])
@pytest.mark.parametrize("ending", ["TERM", "KILL"])
def test_a_restart_under_traffic_loses_no_packet_and_writes_nothing(lab: Lab, host: str, ending: str) -> None:
    until(lambda: min(ages(lab, host).values()) > 1, "entries that would look younger if they were written again")
    before, old = whole(lab, host), ages(lab, host)
    with changes(lab, host) as told, pinging(lab, "a", "b") as ping:
        do(lab.host(host).signal("flanneld", ending))
        assert status(lab, host)["health"] == "away"
        ping.goes_on(100)
        do(services.start(lab.host(host), "flanneld"))
        until(lambda: well(lab), "the new daemon to be done")
        ping.goes_on(100)
    assert ping.lost() == []
    assert told.lines == []
    assert whole(lab, host) == before
    assert all(age >= old[entry] for entry, age in ages(lab, host).items())


# -- repair -------------------------------------------------------------------------------------------------------

HANDS = {
    "another MAC": f"ip link set {DEVICE} address 02:12:34:56:78:9a",
    "another MTU": f"ip link set {DEVICE} mtu 1400",
    "the device down": f"ip link set {DEVICE} down",
    "the device deleted": f"ip link delete {DEVICE}",
    "its address gone": f"ip address flush dev {DEVICE}",
    "routes flushed": f"for one in $(ip route show dev {DEVICE} | cut -d' ' -f1); do ip route delete $one; done",
    "neighbours flushed": f"ip neighbour flush dev {DEVICE} nud permanent",
    "all next hops flushed": "ip nexthop flush",
    "a chain flushed": f"iptables -F WEFT-{DEVICE}-FWD",
    "the whole firewall flushed": r"printf '*filter\nCOMMIT\n*mangle\nCOMMIT\n' | iptables-restore",
    "forwarding off": "sysctl -qw net.ipv4.ip_forward=0",
    "subnet.env deleted": "rm /run/flannel/subnet.env",
    "subnet.env overwritten": "echo FLANNEL_SUBNET=10.9.9.1/24 >/run/flannel/subnet.env",
    "the folder of subnet.env deleted": "mv /run/flannel /run/gone; rm -r /run/gone",
    "the uplink cycled": "ip link set eth0 down; ip link set eth0 up; ip route replace default dev eth0 scope link",
}


@pytest.mark.parametrize("fault", repair.FAULTS, ids=lambda fault: re.sub(r"^(an?|the) ", "", fault.name))
def test_what_somebody_deletes_is_back_at_once(lab: Lab, fault: repair.Fault) -> None:
    lease = lease_of(lab, "a")
    took = do(repair.mended(lab.host("a"), fault))
    print(f"{fault.name}: {took:.1f} ms")
    assert 0 < took < 1000 * AT_ONCE
    assert lease_of(lab, "a") == lease


@pytest.mark.parametrize("hand", HANDS)
def test_what_somebody_does_is_undone(lab: Lab, hand: str) -> None:
    """Timed by looking again and again, which takes 30 ms each time."""
    before, lease = whole(lab, "a"), lease_of(lab, "a")
    with changes(lab, "a") as told:
        on(lab, "a", ["sh", "-c", HANDS[hand]])
        began = time.monotonic()
        until(lambda: whole(lab, "a") == before, "everything to be as before")
        took = time.monotonic() - began
    print(f"{hand}: {took * 1000:.0f} ms")
    assert took < AT_ONCE
    assert lease_of(lab, "a") == lease, "the others go on with the MAC that they know"
    assert told.lines if hand in NETLINK else not told.lines


NETLINK = frozenset(list(HANDS)[:8])
"""What `ip monitor` tells of; by the rest nothing goes that it would tell of."""


def test_a_ping_survives_an_uplink_that_is_cycled(lab: Lab) -> None:
    with changes(lab, "a") as told, pinging(lab, "a", "b") as ping:
        on(lab, "a", ["sh", "-c", HANDS["the uplink cycled"]])
        ping.goes_on()
    print(f"an uplink cycled: {len(ping.lost())} of {ping.sent} pings lost at 1 kHz")
    assert told.lines == []


# -- stale state ----------------------------------------------------------------------------------------------------


def test_what_a_former_run_made_for_a_lease_that_is_gone_goes_at_the_start_and_nothing_else(lab: Lab) -> None:
    before = whole(lab, "a")
    (gone_key, gone_value, gone), (key, value, subnet) = strange(1), strange(2)
    etcdctl(lab, "put", gone_key, gone_value)
    etcdctl(lab, "put", key, value)
    until(lambda: routed(lab, "a", gone) and routed(lab, "a", subnet), "routes to both")
    both = whole(lab, "a")
    do(services.kill(lab.host("a"), "flanneld"))
    etcdctl(lab, "del", gone_key)
    assert whole(lab, "a") == both
    with changes(lab, "a") as told, pinging(lab, "a", "b") as ping:
        do(services.start(lab.host("a"), "flanneld"))
        until(lambda: not [line for line in whole(lab, "a") if is_of_the_gone(line)], "all of it to go")
        until(lambda: well(lab), "the daemon to be done")
    assert ping.lost() == []
    assert len(told.deleted()) == 4, "route, next hop, neighbour, FDB entry"
    assert all(is_of_the_gone(line) for line in told.lines)
    assert routed(lab, "a", subnet)
    with changes(lab, "a") as told:
        etcdctl(lab, "del", key)
        until(lambda: whole(lab, "a") == before, "nothing to be left of either")
    assert len(told.deleted()) == 4


def is_of_the_gone(line: str) -> bool:
    """Of strange(1)."""
    return "10.5.201.0" in line or "02:00:00:00:00:01" in line


# -- etcd in other people's hands --------------------------------------------------------------------------------------


def test_a_lease_that_is_taken_by_force_is_told_and_not_fought_for(lab: Lab) -> None:
    key, mine = lease_of(lab, "a")
    before, running, said = whole(lab, "a"), lab.host("a").running("flanneld"), len(log_of(lab, "a"))
    data = {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}
    theirs = {"PublicIP": "192.168.77.222", "PublicIPv6": None, "BackendType": "vxlan", "BackendData": data}
    strange_key, strange_value, strange_subnet = strange(3)
    with changes(lab, "a") as told:
        etcdctl(lab, "put", key, json.dumps(theirs))
        problem = until(lambda: "".join(status(lab, "a")["problems"]), "the conflict to be told")
        assert "held by 192.168.77.222" in problem
        assert status(lab, "a")["health"] == "degraded"
        etcdctl(lab, "put", strange_key, strange_value)
        until(lambda: routed(lab, "a", strange_subnet), "other leases to be followed meanwhile")
        etcdctl(lab, "del", strange_key)
        until(lambda: whole(lab, "a") == before, "the rest to be as before")
        taken = leases(lab)[key]
        assert taken.items() >= theirs.items()
        etcdctl(lab, "del", key)
        until(lambda: key in leases(lab) and well(lab), "the lease to be taken back")
    assert lease_of(lab, "a") == (key, mine | {"revision": lease_of(lab, "a")[1]["revision"]})
    assert lab.host("a").running("flanneld") == running
    assert not [line for line in told.lines if strange_subnet.removesuffix("/24") not in line and "00:03" not in line]
    warnings = [line for line in log_of(lab, "a")[said:] if " WARNING " in line]
    assert [line.partition(" WARNING ")[2] for line in warnings] == [problem], "told once, and not each second"


@pytest.mark.parametrize("how", ["the key", "the etcd lease", "every key"])
def test_a_lease_that_is_deleted_is_taken_again_with_the_same_subnet(lab: Lab, how: str) -> None:
    key, mine = lease_of(lab, "a")
    before, running = whole(lab, "a"), lab.host("a").running("flanneld")
    with changes(lab, "a") as told:
        if how == "the etcd lease":
            etcdctl(lab, "lease", "revoke", hangs_on(lab, key))
        elif how == "the key":
            etcdctl(lab, "del", key)
        else:
            etcdctl(lab, "del", "--prefix", "/coreos.com/network/subnets/")
        began = time.monotonic()
        until(lambda: len(leases(lab)) == 3, "the lease to be there again")
        took = time.monotonic() - began
        until(lambda: whole(lab, "a") == before, "everything to be as before")
    print(f"{how} deleted, taken again: {took * 1000:.0f} ms")
    assert took < AT_ONCE
    assert lease_of(lab, "a")[1] | {"revision": 0} == mine | {"revision": 0}
    assert lease_of(lab, "a")[0] == key
    assert hangs_on(lab, key) != "0"
    assert lab.host("a").running("flanneld") == running
    assert told.lines == [] or how == "every key"


def hangs_on(lab: Lab, key: str) -> str:
    """The etcd lease that a key hangs on, as etcdctl writes it."""
    (kv,) = json.loads(etcdctl(lab, "get", key, "-w", "json"))["kvs"]
    return f"{kv.get('lease', 0):x}"
