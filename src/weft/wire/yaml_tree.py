"""A YAML text as plain values, whoever wrote it: texts, lists, mappings. Used by `routing.py`.

PyYAML's loaders turn `1:2:3` into a number and `no` into false, expand aliases without end, take the last of two equal
keys, and recurse as deep as a file asks them to. Here its parser's events are taken instead, one by one: every scalar
stays the text that it is, and what no honest file needs is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from weft.errors import WireError
from weft.wire.yaml_fields import Tree, shown

LONGEST = 1 << 20
"""Characters: a thousand stacks take 150,000."""
DEEPEST = 16

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # PyYAML may have been built without libyaml


@dataclass(slots=True)
class _Open:
    """A collection that has not ended. `key`: of a mapping, the one whose value comes next."""

    tree: list[Tree] | dict[str, Tree]
    key: str | None = None


def read_yaml(text: str) -> Tree:
    """The one document in `text`; "" for one that holds nothing. WireError if it is none, or an unreasonable one."""
    if len(text) > LONGEST:
        raise WireError(f"it has {len(text)} characters, and {LONGEST} are the most that is read")
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WireError(f"it is no YAML: {_reason(error)}") from error
    return builder.root if builder.root is not None else ""


class _Builder:
    def __init__(self) -> None:
        self.root: Tree | None = None
        self._open: list[_Open] = []

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise WireError("it holds several documents (a line of `---` between them); one is read")
        if isinstance(event, yaml.AliasEvent):
            raise WireError(f"{self._path()}: an alias (`*{event.anchor}`) is not taken; write the value itself")
        if isinstance(event, yaml.ScalarEvent):
            self._put(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._enter([])
        elif isinstance(event, yaml.MappingStartEvent):
            self._enter({})
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()

    def _enter(self, tree: list[Tree] | dict[str, Tree]) -> None:
        if len(self._open) == DEEPEST:
            raise WireError(f"{self._path()}: it is nested more than {DEEPEST} deep")
        self._put(tree)
        self._open.append(_Open(tree))

    def _put(self, value: Tree) -> None:
        if not self._open:
            self.root = value
            return
        here = self._open[-1]
        if isinstance(here.tree, list):
            here.tree.append(value)
        elif here.key is not None:
            here.tree[here.key], here.key = value, None
        elif not isinstance(value, str):
            raise WireError(f"{self._path()}: a key must be a text, not {shown(value)}")
        elif value in here.tree:
            raise WireError(f"{self._path()}: the key {shown(value)} is there twice; keep one")
        else:
            here.key = value

    def _path(self) -> str:
        """Where the parser is, as a person would say it: `networks[0].subnet`."""
        path = ""
        for one in self._open:
            inside = one is not self._open[-1]  # what is open below stands in its collection already
            if isinstance(one.tree, list):
                path += f"[{len(one.tree) - inside}]"
            elif inside or one.key is not None:
                path += f".{list(one.tree)[-1] if inside else one.key}"
        return path.lstrip(".") or "the file"


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())[:200]
