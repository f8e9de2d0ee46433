"""EC2 over HTTP, and the instance's metadata service, on loopback: what moto in this process can't show."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from tests.support.aws import REGION, Aws, aws, settled_environment
from tests.support.eventually import soon
from weft.agent.election import LIFE, SHARE
from weft.errors import ProviderBusy, TargetError
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import pace
from weft.targets.cloud.aws import AwsRoutes
from weft.targets.cloud.aws_identity import CONNECT_WITHIN
from weft.targets.cloud.aws_shapes import THREADS
from weft.targets.cloud.target import FENCE

TABLES = (
    '<DescribeRouteTablesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>'
    "<routeTableSet><item><routeTableId>rtb-1</routeTableId><vpcId>vpc-1</vpcId><routeSet/></item></routeTableSet>"
    "</DescribeRouteTablesResponse>"
)
MAC = "0e:49:61:0f:c3:11"


@dataclass
class Answer:
    """None as status: the connection is closed instead."""

    status: int | None = 200
    body: str = TABLES
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    url: str
    answer: Callable[[str, str], Answer]
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, list[str]]] = field(default_factory=list)


@contextmanager
def server(answer: Callable[[str, str], Answer]) -> Iterator[Server]:
    """On a free port of 127.0.0.1. `answer`: by method and path."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            made.asked.append(f"{self.command} {self.path}")
            made.forms.append(parse_qs(body))
            given = made.answer(self.command, self.path)
            if given.status is None:
                self.close_connection = True
                return
            self.send_response(given.status)
            for name, value in {"Content-Length": str(len(given.body)), **given.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given.body.encode())

        do_GET = do_PUT = do_POST = _reply  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Into nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Server(f"http://127.0.0.1:{httpd.server_port}", answer)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def error(code: str, status: int, **headers: str) -> Answer:
    body = f"<Response><Errors><Error><Code>{code}</Code><Message>so it is</Message></Error></Errors></Response>"
    return Answer(status, body, headers)


def settings(**given: object) -> RouteManagerSettings:
    plain = {"aws_route_table": ("rtb-1",), "aws_region": REGION, "requests_per_second": 1e5}
    return RouteManagerSettings(backend="aws", **{**plain, **given})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settled_environment(monkeypatch)
    monkeypatch.setattr(pace, "FIRST_DELAY", 0.002)


async def read(tables: AwsRoutes) -> None:
    try:
        await tables.read()
    finally:
        await tables.close()


async def test_errors_are_asked_again_by_us_alone() -> None:
    """botocore's own attempts would multiply ours, behind the back of the token bucket."""
    answers = [error("RequestLimitExceeded", 503), error("InternalError", 500), Answer(None), Answer()]
    with server(lambda *_: answers.pop(0)) as ec2:
        tables = AwsRoutes.of(settings(aws_endpoint=ec2.url))
        await read(tables)
    assert len(ec2.asked) == 4
    outcomes = ("RequestLimitExceeded", "InternalError", "ConnectionClosedError", "ok")
    assert dict(tables.calls) == {("DescribeRouteTables", outcome): 1 for outcome in outcomes}
    assert tables.tables == ("rtb-1",)
    assert ec2.forms[-1]["Filter.1.Value.1"] == ["rtb-1"]


async def test_after_so_many_attempts_it_is_an_error_that_says_what_was_asked() -> None:
    with server(lambda *_: error("Unavailable", 503)) as ec2:
        with pytest.raises(ProviderBusy, match="ec2:DescribeRouteTables: Unavailable: so it is"):
            await read(AwsRoutes.of(settings(aws_endpoint=ec2.url)))
        assert len(ec2.asked) == pace.ATTEMPTS


async def test_calls_that_wait_for_a_thread_are_not_sent_once_they_are_cancelled() -> None:
    """A leader whose term is over must not write on, and each of those calls may take many seconds."""
    held = threading.Event()

    def answer(*_: str) -> Answer:
        held.wait(10)
        return Answer()

    with server(answer) as ec2:
        tables = AwsRoutes.of(settings(aws_endpoint=ec2.url))
        api = await tables._connected()
        calls = [asyncio.create_task(api.tables({"route-table-id": ["rtb-1"]})) for _ in range(3 * THREADS)]
        await soon(lambda: len(ec2.asked) == THREADS, "all threads at work")
        for call in calls:
            call.cancel()
        await asyncio.sleep(0)
        held.set()
        await asyncio.gather(*calls, return_exceptions=True)
        await tables.close()
        assert all(call.cancelled() for call in calls)
    assert len(ec2.asked) == THREADS


async def test_the_fence_is_looked_at_when_the_request_is_signed_and_ready() -> None:
    """Before that, credentials may have been asked for anew, which takes seconds."""
    asked = 0

    def lead() -> bool:
        nonlocal asked
        asked += 1
        return asked == 1  # when it had its turn

    with server(lambda *_: Answer()) as ec2:
        tables = AwsRoutes.of(settings(aws_endpoint=ec2.url))
        with pace.fenced(lead), pytest.raises(TargetError, match=pace.NOT_LEADING):
            await read(tables)
    assert asked == 2
    assert ec2.asked == []


def test_a_request_is_sent_before_another_manager_may_lead() -> None:
    """What is asked of the fence holds for one more share of the election's time; then somebody else may write."""
    assert FENCE + CONNECT_WITHIN < LIFE / SHARE


async def test_what_the_api_asks_to_wait_is_heeded() -> None:
    with server(lambda *_: error("RequestLimitExceeded", 503, **{"Retry-After": "100"})) as ec2:
        with pytest.raises(ProviderBusy) as caught:
            await read(AwsRoutes.of(settings(aws_endpoint=ec2.url)))
        assert len(ec2.asked) == 1, "nobody waits that long within a cycle"
    assert caught.value.throttled
    assert caught.value.after is not None
    assert caught.value.after > 90


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("UnauthorizedOperation", 403, "docs/cloud-routes-aws.md has a policy"),
        ("AuthFailure", 401, "does not take these credentials, or this host's clock is wrong"),
        ("RequestExpired", 400, "this host's clock is wrong"),
    ],
)
async def test_refusals_say_what_to_do(code: str, status: int, said: str) -> None:
    with server(lambda *_: error(code, status)) as ec2:
        with pytest.raises(TargetError, match=said):
            await read(AwsRoutes.of(settings(aws_endpoint=ec2.url)))
        assert len(ec2.asked) == 1


async def test_an_endpoint_where_nobody_answers_is_named() -> None:
    with server(lambda *_: Answer()) as gone:
        url = gone.url
    with pytest.raises(ProviderBusy, match=f"nobody answers: .*{url}"):
        await read(AwsRoutes.of(settings(aws_endpoint=url)))


async def test_without_credentials_it_says_where_they_may_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with server(lambda *_: Answer()) as ec2:
        with pytest.raises(TargetError, match="give this instance a role, or set AWS_ACCESS_KEY_ID"):
            await read(AwsRoutes.of(settings(aws_endpoint=ec2.url)))
        assert ec2.asked == []


# Who this instance is.


def metadata(cloud: Aws) -> Callable[[str, str], Answer]:
    known = {
        "/latest/api/token": "token",
        "/latest/meta-data/placement/region": REGION,
        "/latest/meta-data/mac": MAC,
        f"/latest/meta-data/network/interfaces/macs/{MAC}/vpc-id": cloud.vpc,
    }
    return lambda _, path: Answer(body=known[path]) if path in known else Answer(404, "")


async def test_region_and_vpc_are_this_instances_if_nobody_says_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with aws(monkeypatch) as cloud, server(metadata(cloud)) as imds:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
        tables = AwsRoutes.of(settings(aws_route_table=(), aws_region=""))
        await tables.read()
        assert tables.tables == (cloud.main,)
        asked = len(imds.asked)
        await read(tables)
        assert len(imds.asked) == asked, "that does not change"
    assert imds.asked[0] == "PUT /latest/api/token", "IMDSv2"


async def test_the_environments_region_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    with aws(monkeypatch) as cloud:
        monkeypatch.setenv("AWS_REGION", REGION)
        tables = AwsRoutes.of(settings(aws_region="", aws_route_table=(cloud.main,)))
        await read(tables)
        assert tables.tables == (cloud.main,)


@pytest.mark.parametrize("there", [True, False], ids=["no-instance-of-aws", "switched-off"])
async def test_outside_of_aws_it_says_which_flags_to_give(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    with server(lambda *_: Answer(404, "")) as imds:
        if there:
            monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
        with pytest.raises(TargetError, match=r"the region is not known: .* outside of AWS, give -aws-region"):
            await read(AwsRoutes.of(settings(aws_region="")))
        with pytest.raises(TargetError, match=r"the VPC is not known: .* outside of AWS, give -aws-route-table=rtb-…"):
            await read(AwsRoutes.of(settings(aws_route_table=())))
    assert bool(imds.asked) == there


WITHOUT_BOTO3 = """
import sys
sys.modules.update(boto3=None, botocore=None)
from weft.errors import SettingsError
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import BACKENDS
try:
    BACKENDS["aws"](RouteManagerSettings(backend="aws"))
except SettingsError as error:
    print(error)
"""


def test_without_boto3_it_says_what_to_install() -> None:
    said = subprocess.run([sys.executable, "-c", WITHOUT_BOTO3], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("-backend=aws needs boto3: pip install 'weft[aws]'")
    assert said.stderr == ""
