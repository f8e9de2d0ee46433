"""Settings of `weft discovery` and `weft router`: the variables and YAML blocks of the document, and bad ones."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from tests.support.needs import needs_root
from weft.errors import SettingsError
from weft.settings import discovery, router
from weft.settings.means import DnsMeans, EtcdMeans, GossipMeans

DOCUMENT_DISCOVERY = {
    "STACK_ID": "stack-a",
    "VNI": "1000",
    "DISCOVERY_MODE": "etcd",
    "DISCOVERY_PORT": "4790",
    "ANNOUNCE_INTERVAL": "30",
    "PEER_TIMEOUT": "90",
    "LOG_LEVEL": "warn",
    "DNS_DOMAIN": "example.com",
    "DNS_SERVER": "192.0.2.53",
    "DNS_TTL": "60",
    "DNS_UPDATE_INTERVAL": "30",
    "MULTICAST_GROUP": "239.1.1.1",
    "ETCD_ENDPOINTS": "10.0.1.100:2379,10.0.1.101:2379",
    "ETCD_PREFIX": "/docker-router/discovery",
    "ETCD_LEASE_TTL": "30",
    "ETCD_USERNAME": "docker-router",
    "ETCD_PASSWORD": "secret",
    "ETCD_TLS_CERT": "/tls/client.pem",
    "ETCD_TLS_KEY": "/tls/client.key",
    "ETCD_TLS_CA": "/tls/ca.pem",
}
DOCUMENT_ROUTER = {
    "STACK_ID": "stack-a",
    "VNI": "1000",
    "VXLAN_SUBNET": "192.168.100.0/24",
    "LOCAL_VXLAN_IP": "192.168.100.1",
    "WATCH_DISCOVERY": "true",
    "ROUTE_REFRESH_INTERVAL": "60",
    "LOG_LEVEL": "debug",
}


def loaded(**environment: str) -> discovery.DiscoverySettings:
    return discovery.load(environment)[0]


def remarks(**environment: str) -> tuple[str, ...]:
    return discovery.load(environment)[1]


def test_every_variable_of_the_document_is_read_by_discovery() -> None:
    assert set(DOCUMENT_DISCOVERY) <= discovery.VARIABLES
    settings, said = discovery.load(DOCUMENT_DISCOVERY)
    assert (settings.stack_id, settings.vni, settings.level) == ("stack-a", 1000, "warning")
    means = settings.means
    assert means.dns == DnsMeans("example.com", "192.0.2.53", 60, 30.0)
    assert means.etcd == EtcdMeans(
        ("https://10.0.1.100:2379", "https://10.0.1.101:2379"),
        "/docker-router/discovery",
        30,
        "docker-router",
        "secret",
        "/tls/ca.pem",
        "/tls/client.pem",
        "/tls/client.key",
    )
    assert (means.port, means.group, means.announce_interval, means.peer_timeout) == (
        4790,
        IPv4Address("239.1.1.1"),
        30.0,
        90.0,
    )
    assert said == (
        "DISCOVERY_MODE=etcd doesn't look at DNS_DOMAIN, DNS_SERVER, DNS_TTL, DNS_UPDATE_INTERVAL, MULTICAST_GROUP",
    )


def test_multicast_speaks_the_version_of_what_it_speaks_to() -> None:
    assert loaded(MULTICAST_GROUP="ff12::1", HOST_IP="10.0.0.1,fd00::1").version == 6
    assert loaded(PEERS="fd00::9").version == 6
    assert loaded().version == loaded(DISCOVERY_MODE="gossip", MULTICAST_GROUP="ff12::1").version == 0


def test_a_key_that_seals_nothing_is_said() -> None:
    said = {"STACK_ID": "a", "DISCOVERY_MODE": "etcd", "ETCD_ENDPOINTS": "h:1", "WEFT_KEY": "x", "PEERS": "10.0.0.1"}
    assert discovery.load(said)[1] == ("DISCOVERY_MODE=etcd doesn't look at KEY, PEERS",)
    assert discovery.load({"STACK_ID": "a", "KEY": "x", "WEFT_KEY": "x", "PEERS": "10.0.0.1"})[1] == ()


def test_the_documents_defaults() -> None:
    settings = loaded()
    assert settings.discovery_mode == "multicast"
    assert (settings.discovery_port, settings.announce_interval, settings.peer_timeout) == (4790, 30.0, 90.0)
    assert (settings.dns_ttl, settings.dns_update_interval) == (60, 30.0)
    assert (settings.etcd_prefix, settings.etcd_lease_ttl) == ("/docker-router/discovery", 30.0)
    assert (settings.log_level, settings.data_dir) == ("info", "/var/lib/docker-router")
    assert (router.RouterSettings().watch_discovery, router.RouterSettings().route_refresh_interval) == (True, 60.0)


def test_every_variable_of_the_document_is_read_by_the_router() -> None:
    assert set(DOCUMENT_ROUTER) <= router.VARIABLES
    settings, said = router.load(DOCUMENT_ROUTER)
    assert (settings.stack_id, settings.vni) == ("stack-a", 1000)
    assert settings.vxlan_subnet == (ip_network("192.168.100.0/24"),)
    assert settings.local_vxlan_ip == (ip_address("192.168.100.1"),)
    assert (settings.watch_discovery, settings.route_refresh_interval, settings.level) == (True, 60.0, "debug")
    assert said == ()


DNS_BLOCK = """
discovery:
  mode: dns
  dns_domain: example.com
  dns_server: 8.8.8.8
  ttl: 60
  update_interval: 30s
"""
MULTICAST_BLOCK = """
discovery:
  mode: multicast
  multicast_group: 239.1.1.1
  port: 4790
  announce_interval: 30s
"""
ETCD_BLOCK = """
discovery:
  mode: etcd
  etcd_endpoints:
    - "10.0.1.100:2379"
    - "10.0.1.101:2379"
    - "10.0.1.102:2379"
  etcd_prefix: "/docker-router/discovery"
  lease_ttl: 30s
  username: "docker-router"  # optional
  password: "secret"         # optional
"""


def from_yaml(folder: Path, text: str, **environment: str) -> discovery.DiscoverySettings:
    file = folder / "discovery.yaml"
    file.write_text(text)
    return loaded(DISCOVERY_CONFIG=str(file), **environment)


def test_the_documents_yaml_blocks(tmp_path: Path) -> None:
    dns = from_yaml(tmp_path, DNS_BLOCK)
    assert (dns.discovery_mode, dns.means.dns) == ("dns", DnsMeans("example.com", "8.8.8.8", 60, 30.0))
    multicast = from_yaml(tmp_path, MULTICAST_BLOCK)
    assert (multicast.multicast_group, multicast.discovery_port) == (IPv4Address("239.1.1.1"), 4790)
    etcd = from_yaml(tmp_path, ETCD_BLOCK)
    assert etcd.means.etcd.endpoints == tuple(f"http://10.0.1.{n}:2379" for n in (100, 101, 102))
    assert (etcd.means.etcd.lease_ttl, etcd.means.etcd.username, etcd.means.etcd.password) == (
        30,
        "docker-router",
        "secret",
    )


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, DNS_BLOCK, DNS_TTL="5", DISCOVERY_MODE="multicast").dns_ttl == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("discovery: {mode: carrier-pigeon}", r"discovery.mode = 'carrier-pigeon': .*one of multicast, dns"),
        ("discovery: {mod: dns}", r"discovery.mod: there is no such setting; did you mean mode\?"),
        ("discovery: {ttl: soon}", r"discovery.ttl = 'soon': "),
        ("discovery: {ttl: [1, 2]}", r"discovery.ttl = '1,2': "),
        ("discovery: {ttl: {a: 1}}", r"discovery.ttl = "),
        ("discovery: {ttl: 2024-99-99}", "can't be read: month must be in 1..12"),
        ("discovery: dns", "must have a mapping under `discovery:`"),
        ("[1, 2]", "must have a mapping under `discovery:`"),
        ("{", "can't be read"),
        ("a: &a [*a]\ndiscovery: *a", "must have a mapping"),
    ],
)
def test_a_file_that_can_not_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        from_yaml(tmp_path, text)


@needs_root
def test_a_folder_that_this_user_may_not_look_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weft discovery` is an ordinary user's, and /etc/docker-router may be root's alone."""
    monkeypatch.setattr(discovery, "CONFIG", tmp_path / "closed" / "discovery.yaml")
    assert loaded().discovery_mode == "multicast"
    (tmp_path / "closed").mkdir(0o700)
    assert loaded().discovery_mode == "multicast"
    os.seteuid(65534)
    try:
        with pytest.raises(SettingsError, match=r"can't be read: .*Permission denied"):
            loaded()
    finally:
        os.seteuid(0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        loaded(DISCOVERY_CONFIG=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DISCOVERY_MODE": "dns"}, "DISCOVERY_MODE=dns needs DNS_DOMAIN"),
        ({"DISCOVERY_MODE": "etcd"}, "DISCOVERY_MODE=etcd needs ETCD_ENDPOINTS"),
        ({"DISCOVERY_MODE": "static"}, "DISCOVERY_MODE=static needs STATIC_PEERS"),
        ({"DISCOVERY_MODE": "dhs"}, "did you mean dns"),
        ({"ANNOUNCE_INTERVAL": "60"}, "PEER_TIMEOUT = 90 s is less than twice ANNOUNCE_INTERVAL = 60 s"),
        ({"DISCOVERY_PORT": "4789"}, "DISCOVERY_PORT and VXLAN_PORT are both 4789"),
        ({"MULTICAST_GROUP": "10.0.0.1"}, "MULTICAST_GROUP = 10.0.0.1 is no multicast address"),
        ({"ETCD_TLS_CERT": "/a"}, "ETCD_TLS_CERT and ETCD_TLS_KEY belong together"),
        ({"ETCD_PASSWORD": "x"}, "ETCD_USERNAME isn't"),
        ({"DNS_KEY": "k:c2VjcmV0"}, "DNS_SERVER, where they would go, isn't set"),
        ({"DISCOVERY_MODE": "etcd", "ETCD_ENDPOINTS": "a:1", "ETCD_PREFIX": "x"}, "must begin with a slash"),
        ({"KEY": "a", "KEY_FILE": "/b"}, "KEY and KEY_FILE are both set"),
        ({"KEY_FILE": "/no/such/file"}, "KEY_FILE = '/no/such/file' can't be read"),
        ({"VNI": "16777216"}, "VNI = '16777216'"),
        ({"HOST_IP": "127.0.0.1"}, "HOST_IP = 127.0.0.1 is an address that no other host can send to"),
        ({"HOST_IP": "10.0.0.1,10.0.0.2"}, "HOST_IP = 10.0.0.1,10.0.0.2 names two addresses of one IP version"),
        ({"LOCAL_VXLAN_IP": "10.0.0.1,10.0.0.2"}, "LOCAL_VXLAN_IP = 10.0.0.1,10.0.0.2 names two addresses"),
        ({"HOST_IP": "fe80::1%eth0"}, "HOST_IP = fe80::1%eth0 has a zone"),
        ({"LOCAL_VXLAN_IP": "fe80::1%eth0"}, "LOCAL_VXLAN_IP = fe80::1%eth0 has a zone"),
        ({"NETWORKS": "web=10.0.0.0/24"}, "STACK_ID isn't: whose are they"),
        ({"MTU": "100"}, "MTU = 100 is less than 646"),
        ({"STACK_ID": "a" * 201}, "STACK_ID = 'aaa"),
        ({"STACK_ID": "a\nb"}, "can't be a name"),
        ({"DATA_DIR": "data"}, "DATA_DIR = 'data' must be an absolute path"),
        ({"DNS_UPDATE_INTERVAL": "100000"}, "DNS_UPDATE_INTERVAL = '100000'"),
        ({"KEY": "a", "WEFT_KEY": "b"}, "KEY and WEFT_KEY are both set, and differ"),
        (
            {"ETCD_ENDPOINTS": "https://a:1,http://b:2", "ETCD_TLS_CA": "/ca.pem"},
            "ETCD_TLS_CA is set, and ETCD_ENDPOINTS has http://b:2, which is not encrypted",
        ),
        ({"PEERS": "10.0.0.1,fd00::1"}, "PEERS = 10.0.0.1,fd00::1 are of both IP versions"),
        ({"MULTICAST_GROUP": "ff12::1", "PEERS": "10.0.0.1"}, "MULTICAST_GROUP = ff12::1 and PEERS = 10.0.0.1 are of"),
        ({"MULTICAST_GROUP": "ff12::1", "HOST_IP": "10.0.0.1"}, "another IP version than HOST_IP = 10.0.0.1"),
        ({"PEERS": "fd00::1", "HOST_IP": "10.0.0.1"}, "PEERS = fd00::1 is of another IP version than HOST_IP"),
    ],
)
def test_what_can_not_be_or_go_together_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        discovery.load(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"VXLAN_SUBNET": "192.168.100.1/24"}, r"VXLAN_SUBNET = .*did you mean 192.168.100.0/24\?"),
        ({"VXLAN_SUBNET": "10.0.0.0/24,10.1.0.0/24"}, "VXLAN_SUBNET names two subnets of one IP version"),
        (
            {"VXLAN_SUBNET": "192.168.100.0/24", "LOCAL_VXLAN_IP": "192.168.101.1"},
            "LOCAL_VXLAN_IP = 192.168.101.1 does not lie in VXLAN_SUBNET = 192.168.100.0/24",
        ),
        ({"VXLAN_FDB": "flod"}, "did you mean flood"),
        ({"METRIC": "8624"}, "METRIC = 8624"),
        ({"ROUTE_REFRESH_INTERVAL": "often"}, "not a duration"),
        ({"ROUTING_CONFIG": "routing.yaml"}, "ROUTING_CONFIG = 'routing.yaml' must be an absolute path"),
        ({"WEFT_SOCKET": "router.sock"}, "WEFT_SOCKET = 'router.sock' must be an absolute path"),
    ],
)
def test_what_a_router_can_not_do_with_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        router.load(environment)


def test_a_misspelt_variable_is_remarked_upon() -> None:
    assert remarks(DISCOVERY_MOD="dns") == (
        "DISCOVERY_MOD is no variable of weft discovery's; did you mean DISCOVERY_MODE?",
    )
    assert router.load({"VXLAN_SUBNETS": "10.0.0.0/8"})[1] == (
        "VXLAN_SUBNETS is no variable of weft router's; did you mean VXLAN_SUBNET?",
    )
    assert "did you mean ALLOWED?" in router.load({"ALLOWD": "10.0.0.0/8"})[1][0]
    assert "did you mean NETWORKS?" in remarks(NETWORK="web=10.0.0.0/24")[0]
    both = dict.fromkeys(discovery.VARIABLES | router.VARIABLES, "")
    assert router.load(both)[1] == discovery.load(both)[1] == (), "one file may be for both"


def test_an_empty_variable_is_not_set() -> None:
    assert loaded(DISCOVERY_MODE="", VNI="") == discovery.DiscoverySettings()


def test_a_key_of_the_agents_name_and_its_rotation(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("new, old\n")
    assert loaded(WEFT_KEY_FILE=str(file), GOSSIP_SEEDS="a, b:4791,").means.gossip == GossipMeans(
        ("a", "b:4791"), "lan", (b"new", b"old")
    )
    assert loaded(WEFT_KEY="k").means.gossip.keys == (b"k",)
    assert loaded().means.gossip.keys == ()


def test_where_routing_yaml_may_be() -> None:
    assert [str(path) for path in loaded().routing] == ["/etc/docker-router/routing.yaml", "/etc/router/routing.yaml"]
    assert loaded(ROUTING_CONFIG="/x/r.yaml").routing == (Path("/x/r.yaml"),)
    assert loaded().data == Path("/var/lib/docker-router")


def test_secrets_are_not_shown() -> None:
    settings = loaded(KEY="hush", DISCOVERY_MODE="etcd", ETCD_ENDPOINTS="a:1", ETCD_USERNAME="u", ETCD_PASSWORD="hush")
    shown = [discovery.held(settings, name) for name, _, _ in discovery.describe()]
    assert "hush" not in " ".join(shown)
    assert shown.count("(set)") == 2
    assert "hush" not in repr(settings.means)
