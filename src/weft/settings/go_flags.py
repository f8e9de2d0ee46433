"""A command line as Go's package flag reads it: one dash or two, `-flag=value` or `-flag value`, a switch alone is
true, the first word that is no flag ends it. Used by the settings of the drop-ins for programs written in Go
(`flanneld.py`, `route_manager.py`); the fields of a Struct are the table, a flag's name is the field's with dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec

from weft.errors import SettingsError

S = TypeVar("S", bound=msgspec.Struct)

LOGGING = frozenset(
    ("v", "vmodule", "logtostderr", "alsologtostderr", "stderrthreshold", "log_dir", "log_backtrace_at")
)
"""glog's flags: unit files hold them; they are read and do nothing."""
TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Given(NamedTuple):
    """What somebody said of one flag: every value, in order, and how he wrote its name."""

    origin: str
    texts: tuple[str, ...]


class GoFlags(Generic[S]):
    """`prefix`: of the variables that stand for flags. `command`: `weft flanneld`. `lists`: flags that may be given
    several times. `example`: a flag with a value. `elsewhere`: flags of the original that mean something that weft is
    not for, with what to do instead."""

    def __init__(
        self,
        kind: type[S],
        prefix: str,
        command: str,
        example: str,
        lists: frozenset[str] = frozenset(),
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        self.defaults: dict[str, Any] = {f.name.replace("_", "-"): f.default for f in msgspec.structs.fields(kind)}
        self.hints = {
            name.replace("_", "-"): hint
            for name, hint in get_type_hints(kind, include_extras=True).items()
            if name.replace("_", "-") in self.defaults
        }
        self._prefix = prefix
        self._command = command
        self._example = example
        self._lists = lists
        self._elsewhere = elsewhere or {}

    def given(self, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Given]:
        """What was said of each flag, by name; the command line wins over the environment. Raises SettingsError for a
        flag that there is not, or that lacks its value."""
        found: dict[str, Given] = {}
        for variable, text in environment.items():
            name = variable.removeprefix(self._prefix).lower().replace("_", "-")
            if variable.startswith(self._prefix) and name in self.defaults:
                found[name] = Given(variable, tuple(text.split(",")) if name in self._lists else (text,))
        said: dict[str, list[str]] = {}
        for name, text in self._flags(arguments):
            said.setdefault(name, []).append(text)
        found.update((name, Given(f"-{name}", tuple(texts))) for name, texts in said.items())
        return found

    def describe(self) -> list[tuple[str, str, str, str]]:
        """One row per flag: name, environment variable, default as text, what it is."""
        rows = []
        for name, default in self.defaults.items():
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else "" if default is None else default
            shown = f"{shown:g}" if isinstance(shown, float) else str(shown)
            shown = shown.lower() if isinstance(default, bool) else shown
            metas = [arg for arg in get_args(self.hints[name])[1:] if isinstance(arg, msgspec.Meta)]
            text = " ".join(meta.description for meta in metas if meta.description)
            rows.append((f"-{name}", self.variable(name), shown, text))
        return rows

    def variable(self, name: str) -> str:
        """The environment variable that stands for a flag."""
        return self._prefix + name.upper().replace("-", "_")

    def page(self, head: str) -> str:
        """The help text: `head`, then every flag, its default and what it is."""
        rows = [(flag, text + f" (default {default})" * bool(default)) for flag, _, default, text in self.describe()]
        width = max(len(flag) for flag, _ in rows)
        return head + "\n" + "\n".join(f"  {flag.ljust(width)}  {text}" for flag, text in rows)

    def _flags(self, arguments: Sequence[str]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if word == "--":
                break
            if not word.startswith("-") or word == "-":
                raise SettingsError(f"{word!r} is no flag; flags are like {self._example}")
            name, equals, text = word.lstrip("-").partition("=")
            name = {"h": "help"}.get(name, name)
            if name in LOGGING:
                if not equals and name in ("v", "vmodule") and rest and not rest[0].startswith("-"):
                    rest.pop(0)
                continue
            if name not in self.defaults:
                raise SettingsError(self._unknown(name, word.partition("=")[0]))  # its value may be a secret
            if not equals:
                if isinstance(self.defaults[name], bool):
                    text = "true"
                elif rest:
                    text = rest.pop(0)
                else:
                    raise SettingsError(f"{word} needs a value, e.g. {word}={self.defaults[name] or '…'}")
            found.append((name, text))
        if rest:
            raise SettingsError(f"{rest[0]!r} is no flag; {self._command} takes flags alone")
        return found

    def _unknown(self, name: str, word: str) -> str:
        if name in self._elsewhere:
            return f"{word}: {self._elsewhere[name]}"
        from difflib import get_close_matches  # for a slip of the pen only

        near = get_close_matches(name, self.defaults, n=1, cutoff=0.6)
        hope = f"did you mean -{near[0]}?" if near else f"`{self._command} -help` lists them"
        return f"{word}: there is no such flag; {hope}"


def switch(text: str) -> bool:
    """A switch's value, as strconv.ParseBool reads it. Raises ValueError."""
    if text not in TRUE | FALSE:
        raise ValueError("true or false is expected")
    return text in TRUE
