"""Partial answers: `fields=items(name,destRange),nextPageToken`. Called by `api`.

Source: Google's JSON APIs, "Partial responses": names with commas, `a/b` and `a(b,c)` for what is inside, `*` for all.
"""

from __future__ import annotations

import re

from weft.lab.compute.refusal import Refusal
from weft.lab.compute.resources import Json

Mask = dict[str, "Mask"]
"""Names, and what is wanted inside each; {} is all."""
_PIECE = re.compile(r"\s*([A-Za-z0-9_*-]+|[,/()])")


def parse(text: str) -> Mask:
    """Refusal (400): it can't be read."""
    pieces = _PIECE.findall(text)
    if "".join(pieces) != re.sub(r"\s", "", text):
        raise _no(text)
    mask = _several(pieces, text)
    if pieces:
        raise _no(text)
    return mask


def select(document: Json, mask: Mask) -> Json:
    """Only what the mask names. Refusal (400) for a name that no document can have is not given: what isn't there is
    left out."""
    if not mask or "*" in mask:
        return document
    return {key: _inside(value, mask[key]) for key, value in document.items() if key in mask}


def _inside(value: object, mask: Mask) -> object:
    if isinstance(value, (list, tuple)):
        return [_inside(one, mask) for one in value]
    return select(value, mask) if isinstance(value, dict) and mask else value


def _several(pieces: list[str], text: str) -> Mask:
    mask: Mask = {}
    while True:
        _one(pieces, text, mask)
        if not pieces or pieces[0] != ",":
            return mask
        pieces.pop(0)


def _one(pieces: list[str], text: str, into: Mask) -> None:
    if not pieces or pieces[0] in ",/()":
        raise _no(text)
    inner = into.setdefault(pieces.pop(0), {})
    if pieces and pieces[0] == "/":
        pieces.pop(0)
        _one(pieces, text, inner)
    elif pieces and pieces[0] == "(":
        pieces.pop(0)
        inner |= _several(pieces, text)
        if not pieces or pieces.pop(0) != ")":
            raise _no(text)


def _no(text: str) -> Refusal:
    return Refusal(400, f"Invalid field selection {text}", "invalidParameter")
