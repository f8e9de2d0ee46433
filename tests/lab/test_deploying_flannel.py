"""The walk-through of docs/deploying-flannel.md: two cells on two segments, flannel's config in etcd, con_a asks con_c.

The example is what a reader brings up; the scripts are those that deploy/gce-demo puts on real machines.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import bridge_json, do, example, failing, ip_json, lab_up, on, settle
from tests.lab.test_plain_lab import leftovers
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_docker, needs_root
from weft.lab import netns, services, wiring
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd, pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")]

PREFIX = "/coreos.com/network"
SCRIPTS = Path(__file__).parents[2] / "deploy" / "gce-demo" / "scripts"
CELLS = {"cell-1": ("10.0.1.3", ("con_a", "con_b")), "cell-2": ("10.0.2.3", ("con_c", "con_d"))}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("deploying-flannel"), "cells") as found:
        settle(found)
        yield found


def test_each_cell_has_a_lease_between_subnet_min_and_subnet_max(lab: Lab) -> None:
    found = leases(lab)
    assert {lease["PublicIP"] for lease in found.values()} == {address for address, _ in CELLS.values()}
    for subnet, lease in found.items():
        assert subnet.prefixlen == 24
        assert IPv4Address("172.16.10.0") <= subnet[0] <= IPv4Address("172.16.99.0")
        assert lease["BackendType"] == "vxlan"


def test_subnet_env_says_what_docker_and_the_bridge_need(lab: Lab) -> None:
    for cell, (address, _) in CELLS.items():
        (subnet,) = (subnet for subnet, lease in leases(lab).items() if lease["PublicIP"] == address)
        assert on(lab, cell, "cat /run/flannel/subnet.env").splitlines() == [
            "FLANNEL_NETWORK=172.16.0.0/16",
            f"FLANNEL_SUBNET={subnet[1]}/24",
            "FLANNEL_MTU=1450",
            "FLANNEL_IPMASQ=false",
        ]
        options = on(lab, cell, [*weft("docker-opts"), "--stdout", "-i"])
        assert f"--bip={subnet[1]}/24" in options
        assert "--mtu=1450" in options


def test_the_device_is_as_flannel_makes_it(lab: Lab) -> None:
    (link,) = ip_json(lab, "cell-1", "link show dev flannel.1")
    vxlan = link["linkinfo"]["info_data"]
    assert (vxlan["id"], vxlan["port"], vxlan["local"], vxlan["learning"]) == (1, 8472, "10.0.1.3", False)
    assert link["mtu"] == 1450
    (subnet,) = (subnet for subnet, lease in leases(lab).items() if lease["PublicIP"] == "10.0.2.3")
    mac = leases(lab)[subnet]["BackendData"]["VtepMAC"]
    assert [(entry["mac"], entry["dst"]) for entry in bridge_json(lab, "cell-1", "fdb show dev flannel.1")] == [
        (mac, "10.0.2.3")
    ]
    (neighbour,) = ip_json(lab, "cell-1", "neighbour show dev flannel.1 nud permanent")
    assert (neighbour["dst"], neighbour["lladdr"]) == (str(subnet[0]), mac)


def test_bridge_and_containers_have_the_overlays_mtu(lab: Lab) -> None:
    for where, device in (("cell-1", "br0"), ("cell-1/con_a", "eth0"), ("cell-2/con_d", "eth0")):
        assert [link["mtu"] for link in ip_json(lab, where, f"link show dev {device}")] == [1450]


def test_a_container_fetches_from_one_on_the_other_cell_and_is_seen_with_its_own_address(lab: Lab) -> None:
    for caller, answerer in (("cell-1/con_a", "cell-2/con_c"), ("cell-2/con_d", "cell-1/con_b")):
        host, container = answerer.split("/")
        assert fetch(lab, caller, address(lab, answerer)) == container
        log = (lab.host(host).folder / f"{container}.log").read_text()
        assert f"{address(lab, caller)} - - " in log


def test_between_the_cells_there_is_nothing_but_vxlan_on_udp_8472(lab: Lab) -> None:
    matches = ("udp dport 8472", "udp dport != 8472", "meta l4proto != udp")
    with counting(lab, "ip saddr 10.0.1.3 ip daddr 10.0.2.3", matches) as counted:
        assert fetch(lab, "cell-1/con_a", address(lab, "cell-2/con_c")) == "con_c"
        tunnelled, *others = counted()
    assert tunnelled >= 4  # SYN, ACK, GET, FIN
    assert others == [0, 0]


def test_etcd_and_flanneld_start_again_and_everything_is_as_before(lab: Lab) -> None:
    before = leases(lab)
    do(services.kill(lab.host("etcd"), "etcd"))
    assert failing(lab) == []
    do(services.start(lab.host("etcd"), "etcd"))
    do(services.restart(lab.host("cell-1"), "flanneld"))
    assert failing(lab) == []
    assert leases(lab) == before


def test_another_lease_at_the_next_start_moves_the_bridge_and_the_containers(lab: Lab) -> None:
    cell = lab.host("cell-2")
    (old,) = (subnet for subnet, lease in leases(lab).items() if lease["PublicIP"] == "10.0.2.3")
    do(services.stop(cell, "flanneld"))
    etcdctl(lab, "put", key(old), '{"PublicIP":"10.0.9.9","PublicIPv6":null,"BackendType":"host-gw"}')
    do(services.start(cell, "flanneld"))
    moved = Lab.load(lab.name)
    (new,) = moved.host("cell-2").host.networks[0].subnets
    assert new != old
    assert [info["local"] for info in ip_json(lab, "cell-2", "-4 address show dev br0")[0]["addr_info"]] == [
        str(new[1])
    ]
    settle(moved)
    assert fetch(moved, "cell-1/con_a", str(new[2])) == "con_c"


def test_the_lab_goes_without_a_trace() -> None:
    with lab_up(example("deploying-flannel"), "trace") as lab:
        assert leases(lab)
    assert leftovers(lab.name) == []
    assert not any(name.startswith("con_") for name in netns.names())


# -- the scripts of deploy/gce-demo -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """The same cells without networks: br0 and the containers are the script's to make."""
    document = example("deploying-flannel")
    for cell in CELLS:
        document["hosts"][cell] = document["hosts"][cell] | {"networks": {}}
    with lab_up(document, "script") as found:
        yield found


def test_bridge_sh_makes_containers_that_reach_each_other_across_the_cells(bare: Lab) -> None:
    for cell, (_, names) in CELLS.items():
        on(bare, cell, [str(SCRIPTS / "bridge.sh"), *names])
        for name in names:
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "weft.lab.answer", "8000", name]
            on(bare, cell, ["setsid", "--fork", "sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *command])
    far = ".".join([*bridge_address(bare, "cell-2").split(".")[:3], "2"])  # as the document says: its bridge's, with .2
    curl = ["ip", "netns", "exec", "con_a", "curl", "-sS", "--max-time", "5", f"http://{far}:8000"]
    until(lambda: on(bare, "cell-1", curl, check=False) == "con_c\n", "con_c to answer con_a")


def test_bridge_sh_changes_nothing_when_it_is_run_again_and_renumbers_for_another_lease(
    bare: Lab, tmp_path: Path
) -> None:
    script = str(SCRIPTS / "bridge.sh")
    on(bare, "cell-1", [script, "con_a", "con_b"])
    before = state(bare)
    on(bare, "cell-1", [script, "con_a", "con_b"])
    assert state(bare) == before
    other = tmp_path / "subnet.env"
    other.write_text("FLANNEL_SUBNET=172.16.200.129/26\nFLANNEL_MTU=1400\n")
    on(bare, "cell-1", ["env", f"SUBNET_ENV={other}", script, "con_a", "con_b"])
    assert bridge_address(bare, "cell-1") == "172.16.200.129"
    inside = json.loads(on(bare, "cell-1", "ip -n con_b -j -4 address show dev eth0"))
    assert [(info["local"], info["prefixlen"]) for info in inside[0]["addr_info"]] == [("172.16.200.131", 26)]
    assert inside[0]["mtu"] == 1400
    on(bare, "cell-1", [script, "con_a", "con_b"])
    assert state(bare) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which containers? usage: bridge.sh NAME..."),
        (["a-very-long-name"], "a-very-long-name: at most 10 characters"),
    ],
)
def test_bridge_sh_says_what_it_needs(bare: Lab, words: list[str], message: str) -> None:
    done = subprocess.run([str(SCRIPTS / "bridge.sh"), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, message in done.stderr) == (1, True)
    done = subprocess.run(
        bare.host("etcd").inside([str(SCRIPTS / "bridge.sh"), "con_a"]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "subnet.env is not there: does flanneld run" in done.stderr


def test_config_sh_puts_the_config_and_never_over_another_one(bare: Lab, tmp_path: Path) -> None:
    document = example("deploying-flannel")["hosts"]["etcd"]["etcd"]["config"]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document))
    script = str(SCRIPTS / "config.sh")
    on(bare, "etcd", [script, str(file), "/another/network"])
    assert json.loads(etcdctl(bare, "get", "--print-value-only", "/another/network/config")) == document
    file.write_text('{"Network": "10.99.0.0/16"}')
    on(bare, "etcd", [script, str(file), "/another/network"])
    assert json.loads(etcdctl(bare, "get", "--print-value-only", "/another/network/config")) == document


# -- Docker ------------------------------------------------------------------------------------------------------------


@needs_docker
def test_dockers_own_bridge_is_in_the_lease_and_containers_reach_each_other_by_their_own_addresses() -> None:
    with lab_up(example("flannel-docker"), "docker") as lab:
        settle(lab)
        for host in ("a", "b"):
            (network,) = lab.host(host).host.networks
            (bridge,) = json.loads(on(lab, host, "docker network inspect bridge"))
            assert [pool["Subnet"] for pool in bridge["IPAM"]["Config"]] == [str(network.subnets[0])]
            listed = {one["Name"]: one["IPv4Address"] for one in bridge["Containers"].values()}
            assert listed == {one.name: str(one.addresses[0]) for one in network.containers}
        target = address(lab, "b/db")
        assert on(lab, "a/shop", ["wget", "-qO-", f"http://{target}/"]).strip() == "db"
        assert "mtu 1450" in on(lab, "a/shop", "ip link show eth0")
        before = lab.host("a").host
        do(services.restart(lab.host("a"), "docker"))
        settle(lab)
        assert Lab.load(lab.name).host("a").host == before


# -- helpers ----------------------------------------------------------------------------------------------------------


def weft(*words: str) -> list[str]:
    return [sys.executable, "-m", "weft.cli.main", *words]


def etcdctl(lab: Lab, *words: str) -> str:
    return on(lab, "etcd", ["env", "ETCDCTL_API=3", "etcdctl", *words])


def key(subnet: IPv4Network) -> str:
    return f"{PREFIX}/subnets/{subnet[0]}-{subnet.prefixlen}"


def leases(lab: Lab) -> dict[IPv4Network, dict[str, Any]]:
    """Subnet → its lease's value, of every key under `subnets/`."""
    lines = etcdctl(lab, "get", "--prefix", f"{PREFIX}/subnets/").splitlines()
    named = (name.rpartition("/")[2].replace("-", "/") for name in lines[::2])
    subnets = [subnet for subnet in map(ip_network, named) if isinstance(subnet, IPv4Network)]
    return dict(zip(subnets, map(json.loads, lines[1::2]), strict=True))


def address(lab: Lab, where: str) -> str:
    """The address of `host/container`."""
    host, _, name = where.partition("/")
    _, container = Lab.load(lab.name).container(host, name)
    return str(container.addresses[0].ip)


def fetch(lab: Lab, where: str, target: str) -> str:
    """What the web server at `target` tells a container."""
    return on(lab, where, ["curl", "-sS", "--max-time", "5", f"http://{target}:8000"]).strip()


@contextlib.contextmanager
def counting(lab: Lab, between: str, matches: tuple[str, ...]) -> Iterator[Callable[[], list[int]]]:
    """Counts what the router forwards: packets for each of the matches, in order."""
    router = ["nsenter", f"--net={netns.path(wiring.namespace(lab.name, 'r'))}", "nft"]
    rules = "\n".join(f"{between} {match} counter" for match in matches)
    chain = f"chain c {{ type filter hook forward priority 0; policy accept;\n{rules}\n}}"
    subprocess.run([*router, "-f", "-"], input=f"table ip counted {{\n{chain}\n}}\n", text=True, check=True)

    def counted() -> list[int]:
        listed = subprocess.run([*router, "-j", "list", "table", "ip", "counted"], capture_output=True, check=True)
        found = [entry["rule"]["expr"] for entry in json.loads(listed.stdout)["nftables"] if "rule" in entry]
        return [part["counter"]["packets"] for expression in found for part in expression if "counter" in part]

    try:
        yield counted
    finally:
        subprocess.run([*router, "delete", "table", "ip", "counted"], check=True)


def bridge_address(lab: Lab, host: str) -> str:
    (info,) = ip_json(lab, host, "-4 address show dev br0")[0]["addr_info"]
    return str(info["local"])


def state(lab: Lab) -> list[str]:
    """What bridge.sh makes on cell-1."""
    asked = ["-4 address show dev br0", "link show master br0"]
    inside = [f"-n {name} {what}" for name in ("con_a", "con_b") for what in ("link", "-4 address", "route")]
    return [on(lab, "cell-1", f"ip {what}") for what in (*asked, *inside)]
