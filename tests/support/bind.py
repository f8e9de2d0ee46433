"""A real BIND for tests: one zone that takes dynamic updates, on loopback or inside a namespace.

    with bind() as server:
        server.endpoint                          # "127.0.0.1:40053", as DNS_SERVER takes it
        server.key                               # "hmac-sha256:weft:…", as DNS_KEY takes it
        server.records()                         # {("host1.example.com.", "A", "10.0.1.5"), …}: dig's word
        server.update("update add x.example.com. 60 A 192.0.2.1")   # nsupdate's, with the key
        server.stop(); server.start()

`named` runs in the foreground, keeps all its files in a folder that goes with it, and dies with its parent.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.eventually import until
from tests.support.namespace import Namespace, run
from tests.support.ports import free_port

TOOLS = {tool: shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") for tool in ("named", "dig", "nsupdate")}
needs_bind = pytest.mark.skipif(not all(TOOLS.values()), reason="needs BIND (named, dig, nsupdate): run scripts/setup")

ZONE = """\
$TTL 60
@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 {negative}
@ IN NS ns.{zone}.
ns IN A {address}
"""
CONFIG = """\
options {{
    directory "{folder}";
    pid-file none;
    session-keyfile none;
    managed-keys-directory "{folder}";
    listen-on port {port} {{ {ipv4}; }};
    listen-on-v6 port {port} {{ {ipv6}; }};
    recursion no;
    dnssec-validation no;
    notify no;
    {options}
}};
controls {{ }};
key "weft" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "stranger" {{ algorithm hmac-sha256; secret "{secret}"; }};
zone "{zone}" {{ type primary; file "{folder}/zone"; {policy} }};
"""


@dataclass
class Bind:
    """One named. `policy`: of the zone, as named.conf has it; `options`: more of the options block. The key `stranger`
    is known to it, and may update nothing unless `policy` says so."""

    folder: Path
    address: str
    port: int
    zone: str = "example.com"
    policy: str = "allow-update { key weft; };"
    options: str = ""
    negative: int = 5
    namespace: Namespace | None = None
    secret: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    command: tuple[str, ...] = ()
    """Before `named`: what it is to run under."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def key(self) -> str:
        return f"hmac-sha256:weft:{self.secret}"

    def write(self) -> None:
        """named.conf and an empty zone, as they are before anybody registers."""
        for journal in self.folder.glob("zone*"):
            journal.unlink()
        values = {"zone": self.zone, "address": "192.0.2.53", "negative": self.negative}
        (self.folder / "zone").write_text(ZONE.format(**values))
        ipv6 = ":" in self.address
        config = CONFIG.format(
            folder=self.folder,
            port=self.port,
            ipv4="none" if ipv6 else self.address,
            ipv6=self.address if ipv6 else "none",
            options=self.options,
            secret=self.secret,
            zone=self.zone,
            policy=self.policy,
        )
        (self.folder / "named.conf").write_text(config)

    def start(self, loaded: bool = True) -> None:
        """Start with the zone as it is, and wait until it answers; `loaded` False: with whatever."""
        command = [*self.command, TOOLS["named"] or "named", "-f", "-n", "1", "-c", str(self.folder / "named.conf")]
        line = ["setpriv", "--pdeathsig", "KILL", *command]
        with open(self.folder / "log", "ab") as log:
            line = self.namespace.command(*line) if self.namespace else line
            self._process = subprocess.Popen(line, stdout=log, stderr=log)
        until(lambda: self._answers(loaded), f"named to answer at {self.endpoint}", timeout=20)

    def _answers(self, loaded: bool) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"named ended: {self.log()[-2000:]}"
        said = self.dig(self.zone, "NS", "+comments", check=False)
        return f"ns.{self.zone}." in said or (not loaded and "status:" in said)

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End it; its zone and journal stay."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(120)
            self._process = None

    def pause(self) -> None:
        """It takes datagrams and connections, and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def dig(self, name: str, rtype: str, *more: str, check: bool = True) -> str:
        """What dig prints, one record a line."""
        line = ["dig", f"@{self.address}", "-p", str(self.port), "+noall", "+answer", "+time=2", "+tries=1"]
        line += [*more, name, rtype]
        return run(self.namespace.command(*line) if self.namespace else line, check=check)

    def records(self) -> set[tuple[str, str, str]]:
        """All of the zone but what it began with: (name, type, value as dig writes it)."""
        rows = [line.split(None, 4) for line in self.dig(self.zone, "AXFR").splitlines() if line.strip()]
        found = {(row[0], row[3], row[4]) for row in rows}
        return {row for row in found if row[1] not in ("SOA", "NS") and row[0] != f"ns.{self.zone}."}

    def update(self, *lines: str, key: str = "") -> None:
        """nsupdate with these commands; AssertionError if the server says no."""
        script = "\n".join((f"server {self.address} {self.port}", f"zone {self.zone}", *lines, "send", ""))
        line = ["nsupdate", "-y", key or self.key]
        run(self.namespace.command(*line) if self.namespace else line, stdin=script)


@contextlib.contextmanager
def bind(address: str = "127.0.0.1", namespace: Namespace | None = None, **settings: object) -> Iterator[Bind]:
    """A named that answers, on a free port; ended, with its files, at the end. `settings`: other fields of `Bind`."""
    with tempfile.TemporaryDirectory(prefix="weft-bind-") as folder:
        port = free_port(address, namespace)
        server = Bind(Path(folder), address, port, namespace=namespace, **settings)  # type: ignore[arg-type]
        server.write()
        try:
            server.start()
            yield server
        finally:
            server.stop()
