"""What lies in deploy/: every variable is one that weft reads, every verb and option is one that it has, every unit is
one that systemd takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from weft import settings
from weft.cli.main import VERBS, weft
from weft.settings import discovery, flanneld, registrar, route_manager, router
from weft.wire.routing import decode_routing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = sorted((DEPLOY / "compose").glob("*.yml"))
SECURE, SIMPLE = DEPLOY / "compose" / "docker-router.yml", DEPLOY / "compose" / "docker-router-simple.yml"
MANAGER = DEPLOY / "compose" / "route-manager.yml"
SINGLE = [path for path in COMPOSE if path not in (SECURE, SIMPLE, MANAGER)]
GIVEN = re.compile(r"\$\{(\w+):-([^}]*)\}")
OLD_README = """
ETCD_ENDPOINT=http://192.168.4.88:2379
FLANNEL_PREFIX=/coreos.com/network
FLANNEL_CONFIG_PREFIX=/flannel/network/subnets
HOST_NAME=auto
INTERVAL=120
RUN_AS_ROOT=true
FLANNELD_PUBLIC_IP=192.168.4.7
HOST_GATEWAY_MAP=172.24.90.1:172.24.90.6
"""
"""The environment of flannel-registrar's own Compose file."""


def service(path: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load(path.read_text())["services"].values()
    assert isinstance(found, dict)
    return found


def environment(path: Path, outside: dict[str, str] | None = None) -> dict[str, str]:
    """What the container gets where the shell has `outside`."""
    return given_to(service(path), outside)


def given_to(found: dict[str, Any], outside: dict[str, str] | None = None) -> dict[str, str]:
    """The same, of a service."""
    lines = (GIVEN.sub(lambda m: (outside or {}).get(m[1]) or m[2], line) for line in found["environment"])
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("path", SINGLE, ids=lambda path: path.stem)
def test_a_compose_file_asks_for_what_is_needed_and_no_more(path: Path) -> None:
    found = service(path)
    assert found["network_mode"] == "host"
    assert found["cap_add"] == ["NET_ADMIN"]
    assert "privileged" not in found
    assert found["restart"] == "unless-stopped"
    assert found.get("command", ["registrar"])[0] in VERBS
    for volume in found["volumes"]:
        assert volume.startswith("/"), volume


def test_a_registrar_reads_every_variable_of_its_file_and_of_the_old_one() -> None:
    (path,) = (path for path in COMPOSE if path.stem == "registrar")
    given = environment(path)
    assert given.keys() <= registrar.VARIABLES
    loaded, remarks = registrar.load(given)
    assert (loaded.interval, loaded.flanneld_public_ip, loaded.host_name, remarks) == (120.0, None, "auto", ())
    old = dict(line.split("=", 1) for line in OLD_README.split())
    loaded, remarks = registrar.load(environment(path, old))
    assert remarks == ()
    assert str(loaded.flanneld_public_ip) == "192.168.4.7"
    assert loaded.host_gateway_map == "172.24.90.1:172.24.90.6"
    assert loaded.run_as_root
    assert old.keys() <= given.keys()


def test_the_other_daemons_read_every_variable_of_theirs() -> None:
    for path, known in (
        ("agent", {variable for _, variable, _, _ in settings.describe()}),
        ("flanneld", {flanneld.PREFIX + flag.replace("-", "_").upper() for flag in flanneld.DEFAULTS}),
    ):
        given = environment(DEPLOY / "compose" / f"{path}.yml")
        assert given.keys() <= known, path
    settings.load(environment(DEPLOY / "compose" / "agent.yml"))
    flanneld.load((), environment(DEPLOY / "compose" / "flanneld.yml"))


DOCUMENT = {
    "discovery": """
        STACK_ID=stack-a
        VNI=1000
        DISCOVERY_MODE=etcd
        ETCD_ENDPOINTS=10.0.1.100:2379,10.0.1.101:2379
        ETCD_PREFIX=/docker-router/discovery
        ETCD_LEASE_TTL=30
    """,
    "router": """
        STACK_ID=stack-a
        VNI=1000
        VXLAN_SUBNET=192.168.100.0/24
        LOCAL_VXLAN_IP=192.168.100.1
    """,
}
"""The environments in the docker-router document's Compose file."""


def test_docker_routers_two_containers_have_what_they_need_and_no_more() -> None:
    services = yaml.safe_load(SECURE.read_text())["services"]
    control, plane = services["discovery"], services["router"]
    for found in (control, plane):
        assert (found["network_mode"], found["restart"]) == ("host", "unless-stopped")
        assert "privileged" not in found
        assert not any("docker.sock" in volume for volume in found["volumes"])
    assert (control["cap_drop"], control.get("cap_add")) == (["ALL"], None)
    assert (control["user"], control["read_only"], control["security_opt"]) == (
        "7600:7600",
        True,
        ["no-new-privileges:true"],
    )
    assert plane["cap_add"] == ["NET_ADMIN"]
    assert plane["volumes"][0] == f"{control['volumes'][0]}:ro", "the one thing that they share"
    (single,) = yaml.safe_load(SIMPLE.read_text())["services"].values()
    assert (single["network_mode"], single["cap_add"]) == ("host", ["NET_ADMIN"])
    assert single["command"] == ["router", "--with-discovery"]


def test_docker_routers_files_are_read_to_the_last_variable() -> None:
    services = yaml.safe_load(SECURE.read_text())["services"]
    (single,) = yaml.safe_load(SIMPLE.read_text())["services"].values()
    both = discovery.VARIABLES | router.VARIABLES
    assert given_to(services["discovery"]).keys() <= discovery.VARIABLES
    assert given_to(services["router"]).keys() <= router.VARIABLES
    assert given_to(single).keys() <= both
    for name, load in (("discovery", discovery.load), ("router", router.load)):
        assert load(given_to(services[name]))[1] == ()
        assert load(given_to(single))[1] == ()
        document = dict(line.strip().split("=", 1) for line in DOCUMENT[name].split())
        given = given_to(services[name], document)
        assert document.items() <= given.items(), "what stands in a shell or .env file gets there"
        loaded, remarks = load(given)
        assert (loaded.stack_id, loaded.vni, remarks) == ("stack-a", 1000, ())


def test_docker_routers_routing_yaml_says_all_that_the_two_must_know() -> None:
    (stack,) = decode_routing((DEPLOY / "compose" / "routing.yaml").read_text()).stacks
    assert (stack.stack_id, stack.vni) == ("stack-a", 1000)
    for path in (SECURE, SIMPLE):
        assert "${ROUTING_CONFIG:-./routing.yaml}:/etc/docker-router/routing.yaml:ro" in path.read_text()
    subnet = yaml.safe_load(SECURE.read_text())["networks"]["internal"]["ipam"]["config"][0]["subnet"]
    assert GIVEN.sub(r"\2", subnet) == str(stack.networks[0].subnets[0])


def test_the_route_manager_needs_no_right_at_all_on_its_host() -> None:
    found = service(MANAGER)
    assert (found["cap_drop"], found.get("cap_add"), found["user"]) == (["ALL"], None, "7600:7600")
    assert (found["read_only"], found["security_opt"]) == (True, ["no-new-privileges:true"])
    assert "privileged" not in found
    assert "volumes" not in found
    given = environment(MANAGER)
    assert given.keys() <= {route_manager.FLAGS.variable(flag) for flag in route_manager.FLAGS.defaults}
    loaded, remarks = route_manager.load((), given)
    assert (loaded.backend, loaded.etcd_endpoint, remarks) == ("google", "http://127.0.0.1:2379", [])
    loaded, remarks = route_manager.load(
        (), environment(MANAGER, {"ROUTE_MANAGER_BACKEND": "aws", "ROUTE_MANAGER_AWS_ROUTE_TABLE": "rtb-1"})
    )
    assert (loaded.backend, loaded.aws_route_table, remarks) == ("aws", ("rtb-1",), [])
    unit = (DEPLOY / "systemd" / "weft-route-manager.service").read_text()
    for line in ("DynamicUser=yes", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert f"\n{line}\n" in unit


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="needs systemd: run scripts/setup as root")
def test_docker_routers_units_run_as_users_of_their_own_that_share_a_group(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    conf = DEPLOY / "systemd" / "weft-docker-router.conf"
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(conf)], check=True, capture_output=True, timeout=120)
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc" / "group").read_text().splitlines()}
    units = {name: (DEPLOY / "systemd" / f"weft-{name}.service").read_text() for name in ("discovery", "router")}
    for name, unit in units.items():
        assert f"User=weft-{name}\nGroup=docker-router\n" in unit
        assert f"weft-{name}" in groups["docker-router"].split(",")
        assert "NoNewPrivileges=yes" in unit
    assert "\nCapabilityBoundingSet=\n" in units["discovery"]
    assert "\nCapabilityBoundingSet=CAP_NET_ADMIN\nNo" in units["router"]
    assert [name for name in units if "StateDirectory=" in units[name]] == ["discovery"], "it has one owner"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_verb_with_options_that_it_has(path: Path) -> None:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith("ExecStart="))
    binary, verb, *options = line.removeprefix("ExecStart=").split()
    assert binary == "/opt/weft/bin/weft"
    command = weft.get_command(click.Context(weft), verb)
    assert command is not None, verb
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd: run scripts/setup as root")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """What they start is installed elsewhere here; otherwise they are as they stand."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/weft/bin/weft", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line or "flannel-" in line]
    assert (done.returncode, ours) == (0, [])
    (tmp_path / "bad.service").write_text("[Service]\nType=oneshot\nExecStart=weft\nNoSuchThing=1\n")
    bad = subprocess.run([*command[:3], str(tmp_path / "bad.service")], capture_output=True, timeout=120, check=False)
    assert b"NoSuchThing" in bad.stderr, "it does look"


@pytest.mark.skipif(not shutil.which("systemctl"), reason="needs systemd: run scripts/setup as root")
def test_enabling_both_services_as_the_old_readme_says_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "systemd" / "system"
    folder.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, folder)
    command = ["systemctl", f"--root={tmp_path}", "enable", "flannel-boot.service", "flannel-recovery.service"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {link.name for link in (folder / "multi-user.target.wants").iterdir()}
    assert wanted == {"flannel-boot.service"}, "a recovery is for when a person asks for it"


def test_the_scripts_are_sound() -> None:
    for script in sorted(DEPLOY.glob("*.sh")):
        assert script.stat().st_mode & 0o111
        if shutil.which("shellcheck"):
            done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_docker_build_finds_its_file_at_the_top() -> None:
    assert (ROOT / "Dockerfile").resolve() == DEPLOY / "Dockerfile"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in (name.rstrip("/") for line in copied for name in line.split()):
        assert name in kept or name.split("/")[0] in kept, f"{name} is not in .dockerignore"
