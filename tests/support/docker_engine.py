"""A real Docker Engine in a network namespace, which is gone for certain at the end of the `with`.

    with namespace() as ns, docker_engine(ns) as engine:
        engine.import_busybox()
        engine.docker("network create --subnet 10.1.2.0/24 blue")

dockerd is the init of a pid namespace of its own, with mounts of its own: when it goes, the kernel ends containerd, the
shims and the containers with it, and their mounts vanish; and `unshare --kill-child` ends it if the tests are killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.eventually import until
from tests.support.namespace import Namespace, run

START = 60.0
"""Seconds that an engine may take to answer; 2 to 5 are usual."""
STOP = 30.0


class DockerEngine:
    """One dockerd; `stop` and `start` keep its networks, containers and images."""

    def __init__(self, ns: Namespace, folder: Path, *arguments: str) -> None:
        self.ns = ns
        self.folder = folder
        self.arguments = arguments
        self.socket = folder / "docker.sock"
        self._unshare: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def cgroup(self) -> str:
        return f"/{self.folder.name}"

    def start(self) -> None:
        """Start the engine and wait until it answers."""
        command = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc"]
        command += self.ns.command("dockerd", "--host", self.url, "--storage-driver", "overlay2")
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["--pidfile", f"{self.folder}/pid", "--cgroup-parent", self.cgroup, *self.arguments]
        with open(self.folder / "log", "ab") as log:
            self._unshare = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until(self._answers, f"the engine at {self.url} to answer", START)

    def stop(self) -> None:
        """End the engine as an administrator would (SIGTERM), and return when nothing of it is left."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the engine at once (SIGKILL), as a crash would."""
        self._end(signal.SIGKILL)

    def docker(self, arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        """`docker ARGUMENTS` (split at spaces) on this engine; its stdout without the last line end."""
        command = ["docker", "--host", self.url, *arguments.split()]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"docker {arguments} ended with {done.returncode}: {done.stderr.decode()}")
        return done.stdout.decode().rstrip("\n")

    def import_busybox(self, name: str = "busybox") -> None:
        """Make an image from this machine's static busybox; no registry is asked."""
        self.docker(f"import - {name}", stdin=busybox_tar())

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self._unshare is not None
        assert self._unshare.poll() is None, f"dockerd ended:\n{self.log()[-2000:]}"
        return self.socket.exists() and bool(self.docker("version --format {{.Server.Version}}", check=False))

    def _end(self, how: signal.Signals) -> None:
        unshare, self._unshare = self._unshare, None
        if unshare is None or unshare.poll() is not None:
            return
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), how)
        try:
            unshare.wait(STOP)
        except subprocess.TimeoutExpired:
            unshare.kill()  # --kill-child takes dockerd with it
            unshare.wait(STOP)
        # After a kill these name what is gone; in the next pid namespace the numbers are soon somebody else's.
        for name in ("pid", "exec/containerd/containerd.pid"):
            (self.folder / name).unlink(missing_ok=True)


def busybox_tar() -> bytes:
    """A tar of a root file system that holds busybox and a name for each of its applets."""
    binary = shutil.which("busybox")
    assert binary, "no busybox here: run scripts/setup"
    applets = run([binary, "--list"]).split()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(binary, "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for folder in ("etc", "proc", "sys", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
    return packed.getvalue()


@contextlib.contextmanager
def docker_engine(ns: Namespace, *arguments: str) -> Iterator[DockerEngine]:
    """A running Docker Engine in `ns`; `arguments` go to dockerd."""
    folder = Path(tempfile.mkdtemp(prefix="wefttest-docker-", dir="/var/tmp"))  # /tmp may be a tmpfs or an overlay
    engine = DockerEngine(ns, folder, *arguments)
    try:
        engine.start()
        yield engine
    finally:
        engine.kill()
        _remove_cgroups(engine.cgroup)
        shutil.rmtree(folder)


def _remove_cgroups(name: str) -> None:
    """Remove the (empty) control groups that the engine's containers had, in each hierarchy."""
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    for top in (root / name.lstrip("/") for root in roots):
        for path in sorted(top.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):  # still busy: it is empty and harms nobody
                path.rmdir()
        if top.is_dir():
            with contextlib.suppress(OSError):
                top.rmdir()
