"""What Docker says about its networks → Networks, on JSON of the shape that engines give."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.support.fake_docker import Json, builtin, listed
from weft.engines.docker_networks import Expose, read_networks
from weft.errors import EngineError
from weft.model import Network, Problem


def read(*networks: dict[str, Json], expose: Expose = "all") -> tuple[tuple[Network, ...], tuple[Problem, ...]]:
    return read_networks(list(networks), expose)


def only(network: dict[str, Json], expose: Expose = "all") -> Network:
    (one,), problems = read(network, expose=expose)
    assert problems == ()
    return one


def test_a_bridge_network_with_two_families_and_two_pools() -> None:
    network = only(
        {
            **listed("blue", ["fd00:1::/64", "10.2.0.0/24 via 10.2.0.9", "10.1.0.0/24 via 10.1.0.1"]),
            "Id": "437c515afae741061e5ceb94113390e2a44c23adeb6cdb165ad10644798b6756",
            "Created": "2026-11-20T10:06:19.495869483Z",
        }
    )
    assert network == Network(
        name="blue",
        subnets=(ip_network("10.1.0.0/24"), ip_network("10.2.0.0/24"), ip_network("fd00:1::/64")),
        bridge="br-437c515afae7",
        since=1795169179.495869,
    )


def test_sorted_by_name_whatever_order_docker_gives() -> None:
    a, b, c = (listed(name, [f"10.{i}.0.0/24"]) for i, name in enumerate("abc"))
    assert read(c, a, b) == read(b, c, a)
    assert [n.name for n in read(c, a, b)[0]] == ["a", "b", "c"]


def test_a_bridge_may_be_named() -> None:
    assert only(listed("blue", ["10.1.0.0/24"], options={"com.docker.network.bridge.name": "br0"})).bridge == "br0"


def test_nulls_stand_for_empty_maps_and_lists() -> None:
    network = listed("odd", Options=None, Labels=None, Containers=None, IPAM={"Driver": "default", "Config": None})
    assert only(network).note == "it has no subnet"


def test_an_unknown_time_of_creation_is_the_youngest_claim() -> None:
    assert only(listed("blue", ["10.1.0.0/24"], Created="0001-01-01T00:00:00Z")).since == float("inf")


def test_a_gateway_that_docker_lists_only_after_its_own_restart_is_no_change() -> None:
    before, after = listed("blue", ["10.1.0.0/24"]), listed("blue", ["10.1.0.0/24 via 10.1.0.1"])
    assert read(before) == read({**before, "IPAM": after["IPAM"]})


def test_host_bits_of_a_subnet_are_masked() -> None:
    network = only(listed("blue", ["10.7.0.9/24"]))
    assert network.subnets == (ip_network("10.7.0.0/24"),)


def test_host_and_none_are_not_listed_and_the_default_bridge_is_not_exposed() -> None:
    networks, problems = read(*builtin())
    assert [(n.name, n.bridge, n.exposed) for n in networks] == [("bridge", "docker0", False)]
    assert "same subnet on every host" in networks[0].note
    assert problems == ()


PLAIN = listed("blue", ["10.1.0.0/24"])
PLUGIN = listed("blue", ["10.1.0.0/24"], driver="weave")


@pytest.mark.parametrize(("label", "group"), [("shop", "shop"), (" shop ", "shop"), ("", ""), ("a\nb", "a?b")])
def test_a_group_is_what_its_label_says(label: str, group: str) -> None:
    assert only({**PLAIN, "Labels": {"weft.group": label}}).group == group
    assert only(PLAIN).group == ""


@pytest.mark.parametrize("expose", ["all", "labelled"])
@pytest.mark.parametrize("network", [PLAIN, PLUGIN], ids=["bridge", "plug-in"])
@pytest.mark.parametrize("label", ["true", "TRUE", " True ", "false", "False"])
def test_a_label_decides(expose: Expose, network: dict[str, Json], label: str) -> None:
    one = only({**network, "Labels": {"weft.expose": label}}, expose)
    assert one.exposed is (label.strip().lower() == "true")
    assert one.note == ("" if one.exposed else "labelled weft.expose=false")


@pytest.mark.parametrize(
    ("network", "expose", "exposed", "note"),
    [
        (PLAIN, "all", True, ""),
        (PLAIN, "labelled", False, "not labelled weft.expose=true"),
        (PLUGIN, "all", False, "driver 'weave' is a plug-in"),
        (PLUGIN, "labelled", False, "not labelled weft.expose=true"),
    ],
)
def test_without_a_label(network: dict[str, Json], expose: Expose, exposed: bool, note: str) -> None:
    one = only(network, expose)
    assert one.exposed is exposed
    assert one.note.startswith(note)


@pytest.mark.parametrize("label", ["yes", "", "0", "truee"])
def test_a_bad_label_is_a_problem_and_keeps_the_network_private(label: str) -> None:
    (one,), (problem,) = read({**PLAIN, "Labels": {"weft.expose": label}})
    assert not one.exposed
    assert problem.subject == "network blue"
    assert f"weft.expose={label!r} is neither true nor false" in problem.message


FORGED = "x\n2026-11-20 weft: forged\u2028line"


@pytest.mark.parametrize(
    "network",
    [
        {**PLAIN, "Labels": {"weft.expose": FORGED}},
        {**PLAIN, "Name": FORGED, "Labels": {"weft.expose": "maybe"}},
        {**PLAIN, "Labels": {"weft.group": FORGED}},
        {**PLUGIN, "Driver": FORGED},
        listed("blue", [f"10.1.0.0/24{FORGED}", "10.2.0.0/24"]),
        listed("blue", ["fd00::%forged\n/64"]),
        listed("blue", ["10.1.0.0/24"], options={"com.docker.network.bridge.name": FORGED}),
    ],
)
def test_nothing_that_docker_says_forges_a_line_of_the_log(network: dict[str, Json]) -> None:
    (one,), problems = read(network)
    said = [one.name, one.bridge, one.note, one.group, *map(str, one.subnets)]
    assert all(text.isprintable() for text in said)
    assert all(text.isprintable() for problem in problems for text in (problem.subject, problem.message))


IMPOSSIBLE = [
    (listed("x", ["10.1.0.0/24"], Internal=True), "it is internal"),
    (listed("x", ["10.1.0.0/24"], driver="overlay", Scope="swarm"), "it is Swarm's"),
    (listed("x", ["10.1.0.0/24"], driver="mine", Scope="global"), "it is Swarm's"),
    (listed("x", ["10.1.0.0/24"], driver="macvlan"), "its containers are on the LAN itself (macvlan)"),
    (listed("x", ["10.1.0.0/24"], driver="ipvlan"), "its containers are on the LAN itself (ipvlan)"),
    (listed("x", ["10.1.0.0/24"], ConfigOnly=True), "it only holds the configuration of other networks"),
    (builtin()[0], "Docker's default bridge"),
    (
        listed("docker_gwbridge", ["172.18.0.0/16"], options={"com.docker.network.bridge.name": "docker_gwbridge"}),
        "it is Swarm's own way out",
    ),
]


@pytest.mark.parametrize(("network", "note"), IMPOSSIBLE, ids=[note for _, note in IMPOSSIBLE])
def test_what_can_not_be_exposed(network: dict[str, Json], note: str) -> None:
    one = only(network)
    assert not one.exposed
    assert one.note.startswith(note)
    (labelled,), (problem,) = read({**network, "Labels": {"weft.expose": "true"}})
    assert labelled == one
    assert problem.message == f"labelled weft.expose=true, but not exposed: {one.note}"


def test_a_subnet_that_is_none_is_a_problem_and_the_others_stand() -> None:
    (one,), (problem,) = read(listed("blue", ["10.1.0.0/33", "10.2.0.0/24"]))
    assert one.subnets == (ip_network("10.2.0.0/24"),)
    assert problem.message == "its subnet '10.1.0.0/33' is none; weft leaves it out"


@pytest.mark.parametrize("listing", [None, {}, {"message": "no"}, [1], [{}], [{**PLAIN, "Created": "yesterday"}]])
def test_a_list_of_another_form_is_an_engine_error(listing: object) -> None:
    with pytest.raises(EngineError, match="list of networks can't be read"):
        read_networks(listing, "all")
