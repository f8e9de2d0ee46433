"""flannel's flags and environment."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from weft.cli.flanneld import page
from weft.errors import SettingsError
from weft.settings.flanneld import FlanneldSettings, describe, load

FLANNELS = (
    *("etcd-endpoints", "etcd-prefix", "etcd-keyfile", "etcd-certfile", "etcd-cafile", "etcd-username"),
    *("etcd-password", "iface", "iface-regex", "iface-can-reach", "public-ip", "public-ipv6", "subnet-file"),
    *("subnet-lease-renew-margin", "ip-masq", "iptables-resync", "iptables-forward-rules", "ip-blackhole-route"),
    *("healthz-ip", "healthz-port", "net-config-path", "version"),
)


def test_every_flag_of_flannels_is_there_with_its_variable_and_in_the_help() -> None:
    rows = {flag: variable for flag, variable, _, _ in describe()}
    for name in FLANNELS:
        assert rows[f"-{name}"] == "FLANNELD_" + name.upper().replace("-", "_")
        assert f"  -{name} " in page()


def test_defaults_are_flannels() -> None:
    found = load([], {})
    assert found == FlanneldSettings()
    assert found.etcd_endpoints == "http://127.0.0.1:4001,http://127.0.0.1:2379"
    assert found.subnet_file == "/run/flannel/subnet.env"
    assert (found.ip_masq, found.iptables_forward_rules, found.subnet_lease_renew_margin) == (False, True, 60)


def test_one_dash_or_two_with_or_without_an_equals_sign() -> None:
    found = load(["-etcd-prefix=/a", "--iface", "eth0", "-iface=eth1", "-ip-masq", "--public-ip=192.0.2.1"], {})
    assert (found.etcd_prefix, found.iface, found.ip_masq) == ("/a", ("eth0", "eth1"), True)
    assert found.public_ip == ip_address("192.0.2.1")
    assert load(["-ip-masq=false", "-iptables-forward-rules=0", "--"], {}).iptables_forward_rules is False
    assert load(["-h"], {}).help is True


def test_the_flag_wins_over_the_environment() -> None:
    environment = {"FLANNELD_ETCD_PREFIX": "/env", "FLANNELD_IFACE": "a,b", "FLANNELD_IP_MASQ": "true"}
    environment["FLANNELD_NO_SUCH_FLAG"] = "y"
    found = load(["-etcd-prefix=/flag"], environment)
    assert (found.etcd_prefix, found.iface, found.ip_masq) == ("/flag", ("a", "b"), True)
    assert load([], {"FLANNELD_PUBLIC_IP": ""}).public_ip is None


def test_of_a_flag_that_is_given_twice_the_last_holds() -> None:
    assert load(["-healthz-port=1", "-healthz-port=2"], {}).healthz_port == 2


def test_flags_for_logging_are_read_and_do_nothing() -> None:
    assert load(["-v", "10", "-logtostderr", "--vmodule=a=1", "-v=3", "-iface=eth0"], {}).iface == ("eth0",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-kube-subnet-mgr"], "-kube-subnet-mgr: weft flanneld is for hosts without Kubernetes"),
        (["-ifac=x"], "did you mean -iface?"),
        (["-zzzzzz"], "`weft flanneld -help` lists them"),
        (["run"], "'run' is no flag"),
        (["--", "more"], "'more' is no flag"),
        (["-iface"], "-iface needs a value"),
        (["-ip-masq=maybe"], "-ip-masq = 'maybe': true or false is expected"),
        (["-public-ip=::1"], "-public-ip = '::1': an IPv4 address is expected"),
        (["-public-ipv6=x"], "-public-ipv6 = 'x'"),
        (["-metric=7601"], "from 7601 to 8624, and 8624 to 9648 are `weft registrar`'s"),
        (["-metric=9648"], "7600 or less, or 9649 or more, keeps out of its way"),
        (["-healthz-port=x"], "-healthz-port = 'x'"),
        (["-healthz-port=70000"], "is no port"),
        (["-etcd-prefix=a"], "must begin with a slash"),
        (["-subnet-lease-renew-margin=1440"], "a lease lives 24 hours"),
        (["-iptables-resync=0"], "seconds, at least 1"),
        (["-log-level=loud"], "one of debug, info, warning, error"),
        (["-etcd-certfile=/a"], "belong together"),
        (["-iface-regex=("], "is no regular expression"),
        (["-subnet-file=subnet.env"], "must be an absolute path"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(arguments, {})
    assert said in str(caught.value)


def test_metrics_beside_the_registrars_band_are_free() -> None:
    assert [load([f"-metric={metric}"], {}).metric for metric in (0, 7600, 9649)] == [0, 7600, 9649]


def test_a_bad_variable_is_named_too() -> None:
    with pytest.raises(SettingsError, match="FLANNELD_IP_MASQ = 'x'"):
        load([], {"FLANNELD_IP_MASQ": "x"})


@pytest.mark.parametrize("prefix", ["/a/b", "/a/b/", "//a//b", "/a/./b"])
def test_one_prefix_has_one_spelling(prefix: str) -> None:
    """The second daemon of a network is known by it."""
    assert load([f"-etcd-prefix={prefix}"], {}).etcd_prefix == "/a/b"
    assert load([], {"FLANNELD_ETCD_PREFIX": prefix}).etcd_prefix == "/a/b"
