"""Marks that skip a test where it can't run, and say what is missing."""

from __future__ import annotations

import os
import shutil

import pytest

ROOT = os.geteuid() == 0
DOCKER = ROOT and all(shutil.which(tool) for tool in ("dockerd", "docker", "containerd", "runc"))

needs_root = pytest.mark.skipif(not ROOT, reason="makes network namespaces: run as root")
needs_docker = pytest.mark.skipif(not DOCKER, reason="needs root and a Docker Engine: run scripts/setup as root")

WIREGUARD = ROOT and all(shutil.which(tool) for tool in ("wg", "wireguard-go")) and os.path.exists("/dev/net/tun")
needs_wireguard = pytest.mark.skipif(not WIREGUARD, reason="needs root, wg, wireguard-go, /dev/net/tun")
