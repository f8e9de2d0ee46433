"""A daemon's environment variables as one table: the fields of a Struct, each variable named like its field in upper
case. Used by the settings of the drop-in daemons (`registrar.py`, `discovery.py`, `router.py`).

An empty variable is one that is not set, since Compose files write `NAME=${NAME:-}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from weft.errors import SettingsError
from weft.model import IPAddress, Network
from weft.settings import convert, nearest, plain

S = TypeVar("S", bound=msgspec.Struct)


class Variables(Generic[S]):
    """`kind`: the Struct. `secrets`: variables that are never shown. `also`: names that are read beside the fields'."""

    def __init__(self, kind: type[S], secrets: frozenset[str] = frozenset(), also: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._secrets = secrets
        hints = get_type_hints(kind, include_extras=True)
        self._hints = {name.upper(): hint for name, hint in hints.items() if get_origin(hint) is Annotated}
        self.names = frozenset((*self._hints, *also))
        """Everything that is read."""

    def read(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """The fields that the environment sets. Raises SettingsError that names the variable, its value and what would
        be right."""
        said = {variable: environment.get(variable, "").strip() for variable in self._hints}
        return {variable.lower(): self.value(variable, text) for variable, text in said.items() if text}

    def value(self, variable: str, given: object, origin: str = "") -> Any:
        """One field's value, from text or YAML. `origin`: how the user wrote its name."""
        hint = self._hints[variable]
        kind = get_args(hint)[0]
        try:
            return convert(given, IPAddress | None if kind is IPAddress else kind, hint)
        except (ValueError, TypeError, msgspec.ValidationError) as error:
            shown = "(not shown)" if variable in self._secrets else repr(given)
            text = f"{origin or variable} = {shown}: {plain(str(error))}{nearest(given, hint)}"
            raise SettingsError(text) from error

    def describe(self) -> list[tuple[str, str, str]]:
        """One row per variable: name, default as text, what it is."""
        rows, defaults = [], self._kind()
        for variable, hint in self._hints.items():
            meta = next((m for m in get_args(hint)[1:] if isinstance(m, msgspec.Meta)), msgspec.Meta())
            rows.append((variable, _shown(getattr(defaults, variable.lower())), meta.description or ""))
        return rows

    def held(self, settings: S, variable: str) -> str:
        """What a variable comes to, as text; of a secret, whether there is one."""
        value = getattr(settings, variable.lower())
        return "(set)" if variable in self._secrets and value else _shown(value)

    def misspelt(self, environment: Mapping[str, str], pattern: str, daemon: str) -> list[str]:
        """Remarks on variables that look like ours (`pattern` matches their beginning) and are none."""
        remarks = []
        for name in sorted(environment):
            if re.match(pattern, name) and name not in self.names:
                from difflib import get_close_matches  # for a slip of the pen only

                near = get_close_matches(name, self.names, n=1, cutoff=0.8)
                if near:
                    remarks.append(f"{name} is no variable of {daemon}'s; did you mean {near[0]}?")
        return remarks


def secret(variable: str, text: str, file: str) -> str:
    """What `variable` or the file that `<variable>_FILE` names holds, "" for none. Raises SettingsError for a file that
    can't be read or is empty, and if both are set."""
    if text and file:
        raise SettingsError(f"{variable} and {variable}_FILE are both set; keep one of them")
    if not file:
        return text
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}_FILE = {file!r} can't be read: {error}") from error
    if not found:
        raise SettingsError(f"{variable}_FILE = {file!r} is empty; put the key in it")
    return found


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(
            ",".join(f"{n.name}={s}" for s in n.subnets) if isinstance(n, Network) else str(n) for n in value
        )
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
