"""What etcd's and gRPC's errors mean in the Store's three words. Used by `connection` and `watching`.

etcd's texts: server/etcdserver/api/v3rpc/rpctypes/error.go; the codes alone don't do, since a wrong password and a
missing token come as INVALID_ARGUMENT.
"""

from __future__ import annotations

import grpc
import grpc.aio

from weft.errors import StoreError, StoreForbidden, StoreUnreachable

NO_ANSWER = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by the server: it shuts down
}
NOT_ALLOWED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
AUTH_IS_OFF = "authentication is not enabled"
STALE = ("invalid auth token", "revision of auth store is old", "user name is empty")
WRONG_USER = ("authentication failed", "user name not found")
CERTIFICATES = {  # in gRPC's texts: what it means
    "Hostname Verification": "the member's certificate is for another name",
    "Peer name": "the member's certificate is for another name",
    "CERTIFICATE_VERIFY_FAILED": "the member's certificate is not of the CA that was given",
    "security handshaker": "the CA's, the client's certificate or its key can't be used",
    "TSI_DATA_CORRUPTED": "the member broke off after our certificate: it wants one, or one of another CA",
    "ertificate": "look at the CA's and the client's certificate",
    "CERTIFICATE": "look at the CA's and the client's certificate",
}


class StaleToken(StoreForbidden):
    """The token has expired, the member restarted, or users changed: a new one may help."""


def of_rpc(error: grpc.aio.AioRpcError) -> StoreError:
    """The error that a failed call stands for; its text is the cause alone."""
    code, text = error.code(), error.details() or "no text"
    if any(part in text for part in STALE):
        return StaleToken(text)
    if code in NOT_ALLOWED or any(part in text for part in WRONG_USER):
        return StoreForbidden(text)
    if code in NO_ANSWER or (code is grpc.StatusCode.INTERNAL and not text.startswith("etcdserver")):
        for part, meaning in CERTIFICATES.items():
            if part in text:
                return StoreForbidden(f"{meaning} ({_last(text)})")
        return StoreUnreachable("no answer in time" if code is grpc.StatusCode.DEADLINE_EXCEEDED else _last(text))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return StoreError(f"{text}; is this etcd's client port, and etcd 3.4 or later?")
    return StoreError(text)


def of_watch(reason: str) -> StoreError:
    """The error that a canceled watch stands for. etcd 3.4 gives the same reason for a stale token and a missing
    permission, so every refusal may be a stale token."""
    if any(part in reason for part in (*STALE, "permission denied", "auth")):
        return StaleToken(reason)
    return StoreUnreachable(reason or "the watch was canceled without a reason")


def _last(text: str) -> str:
    """gRPC tells the story of every attempt; the last sentence is the cause."""
    return text.rsplit("last error: ", 1)[-1].removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ")
