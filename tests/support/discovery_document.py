"""Google's discovery document of the Compute API, as shipped inside google-api-python-client, and the checks of calls
against it. Used by `compute.py`.

Format: Google API Discovery Service, "Discovery document" and "Type and format summary".
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from typing import Any
from urllib.parse import unquote

from weft.lab.compute.history import Call

PREFIX = "/compute/v1/"
NUMBERS = {"int32": 2**31, "uint32": 2**32, "int64": 2**63, "uint64": 2**64}


def shipped() -> dict[str, Any]:
    """compute.v1.json, to do with as one likes (Google's client writes into the one that it is given)."""
    found = resources.files("googleapiclient.discovery_cache.documents").joinpath("compute.v1.json")
    loaded: dict[str, Any] = json.loads(found.read_text())
    return loaded


@functools.cache
def document() -> dict[str, Any]:
    """The one that calls are held against: to be read only."""
    return shipped()


@functools.cache
def methods() -> list[tuple[str, str, re.Pattern[str], dict[str, Any]]]:
    """Each method: its name (routes.insert), its HTTP method, its path, and what the document says."""
    found = []
    for resource, content in document()["resources"].items():
        for name, method in content.get("methods", {}).items():
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(method["path"]))
            found.append((f"{resource}.{name}", method["httpMethod"], re.compile(pattern), method))
    return found


def violations(call: Call) -> list[str]:
    """What of a call of the API isn't as the document says; nothing for calls of the metadata server. An answer that
    was ordered (a fault) is only checked for its form."""
    if call.method.startswith(("metadata.", "oauth2.")):
        return []
    where = f"{call.http} {call.path}"
    if not call.path.startswith(PREFIX):
        return [f"{where}: not below {PREFIX}"]
    path = call.path.removeprefix(PREFIX)
    for name, http, pattern, method in methods():
        match = pattern.fullmatch(path)
        if http == call.http and match:
            wrong = [*_method_named(name, call), *_path(method, match), *_query(method, call), *_request(method, call)]
            wrong += _response(method, call)
            return [f"{where}: {text}" for text in wrong]
    return [f"{where}: no such method"]


def of_schema(value: object, name: str) -> list[str]:
    """What of a JSON value isn't as the schema of that name says."""
    return _value(value, {"$ref": name}, name, is_request=False)


def _method_named(name: str, call: Call) -> list[str]:
    return [] if call.method in (name, "") else [f"the server took it for {call.method}, it is {name}"]


def _path(method: dict[str, Any], match: re.Match[str]) -> list[str]:
    wrong = []
    for name, text in match.groupdict().items():
        rule = method["parameters"][name]
        if "pattern" in rule and not re.fullmatch(rule["pattern"], unquote(text)):
            wrong.append(f"path parameter {name}={text!r} is not of the form {rule['pattern']}")
    return wrong


def _query(method: dict[str, Any], call: Call) -> list[str]:
    known = {**document()["parameters"], **method.get("parameters", {})}
    wrong = []
    for name, text in call.query.items():
        rule = known.get(name)
        if rule is None or rule["location"] != "query":
            wrong.append(f"there is no query parameter {name!r}")
            continue
        wrong += [f"query parameter {name}={text!r}: {why}" for why in _parameter(text, rule)]
    for name, rule in method.get("parameters", {}).items():
        if rule.get("required") and rule["location"] == "query" and name not in call.query:
            wrong.append(f"the query parameter {name!r} is missing")
    return wrong


def _parameter(text: str, rule: dict[str, Any]) -> list[str]:
    """A query parameter is text: what it stands for is checked."""
    value: object = text
    if rule["type"] == "boolean":
        value = {"true": True, "false": False}.get(text, text)
    elif rule["type"] in ("integer", "number"):
        try:
            value = int(text) if rule["type"] == "integer" else float(text)
        except ValueError:
            return [f"not of type {rule['type']}"]
    return _scalar(value, rule)


def _request(method: dict[str, Any], call: Call) -> list[str]:
    if "request" not in method:
        return [f"has a body: {call.request!r}"] if call.request else []
    try:
        body = json.loads(call.request)
    except ValueError:
        return [f"its body is not JSON: {call.request!r}"]
    schema = method["request"]["$ref"]
    wrong = _value(body, {"$ref": schema}, schema, is_request=True)
    for name, rule in document()["schemas"][schema].get("properties", {}).items():
        needed = rule.get("annotations", {}).get("required", [])
        if method["id"] in needed and isinstance(body, dict) and name not in body and name != "priority":
            wrong.append(f"{schema}.{name} is missing")
    return wrong


def _response(method: dict[str, Any], call: Call) -> list[str]:
    if not call.status or call.fault in ("refuse", "html"):
        return []
    if call.status == 204 and "response" not in method:
        return [f"204 with a body: {call.answer!r}"] if call.answer else []
    try:
        body = json.loads(call.answer)
    except ValueError:
        return [f"answer {call.status} is not JSON: {call.answer[:200]!r}"]
    if call.status >= 300:
        return _error(body, call.status)
    if call.status != 200 or call.kind != "application/json":
        return [f"answer {call.status} {call.kind}"]
    if "response" not in method:
        return []
    schema = method["response"]["$ref"]
    return _value(body, {"$ref": schema}, schema, is_request=False)


def _error(body: Any, status: int) -> list[str]:
    """As Google's clients read an error: {"error": {"code", "message", "errors": [{…}]}}."""
    try:
        error = body["error"]
        fine = (
            error["code"] == status
            and error["message"]
            and error["errors"][0].keys() >= {"message", "domain", "reason"}
        )
    except (KeyError, TypeError, IndexError):
        fine = False
    return [] if fine else [f"not an error of Google's: {body!r}"]


def _value(value: object, rule: dict[str, Any], where: str, is_request: bool) -> list[str]:
    if "$ref" in rule:
        return _value(value, document()["schemas"][rule["$ref"]], where, is_request)
    kind = rule.get("type")
    if kind == "object":
        return _object(value, rule, where, is_request)
    if kind == "array":
        if not isinstance(value, list):
            return [f"{where} is not an array: {value!r}"]
        return [text for n, one in enumerate(value) for text in _value(one, rule["items"], f"{where}[{n}]", is_request)]
    return [f"{where}={value!r}: {why}" for why in _scalar(value, rule)]


def _object(value: object, rule: dict[str, Any], where: str, is_request: bool) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is not an object: {value!r}"]
    known, more = rule.get("properties", {}), rule.get("additionalProperties")
    wrong = []
    for name, inner in value.items():
        inside = known.get(name, more)
        if inside is None:
            wrong.append(f"{where} has no field {name!r}")
        elif is_request and inside.get("readOnly"):
            wrong.append(f"{where}.{name} is read-only")
        else:
            wrong += _value(inner, inside, f"{where}.{name}", is_request)
    return wrong


def _scalar(value: object, rule: dict[str, Any]) -> list[str]:
    kind, form = rule.get("type"), rule.get("format", "")
    types: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
    }
    if kind in types and (not isinstance(value, types[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [f"not of type {kind}"]
    wrong = []
    if form in NUMBERS and not _fits(value, form):
        wrong.append(f"not {form}")
    if "enum" in rule and value not in rule["enum"]:
        wrong.append(f"not one of {', '.join(rule['enum'][:12])}")
    if "pattern" in rule and not re.fullmatch(rule["pattern"], str(value)):
        wrong.append(f"not of the form {rule['pattern']}")
    for bound, beyond in (("minimum", -1), ("maximum", 1)):
        if bound in rule and (float(str(value)) - float(rule[bound])) * beyond > 0:
            wrong.append(f"{bound} is {rule[bound]}")
    return wrong


def _fits(value: object, form: str) -> bool:
    """64-bit numbers are text in JSON."""
    try:
        number = int(str(value))
    except ValueError:
        return False
    return (0 if form.startswith("u") else -NUMBERS[form]) <= number < NUMBERS[form]
