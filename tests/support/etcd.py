"""Real etcds for tests, on loopback or inside a namespace: one member or several, with TLS or users if asked for.

    with cluster(3) as etcd:
        etcd.endpoints                  # ("http://127.0.0.1:40001", …)
        etcd.ctl("put", "/a", "1")      # etcdctl: another client's word on what is in there
        etcd.members[0].kill()
        etcd.members[0].start()

A member listens on free ports and keeps its data in a folder that goes with it. One that a killed test run left behind
ends by itself: it is told to die with its parent.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import until
from tests.support.namespace import Namespace, run
from tests.support.ports import free_ports

TOOLS = {tool: shutil.which(tool) for tool in ("etcd", "etcdctl")}
needs_etcd = pytest.mark.skipif(not all(TOOLS.values()), reason="needs etcd and etcdctl: run scripts/setup as root")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl: run scripts/setup as root")


@dataclass(frozen=True)
class Tls:
    """PEM files: an authority, a server's certificate that it signed, and a client's of another common name."""

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path

    @property
    def wanted(self) -> tuple[str, ...]:
        """etcd's flags to let in only clients with a certificate of this authority."""
        return "--client-cert-auth", "--trusted-ca-file", str(self.ca)


@dataclass
class Member:
    """One etcd process. `options`: more flags of etcd's."""

    name: str
    address: str
    client_port: int
    peer_port: int
    folder: Path
    scheme: str
    options: tuple[str, ...]
    namespace: Namespace | None = None
    peers: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.address}:{self.client_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        """Start with the data that is there; `wait` until it takes connections."""
        peer = f"http://{self.address}:{self.peer_port}"
        command = [
            *(
                "setpriv",
                "--pdeathsig",
                "KILL",
                "etcd",
                "--name",
                self.name,
                "--data-dir",
                str(self.folder / "data"),
                "--log-level",
                "warn",
            ),
            *("--logger", "zap", "--log-outputs", "stderr", "--initial-cluster", self.peers),
            *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--heartbeat-interval", "50", "--election-timeout", "300", *self.options),
        ]
        if self.namespace:
            command = self.namespace.command(*command)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        if wait:
            self.started()

    def started(self) -> None:
        """Returns when it takes connections."""
        until(self.listens, f"etcd {self.name} to take connections", timeout=20)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it and wait until it has ended; its data stays."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        self._process.wait(120)
        self._process = None

    def kill(self) -> None:
        """kill -9: nobody is told."""
        self.stop(signal.SIGKILL)

    def restart(self, how: int = signal.SIGKILL) -> None:
        self.stop(how)
        self.start()

    def pause(self) -> None:
        """It keeps its connections and says nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        tasks = Path("/proc", str(self.pid), "task")
        until(lambda: all(_is_stopped(one) for one in tasks.iterdir()), f"every thread of etcd {self.name} to stop")

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def listens(self) -> bool:
        """Whether it takes connections; AssertionError if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, f"etcd {self.name} ended: {self.log()[-2000:]}"
        with self.namespace.entered() if self.namespace else contextlib.nullcontext():
            probe = socket.socket()
        with probe:
            return probe.connect_ex((self.address, self.client_port)) == 0


@dataclass
class Etcd:
    """A cluster. `ctl_options`: what etcdctl needs to be let in."""

    members: list[Member]
    ctl_options: list[str] = field(default_factory=list)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def ctl(self, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """etcdctl's word: stdout of one command, asked of all members."""
        line = ["etcdctl", "--endpoints", ",".join(self.endpoints), *self.ctl_options, *command]
        first = self.members[0].namespace
        return run(first.command(*line) if first else line, stdin=stdin, check=check)

    def revision(self) -> int:
        answer: dict[str, Any] = json.loads(self.ctl("get", "-w", "json", "/there-is-none"))
        return int(answer["header"]["revision"])

    def depose(self, member: Member) -> None:
        """If it leads the cluster, another one does from now on: without an election, which takes its time."""
        states: list[dict[str, Any]] = json.loads(self.ctl("endpoint", "status", "-w", "json"))
        ids = {one["Endpoint"]: one["Status"]["header"]["member_id"] for one in states}
        if ids[member.endpoint] == states[0]["Status"]["leader"]:
            heir = next(number for endpoint, number in ids.items() if endpoint != member.endpoint)
            self.ctl("move-leader", f"{heir:x}")

    def compact(self) -> None:
        """Forget the history up to now."""
        self.ctl("compact", str(self.revision()))

    def enable_auth(self, user: str, password: str, prefix: str) -> None:
        """Users on: root (password "root"; `ctl` is root from now on) and `user`, who may do all under `prefix`."""
        for command in (
            "user add root:root",
            "role add root",
            "user grant-role root root",
            f"user add {user}:{password}",
            f"role add {user}",
            f"role grant-permission {user} --prefix=true readwrite {prefix}",
            f"user grant-role {user} {user}",
            "auth enable",
        ):
            self.ctl(*command.split())
        self.ctl_options += ["--user", "root:root"]

    def disable_auth(self, *users: str) -> None:
        """Users off, and root and these gone."""
        self.ctl("auth", "disable")
        del self.ctl_options[-2:]
        for user in ("root", *users):
            self.ctl("user", "delete", user)
            self.ctl("role", "delete", user)


@contextlib.contextmanager
def cluster(
    count: int = 1,
    options: tuple[str, ...] = (),
    tls: Tls | None = None,
    namespace: Namespace | None = None,
    address: str = "127.0.0.1",
) -> Iterator[Etcd]:
    """A cluster that answers; ended, with its data, at the end. `options`: more flags for every member. With `tls`,
    clients speak https, and etcdctl shows the client's certificate."""
    with tempfile.TemporaryDirectory(prefix="weft-etcd-") as root:
        ports = iter(free_ports(2 * count, address, namespace))
        scheme = "https" if tls else "http"
        members = []
        for number in range(count):
            folder = Path(root, f"m{number}")
            folder.mkdir()
            members.append(Member(f"m{number}", address, next(ports), next(ports), folder, scheme, options, namespace))
        etcd = Etcd(members)
        if tls:
            options = ("--cert-file", str(tls.certificate), "--key-file", str(tls.key), *options)
            etcd.ctl_options += ["--insecure-skip-tls-verify", "--cert", str(tls.client_certificate)]
            etcd.ctl_options += ["--key", str(tls.client_key)]
        try:
            for member in members:
                member.peers = ",".join(f"{one.name}=http://{address}:{one.peer_port}" for one in members)
                member.options = options
                member.start(wait=False)
            for member in members:
                member.started()
            until(lambda: etcd.ctl("put", "/is-up", "", check=False), "etcd to have a leader", timeout=20)
            etcd.ctl("del", "/is-up")
            yield etcd
        finally:
            for member in members:
                member.kill()


def certificates(folder: Path, address: str = "127.0.0.1", client: str = "weft-client") -> Tls:
    """An authority, a certificate for a server at `address` (IP) alone, and a client with this common name."""
    _openssl(folder, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=weft-test-ca")
    for name, subject, extension in (
        ("server", "weft-test-etcd", f"subjectAltName=IP:{address}"),
        ("client", client, "extendedKeyUsage=clientAuth"),
    ):
        (folder / f"{name}.ext").write_text(extension + "\n")
        _openssl(folder, f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}")
        signing = f"-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext"
        _openssl(folder, f"x509 -req -in {name}.csr -out {name}.pem {signing}")
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Tls(*(folder / name for name in names))


def jwt_option(folder: Path, seconds: int) -> tuple[str, str]:
    """etcd's flag for tokens that live so long, whatever is done with them."""
    _openssl(folder, "genrsa -out jwt.key 2048")
    _openssl(folder, "rsa -in jwt.key -pubout -out jwt.pub")
    keys = f"pub-key={folder}/jwt.pub,priv-key={folder}/jwt.key"
    return "--auth-token", f"jwt,{keys},sign-method=RS256,ttl={seconds}s"


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def _openssl(folder: Path, arguments: str) -> None:
    run(["sh", "-c", 'cd "$1" && shift && exec openssl "$@"', "sh", str(folder), *arguments.split()])
