"""Pages of lists: filter, order, maxResults, pageToken. Called by `api`.

A page token says only where the next page begins: whoever leaves the filter out on the second page gets what the filter
would have left out, as at Google's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from weft.lab.compute import filters
from weft.lab.compute.refusal import Refusal, invalid
from weft.lab.compute.resources import Json

MOST = 500


@dataclass(frozen=True, slots=True)
class Paging:
    """How pages are made, beside what is asked for. `cap`: items per page at most, whatever is asked for (Google may
    give fewer than maxResults); `sparse`: a page is cut before the filter is applied, so that a page may be empty and
    yet have a next one (Google does that, too)."""

    cap: int = MOST
    sparse: bool = False


WHOLE = Paging()


def page(
    documents: Sequence[Json], query: dict[str, str], fields: Collection[str], paging: Paging
) -> tuple[list[Json], str]:
    """The page that is asked for, and the token of the next one ("" for none). Refusal (400): what is asked for
    makes no sense. `documents`: all, in the order of their names."""
    passes = filters.parse(query.get("filter", ""), fields)
    ordered = _ordered(documents, query.get("orderBy", ""))
    size = min(_size(query.get("maxResults", "")) or MOST, paging.cap)
    start = _start(query.get("pageToken", ""), ordered, bool(query.get("orderBy")))
    found: list[Json] = []
    for at in range(start, len(ordered)):
        if (at - start if paging.sparse else len(found)) >= size:
            following = any(passes(one) for one in ordered[at:]) if not paging.sparse else True
            return found, _token(at, ordered) if following else ""
        if passes(ordered[at]):
            found.append(ordered[at])
    return found, ""


def _size(text: str) -> int:
    if not text:
        return MOST
    try:
        size = int(text)
    except ValueError:
        raise Refusal(400, f"Invalid value at 'max_results' (TYPE_UINT32), \"{text}\"", "badRequest") from None
    if not 0 <= size <= MOST:
        raise invalid("maxResults", text, f"Values must be within the range: [0, {MOST}]")
    return size


def _ordered(documents: Sequence[Json], order: str) -> Sequence[Json]:
    if order in ("", "name"):
        return documents
    if order == "creationTimestamp desc":
        return sorted(documents, key=lambda one: str(one.get("creationTimestamp", one.get("insertTime"))), reverse=True)
    raise invalid("orderBy", order, "Only sorting by 'name' or 'creationTimestamp desc' is supported.")


def _token(at: int, ordered: Sequence[Json]) -> str:
    return base64.urlsafe_b64encode(f"{at}:{_mark(ordered[at])}".encode()).decode()


def _start(token: str, ordered: Sequence[Json], by_place: bool) -> int:
    """By name, so that what comes and goes between two pages neither hides nor doubles anything else."""
    if not token:
        return 0
    try:
        at, _, mark = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        place = int(at)
    except (ValueError, binascii.Error):
        raise invalid("pageToken", token, "The page token is invalid.") from None
    if by_place:
        return place
    return next((number for number, one in enumerate(ordered) if _mark(one) >= mark), len(ordered))


def _mark(document: Json) -> str:
    return f"{document.get('name')} {document.get('zone', '')}"
