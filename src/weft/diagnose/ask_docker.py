"""Docker, asked: its version, its networks and which are exposed, flannel's container. Called by `collect.py`; the
archive takes the engine's own answers along (`raw`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from weft.diagnose.facts import DockerFacts, DockerNetwork
from weft.engines.containers import look
from weft.engines.docker import Line, url_of
from weft.engines.docker_networks import Expose, read_networks
from weft.errors import EngineError
from weft.model import Network

if TYPE_CHECKING:
    from aiodocker import Docker as Client

ANSWER = 15.0
"""Seconds that all answers together may take."""
LOG_LINES = 300


async def docker(url: str, container: str, expose: Expose) -> DockerFacts:
    """Never raises for what the engine answers or doesn't."""
    facts = DockerFacts(url=url, container_name=container)
    try:
        place = url_of(url)
        line = Line(place, {"type": ["network"]})
    except EngineError as error:
        return DockerFacts(url=url, error=str(error), container_name=container)
    try:
        async with asyncio.timeout(ANSWER):
            version = await line.ask(_version)
            networks, problems = read_networks(await line.ask(_networks), expose)
            found = await line.ask(lambda client: look(client, container))
        return DockerFacts(
            url=place,
            version=version,
            networks=tuple(map(shown, networks)),
            problems=tuple(p.message for p in problems),
            container=found.state,
            container_name=found.name,
        )
    except (EngineError, TimeoutError) as error:
        why = str(error) or f"no answer within {ANSWER:g} s"
        return DockerFacts(url=place, error=why, container_name=facts.container_name)
    finally:
        await line.close()


def shown(network: Network) -> DockerNetwork:
    """One network, for the page."""
    return DockerNetwork(network.name, network.subnets, network.bridge, network.exposed, network.note)


async def raw(url: str) -> dict[str, str]:
    """File name → content: the engine's own answers and the logs of every container with flannel in its name. What the
    engine doesn't answer is a line that says so."""
    try:
        line = Line(url_of(url), {"type": ["network"]})
    except EngineError as error:
        return {"docker.txt": f"{error}\n"}
    try:
        found = {
            "docker-info.json": await _told(line.ask(_info)),
            "docker-networks.json": await _told(line.ask(_networks)),
        }
        for name, text in (await _logs(line)).items():
            found[f"log-{name}.txt"] = text
        return found
    finally:
        await line.close()


async def _logs(line: Line) -> dict[str, str]:
    async def ask(client: Client) -> dict[str, str]:
        listed = await client.containers.list(all="1", filters=json.dumps({"name": ["flannel"]}))
        texts = {}
        for one in listed:
            name = str(one["Names"][0]).lstrip("/").replace("/", "_")
            lines = await one.log(stdout=True, stderr=True, tail=LOG_LINES)
            texts[name] = "".join(lines)
        return texts

    try:
        return await line.ask(ask)
    except EngineError as error:
        return {"docker": f"the containers' logs can't be read: {error}\n"}


async def _told(answer: Awaitable[Any]) -> str:
    try:
        return json.dumps(await answer, indent=1)
    except EngineError as error:
        return json.dumps({"error": str(error)})


async def _version(client: Client) -> str:
    return str((await client.version())["Version"])


async def _networks(client: Client) -> object:
    return await client.networks.list()


async def _info(client: Client) -> object:
    return await client.system.info()
