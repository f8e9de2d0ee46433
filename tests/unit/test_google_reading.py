"""What a list of routes at Google says: whose each is, what is wrong with it, what its next hop is warned of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from email.utils import formatdate
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from weft.model import IPAddress
from weft.objects import Key, Why
from weft.objects.cloud import CloudRoute, cloud_key
from weft.targets.cloud.google_api import ListWarning, retry_after
from weft.targets.cloud.google_routes import (
    Hop,
    RouteResource,
    Rules,
    as_route,
    body,
    hop_problems,
    instance_path,
    is_right,
    made,
    mark_of,
    sort_out,
)

LINK = "https://www.googleapis.com/compute/v1/projects/p/global/networks/"
INSTANCE = "https://www.googleapis.com/compute/v1/projects/p/zones/z/instances/host"
MARK = mark_of("/coreos.com/network")
RULES = Rules(project="p", network="default", mark=MARK)
DST = ip_network("10.1.0.0/24")
KEY = cloud_key("default", DST)
WHY = Why("flannel", "host-1", "lease 10.1.0.0/24")


def resource(name: str = "flannel-default-10-1-0-0-24", **more: object) -> RouteResource:
    usual: Mapping[str, object] = {
        "network": LINK + "default",
        "dest_range": "10.1.0.0/24",
        "description": MARK + "a lease",
        "next_hop_ip": "10.128.0.2",
    }
    return RouteResource(name=name, **{**usual, **more})  # type: ignore[arg-type]


def nowhere(_: RouteResource) -> tuple[IPAddress, ...]:
    return ()


def read(*found: RouteResource, rules: Rules = RULES) -> CloudRoute:
    return as_route(found, rules, nowhere)


class TestWhose:
    def test_ours_has_the_name_the_network_and_the_mark(self) -> None:
        assert sort_out([resource()], RULES).ours == {KEY: (resource(),)}

    @pytest.mark.parametrize(
        "other",
        [
            resource("by-hand"),
            resource("flannel-defaultx-10-1-0-0-24"),
            resource(description=""),
            resource(description="weft route-manager /another: a lease"),
            resource(description="weft route-manager /coreos.com/network2: a lease"),
        ],
    )
    def test_whatever_lacks_one_of_them_is_somebody_elses(self, other: RouteResource) -> None:
        found = sort_out([other], RULES)
        assert found.ours == {}
        assert other.name in found.foreign[KEY]

    @pytest.mark.parametrize("network", ["default-foo", "foo-default", "defaul", ""])
    def test_another_networks_is_nobodys_business_even_if_the_filter_was_forgotten(self, network: str) -> None:
        found = sort_out([resource(network=LINK + network)], RULES)
        assert (found.ours, found.foreign) == ({}, {})

    def test_a_network_whose_url_is_no_networks(self) -> None:
        assert sort_out([resource(network="default")], RULES).ours == {}

    def test_what_leads_beside_ours_is_told_and_ours_stays_ours(self) -> None:
        found = sort_out([resource("by-hand", next_hop_ip="10.128.0.9"), resource()], RULES)
        assert list(found.ours) == [KEY]
        assert found.foreign == {}
        assert "by-hand (10.1.0.0/24 to 10.128.0.9)" in found.beside[0]

    @pytest.mark.parametrize("dst", ["", "nonsense", "10.1.0.1/24"])
    def test_what_has_no_destination_is_left_out(self, dst: str) -> None:
        found = sort_out([resource(dest_range=dst)], RULES)
        assert (found.ours, found.foreign) == ({}, {})

    @pytest.mark.parametrize(
        ("candidate", "adopted"),
        [
            (resource(description=""), True),
            (resource(description="made by flannel-route-manager"), True),
            (resource(description="weft route-manager /another: a lease"), False),
            (resource("flannel-default-10-1-0-0-24-x", description=""), False),
            (resource(description="", priority=900), False),
            (resource(description="", dest_range="10.2.0.0/24"), False),
        ],
    )
    def test_adopted_is_just_what_we_would_have_called_so(self, candidate: RouteResource, adopted: bool) -> None:
        rules = Rules("p", "default", MARK, adopt=True)
        assert bool(sort_out([candidate], rules).ours) is adopted


class TestOneObject:
    def test_as_we_make_it(self) -> None:
        mine = made("flannel-default-10-1-0-0-24", RULES, DST, Hop(ip_address("10.128.0.2")), WHY)
        assert mine.description == MARK + "lease 10.1.0.0/24, host-1"
        assert read(mine) == CloudRoute("default", DST, ip_address("10.128.0.2"))
        assert is_right(mine, RULES, DST, Hop(ip_address("10.128.0.2")))
        assert not is_right(mine, RULES, DST, Hop(ip_address("10.128.0.3")))
        sent = msgspec.json.decode(body(mine))
        assert sent == {
            "name": "flannel-default-10-1-0-0-24",
            "network": LINK + "default",
            "destRange": "10.1.0.0/24",
            "priority": 1000,
            "description": MARK + "lease 10.1.0.0/24, host-1",
            "nextHopIp": "10.128.0.2",
        }

    def test_a_peers_words_do_not_make_a_description_that_google_refuses(self) -> None:
        said = Why("etcd", "x" * 4000, "a\nb\tc")
        mine = made("n", RULES, DST, Hop(ip_address("10.128.0.2")), said)
        assert mine.description.startswith(MARK + "a b c, xxx")
        assert len(mine.description) == 500

    def test_ipv6_however_it_is_written(self) -> None:
        six = resource(dest_range="fd00:0:0:1::/64", next_hop_ip="fd20:0:0:0:0:0:0:2")
        assert read(six) == CloudRoute("default", ip_network("fd00:0:0:1::/64"), ip_address("fd20::2"))

    def test_twice(self) -> None:
        assert read(resource(), resource("b", next_hop_ip="10.128.0.3")).flaw == "it is there twice"

    @pytest.mark.parametrize(
        ("wrong", "flaw"),
        [
            (resource(priority=1), "priority 1, not 1000"),
            (resource(tags=["a", "b"]), "only for instances with the tag a, b"),
            (resource(next_hop_ip="", next_hop_instance=INSTANCE), "it leads to an instance, not to an address"),
            (resource(next_hop_ip="", next_hop_gateway="p/default-internet-gateway"), "to default-internet-gateway"),
            (resource(next_hop_ip=""), "it leads to nowhere"),
        ],
    )
    def test_flaws(self, wrong: RouteResource, flaw: str) -> None:
        assert flaw in read(wrong).flaw
        assert not is_right(wrong, RULES, DST, Hop(ip_address("10.128.0.2")))

    def test_by_instance(self) -> None:
        rules = Rules("p", "default", MARK, by_instance=True)
        hop = Hop(ip_address("10.128.0.2"), "zones/z/instances/host")
        mine = made("n", rules, DST, hop, WHY)
        assert (mine.next_hop_instance, mine.next_hop_ip) == (INSTANCE, "")
        assert as_route([mine], rules, lambda _: (hop.address,)) == CloudRoute("default", DST, hop.address)
        assert read(mine, rules=rules).via is None
        assert is_right(mine, rules, DST, hop)
        assert "not to an instance" in read(resource(), rules=rules).flaw

    def test_an_instance_that_is_gone_makes_a_route_wrong(self) -> None:
        rules = Rules("p", "default", MARK, by_instance=True)
        gone = resource(
            next_hop_ip="", next_hop_instance=INSTANCE, warnings=[ListWarning("NEXT_HOP_INSTANCE_NOT_FOUND")]
        )
        assert read(gone, rules=rules).flaw == "its instance is gone"

    @pytest.mark.parametrize(
        ("url", "path"),
        [
            (INSTANCE, "zones/z/instances/host"),
            ("zones/z/instances/host", "zones/z/instances/host"),
            ("host", ""),
            (LINK, ""),
        ],
    )
    def test_paths_of_instances(self, url: str, path: str) -> None:
        assert instance_path(url) == path


def test_one_problem_for_all_routes_of_a_hop() -> None:
    warned = [ListWarning("NEXT_HOP_CANNOT_IP_FORWARD"), ListWarning("SOMETHING_ELSE")]
    ours: dict[Key, tuple[RouteResource, ...]] = {
        ("cloud", n): (resource(f"flannel-default-{n}", warnings=warned),) for n in range(5)
    }
    [problem] = hop_problems(ours)
    assert problem.subject == "10.128.0.2"
    assert "flannel-default-0, flannel-default-1, flannel-default-2 and 2 more" in problem.message


@pytest.mark.parametrize(("said", "seconds"), [("7", 7.0), ("", None), ("soon", None), (formatdate(0), 0.0)])
def test_retry_after(said: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": said} if said else {}) == seconds


def test_nothing_of_it_is_loaded_for_another_backend() -> None:
    script = (
        "import sys; from weft.settings.route_manager import RouteManagerSettings as S\n"
        "import weft.targets.cloud as c, weft.targets.cloud.target\n"
        "c.BACKENDS['memory'](S()); c.BACKENDS['stdout'](S())\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('google', 'requests', 'aiohttp', 'boto3')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
