"""Asks etcd: which member, with which token, how long. Used by `store` and `watching`.

One channel per member, and one member asked at a time for as long as it answers: so each member's certificate is
checked against its own name, names are resolved anew, a write goes out once, and a member that hangs costs one
question its patience and no other (docs/adr/0007). The first member is drawn by lot, so that a thousand hosts with the
same settings spread over all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would print is in the errors that it raises
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")  # getaddrinfo: /etc/hosts and nsswitch hold

import grpc
import grpc.aio

from weft.errors import StoreError, StoreForbidden, StoreUnreachable
from weft.stores.etcd.codec import Message, decode, encode
from weft.stores.etcd.messages import AUTHENTICATE, STATUS, A, AuthenticateRequest, Method, Q, StatusRequest
from weft.stores.etcd.options import Endpoint, EtcdOptions, checked
from weft.stores.etcd.refusals import AUTH_IS_OFF, StaleToken, of_rpc

log = logging.getLogger("weft")

RENEWALS = 3
"""Tokens that one question may need: a new one, too, is of before when users change just then."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),  # etcd hangs up on who pings more often than every 5 s
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),  # without it a member that hangs is noticed after 70 s
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # despite its name: how long connecting may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # two stores of one process don't share a backoff
    ("grpc.enable_http_proxy", 0),  # etcd's own clients ask no proxy either
    ("grpc.service_config_disable_resolution", 1),
)
LEADER = ("hasleader", "true")  # a member without a leader then says so at once, in a watch too
CLOSED = "this store was closed, or its connection given up"
Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]
T = TypeVar("T")
Question: TypeAlias = Callable[[grpc.aio.Channel, Metadata, float], Awaitable[T]]


class Connection:
    """Constructing does no I/O and needs no loop; raises SettingsError. Its questions raise StoreUnreachable,
    StoreForbidden or StoreError."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        self._endpoints = checked(options)
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}
        self._at = random.randrange(len(self._endpoints))
        self._token: str | None = None  # "": none is needed; None: not known yet
        self._renewing = asyncio.Lock()
        self._closed = False
        self.heard: dict[Endpoint, float] = {}
        """When a member last said something in a stream, by the loop's clock: a sign of life of the whole member."""

    @property
    def endpoint(self) -> Endpoint:
        """The member that is asked first."""
        return self._endpoints[self._at]

    @property
    def timeout(self) -> float:
        return self._options.timeout

    async def ask(self, method: Method[Q, A], question: Q, asked: str) -> A:
        """The answer of one member; of the next one if it does not answer and `method` may be asked twice. `asked`
        names the question in errors: "keys under '/a/'"."""

        async def send(channel: grpc.aio.Channel, metadata: Metadata, limit: float) -> A:
            if method.streaming:
                call, answer = await _open(channel, metadata, limit, method, question)
                call.cancel()
                return answer
            return await _unary(channel, metadata, limit, method, question)

        return await self._somewhere(send, method.repeatable, asked)

    async def open(
        self, method: Method[Q, A], question: Q, asked: str, check: Callable[[A], StoreError | None]
    ) -> tuple[Call, A]:
        """A stream with its first question sent, and the first answer to it, unless `check` says that it is a
        refusal. `call.cancel()` ends it."""

        async def send(channel: grpc.aio.Channel, metadata: Metadata, limit: float) -> tuple[Call, A]:
            call, answer = await _open(channel, metadata, limit, method, question)
            if refusal := check(answer):
                call.cancel()
                raise refusal
            return call, answer

        return await self._somewhere(send, True, asked)

    async def close(self) -> None:
        self._closed = True
        for channel in self._channels.values():
            await channel.close()

    async def _somewhere(self, send: Question[T], repeatable: bool, asked: str) -> T:
        """Ask member after member, each with its share of the time that is left, until one answers. Each is asked once,
        whatever other questions that fail meanwhile move on to; an error names them in the settings' order, so that an
        outage is one sentence and not a new one with each attempt."""
        deadline = _now() + self._options.timeout
        failures: list[tuple[Endpoint, StoreError]] = []
        first, count = self._at, len(self._endpoints)
        for left in range(count, 0, -1):
            endpoint = self._endpoints[(first - left) % count]
            try:
                channel = await self._reached(endpoint, (deadline - _now()) / left)
            except (StoreUnreachable, StoreForbidden) as error:
                failures.append((endpoint, error))
                self.leave(endpoint)
                continue
            limit = (deadline - _now()) / (left if repeatable else 1)
            try:
                return await self._guarded(self._allowed(channel, send, limit))
            except StoreUnreachable as error:
                failures.append((endpoint, error))
                self.leave(endpoint)
                if not repeatable:
                    break  # it may have been done
            except StoreError as error:
                kind = StoreForbidden if isinstance(error, StoreForbidden) else StoreError
                raise kind(f"etcd, asked for {asked}: {_told(endpoint, error)}") from error
        raise _nobody(asked, sorted(failures, key=lambda failure: self._endpoints.index(failure[0])))

    async def _reached(self, endpoint: Endpoint, limit: float) -> grpc.aio.Channel:
        """A channel that is connected. What fails here left nothing done."""
        try:
            channel = self._channel(endpoint)
            if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
                await self._guarded(_unary(channel, (LEADER,), limit, STATUS, StatusRequest()))
        except StoreUnreachable:
            raise
        except StoreForbidden:
            if spoilt := self._channels.pop(endpoint, None):
                await spoilt.close()  # so that the files are read again next time: certificates get renewed
            raise
        except StoreError as error:  # it answers; what it thinks of the question proper is another matter
            log.debug("etcd at %s, asked whether it is there: %s", endpoint, error)
        return channel

    async def _allowed(self, channel: grpc.aio.Channel, send: Question[T], limit: float) -> T:
        """Ask with our token, once more with a new one if this one is refused."""
        deadline = _now() + limit
        if self._options.username and self._token is None:
            await self._renew(channel, None, limit)
        for _ in range(RENEWALS):
            token = self._token
            try:
                return await send(channel, _metadata(token), deadline - _now())
            except StaleToken as error:
                if not self._options.username:
                    raise StoreForbidden(f"{error}; etcd wants a user: give a name and a password") from error
            await self._renew(channel, token, deadline - _now())
        return await send(channel, _metadata(self._token), deadline - _now())

    async def _renew(self, channel: grpc.aio.Channel, old: str | None, limit: float) -> None:
        async with self._renewing:
            if self._token != old:
                return  # another question's refusal brought a new one meanwhile
            who = AuthenticateRequest(self._options.username, self._options.password)
            try:
                answer = await _unary(channel, (LEADER,), limit, AUTHENTICATE, who)
            except StoreError as error:
                if AUTH_IS_OFF not in str(error):
                    raise
                self._token = ""
            else:
                self._token = answer.token

    async def _guarded(self, work: Awaitable[T]) -> T:
        """gRPC cancels whoever waits on a channel that is closed; to its task that is no cancellation."""
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not (task and task.cancelling()):
                raise StoreUnreachable(CLOSED) from None
            raise

    def _channel(self, endpoint: Endpoint) -> grpc.aio.Channel:
        if self._closed:
            raise StoreUnreachable(CLOSED)
        if endpoint not in self._channels:
            if endpoint.tls:
                channel = grpc.aio.secure_channel(endpoint.address, self._credentials(), CHANNEL_OPTIONS)
            else:
                channel = grpc.aio.insecure_channel(endpoint.address, CHANNEL_OPTIONS)
            self._channels[endpoint] = channel
        return self._channels[endpoint]

    def _credentials(self) -> grpc.ChannelCredentials:
        paths = ssl.get_default_verify_paths()
        authorities = self._options.cafile or paths.cafile or ""
        return grpc.ssl_channel_credentials(
            _read(authorities), _read(self._options.keyfile), _read(self._options.certfile)
        )

    def leave(self, endpoint: Endpoint) -> None:
        """Ask the next member first from now on, unless another question's failure has moved on already."""
        if self.endpoint == endpoint:
            self._at = (self._at + 1) % len(self._endpoints)


async def _unary(channel: grpc.aio.Channel, metadata: Metadata, limit: float, method: Method[Q, A], question: Q) -> A:
    send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method.path)
    try:
        octets = await send(encode(question), timeout=limit, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise of_rpc(error) from error
    return decode(method.answer, octets)


async def _open(
    channel: grpc.aio.Channel, metadata: Metadata, limit: float, method: Method[Q, A], question: Q
) -> tuple[Call, A]:
    call: Call = channel.stream_stream(method.path)(metadata=metadata)
    try:
        async with asyncio.timeout(limit):
            await write(call, question)
            return call, await read(call, method)
    except TimeoutError:
        raise StoreUnreachable("no answer in time") from None


async def read(call: Call, method: Method[Q, A]) -> A:
    """The stream's next message. Raises StoreUnreachable, StoreForbidden or StoreError when there will be none."""
    try:
        octets = await call.read()
    except grpc.aio.AioRpcError as error:
        raise of_rpc(error) from error
    if not isinstance(octets, bytes):
        raise StoreUnreachable("the stream was ended")
    return decode(method.answer, octets)


async def write(call: Call, question: Message) -> None:
    """Send one message on a stream; raises the same."""
    try:
        await call.write(encode(question))
    except grpc.aio.AioRpcError as error:
        raise of_rpc(error) from error
    except asyncio.InvalidStateError:
        raise StoreUnreachable("the stream was ended") from None


def _nobody(asked: str, failures: list[tuple[Endpoint, StoreError]]) -> StoreError:
    """No member answered this: forbidden if each of them says no, else unreachable."""
    told = "; ".join(_told(endpoint, error) for endpoint, error in failures)
    if all(isinstance(error, StoreForbidden) for _, error in failures):
        return StoreForbidden(f"etcd, asked for {asked}: {told}")
    hint = "; does etcd run, and are the endpoints right, http or https too?" if CLOSED not in told else ""
    return StoreUnreachable(f"etcd could not be asked for {asked}: {told}{hint}")


def _told(endpoint: Endpoint, error: StoreError) -> str:
    """gRPC names the address; what is already said is not said twice."""
    return f"{endpoint}: {error}".replace(f"ipv4:{endpoint.address}: ", "").replace(f"ipv6:{endpoint.address}: ", "")


def _read(path: str) -> bytes | None:
    """A PEM file, None for no path."""
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise StoreForbidden(f"the file {path} can't be read ({error.strerror}); look at the TLS settings") from error


def _metadata(token: str | None) -> Metadata:
    return (LEADER, ("token", token)) if token else (LEADER,)


def _now() -> float:
    return asyncio.get_running_loop().time()
