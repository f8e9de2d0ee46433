"""flannel-route-manager's flags, and ours."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from weft.errors import SettingsError
from weft.settings.route_manager import FLAGS, RouteManagerSettings, load

ORIGINALS = {
    "backend": "google",
    "etcd-endpoint": "http://127.0.0.1:4001,http://127.0.0.1:2379",
    "etcd-prefix": "/coreos.com/network",
    "sync-interval": "30",
    "delete-all-routes": "false",
}


def test_every_flag_of_the_originals_is_there_with_its_default_and_in_the_help() -> None:
    rows = {flag: default for flag, _, default, _ in FLAGS.describe()}
    page = FLAGS.page("")
    for name, default in ORIGINALS.items():
        assert rows[f"-{name}"] == default
        assert f"  -{name} " in page


def test_every_flag_says_what_it_is() -> None:
    assert [flag for flag, _, _, text in FLAGS.describe() if not text] == []


def test_defaults() -> None:
    assert load([], {}) == (RouteManagerSettings(), [])


def test_go_flags_and_durations_and_lists() -> None:
    found, _ = load(
        ["-sync-interval", "10", "--grace=2m", "-backend=aws", "-aws-route-table=rtb-1,tag:a=b", "-aws-route-table=c"],
        {},
    )
    assert (found.sync_interval, found.grace, found.backend) == (10.0, 120.0, "aws")
    assert found.aws_route_table == ("rtb-1", "tag:a=b", "c")
    found, _ = load(["-allowed=10.0.0.0/8,fd00::/8", "-once", "-health-ip=::1"], {})
    assert found.allowed == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert (found.once, found.health_ip) == (True, ip_address("::1"))


def test_the_flag_wins_over_the_environment_and_an_empty_variable_is_none() -> None:
    environment = {"ROUTE_MANAGER_ETCD_PREFIX": "/a//b/", "ROUTE_MANAGER_BACKEND": "", "ROUTE_MANAGER_GRACE": "5"}
    found, _ = load(["-grace=6"], environment)
    assert (found.etcd_prefix, found.backend, found.grace) == ("/a/b", "google", 6.0)


def test_flags_of_another_provider_are_remarked_on() -> None:
    _, said = load(["-backend=aws", "-google-project=p"], {"ROUTE_MANAGER_GOOGLE_ZONE": "z"})
    assert said == ["-google-project, ROUTE_MANAGER_GOOGLE_ZONE: no meaning with -backend=aws"]
    assert load(["-backend=stdout", "-google-network=prod"], {})[1] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-backen=x"], "did you mean -backend?"),
        (["sync"], "'sync' is no flag; flags are like -etcd-endpoint="),
        (["-backend"], "-backend needs a value, e.g. -backend=google"),
        (["-sync-interval=x"], "-sync-interval = 'x': not a duration"),
        (["-sync-interval=0"], "seconds, at least 1"),
        (["-once=maybe"], "-once = 'maybe': true or false is expected"),
        (["-google-next-hop=i"], "one of ip, instance (did you mean ip?)"),
        (["-google-priority=70000"], "-google-priority = '70000'"),
        (["-allowed=10.0.0.1/8"], "did you mean 10.0.0.0/8?"),
        (["-requests-per-second=0"], "-requests-per-second = '0'"),
        (["-health-port=70000"], "-health-port = '70000'"),
        (["-health-ip=x"], "-health-ip = 'x'"),
        (["-health-ip="], "-health-ip = ''"),
        (["-etcd-prefix=a"], "must begin with a slash"),
        (["-etcd-prefix="], "-etcd-prefix = '' must begin with a slash"),
        (["-registrar-prefix=a"], "-registrar-prefix = 'a' must begin with a slash"),
        (["-etcd-keyfile=/k"], "belong together"),
        (["-socket=x"], "must be an absolute path"),
        (["-log-level=loud"], "one of debug, info, warning, error"),
        (["-delete-all-routes", "-once"], "one empties the table, one fills it"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(arguments, {})
    assert said in str(caught.value)


def test_a_list_has_no_empty_parts() -> None:
    none = load(["-aws-route-table=", "-allowed="], {})[0]
    assert (none.aws_route_table, none.allowed) == ((), ())
    assert load(["-aws-route-table=rtb-1,,rtb-2,"], {})[0].aws_route_table == ("rtb-1", "rtb-2")


def test_a_secret_behind_a_slip_of_the_pen_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load(["-etcd-pasword=sesame"], {})
    assert str(caught.value) == "-etcd-pasword: there is no such flag; did you mean -etcd-password?"
