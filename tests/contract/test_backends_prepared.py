"""What a backend of flannel's needs before its host has a lease."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.support.needs import needs_root, needs_wireguard
from weft.daemons.backends import prepare
from weft.targets.wireguard_tools import host_key
from weft.wire.flannel import Config, Pool4, WireguardBackend, WireguardPeer

POOL = Pool4(IPv4Network("10.5.0.0/16"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))

pytestmark = [needs_root, needs_wireguard]


async def test_wireguards_key_lies_where_flannels_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    monkeypatch.setenv("WIREGUARD_KEY_FILE", str(path))
    prepared = await prepare(Config(POOL, None, WireguardBackend()), "weft:flanneld:/a:b", shell=False)
    assert prepared.data == WireguardPeer((await host_key(str(path))).public, 51820)
    assert path.exists()
