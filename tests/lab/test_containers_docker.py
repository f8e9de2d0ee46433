"""Flannel's container and `weft diagnose` on a real Docker Engine: what the fake engine stands for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.eventually import soon, until
from tests.support.namespace import namespace
from tests.support.needs import needs_docker
from weft.core.health import Container
from weft.engines.containers import Containers

pytestmark = needs_docker

SECRET = "correct-horse-battery"
LABEL = "com.docker.compose.service"


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with namespace() as ns, docker_engine(ns) as engine:
        engine.import_busybox()
        yield engine


async def test_its_states_come_by_events(engine: DockerEngine) -> None:
    source = Containers("flannel", engine.url, resync=3600)
    seen: list[Container] = []

    async def read() -> None:
        async for state in source.containers():
            seen.append(state)

    async def after(command: str, state: str) -> Container:
        before = len(seen)
        await asyncio.to_thread(engine.docker, command)
        await soon(lambda: len(seen) > before and seen[-1].state == state, f"{state} after docker {command}", 20)
        return seen[-1]

    reading = asyncio.ensure_future(read())
    try:
        await soon(lambda: bool(seen), "the first answer")
        assert seen[0] == Container("flannel", "absent")
        run = "run -d --network none --init --name flannel busybox sleep 1000"
        running = await after(run, "running")
        assert (running.image, running.seen, running.started > 1.7e9) == ("busybox", True, True)
        await after("pause flannel", "stopped")
        await after("unpause flannel", "running")
        await after("stop -t 1 flannel", "stopped")
        await after("rm flannel", "absent")
        service = f"run -d --network none --init --name net-flannel-1 --label {LABEL}=flannel busybox sleep 1000"
        assert (await after(service, "running")).name == "net-flannel-1"
        await after("rm -f net-flannel-1", "absent")
    finally:
        await source.close()
        await asyncio.wait_for(reading, 60)


def test_diagnose_tells_of_docker_and_its_archive_holds_no_secret(engine: DockerEngine, tmp_path: Path) -> None:
    engine.docker("network create --subnet 10.9.1.0/24 web")
    engine.docker("network create --subnet 10.9.2.0/24 --label weft.expose=false apart")
    engine.docker(f"network create --subnet 10.9.3.0/24 --label note=password={SECRET} noted")
    talks = f"echo token={SECRET}; exec sleep 1000"
    start = ["docker", "--host", engine.url, "run", "-d", "--network", "none", "--name", "flannel"]
    subprocess.run([*start, "-e", f"ETCD_PASSWORD={SECRET}", "busybox", "sh", "-c", talks], check=True)
    until(lambda: "token=" in engine.docker("logs flannel"), "its word")
    archive = tmp_path / "help.tar.gz"
    command = engine.ns.command(sys.executable, "-m", "weft.cli.main", "diagnose", "--json", "--bundle", str(archive))
    settings = {
        "ETCD_ENDPOINT": "http://127.0.0.1:1",
        "HOST_NAME": "here",
        "DOCKER_HOST": engine.url,
        "RUN_DIR": str(tmp_path / "run"),
        "WEFT_SOCKET": str(tmp_path / "registrar.sock"),
    }
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    docker = json.loads(done.stdout)["facts"]["docker"]
    assert (docker["error"], docker["container"]) == ("", "running")
    networks = {one["name"]: one for one in docker["networks"]}
    assert networks["web"]["subnets"] == ["10.9.1.0/24"]
    assert networks["apart"]["note"] == "labelled weft.expose=false"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    files = {path.name: path.read_text() for path in (tmp_path / "help").iterdir()}
    assert json.loads(files["docker-info.json"])["Driver"] == "overlay2"
    assert "10.9.3.0/24" in files["docker-networks.json"]
    assert files["log-flannel.txt"] == "token=***\n"
    assert "DOCKER-USER" in "".join(files.values())
    for name, text in files.items():
        assert SECRET not in text, name
