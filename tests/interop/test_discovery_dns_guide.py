"""docs/discovery-dns.md's example of a zone and a key, as it stands there, on a real BIND."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.support.bind import Bind, bind, needs_bind
from tests.support.dns_hosts import Stage, router
from tests.support.eventually import soon

pytestmark = needs_bind
GUIDE = (Path(__file__).parents[2] / "docs/discovery-dns.md").read_text()
BLOCKS = [
    "".join(re.sub(r"^    ", "", block, flags=re.M)) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", GUIDE, re.M)
]
SECRET = "bm90IGEgc2VjcmV0LCBhbiBleGFtcGxlISEhISEhISE="


def block(start: str) -> str:
    """The first block of the guide that begins so."""
    return next(one.strip() + "\n" for one in BLOCKS if one.strip().startswith(start))


def as_in_the_guide(server: Bind, policy: str = "") -> None:
    """The server's files as the guide has them, in the server's folder and on its port."""
    zone = block('zone "example.com"').replace("/var/lib/bind/example.com.zone", f"{server.folder}/zone")
    if policy:
        zone = re.sub(r"update-policy .*", lambda _: policy, zone)
    config = (server.folder / "named.conf").read_text()
    options = config[: config.index("key ")]
    keys = block("key ") + block("key ").replace('"weft"', '"host-a"') + block("key ").replace('"weft"', '"host-b"')
    (server.folder / "named.conf").write_text(options + keys + zone)
    (server.folder / "zone").write_text(block("$TTL"))


async def test_the_zone_and_the_key_work() -> None:
    with bind() as server:
        server.stop()
        as_in_the_guide(server)
        server.start()
        told = dict(line.split("=", 1) for line in block("DISCOVERY_MODE").splitlines())
        async with Stage(server) as stage:
            one = stage.host(router("stack-a", 1), key=told["DNS_KEY"], domain=told["DNS_DOMAIN"])
            other = stage.host(router("stack-b", 2), key=told["DNS_KEY"], domain=told["DNS_DOMAIN"])
            await one.sees("stack-b")
            await other.sees("stack-a")
            assert server.dig("stack-a.example.com", "A")
            await other.crash()
            await one.sees()
            commands = re.findall(r"^    > (update .*)$", GUIDE, re.M)
            server.update(*commands, key=f"hmac-sha256:weft:{SECRET}")
            await soon(lambda: one.problems == "", "nothing to be left of stack-b")
            assert not any("stack-b" in value or "stack-b" in name for name, _, value in server.records())


async def test_with_a_key_for_each_host_none_touches_anothers() -> None:
    with bind() as server:
        server.stop()
        mine = block("update-policy {")
        both = mine.replace("};", "") + mine.replace("-a", "-b").partition("{")[2]
        as_in_the_guide(server, both)
        server.start()
        async with Stage(server) as stage:
            a = stage.host(router("stack-a", 1), key=f"host-a:{SECRET}")
            b = stage.host(router("stack-b", 2), key=f"host-b:{SECRET}")
            await a.sees("stack-b")
            await b.sees("stack-a")
            thief = stage.host(router("stack-b", 3), key=f"host-a:{SECRET}")
            await thief.says("registered as stack-b")
            await asyncio.gather(a.close(), b.close())
            await thief.says("REFUSED", "allow key host-a")
