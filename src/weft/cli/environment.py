"""What the verbs share whose settings are environment variables: the help page, and the list of what holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import click

from weft.cli.client import table

S = TypeVar("S")
C = TypeVar("C", bound=click.Command)
Rows = Sequence[tuple[str, str, str]]
"""Name, default, what it is."""


def with_variables(rows: Callable[[], Rows], kind: type[C]) -> type[C]:
    """A command (or group) of this kind, whose help text has every variable in it."""

    class Page(kind):  # type: ignore[misc, valid-type]
        def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            super().format_help_text(ctx, formatter)
            listed = [(name, text + (f"  [{default}]" if default else "")) for name, default, text in rows()]
            with formatter.section("Environment"):
                formatter.write_dl(listed)

    return Page


def listing(rows: Rows, held: Callable[[S, str], str], settings: S) -> None:
    """Every variable and what it comes to."""
    body = [[name, held(settings, name), default, text] for name, default, text in rows]
    table(["VARIABLE", "VALUE", "DEFAULT", "WHAT"], body)


def say(remarks: Iterable[str]) -> None:
    """What is to be said of the settings."""
    for remark in remarks:
        logging.getLogger("weft").warning("%s", remark)
