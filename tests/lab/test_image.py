"""The image: built without a registry, started by a user of its own with NET_ADMIN alone, and doing its work so."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import image
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.etcd import cluster, needs_etcd
from tests.support.eventually import until
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_docker
from weft.agent.attempts import Attempts
from weft.agent.healing import Healed, Healer, Means
from weft.backends.tunnel import REGISTRAR_METRICS
from weft.core.ladder import Step
from weft.core.stale import Wanted

pytestmark = [
    needs_docker,
    needs_etcd,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="needs mmdebstrap: run scripts/setup as root"),
    pytest.mark.timeout(400),
]
NET_ADMIN = 1 << 12
NET_RAW = 1 << 13


@dataclass(frozen=True)
class Bench:
    """A host `a` with an engine that has the image, and a host `b` beside it."""

    a: Namespace
    b: Namespace
    engine: DockerEngine
    said: str

    def docker(self, *words: str, check: bool = True) -> str:
        """`docker WORDS`: both of its outputs."""
        command = ["docker", "--host", self.engine.url, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout + done.stderr

    def run(self, *words: str, options: tuple[str, ...] = ("--cap-add", "NET_ADMIN"), check: bool = True) -> str:
        """`docker run` of the image in the host's network, with Docker's socket."""
        return self.docker("run", "--rm", "--network", "host", *options, *self.socket, image.IMAGE, *words, check=check)

    @property
    def socket(self) -> tuple[str, ...]:
        return "-v", f"{self.engine.socket}:/var/run/docker.sock:ro"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with namespace("a") as a, namespace("b") as b, docker_engine(a) as engine:
        veth(a, "eth0", b, "eth0")
        for number, ns in ((1, a), (2, b)):
            ns.ip(f"address add 192.0.2.{number}/24 dev eth0")
        said = image.build(engine, tmp_path_factory.mktemp("context"))
        yield Bench(a, b, engine, said)


def status_of(text: str) -> dict[str, str]:
    """/proc/PID/status, by name."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_it_is_built_of_what_it_needs_alone(bench: Bench) -> None:
    sizes = [float(found) for found in re.findall(r"build context to Docker daemon\s+([\d.]+)MB", bench.said)]
    assert max(sizes) < 45, "what .dockerignore keeps out is kept out: the wheels are most of it"
    found = bench.run("sh", "-c", "ls -a /opt/weft/bin; command -v gcc cc pip pip3; ls /src; weft --version")
    assert "weft, version" in found
    assert "pip" not in found
    assert "gcc" not in found
    assert "cannot access '/src'" in found
    told = json.loads(bench.docker("image", "inspect", image.IMAGE))[0]
    assert told["Config"]["Entrypoint"] == ["/usr/local/bin/docker-entrypoint.sh"]
    assert told["Config"]["Cmd"] == ["registrar", "--daemon"]
    assert told["Config"]["Labels"]["org.opencontainers.image.title"] == "weft"
    assert told["Config"]["Healthcheck"]["Test"][1:] == ["/usr/local/bin/docker-entrypoint.sh", "--healthy"]


def test_it_runs_as_a_user_of_its_own_with_net_admin_alone(bench: Bench) -> None:
    gid = bench.engine.socket.stat().st_gid
    status = status_of(bench.run("cat", "/proc/self/status"))
    assert status["Uid"].split() == ["7600"] * 4
    assert status["Gid"].split() == ["7600"] * 4
    assert set(status["Groups"].split()) == {"7600", str(gid)}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == NET_ADMIN, kind
    assert status["NoNewPrivs"] == "1"
    assert "docker-host" in bench.run("id") or gid == 0


def test_what_that_is_enough_for(bench: Bench) -> None:
    """Links, routes, iptables, the engine; and what it isn't: kernel settings, which Docker mounts read-only."""
    script = """
        set -e
        ip link add vx9 type vxlan id 9 local 192.0.2.1 dstport 8999
        ip link set vx9 up
        ip route add 10.99.0.0/24 dev vx9
        ip link delete vx9
        iptables -N WEFT-TEST
        iptables -X WEFT-TEST
        python3 - <<END
import socket
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\\0")
bound.bind(("0.0.0.0", 4784))
bound.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
END
        touch /run/weft/one /var/run/flannel-registrar/two
        echo done
        echo 1 >/proc/sys/net/ipv4/ip_forward || echo no settings
    """
    assert bench.run("sh", "-c", script).split("\n")[:1] == ["done"]
    assert "no settings" in bench.run("sh", "-c", script)
    assert "Operation not permitted" in bench.run(
        "python3", "-c", "import socket; socket.socket(2, socket.SOCK_RAW, 1)", check=False
    )


def test_what_pings_may_ping(bench: Bench) -> None:
    status = status_of(bench.run("sh", "-c", "cat /proc/self/status #", "diagnose"))
    assert int(status["CapEff"], 16) == NET_ADMIN | NET_RAW


def test_root_where_that_was_asked_for_and_where_it_cannot_be_left(bench: Bench) -> None:
    status = status_of(
        bench.run("cat", "/proc/self/status", options=("--cap-add", "NET_ADMIN", "-e", "RUN_AS_ROOT=true"))
    )
    assert status["Uid"].split() == ["0"] * 4
    assert int(status["CapEff"], 16) & NET_ADMIN
    bare = bench.run("cat", "/proc/self/status", options=("--cap-drop", "ALL", "--cap-add", "NET_ADMIN"))
    assert "the user can't be changed without SETUID and SETGID; staying root" in bare
    assert int(status_of(bare)["CapEff"], 16) == NET_ADMIN
    user = bench.run("id", options=("--cap-add", "NET_ADMIN", "--user", "1000"))
    assert 'user 1000 has no NET_ADMIN: leave "user:" out' in user
    assert "give it NET_ADMIN" in bench.run("id", options=())


def test_without_a_socket_it_says_so(bench: Bench) -> None:
    options = ("run", "--rm", "--network", "host", "--cap-add", "NET_ADMIN", image.IMAGE)
    assert "there is no Docker socket at /var/run/docker.sock: mount it" in bench.docker(*options, "--settings")
    static = ("run", "--rm", "--network", "host", "--cap-add", "NET_ADMIN", "-e", "ENGINE=static", "-e")
    assert "no Docker socket" not in bench.docker(*static, "NETWORKS=web=10.1.0.0/24", image.IMAGE, "--settings")
    assert "No such command 'nonsense'" in bench.run("nonsense", check=False)


async def test_the_ladder_restarts_flannels_container_by_its_own_name_or_composes(bench: Bench, tmp_path: Path) -> None:
    label = "com.docker.compose.service=flannel"
    bench.docker(
        "run",
        "--detach",
        "--name",
        "site-flannel-1",
        "--label",
        label,
        image.IMAGE,
        "sh",
        "-c",
        "trap 'exit' TERM; sleep 600 & wait",
    )
    healer = Healer(Means(bench.engine.url, "flannel", "container"), Attempts(tmp_path / "recovery.json"))
    before = json.loads(bench.docker("inspect", "site-flannel-1"))[0]["State"]["StartedAt"]
    step = Step("restart", "flannel.1", "it hangs")
    assert await healer.take(step, Wanted("flannel.1")) == Healed(("docker restart site-flannel-1",))
    assert json.loads(bench.docker("inspect", "site-flannel-1"))[0]["State"]["StartedAt"] > before
    bench.docker("rm", "--force", "site-flannel-1")
    (failure,) = (await healer.take(step, Wanted("flannel.1"))).failures
    assert failure == f"docker at {bench.engine.url} has no container flannel to restart"


@contextlib.contextmanager
def other_registrar(ns: Namespace, environment: dict[str, str], log: Path) -> Iterator[None]:
    """`weft registrar` of this tree on the host beside."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = ns.command(
        "setpriv", "--pdeathsig", "KILL", "env", *settings, sys.executable, "-m", "weft.cli.main", "registrar"
    )
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(120)


def test_the_registrar_does_its_work_from_it(bench: Bench, tmp_path: Path) -> None:
    """As the README has it: the documented variables, a mounted /etc/hostname, and no more than NET_ADMIN."""
    hostname = tmp_path / "hostname"
    hostname.write_text("Host-One.example\n")
    with cluster(namespace=bench.a, address="192.0.2.1") as etcd:
        bench.docker("network", "create", "--subnet", "10.9.1.0/24", "web_tier-1")
        beside = {
            "ETCD_ENDPOINT": etcd.endpoints[0],
            "HOST_NAME": "two",
            "ENGINE": "static",
            "NETWORKS": "other=10.9.2.0/24",
            "RUN_DIR": str(tmp_path / "run"),
            "WEFT_SOCKET": str(tmp_path / "two.sock"),
            "HEALTH_PORT": "0",
        }
        variables = {"ETCD_ENDPOINT": etcd.endpoints[0], "HOST_NAME": "auto", "INTERVAL": "120", "DEBUG": "true"}
        environment = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        mounts = ("-v", f"{hostname}:/etc/hostname:ro", *bench.socket)
        with other_registrar(bench.b, beside, tmp_path / "log"):
            bench.docker(
                *("run", "--detach", "--name", "flannel-registrar", "--network", "host", "--cap-add", "NET_ADMIN"),
                *(*environment, *mounts, image.IMAGE),
            )
            try:
                until(lambda: route(bench.a, "10.9.2.0/24"), "the route to the other host's network", 30)
            except AssertionError as error:
                raise AssertionError(
                    bench.docker("logs", "flannel-registrar") + (tmp_path / "log").read_text()
                ) from error
            until(lambda: route(bench.b, "10.9.1.0/24"), "the other host's route to here", 30)
            assert etcd.ctl("get", "--print-value-only", "/flannel/network/subnets/Host-One.example/web_tier-1") == (
                "10.9.1.0/24\n"
            )
            told = status_of(bench.docker("exec", "flannel-registrar", "cat", "/proc/1/status"))
            assert (told["Uid"].split()[0], int(told["CapEff"], 16)) == ("7600", NET_ADMIN)
            health = "/var/run/flannel-registrar/health_status.json"
            until(
                lambda: '"healthy"' in bench.docker("exec", "flannel-registrar", "cat", health, check=False),
                "health_status.json to say that it is healthy",
                30,
            )
            assert bench.docker("exec", "flannel-registrar", "docker-entrypoint.sh", "--healthy").startswith("healthy ")
            script = ("exec", "flannel-registrar", "/usr/local/bin/register-docker-networks.sh")
            page = bench.docker(*script, "--diagnose", check=False)
            assert "Host-One.example" in page
            assert "10.9.1.0/24" in page
            assert "--once" in bench.docker(*script, "--help")
            assert "a weft registrar is running" in bench.docker(*script, "--once", check=False)
            shown = bench.docker("exec", "flannel-registrar", "weft", "show", "status", check=False)
            assert "node Host-One.example (192.0.2.1)" in shown
            assert "health ok" in shown
            said = bench.docker("logs", "flannel-registrar")
            assert "Add security_opt: [systempaths=unconfined]" in said, "Docker keeps kernel settings: that is said"
            assert "Read-only" not in shown + said, "and nothing is tried in vain"
            bench.docker("stop", "--time", "10", "flannel-registrar")
            assert json.loads(bench.docker("inspect", "flannel-registrar"))[0]["State"]["ExitCode"] == 0
            assert route(bench.a, "10.9.2.0/24"), "routes stay"
            confined = (*environment, "-v", f"{hostname}:/etc/hostname:ro", "--cap-add", "NET_ADMIN")
            assert "systempaths=unconfined" in bench.run("--once", options=confined), "and that is no failure"
            unconfined = ("--cap-add", "NET_ADMIN", "--security-opt", "systempaths=unconfined")
            said = bench.run("--once", options=(*environment, "-v", f"{hostname}:/etc/hostname:ro", *unconfined))
            assert "systempaths" not in said
            assert bench.a.run("sysctl", "-n", "net.ipv4.conf.vxlan7600.send_redirects") == "0\n"


def route(ns: Namespace, subnet: str) -> bool:
    """Whether there is a route of the registrar's to it."""
    return any(one.get("metric") in REGISTRAR_METRICS for one in ns.ip_json(f"route show {subnet} proto 76"))


COMPOSE = image.ROOT / "deploy" / "compose"


def run_words(service: dict[str, Any], outside: dict[str, str]) -> list[str]:
    """`docker run` of a service as its Compose file has it, where the shell has `outside`."""
    outside = {"ROUTING_CONFIG": str(COMPOSE / "routing.yaml"), **outside}

    def filled(text: str) -> str:
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: outside.get(m[1]) or m[2], text)

    words = ["--detach", "--name", service["container_name"], "--network", service["network_mode"]]
    words += ["--user", service["user"]] if "user" in service else []
    words += ["--read-only"] if service.get("read_only") else []
    for option, key in (
        ("--cap-drop", "cap_drop"),
        ("--cap-add", "cap_add"),
        ("--security-opt", "security_opt"),
        ("--volume", "volumes"),
        ("--tmpfs", "tmpfs"),
        ("--env", "environment"),
    ):
        words += [word for value in service.get(key, ()) for word in (option, filled(value))]
    return [*words, service["image"], *service.get("command", ())]


@contextlib.contextmanager
def stack_b(ns: Namespace, folder: Path) -> Iterator[None]:
    """`weft discovery` and `weft router` of this tree, on the host beside."""
    environment = {
        "STACK_ID": "stack-b",
        "VNI": "1000",
        "VXLAN_SUBNET": "192.168.100.0/24",
        "LOCAL_VXLAN_IP": "192.168.100.2",
        "NETWORKS": "internal=172.21.0.0/16",
        "HOST_IP": "192.0.2.2",
        "DATA_DIR": str(folder / "data"),
        "RUN_DIR": str(folder / "run"),
        "WEFT_SOCKET": str(folder / "router.sock"),
        "ROUTING_CONFIG": str(folder / "none.yaml"),
        "HEALTH_PORT": "0",
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = ["setpriv", "--pdeathsig", "KILL", "env", *settings, sys.executable, "-m", "weft.cli.main"]
    with open(folder / "log", "wb") as out:
        processes = [
            subprocess.Popen(ns.command(*command, verb), stdout=out, stderr=out) for verb in ("discovery", "router")
        ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(120)


def no_route(bench: Bench, subnet: str) -> bool:
    return not bench.a.ip_json(f"route show {subnet}")


def test_docker_router_in_two_containers_as_its_compose_file_has_it(bench: Bench, tmp_path: Path) -> None:
    services = yaml.safe_load((COMPOSE / "docker-router.yml").read_text())["services"]
    with stack_b(bench.b, tmp_path):
        for name in ("discovery", "router"):
            bench.docker("run", *run_words(services[name], {"HOST_IP": "192.0.2.1"}))
        try:
            until(lambda: bench.a.ip_json("route show 172.21.0.0/16"), "the route to stack-b", 30)
            until(lambda: bench.b.ip_json("route show 172.20.0.0/16"), "its route to here", 30)
        except AssertionError as error:
            logs = bench.docker("logs", "discovery") + bench.docker("logs", "router")
            raise AssertionError(logs + (tmp_path / "log").read_text()) from error
        for name, caps in (("discovery", 0), ("router", NET_ADMIN)):
            told = status_of(bench.docker("exec", name, "cat", "/proc/1/status"))
            assert told["Uid"].split() == told["Gid"].split() == ["7600"] * 4, name
            assert [int(told[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [caps] * 4, name
            assert told["NoNewPrivs"] == "1"
        folder = "/var/lib/docker-router"
        assert bench.docker("exec", "discovery", "stat", "-c", "%a %u", f"{folder}/discovery.json") == "640 7600\n"
        assert "Read-only file system" in bench.docker("exec", "router", "touch", f"{folder}/x", check=False)
        assert "not permitted" in bench.docker(
            *("exec", "--user", "0", "discovery", "ip", "link", "add", "x", "type", "dummy"), check=False
        )
        assert "stack-b" in bench.docker("exec", "router", "/app/router", "show", "peers")
        assert "172.21.0.0/16" in bench.docker("exec", "router", "/app/router", "show", "routes")
        assert "stack-b" in bench.docker("exec", "discovery", "/app/discovery", "show", check=False)
        routes = json.loads(bench.docker("exec", "router", "cat", "/run/docker-router/routes.json"))["routes"]
        assert [route["destination"] for route in routes] == ["172.21.0.0/16"]
        for name in ("router", "discovery"):
            bench.docker("exec", name, "docker-entrypoint.sh", "--healthy")
        bench.docker("rm", "--force", "discovery")
        bench.docker("stop", "--time", "10", "router")
        assert json.loads(bench.docker("inspect", "router"))[0]["State"]["ExitCode"] == 0
        assert bench.a.ip_json("route show 172.21.0.0/16"), "routes stay"
        bench.docker("rm", "router")


def test_docker_router_in_one_container(bench: Bench, tmp_path: Path) -> None:
    (service,) = yaml.safe_load((COMPOSE / "docker-router-simple.yml").read_text())["services"].values()
    with contextlib.suppress(AssertionError):
        bench.a.ip("link delete vxlan1000")
    assert no_route(bench, "172.21.0.0/16")
    with stack_b(bench.b, tmp_path):
        bench.docker("run", *run_words(service, {"HOST_IP": "192.0.2.1"}))
        try:
            until(lambda: bench.a.ip_json("route show 172.21.0.0/16"), "the route to stack-b", 30)
        except AssertionError as error:
            raise AssertionError(bench.docker("logs", "router")) from error
        assert "stack-b" in bench.docker("exec", "router", "/app/router", "show", "peers")
        assert "stack-b" in bench.docker("exec", "router", "/app/discovery", "show", check=False)
        script = """
            for p in /proc/[0-9]*; do
                ! tr '\\0' ' ' <$p/cmdline | grep -q 'main discovery $' || cat $p/status
            done
        """
        told = status_of(bench.docker("exec", "router", "sh", "-c", script))
        assert int(told["CapEff"], 16) == int(told["CapPrm"], 16) == 0, "discovery gives up what the container has"
        bench.docker("stop", "--time", "10", "router")
        assert json.loads(bench.docker("inspect", "router"))[0]["State"]["ExitCode"] == 0
        bench.docker("rm", "router")


def test_the_route_manager_as_its_compose_file_has_it(bench: Bench) -> None:
    (service,) = yaml.safe_load((COMPOSE / "route-manager.yml").read_text())["services"].values()
    with cluster(namespace=bench.a) as etcd:
        outside = {"ROUTE_MANAGER_BACKEND": "stdout", "ROUTE_MANAGER_ETCD_ENDPOINT": etcd.endpoints[0]}
        bench.docker("run", *run_words(service, outside))
        etcd.ctl("put", "/coreos.com/network/config", json.dumps({"Network": "172.16.0.0/16"}))
        lease = json.dumps({"PublicIP": "192.0.2.2", "BackendType": "alloc"})
        etcd.ctl("put", "/coreos.com/network/subnets/172.16.5.0-24", lease)

        def written() -> bool:
            return "+ flannel-default-172-16-5-0-24: 172.16.5.0/24 via 192.0.2.2" in bench.docker(
                "logs", "route-manager"
            )

        until(written, "the route", 30)
        told = status_of(bench.docker("exec", "route-manager", "cat", "/proc/1/status"))
        assert told["Uid"].split() == told["Gid"].split() == ["7600"] * 4
        assert [int(told[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [0] * 4
        assert "Read-only file system" in bench.docker("exec", "route-manager", "touch", "/x", check=False)
        bench.docker("exec", "route-manager", "docker-entrypoint.sh", "--healthy")
        old = ("exec", "route-manager", "/opt/bin/flannel-route-manager")
        assert bench.docker(*old, "-version").startswith("weft ")
        assert "deleting all routes" in bench.docker(*old, "-delete-all-routes")
        clients = "import boto3; [boto3.client(name, region_name='eu-west-1') for name in ('ec2', 'sts')]"
        bench.docker("exec", "route-manager", "/opt/weft/bin/python", "-c", clients)
        bench.docker("stop", "--time", "10", "route-manager")
        assert json.loads(bench.docker("inspect", "route-manager"))[0]["State"]["ExitCode"] == 0
        bench.docker("rm", "route-manager")
