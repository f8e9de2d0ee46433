"""The local Compute Engine API without HTTP: its filters, masks and pages, its history, its faults; and the checker of
calls, which must see what is wrong."""

from __future__ import annotations

import json
import random
import re
from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.discovery_document import violations
from weft.errors import LabError
from weft.lab.compute import filters, masks, paging
from weft.lab.compute.access import Access, Rate
from weft.lab.compute.engine import Compute
from weft.lab.compute.faults import Fault, Faults
from weft.lab.compute.history import Call, Gap
from weft.lab.compute.operations import Timing
from weft.lab.compute.paging import Paging
from weft.lab.compute.refusal import Refusal
from weft.lab.compute.resources import Json, Operation
from weft.lab.compute.table import GivenRoute, Table, small

FIELDS = {"name", "priority", "tags", "inner", "flag", "network"}
DOCUMENTS: list[Json] = [
    {"name": "a-1", "priority": 100, "tags": ["x", "y"], "inner": {"deep": "z"}, "flag": True},
    {"name": "a-2", "priority": 1000, "tags": ["y"], "flag": False},
    {"name": "b-1", "priority": 1000},
]


WORDS = [
    "name",
    "priority",
    "flag",
    "=",
    "!=",
    "<",
    ">=",
    ":",
    "eq",
    "ne",
    "(",
    ")",
    "AND",
    "OR",
    "NOT",
    "-",
    "a*",
    "7",
]


def passing(expression: str) -> list[object]:
    test = filters.parse(expression, FIELDS)
    return [one["name"] for one in DOCUMENTS if test(one)]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("", ["a-1", "a-2", "b-1"]),
        ("name eq a-.*", ["a-1", "a-2"]),
        ("name ne a-.*", ["b-1"]),
        ("name eq a-", []),
        ('name eq "a-(1|2)"', ["a-1", "a-2"]),
        ("name eq 'b-1'", ["b-1"]),
        ("(name eq a-1) (flag eq true)", ["a-1"]),
        ("(name ne a-1) (name ne 'b-.*')", ["a-2"]),
        ("priority eq 1000", ["a-2", "b-1"]),
        ("name = a-1", ["a-1"]),
        ('name = "a-*"', ["a-1", "a-2"]),
        ("name != a-*", ["b-1"]),
        ("priority > 100", ["a-2", "b-1"]),
        ("priority>=100 AND priority<1000", ["a-1"]),
        ("flag = false", ["a-2"]),
        ("flag:*", ["a-1", "a-2"]),
        ("NOT flag:*", ["b-1"]),
        ("-name = a-1", ["a-2", "b-1"]),
        ("tags = x", ["a-1"]),
        ("tags:y", ["a-1", "a-2"]),
        ("inner.deep = z", ["a-1"]),
        ("(name = a-1) OR (name = b-1)", ["a-1", "b-1"]),
        ("(name = a-1) (flag = true)", ["a-1"]),
        # OR binds more tightly than AND (AIP-160).
        ("name = b-1 OR name = a-1 AND flag = true", ["a-1"]),
        ("(name = b-1) OR ((name = a-1) AND (flag = false))", ["b-1"]),
        ("name >= a-2", ["a-2", "b-1"]),
    ],
)
def test_filters(expression: str, names: list[object]) -> None:
    assert passing(expression) == names


@given(
    st.one_of(
        st.text(alphabet="ab()=!<>:\"'\\-* .", max_size=14),
        st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
    )
)
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    refusals = []
    try:
        passing(text)
    except Refusal as refusal:
        refusals.append((refusal.status, refusal.reason))
    assert refusals in ([], [(400, "invalid")])


def test_masks() -> None:
    document: Json = {"items": [{"name": "a", "id": "1", "in": {"x": 1, "y": 2}}], "next": "t", "kind": "k"}
    assert masks.select(document, masks.parse("items(name,in/x),next")) == {
        "items": [{"name": "a", "in": {"x": 1}}],
        "next": "t",
    }
    assert masks.select(document, masks.parse("*")) == document
    assert masks.select(document, masks.parse("items/id, kind")) == {"items": [{"id": "1"}], "kind": "k"}
    for wrong in ("items(", "items(name", ",", "items)", "a//b", "a(b))", "a b"):
        with pytest.raises(Refusal, match=re.escape(f"Invalid field selection {wrong}")):
            masks.parse(wrong)


@given(st.sets(st.integers(0, 40)), st.integers(1, 7), st.booleans(), st.data())
def test_what_stays_is_on_exactly_one_page(numbers: set[int], size: int, sparse: bool, data: st.DataObject) -> None:
    """Whatever comes and goes between two pages."""
    stays = {f"r{n:02}" for n in numbers}
    seen: list[str] = []
    query = {"maxResults": str(size), "filter": "name != x*"}
    while True:
        passing_by = data.draw(st.sets(st.sampled_from(["a", "r05a", "r20a", "x", "z"])))
        documents: list[Json] = [{"name": name} for name in sorted(stays | passing_by)]
        found, token = paging.page(documents, query, {"name"}, Paging(5, sparse))
        assert len(found) <= min(size, 5)
        seen += [str(one["name"]) for one in found]
        if not token:
            break
        query["pageToken"] = token
    assert [name for name in seen if name in stays] == sorted(stays)


class Now:
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def route(name: str, dst: str = "10.244.1.0/24", hop: str = "10.128.0.2") -> Json:
    return {"name": name, "network": "global/networks/default", "destRange": dst, "nextHopIp": hop}


def cloud(now: Now, table: Table | None = None) -> Compute:
    return Compute(table or small(), Timing(pending=1.0, running=2.0), clock=now)


DST = ip_network("10.244.1.0/24")


def test_the_history_knows_every_instant() -> None:
    now = Now()
    compute = cloud(now)
    compute.insert(route("one"))
    now.time = 110
    compute.insert(route("two", hop="10.128.0.3"))
    now.time = 120
    compute.delete("one")
    now.time = 130
    compute.delete("two")
    now.time = 140
    compute.put(GivenRoute(name="wide", dest_range="10.244.0.0/16", next_hop_ip="10.128.0.2"))
    now.time = 150
    gaps = compute.history.gaps
    # An insertion counts from its end, a deletion from its start.
    assert gaps(DST, 100) == [Gap(100, 103), Gap(131, 150)]
    assert gaps(DST, 100, covering=True) == [Gap(100, 103), Gap(131, 140)]
    assert compute.history.always(DST, 103, 131)
    assert not compute.history.always(DST, 102.9, 131)
    assert not compute.history.always(DST, 103, 131.1)
    assert gaps(DST, 132, 135) == [Gap(132, 135)]
    assert gaps(DST, 103, network="other") == [Gap(103, 150)]
    assert gaps(DST, 103, 131, fits=lambda one: one.next_hop_ip == "10.128.0.3") == [Gap(103, 113)]
    assert gaps(ip_network("fd00::/64"), 149) == [Gap(149, 150)]
    assert [name for name in compute.history.at(121) if not name.startswith("default-")] == ["two"]
    assert not compute.history.touched("wide"), "by hand is not by a call"
    assert [change.at for change in compute.history.touched("two")] == [113, 131]
    compute.drop("wide")
    assert [change.operation for change in compute.history.changes if change.name == "wide"] == ["", ""]


def test_who_deletes_before_the_other_is_there_is_found_out() -> None:
    now = Now()
    compute = cloud(now)
    compute.insert(route("old"))
    now.time = 110
    compute.insert(route("new", hop="10.128.0.3"))
    compute.delete("old")
    now.time = 120
    assert compute.history.gaps(DST, 105) == [Gap(111, 113)]


def test_a_route_that_went_by_hand_meanwhile() -> None:
    now = Now()
    compute = cloud(now)
    compute.insert(route("one"))
    now.time = 110
    operation = compute.delete("one")
    compute.drop("one")
    now.time = 120
    found, left = compute.operation(operation.name)
    assert (found.status, found.http_error_status_code, left) == ("DONE", 404, 0.0)
    assert compute.operation(found.id)[0] == found
    with pytest.raises(Refusal, match="was not found"):
        compute.drop("one")
    with pytest.raises(Refusal, match="operations/none' was not found"):
        compute.operation("none")


def test_what_is_google_s_own_can_t_be_deleted_and_doesn_t_count() -> None:
    compute = cloud(Now(), small(quotas={"ROUTES": 2.0}))
    own = next(one for one in compute.routes().values() if one.route_type == "SUBNET")
    with pytest.raises(Refusal, match="local route"):
        compute.delete(own.name)
    compute.insert(route("one"))
    with pytest.raises(Refusal, match="Quota 'ROUTES' exceeded"):
        compute.insert(route("two"))


def test_an_operation_is_told_as_it_goes() -> None:
    now = Now()
    compute = cloud(now)
    operation = compute.insert(route("one"), "d2b1c0de-0000-4000-8000-000000000001")

    def at(moment: float) -> Operation:
        now.time = moment
        return compute.operation(operation.name)[0]

    assert [(at(t).status, at(t).progress) for t in (100.5, 101, 102, 103)] == [
        ("PENDING", 0),
        ("RUNNING", 1),
        ("RUNNING", 50),
        ("DONE", 100),
    ]
    again = compute.insert(route("one"), "d2b1c0de-0000-4000-8000-000000000001")
    assert again == at(103)
    assert again.client_operation_id == "d2b1c0de-0000-4000-8000-000000000001"


def test_faults_are_counted() -> None:
    faults = Faults(random.Random(1))
    twice = faults.fail("routes.insert", 503, times=2)
    some = faults.fail("routes.*", 500, times=None, share=0.1)
    named = faults.order(Fault(method="*", when="office", kind="drop"))
    assert faults.take("metadata.token") is None
    assert faults.take("projects.get", "…/to-office") is named
    assert faults.take("projects.get", "…/to-office") is None
    assert [faults.take("routes.insert") for _ in range(2)] == [twice, twice]
    assert twice.spent
    met = sum(faults.take("routes.delete") is some for _ in range(1000))
    assert 60 < met < 140
    assert some.taken == met
    assert not some.spent
    faults.clear()
    assert faults.take("routes.delete") is None


def test_tokens_end_and_calls_are_counted() -> None:
    now = Now()
    account = small().account
    access = Access(lambda: account, now, "p", "1", Rate(per_second=2, burst=2, retry_after=7))
    first = access.token()
    now.time += 3000
    assert access.token() == first
    assert access.check(f"Bearer {first.text}", "compute.routes.create", "x") == account.email
    now.time += 301
    second = access.token()
    assert second != first
    access.check(f"Bearer {first.text}", "compute.routes.list", "x")
    now.time += 300
    with pytest.raises(Refusal) as caught:
        access.check(f"Bearer {first.text}", "compute.routes.list", "x")
    assert (caught.value.status, access.revoke()) == (401, 1)
    access.count()
    access.count()
    with pytest.raises(Refusal) as caught:
        access.count()
    assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (403, "rateLimitExceeded", 7)
    now.time += 0.5
    access.count()


def test_tables() -> None:
    table = Table.of_yaml("project: demo\ninstances: [{name: a, addresses: [10.0.0.1, 'fd00::1']}]")
    assert [one.version for one in table.instances[0].addresses] == [4, 6]
    for wrong in ("instances: [{nmae: a}]", "instances: [{name: a, addresses: [x]}]", "a: [", "- 1"):
        with pytest.raises(LabError, match="the table of the local cloud can't be used"):
            Table.of_yaml(wrong)


GOOD = Call(
    at=0.0,
    took=0.0,
    method="routes.insert",
    http="POST",
    path="/compute/v1/projects/p/global/routes",
    query={"requestId": "x"},
    status=200,
    request='{"name": "a", "network": "n", "destRange": "d", "priority": 1}',
    answer='{"name": "o", "id": "1", "progress": 3, "status": "DONE"}',
    kind="application/json",
)
LIST = msgspec.structs.replace(GOOD, method="routes.list", http="GET", query={}, request="", answer='{"items": []}')


def test_the_checker_is_content_with_what_is_right() -> None:
    assert violations(GOOD) == []
    assert violations(LIST) == []
    assert violations(msgspec.structs.replace(LIST, query={"maxResults": "500", "filter": "name eq a"})) == []
    lost = msgspec.structs.replace(GOOD, status=0, answer="")
    assert violations(lost) == []
    assert violations(msgspec.structs.replace(GOOD, method="metadata.token", path="/x")) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (msgspec.structs.replace(GOOD, path="/compute/v2/projects/p/global/routes"), "not below /compute/v1/"),
        (msgspec.structs.replace(GOOD, path="/compute/v1/projects/p/global/rotes"), "no such method"),
        (msgspec.structs.replace(GOOD, http="PATCH"), "no such method"),
        (msgspec.structs.replace(GOOD, path="/compute/v1/projects/P_/global/routes"), "path parameter project='P_'"),
        (msgspec.structs.replace(GOOD, method="routes.list"), "the server took it for routes.list"),
        (msgspec.structs.replace(GOOD, query={"filter": "x"}), "no query parameter 'filter'"),
        (msgspec.structs.replace(LIST, query={"maxResults": "many"}), "maxResults='many': not of type integer"),
        (msgspec.structs.replace(LIST, query={"maxResults": "-1"}), "minimum is 0"),
        (msgspec.structs.replace(LIST, query={"prettyPrint": "no"}), "not of type boolean"),
        (msgspec.structs.replace(LIST, query={"alt": "xml"}), "not one of json"),
        (msgspec.structs.replace(LIST, request="{}"), "has a body"),
        (msgspec.structs.replace(GOOD, request="no"), "its body is not JSON"),
        (msgspec.structs.replace(GOOD, request="[]"), "Route is not an object"),
        (msgspec.structs.replace(GOOD, request='{"name": "a", "network": "n"}'), "Route.destRange is missing"),
        (msgspec.structs.replace(GOOD, answer='{"state": "DONE"}'), "Operation has no field 'state'"),
        (msgspec.structs.replace(GOOD, answer='{"status": "OVER"}'), "not one of DONE"),
        (msgspec.structs.replace(GOOD, answer='{"id": 7}'), "not of type string"),
        (msgspec.structs.replace(GOOD, answer='{"id": "-7"}'), "not uint64"),
        (msgspec.structs.replace(GOOD, answer="<html>"), "is not JSON"),
        (msgspec.structs.replace(GOOD, kind="text/plain"), "answer 200 text/plain"),
        (msgspec.structs.replace(GOOD, status=404, answer='{"error": "no"}'), "not an error of Google's"),
    ],
)
def test_the_checker_sees_what_is_wrong(call: Call, words: str) -> None:
    assert any(words in text for text in violations(call)), violations(call)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"nextHop": "x"}, "no field 'nextHop'"),
        ({"id": "7"}, "Route.id is read-only"),
        ({"priority": "1000"}, "not of type integer"),
        ({"priority": True}, "not of type integer"),
        ({"priority": 2**32}, "not uint32"),
        ({"name": "Aa"}, "not of the form"),
        ({"tags": "x"}, "not an array"),
        ({"tags": [1]}, "Route.tags[0]=1: not of type string"),
    ],
)
def test_the_checker_sees_fields_that_are_wrong(more: dict[str, object], words: str) -> None:
    body = json.dumps({**json.loads(GOOD.request), **more})
    wrong = violations(msgspec.structs.replace(GOOD, request=body))
    assert any(words in text for text in wrong), wrong
