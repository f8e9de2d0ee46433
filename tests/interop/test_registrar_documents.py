"""What flannel-registrar's README and its guide to indirect routing say of settings and command lines, as they stand
there; and that weft's own pages about it name nothing that does not exist.

No kernel, no network. What the settings come to on hosts: tests/lab/test_registrar_guide.py and
test_registrar_environment.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import click
import pytest
import yaml

from tests import build
from weft.agent.registrar import RegistrarWorld
from weft.cli import main as cli
from weft.core import commands
from weft.core.diff import Facts, diff
from weft.core.plan import plan
from weft.core.registry import Registered, Registry
from weft.daemons.registrar import _wishes
from weft.errors import SettingsError
from weft.model import Host, Known, Uplink, Way, parse_mac
from weft.objects import Route
from weft.settings import registrar
from weft.settings.registrar import VARIABLES, RegistrarSettings, load
from weft.wire.flannel import Lease, Vtep
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import Note, Status

ROOT = Path(__file__).parents[2]
PAGES = ("coming-from-flannel-registrar", "deploying-registrar", "indirect-routing", "isolation", "registrar-health")

# -- the documents' own words -----------------------------------------------------------------------------------------

README_COMPOSE = """
version: '3.8'

services:
  flannel-registrar:
    image: flannel-registrar:1.1.0
    container_name: flannel-registrar-hostname
    restart: unless-stopped
    network_mode: "host"  # Required for route management
    volumes:
      - /var/run/docker.sock:/var/run/docker.sock:ro
      - /etc/hostname:/etc/hostname:ro
    environment:
      - ETCD_ENDPOINT=http://192.168.4.88:2379
      - FLANNEL_PREFIX=/coreos.com/network
      - FLANNEL_CONFIG_PREFIX=/flannel/network/subnets
      - HOST_NAME=auto  # Will be determined by reading /etc/hostname
      - INTERVAL=120    # Update interval in seconds
      - RUN_AS_ROOT=true
      - FLANNELD_PUBLIC_IP=192.168.4.X  # Replace with host's IP address
      - HOST_GATEWAY_MAP=172.24.90.1:172.24.90.6  # Optional indirect routing config
    cap_add:
      - NET_ADMIN  # Required for route management
"""
README_DEFAULTS = {
    "ETCD_ENDPOINT": "http://192.168.4.88:2379",
    "FLANNEL_PREFIX": "/coreos.com/network",
    "FLANNEL_CONFIG_PREFIX": "/flannel/network/subnets",
    "HOST_NAME": "auto",
    "INTERVAL": "60",
    "RUN_AS_ROOT": "false",
    "FLANNELD_PUBLIC_IP": "",
    "HOST_GATEWAY_MAP": "",
    "FLANNEL_ROUTES_EXTRA": "",
    "FLANNEL_CONTAINER_NAME": "flannel",
    "DEBUG": "false",
}
"""The table "Configuration Options"; HOST_NAME's is "$(hostname)" there."""
GUIDE_COMPOSE = """
babka:
  environment:
    - HOST_GATEWAY_MAP=172.24.90.1:172.24.90.6
    - FLANNELD_PUBLIC_IP=192.168.4.88
culvert:
  environment:
    # No HOST_GATEWAY_MAP needed as it has direct access
    - FLANNELD_PUBLIC_IP=172.24.90.1
pita:
  environment:
    - HOST_GATEWAY_MAP=172.24.90.1:172.24.90.6
    - FLANNELD_PUBLIC_IP=192.168.4.99
levels:
  environment:
    - HOST_GATEWAY_MAP=172.24.90.1:172.24.90.6,172.24.90.2:172.24.90.6,10.8.0.0/24:192.168.1.1
extra:
  environment:
    - FLANNEL_ROUTES_EXTRA=10.5.8.0/24:192.168.4.1:enp7s0,10.5.30.0/24:192.168.4.99:eth0
debug:
  environment:
    - DEBUG=true
"""


def compose(text: str, service: str) -> dict[str, str]:
    """The environment of one service, as Docker reads it."""
    found = yaml.safe_load(text)
    return dict(line.split("=", 1) for line in found.get("services", found)[service]["environment"])


# -- the environment --------------------------------------------------------------------------------------------------


def test_the_readmes_compose_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostname").write_text("babka\n")
    monkeypatch.setattr(registrar, "HOSTNAME_FILE", tmp_path / "hostname")
    given = compose(README_COMPOSE, "flannel-registrar")
    with pytest.raises(SettingsError, match=r"FLANNELD_PUBLIC_IP = '192\.168\.4\.X'"):
        load(given)  # which is to be replaced, as it says
    settings, remarks = load(given | {"FLANNELD_PUBLIC_IP": "192.168.4.88"})
    assert remarks == ()
    assert settings.endpoints == ("http://192.168.4.88:2379",)
    assert settings.flannel_prefix == "/coreos.com/network"
    assert settings.flannel_config_prefix == "/flannel/network/subnets"
    assert (settings.name, settings.interval, settings.run_as_root) == ("babka", 120, True)
    assert settings.flanneld_public_ip == IPv4Address("192.168.4.88")
    assert settings.host_gateway_map == "172.24.90.1:172.24.90.6"


def test_its_container_gets_what_ours_does() -> None:
    (theirs,) = yaml.safe_load(README_COMPOSE)["services"].values()
    (ours,) = yaml.safe_load((ROOT / "deploy/compose/registrar.yml").read_text())["services"].values()
    assert ours["network_mode"] == theirs["network_mode"]
    assert ours["cap_add"] == theirs["cap_add"]
    assert set(ours["volumes"]) >= set(theirs["volumes"])


def test_the_readmes_table_of_variables_and_defaults() -> None:
    shown = {name: default for name, default, _ in registrar.describe()}
    shown["ETCD_ENDPOINT"] = shown["ETCD_ENDPOINTS"]
    assert {name: shown[name] for name in README_DEFAULTS} == README_DEFAULTS
    spelled_out, remarks = load(README_DEFAULTS)
    assert remarks == ()
    assert spelled_out == RegistrarSettings(), "a default that is written down changes nothing"


def test_the_guides_variables() -> None:
    for service in ("babka", "culvert", "pita", "levels", "extra", "debug"):
        settings, remarks = load(compose(GUIDE_COMPOSE, service) | {"ETCD_ENDPOINT": "http://192.168.4.88:2379"})
        assert remarks == (), service
        assert _wishes(settings, ()).remarks == (), service
        assert settings.debug == (service == "debug")


# -- what the maps and extra routes come to ---------------------------------------------------------------------------

HOSTS = {
    "babka": ("192.168.4.88", 10, "10.5.35.0/24"),
    "lavash": ("172.24.90.6", 11, "10.5.36.0/24"),
    "culvert": ("172.24.90.1", 12, "10.5.8.0/24"),
    "second": ("172.24.90.2", 13, "10.5.9.0/24"),
    "office": ("10.8.0.7", 14, "10.5.37.0/24"),
    "pita": ("192.168.4.99", 15, "10.5.30.0/24"),
}
"""Address, third octet of the flannel lease, a Docker network."""


def registry() -> Registry:
    hosts, leases = [], []
    for name, (text, octet, subnet) in HOSTS.items():
        address = IPv4Address(text)
        note = Note(endpoints=(address,), mac=parse_mac(f"06:00:00:00:00:{octet}"), vni=7600, port=8472, mtu=1500)
        networks = (build.network("web", subnet),)
        hosts.append(Registered(name, networks, Status(name, public_ip=address), note, leased=True))
        vtep = Vtep(1, parse_mac(f"02:00:00:00:00:{octet}"))
        leases.append(Lease(build.net4(f"10.5.{octet}.0/24"), None, address, None, "vxlan", vtep, None))
    config = parse_config(b'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')
    return Registry(tuple(hosts), tuple(leases), config=config, complete=True)


def planned(environment: Mapping[str, str], *uplinks: Uplink) -> tuple[list[str], str]:
    """Every route that comes of this environment on babka, as a command; and what is said of the settings."""
    settings, _ = load({"HOST_NAME": "babka", "FLANNELD_PUBLIC_IP": "192.168.4.88", **environment})
    world = RegistrarWorld(_wishes(settings, ()), lambda: 1000.0)
    world.host = Host(uplinks or (build.uplink("eth0", "192.168.4.88/24"),))
    world.engine, world.registry = Known((build.network("web", "10.5.35.0/24"),), complete=True), registry()
    view = world.view()
    for _ in range(3):  # what is to be asked for follows from what is known, and so on
        asked = world.asked()
        world.ways = {address: way_to(str(address)) for address in asked}
        world.answered = frozenset(asked)
        view = world.view()
    assert view is not None
    wanted = {key: want for key, want in plan(view).wanted.items() if isinstance(want.object, Route)}
    lines = commands.script(diff(wanted, Facts({}, {})).ops)
    return lines, "\n".join(problem.message for problem in world.problems() if problem.wrong)


def way_to(address: str) -> Way:
    """192.168.4.0/24 is babka's own segment; everything else is behind the LAN's gateway."""
    own = address.startswith("192.168.4.")
    return Way("eth0", None if own else IPv4Address("192.168.4.1"), IPv4Address("192.168.4.88"))


def via(lines: list[str], destination: str) -> set[str]:
    """Gateways of the routes there."""
    found = re.compile(rf"ip route (?:add|replace) {re.escape(destination)} .*?via (\S+)")
    return {match[1] for line in lines if (match := found.match(line))}


def test_without_a_map_each_network_is_behind_its_own_hosts_lease() -> None:
    lines, said = planned({})
    assert via(lines, "10.5.8.0/24") == {"10.5.12.0"}
    assert via(lines, "10.5.30.0/24") == {"10.5.15.0"}
    assert said == ""


def test_the_guides_map_leads_through_the_gateway() -> None:
    """Which the guide writes as `ip route add 10.5.8.0/24 via 172.24.90.6`: the gateway's own end of the tunnel."""
    lines, said = planned(compose(GUIDE_COMPOSE, "babka"))
    assert via(lines, "10.5.8.0/24") == {"10.5.11.0"}
    assert via(lines, "10.5.12.0/25") == via(lines, "10.5.12.128/25") == {"10.5.11.0"}, "its lease, by halves"
    assert via(lines, "10.5.9.0/24") == {"10.5.13.0"}, "nobody else is meant"
    assert said == ""
    assert all("172.24.90" not in line for line in lines), "no route of the underlay is needed"


def test_the_guides_multi_level_map() -> None:
    lines, _ = planned(compose(GUIDE_COMPOSE, "levels"))
    assert via(lines, "10.5.8.0/24") == via(lines, "10.5.9.0/24") == {"10.5.11.0"}, "both through lavash"
    assert via(lines, "10.8.0.7/32") | via(lines, "10.8.0.7") == {"192.168.4.1"}, (
        "192.168.1.1 is nobody's who registered: a host route over the same next hop"
    )
    assert via(lines, "10.5.37.0/24") == {"10.5.14.0"}, "whose tunnel is then direct"
    assert via(lines, "10.5.30.0/24") == {"10.5.15.0"}


def test_the_guides_extra_routes() -> None:
    uplinks = build.uplink("eth0", "192.168.4.88/24"), build.uplink("enp7s0", "192.168.5.88/24")
    extra = compose(GUIDE_COMPOSE, "extra")
    lines, said = planned(extra, *uplinks)
    assert via(lines, "10.5.8.0/24") == {"192.168.4.1"}
    assert via(lines, "10.5.30.0/24") == {"192.168.4.99"}
    devices = {line.split()[3]: line.split()[line.split().index("dev") + 1] for line in lines if "192.168.4." in line}
    assert devices == {"10.5.8.0/24": "enp7s0", "10.5.30.0/24": "eth0"}
    lines, said = planned(extra)
    assert via(lines, "10.5.8.0/24") == {"10.5.12.0"}, "what can't be done hides nothing"
    assert via(lines, "10.5.30.0/24") == {"192.168.4.99"}
    assert "there is no interface enp7s0" in said
    assert "10.5.8.0/24:192.168.4.1:enp7s0" in said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HOST_GATEWAY_MAP", "culvert:172.24.90.6", "'culvert' is neither an address nor a subnet"),
        ("HOST_GATEWAY_MAP", "172.24.90.1", "entry '172.24.90.1' is left out"),
        ("FLANNEL_ROUTES_EXTRA", "10.5.8.0/24:gateway", "its gateway 'gateway' is no IP address"),
        ("FLANNEL_ROUTES_EXTRA", "10.5.8.0/24", "entry '10.5.8.0/24' is left out"),
    ],
)
def test_a_bad_entry_is_named_and_costs_no_other(variable: str, value: str, said: str) -> None:
    good = {"HOST_GATEWAY_MAP": "172.24.90.2:172.24.90.6", "FLANNEL_ROUTES_EXTRA": "10.5.99.0/24:192.168.4.99"}
    lines, told = planned(good | {variable: f"{value},{good[variable]}"})
    assert variable in told
    assert said in told
    assert via(lines, "10.5.9.0/24") == {"10.5.11.0"}
    assert via(lines, "10.5.99.0/24") == {"192.168.4.99"}


# -- command lines ----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """`weft WORDS`: exit code, and all that it said."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    said = capsys.readouterr()
    code = end.value.code
    return (code if isinstance(code, int) else int(bool(code))), said.out + said.err


def test_help_names_every_variable_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "registrar", "--help")
    assert code == 0
    for option in ("--once", "--daemon", "--diagnose", "--init-config", "--settings", "--version"):
        assert option in said
    words = set(re.findall(r"[A-Z][A-Z_]+", said))
    assert {*README_DEFAULTS} <= words


def test_version_and_settings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"weft \d+\.\d+\.\d+\n", run(capsys, "registrar", "--version")[1])
    monkeypatch.setenv("HOST_NAME", "babka")
    monkeypatch.setenv("ETCD_ENDPOINT", "http://192.168.4.88:2379")
    code, said = run(capsys, "registrar", "--settings")
    assert code == 0
    assert {line.split()[0] for line in said.splitlines()[1:] if line} >= {*README_DEFAULTS} - {"ETCD_ENDPOINT"}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("INTERVAL", "soon", "INTERVAL = 'soon': not a duration"),
        ("FLANNELD_PUBLIC_IP", "192.168.4.X", "FLANNELD_PUBLIC_IP = '192.168.4.X'"),
        ("DEBUG", "perhaps", "DEBUG = 'perhaps'"),
        ("RUN_AS_ROOT", "maybe", "RUN_AS_ROOT = 'maybe'"),
        ("FLANNEL_PREFIX", "coreos.com/network", "must begin with a slash"),
        ("ETCD_ENDPOINT", " , ", "names no endpoint"),
    ],
)
@pytest.mark.parametrize("verb", [("registrar", "--once"), ("registrar", "--diagnose"), ("recover",), ("boot",)])
def test_a_bad_value_is_named_before_anything_is_done(
    verb: tuple[str, ...],
    variable: str,
    value: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOST_NAME", "babka")
    monkeypatch.setenv(variable, value)
    code, told = run(capsys, *verb)
    assert code == 2
    assert said in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--once", "--daemon"), "keep one of the two"),
        (("--init-config", "{}"), "define a correct Network"),
        (("--init-config", "no json"), "JSON"),
        (("--init-config", "@/nonexistent"), "/nonexistent"),
        (("--dianose",), "--diagnose"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_NAME", "babka")
    monkeypatch.setenv("ETCD_ENDPOINT", "http://127.0.0.1:1")
    code, told = run(capsys, "registrar", *words)
    assert code != 0
    assert said in told


@pytest.mark.parametrize("words", ["", "--once", "--daemon", "--diagnose", "--help", "--diagnose --bundle a.tar.gz"])
def test_the_old_scripts_name_and_the_image_start_the_registrar_with_these_words(words: str, tmp_path: Path) -> None:
    """`docker exec flannel-registrar /usr/local/bin/register-docker-networks.sh --diagnose`."""
    told = tmp_path / "weft"
    told.write_text('#!/bin/sh\necho weft "$@"\n')
    told.chmod(0o755)
    entry, script = tmp_path / "docker-entrypoint.sh", tmp_path / "register-docker-networks.sh"
    for path in (entry, script):
        text = (ROOT / "deploy" / path.name).read_text()
        path.write_text(text.replace("/usr/local/bin/", f"{tmp_path}/").replace("/opt/weft/bin/weft", str(told)))
        path.chmod(0o755)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "RUN_AS_ROOT": "true"}
    for start, expected in ((script, f"weft registrar {words}"), (entry, f"weft registrar {words or '--daemon'}")):
        line = [str(start), *words.split()]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout.strip() == expected.strip(), done.stderr


# -- our own pages ----------------------------------------------------------------------------------------------------


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def command_lines(text: str) -> Iterator[list[str]]:
    """Every `weft …` of a page, in code blocks and between backticks: without what comes before it (docker exec, weft
    lab exec HOST --) and after it (a comment, another command)."""
    spans = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    spans += re.findall(r"`([^`\n]+)`", text)
    for span in spans:
        for part in re.split(r"\s#\s|;|&&|\|| -- ", span):
            words = part.strip().split()
            if "weft" in words[:3]:
                yield shlex.split(part.strip(), comments=True)[words.index("weft") :]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_our_pages_exists(name: str) -> None:
    group = cli.weft
    for words in command_lines(page(name)):
        if len(words) < 2 or words[1].startswith("-"):
            continue
        command = group.get_command(click.Context(group), words[1])
        rest = words[2:]
        if words[1] == "lab":
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), words[2])
            rest = words[3:]
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert given <= known, words


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_our_pages_point_to_is_there(name: str) -> None:
    text = page(name)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for target in re.findall(r"(?<![\w/])((?:examples|deploy)/[\w./-]+\.\w+)", text):
        assert (ROOT / target).exists(), target


def test_every_variable_of_our_page_is_read_and_every_documented_one_is_on_it() -> None:
    text = page("coming-from-flannel-registrar")
    (block,) = re.findall(r"    services:\n(?:    .*\n)+", text)
    (service,) = yaml.safe_load(block)["services"].values()
    settings, remarks = load(dict(line.split("=", 1) for line in service["environment"]) | {"HOST_NAME": "babka"})
    assert remarks == ()
    assert settings.host_gateway_map == "172.24.90.1:172.24.90.6"
    table = text.partition("\n## Variables")[2].partition("\n## ")[0]
    named = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", table)) - {"README"}
    assert named <= VARIABLES
    assert {"HOST_GATEWAY_MODE", "ISOLATE", "BFD_KEY", "WEFT_VNI", "RESTART_FLANNEL", "ETCDCTL_API"} <= named


def test_what_of_the_old_documents_no_longer_works_is_on_our_page() -> None:
    """`etcdctl mkdir` is of API v2, `flannel-boot.sh` is gone, a route via the public address can't work."""
    text = page("coming-from-flannel-registrar")
    for words in ("etcdctl mkdir", "flannel-recovery.sh", "bridge fdb add", "via <public ip>"):
        assert words in text, words


def test_the_examples_are_the_guides_hosts() -> None:
    found = yaml.safe_load((ROOT / "examples" / "culvert.yaml").read_text())["hosts"]
    for host in ("babka", "culvert", "pita"):
        documented = compose(GUIDE_COMPOSE, host)
        assert {name: found[host]["registrar"].get(name) for name in documented} == documented
    assert ip_address(found["lavash"]["registrar"]["FLANNELD_PUBLIC_IP"]) in ip_network("172.24.90.0/24")
