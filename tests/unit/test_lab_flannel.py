"""What a topology file says of flanneld, etcd and networks in leased subnets."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Thread

import pytest
import yaml

from weft.errors import TopologyError
from weft.lab import answer, schema, wiring
from weft.lab.matrix import pairs
from weft.lab.topology import Etcd, Flanneld, Host, Topology
from weft.settings.flanneld import DEFAULTS

HOSTS = "hosts: {e: {daemon: none, etcd: {}}, a: {daemon: flanneld}}"


def read(text: str) -> Topology:
    return schema.read(yaml.safe_load("{engine: none, " + text + "}"), "lab")


def host(topology: Topology, name: str) -> Host:
    found = topology.host(name)
    assert found is not None
    return found


def flanneld(text: str) -> Flanneld:
    found = host(read(text), "a").flanneld
    assert found is not None
    return found


def test_flanneld_asks_the_labs_own_etcd_unless_it_is_told_of_another() -> None:
    assert flanneld(HOSTS) == Flanneld(
        ("-etcd-endpoints=http://172.31.0.11:2379",), (), "/run/flannel/subnet.env", "/run/weft/flanneld.sock"
    )
    told = flanneld("flanneld: {etcd-endpoints: 'http://192.0.2.1:2379'}, hosts: {a: {daemon: flanneld}}")
    assert told.flags == ("-etcd-endpoints=http://192.0.2.1:2379",)


def test_a_hosts_options_come_over_those_of_the_file_and_variables_stay_off_the_command_line() -> None:
    found = flanneld("""
        daemon: flanneld,
        flanneld: {ip-masq: true, iface: eth0, FLANNELD_ETCD_PASSWORD: secret},
        hosts: {e: {daemon: none, etcd: }, a: {flanneld: {iface: [eth1, eth0], subnet-file: /run/flannel/b.env}}}
    """)
    assert found.flags == (
        *("-ip-masq=true", "-iface=eth1", "-iface=eth0", "-subnet-file=/run/flannel/b.env"),
        "-etcd-endpoints=http://172.31.0.11:2379",
    )
    assert found.environment == (("FLANNELD_ETCD_PASSWORD", "secret"),)
    assert found.subnet_file == "/run/flannel/b.env"


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("hosts: {a: {networks: {web: }}}", ("agent",)),
        ("agent: false, hosts: {a: }", ()),
        ("agent: false, hosts: {a: {agent: {}, networks: {web: }}}", ("agent",)),
        ("daemon: none, hosts: {a: {daemon: agent, networks: {web: }}}", ("agent",)),
        ("daemon: none, hosts: {a: {engine: docker}}", ("docker",)),
        ("hosts: {a: {etcd: {}, flanneld: {}}}", ("etcd", "flanneld")),
        ("daemon: flanneld, hosts: {e: {etcd: }, a: {agent: false}}", ()),
        ("daemon: flanneld, hosts: {a: {etcd: {}, engine: docker}}", ("etcd", "docker", "flanneld")),
    ],
)
def test_what_runs_on_a_host(text: str, services: tuple[str, ...]) -> None:
    assert host(read(text), "a").services == services


def test_every_etcd_of_the_lab_is_a_member_of_one_cluster() -> None:
    topology = read(
        "daemon: none, hosts: {a: {etcd: {}}, b: , c: {etcd: {config: {Network: 10.5.0.0/16}, prefix: /x/}}}"
    )
    members = (("a", ip_address("172.31.0.11")), ("c", ip_address("172.31.0.13")))
    assert host(topology, "a").etcd == Etcd(members[0][1], members)
    found = host(topology, "c").etcd
    assert found is not None
    assert (found.address, found.cluster, found.key) == (members[1][1], members, "/x/config")
    assert json.loads(found.config) == {"Network": "10.5.0.0/16"}
    assert host(topology, "b").etcd is None


LEASED = (
    "hosts: {e: {daemon: none, etcd: {}}, a: {daemon: flanneld,"
    " networks: {cell: {subnet: flannel, bridge: br0, serve: 8000, containers: [con_a, con-b]}, own: }}}"
)


def test_a_leased_networks_addresses_are_known_with_the_lease() -> None:
    topology = read(LEASED)
    (cell, own) = host(topology, "a").networks
    assert (cell.subnets, cell.containers[0].addresses, cell.serve) == ((), (), 8000)
    assert not any("con_a" in pair.source + pair.target for pair in pairs(topology))
    leasing = host(topology, "a").leasing((ip_network("172.16.24.0/24"),))
    assert [str(gateway) for gateway in leasing.networks[0].gateways] == ["172.16.24.1/24"]
    assert [str(c.addresses[0]) for c in leasing.networks[0].containers] == ["172.16.24.2/24", "172.16.24.3/24"]
    assert leasing.networks[1] == own
    there = replace(topology, hosts=(topology.hosts[0], leasing))
    assert ("a/con_a", "a/con-b") in {(pair.source, pair.target) for pair in pairs(there)}
    with pytest.raises(IndexError):
        host(topology, "a").leasing((ip_network("172.16.24.0/30"),))


def test_a_leased_network_is_made_apart_from_the_others_and_shares_no_name_with_them() -> None:
    leasing = host(read(LEASED), "a").leasing((ip_network("172.16.24.0/24"),))
    first, later = (wiring.networks("lab", leasing, leased=leased) for leased in (False, True))
    assert [batch.namespace for batch in later] == ["weft.lab.a", "weft.lab.a.con_a", "weft.lab.a.con-b"]
    assert "link add br0 type bridge" in later[0].lines
    assert "address add 172.16.24.1/24 dev br0 nodad" in later[0].lines
    made = [line.split()[2] for batch in (*first, *later) for line in batch.lines if line.startswith("link add")]
    assert len(made) == len(set(made)) == 5


WRONG: dict[str, tuple[str, str]] = {
    "daemon": ("hosts: {a: {daemon: flaneld}}", r"hosts\.a\.daemon: 'flaneld' .*did you mean 'flanneld'\?"),
    "daemon of all": ("daemon: agnet, hosts: {a: }", r"^daemon: 'agnet' is none of the choices"),
    "two daemons": (
        "hosts: {a: {agent: {}, flanneld: {}}}",
        r"hosts\.a\.daemon: options for an agent and for flanneld",
    ),
    "the other's options": ("hosts: {a: {daemon: flanneld, agent: {}}}", r"hosts\.a\.agent: .*daemon is 'flanneld'"),
    "flag": ("hosts: {a: {flanneld: {etcd-endpoint: x}}}", r"hosts\.a\.flanneld: .*did you mean 'etcd-endpoints'\?"),
    "value": ("hosts: {a: {etcd: {}, flanneld: {healthz-port: 70000}}}", r"hosts\.a\.flanneld: -healthz-port = 70000"),
    "no etcd": ("hosts: {a: {daemon: flanneld}}", r"hosts\.a\.flanneld: it needs an etcd"),
    "etcd's key": ("hosts: {a: {daemon: none, etcd: {conf: 1}}}", r"hosts\.a\.etcd: unknown key 'conf'; .*'config'"),
    "etcd's config": ("hosts: {a: {daemon: none, etcd: {config: 1}}}", r"hosts\.a\.etcd\.config: 1 is not a mapping"),
    "lease for an agent": (
        "hosts: {a: {networks: {x: {subnet: flannel}}}}",
        r"a\.networks\.x: `subnet: flannel` needs",
    ),
    "two leases": (
        "hosts: {a: {etcd: , daemon: flanneld, networks: {x: flannel, y: flannel}}}",
        r"hosts\.a\.networks: flanneld leases one subnet",
    ),
    "Docker's bridge": ("hosts: {a: {engine: docker, networks: {x: {bridge: br0}}}}", r"x: 'bridge' and 'serve' need"),
    "bridge's name": ("hosts: {a: {networks: {x: {bridge: 'a b'}}}}", r"x\.bridge: 'a b' is not an interface's name"),
    "port": ("hosts: {a: {networks: {x: {serve: 99999}}}}", r"x\.serve: 99999 is not between"),
    "container": ("hosts: {a: {networks: {x: {containers: [Con_A]}}}}", r"'Con_A' is not a name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_built_is_said_with_key_value_and_the_right_one(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(TopologyError, match=message):
        read(text)


def test_every_flag_of_flanneld_is_in_the_page_for_those_who_come_from_flannel() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coming-from-flannel.md").read_text()
    assert [flag for flag in DEFAULTS if f"`-{flag}`" not in page] == []


def test_the_containers_web_server_tells_its_name() -> None:
    answer.Answer.name = "con_a"
    with answer.Server(("", 0), answer.Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/", timeout=5) as response:
                assert (response.status, response.read()) == (200, b"con_a\n")
        finally:
            server.shutdown()
            thread.join()
