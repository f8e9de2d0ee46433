"""etcd's messages and methods, as far as they are used. Names are weft's own words, the numbers are etcd's:
api/etcdserverpb/rpc.proto and api/mvccpb/kv.proto (https://etcd.io/docs/v3.5/dev-guide/api_reference_v3/)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import msgspec

from weft.stores.etcd.codec import Message

MODIFIED = 2  # Compare.CompareTarget.MOD; Compare.CompareResult.EQUAL is 0, so it goes without saying
DELETED = 1  # Event.EventType.DELETE; PUT is 0


class Header(Message):
    """`revision`: the store's when it answered."""

    revision: Annotated[int, 3] = 0


class KeyValue(Message):
    key: Annotated[bytes, 1] = b""
    created: Annotated[int, 2] = 0
    modified: Annotated[int, 3] = 0
    version: Annotated[int, 4] = 0
    value: Annotated[bytes, 5] = b""
    lease: Annotated[int, 6] = 0


class RangeRequest(Message):
    """`end` empty: this one key. `revision` 0: now."""

    key: Annotated[bytes, 1] = b""
    end: Annotated[bytes, 2] = b""
    limit: Annotated[int, 3] = 0
    revision: Annotated[int, 4] = 0


class RangeResponse(Message):
    header: Annotated[Header, 1] = msgspec.field(default_factory=Header)
    kvs: Annotated[list[KeyValue], 2] = msgspec.field(default_factory=list)
    more: Annotated[bool, 3] = False


class PutRequest(Message):
    key: Annotated[bytes, 1] = b""
    value: Annotated[bytes, 2] = b""
    lease: Annotated[int, 3] = 0


class DeleteRequest(Message):
    key: Annotated[bytes, 1] = b""


class Compare(Message):
    target: Annotated[int, 2] = MODIFIED
    key: Annotated[bytes, 3] = b""
    modified: Annotated[int, 6] = 0


class Operation(Message):
    """One of the two."""

    put: Annotated[PutRequest | None, 2] = None
    delete: Annotated[DeleteRequest | None, 3] = None


class TxnRequest(Message):
    compare: Annotated[list[Compare], 1] = msgspec.field(default_factory=list)
    success: Annotated[list[Operation], 2] = msgspec.field(default_factory=list)


class TxnResponse(Message):
    header: Annotated[Header, 1] = msgspec.field(default_factory=Header)
    succeeded: Annotated[bool, 2] = False


class LeaseGrantRequest(Message):
    ttl: Annotated[int, 1] = 0


class LeaseRequest(Message):
    """LeaseRevokeRequest, LeaseKeepAliveRequest and LeaseTimeToLiveRequest are alike."""

    id: Annotated[int, 1] = 0


class LeaseResponse(Message):
    """The answers of all four too. `ttl`: seconds; 0 or less: there is no such lease."""

    id: Annotated[int, 2] = 0
    ttl: Annotated[int, 3] = 0


class WatchCreateRequest(Message):
    key: Annotated[bytes, 1] = b""
    end: Annotated[bytes, 2] = b""
    start: Annotated[int, 3] = 0


class WatchProgressRequest(Message):
    """Asks for a sign of life."""


class WatchRequest(Message):
    """One of the two."""

    create: Annotated[WatchCreateRequest | None, 1] = None
    progress: Annotated[WatchProgressRequest | None, 3] = None


class Event(Message):
    """Of a deletion, `kv` has the key and, as `modified`, the revision."""

    type: Annotated[int, 1] = 0
    kv: Annotated[KeyValue, 2] = msgspec.field(default_factory=KeyValue)


class WatchResponse(Message):
    """`canceled` with a `compacted` revision: what was asked for is no longer in the history."""

    header: Annotated[Header, 1] = msgspec.field(default_factory=Header)
    created: Annotated[bool, 3] = False
    canceled: Annotated[bool, 4] = False
    compacted: Annotated[int, 5] = 0
    reason: Annotated[str, 6] = ""
    events: Annotated[list[Event], 11] = msgspec.field(default_factory=list)


class AuthenticateRequest(Message):
    name: Annotated[str, 1] = ""
    password: Annotated[str, 2] = ""


class AuthenticateResponse(Message):
    token: Annotated[str, 2] = ""


class StatusRequest(Message):
    """Whoever answers is an etcd; no permission is needed."""


class StatusResponse(Message):
    version: Annotated[str, 2] = ""


Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, A]):
    """`repeatable`: asked twice is as good as asked once, so another member may be asked when the answer is lost.
    `streaming`: both sides may send many messages."""

    path: str
    question: type[Q]
    answer: type[A]
    repeatable: bool = True
    streaming: bool = False


RANGE = Method("/etcdserverpb.KV/Range", RangeRequest, RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", TxnRequest, TxnResponse, repeatable=False)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest, LeaseResponse)  # a spare lease expires
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest, LeaseResponse)
KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", LeaseRequest, LeaseResponse, streaming=True)
TIME_TO_LIVE = Method("/etcdserverpb.Lease/LeaseTimeToLive", LeaseRequest, LeaseResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", WatchRequest, WatchResponse, streaming=True)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", AuthenticateRequest, AuthenticateResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", StatusRequest, StatusResponse)
