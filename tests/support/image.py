"""weft's container image, built as a user builds it, on a Docker Engine that has no way to any registry.

The base is Debian 12 as mmdebstrap makes it from Debian's mirror; Python packages come from the index that pip uses.
Both are fetched from this machine before, and kept under /var/tmp: one fetch serves a whole run, and the next ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.docker_engine import DockerEngine
from tests.support.namespace import run

ROOT = Path(__file__).parents[2]
KEPT = Path("/var/tmp/weft-image-test")
BASE = "weft-test/base"
IMAGE = "flannel-registrar"
PACKAGES = "python3,python3-venv,iptables,iproute2"
"""What the image is made of, and what is needed to build it (python3-venv)."""
UNREAD = ("man", "doc", "locale", "info")
TARGETS = ("docker-router-discovery", "docker-router", "flannel-route-manager")
"""Targets of the Dockerfile, and what the images are called in the Compose files of those that weft stands in for."""
COPIED = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE", "deploy", "src")
FETCH = 300.0


def build(engine: DockerEngine, folder: Path, *options: str) -> str:
    """Build IMAGE and those of TARGETS from this tree, in `folder`; what docker printed."""
    with ThreadPoolExecutor() as pool:
        base, wheels = pool.submit(_base), pool.submit(_wheels)
        _context(folder)
        shutil.copytree(wheels.result(), folder / "wheels")
        with open(base.result(), "rb") as tar:
            _docker(engine, ["import", "-", BASE], stdin=tar.fileno())
    said = _build(engine, folder, IMAGE, *options)
    for target in TARGETS:  # all their layers are there already
        _build(engine, folder, target, "--target", target, *options)
    return said


def _build(engine: DockerEngine, folder: Path, name: str, *options: str) -> str:
    arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", "WIREGUARD=", *options]
    return _docker(engine, ["build", "--network", "none", "-t", name, *arguments, str(folder)])


def _docker(engine: DockerEngine, words: list[str], stdin: int = subprocess.DEVNULL) -> str:
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the builder that comes with the engine
    command = ["docker", "--host", engine.url, *words]
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=FETCH, env=environment)
    assert done.returncode == 0, f"docker {' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def _context(folder: Path) -> None:
    """What a checkout has, and what .dockerignore must keep out of the image."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name, follow_symlinks=False)
    for junk in (".git/objects/pack", ".venv/lib/big", "tests/big"):
        (folder / junk).parent.mkdir(parents=True, exist_ok=True)
        (folder / junk).write_bytes(bytes(8 << 20))


def _base() -> Path:
    """A tar of Debian 12 with PACKAGES."""
    path = KEPT / f"base-{_key(PACKAGES)}.tar"
    if not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        draft = KEPT / f"{os.getpid()}.tar"
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNREAD]
        run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *excluded, f"--include={PACKAGES}", "bookworm", str(draft)],
            timeout=FETCH,
        )
        draft.replace(path)
    return path


def _wheels() -> Path:
    """A folder with the wheels of what weft needs, and of what builds it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dependencies = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["aws"]]
    wanted = [*dependencies, *project["build-system"]["requires"]]
    path = KEPT / f"wheels-{_key(*wanted)}"
    if not path.exists():
        draft = KEPT / f"wheels-{os.getpid()}"
        options = ["--quiet", "--only-binary", ":all:", "--python-version", "3.11", "--dest", str(draft)]
        run([sys.executable, "-m", "pip", "download", *options, *wanted], timeout=FETCH)
        draft.replace(path)
    return path


def _key(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
