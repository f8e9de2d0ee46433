"""Who may call: tokens, scopes, permissions, and how often. Used by `api` and `metadata`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from weft.lab.compute.refusal import Refusal
from weft.lab.compute.table import COMPUTE_SCOPE, PLATFORM_SCOPE, READ_SCOPE, ServiceAccount

RENEWED = 300.0
"""Seconds before its end at which the metadata server gives a new token instead of the one that it gave before."""


class Token(msgspec.Struct, frozen=True):
    text: str
    email: str
    scopes: tuple[str, ...]
    ends: float


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """`per_second` calls on average, `burst` at once; None: as many as one likes. `retry_after`: seconds for the
    header, which Google's compute API leaves out."""

    per_second: float | None = None
    burst: float = 20.0
    retry_after: float | None = None


UNLIMITED = Rate()


@dataclass(slots=True)
class Access:
    """`clock`: the engine's. `open`: calls without a token are let in, too."""

    account: Callable[[], ServiceAccount]
    clock: Callable[[], float]
    project: str
    number: str
    rate: Rate = UNLIMITED
    open: bool = False
    tokens: dict[str, Token] = field(default_factory=dict)
    _last: dict[tuple[str, ...], Token] = field(default_factory=dict)
    _bucket: float | None = None
    _filled: float = 0.0

    def token(self, scopes: tuple[str, ...] = ()) -> Token:
        """The one that was given before while it is good for long enough, else a new one."""
        account = self.account()
        wanted = scopes or account.scopes
        last, now = self._last.get(wanted), self.clock()
        if last and last.text in self.tokens and last.ends - now > min(RENEWED, account.token_life / 2):
            return last
        token = Token(f"ya29.lab-{secrets.token_urlsafe(24)}", account.email, wanted, now + account.token_life)
        self.tokens[token.text] = token
        self._last[wanted] = token
        return token

    def revoke(self) -> int:
        """No token is good any more; how many were."""
        count = sum(one.ends > self.clock() for one in self.tokens.values())
        self.tokens.clear()
        return count

    def check(self, header: str, permission: str, path: str) -> str:
        """Who calls. `header`: Authorization; `permission`: compute.routes.create. Refusal: 401 or 403."""
        kind, _, text = header.partition(" ")
        if not header and self.open:
            return "anonymous@example.com"
        token = self.tokens.get(text.strip()) if kind.lower() == "bearer" else None
        if not header:
            raise Refusal(401, "Login Required.", "required")
        if not token or token.ends <= self.clock():
            raise Refusal(
                401, "Request had invalid authentication credentials. Expected OAuth 2 access token.", "authError"
            )
        writes = permission.rsplit(".", 1)[-1] not in ("get", "list")
        enough = {COMPUTE_SCOPE, PLATFORM_SCOPE} if writes else {COMPUTE_SCOPE, PLATFORM_SCOPE, READ_SCOPE}
        if not enough.intersection(token.scopes):
            raise Refusal(403, "Request had insufficient authentication scopes.", "insufficientPermissions")
        if permission in self.account().denied:
            raise Refusal(403, f"Required '{permission}' permission for '{path}'", "forbidden")
        return token.email

    def count(self) -> None:
        """One call; Refusal (403 rateLimitExceeded) if there were too many."""
        if self.rate.per_second is None:
            return
        now = self.clock()
        level = self.rate.burst if self._bucket is None else self._bucket
        level = min(self.rate.burst, level + (now - self._filled) * self.rate.per_second)
        self._filled = now
        if level < 1:
            self._bucket = level
            text = (
                "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service "
                f"'compute.googleapis.com' for consumer 'project_number:{self.number}'."
            )
            raise Refusal(403, text, "rateLimitExceeded", self.rate.retry_after)
        self._bucket = level - 1
