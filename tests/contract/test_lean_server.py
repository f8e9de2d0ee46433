"""The small HTTP server, over real sockets, with aiohttp's client as the oracle and with clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventually import patience, soon
from tests.support.ports import free_port
from weft.errors import WeftError
from weft.web import lean
from weft.web.api import AgentStatus, ExplainAnswer, ExplainLine, PlanAnswer
from weft.web.lean import LONGEST_HEAD, MOST, Answer, LeanServer, Page, Refused, parse
from weft.web.local import LocalServer


def echo(query: Mapping[str, str]) -> Answer:
    return Answer(json.dumps(dict(query)).encode())


async def slow(_: Mapping[str, str]) -> Answer:
    await asyncio.sleep(0)
    return Answer(b"later", kind="text/plain")


def broken(_: Mapping[str, str]) -> Answer:
    raise ZeroDivisionError


def large(_: Mapping[str, str]) -> Answer:
    return Answer(bytes(64 << 20))


PAGES: dict[str, Page] = {"/echo": echo, "/slow": slow, "/broken": broken, "/large": large}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = LeanServer(PAGES)
    free = free_port()
    await server.listen("127.0.0.1", free)
    yield free
    await server.stop()


async def said(port: int, text: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    try:
        async with asyncio.timeout(patience(10)):
            return await reader.read()
    finally:
        writer.close()


async def test_a_real_client_is_answered_many_times_on_one_connection(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        for number in range(20):
            async with session.get(f"{url}/echo?q=10.1.0.0%2F16&n={number}&empty=") as answer:
                assert answer.status == 200
                assert await answer.json() == {"q": "10.1.0.0/16", "n": str(number), "empty": ""}
        async with session.head(f"{url}/slow") as answer:
            assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "5", b"")
        async with session.get(f"{url}/slow") as answer:
            assert await answer.text() == "later"
        async with session.get(f"{url}/nothing") as answer:
            assert answer.status == 404


async def test_a_fault_in_a_page_is_its_own(port: int, caplog: pytest.LogCaptureFixture) -> None:
    assert b"HTTP/1.1 500 " in await said(port, b"GET /broken HTTP/1.0\r\n\r\n")
    assert "a fault in weft itself" in caplog.text
    assert (await said(port, b"GET /slow HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nlater")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"GET /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\n\r\n", 505),
        (b"GET  /echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo\r\n\r\n", 400),
        (b"GET ftp://host/echo HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[/echo HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo?%s HTTP/1.1\r\n\r\n" % b"&".join(b"a=1" for _ in range(50)), 400),
        (b"GET /echo HTTP/1.1\r\nBroken header: 1\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: 1\rB: 2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nA: " + b"x" * 2 * LONGEST_HEAD + b"\r\n\r\n", 431),
        (b"GET http://127.0.0.1/echo HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
    ],
)
async def test_what_is_no_plain_get_is_refused_and_the_connection_closed(port: int, text: bytes, status: int) -> None:
    answer = await said(port, text)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1, "what came behind is not taken for another request"
    assert (b"Allow: GET, HEAD\r\n" in answer) == (status == 405)


async def test_who_says_nothing_is_cut_off_and_holds_up_nobody(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST + 5)]
    assert b"later" in await said(port, b"GET /slow HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(patience(5)):
        assert await quiet[0][0].read() == b"", "of too many, the one goes that was silent for longest"
    monkeypatch.setattr(lean, "PATIENCE", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /slow HT")
    async with asyncio.timeout(patience(5)):
        assert await reader.read() == b""
    for _, each in (*quiet, (reader, writer)):
        each.close()


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "PATIENCE", 0.1)
    server = LeanServer(PAGES)
    port = free_port()
    await server.listen("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        await soon(lambda: len(server._open) == 1, "the request")
        await soon(lambda: not server._open, "the end of the server's patience")
    await server.stop()


class Gone(asyncio.StreamWriter):
    """Its client resets the connection between the answer and its end."""

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


async def test_a_client_that_goes_while_it_is_refused_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    server = LeanServer(PAGES)
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = writer.transport.get_protocol()
        try:
            await server._serve(reader, Gone(writer.transport, protocol, reader, asyncio.get_running_loop()))
        finally:
            served.set()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        assert b"405" in await said(listening.sockets[0].getsockname()[1], b"POST /echo HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(patience(5)):
            await served.wait()
        await asyncio.sleep(0)
    assert not server._open
    assert not caplog.records


async def test_stopping_closes_what_is_open(port: int) -> None:
    server = LeanServer(PAGES)
    other = free_port()
    await server.listen("127.0.0.1", other)
    reader, writer = await asyncio.open_connection("127.0.0.1", other)
    await soon(lambda: server._open, "the connection")
    await server.stop()
    async with asyncio.timeout(patience(5)):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection("127.0.0.1", other)


@given(st.binary(max_size=300))
def test_any_octets_are_a_request_or_refused(head: bytes) -> None:
    with contextlib.suppress(Refused):
        parse(head + b"\r\n\r\n")


PIECES = st.sampled_from(
    b"GET|HEAD|POST| |/|/echo|?q=%zz|http://|[::1|HTTP/1.1|HTTP/1.0|\r\n|\n|:|Connection|close|keep-alive|\0|\xff|,|0".split(
        b"|"
    )
)


@given(st.lists(PIECES, max_size=20).map(b"".join))
def test_whatever_is_made_of_their_pieces_too(head: bytes) -> None:
    with contextlib.suppress(Refused):
        request = parse(head + b"\r\n\r\n")
        assert request.method in ("GET", "HEAD")


@pytest.mark.parametrize(
    ("version", "connection", "again"),
    [
        (b"1", b"", True),
        (b"1", b"close", False),
        (b"0", b"", False),
        (b"0", b"Keep-Alive", True),
        (b"1", b"a, Close", 0),
    ],
)
def test_whether_the_connection_stays(version: bytes, connection: bytes, again: int) -> None:
    head = b"GET / HTTP/1.%s\r\nConnection: %s\r\n\r\n" % (version, connection)
    assert parse(head).again == again


# The Api on a unix socket. --------------------------------------------------------------------------------------------


class Telling:
    """An Api that knows little."""

    def __init__(self) -> None:
        self.planned: PlanAnswer | None = None

    def status(self) -> AgentStatus:
        return AgentStatus(
            *("degraded", "a", "0", "vxlan1000", [], 1.0, 2, 3, {}, {}, 4, 5.0, ["discovery.json"], [], []),
        )

    def peers(self) -> list[str]:
        return ["b", "c"]

    async def plan(self) -> PlanAnswer | None:
        return self.planned

    def explain(self, asked: str) -> ExplainAnswer:
        if not asked:
            raise ValueError("what is asked?")
        return ExplainAnswer(asked, True, [ExplainLine("way", "because", "done")])


async def local(path: Path, what: str) -> tuple[int, object]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get(f"http://agent/v1/{what}") as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_the_api_on_a_unix_socket(tmp_path: Path) -> None:
    path, api = tmp_path / "run" / "router.sock", Telling()
    server = LocalServer(api, path)
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert await local(path, "peers") == (200, ["b", "c"])
    assert (await local(path, "status"))[0] == 200
    expected = {"error": "nothing is planned yet: waiting for discovery.json"}
    assert await local(path, "plan") == (503, expected)
    api.planned = PlanAnswer(["ip link add"], [], [])
    assert await local(path, "plan") == (200, {"changes": ["ip link add"], "held": [], "conflicts": []})
    assert await local(path, "explain") == (400, {"error": "what is asked?"})
    assert (await local(path, "explain?q=10.1.0.1"))[0] == 200
    with pytest.raises(WeftError, match="another daemon answers"):
        await LocalServer(Telling(), path).start()
    await server.stop()
    assert not path.exists()


async def test_a_socket_that_was_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    server = LocalServer(Telling(), path)
    await server.start()
    await server.stop()
    path.write_text("mine")
    with pytest.raises(WeftError, match="is no socket"):
        await LocalServer(Telling(), path).start()


def test_the_command_line_s_client_is_content(tmp_path: Path) -> None:
    """`weft show` asks with http.client, and reads to the end of Content-Length."""
    path = tmp_path / "s.sock"

    async def serve() -> bytes:
        server = LocalServer(Telling(), path)
        await server.start()
        try:
            return await asyncio.to_thread(ask)
        finally:
            await server.stop()

    def ask() -> bytes:
        connection = http.client.HTTPConnection("agent", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/v1/peers")
        try:
            return connection.getresponse().read()
        finally:
            connection.close()

    assert asyncio.run(serve()) == b'["b","c"]'
