"""Whatever must not leave the host, out of any text: passwords, keys, tokens, the users in URLs, containers'
environments. Pure; everything that `weft diagnose` prints or packs goes through here.

Rather too much than too little: what is taken out reads `***`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

GONE = "***"
LEAST = 4
"""Characters of a secret that is searched for as such; shorter ones would take half the page along."""

_NAME = (
    r"(?:pass(?:word|wd|phrase)?|pwd|psk|secret|token|credentials?|auth(?:orization)?|cookie|session"
    r"|(?:private|preshared|pre_shared|secret|access|api|bfd|encryption|signing|ssh|tsig|master|_)[_-]?key)"
)
_WORD = rf"[\w.-]*{_NAME}[\w.-]*"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s\"'@]*@"), rf"\1{GONE}@"),
    (re.compile(r"(?i)\b(bearer|basic|digest)\s+[\w+/=.~-]{8,}"), rf"\1 {GONE}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.?[\w-]*"), GONE),
    # "NAME": "value", \"NAME\": \"value\"; then NAME=value, name: value; then --name value
    (re.compile(rf'(?i)(\\?"{_WORD}\\?"\s*:\s*)(?:\\?"(?:[^"\\]|\\.)*\\?"|[^\s,}}\]]+)'), rf'\1"{GONE}"'),
    (re.compile(rf"(?i)(?<![\w/])({_WORD}\s*[=]\s*)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\",;}}\]]+)"), rf"\1{GONE}"),
    (re.compile(rf"(?i)(?<![\w/])({_WORD}\s*:\s+)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\",;}}\]]+)"), rf"\1{GONE}"),
    (re.compile(rf"(?i)(\s--?{_WORD}\s+)(?!-)\S+"), rf"\1{GONE}"),
    (re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=(?![A-Za-z0-9+/=])"), GONE),  # a WireGuard key: 32 octets
)
_ENV = re.compile(r'("Env"\s*:\s*\[)(.*?)(\])', re.DOTALL | re.IGNORECASE)
_ENV_ITEM = re.compile(r'("[^"=\n]*=)(?:[^"\\]|\\.)*(")')


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without its secrets. `secrets`: those that are known, taken out wherever they stand."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= LEAST:
            text = text.replace(secret, GONE)
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    return _ENV.sub(lambda found: found[1] + _ENV_ITEM.sub(rf"\1{GONE}\2", found[2]) + found[3], text)
