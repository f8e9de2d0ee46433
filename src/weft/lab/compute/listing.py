"""`gcloud compute routes list`, of any Compute API: what `python -m weft.lab.compute routes --at URL` prints.

Source of the columns: gcloud's table of routes.
"""

from __future__ import annotations

from collections.abc import Iterator

import aiohttp
import msgspec

from weft.errors import LabError
from weft.lab.compute.resources import Route

COLUMNS = ("NAME", "NETWORK", "DEST_RANGE", "NEXT_HOP", "PRIORITY")


class _Page(msgspec.Struct, rename="camel"):
    items: list[Route] = []
    next_page_token: str = ""


async def routes(at: str, project: str = "", expression: str = "") -> list[Route]:
    """Every route that passes the filter, page by page; with a token and the project of the metadata server there.
    LabError: nobody answers, or it says no."""
    async with aiohttp.ClientSession() as session:
        try:
            header = {"Metadata-Flavor": "Google"}
            root = f"{at.rstrip('/')}/computeMetadata/v1"
            token = msgspec.json.decode(
                await _get(session, f"{root}/instance/service-accounts/default/token", {}, header),
                type=dict[str, object],
            )
            project = project or (await _get(session, f"{root}/project/project-id", {}, header)).decode()
            query = {"filter": expression} if expression else {}
            header = {"Authorization": f"Bearer {token['access_token']}"}
            url = f"{at.rstrip('/')}/compute/v1/projects/{project}/global/routes"
            found: list[Route] = []
            while True:
                page = msgspec.json.decode(await _get(session, url, query, header), type=_Page)
                found += page.items
                if not page.next_page_token:
                    return found
                query["pageToken"] = page.next_page_token
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise LabError(f"the routes at {at} can't be listed: {error}") from error


def table(found: list[Route]) -> Iterator[str]:
    """Lines, with a head."""
    rows = [COLUMNS, *(_row(route) for route in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _row(route: Route) -> tuple[str, ...]:
    network = route.network.rsplit("/", 1)[-1]
    hop = route.next_hop.rsplit("/", 1)[-1]
    if route.next_hop_instance:
        hop = "/".join(route.next_hop_instance.split("/")[-3::2])
    return route.name, network, route.dest_range, hop, "" if route.priority is None else str(route.priority)


async def _get(session: aiohttp.ClientSession, url: str, query: dict[str, str], headers: dict[str, str]) -> bytes:
    async with session.get(url, params=query, headers=headers) as answer:
        body = await answer.read()
        if answer.status != 200:
            raise LabError(f"GET {url}: {answer.status} {body[:300].decode('utf-8', 'replace')}")
        return body
