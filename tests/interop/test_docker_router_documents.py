"""The docker-router document's tables, files and scripts, as they stand there, through the code that reads them; and
that our own pages about docker-router name nothing that does not exist.

No kernel, no network. Its YAML blocks and messages: tests/unit/test_settings_docker_router.py, test_wire_router.py,
test_wire_discovery_keys.py, test_wire_routing.py. What it comes to on hosts: tests/lab/test_docker_router_*.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest
import yaml

from tests.support.eventually import soon
from tests.support.stacks import host, world
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.stacks import settled
from weft.cli import main as cli
from weft.discovery.file import DiscoveryFile
from weft.objects import Fdb, Link
from weft.settings import discovery, flanneld, route_manager, router
from weft.settings.stack import SHARED_VARIABLES
from weft.targets.files import FileTarget
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget
from weft.wire.discovery_data import decode
from weft.wire.routing import decode_routing

ROOT = Path(__file__).parents[2]
PAGES = (
    *("coming-from-docker-router", "deploying-docker-router", "docker-router-reference", "routing-yaml", "telemetry"),
    *(
        "discovery-dns",
        "discovery-etcd",
        "discovery-gossip",
        "discovery-static",
        "docker-router-kernel",
        "docker-router-security",
        "lab",
    ),
)

# -- the document's own words -----------------------------------------------------------------------------------------

DISCOVERY_TABLE = """
- `STACK_ID`: Unique identifier for this stack
- `VNI`: VXLAN Network Identifier (must be unique)
- `DISCOVERY_MODE`: dns, multicast, etcd, or gossip (default: multicast)
- `DISCOVERY_PORT`: UDP port for discovery protocol (default: 4790)
- `ANNOUNCE_INTERVAL`: Peer announcement interval in seconds (default: 30)
- `PEER_TIMEOUT`: Peer timeout in seconds (default: 90)
- `LOG_LEVEL`: debug, info, warn, error (default: info)
- `DNS_DOMAIN`: Domain for SRV records (e.g., example.com)
- `DNS_SERVER`: DNS server for updates (optional)
- `DNS_TTL`: TTL for DNS records in seconds (default: 60)
- `DNS_UPDATE_INTERVAL`: DNS update interval in seconds (default: 30)
- `MULTICAST_GROUP`: Multicast group address (default: 239.1.1.1)
- `ETCD_ENDPOINTS`: Comma-separated list of etcd endpoints (e.g., "10.0.1.100:2379,10.0.1.101:2379")
- `ETCD_PREFIX`: Key prefix for discovery data (default: "/docker-router/discovery")
- `ETCD_LEASE_TTL`: TTL for etcd lease in seconds (default: 30)
- `ETCD_USERNAME`: etcd username (optional)
- `ETCD_PASSWORD`: etcd password (optional)
- `ETCD_TLS_CERT`: Path to TLS certificate file (optional)
- `ETCD_TLS_KEY`: Path to TLS key file (optional)
- `ETCD_TLS_CA`: Path to TLS CA certificate file (optional)
"""
ROUTER_TABLE = """
- `STACK_ID`: Unique identifier for this stack (must match discovery)
- `VNI`: VXLAN Network Identifier (must match discovery)
- `VXLAN_SUBNET`: Subnet for VXLAN endpoints
- `LOCAL_VXLAN_IP`: This router's VXLAN IP address
- `WATCH_DISCOVERY`: Watch discovery file for changes (default: true)
- `ROUTE_REFRESH_INTERVAL`: Route table refresh interval in seconds (default: 60)
- `LOG_LEVEL`: debug, info, warn, error (default: info)
"""
COMPOSE = """
services:
  discovery:
    environment:
      - STACK_ID=stack-a
      - VNI=1000
      - DISCOVERY_MODE=etcd  # dns, multicast, etcd, or gossip
      - ETCD_ENDPOINTS=10.0.1.100:2379,10.0.1.101:2379
      - ETCD_PREFIX=/docker-router/discovery
      - ETCD_LEASE_TTL=30
  router:
    environment:
      - STACK_ID=stack-a
      - VNI=1000
      - VXLAN_SUBNET=192.168.100.0/24
      - LOCAL_VXLAN_IP=192.168.100.1
"""
DISCOVERY_JSON = """
{
  "version": 1,
  "last_update": "2024-01-15T10:30:00Z",
  "peers": [
    {
      "stack_id": "stack-a",
      "host_ip": "10.0.1.5",
      "vxlan_endpoint": "10.0.1.5:4789",
      "vni": 1000,
      "last_seen": "2024-01-15T10:30:00Z",
      "status": "active"
    },
    {
      "stack_id": "stack-b",
      "host_ip": "10.0.2.6",
      "vxlan_endpoint": "10.0.2.6:4789",
      "vni": 1001,
      "last_seen": "2024-01-15T10:29:45Z",
      "status": "active"
    }
  ]
}
"""
ROUTING_YAML = """
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
ROUTES_JSON = """
{
  "routes": [
    {
      "destination": "172.21.0.0/16",
      "next_hop": "192.168.100.2",
      "interface": "vxlan0",
      "source": "static-config"
    }
  ]
}
"""
WRITER = """
# Discovery container writes
{
  flock -x 200
  echo "$discovery_data" > /var/lib/docker-router/discovery.json.tmp
  mv /var/lib/docker-router/discovery.json.tmp /var/lib/docker-router/discovery.json
} 200>/var/lib/docker-router/discovery.lock
"""


def rows(table: str) -> dict[str, str]:
    """Variable → its default, "" for none."""
    found = re.findall(r"^- `(\w+)`: (?:.*\(default: \"?([^\")]+)\"?\))?", table, re.M)
    return dict(found)


# -- its environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "described"), [(DISCOVERY_TABLE, discovery.describe()), (ROUTER_TABLE, router.describe())]
)
def test_every_row_of_the_tables_is_a_variable_with_that_default(
    table: str, described: list[tuple[str, str, str]]
) -> None:
    ours = {name: (default, text) for name, default, text in described}
    documented = rows(table)
    assert len(documented) == table.count("\n- ")
    for name, default in documented.items():
        held, text = ours[name]
        assert default in (held, "") or f"default {default}" in text, name


def test_the_compose_files_environment() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    said = {name: dict(line.split("=", 1) for line in services[name]["environment"]) for name in services}
    found, remarks = discovery.load(said["discovery"])
    assert (remarks, found.means.etcd.endpoints) == ((), ("http://10.0.1.100:2379", "http://10.0.1.101:2379"))
    routing, remarks = router.load(said["router"])
    assert remarks == ()
    (here,) = settled(routing, None)
    assert (here.stack_id, here.vni, *map(str, here.vxlan_subnets)) == ("stack-a", 1000, "192.168.100.0/24")
    assert settled(found, None)[0].vni == here.vni


def test_our_pages_compose_block_gives_the_rights_of_the_whole_file() -> None:
    """tests/lab/test_image.py starts the whole file."""
    (block,) = re.findall(r"    services:\n(?:    .*\n)+", page("coming-from-docker-router"))
    whole = yaml.safe_load((ROOT / "deploy/compose/docker-router.yml").read_text())
    for name, service in yaml.safe_load(block)["services"].items():
        for key in ("image", "container_name", "network_mode", "user", "cap_drop", "cap_add", "command"):
            assert service.get(key) == whole["services"][name].get(key), (name, key)
        assert set(service["volumes"]) <= {
            one.replace("${ROUTING_CONFIG:-./routing.yaml}", "./routing.yaml")
            for one in whole["services"][name]["volumes"]
        }
        load = {"discovery": discovery.load, "router": router.load}[name]
        assert load(dict(line.split("=", 1) for line in service["environment"]))[1] == ()


# -- its files --------------------------------------------------------------------------------------------------------


async def routed(folder: Path, discovery_json: str) -> tuple[dict[str, object], list[str], MemoryTarget]:
    """routes.json of a router at 10.0.1.5 with the document's routing.yaml, its problems, and its kernel."""
    here = world(*decode_routing(ROUTING_YAML).stacks, facts=host("10.0.1.5/16"))
    here.wishes = replace(here.wishes, routes_file=str(folder / "routes.json"))
    here.data = decode(discovery_json.encode())
    kernel = MemoryTarget((*KERNEL_KINDS, *FIREWALL_KINDS))
    await Loop(here, Reconciler([kernel, FileTarget((str(folder / "routes.json"),))]), 60.0).step()
    return json.loads((folder / "routes.json").read_text()), [one.message for one in here.problems()], kernel


async def test_its_discovery_json_and_routing_yaml_contradict_each_other_and_that_is_said(tmp_path: Path) -> None:
    routes, problems, _ = await routed(tmp_path, DISCOVERY_JSON)
    assert routes == {"routes": []}
    assert problems == ["stack stack-b is not routed to: its VNI is 1001, this host's is 1000"]


async def test_with_one_vni_its_routes_json_follows_from_the_two(tmp_path: Path) -> None:
    routes, problems, kernel = await routed(tmp_path, DISCOVERY_JSON.replace("1001", "1000"))
    assert routes == json.loads(ROUTES_JSON.replace("vxlan0", "vxlan1000"))
    assert problems == [], "stack-c is listed and not there yet; stack-a is this host"
    things = (await kernel.read(full=True)).objects.values()
    assert [str(thing.dst) for thing in things if isinstance(thing, Fdb)] == ["10.0.2.6"]
    (link,) = (thing for thing in things if isinstance(thing, Link))
    assert (link.name, link.vxlan.vni, str(link.vxlan.local), link.mtu) == ("vxlan1000", 1000, "10.0.1.5", 1450)


@pytest.mark.skipif(not shutil.which("flock"), reason="needs util-linux")
async def test_its_script_may_write_discovery_json(tmp_path: Path) -> None:
    source = DiscoveryFile(str(tmp_path / "discovery.json"), refresh=3600.0)
    seen: list[list[str]] = []

    async def follow() -> None:
        async for found in source.contents():
            seen.append([peer.node.id for peer in found.peers])

    following = asyncio.create_task(follow())
    try:
        script = WRITER.replace("/var/lib/docker-router", str(tmp_path))
        for expected in (["stack-a", "stack-b"], ["stack-a", "stack-q"]):
            written = DISCOVERY_JSON.replace("stack-b", expected[1])
            environment = {**os.environ, "discovery_data": written}
            done = await asyncio.create_subprocess_exec("bash", "-euc", script, env=environment)
            assert await done.wait() == 0
            await soon(partial(lambda wanted: wanted in seen, expected), "the router to read it")
    finally:
        following.cancel()


# -- our own pages ----------------------------------------------------------------------------------------------------


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def spans(text: str) -> Iterator[str]:
    """Each command line of a page: those in blocks and between backticks, parted at ; && | and --."""
    found = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for span in (*found, *re.findall(r"`([^`\n]+)`", text)):
        yield from re.split(r"\s#\s|\s#$|;|&&|\s\|\s| -- |, weft ", span.replace("/app/", "weft "))


def commands(text: str) -> Iterator[list[str]]:
    for span in spans(text):
        words = span.strip().split()
        if "weft" in words[:3]:
            yield shlex.split(span.strip(), comments=True)[words.index("weft") + 1 :]


GO_FLAGS = {"flanneld": flanneld.FLAGS.defaults, "route-manager": route_manager.FLAGS.defaults}
"""Of the verbs whose words click doesn't read."""


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_our_pages_exists(name: str) -> None:
    for words in commands(page(name)):
        command: click.Command = cli.weft
        rest = list(words)
        while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
            found = command.get_command(click.Context(command), rest[0])
            assert found is not None, words
            command = found
            rest.pop(0)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        known.update(f"-{flag}" for flag in GO_FLAGS.get(command.name or "", ()))
        given = {word.strip("[]").partition("=")[0] for word in rest if re.match(r"\[?--?[a-z]", word)}
        assert given <= known, words


def test_every_link_of_every_page_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in pages:
        text = path.read_text()
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for target in re.findall(r"(?<![\w/.])((?:examples|deploy|scripts|tests|benchmarks)/[\w./-]+\.\w+)", text):
            assert (ROOT / target).exists(), f"{path.name}: {target}"


def test_the_reference_has_every_variable_with_its_default() -> None:
    text = page("docker-router-reference")
    both, of_discovery, of_router = (
        re.findall(r"^\| `(\w+)`( •)? \| (?:`(.*)`)? ?\| (.*) \|$", part.partition("\n### ")[0], re.M)
        for part in text.split("### Of ")[1:4]
    )
    documented = {*rows(DISCOVERY_TABLE), *rows(ROUTER_TABLE)}
    for table, described, shared in (
        (both, discovery.describe(), True),
        (of_discovery, discovery.describe(), False),
        (of_router, router.describe(), False),
    ):
        ours = [(name, default, text) for name, default, text in described if (name in SHARED_VARIABLES) is shared]
        assert [(name, default, text) for name, _, default, text in table] == ours
    marked = {name for name, mark, _, _ in (*both, *of_discovery, *of_router) if mark}
    assert marked == documented
