"""Answers that are no: HTTP status and the body that Google sends with it. Raised throughout the package, answered by
`api`.

The form is that of Google's JSON APIs: {"error": {"code", "message", "errors": [{"message", "domain", "reason"}]}}.
"""

from __future__ import annotations

REASONS = {
    400: "badRequest",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    429: "rateLimitExceeded",
    500: "internalError",
    501: "notImplemented",
    502: "backendError",
    503: "backendError",
    504: "gatewayTimeout",
}
STATUSES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
USAGE = {"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"}
"""Reasons of the domain usageLimits."""


class Refusal(Exception):
    """One answer that is no. `retry_after`: seconds, for the header; `html`: as the front end answers, without JSON."""

    def __init__(
        self, status: int, message: str, reason: str = "", retry_after: float | None = None, html: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.reason = reason or REASONS.get(status, "backendError")
        self.retry_after, self.html = retry_after, html

    def body(self) -> dict[str, object]:
        domain = "usageLimits" if self.reason in USAGE else "global"
        item: dict[str, object] = {"message": self.message, "domain": domain, "reason": self.reason}
        if self.status == 401:
            item |= {"location": "Authorization", "locationType": "header"}
        error: dict[str, object] = {"code": self.status, "message": self.message, "errors": [item]}
        if self.status in STATUSES and self.reason != "quotaExceeded":
            error["status"] = STATUSES[self.status]
        return {"error": error}


def not_found(path: str) -> Refusal:
    """`path`: projects/p/global/routes/r."""
    return Refusal(404, f"The resource '{path}' was not found", "notFound")


def already_there(path: str) -> Refusal:
    return Refusal(409, f"The resource '{path}' already exists", "alreadyExists")


def not_ready(path: str) -> Refusal:
    return Refusal(400, f"The resource '{path}' is not ready", "resourceNotReady")


def invalid(field: str, value: object, why: str) -> Refusal:
    """`field`: resource.destRange, or a query parameter's name."""
    return Refusal(400, f"Invalid value for field '{field}': '{value}'. {why}", "invalid")


def missing(field: str) -> Refusal:
    return Refusal(400, f"Required field '{field}' not specified", "required")
