"""The tags of an AWS route table that say which of its routes are weft's: routes there have no tags of their own. Pure;
used by `targets/cloud/aws_tables.py`.

    weft-routes:/coreos.com/network:1f0c3a9e:0       10.5.0.0/24=3-9.12 10.6.0.0/24=0 fd00:5:0:300::/64=1
    weft-routes:/coreos.com/network:1f0c3a9e:new:0   10.5.40.0/24@0a1b2c3d

The first kind lists destinations that we wrote: `10.5.0.0/24=3-9.12` are blocks of that size, counted from that
address, so 10.5.3.0/24 to 10.5.9.0/24 and 10.5.12.0/24. The second kind lists those that are about to be written or
deleted, or were when the tags were written last, each with the end of the id of its network interface: there, a route
that leads elsewhere isn't ours. 1f0c3a9e: of the SHA-256 of the prefix in etcd, so that several managers can share a
table.

A tag has at most 128 characters of key and 256 of value, of letters, digits, spaces and `+-=._:/@`; a resource has at
most 50 tags (Amazon EC2 User Guide, "Tag your resources").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import groupby
from typing import TypeVar

from weft.errors import TargetError, WireError
from weft.model import IPNetwork

KEY = "weft-routes"
LONGEST_VALUE = 256
TAGS_AT_ALL = 50
MOST_SETTLED = 36
MOST_NEW = 6
"""Tags of either kind: 42 in all, so that eight are left for those who own the table."""
MOST_NETWORKS = 20_000
"""That are read out of one table's tags: a broken range must not fill the memory. AWS has at most 1,000 routes."""
MARK_DIGITS = 8
GROUP_BITS = 8

_LONGEST_SLUG = 80
_OFFSETS = re.compile(r"[0-9]{1,39}(-[0-9]{1,39})?(\.[0-9]{1,39}(-[0-9]{1,39})?)*")
_MARK = re.compile(r"[0-9a-z]{1,32}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claims:
    """What the tags of a table say. `settled`: destinations whose routes are ours. `new`: those whose route is ours if
    it leads to the interface with that mark. No destination is in both: where tags have it in both, it is settled."""

    settled: frozenset[IPNetwork] = frozenset()
    new: Mapping[IPNetwork, str] = field(default_factory=dict)

    def __contains__(self, dst: IPNetwork) -> bool:
        return dst in self.settled or dst in self.new

    def __iter__(self) -> Iterator[IPNetwork]:
        yield from self.settled
        yield from self.new

    def __len__(self) -> int:
        return len(self.settled) + len(self.new)


def owner_key(prefix: str) -> str:
    """What the keys of a manager's tags begin with. `prefix`: its prefix in etcd."""
    plain = "/" + prefix.strip("/")
    slug = re.sub(r"[^A-Za-z0-9+\-=._/@]", "_", plain)[:_LONGEST_SLUG]
    return f"{KEY}:{slug}:{hashlib.sha256(plain.encode()).hexdigest()[:8]}:"


def mark(interface: str) -> str:
    """Of an interface's id (eni-0123456789abcdef0), what is kept of it in a tag. "": a route that leads to none."""
    return interface.removeprefix("eni-").lower()[-MARK_DIGITS:] or "none"


def tags_of(owner: str, claims: Claims) -> dict[str, str]:
    """The tags that say it, by key; none for no claims. Raises TargetError if that would be too many."""
    settled = _packed(_settled_words(claims.settled))
    new = _packed(_new_word(dst, claims.new[dst]) for dst in sorted(claims.new, key=_order))
    if len(settled) > MOST_SETTLED or len(new) > MOST_NEW:
        raise TargetError(
            f"the list of {len(claims)} destinations needs {len(settled)} + {len(new)} tags of {LONGEST_VALUE} "
            f"characters, and weft takes at most {MOST_SETTLED} + {MOST_NEW} of the {TAGS_AT_ALL} that a route table "
            "can have: use larger subnets, -aggregate, or another table for a part of the hosts"
        )
    tags = {f"{owner}{n}": value for n, value in enumerate(settled)}
    return tags | {f"{owner}new:{n}": value for n, value in enumerate(new)}


def claims_of(owner: str, tags: Mapping[str, str]) -> Claims:
    """What the tags of a table say to this owner; tags of others are passed over. Raises WireError, naming the tag, for
    a value of ours that can't be read: guessing would make ours foreign, or somebody else's ours."""
    settled: set[IPNetwork] = set()
    new: dict[IPNetwork, str] = {}
    for key, value in tags.items():
        if not key.startswith(owner):
            continue
        try:
            if key.removeprefix(owner).startswith("new:"):
                new.update(map(_read_new, value.split()))
            else:
                for word in value.split():
                    settled.update(_read_settled(word, MOST_NETWORKS - len(settled)))
        except ValueError as error:
            raise WireError(f"the tag {key} with the value {value!r} can't be read: {error}") from None
    return Claims(frozenset(settled), {dst: kept for dst, kept in new.items() if dst not in settled})


def portions(items: Iterable[tuple[T, IPNetwork]]) -> list[list[T]]:
    """Items, each about one destination, in portions whose destinations fit into the tags for what is new. Any mark may
    be written for each."""
    full: list[list[T]] = []
    value, tags = 0, MOST_NEW
    for item, dst in items:
        word = len(_new_word(dst, "0" * MARK_DIGITS)) + 1
        value += word
        if value > LONGEST_VALUE + 1:
            tags, value = tags + 1, word
        if not full or tags > MOST_NEW:
            full.append([])
            tags, value = 1, word
        full[-1].append(item)
    return full


def _order(dst: IPNetwork) -> tuple[int, int, int]:
    return dst.version, dst.prefixlen, int(dst.network_address)


def _new_word(dst: IPNetwork, kept: str) -> str:
    return f"{dst}@{kept}"


def _read_new(word: str) -> tuple[IPNetwork, str]:
    text, _, kept = word.partition("@")
    if _MARK.fullmatch(kept) is None:
        raise ValueError(f"{word} has no mark of an interface")
    return ip_network(text), kept


def _base(dst: IPNetwork) -> IPNetwork:
    """The block from whose address blocks of this size are counted: for a /24, the third octet is the count."""
    return dst.supernet(new_prefix=max(dst.prefixlen - GROUP_BITS, 0))


def _settled_words(networks: Iterable[IPNetwork]) -> Iterator[str]:
    ordered = sorted(networks, key=_order)
    for (base, length), group in groupby(ordered, key=lambda dst: (_base(dst), dst.prefixlen)):
        blocks = list(group)
        if len(blocks) == 1:
            yield str(blocks[0])
            continue
        step = 1 << (base.max_prefixlen - length)
        first = int(base.network_address)
        yield from _words(
            f"{base.network_address}/{length}=", [(int(dst.network_address) - first) // step for dst in blocks]
        )


def _words(head: str, offsets: Sequence[int]) -> Iterator[str]:
    """One word, or several if it would not fit a value."""
    word = ""
    for text in _runs(offsets):
        if word and len(word) + 1 + len(text) > LONGEST_VALUE:
            yield word
            word = ""
        word = f"{word}.{text}" if word else head + text
    yield word


def _runs(offsets: Sequence[int]) -> Iterator[str]:
    """Sorted numbers as `3-9`, `12`."""
    start = end = offsets[0]
    for number in offsets[1:]:
        if number != end + 1:
            yield _run(start, end)
            start = number
        end = number
    yield _run(start, end)


def _run(start: int, end: int) -> str:
    return str(start) if start == end else f"{start}-{end}"


def _read_settled(word: str, room: int) -> Iterator[IPNetwork]:
    text, counted, offsets = word.partition("=")
    first = ip_network(text)
    if not counted:
        yield first
        return
    if _OFFSETS.fullmatch(offsets) is None:
        raise ValueError(f"{word} does not count blocks like 3-9.12")
    step = 1 << (first.max_prefixlen - first.prefixlen)
    for run in offsets.split("."):
        start, _, end = run.partition("-")
        low, high = int(start), int(end or start)
        room -= high - low + 1
        if high < low or room < 0:
            raise ValueError(f"{run} in {word} runs backwards, or lists more than {MOST_NETWORKS} destinations")
        for number in range(low, high + 1):
            address = type(first.network_address)(int(first.network_address) + number * step)
            yield ip_network((address, first.prefixlen))


def _packed(words: Iterable[str]) -> list[str]:
    values: list[str] = []
    for word in words:
        if values and len(values[-1]) + 1 + len(word) <= LONGEST_VALUE:
            values[-1] += f" {word}"
        else:
            values.append(word)
    return values
