"""What iproute2 prints, as recorded from iproute2 6.1, and texts that it would not print."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from weft.diagnose import parse
from weft.diagnose.facts import AddressFacts, FdbFacts, LinkFacts, NeighbourFacts, RouteFacts
from weft.errors import DecodeError

LINKS = """[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"qdisc":"noqueue",
"operstate":"UNKNOWN","link_type":"loopback","address":"00:00:00:00:00:00","stats64":{"rx":{"bytes":1,"packets":2},
"tx":{"bytes":1,"packets":2}}},
{"ifindex":3,"ifname":"flannel.1","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1450,"master":"br0",
"ifalias":"weft:flanneld:x","address":"02:00:00:00:00:01","linkinfo":{"info_kind":"vxlan","info_data":{"id":1,
"link":"eth0","local":"192.0.2.1","srcport":{"low":0,"high":0},"port":8472,"learning":false,"ageing":300}},
"stats64":{"rx":{"packets":5},"tx":{"packets":6}}},
{"ifname":"six","flags":[],"mtu":1430,"linkinfo":{"info_kind":"vxlan","info_data":{"id":7,"local6":"fd00::1"}}},
{"ifname":"br0","flags":["UP"],"mtu":1500,"linkinfo":{"info_kind":"bridge","info_data":{"vlan_default_pvid":1}}},
{"ifname":"odd","flags":["UP"],"mtu":1500,"linkinfo":{"info_kind":"vxlan","info_data":"none"}}, {}]"""


def test_links() -> None:
    assert parse.links(LINKS) == (
        LinkFacts("lo", "", True, 65536, "00:00:00:00:00:00", rx_packets=2, tx_packets=2),
        LinkFacts(
            *("flannel.1", "vxlan", True, 1450, "02:00:00:00:00:01", "weft:flanneld:x", "br0", 1, 8472),
            *(ip_address("192.0.2.1"), False, "eth0", 5, 6),
        ),
        LinkFacts("six", "vxlan", False, 1430, vni=7, local=ip_address("fd00::1")),
        LinkFacts("br0", "bridge", True, 1500),
        LinkFacts("odd", "vxlan", True, 1500),
    )


def test_addresses() -> None:
    text = '[{"ifname":"eth0","addr_info":[{"family":"inet","local":"192.0.2.1","prefixlen":24},{}]},{}]'
    assert parse.addresses(text) == (AddressFacts("eth0", ip_interface("192.0.2.1/24")),)


def test_routes() -> None:
    text = """[{"type":"unicast","dst":"default","gateway":"192.0.2.254","dev":"eth0","protocol":"boot",
    "flags":[]},{"type":"unicast","dst":"10.9.2.0/24","gateway":"10.5.20.0","dev":"flannel.1","protocol":"76",
    "metric":8624,"flags":["onlink"]},{"type":"blackhole","dst":"10.7.0.0/16","protocol":"static"},
    {"dst":"10.8.0.1","nexthops":[{"gateway":"192.0.2.3","dev":"eth0"},{"dev":"eth1"}]},{"dst":"what is this"}]"""
    assert parse.routes(text, 4) == (
        RouteFacts(ip_network("0.0.0.0/0"), "eth0", ip_address("192.0.2.254"), "boot"),
        RouteFacts(ip_network("10.9.2.0/24"), "flannel.1", ip_address("10.5.20.0"), "76", 8624),
        RouteFacts(ip_network("10.7.0.0/16"), "", None, "static", 0, "blackhole"),
        RouteFacts(ip_network("10.8.0.1/32"), "eth0", ip_address("192.0.2.3")),
        RouteFacts(ip_network("10.8.0.1/32"), "eth1"),
    )
    assert parse.routes('[{"dst":"default"}]', 6) == (RouteFacts(ip_network("::/0")),)


def test_neighbours_and_forwarding_entries() -> None:
    text = """[{"dst":"10.5.20.0","dev":"flannel.1","lladdr":"02:00:00:00:00:02","state":["PERMANENT"]},
    {"dst":"192.0.2.2","dev":"eth0","state":["FAILED"]},
    {"dst":"192.0.2.3","dev":"eth0","lladdr":"02:00:00:00:00:03","state":["STALE"]}]"""
    assert parse.neighbours(text) == (
        NeighbourFacts("flannel.1", ip_address("10.5.20.0"), "02:00:00:00:00:02"),
        NeighbourFacts("eth0", ip_address("192.0.2.3"), "02:00:00:00:00:03", False),
    )
    text = """[{"mac":"33:33:00:00:00:01","ifname":"eth0","flags":["self"],"state":"permanent"},
    {"mac":"02:00:00:00:00:02","ifname":"flannel.1","dst":"192.0.2.2","flags":["self"],"state":"permanent"},
    {"mac":"02:00:00:00:00:03","ifname":"flannel.1","dst":"192.0.2.3","flags":["self"],"state":""}]"""
    assert parse.fdb(text) == (
        FdbFacts("flannel.1", "02:00:00:00:00:02", ip_address("192.0.2.2")),
        FdbFacts("flannel.1", "02:00:00:00:00:03", ip_address("192.0.2.3"), False),
    )


@pytest.mark.parametrize("reader", [parse.links, parse.addresses, parse.neighbours, parse.fdb])
def test_nothing_is_nothing_and_no_json_is_an_error(reader: object) -> None:
    assert callable(reader)
    assert reader("") == ()
    assert reader("\n") == ()
    for text in ("Device does not exist.", "{}", '[{"ifname": 7, "dst": 7, "mac": 7}]'):
        with pytest.raises(DecodeError, match="did not print the JSON"):
            reader(text)
