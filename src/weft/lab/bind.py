"""A name server in a lab: BIND with one dynamic zone, and the key that signs changes of it. `services` calls this.

The key is made when the lab comes up and lies in the host's folder, for root alone; the zone's data goes with the lab,
and a restart finds it again.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import struct
from pathlib import Path

from weft.errors import LabError
from weft.lab import netns, shell, state
from weft.lab.host import START, LabHost
from weft.lab.topology import Bind

PORT = 53
KEY_NAME = "weft-lab"
ALGORITHM = "hmac-sha256"
ANSWER = 0.5
"""Seconds that it may take for one answer."""
CONFIG = """\
key {name} {{ algorithm {algorithm}; secret "{secret}"; }};
options {{
    directory "{data}";
    pid-file "{data}/named.pid";
    session-keyfile "{data}/session.key";
    managed-keys-directory "{data}";
    listen-on {{ any; }};
    listen-on-v6 {{ any; }};
    recursion no;
    dnssec-validation no;
    notify no;
    allow-transfer {{ any; }};
}};
controls {{ }};
zone "{domain}" {{
    type master;
    file "{data}/zone";
    allow-update {{ key {name}; }};
}};
"""
ZONE = """\
$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 5
@ IN NS ns
ns IN {kind} {address}
"""
"""The last number of the SOA is how long "there is none" may be remembered (RFC 2308): a lab's stacks come and go."""
SOA, IN = 6, 1
RCODE = 0x0F
"""Of the second octet of a message's flags (RFC 1035, 4.1.1)."""


def make_key(host: LabHost) -> None:
    """A key for this host's name server."""
    secret = base64.b64encode(os.urandom(32)).decode()
    path = _key_file(host.lab, host.name)
    path.touch(mode=0o600)
    path.write_text(f"{ALGORITHM}:{KEY_NAME}:{secret}\n")


def key(lab: str, host: str) -> str:
    """`algorithm:name:base64`, as DNS_KEY has it. LabError if it is gone."""
    path = _key_file(lab, host)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise LabError(f"the key of the name server on {host} can't be read: {error}") from error


def _key_file(lab: str, host: str) -> Path:
    return state.folder(lab) / host / "bind.key"


def command(host: LabHost, server: Bind) -> list[str]:
    """The server's command; its configuration, and a zone if there is none yet. LabError if it is not installed."""
    if not shutil.which("named"):
        raise LabError(f"host {host.name} wants a name server and named is not installed: run scripts/setup")
    data = state.data(host.lab) / host.name / "bind"
    data.mkdir(parents=True, exist_ok=True)
    zone, config = data / "zone", host.folder / "named.conf"
    kind = "A" if server.address.version == 4 else "AAAA"
    if not zone.exists():
        zone.write_text(ZONE.format(kind=kind, address=server.address))
    secret = key(host.lab, host.name).rpartition(":")[2]
    config.touch(mode=0o600)
    config.write_text(CONFIG.format(name=KEY_NAME, algorithm=ALGORITHM, secret=secret, data=data, domain=server.domain))
    return ["named", "-g", "-n", "1", "-c", str(config)]


async def answers(host: LabHost, server: Bind) -> None:
    """Wait until it answers for its zone. LabError with the end of its log if that doesn't come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START
    while not await _answers(host, server):
        if host.running("bind") is None or loop.time() > deadline:
            raise LabError(f"the name server on {host.name} does not come up:\n{host.tail('bind')}")
        await asyncio.sleep(shell.POLL)


async def _answers(host: LabHost, server: Bind) -> bool:
    """Whether it says what the zone's SOA is; the messages are RFC 1035's."""
    family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
    name = b"".join(bytes([len(label)]) + label.encode() for label in server.domain.split("."))
    question = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + name + struct.pack("!BHH", 0, SOA, IN)
    loop = asyncio.get_running_loop()
    with netns.socket_in(netns.path(host.namespace), family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            async with asyncio.timeout(ANSWER):
                await loop.sock_connect(sock, (str(server.address), PORT))
                await loop.sock_sendall(sock, question)
                answer = await loop.sock_recv(sock, 512)
        except (OSError, TimeoutError):
            return False
    if len(answer) < 12 or answer[3] & RCODE:
        return False
    (count,) = struct.unpack_from("!H", answer, 6)
    return bool(count)
