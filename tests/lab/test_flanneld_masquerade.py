"""What `weft flanneld` lets through and translates, as seen by who is asked: in the overlay, outside, beside Docker."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence

import pytest

from tests.lab.flannel_lab import DUAL, FOUR, address, answers, flagged, reconfigure, status, subnet, udp
from tests.lab.harness import do, example, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_docker, needs_root
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

OUTSIDE = "10.0.1.2"
"""The host that runs etcd: on a segment of the hosts, and not in the overlay."""
PORT = 8000
MASQUERADE = ["-ip-masq"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("flannel-dual-stack"), "masq") as found:
        yield found


@pytest.fixture(scope="module")
def plain(lab: Lab) -> Lab:
    """Without -ip-masq."""
    found = reconfigure(lab, FOUR | {"Backend": {"Type": "vxlan"}})
    settle(found)
    return found


@pytest.fixture(scope="module")
def masqueraded(lab: Lab, plain: Lab) -> Lab:
    found = reconfigure(lab, FOUR | {"Backend": {"Type": "vxlan"}}, MASQUERADE)
    settle(found)
    return found


def seen(lab: Lab, source: str, target: str, there: str, answered: bool = True) -> str:
    """With which address a datagram from `source` arrives at `there`, listening on `target`; and the answer arrives."""
    with contextlib.closing(udp(lab, source)) as asking, contextlib.closing(udp(lab, there)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((target, PORT))
        asking.sendto(b"who am I?", (target, PORT))
        _, caller = listening.recvfrom(100)
        if answered:
            listening.sendto(caller[0].encode(), caller)
            assert asking.recv(100).decode() == caller[0]
    return str(caller[0])


def rules(lab: Lab, host: str, table: str) -> list[str]:
    return [line for line in on(lab, host, f"iptables-save -t {table}").splitlines() if line.startswith(("-A", ":"))]


@contextlib.contextmanager
def firewall(lab: Lab, host: str, rules: Sequence[str]) -> Iterator[None]:
    """Somebody else's rules, which are taken out again."""
    for rule in rules:
        on(lab, host, f"iptables {rule}")
    try:
        yield
    finally:
        for rule in reversed(rules):
            undone = rule.replace("-A ", "-D ").replace("-P FORWARD DROP", "-P FORWARD ACCEPT").replace("-N ", "-X ")
            on(lab, host, f"iptables {undone}")


def test_without_ip_masq_nothing_is_translated(plain: Lab) -> None:
    own = address(plain, "a/a1")
    assert seen(plain, "a/a1", OUTSIDE, "etcd", answered=False) == own
    assert seen(plain, "a/a1", address(plain, "b/b1"), "b/b1") == own
    assert not any("MASQUERADE" in rule for rule in rules(plain, "a", "nat"))
    with firewall(
        plain, "a", ["-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE"]
    ):  # somebody else's, so there is nat
        until(lambda: any(" WEFT-flannel.1-NAT" in rule for rule in rules(plain, "a", "nat")), "our chain beside it")
        assert seen(plain, "a/a1", OUTSIDE, "etcd", answered=False) == own
    assert "FLANNEL_IPMASQ=false\n" in on(plain, "a", "cat /run/flannel/subnet.env")


def test_outside_the_overlay_a_container_is_seen_with_its_hosts_address_and_inside_with_its_own(
    masqueraded: Lab,
) -> None:
    own = address(masqueraded, "a/a1")
    assert seen(masqueraded, "a/a1", OUTSIDE, "etcd") == "10.0.1.11"
    assert seen(masqueraded, "c/c1", OUTSIDE, "etcd") == "10.0.2.13"
    assert seen(masqueraded, "a/a1", address(masqueraded, "c/c1"), "c/c1") == own
    assert "FLANNEL_IPMASQ=true\n" in on(masqueraded, "a", "cat /run/flannel/subnet.env")


def test_what_comes_from_outside_to_this_hosts_own_subnet_is_not_translated(masqueraded: Lab) -> None:
    """As flannel: who routes to a container by its host gets an answer from whom it asked, and is seen."""
    on(masqueraded, "etcd", f"ip route replace {subnet(masqueraded, 'a')} via 10.0.1.11")
    target = address(masqueraded, "a/a1")
    assert seen(masqueraded, "etcd", target, "a/a1") == OUTSIDE
    on(masqueraded, "etcd", f"ip route replace {subnet(masqueraded, 'b')} via 10.0.1.11")
    assert seen(masqueraded, "etcd", address(masqueraded, "b/b1"), "b/b1") == f"{subnet(masqueraded, 'a')[:-3]}"
    for host in ("a", "b"):
        on(masqueraded, "etcd", f"ip route del {subnet(masqueraded, host)}")


def test_dockers_own_masquerading_does_not_take_what_stays_inside(masqueraded: Lab) -> None:
    """The rules that dockerd writes with --ip-masq, iptables on, and a bridge in this host's lease."""
    docker = (
        "-t nat -A POSTROUTING -s {own} ! -o br-web -j MASQUERADE",
        "-A FORWARD -o br-web -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i br-web ! -o br-web -j ACCEPT",
        "-P FORWARD DROP",
        "-t raw -A PREROUTING -d {container}/32 ! -i br-web -j DROP",
    )
    own, container = subnet(masqueraded, "a"), address(masqueraded, "a/a1")
    with firewall(masqueraded, "a", [rule.format(own=own, container=container) for rule in docker]):
        until(lambda: answers(masqueraded, "b/b1", container), "ours to be in front of Docker's")
        until(lambda: status(masqueraded, "a")["health"] == "ok", "nothing to be left undone")
        assert seen(masqueraded, "a/a1", address(masqueraded, "b/b1"), "b/b1") == container
        assert seen(masqueraded, "b/b1", container, "a/a1") == address(masqueraded, "b/b1")
        assert seen(masqueraded, "a/a1", OUTSIDE, "etcd") == "10.0.1.11"


def test_forward_rules_open_a_firewall_that_drops_what_it_does_not_know(masqueraded: Lab) -> None:
    with firewall(masqueraded, "a", ["-P FORWARD DROP"]):
        assert answers(masqueraded, "a/a1", address(masqueraded, "b/b1"))
        do(services.restart(flagged(masqueraded, "a", [*MASQUERADE, "-iptables-forward-rules=false"]), "flanneld"))
        until(lambda: not any("-FWD" in rule for rule in rules(masqueraded, "a", "filter")), "the rules to go")
        assert not answers(masqueraded, "a/a1", address(masqueraded, "b/b1"))
        do(services.restart(flagged(masqueraded, "a", MASQUERADE), "flanneld"))
        until(lambda: answers(masqueraded, "a/a1", address(masqueraded, "b/b1")), "the rules to be back")


def test_rules_that_are_flushed_come_back(masqueraded: Lab) -> None:
    on(masqueraded, "a", "iptables -t nat -F")
    on(masqueraded, "a", "iptables -F FORWARD")
    until(lambda: seen(masqueraded, "a/a1", OUTSIDE, "etcd", answered=False) == "10.0.1.11", "masquerading again")
    until(lambda: any("-FWD" in rule for rule in rules(masqueraded, "a", "filter") if " FORWARD " in rule), "our jump")


def test_ipv6_is_translated_too(lab: Lab, masqueraded: Lab) -> None:
    found = reconfigure(lab, DUAL | {"Backend": {"Type": "vxlan"}}, MASQUERADE)
    settle(found)
    outside = "fd00:1::2"
    for where in ("a/a1", "c/c1"):  # without a route back there is no answer to what is not translated
        until(lambda where=where: answers(found, where, outside), f"an answer to {where}")  # type: ignore[misc]


@needs_docker
def test_beside_a_docker_engine_on_one_host() -> None:
    document = example("flannel-docker")
    document["hosts"]["b"] = {"engine": "none", "networks": {"web": {"subnet": "flannel", "containers": ["db"]}}}
    document["hosts"]["a"]["flanneld"] = {"ip-masq": True}
    document["hosts"]["a"]["networks"]["docker0"]["containers"] = ["shop"]
    with lab_up(document, "engine") as lab:
        settle(lab)
        own, far = address(lab, "a/shop"), address(lab, "b/db")
        assert seen(lab, "a/shop", far, "b/db") == own
        assert seen(lab, "b/db", own, "a/shop") == far
        outside = str(lab.host("store").host.ports[0].addresses[0].ip)
        assert seen(lab, "a/shop", outside, "store") == str(lab.host("a").host.ports[0].addresses[0].ip)
        assert "-j DOCKER-USER" in on(lab, "a", "iptables -S FORWARD"), "that it was Docker's firewall all the time"
