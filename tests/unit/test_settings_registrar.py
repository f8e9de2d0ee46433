"""flannel-registrar's environment as `weft registrar` reads it: each variable of its README, and what is said of bad
ones."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from weft.errors import SettingsError
from weft.settings import registrar
from weft.settings.registrar import VARIABLES, bfd_key, describe, held, load

DOCUMENTED = {
    "ETCD_ENDPOINT": "http://192.168.4.88:2379",
    "FLANNEL_PREFIX": "/coreos.com/network",
    "FLANNEL_CONFIG_PREFIX": "/flannel/network/subnets",
    "HOST_NAME": "auto",
    "INTERVAL": "120",
    "RUN_AS_ROOT": "true",
    "FLANNELD_PUBLIC_IP": "192.168.4.5",
    "HOST_GATEWAY_MAP": "172.24.90.1:172.24.90.6",
}
"""The README's Compose file."""


def test_the_compose_file_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = tmp_path / "hostname"
    name.write_text("babka\n")
    monkeypatch.setattr(registrar, "HOSTNAME_FILE", name)
    settings, remarks = load(DOCUMENTED)
    assert settings.endpoints == ("http://192.168.4.88:2379",)
    assert (settings.flannel_prefix, settings.flannel_config_prefix) == (
        "/coreos.com/network",
        "/flannel/network/subnets",
    )
    assert settings.name == "babka"
    assert settings.interval == 120
    assert settings.lease_seconds == 360
    assert settings.run_as_root
    assert settings.flanneld_public_ip == ip_address("192.168.4.5")
    assert settings.host_gateway_map == "172.24.90.1:172.24.90.6"
    assert remarks == ()


def test_every_documented_variable_is_known() -> None:
    table = "ETCD_ENDPOINT FLANNEL_PREFIX FLANNEL_CONFIG_PREFIX HOST_NAME INTERVAL RUN_AS_ROOT FLANNELD_PUBLIC_IP"
    table += " HOST_GATEWAY_MAP FLANNEL_ROUTES_EXTRA FLANNEL_CONTAINER_NAME DEBUG"
    wild = "ETCDCTL_API ETCD_TIMEOUT FLANNEL_MTU MONITORING_INTERVAL ETCD_ENDPOINTS"
    assert {*table.split(), *wild.split()} <= VARIABLES


def test_the_documented_defaults() -> None:
    settings, remarks = load({})
    shown = {name: default for name, default, _ in describe()}
    assert shown["ETCD_ENDPOINTS"] == "http://192.168.4.88:2379"
    assert shown["INTERVAL"] == "60"
    assert shown["FLANNEL_CONTAINER_NAME"] == "flannel"
    assert shown["DEBUG"] == shown["RUN_AS_ROOT"] == "false"
    assert settings.lease_seconds == 180
    assert remarks == ("ETCD_ENDPOINT is not set; http://192.168.4.88:2379 is asked, flannel-registrar's own default",)


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    settings, _ = load({"INTERVAL": "", "FLANNELD_PUBLIC_IP": " ", "HOST_NAME": "a", "FLANNEL_MTU": "auto"})
    assert (settings.interval, settings.flanneld_public_ip, settings.flannel_mtu) == (60, None, 0)


def test_the_name_falls_back_to_the_hosts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar, "HOSTNAME_FILE", tmp_path / "absent")
    settings, _ = load({})
    assert settings.name
    assert load({"HOST_NAME": "my.host-1"})[0].name == "my.host-1"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("INTERVAL", "soon", "not a duration"),
        ("INTERVAL", "1", "INTERVAL = '1'"),
        ("FLANNELD_PUBLIC_IP", "127.0.0.1", "no other host can send to"),
        ("FLANNELD_PUBLIC_IP", "babka", "FLANNELD_PUBLIC_IP = 'babka'"),
        ("HOST_GATEWAY_MODE", "relai", "did you mean relay?"),
        ("ISOLATE", "10.5.35.0/24", "is not GROUP=SUBNET"),
        ("ISOLATE", "a=10.5.35.7/24", "host bits set"),
        ("ISOLATE", "a=10.5.35.0/24;b=10.5.35.0/24", "is in group a and in group b"),
        ("ETCDCTL_API", "2", "3 is the only one"),
        ("FLANNEL_PREFIX", "coreos.com", "must begin with a slash"),
        ("FLANNEL_CONFIG_PREFIX", "/coreos.com/network/subnets", "flannel's own leases"),
        ("FLANNEL_CONFIG_PREFIX", "/coreos.com/network/subnets/docker", "flannel's own leases"),
        ("MONITORING_INTERVAL", "0.01", "MONITORING_INTERVAL = '0.01'"),
        ("RESTART_FLANNEL", "docker", "container, service:<unit>"),
        ("RUN_DIR", "run", "absolute path"),
        ("ETCD_ENDPOINT", ",", "names no endpoint"),
        ("ETCD_CERTFILE", "a.pem", "belong together"),
        ("HOST_NAME", "a\nb", "can't be a name"),
        ("BFD_PACKETS", "501", "BFD_PACKETS = '501'"),
        ("BFD_PACKETS", "5", "at least 10"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(variable: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load({"HOST_NAME": "a", variable: value})
    assert said in str(error.value)


def test_two_endpoints_that_differ_are_an_error() -> None:
    with pytest.raises(SettingsError, match="differ"):
        load({"ETCD_ENDPOINT": "http://a:2379", "ETCD_ENDPOINTS": "http://b:2379"})
    settings, _ = load({"ETCD_ENDPOINT": "a:2379", "ETCD_ENDPOINTS": "a:2379"})
    assert settings.endpoints == ("http://a:2379",)


def test_groups() -> None:
    settings, _ = load({"ISOLATE": "shop=10.5.35.0/24, 10.5.36.0/24; lab=10.5.40.0/24;"})
    assert settings.groups == (
        ("shop", (ip_network("10.5.35.0/24"), ip_network("10.5.36.0/24"))),
        ("lab", (ip_network("10.5.40.0/24"),)),
    )


def test_a_misspelt_variable_is_remarked() -> None:
    _, remarks = load({"ETCD_ENDPOINT": "http://a:2379", "HOST_GATEWAYS_MAP": "1.2.3.4:5.6.7.8", "PATH": "/bin"})
    assert remarks == ("HOST_GATEWAYS_MAP is no variable of weft registrar's; did you mean HOST_GATEWAY_MAP?",)


def test_the_key_comes_from_the_variable_or_the_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret\n")
    assert bfd_key(load({"BFD_KEY": "word"})[0]) == "word"
    assert bfd_key(load({"BFD_KEY_FILE": str(file)})[0]) == "secret"
    assert bfd_key(load({})[0]) == ""
    with pytest.raises(SettingsError, match="both set"):
        load({"BFD_KEY": "word", "BFD_KEY_FILE": str(file)})
    file.write_text("")
    with pytest.raises(SettingsError, match="is empty"):
        bfd_key(load({"BFD_KEY_FILE": str(file)})[0])
    with pytest.raises(SettingsError, match="can't be read"):
        bfd_key(load({"BFD_KEY_FILE": str(tmp_path / "absent")})[0])


def test_debug_as_people_write_it() -> None:
    assert load({"DEBUG": "1"})[0].debug
    assert load({"DEBUG": "true"})[0].debug
    assert not load({"DEBUG": "0"})[0].debug


def test_what_holds_is_shown_but_for_secrets() -> None:
    given = {"ETCD_PASSWORD": "hunter2", "BFD_KEY": "s3cret", "INTERVAL": "2m", "NETWORKS": "web=10.9.1.0/24"}
    settings, _ = load({"ETCD_ENDPOINT": "http://192.0.2.9:2379", **given})
    shown = {name: held(settings, name) for name, _, _ in describe()}
    assert (shown["INTERVAL"], shown["NETWORKS"], shown["DEBUG"]) == ("120", "web=10.9.1.0/24", "false")
    assert (shown["ETCD_PASSWORD"], shown["BFD_KEY"], shown["BFD_KEY_FILE"]) == ("(set)", "(set)", "")
    assert shown["ETCD_ENDPOINTS"] == "http://192.0.2.9:2379"
    assert shown["FLANNELD_PUBLIC_IP"] == ""
