"""The local Compute Engine API speaks Google's language: Google's own client (google-api-python-client), its
authentication library and its discovery document say so."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import httplib2
import msgspec
import pytest
import requests
from google.auth.compute_engine import _metadata as metadata
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request as AuthRequest
from google.oauth2 import service_account
from google_auth_httplib2 import AuthorizedHttp
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError

from tests.support.compute import Gce, Told, compute
from tests.support.discovery_document import document, of_schema, shipped
from tests.support.eventually import until
from weft.errors import LabError
from weft.lab.compute import api, checks, listing
from weft.lab.compute.access import Rate
from weft.lab.compute.engine import Compute
from weft.lab.compute.faults import Fault
from weft.lab.compute.operations import Timing
from weft.lab.compute.paging import Paging
from weft.lab.compute.table import (
    COMPUTE_SCOPE,
    READ_SCOPE,
    GivenRoute,
    Instance,
    Network,
    ServiceAccount,
    Subnetwork,
    Table,
    small,
)

PROJECT = "weft-lab"
QUICK = Timing(pending=0.0, running=0.0)
DEFAULT = "https://www.googleapis.com/compute/v1/projects/weft-lab/global/networks/default"


class Bearer:
    """What google_auth_httplib2 asks of credentials, with the local cloud's tokens; one that is refused is renewed."""

    def __init__(self, gce: Gce) -> None:
        self.gce, self.token, self.refreshed = gce, gce.cloud.token().text, 0

    def before_request(self, request: object, method: str, url: str, headers: dict[str, str]) -> None:
        headers["authorization"] = f"Bearer {self.token}"

    def refresh(self, request: object) -> None:
        self.refreshed += 1
        self.token = self.gce.cloud.token().text


OPENED: list[httplib2.Http] = []


@pytest.fixture(autouse=True)
def connections_are_closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def plain() -> httplib2.Http:
    """Without a token."""
    OPENED.append(httplib2.Http(timeout=10))
    return OPENED[-1]


@functools.cache
def described() -> dict[str, Any]:
    """For the client, which writes into it."""
    return shipped()


def client(gce: Gce, credentials: object = None) -> Any:
    """Google's client, pointed at the local cloud."""
    http = AuthorizedHttp(credentials or Bearer(gce), http=plain())
    where = {"api_endpoint": f"{gce.url}{api.PREFIX}"}
    return build_from_document(described(), http=http, client_options=where)


def body(number: int, **more: object) -> dict[str, object]:
    dst = ip_network(f"10.244.{number}.0/24")
    given: dict[str, object] = {
        "name": f"flannel-default-10-244-{number}-0-24",
        "network": "global/networks/default",
        "destRange": str(dst),
        "nextHopIp": "10.128.0.2",
        "priority": 1000,
        "description": "weft route-manager /coreos.com/network: a test's",
    }
    return {key: value for key, value in {**given, **more}.items() if value is not None}


def done(google: Any, operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = google.globalOperations().wait(project=PROJECT, operation=operation["name"]).execute()
    assert found["status"] == "DONE"
    return found


def add(google: Any, *numbers: int, **more: object) -> None:
    for number in numbers:
        answer = done(google, google.routes().insert(project=PROJECT, body=body(number, **more)).execute())
        assert "error" not in answer


def refused(request: Any) -> HttpError:
    with pytest.raises(HttpError) as caught:
        request.execute()
    return caught.value


def reason(error: HttpError) -> tuple[int, str]:
    return error.status_code, error.error_details[0]["reason"]


@pytest.fixture(scope="module")
def picky() -> Iterator[Gce]:
    """For tests of what is refused: it stays as it is."""
    with compute(timing=QUICK, check=False) as found:
        yield found


@pytest.fixture
def gce() -> Iterator[Gce]:
    with compute(timing=QUICK) as found:
        yield found


def test_a_route_is_inserted_listed_and_deleted(gce: Gce) -> None:
    google = client(gce)
    add(google, 1)
    found = google.routes().get(project=PROJECT, route="flannel-default-10-244-1-0-24").execute()
    assert (found["destRange"], found["nextHopIp"], found["priority"]) == ("10.244.1.0/24", "10.128.0.2", 1000)
    assert found["network"] == DEFAULT
    assert found["selfLink"].endswith("/projects/weft-lab/global/routes/flannel-default-10-244-1-0-24")
    names = [one["name"] for one in google.routes().list(project=PROJECT).execute()["items"]]
    assert [name for name in names if not name.startswith("default-route-")] == ["flannel-default-10-244-1-0-24"]
    assert len(names) == 3
    done(google, google.routes().delete(project=PROJECT, route=found["id"]).execute())
    error = refused(google.routes().get(project=PROJECT, route=found["name"]))
    assert reason(error) == (404, "notFound")
    assert error.reason == f"The resource 'projects/weft-lab/global/routes/{found['name']}' was not found"
    assert [change.after is None for change in gce.history.touched(found["name"])] == [False, True]


class Now:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_an_operation_takes_its_time() -> None:
    now = Now()
    with compute(timing=Timing(pending=1.0, running=4.0), clock=now) as gce:
        google = client(gce)
        operation = google.routes().insert(project=PROJECT, body=body(1)).execute()
        assert operation["operationType"] == "insert"
        assert operation["targetLink"].endswith("/global/routes/flannel-default-10-244-1-0-24")
        get = google.globalOperations().get(project=PROJECT, operation=operation["name"])
        seen = []
        for now.time in (1000.5, 1001.0, 1003.0, 1004.9, 1005.0):
            found = get.execute()
            seen.append((found["status"], found["progress"], "startTime" in found, "endTime" in found))
            there = "items" in google.routes().list(project=PROJECT, filter="name eq flannel-.*").execute()
            assert there is (found["status"] == "DONE")
        assert seen == [
            ("PENDING", 0, False, False),
            ("RUNNING", 1, True, False),
            ("RUNNING", 50, True, False),
            ("RUNNING", 97, True, False),
            ("DONE", 100, True, True),
        ]
        took = datetime.fromisoformat(found["endTime"]) - datetime.fromisoformat(found["insertTime"])
        assert abs(took - timedelta(seconds=5)) <= timedelta(milliseconds=1)
        route = google.routes().get(project=PROJECT, route=body(1)["name"]).execute()
        assert route["id"] == operation["targetId"]
        listed = google.globalOperations().list(project=PROJECT, filter='targetId = "' + route["id"] + '"').execute()
        assert [one["name"] for one in listed["items"]] == [operation["name"]]
        google.globalOperations().delete(project=PROJECT, operation=operation["name"]).execute()
        assert "items" not in google.globalOperations().list(project=PROJECT).execute()


def test_wait_holds_until_it_is_done_or_its_own_time_is_over() -> None:
    with compute(timing=Timing(pending=0.0, running=0.3)) as gce:
        google = client(gce)
        operation = google.routes().insert(project=PROJECT, body=body(1)).execute()
        done(google, operation)
        (waited,) = gce.history.called("globalOperations.wait")
        assert waited.at + waited.took >= gce.history.touched(str(body(1)["name"]))[0].at
    with compute(timing=Timing(pending=60.0, wait=0.05)) as gce:
        google = client(gce)
        operation = google.routes().insert(project=PROJECT, body=body(1)).execute()
        left = google.globalOperations().wait(project=PROJECT, operation=operation["name"]).execute()
        assert left["status"] == "PENDING"


def test_what_is_under_way_is_in_the_way() -> None:
    now = Now()
    with compute(timing=Timing(pending=0.0, running=1.0), clock=now) as gce:
        google = client(gce)
        name = str(body(1)["name"])
        first = google.routes().insert(project=PROJECT, body=body(1)).execute()
        assert reason(refused(google.routes().insert(project=PROJECT, body=body(1)))) == (409, "alreadyExists")
        assert reason(refused(google.routes().delete(project=PROJECT, route=name))) == (400, "resourceNotReady")
        error = refused(google.globalOperations().delete(project=PROJECT, operation=first["name"]))
        assert error.status_code == 400
        now.time += 1
        done(google, first)
        second = google.routes().delete(project=PROJECT, route=name).execute()
        assert reason(refused(google.routes().insert(project=PROJECT, body=body(1)))) == (409, "alreadyExists")
        now.time += 1
        done(google, second)
        third = google.routes().insert(project=PROJECT, body=body(1)).execute()
        now.time += 1
        done(google, third)
        assert gce.history.at(now.time)[name].id == third["targetId"] != first["targetId"]


@pytest.mark.parametrize(
    ("wrong", "status", "why", "words"),
    [
        ({"name": "Flannel_1"}, 400, "invalid", "resource.name"),
        ({"name": "a" * 64}, 400, "invalid", "resource.name"),
        ({"name": None}, 400, "required", "resource.name"),
        ({"network": "global/networks/other"}, 400, "invalid", "cannot be found"),
        ({"network": None}, 400, "required", "resource.network"),
        ({"destRange": None}, 400, "required", "resource.destRange"),
        ({"destRange": "10.244.1.7/24"}, 400, "invalid", "resource.destRange"),
        ({"destRange": "10.128.1.0/24"}, 400, "invalid", "hides the address space"),
        ({"destRange": "10.128.0.0/20"}, 400, "invalid", "hides the address space"),
        ({"destRange": "fd00:1::/64"}, 400, "invalid", "same IP version"),
        ({"nextHopIp": None}, 400, "invalidResourceUsage", "at least one type of next hop"),
        ({"nextHopInstance": "zones/us-central1-a/instances/host-1"}, 400, "invalidResourceUsage", "more than one"),
        ({"nextHopIp": "192.0.2.1"}, 400, "invalid", "not in a subnetwork"),
        ({"nextHopIp": "a.b"}, 400, "invalid", "valid IP address"),
        ({"nextHopIp": None, "nextHopInstance": "zones/x/instances/y"}, 400, "invalid", "cannot be found"),
        ({"priority": 70000}, 400, "invalid", "resource.priority"),
        ({"description": "x" * 3000}, 400, "invalid", "resource.description"),
        ({"tags": ["UPPER"]}, 400, "invalid", "resource.tags[0]"),
    ],
)
def test_a_route_that_google_would_not_take(
    picky: Gce, wrong: dict[str, object], status: int, why: str, words: str
) -> None:
    error = refused(client(picky).routes().insert(project=PROJECT, body=body(1, **wrong)))
    assert reason(error) == (status, why)
    assert words in error.reason
    assert not picky.history.touched("flannel-default-10-244-1-0-24")


def test_destinations_may_be_wider_than_a_subnetwork_and_ipv6() -> None:
    networks = (
        Network(name="default", subnetworks=(Subnetwork(name="a", range="10.128.0.0/20", range6="fd20:1::/64"),)),
        Network(name="default-foo", subnetworks=(Subnetwork(name="b", range="10.128.0.0/20"),)),
    )
    six = Instance(name="six", addresses=(ip_address("10.128.0.2"), ip_address("fd20:1::2")))
    with compute(Table(networks=networks, instances=(six,)), timing=QUICK) as gce:
        google = client(gce)
        add(google, 1, name="wide", destRange="10.0.0.0/8")
        add(google, 2, destRange="fd00:AA::/64", nextHopIp="fd20:1:0::2")
        found = google.routes().get(project=PROJECT, route=body(2)["name"]).execute()
        assert (found["destRange"], found["nextHopIp"]) == ("fd00:aa::/64", "fd20:1::2")
        assert "warnings" not in found
        add(google, 2, name="other", network=DEFAULT + "-foo")
        listed = (
            google.routes().list(project=PROJECT, filter=f'network = "{DEFAULT}" AND name = "*e*"').execute()["items"]
        )
        assert "other" not in {one["name"] for one in listed}
        assert gce.history.gaps(ip_network("10.244.2.0/24"), gce.now - 1, network="default")


def test_routes_that_lead_nowhere_are_warned_of() -> None:
    hosts = (
        Instance(name="good", addresses=(ip_address("10.128.0.2"),)),
        Instance(name="deaf", addresses=(ip_address("10.128.0.3"),), can_ip_forward=False),
        Instance(name="off", addresses=(ip_address("10.128.0.4"),), status="TERMINATED"),
        Instance(name="away", network="other"),
    )
    networks = (*Table().networks, Network(name="other"))
    with compute(Table(instances=hosts, networks=networks), timing=QUICK) as gce:
        google = client(gce)
        for number, (hop, code) in enumerate(
            {
                "10.128.0.2": None,
                "10.128.0.3": "NEXT_HOP_CANNOT_IP_FORWARD",
                "10.128.0.4": "NEXT_HOP_NOT_RUNNING",
                "10.128.0.9": "NEXT_HOP_ADDRESS_NOT_ASSIGNED",
            }.items()
        ):
            operation = google.routes().insert(project=PROJECT, body=body(number, nextHopIp=hop)).execute()
            said = done(google, operation).get("warnings", [])
            found = google.routes().get(project=PROJECT, route=body(number)["name"]).execute()
            codes = [one["code"] for one in found.get("warnings", [])]
            assert codes == [one["code"] for one in said] == ([code] if code else [])
        add(google, 8, nextHopIp=None, nextHopInstance="zones/us-central1-a/instances/away")
        add(google, 9, nextHopIp=None, nextHopInstance="zones/us-central1-a/instances/good")
        gce.compute.drop_instance("good")
        warned = {
            one["name"]: one.get("warnings", []) for one in google.routes().list(project=PROJECT).execute()["items"]
        }
        assert warned[body(8)["name"]][0]["code"] == "NEXT_HOP_INSTANCE_NOT_ON_NETWORK"
        assert warned[body(9)["name"]][0]["code"] == "NEXT_HOP_INSTANCE_NOT_FOUND"
        assert warned[body(0)["name"]][0]["code"] == "NEXT_HOP_ADDRESS_NOT_ASSIGNED"


def test_pages_with_a_filter(gce: Gce) -> None:
    google = client(gce)
    add(google, *range(7))
    for number in range(5):
        gce.compute.put(GivenRoute(name=f"f{number}", dest_range=f"172.16.{number}.0/24", next_hop_ip="10.128.0.9"))
    request = google.routes().list(project=PROJECT, filter="name eq flannel-default-.*", maxResults=3)
    sizes, names, tokens = [], [], []
    while request is not None:
        page = request.execute()
        sizes.append(len(page["items"]))
        names += [one["name"] for one in page["items"]]
        tokens.append(page.get("nextPageToken"))
        request = google.routes().list_next(request, page)
    assert sizes == [3, 3, 1]
    assert names == [body(number)["name"] for number in range(7)]
    # A client that forgets the filter on the second page gets what it had asked to be left out.
    without = google.routes().list(project=PROJECT, pageToken=tokens[1]).execute()["items"]
    assert {one["name"] for one in without} >= {str(body(6)["name"])}
    forgot = google.routes().list(project=PROJECT, maxResults=3).execute()
    rest = google.routes().list(project=PROJECT, maxResults=9, pageToken=forgot["nextPageToken"]).execute()
    assert any(one["name"].startswith("f1") for one in rest["items"])
    assert reason(refused(google.routes().list(project=PROJECT, pageToken="=x"))) == (400, "invalid")
    newest = google.routes().list(project=PROJECT, orderBy="creationTimestamp desc", maxResults=1).execute()
    assert newest["items"][0]["name"].startswith("f")
    assert reason(refused(google.routes().list(project=PROJECT, orderBy="destRange"))) == (400, "invalid")
    ids = google.routes().list(project=PROJECT, fields="items(name,id),nextPageToken", maxResults=1).execute()
    assert [set(one) for one in ids["items"]] == [{"name", "id"}]
    assert set(ids) == {"items", "nextPageToken"}


def test_too_large_a_page_is_refused() -> None:
    with compute(check=False) as gce:
        google = client(gce)
        assert reason(refused(google.routes().list(project=PROJECT, maxResults=501))) == (400, "invalid")
        assert gce.violations() == []


def test_pages_that_are_cut_before_the_filter_may_be_empty() -> None:
    with compute(timing=QUICK, paging=Paging(cap=2, sparse=True)) as gce:
        google = client(gce)
        add(google, 1, 2)
        request, sizes, names = google.routes().list(project=PROJECT, filter='name = "flannel-*"'), [], []
        while request is not None:
            page = request.execute()
            sizes.append(len(page.get("items", [])))
            names += [one["name"] for one in page.get("items", [])]
            request = google.routes().list_next(request, page)
        assert sizes == [0, 2]
        assert names == [body(1)["name"], body(2)["name"]]


@pytest.mark.parametrize(
    "expression",
    [
        "name eq",
        "name",
        "sourceTags[]=*",
        "nonesuch eq x",
        "nonesuch = x",
        '(name = "x"',
        "name = x)",
        "name eq a.* AND network ne b",
        "(name eq a.*) (network ne b)",
        "(name eq [)",
    ],
)
def test_filters_that_google_would_not_take(picky: Gce, expression: str) -> None:
    error = refused(client(picky).routes().list(project=PROJECT, filter=expression))
    assert reason(error) == (400, "invalid")
    assert "Invalid list filter expression." in error.reason


def test_a_lost_answer_and_the_same_request_again() -> None:
    with compute(timing=QUICK) as gce:
        google = client(gce)
        lost = gce.faults.lose("routes.insert", times=None)
        same = str(uuid.uuid4())
        insert = google.routes().insert(project=PROJECT, body=body(1), requestId=same)
        with pytest.raises((ConnectionError, httplib2.error.HttpLib2Error, OSError)):
            insert.execute()
        assert lost.taken >= 1
        gce.faults.clear()
        operation = done(google, insert.execute())
        assert operation["clientOperationId"] == same
        changes = gce.history.touched(str(body(1)["name"]))
        assert [change.operation for change in changes] == [operation["name"]]
        assert reason(refused(google.routes().insert(project=PROJECT, body=body(1)))) == (409, "alreadyExists")
        for wrong in ("x", str(uuid.UUID(int=0))):
            error = refused(google.routes().insert(project=PROJECT, body=body(2), requestId=wrong))
            assert reason(error) == (400, "invalid")


def test_an_operation_fails_after_it_was_accepted(gce: Gce) -> None:
    google = client(gce)
    fault = gce.faults.fail_operation("routes.insert", "RESOURCE_NOT_READY")
    answer = done(google, google.routes().insert(project=PROJECT, body=body(1)).execute())
    assert answer["error"]["errors"][0]["code"] == "RESOURCE_NOT_READY"
    assert (answer["httpErrorStatusCode"], answer["httpErrorMessage"]) == (400, "BAD REQUEST")
    assert fault.taken == 1
    assert not gce.history.touched(str(body(1)["name"]))
    add(google, 1)
    gce.faults.order(Fault(method="routes.delete", kind="operation", done=True))
    name = str(body(1)["name"])
    assert "error" in done(google, google.routes().delete(project=PROJECT, route=name).execute())
    assert reason(refused(google.routes().get(project=PROJECT, route=name))) == (404, "notFound")


def test_quota_in_the_answer_and_in_the_operation() -> None:
    full = msgspec.structs.replace(small(), quotas={"ROUTES": 2.0})
    with compute(full, timing=QUICK) as gce:
        google = client(gce)
        add(google, 1)
        error = refused(google.routes().insert(project=PROJECT, body=body(2)))
        assert reason(error) == (403, "quotaExceeded")
        assert error.reason == "Quota 'ROUTES' exceeded.  Limit: 2.0 globally."
        quotas = {one["metric"]: one for one in google.projects().get(project=PROJECT).execute()["quotas"]}
        assert (quotas["ROUTES"]["limit"], quotas["ROUTES"]["usage"]) == (2.0, 2.0)
    with compute(full, timing=QUICK, quota_as="operation") as gce:
        google = client(gce)
        add(google, 1)
        answer = done(google, google.routes().insert(project=PROJECT, body=body(2)).execute())
        assert answer["error"]["errors"][0]["code"] == "QUOTA_EXCEEDED"
        assert answer["httpErrorStatusCode"] == 403


def test_google_s_client_tries_again_what_can_be_tried_again(gce: Gce) -> None:
    google = client(gce)
    orders = [
        gce.faults.fail("routes.list", 429, reason="rateLimitExceeded"),
        gce.faults.fail("routes.list", 403, reason="rateLimitExceeded"),
        gce.faults.fail("routes.list", 503),
        gce.faults.order(Fault(method="routes.list", kind="html", status=502)),
    ]
    request = google.routes().list(project=PROJECT)
    waits: list[float] = []
    request._sleep = waits.append
    assert request.execute(num_retries=4)["items"]
    assert len(waits) == 4
    assert all(order.spent for order in orders)
    gce.faults.fail("routes.list", 412)
    error = refused(google.routes().list(project=PROJECT))
    assert reason(error) == (412, "conditionNotMet")


def test_too_many_calls() -> None:
    with compute(timing=QUICK, rate=Rate(per_second=0.001, burst=3)) as gce:
        google = client(gce)
        for _ in range(3):
            google.projects().get(project=PROJECT).execute()
        error = refused(google.projects().get(project=PROJECT))
        assert reason(error) == (403, "rateLimitExceeded")
        assert "Queries per minute" in error.reason


def test_tokens_scopes_and_permissions() -> None:
    account = ServiceAccount(scopes=(READ_SCOPE,), denied=("compute.networks.get",))
    with compute(msgspec.structs.replace(small(), account=account), timing=QUICK) as gce:
        bearer = Bearer(gce)
        google = client(gce, bearer)
        assert google.routes().list(project=PROJECT).execute()["items"]
        error = refused(google.routes().insert(project=PROJECT, body=body(1)))
        assert reason(error) == (403, "insufficientPermissions")
        error = refused(google.networks().get(project=PROJECT, network="default"))
        assert reason(error) == (403, "forbidden")
        assert error.reason.startswith(
            "Required 'compute.networks.get' permission for 'projects/weft-lab/global/networks"
        )
        gce.access.revoke()
        assert google.routes().list(project=PROJECT).execute()["items"]
        assert bearer.refreshed == 1
        assert [call.status for call in gce.history.called("routes.list")] == [200, 401, 200]
        nobody = build_from_document(
            described(), http=plain(), client_options={"api_endpoint": f"{gce.url}{api.PREFIX}"}
        )
        assert reason(refused(nobody.routes().list(project=PROJECT))) == (401, "required")
        assert reason(refused(google.routes().list(project="other"))) == (404, "notFound")


def test_instances_by_zone_and_page() -> None:
    hosts = [
        Instance(name=f"h{n}", zone=f"us-east1-{'ab'[n % 2]}", addresses=(ip_address(f"10.128.0.{n + 2}"),))
        for n in range(5)
    ]
    with compute(Table(instances=tuple(hosts)), paging=Paging(cap=2)) as gce:
        google = client(gce)
        request, found = google.instances().aggregatedList(project=PROJECT, filter='status = "RUNNING"'), {}
        pages = 0
        while request is not None:
            page = request.execute()
            pages += 1
            for scope, content in page["items"].items():
                if "instances" not in content:
                    assert content["warning"]["code"] == "NO_RESULTS_ON_PAGE"
                for one in content.get("instances", []):
                    assert one["zone"].endswith(scope)
                    found[one["name"]] = one["networkInterfaces"][0]["networkIP"]
            request = google.instances().aggregatedList_next(request, page)
        assert (pages, found) == (3, {f"h{n}": f"10.128.0.{n + 2}" for n in range(5)})
        gce.compute.unreachable.add("us-east1-a")
        page = google.instances().aggregatedList(project=PROJECT).execute()
        assert page["items"]["zones/us-east1-a"]["warning"]["code"] == "UNREACHABLE"
        assert page["unreachables"] == ["zones/us-east1-a"]
        one = google.instances().get(project=PROJECT, zone="us-east1-b", instance="h1").execute()
        assert one["canIpForward"] is True
        assert reason(refused(google.instances().get(project=PROJECT, zone="us-east1-a", instance="h1")))[0] == 404
        listed = google.instances().list(project=PROJECT, zone="us-east1-b").execute()["items"]
        assert [one["name"] for one in listed] == ["h1", "h3"]
        assert google.networks().list(project=PROJECT, filter="name = default").execute()["items"][0]["subnetworks"]


def test_google_auth_finds_everything_at_the_metadata_server(monkeypatch: pytest.MonkeyPatch) -> None:
    account = ServiceAccount(token_life=0.0)
    replaced = msgspec.structs.replace(small(), account=account, me="host-2")
    with compute(replaced) as gce, contextlib.ExitStack() as stack:
        gce.be_home(monkeypatch)
        request: Any = AuthRequest(stack.enter_context(requests.Session()))
        assert metadata.ping(request)  # type: ignore[no-untyped-call]
        assert metadata.get_project_id(request) == PROJECT  # type: ignore[no-untyped-call]
        info = metadata.get_service_account_info(request)  # type: ignore[no-untyped-call]
        assert info["email"] == account.email
        assert info["scopes"] == list(account.scopes)
        get: Any = metadata.get
        assert get(request, "instance/zone") == "projects/123456789012/zones/us-central1-a"
        assert get(request, "instance/name") == "host-2"
        assert get(request, "project/numeric-project-id") == "123456789012"
        assert get(request, "instance/network-interfaces/0/network") == "projects/123456789012/networks/default"
        assert get(request, "instance/network-interfaces/0/ip") == "10.128.0.3"
        assert get(request, "instance/network-interfaces/", recursive=True)[0]["ip"] == "10.128.0.3"
        first, _ = metadata.get_service_account_token(request)  # type: ignore[no-untyped-call]
        second, _ = metadata.get_service_account_token(request)  # type: ignore[no-untyped-call]
        assert first != second, "a token that is over is not given again"
        assert reason(refused(client(gce).routes().list(project=PROJECT))) == (401, "authError")
        _, answer = plain().request(f"{gce.url}/computeMetadata/v1/instance/name")
        assert b"Missing Metadata-Flavor:Google header" in answer


def test_a_key_file_is_exchanged_for_a_token(tmp_path: Path) -> None:
    with compute(timing=QUICK) as gce:
        _, key = plain().request(f"{gce.url}/lab/key")
        file = tmp_path / "key.json"
        file.write_bytes(key)
        load: Any = functools.partial(service_account.Credentials.from_service_account_file, scopes=[COMPUTE_SCOPE])
        credentials = load(str(file))
        assert credentials.project_id == PROJECT
        add(client(gce, credentials), 1)
        file.write_text(json.dumps(json.loads(key) | {"client_email": "someone@example.com"}))
        with pytest.raises(RefreshError, match="account not found"):
            client(gce, load(str(file))).routes().list(project=PROJECT).execute()


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    table = tmp_path / "cloud.yaml"
    table.write_text(
        "project: demo\ninstances: [{name: a, addresses: [10.128.0.2]}]\n"
        "routes: [{name: to-office, dest_range: 192.168.0.0/16, next_hop_instance: us-central1-a/a}]\n"
    )
    module = [sys.executable, "-m", "weft.lab.compute"]
    options = ["--table", str(table), "--ready", str(ready), "--bodies", "--quota", "9", "--instance", "b=10.128.0.3"]
    process = subprocess.Popen([*module, *options], stdout=subprocess.DEVNULL)
    try:
        until(ready.exists, "the process to listen", timeout=20)
        at = f"http://{ready.read_text().strip()}"
        order = {"method": "routes.list", "status": 429}
        answer, _ = plain().request(f"{at}/lab/faults", "POST", json.dumps(order))
        assert answer.status == 200
        with pytest.raises(LabError, match="429"):
            asyncio.run(listing.routes(at))
        command = [*module, "routes", "--at", at]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert printed[0].split() == ["NAME", "NETWORK", "DEST_RANGE", "NEXT_HOP", "PRIORITY"]
        assert printed[-1].split() == ["to-office", "default", "192.168.0.0/16", "us-central1-a/a", "1000"]
        _, history = plain().request(f"{at}/lab/history")
        told = Told.of(history)
        assert [call.status for call in told.calls if call.method == "routes.list"] == [429, 200]
        assert told.violations() == []
        assert told.now >= told.calls[-1].at > told.changes[-1].at
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def asked(gce: Gce, method: str, path: str, document: object = None) -> tuple[int, Any]:
    """The lab's own door."""
    body = None if document is None else json.dumps(document)
    answer, content = plain().request(f"{gce.url}/lab{path}", method, body)
    return answer.status, json.loads(content) if answer.status == 200 else content


def test_what_the_owner_of_the_cloud_does_by_hand(gce: Gce) -> None:
    google = client(gce)
    begun = gce.now
    assert asked(gce, "GET", "")[1]["project"] == PROJECT
    status, put = asked(gce, "PUT", "/routes", {"name": "r", "dest_range": "10.9.0.0/16", "next_hop_ip": "10.128.0.77"})
    assert (status, put["destRange"]) == (200, "10.9.0.0/16")
    found = google.routes().get(project=PROJECT, route="r").execute()
    assert found["warnings"][0]["code"] == "NEXT_HOP_ADDRESS_NOT_ASSIGNED"
    asked(gce, "PUT", "/instances", {"name": "late", "addresses": ["10.128.0.77"]})
    assert "warnings" not in google.routes().get(project=PROJECT, route="r").execute()
    asked(gce, "DELETE", "/instances/late")
    assert "warnings" in google.routes().get(project=PROJECT, route="r").execute()
    assert asked(gce, "GET", "/touched?name=r") == (200, [])
    done(google, google.routes().delete(project=PROJECT, route="r").execute())
    assert [one["after"] for one in asked(gce, "GET", "/touched?name=r")[1]] == [None]
    assert len(asked(gce, "GET", f"/gaps?dst=10.9.0.0/16&start={begun}")[1]) == 2
    assert asked(gce, "GET", f"/gaps?dst=0.0.0.0/0&start={begun}") == (200, [])
    assert asked(gce, "PUT", "/unreachable", ["us-central1-a"]) == (200, ["us-central1-a"])
    items = google.instances().aggregatedList(project=PROJECT).execute()["items"]
    assert items["zones/us-central1-a"]["warning"]["code"] == "UNREACHABLE"
    assert len(asked(gce, "POST", "/faults", [{"method": "*"}, {"method": "*", "kind": "slow", "delay": 0.01}])[1]) == 2
    assert google.routes().list(project=PROJECT).execute(num_retries=1)
    assert [one["taken"] for one in asked(gce, "GET", "/faults")[1]] == [1, 1]
    assert asked(gce, "DELETE", "/faults") == (200, [])
    assert asked(gce, "POST", "/tokens/revoke") == (200, {"revoked": 1})
    for method, path, content, status in (
        ("PUT", "/routes", {"name": "x"}, 400),
        ("PUT", "/routes", {"name": "x", "dest_range": "10.0.0.1/8"}, 400),
        ("PUT", "/instances", {"nmae": "x"}, 400),
        ("POST", "/faults", {"method": "*", "kind": "nonesuch"}, 400),
        ("GET", "/gaps?dst=x", None, 400),
        ("GET", "/history?since=x", None, 400),
        ("DELETE", "/routes/x", None, 404),
    ):
        assert asked(gce, method, path, content)[0] == status, path


def test_the_peering_that_will_pass(gce: Gce) -> None:
    gce.faults.peering()
    error = refused(client(gce).routes().insert(project=PROJECT, body=body(1)))
    assert reason(error) == (400, "badRequest")
    assert "peering operation in progress" in error.reason


def test_paths_parameters_and_fields_are_those_of_the_document() -> None:
    published = document()
    for method in api.METHODS:
        resource, _, name = method.name.partition(".")
        said = published["resources"][resource]["methods"][name]
        path = said["path"]
        for parameter, value in (("project", "p"), ("zone", "z"), ("route", "x"), ("operation", "x"), ("network", "x")):
            path = path.replace(f"{{{parameter}}}", value)
        assert api.find(said["httpMethod"], path.replace("{instance}", "x"))[0] == method
        queries = {key for key, rule in said["parameters"].items() if rule["location"] == "query"}
        assert method.query == queries, method.name
    schemas = published["schemas"]
    assert set(schemas["Route"]["properties"]) == checks.KNOWN
    assert set(schemas["Operation"]["properties"]) >= api.OPERATION
    assert set(schemas["Network"]["properties"]) >= api.NETWORK
    assert set(schemas["Instance"]["properties"]) >= api.INSTANCE
    plain = Compute(small())
    for one in plain.instances():
        assert of_schema(one, "Instance") == []
    assert of_schema(plain.project(), "Project") == []
    assert of_schema(plain.network("default"), "Network") == []
