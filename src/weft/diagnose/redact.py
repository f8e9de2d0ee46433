"""Whatever must not leave the host, out of any text: passwords, keys, tokens, the users in URLs, containers'
environments. Pure; everything that `weft diagnose` prints or packs goes through here.

Rather too much than too little: what is taken out reads `***`. A log may hold anything, so each expression looks at a
character a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

GONE = "***"
LEAST = 4
"""Characters of a secret that is searched for as such; shorter ones would take half the page along."""

_SECRET = re.compile(
    r"pass(?:word|wd|phrase)|passwd|pwd|psk|secret|token|credential|(?:^|[._-])pass(?:$|[._-])"
    r"|(?:^|[._-])auth(?:$|[._-])|authorization|cookie"
    r"|(?:^|[._-]|private|preshared|access|api|bfd|encryption|signing|master|account)[._-]?key(?:$|[._-])",
    re.IGNORECASE,
)
"""Names of which the value is one."""
_NAMED = re.compile(r"(?<![\w.-])([\w.-]{1,128})(?:\\{0,3}[\"'])?[ \t]{0,8}[=:][ \t]{0,8}")
"""`NAME=`, `name: `, `"name": `, `\\"name\\": ` — and whatever comes is looked at by itself."""
_FLAG = re.compile(r"(?<!\S)-{1,2}([\w-]{1,64})[ \t]+(?=[^\s-])")
"""`--name value`."""
_VALUE = re.compile(
    r"\\{1,3}\"(?:[^\"\\]|\\[^\"])*\\{0,3}\"|\"(?:[^\"\\\n]|\\.)*\"?|'[^'\n]*'?"
    r"|(?:Bearer|Basic|Digest)[ \t]+[^\s\"',;}\]]+|[^\s\"',;}\]]+",
    re.IGNORECASE,
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]{0,60}-----.*?(?:-----END [A-Z0-9 ]{0,60}-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,30}://)[^/\s\"']{0,512}@"), rf"\1{GONE}@"),
    (re.compile(r"(?i)\b(bearer|basic|digest)[ \t]{1,8}[\w+/=.~-]{8,}"), rf"\1 {GONE}"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]+\.?[\w-]*"), GONE),
    (re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=(?![A-Za-z0-9+/=])"), GONE),  # a WireGuard key: 32 octets
)
_ENV = re.compile(r'"Env"[ \t\n]{0,40}:[ \t\n]{0,40}\[', re.IGNORECASE)
_ITEM = re.compile(r'[ \t\n,]{0,40}"([^"=\\\n]{0,256}=)?((?:[^"\\]|\\.)*)"')

Span = tuple[int, int, str]
"""From, to, and what stands there instead."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without its secrets. `secrets`: those that are known, taken out wherever they stand."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= LEAST:
            text = text.replace(secret, GONE)
    text = _without(text, _environments)
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    return _without(text, _named)


def _without(text: str, find: Callable[[str], Iterator[Span]]) -> str:
    parts: list[str] = []
    done = 0
    for start, end, put in find(text):
        if start >= done:
            parts += [text[done:start], put]
            done = end
    return "".join([*parts, text[done:]])


def _named(text: str) -> Iterator[Span]:
    """Values of what is named like a secret, in order. Never what is one of JSON's own words: null is no secret."""
    found = [*_NAMED.finditer(text), *_FLAG.finditer(text)]
    for name in sorted(found, key=lambda match: match.start()):
        if not _SECRET.search(name[1]):
            continue
        value = _VALUE.match(text, name.end())
        if value is not None and value[0] not in ("null", "true", "false"):
            quote = re.match(r"\\{0,3}[\"']", value[0])
            shown = f"{quote[0]}{GONE}{quote[0]}" if quote is not None else GONE
            yield value.start(), value.end(), shown


def _environments(text: str) -> Iterator[Span]:
    """The values in an engine's `"Env": ["NAME=value", …]`."""
    for env in _ENV.finditer(text):
        at = env.end()
        while (item := _ITEM.match(text, at)) is not None:
            yield item.start(2), item.end(2), GONE
            at = item.end()
