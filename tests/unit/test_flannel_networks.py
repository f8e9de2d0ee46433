"""The networks that a flannel config gives leases from, whatever else it says."""

from __future__ import annotations

import pytest

from weft.errors import WireError
from weft.wire.flannel_config import parse_networks


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ('{"Network": "10.244.0.0/16"}', ["10.244.0.0/16"]),
        ('{"Network": "10.244.7.1/16", "Backend": {"Type": "udp"}}', ["10.244.0.0/16"]),
        ('{"Network": "10.0.0.0/8", "SubnetLen": 99, "Backend": {"Type": "who knows"}}', ["10.0.0.0/8"]),
        ('{"Network": "10.0.0.0/8", "EnableIPv6": true, "IPv6Network": "fc00::/48"}', ["10.0.0.0/8", "fc00::/48"]),
        ('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48"}', ["fc00::/48"]),
    ],
)
def test_networks_of_a_config(text: str, networks: list[str]) -> None:
    assert [str(network) for network in parse_networks(text)] == networks


@pytest.mark.parametrize("text", ["", "{", '{"Network": "ten"}', "{}", '{"Network": "10.0.0.0/8", "EnableIPv6": true}'])
def test_what_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_networks(text)
