"""Ask the running agent over its unix socket. Standard library only, so that `weft show` starts quickly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from weft.errors import AgentUnreachable, NotYet, WeftError
from weft.settings import load

config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file (YAML).  [WEFT_CONFIG]",
)
"""The one flag that every verb has which needs settings."""


socket_option = click.option(
    "--socket", "path", metavar="PATH", default="", help="The daemon's socket; default: that of the one that runs here."
)


def ask(what: str, config: Path | None = None, path: str = "", **query: str) -> Any:
    """A daemon's JSON answer to GET /v1/<what>, on the socket at `path`; without one, on that which is set in the
    environment or the file `config`, or one beside it (`running`).

    Raises AgentUnreachable, or WeftError with what it answered."""
    return ask_at(path or running(load(os.environ, file=config).socket), what, **query)


PREFERRED = ("registrar.sock", "flanneld.sock", "router.sock", "route-manager.sock")
"""Of daemons that run beside each other, who knows more is asked."""


def running(path: str) -> str:
    """`path`, or where nothing is there another daemon's socket in its folder: the only one, or a preferred one."""
    if not Path(path).exists():
        others = sorted(Path(path).parent.glob("*.sock"))
        known = [other for name in PREFERRED for other in others if other.name == name]
        if len(others) == 1 or known:
            return str((known or others)[0])
    return path


def ask_at(path: str, what: str, **query: str) -> Any:
    """The same on the socket at `path`."""
    from http import HTTPStatus

    from weft.cli.asking import get  # not before something is asked; see there

    words = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
    try:
        status, body = get(path, f"/v1/{what}" + (f"?{words}" if words else ""))
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise WeftError(f"{path} could not answer, by a fault in weft itself; its log says more: please report it")
        answer = json.loads(body)
    except (OSError, ValueError) as error:
        raise AgentUnreachable(_unanswered(path, getattr(error, "strerror", None) or str(error))) from error
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise NotYet(str(answer.get("error", answer)))
    if status != HTTPStatus.OK:
        raise WeftError(str(answer.get("error", answer)))
    return answer


def _unanswered(path: str, error: str) -> str:
    """A daemon's socket is known by its name."""
    daemon = Path(path).stem if Path(path).name in PREFERRED else "agent"
    setting = "setting `socket`" if daemon == "agent" else "WEFT_SOCKET"
    return f"no {daemon} answers on {path}: {error}; is `weft {daemon}` running, and are you root? ({setting})"


def ago(moment: float, now: float) -> str:
    """How long before `now` that was, both in seconds since 1970; "-" for a `moment` of 0, which is never."""
    if not moment:
        return "-"
    seconds = max(now - moment, 0.0)
    for least, unit, name in ((172800, 86400, "days"), (7200, 3600, "h"), (600, 60, "min")):
        if seconds >= least:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


def as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(headings: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as their longest cell; the last one runs free."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())
