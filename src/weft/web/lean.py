"""HTTP/1.1 for GET and HEAD, on asyncio's streams: what /health, /metrics and `weft show` take, and no more. Used by
`health.py` and `local.py`.

Why not aiohttp, which the Docker client brings: only who asks Docker loads it, and it is 11 MiB (ADR 15). Messages are
as RFC 9112 says; what isn't a plain GET or HEAD is refused and the
connection closed. Nobody can hold anything up: a head has 8 KiB and 15 s, and of too many connections the one goes that
was silent for longest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

log = logging.getLogger("weft")

LONGEST_HEAD = 8192
"""Octets of the request line and all headers."""
PATIENCE = 15.0
"""Seconds for a request to come, and for an answer to be taken."""
LINGER = 1.0
"""Seconds that a refused client gets to read the refusal."""
TURNS = 6
"""Of the event loop, until a connection that was accepted just now has come to us, and is closed again. (asyncio loses
one that it is still accepting when its server is closed.)"""
MOST = 64
"""Connections at a time."""
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/(\d)\.(\d)")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


@dataclass(frozen=True, slots=True)
class Answer:
    """`kind`: the media type."""

    body: bytes
    status: int = 200
    kind: str = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """`again`: the connection may be used for another one."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    again: bool = True


class Refused(Exception):
    """A request that can't be answered; `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(REASONS[status])
        self.status = status


Page = Callable[[Mapping[str, str]], Answer | Awaitable[Answer]]
"""Query → answer."""


def parse(head: bytes) -> Request:
    """A request's head with the empty line at its end. Raises Refused."""
    first, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    match = _LINE.fullmatch(first)
    if match is None:
        raise Refused(400)
    method, target, major, minor = match.groups()
    if major != b"1":
        raise Refused(505)
    headers: dict[bytes, bytes] = {}
    for line in rest:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise Refused(400)
        name = found[1].lower()
        headers[name] = b",".join(filter(None, (headers.get(name), found[2].strip(b" \t"))))
    if method not in (b"GET", b"HEAD"):
        raise Refused(405)
    if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
        raise Refused(400)
    options = {word.strip().lower() for word in headers.get(b"connection", b"").split(b",")}
    again = b"close" not in options and (minor != b"0" or b"keep-alive" in options)
    return _request(method.decode(), target.decode(), again)


def _request(method: str, target: str, again: bool) -> Request:
    try:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise Refused(400) from error
    if not target.startswith("/") and parts.scheme not in ("http", "https"):
        raise Refused(400)
    return Request(method, parts.path, query, again)


class LeanServer:
    """Answers with `pages`, by path."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[object], None] = {}
        self._stopped = False

    async def listen(self, host: str, port: int) -> None:
        """On a TCP port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=LONGEST_HEAD)

    async def listen_unix(self, path: str) -> None:
        """On a unix socket that is made. Raises OSError."""
        self._server = await asyncio.start_unix_server(self._serve, path, limit=LONGEST_HEAD)

    async def stop(self) -> None:
        """Close the socket and all connections."""
        if self._server is not None:
            self._stopped = True
            await self._end_connections()
            self._server.close()
            await self._end_connections()

    async def _end_connections(self) -> None:
        for _ in range(TURNS):
            for task in self._open:
                task.cancel()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MOST:
            silent = next(iter(self._open))
            del self._open[silent]
            silent.cancel()
        writer.transport.set_write_buffer_limits(high=0)  # what is drained is with the client's kernel
        try:
            again = not self._stopped
            while again:
                self._open.pop(task, None)
                self._open[task] = None
                again = await self._exchange(reader, writer)
            writer.close()
        except (OSError, asyncio.CancelledError):  # ENOTCONN is no ConnectionError
            writer.transport.abort()  # it went away, or was cut off: nothing to tell anybody
        finally:
            self._open.pop(task, None)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            request = parse(head)
        except asyncio.IncompleteReadError:
            return False
        except asyncio.LimitOverrunError:
            return await self._refuse(431, reader, writer)
        except Refused as refusal:
            return await self._refuse(refusal.status, reader, writer)
        answer = await self._answer(request)
        await _write(writer, _message(answer, request.method, request.again))
        return request.again

    async def _answer(self, request: Request) -> Answer:
        page = self._pages.get(request.path)
        if page is None:
            return _plain(404)
        try:
            answer = page(request.query)
            return answer if isinstance(answer, Answer) else await answer
        except Exception:  # one page's fault is that page's answer
            log.exception("GET %s: a fault in weft itself; please report it", request.path)
            return _plain(500)

    async def _refuse(self, status: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """What else it sends is read and thrown away for a moment: closing at once would take the answer from it."""
        await _write(writer, _message(_plain(status), "GET", again=False))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(LONGEST_HEAD):
                    continue
        return False


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Raises TimeoutError if the client doesn't take it."""
    writer.write(data)
    async with asyncio.timeout(PATIENCE):
        await writer.drain()


def _plain(status: int) -> Answer:
    return Answer(f"{status}: {REASONS[status]}\n".encode(), status, "text/plain; charset=utf-8")


def _message(answer: Answer, method: str, again: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {REASONS[answer.status]}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        f"Connection: {'keep-alive' if again else 'close'}",
        *(["Allow: GET, HEAD"] if answer.status == 405 else []),
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if method == "HEAD" else head + answer.body
