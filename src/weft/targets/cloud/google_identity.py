"""Who and where we are at Google: project, network and credentials, from flags, a key file or the metadata server. Used
by `google.py`, once.

google-auth finds the credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud's, else this instance's service account) and
renews their tokens. It is synchronous, so it runs in a thread; a daemon one, so that a metadata server that doesn't
answer can't delay our end. The library says `google-auth[requests]`: without requests it can't ask the metadata server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import google.auth
from google.auth import credentials as google_credentials
from google.auth import environment_vars, exceptions
from google.auth.credentials import TokenState
from google.auth.transport.requests import Request

from weft.errors import ProviderBusy, SettingsError, TargetError
from weft.settings.route_manager import RouteManagerSettings

log = logging.getLogger("weft")

T = TypeVar("T")

SCOPES = ("https://www.googleapis.com/auth/compute",)
METADATA = "metadata.google.internal"
ANSWER = 3.0
ATTEMPTS = 3
"""The metadata server is on the same machine: seconds for an answer, and how often it is asked."""
PRODUCT_NAME = Path("/sys/class/dmi/id/product_name")
_NETWORK = re.compile(r"(?:.*/)?projects/(?P<project>[^/]+)/(?:global/)?networks/(?P<name>[^/]+)")
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_ENDPOINT = re.compile(r"https?://[^/?#\s]+")
FAULTS = (exceptions.GoogleAuthError, OSError, ValueError, TypeError, LookupError)
"""What google-auth raises: errors of its own, and those of a file or of an answer that it didn't expect."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose routes: the project that the network is in (an ID, or a number) and the network's name."""

    project: str
    network: str


class Tokens:
    """Credentials of google-auth. One renewal at a time; a token that still lives is used meanwhile."""

    def __init__(self, found: google_credentials.Credentials) -> None:
        self._credentials = found
        self._request = Request()
        self._renewal: asyncio.Task[None] | None = None
        self._refused = ""

    @property
    def account(self) -> str:
        email = getattr(self._credentials, "service_account_email", "") or ""
        return f"the service account {email}" if "@" in email else "whoever the credentials belong to"

    async def token(self) -> str:
        if not self._usable():
            await asyncio.shield(self._renewed())
        elif self._credentials.token_state is TokenState.STALE:
            self._renewed()
        return str(self._credentials.token)

    def refused(self, token: str) -> None:
        self._refused = token

    def _usable(self) -> bool:
        known = bool(self._credentials.token) and self._credentials.token != self._refused
        return known and self._credentials.token_state is not TokenState.INVALID

    def _renewed(self) -> asyncio.Task[None]:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name="google token")
            self._renewal.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._renewal

    async def _renew(self) -> None:
        try:
            await in_thread(self._refresh)
        except FAULTS as error:
            raise _no_token(error) from error
        self._refused = ""

    def _refresh(self) -> None:
        self._credentials.refresh(self._request)  # type: ignore[no-untyped-call]  # google-auth's own


def _no_token(error: Exception) -> TargetError:
    message = f"no token for the Compute Engine API: {error!s:.500}"
    return ProviderBusy(message) if getattr(error, "retryable", False) else TargetError(message)


async def find(settings: RouteManagerSettings) -> tuple[Place, Tokens]:
    """Raises TargetError: what is missing, and which flag or variable says it; SettingsError as `told`."""
    flagged_project, network = told(settings)
    try:
        found, project = await in_thread(lambda: google.auth.default(scopes=SCOPES, request=Request()))
    except FAULTS as error:
        raise TargetError(
            "no credentials for Google: this is no instance with a service account, and GOOGLE_APPLICATION_CREDENTIALS "
            f"names no key file that can be read ({(str(error) or repr(error)).splitlines()[0]})"
        ) from error
    if not network:
        own_project, network = await _own_network()
        project = own_project or project
    project = flagged_project or project
    if not project:
        raise TargetError("the credentials don't say which project: say -google-project, or set GOOGLE_CLOUD_PROJECT")
    return Place(project, network), Tokens(found)


def told(settings: RouteManagerSettings) -> tuple[str, str]:
    """Project and network that the flags name, "" where they don't. Raises SettingsError."""
    if not _ENDPOINT.match(settings.google_endpoint):
        raise SettingsError(f"-google-endpoint={settings.google_endpoint}: a URL is meant, like https://HOST[:PORT]")
    project, network = settings.google_project, settings.google_network
    if whole := _NETWORK.fullmatch(network):
        project, network = project or whole["project"], whole["name"]
    if network and not _NAME.fullmatch(network):
        raise SettingsError(
            f"-google-network={settings.google_network}: no network's name; it is like default, or "
            "projects/PROJECT/global/networks/NAME"
        )
    return project, network


async def _own_network() -> tuple[str, str]:
    """The network of this instance's first interface, and the project of it: of a shared VPC, whose routes are in the
    host project, always; else "" where the environment says a project. The credentials' may be another one, where this
    network isn't. ("", "default") where there is no metadata server."""
    host = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_ROOT") or METADATA
    timeout = aiohttp.ClientTimeout(total=ANSWER)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Metadata-Flavor": "Google"}) as session:
        network = await _metadata(session, host, "instance/network-interfaces/0/network")
        if network is None:
            return "", "default"
        whole = _NETWORK.fullmatch(network)
        if whole is None:
            raise TargetError(
                f"the metadata server says that this instance's network is {network!r}; say -google-network"
            )
        if whole["project"] != await _metadata(session, host, "project/numeric-project-id"):
            return whole["project"], whole["name"]
        if any(os.environ.get(name) for name in (environment_vars.PROJECT, environment_vars.LEGACY_PROJECT)):
            return "", whole["name"]
        return await _metadata(session, host, "project/project-id") or "", whole["name"]


async def _metadata(session: aiohttp.ClientSession, host: str, path: str) -> str | None:
    """None if there is no such server: this is not Google's machine."""
    failed = ""
    for _ in range(ATTEMPTS):
        try:
            async with session.get(f"http://{host}/computeMetadata/v1/{path}") as answer:
                text = (await answer.text()).strip()
                if answer.status == 200 and answer.headers.get("Metadata-Flavor") == "Google":
                    return text
                failed = f"it answered {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failed = str(error) or "it didn't answer in time"
    if not failed.startswith("it answered") and not _on_google() and host == METADATA:
        return None
    raise ProviderBusy(
        f"the metadata server {host} was asked for {path}, and {failed}; -google-network says it instead"
    )


def _on_google() -> bool:
    try:
        return PRODUCT_NAME.read_text().startswith("Google")
    except OSError:
        return False


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, from a daemon thread of its own."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if end.done():
            return
        if error is not None:
            end.set_exception(error)
        else:
            end.set_result(result)  # type: ignore[arg-type]  # it is T where there is no error

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - raised again in whoever waits
            error = raised
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:
            log.debug("google: the loop ended before an answer came")

    threading.Thread(target=run, name="google-auth", daemon=True).start()
    return await end
