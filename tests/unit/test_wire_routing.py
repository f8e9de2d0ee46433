"""routing.yaml: the document's example and the other shapes as they are meant, and every mistake with the words that
help; whatever else a file holds is a WireError and never another exception."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.model import Network
from weft.wire import yaml_tree
from weft.wire.routing import RemoteStack, StackConfig, decode_routing

DOCUMENT = """\
version: 1
stack_id: stack-a
vni: 1000
vxlan_subnet: 192.168.100.0/24
local_vxlan_ip: 192.168.100.1

networks:
  - name: internal
    subnet: 172.20.0.0/16
    gateway: 172.20.0.2

remote_stacks:
  - stack_id: stack-b
    vxlan_gateway: 192.168.100.2
    networks:
      - subnet: 172.21.0.0/16

  - stack_id: stack-c
    vxlan_gateway: 192.168.100.3
    networks:
      - subnet: 172.22.0.0/16
"""


def net(name: str, *subnets: str) -> Network:
    return Network(name, tuple(map(ip_network, subnets)), since=0.0)


def remote(name: str, gateways: str, *subnets: str) -> RemoteStack:
    return RemoteStack(name, tuple(map(ip_address, gateways.split(","))), tuple(map(ip_network, subnets)))


STACK_A = StackConfig(
    stack_id="stack-a",
    vni=1000,
    vxlan_subnets=(ip_network("192.168.100.0/24"),),
    local_vxlan_ips=(ip_address("192.168.100.1"),),
    networks=(net("internal", "172.20.0.0/16"),),
    gateways=(("internal", ip_address("172.20.0.2")),),
    remote=(
        remote("stack-b", "192.168.100.2", "172.21.0.0/16"),
        remote("stack-c", "192.168.100.3", "172.22.0.0/16"),
    ),
)


def one(text: str) -> StackConfig:
    (stack,) = decode_routing(text).stacks
    return stack


def test_the_document_s_file() -> None:
    """shared/seeds/docker-router-design.md, "Static Routing Configuration"."""
    assert one(DOCUMENT) == STACK_A


def test_several_stacks_of_one_host() -> None:
    first = "\n".join(f"    {line}" for line in DOCUMENT.splitlines()[1:]).strip()
    text = f"version: 1\nstacks:\n  - {first}\n  - stack_id: stack-x\n    vni: 1001\n"
    assert decode_routing(text).stacks == (STACK_A, StackConfig("stack-x", 1001))


OLDER = """\
container_subnet: 172.20.0.0/16
stack_mappings:
  stack-a: {vxlan_ip: 192.168.100.1, container_subnet: 172.20.0.0/16}
  stack-b: {vxlan_ip: 192.168.100.2, container_subnet: 172.21.0.0/16}
"""


def test_the_older_shape_lists_all_stacks_alike_and_its_own_is_known_by_the_subnet() -> None:
    own = StackConfig(
        stack_id="stack-a",
        local_vxlan_ips=(ip_address("192.168.100.1"),),
        networks=(net("containers", "172.20.0.0/16"),),
        remote=(remote("stack-b", "192.168.100.2", "172.21.0.0/16"),),
    )
    assert one(OLDER) == own
    assert one(f"stack_id: stack-a\n{OLDER}") == own


def test_the_older_shape_with_the_id_from_the_environment() -> None:
    every = one(OLDER.split("\n", 1)[1])
    assert (every.stack_id, len(every.remote)) == ("", 2)
    mine = every.named("stack-b")
    assert mine.local_vxlan_ips == (ip_address("192.168.100.2"),)
    assert mine.networks == (net("stack-b", "172.21.0.0/16"),)
    assert [other.stack_id for other in mine.remote] == ["stack-a"]
    assert every.named("stack-x") == StackConfig("stack-x", remote=every.remote)


def test_an_id_that_is_the_same_changes_nothing() -> None:
    stack = one(DOCUMENT)
    assert stack.named("stack-a") is stack


def test_a_stack_that_lists_itself_without_subnets_says_its_address_alone() -> None:
    text = "stack_id: a\nremote_stacks: [{stack_id: a, vxlan_gateway: 10.9.0.1, networks: []}]"
    assert one(text) == StackConfig("a", local_vxlan_ips=(ip_address("10.9.0.1"),))


@pytest.mark.parametrize(
    "two",
    ["192.168.100.0/24, fd00:100::/64", "[192.168.100.0/24, fd00:100::/64]", "\n - 192.168.100.0/24\n - fd00:100::/64"],
)
def test_ipv4_and_ipv6_side_by_side(two: str) -> None:
    text = f"""
vxlan_subnet: {two}
local_vxlan_ip: 192.168.100.1,fd00:100::1
networks: ['172.20.0.0/16', {{subnet: [10.1.0.0/16, 'fd00:20::/64'], gateway: [10.1.0.1, 'fd00:20::1']}}]
remote_stacks:
  - stack_id: b
    vxlan_gateway: [192.168.100.2, fd00:100::2, 192.168.100.3]
    networks: [172.21.0.0/16, {{name: web, subnet: 'fd00:21::/64'}}]
"""
    stack = one(text)
    assert stack.vxlan_subnets == (ip_network("192.168.100.0/24"), ip_network("fd00:100::/64"))
    assert stack.local_vxlan_ips == (ip_address("192.168.100.1"), ip_address("fd00:100::1"))
    dual = "10.1.0.0/16,fd00:20::/64"
    assert stack.networks == (net("172.20.0.0/16", "172.20.0.0/16"), net(dual, "10.1.0.0/16", "fd00:20::/64"))
    assert stack.gateways == ((dual, ip_address("10.1.0.1")), (dual, ip_address("fd00:20::1")))
    assert stack.remote == (remote("b", "192.168.100.2,fd00:100::2,192.168.100.3", "172.21.0.0/16", "fd00:21::/64"),)


def test_what_yaml_would_take_for_something_else_stays_what_is_written() -> None:
    stack = one("stack_id: no\nlocal_vxlan_ip: 2001:2:3:4:5:6:7:8\nnetworks:\nvni: ~\nvxlan_subnet: null")
    assert stack == StackConfig("no", local_vxlan_ips=(ip_address("2001:2:3:4:5:6:7:8"),))


@pytest.mark.parametrize("text", ["version: 1", "{}", "# nothing but a remark\nversion: 1\n"])
def test_a_file_that_leaves_all_to_the_environment(text: str) -> None:
    assert one(text) == StackConfig("")


def changed(old: str, new: str) -> str:
    assert old in DOCUMENT
    return DOCUMENT.replace(old, new, 1)


B = "remote_stacks[0]"
C = "remote_stacks[1]"
MISTAKES = {
    "host bits": (
        changed("172.21.0.0/16", "172.21.5.0/16"),
        f"{B}.networks[0].subnet: '172.21.5.0/16' is no subnet: it has host bits; 172.21.0.0/16 would be",
    ),
    "no length": (changed("172.21.0.0/16", "172.21.0.0"), f"{B}.networks[0].subnet: '172.21.0.0' has no prefix length"),
    "everything": (
        changed("172.21.0.0/16", "0.0.0.0/0"),
        f"{B}.networks[0].subnet: '0.0.0.0/0' is everything there is",
    ),
    "no subnet at all": (changed("172.21.0.0/16", "web"), "'web' is no subnet, such as 172.21.0.0/16 or fd00:21::/64"),
    "zone in a subnet": (changed("172.21.0.0/16", "fe80::%eth0/64"), "'fe80::%eth0/64' is no subnet, such as"),
    "empty subnet": (changed("172.21.0.0/16", ""), f"{B}.networks[0].subnet: there is none"),
    "a key misspelt": (
        changed("vxlan_gateway", "vxlan_gatway"),
        f"{B}.vxlan_gatway: there is no such key; did you mean 'vxlan_gateway'? (stack_id, vxlan_gateway, networks)",
    ),
    "a key at random": (changed("vni", "colour"), "colour: there is no such key; (version, stacks, stack_id, vni,"),
    "gateway elsewhere": (
        changed("192.168.100.2", "192.168.101.2"),
        f"{B}.vxlan_gateway: '192.168.101.2' is not in vxlan_subnet 192.168.100.0/24",
    ),
    "gateway is the subnet's": (
        changed("192.168.100.2", "192.168.100.255"),
        f"{B}.vxlan_gateway: '192.168.100.255' is the subnet's own address",
    ),
    "own address elsewhere": (
        changed("192.168.100.1", "10.0.0.1"),
        "local_vxlan_ip: '10.0.0.1' is not in vxlan_subnet 192.168.100.0/24",
    ),
    "gateway is this stack's": (
        changed("192.168.100.2", "192.168.100.1"),
        f"{B}.vxlan_gateway: '192.168.100.1' is local_vxlan_ip already",
    ),
    "gateway is another stack's": (
        changed("192.168.100.3", "192.168.100.2"),
        f"{C}.vxlan_gateway: '192.168.100.2' is {B}.vxlan_gateway already",
    ),
    "gateway left out": (changed("    vxlan_gateway: 192.168.100.2\n", ""), f"{B}.vxlan_gateway: there is none"),
    "gateway with a length": (
        changed("192.168.100.2", "192.168.100.2/24"),
        "'192.168.100.2/24' is no address; 192.168.100.2 would be",
    ),
    "gateway with a wild length": (changed("192.168.100.2", "a/b"), "'a/b' is no address, such as"),
    "gateway with a zone": (changed("192.168.100.2", "fe80::1%eth0"), "'fe80::1%eth0' is no address, such as"),
    "gateway is loopback": (changed("192.168.100.2", "127.0.0.1"), "is no address that a router can have"),
    "overlap among stacks": (
        changed("172.22.0.0/16", "172.21.128.0/17"),
        f"{C}.networks[0].subnet: '172.21.128.0/17' overlaps 172.21.0.0/16, which is {B}.networks[0].subnet's",
    ),
    "overlap with the own network": (
        changed("172.21.0.0/16", "172.0.0.0/8"),
        f"{B}.networks[0].subnet: '172.0.0.0/8' overlaps 172.20.0.0/16, which is networks[0].subnet's",
    ),
    "overlap with the overlay": (
        changed("172.22.0.0/16", "192.168.0.0/16"),
        f"{C}.networks[0].subnet: '192.168.0.0/16' overlaps 192.168.100.0/24, which is vxlan_subnet's",
    ),
    "a stack twice": (changed("stack-c", "stack-b"), f"{C}.stack_id: 'stack-b' is {B}'s already; a stack with several"),
    "a stack without id": (changed("stack_id: stack-b\n    ", ""), f"{B}.stack_id: there is none"),
    "an id that forges a log line": (changed("stack-b", '"b\\nERROR"'), f"{B}.stack_id: 'b\\nERROR' is no id"),
    "no networks": (
        changed("\n    networks:\n      - subnet: 172.21.0.0/16\n", "\n"),
        f"{B}.networks: there is none; without any subnet behind it, write `networks: []`",
    ),
    "networks no list": (changed("      - subnet: 172.22.0.0/16", "      subnet: 172.22.0.0/16"), "a mapping"),
    "gateway outside of its network": (
        changed("172.20.0.2", "172.25.0.2"),
        "networks[0].gateway: '172.25.0.2' is not in the network's 172.20.0.0/16",
    ),
    "a name twice": (
        changed("remote_stacks:", "  - {name: internal, subnet: 10.1.0.0/16}\nremote_stacks:"),
        "networks[1].name: 'internal' is there already; a network's subnets stand in one entry",
    ),
    "two overlays of one family": (
        changed("192.168.100.0/24", "[192.168.100.0/24, 10.0.0.0/24]"),
        "vxlan_subnet[1]: '10.0.0.0/24' is the second one of IPv4",
    ),
    "version": (changed("version: 1", "version: 2"), "version: '2' is not 1"),
    "vni too large": (changed("1000", "16777216"), "vni: '16777216' is not between 1 and 16777215"),
    "vni no number": (changed("1000", "1_000"), "vni: '1_000' is no whole number; 1 to 16777215 can be"),
    "vni a list": (changed("1000", "[1000]"), "vni: a list of 1 is no single value"),
    "both spellings": (
        changed("networks:", "container_subnet: 10.1.0.0/16\nnetworks:"),
        "means the same as 'networks'",
    ),
    "mappings no mapping": ("stack_mappings: [a]", "stack_mappings: a list of 1 is no mapping"),
    "mapping without a subnet": (
        "stack_mappings: {b: {vxlan_ip: 10.0.0.2}}",
        "stack_mappings.b.container_subnet: there",
    ),
    "remote stacks no list": (
        "remote_stacks: stack-b",
        "remote_stacks: 'stack-b' is no list; each entry begins with `- `",
    ),
    "an entry is a text": ("remote_stacks: [b]", "remote_stacks[0]: 'b' is no mapping; it has the keys stack_id"),
    "an entry is nothing": ("remote_stacks: [~]", "remote_stacks[0].stack_id: there is none"),
    "the file is a list": ("[a]", "the file: a list of 1 is no mapping; it has the keys version"),
    "an address is a mapping": (
        "local_vxlan_ip: {a: b}",
        "local_vxlan_ip: a mapping (`key: value`) is neither a value",
    ),
    "an address is a list": ("local_vxlan_ip: [[a], b]", "local_vxlan_ip[0]: a list of 1 is no single value"),
    "stacks and a stack": ("stack_id: a\nstacks: []", "stack_id: with `stacks`, it stands in each of them"),
    "stacks without an id": ("stacks:\n - vni: 1", "stacks[0].stack_id: there is none"),
    "no stacks": ("stacks: []", "stacks: there is none in it"),
    "one stack twice": ("stacks: [{stack_id: a}, {stack_id: a}]", "stacks[1].stack_id: 'a' is stacks[0]'s already"),
    "empty": ("", "it is empty"),
    "a key twice": ("vni: 1\nstack_id: a\nvni: 2", "the file: the key 'vni' is there twice"),
    "a key twice below": ("networks:\n - {name: a, name: b}", "networks[0]: the key 'name' is there twice"),
    "a key that is a list": ("networks:\n - b\n - {[a]: b}", "networks[1]: a key must be a text, not a list of 0"),
    "an alias": ("vni: &x 1\nstack_id: *x", "stack_id: an alias (`*x`) is not taken"),
    "two documents": ("vni: 1\n---\nvni: 2", "several documents"),
    "no YAML": ("vni: 1\n\tb: 2", "it is no YAML: line 2: "),
    "a surrogate": ("\ud800", "it is no YAML: "),
    "a control character": ("\0", "it is no YAML: "),
    "a long value": (f"vni: {'x' * 1000}", "… (1000 characters) is no whole number"),
    "a long key": (f"{'x' * 1000}: 1", "… (1000 characters): there is no such key"),
    "too deep": ("[" * 100_000, "nested more than 16 deep"),
    "too deep below": ("networks: {a: [b, " + "[" * 100, "networks.a[1][0][0]"),
    "too long": ("#" * (1 << 20 | 1), "1048576 are the most"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_what_would_be_right(case: str) -> None:
    text, said = MISTAKES[case]
    with pytest.raises(WireError) as error:
        decode_routing(text)
    assert str(error.value).startswith("routing.yaml: ")
    assert said in str(error.value)
    assert len(str(error.value)) < 500


def test_libyaml_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_tree, "_LOADER", yaml.BaseLoader)
    assert one(DOCUMENT) == STACK_A
    with pytest.raises(WireError, match="it is no YAML"):
        decode_routing("\0")
    with pytest.raises(WireError, match="nested more"):
        decode_routing("[" * 100_000)


KEYS = """version stacks stack_id vni vxlan_subnet local_vxlan_ip vxlan_ip networks remote_stacks container_subnet
stack_mappings name subnet gateway vxlan_gateway stack-b <<"""
VALUES = """1 1000 stack-a stack-b 192.168.100.0/24 192.168.100.1 192.168.100.2 172.21.0.0/16 fd00::/64 fd00::1 ~ 0 -1
10.0.0.1,10.0.0.2 ::/0 1e9 0x10 true 2024-01-01 192.168.100.1/24 172.21.5.0/16"""
TEXTS = st.sampled_from(VALUES.split()) | st.text(max_size=20)
TREES = st.recursive(
    TEXTS | st.integers() | st.none() | st.booleans() | st.floats() | st.dates() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
    max_leaves=25,
)


@given(st.text())
@example("&a [*a]")
@example("? ")
@example("!!python/object/apply:os.system [true]")
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


@given(TREES)
def test_any_tree_is_read_or_refused(tree: object) -> None:
    read_or_refused(yaml.safe_dump(tree, allow_unicode=True))


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(0, 30), st.text(max_size=10))
def test_a_file_with_something_else_in_it_is_read_or_refused(at: int, length: int, text: str) -> None:
    read_or_refused(DOCUMENT[:at] + text + DOCUMENT[at + length :])


def read_or_refused(text: str) -> None:
    try:
        stacks = decode_routing(text).stacks
    except WireError as refusal:
        said = str(refusal)
        assert said.startswith("routing.yaml: ")
        assert len(said) < 2000
        return
    assert stacks
    for stack in stacks:
        subnets = [s for n in stack.networks for s in n.subnets] + [s for r in stack.remote for s in r.subnets]
        whole = [*stack.vxlan_subnets, *subnets]
        assert not any(a.overlaps(b) for n, a in enumerate(whole) for b in whole[:n] if a.version == b.version)
        assert all(subnet.prefixlen for subnet in subnets)
        assert all(stack.stack_id != other.stack_id for other in stack.remote)


def test_a_thousand_stacks_take_a_moment() -> None:
    entries = (
        f"  - stack_id: s{n}\n    vxlan_gateway: 172.31.{n // 250}.{n % 250 + 2}\n    networks:\n"
        f"      - subnet: 10.{n // 250}.{n % 250}.0/24\n"
        for n in range(1000)
    )
    text = "stack_id: a\nvxlan_subnet: 172.31.0.0/16\nremote_stacks:\n" + "".join(entries)
    assert len(one(text).remote) == 1000
