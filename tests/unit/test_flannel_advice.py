"""What is unwise in a valid config: said, each in one sentence, and nothing said of what is well."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.wire.flannel_advice import BACKEND_MEMBERS, MEMBERS, check_config
from weft.wire.flannel_config import config_text, parse_config


def check(backend: str = '{"Type":"vxlan"}', /, **members: object) -> list[str]:
    """Of a config of these members; the network is 10.5.0.0/16 if they name none."""
    return check_config(json.dumps({"Network": "10.5.0.0/16", **members, "Backend": json.loads(backend)}))


DUAL: dict[str, object] = {"EnableIPv6": True, "IPv6Network": "fc00:5::/48"}
DOCKERS = "Docker takes subnets for its own networks from there"


@pytest.mark.parametrize("kind", BACKEND_MEMBERS)
def test_nothing_is_said_of_what_is_well(kind: str) -> None:
    assert check(f'{{"Type":"{kind}"}}', **DUAL) == []
    assert check(f'{{"type":"{kind}"}}', network="10.7.0.0/16", enableipv4=True) == []


def test_nothing_is_said_of_the_document_s_config() -> None:
    """shared/seeds/deploying-flannel-vxlan.md."""
    bounds = {"SubnetLen": 24, "SubnetMin": "172.16.10.0", "SubnetMax": "172.16.99.0"}
    assert check('{"Type":"vxlan","Port":8472}', Network="172.16.0.0/16", **bounds) == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"Network": "10.5.7.9/16"}, "Network 10.5.7.9/16 has bits beyond its prefix; it is read as 10.5.0.0/16"),
        (
            {"SubnetLenght": 24},
            "SubnetLenght means nothing in the flannel config, and is passed over; did you mean SubnetLen?",
        ),
        ({"Comment": ""}, "Comment means nothing in the flannel config, and is passed over"),
        ({"IPv6Network": "fc00:5::/48"}, 'IPv6Network is there and hosts get no IPv6: add "EnableIPv6": true'),
        (DUAL | {"EnableIPv4": False}, "Network is there and EnableIPv4 is false, so hosts get no IPv4"),
        (DUAL | {"IPv6Network": "fc00:5::1/48"}, "IPv6Network fc00:5::1/48 has bits beyond its prefix"),
        ({"SubnetMin": "10.5.1.0", "SubnetMax": "10.5.8.0"}, "from 10.5.1.0 to 10.5.8.0 there is room for 8 hosts"),
        ({"SubnetLen": 27}, "a lease of /27 has room for 29 containers and no more"),
        (DUAL | {"IPv6SubnetLen": 126}, "a lease of /126 has room for 1 containers and no more"),
        ({"SubnetMin": "10.5.0.0"}, "SubnetMin 10.5.0.0 is the whole network's own address"),
        ({"Network": "172.17.0.0/16"}, "Network 172.17.0.0/16 overlaps with 172.17.0.0/16: Docker gives it to docker0"),
        ({"Network": "172.19.0.0/17"}, f"Network 172.19.0.0/17 overlaps with 172.18.0.0/15: {DOCKERS}"),
        ({"Network": "192.168.0.0/17"}, f"Network 192.168.0.0/17 overlaps with 192.168.0.0/16: {DOCKERS}"),
        ({"Network": "8.8.0.0/16"}, "Network 8.8.0.0/16 is not private"),
        (
            DUAL | {"IPv6Network": "fe80::/48"},
            "IPv6Network fe80::/48 overlaps with fe80::/10: it is for link-local addresses",
        ),
    ],
)
def test_what_is_said_of_a_network(members: dict[str, object], words: str) -> None:
    said = check(**members)
    assert len(said) == 1
    assert said[0].startswith(words)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ('{"Type":"vxlan","DirectRoute":true}', "DirectRoute means nothing in Backend of the flannel config"),
        ('{"Type":"vxlan","DirectRoute":true}', "did you mean DirectRouting?"),
        ('{"Type":"host-gw","VNI":1}', "VNI means nothing in Backend of the flannel config"),
        ('{"Type":"vxlan","GBP":true}', "GBP must be on at every host alike"),
        ('{"Type":"vxlan","Learning":true}', "Learning lets any host"),
        ('{"Type":"vxlan","VNI":70000}', "VNI 70000 does not fit into 16 bits: older flannel can't read"),
        ('{"Type":"vxlan","MTU":0}', "MTU 0: weft takes the uplink's, flannel gets a negative one"),
        (
            '{"Type":"vxlan","MTU":1300}',
            "MTU 1300 is the underlay's: 1230 are left inside of VXLAN, and IPv6 needs 1280",
        ),
    ],
)
def test_what_is_said_of_a_backend(backend: str, words: str) -> None:
    said = check(backend, **DUAL)
    assert len(said) == 1
    assert words in said[0]


def test_a_small_mtu_is_enough_for_ipv4() -> None:
    assert check('{"Type":"vxlan","MTU":1300}') == []


def test_several_things_are_said_one_by_one() -> None:
    said = check('{"Type":"vxlan","GBP":true,"Learning":true}', Network="127.0.0.0/24", Note=1)
    assert [words.split()[0] for words in said] == ["Note", "from", "Network", "Network", "GBP", "Learning"]


def test_what_is_refused_is_refused_here_too() -> None:
    with pytest.raises(WireError, match="unknown or unsupported backend: udp"):
        check('{"Type":"udp"}')


@given(
    st.dictionaries(
        st.sampled_from(MEMBERS) | st.text(), st.sampled_from([True, None, 26, "10.5.0.0/16", {"Type": "vxlan"}])
    )
)
def test_whatever_can_be_read_can_be_checked(members: dict[str, object]) -> None:
    text = json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}} | members)
    try:
        written = config_text(parse_config(text))
    except WireError:
        return
    assert all(check_config(text))
    assert not any("means nothing" in words for words in check_config(written))
