"""Compute Engine's REST API (v1): one call with its retries, and pages. Used by the google backend, and loaded by
nothing else. Shapes and paths are those of Google's published discovery document, compute.v1.

What is asked again (by `pace.py`): 429, 403 for the rate, 408, 5xx, and answers that never came. A change must bear a
`requestId`, the same each time: the API then does it once, also if the answer to the first attempt was lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec

from weft import __version__
from weft.errors import ProviderBusy, TargetError
from weft.targets.cloud.pace import Pace, look_at_the_fence

ANSWER = 30.0
CONNECTING = 2.0
"""Seconds that an answer, and a connection, may take; the latter less than an election's margin (`agent/election.py`):
what is sent once it is there was allowed before."""
AGENT = f"weft/{__version__} (route-manager; gzip)"
"""Google compresses answers for agents that say gzip."""
RATE = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"})
"""Reasons of a 403 that mean "not so fast"; `quotaExceeded` means that there is no room for another route."""
GAPS = frozenset({"UNREACHABLE", "PARTIAL_SUCCESS", "LIST_OVERHEAD_QUOTA_EXCEED"})
"""Warnings of a list that something is missing from."""


class Credentials(Protocol):
    """Who we are to the API (`google_identity.py`)."""

    @property
    def account(self) -> str:
        """For people: the service account."""
        ...

    async def token(self) -> str:
        """A bearer token that is valid now. Raises TargetError, ProviderBusy if another time may do."""
        ...

    def refused(self, token: str) -> None:
        """The API didn't take this one."""
        ...


class Refusal(TargetError):
    """The API answered that it won't do this: HTTP status and Google's reason ("notFound")."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)

    @property
    def is_absence(self) -> bool:
        """There is no such thing, in the API's own words: a proxy answers 404 too."""
        return self.status == 404 and self.reason in ("notFound", "NOT_FOUND")


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `method`: Google's name for it without `compute.` ("routes.insert"), for messages and metrics; `path`:
    below /compute/v1/."""

    method: str
    verb: str
    path: str
    params: Mapping[str, str]
    body: bytes = b""
    seconds: float = ANSWER


class ListWarning(msgspec.Struct, frozen=True, rename="camel"):
    code: str = ""
    message: str = ""


class _Item(msgspec.Struct, frozen=True, rename="camel"):
    reason: str = ""
    message: str = ""


class _Error(msgspec.Struct, frozen=True, rename="camel"):
    message: str = ""
    status: str = ""
    errors: list[_Item] = []


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class Page(Protocol):
    """An answer that may be one of several."""

    @property
    def next_page_token(self) -> str: ...

    @property
    def warning(self) -> ListWarning | None: ...


T = TypeVar("T")
P = TypeVar("P", bound=Page)


class ComputeApi:
    """Connections to one endpoint, e.g. https://compute.googleapis.com."""

    def __init__(self, endpoint: str, credentials: Credentials, pace: Pace) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._base = endpoint.rstrip("/") + "/compute/v1/"
        self._proxy = _proxy(endpoint)
        self._credentials = credentials
        self._pace = pace
        self._session: aiohttp.ClientSession | None = None

    @property
    def made(self) -> int:
        """Calls so far."""
        return self.calls.total()

    async def ask(self, request: Request, kind: type[T]) -> T:
        """The answer, decoded. Raises Refusal, ProviderBusy or another TargetError."""
        answer = await self._pace.call(lambda: self._once(request))
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise TargetError(f"{request.method}: the answer of {self._base} makes no sense: {error}") from error

    async def pages(self, request: Request, kind: type[P]) -> AsyncIterator[P]:
        """Every page, each asked for with all of the request's parameters: a page that forgets the filter is a page of
        somebody else's. Raises as `ask`, and TargetError if Google says that something is missing."""
        token, seen = "", {""}
        while True:
            params = {**request.params, **({"pageToken": token} if token else {})}
            page = await self.ask(Request(request.method, request.verb, request.path, params), kind)
            if page.warning is not None and page.warning.code in GAPS:
                raise TargetError(f"{request.method}: the list is not whole: {page.warning.message}; it is asked again")
            yield page
            token = page.next_page_token
            if not token:
                return
            if token in seen:
                raise TargetError(f"{request.method}: the same page came twice; it is asked again")
            seen.add(token)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _once(self, request: Request) -> bytes:
        token = await self._credentials.token()
        look_at_the_fence()  # a token may take its time
        try:
            status, headers, body = await self._exchange(request, token)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.calls[request.method, "no answer"] += 1
            said = str(error) or type(error).__name__
            raise ProviderBusy(f"{request.method}: no answer of {self._base}: {said}") from error
        self.calls[request.method, "ok" if status < 300 else str(status)] += 1
        if status < 300:
            return body
        if status == 401:
            self._credentials.refused(token)
        raise self._error(request, status, headers, body)

    async def _exchange(self, request: Request, token: str) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"User-Agent": AGENT})
        headers = {"Authorization": f"Bearer {token}"}
        if request.body:
            headers["Content-Type"] = "application/json"
        async with self._session.request(
            request.verb,
            self._base + request.path,
            params=request.params,
            data=request.body or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=request.seconds, sock_connect=CONNECTING),
            allow_redirects=False,
            proxy=self._proxy,
        ) as response:
            return response.status, response.headers, await response.read()

    def _error(self, request: Request, status: int, headers: Mapping[str, str], body: bytes) -> TargetError:
        try:
            error = msgspec.json.decode(body, type=_ErrorBody).error
        except msgspec.DecodeError:
            error = _Error(message=body[:200].decode(errors="replace").strip())
        reason = next((item.reason for item in error.errors), "") or error.status
        message = f"{request.method}: {status} {reason}: {error.message}".replace("\n", " ")
        if status == 429 or (status == 403 and reason in RATE):
            return ProviderBusy(message, retry_after(headers), throttled=True)
        if status in (401, 408) or status >= 500:
            return ProviderBusy(message, retry_after(headers))
        if status == 403:
            message += self._advice(reason, error.message)
        return Refusal(status, reason, message)

    def _advice(self, reason: str, text: str) -> str:
        if "scope" in text.lower() or reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
            return (
                ". The access scopes of this instance don't allow it: stop it, then gcloud compute instances "
                "set-service-account INSTANCE --scopes=compute-rw, and start it"
            )
        if reason in ("forbidden", "insufficientPermissions", "PERMISSION_DENIED"):
            return (
                f". {self._credentials.account} needs this permission: grant it roles/compute.networkAdmin, or the "
                "smaller role in docs/cloud-routes-google.md"
            )
        return ""


def _proxy(url: str) -> str | None:
    """As HTTPS_PROXY and NO_PROXY say. aiohttp's own look at them (`trust_env`) is one at ~/.netrc too, for each call,
    and who is in there has no say here."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asked to be left alone (RFC 9110, 10.2.3); None if it didn't say."""
    said = headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(parsedate_to_datetime(said).timestamp() - time(), 0.0)
    except (ValueError, TypeError):
        return None
