"""What the verbs of the drop-in daemons share, whose settings are environment variables or flags as in Go: the help
page, and the list of what holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import click

from weft import __version__
from weft.cli.client import table

S = TypeVar("S")
C = TypeVar("C", bound=click.Command)
F = TypeVar("F", bound=Callable[..., Any])
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


def go_flags(page: Callable[[], str]) -> type[click.Command]:
    """A command that takes all of its words as they are (`settings/go_flags.py` reads them); `page`: its help text."""

    class Words(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            ctx.args = list(args)
            return []

        def get_help(self, ctx: click.Context) -> str:
            return page()

    return Words


def daemon_flags(
    rows: Callable[[], Rows], held: Callable[[S, str], str], load: Callable[[Mapping[str, str]], tuple[S, object]]
) -> Callable[[F], F]:
    """Its `--settings` and `--version`: each says what was asked for, and ends."""

    def listed(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
        if asked:
            listing(rows(), held, load(os.environ)[0])
            ctx.exit()

    def version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
        if asked:
            click.echo(f"weft {__version__}")
            ctx.exit()

    def with_flags(command: F) -> F:
        flag = partial(click.option, is_flag=True, is_eager=True, expose_value=False)
        command = flag("--version", callback=version, help="Say the version and end.")(command)
        return flag("--settings", callback=listed, help="List the variables and what holds now, and end.")(command)

    return with_flags


def listing(rows: Rows, held: Callable[[S, str], str], settings: S) -> None:
    """Every variable and what it comes to."""
    body = [[name, held(settings, name), default, text] for name, default, text in rows]
    table(["VARIABLE", "VALUE", "DEFAULT", "WHAT"], body)


def say(remarks: Iterable[str]) -> None:
    """What is to be said of the settings."""
    for remark in remarks:
        logging.getLogger("weft").warning("%s", remark)
