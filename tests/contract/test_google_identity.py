"""Who and where a manager is at Google: flags, a key file, the metadata server, or none of them."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import google.auth.compute_engine._metadata as google_metadata
import pytest

from tests.support.compute import Gce
from tests.support.eventually import soon
from tests.support.google import World, manager
from weft.errors import SettingsError, TargetError
from weft.lab.compute.table import Instance, Network, ServiceAccount, Subnetwork, Table, small
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import google_identity
from weft.targets.cloud.google import GoogleRoutes
from weft.targets.cloud.google_identity import Place, find, in_thread


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "key.json"


def with_key(gce: Gce, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, this is no instance, but it has a key."""
    with urllib.request.urlopen(f"{gce.url}/lab/key") as answer:
        file.write_bytes(answer.read())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


def settings(**flags: str) -> RouteManagerSettings:
    return RouteManagerSettings(**flags)  # type: ignore[arg-type]  # those that are text


async def test_an_instance_knows_it_all(world: World) -> None:
    networks = (Network(name="prod", subnetworks=(Subnetwork(name="prod", range="10.128.0.0/20"),)),)
    with world.cloud(Table(project="shop", networks=networks, instances=(Instance(name="a", network="prod"),))):
        place, tokens = await find(settings())
        assert place == Place("shop", "prod")
        assert await tokens.token()
        assert tokens.account == f"the service account {ServiceAccount().email}"


async def test_flags_win(world: World) -> None:
    with world.cloud() as gce:
        place, _ = await find(settings(google_project="p", google_network="n"))
        assert place == Place("p", "n")
        place, _ = await find(settings(google_network="projects/host/global/networks/shared"))
        assert place == Place("host", "shared")
        with pytest.raises(SettingsError, match="-google-network"):
            GoogleRoutes.of(settings(google_network="No/Such"))
        assert not [call for call in gce.history.called("metadata.get") if "network-interfaces" in call.path]


async def test_a_shared_networks_routes_are_in_its_own_project(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(_session: object, _host: str, path: str) -> str:
        return "projects/999/networks/shared" if "network" in path else "123"

    monkeypatch.setattr(google_identity, "_metadata", answers)
    with world.cloud():
        assert (await find(settings()))[0] == Place("999", "shared")


async def test_a_key_file_of_a_manager_elsewhere(world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.cloud() as gce:
        with_key(gce, key_file, monkeypatch)
        async with manager(gce, google_network="default") as tables:
            await tables.read()
        assert len(gce.history.called("oauth2.token")) == 1
        assert gce.history.called("metadata.token") == []


async def test_a_key_that_google_does_not_know_is_told(
    world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.cloud() as gce:
        with_key(gce, key_file, monkeypatch)
        key_file.write_text(json.dumps(json.loads(key_file.read_text()) | {"client_email": "someone@example.com"}))
        async with manager(gce, google_network="default") as tables:
            with pytest.raises(TargetError, match="account not found"):
                await tables.read()


async def test_no_metadata_server_and_no_network_is_the_default_one(
    world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.cloud() as gce:
        with_key(gce, key_file, monkeypatch)
        monkeypatch.delenv("GCE_METADATA_HOST")
        monkeypatch.delenv("GCE_METADATA_ROOT")
        monkeypatch.setattr(google_identity, "METADATA", "127.0.0.1:1")
        assert (await find(settings()))[0] == Place("weft-lab", "default")
        monkeypatch.setattr(google_identity, "_on_google", lambda: True)
        with pytest.raises(TargetError, match="metadata server"):
            await find(settings())


async def test_a_metadata_server_that_fails_is_no_reason_to_take_the_default_network(
    world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another network's table would be emptied and filled."""
    with world.cloud() as gce:
        with_key(gce, key_file, monkeypatch)
        fault = gce.faults.fail("metadata.get", 503, times=None)
        with pytest.raises(TargetError, match="503"):
            await find(settings())
        assert fault.taken == google_identity.ATTEMPTS


async def test_there_are_no_credentials(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.cloud():
        monkeypatch.setattr(google_metadata, "_NO_GCE_CHECK", True)
        with pytest.raises(TargetError, match="GOOGLE_APPLICATION_CREDENTIALS"):
            await find(settings())


async def test_a_key_file_that_cannot_be_read_is_told(
    world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """google-auth lets the system's own error through: a key that is another user's."""
    key_file.mkdir()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    with world.cloud(), pytest.raises(TargetError, match=r"no credentials for Google.*key\.json"):
        await find(settings())


@pytest.mark.parametrize("answer", ["<html>please log in</html>", '{"token_type": "Bearer"}'])
async def test_a_metadata_server_that_talks_nonsense_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with world.cloud():
        _, tokens = await find(settings())
        spoken = json.loads(answer) if answer.startswith("{") else answer
        monkeypatch.setattr(google_metadata, "get", lambda *_, **__: spoken)
        with pytest.raises(TargetError, match="no token for the Compute Engine API"):
            await tokens.token()


async def test_a_network_and_its_project_are_taken_from_one_place(
    world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is often another project's: this instance's network isn't there."""
    with world.cloud() as gce:
        with_key(gce, key_file, monkeypatch)
        key_file.write_text(json.dumps(json.loads(key_file.read_text()) | {"project_id": "accounts"}))
        assert (await find(settings()))[0] == Place("weft-lab", "default")
        assert (await find(settings(google_network="default")))[0] == Place("accounts", "default")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "said")
        assert (await find(settings()))[0] == Place("said", "default")


@pytest.mark.parametrize("endpoint", ["compute.googleapis.com", "ftp://compute.googleapis.com", "http://"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="-google-endpoint"):
        GoogleRoutes.of(settings(google_endpoint=endpoint))


async def test_tokens_are_asked_for_once_and_again_before_they_end(world: World) -> None:
    with world.cloud(small(account=ServiceAccount(token_life=300.0))) as gce:
        _, tokens = await find(settings())
        first = await asyncio.gather(*(tokens.token() for _ in range(20)))
        assert len(set(first)) == 1
        assert len(gce.history.called("metadata.token")) == 1
    with world.cloud(small(account=ServiceAccount(token_life=100.0))) as gce:
        _, tokens = await find(settings())
        first_token = await tokens.token()
        fault = gce.faults.fail("metadata.token", 404, times=None)
        assert await tokens.token() == first_token, "one that still lives is used while no other can be had"
        await soon(lambda: fault.taken, "a renewal in the background")
        tokens.refused(first_token)
        with pytest.raises(TargetError, match="no token"):
            await tokens.token()


async def test_what_a_thread_raises_is_raised() -> None:
    def fails() -> None:
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        await in_thread(fails)
    assert await in_thread(lambda: 7) == 7
