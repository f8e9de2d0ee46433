"""Restart one container: flannel's, where the operator allowed that. Called by `agent/healing.py`."""

from __future__ import annotations

from weft.engines.containers import Containers
from weft.engines.docker import url_of
from weft.engines.docker_networks import printable
from weft.errors import EngineError

GRACE = 10
"""Seconds that Docker gives a container to end by itself."""


async def restart_container(name: str, url: str, seconds: float) -> str:
    """`docker restart NAME` on the engine at `url` ("": Docker's usual place), within so many seconds; the container's
    own name, which Compose makes longer (`containers.py`). Raises EngineError."""
    import aiodocker  # here: 100 ms that `weft --help` need not wait
    import aiohttp

    where = url_of(url)
    found = await anext(Containers(name, where).containers())
    if found.error or found.state == "absent":
        raise EngineError(found.error or f"docker at {where} has no container {name} to restart")
    name = found.name
    asked = f"docker restart {name} (engine at {where})"
    try:
        async with aiodocker.Docker(where, timeout=aiohttp.ClientTimeout(total=seconds)) as client:
            await client.containers.container(name).restart(timeout=GRACE)
            return name
    except aiodocker.DockerError as error:
        raise EngineError(f"{asked}: {printable(str(error.message))}") from error
    except TimeoutError as error:
        raise EngineError(f"{asked} did not end within {seconds:.0f} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise EngineError(f"{asked}: {printable(str(error))}") from error
