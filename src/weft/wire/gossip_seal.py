"""What gossip sends is sealed with AES-256-GCM (NIST SP 800-38D): nobody without a key can read it or make it.

    datagram   2, salt 8, counter 4, ciphertext, tag 16           sealed
               1, plain text                                      where no key is set

Each start of a program draws a salt, and seals with a key of its own (HKDF-SHA-256, RFC 5869, of the hosts' key and
the salt): the counter is the nonce and never repeats, whatever other hosts do. Who opens keeps, for each salt, which
counters it has seen: a datagram is taken once. One that was recorded and never arrived says what was true then, and
incarnations (`core/swim.py`) tell that it is old. No clock is asked anywhere.

Several keys: the first one seals, all of them open, so that a key is changed host by host without a gap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from weft.errors import WireError
from weft.wire.seal import SealKey

OVERHEAD = 29
"""Octets that a sealed datagram is longer than what it says."""
_PLAIN, _SEALED = b"\x01", b"\x02"
_SALT, _TAG = 8, 16
_HEAD = 1 + _SALT + 4
_LABEL = b"weft gossip 1"
_LAST = 2**32 - 1
WINDOW = 1024
"""Datagrams of one sender that may overtake each other."""
SENDERS = 4096
"""Salts that are remembered, the latest ones."""


class Why(StrEnum):
    """Why a datagram was not opened."""

    UNSEALED = "unsealed"
    SEALED = "sealed"
    WRONG_KEY = "wrong_key"
    REPLAYED = "replayed"
    MALFORMED = "malformed"


class SealError(WireError):
    """It can't be believed."""

    def __init__(self, why: Why) -> None:
        self.why = why
        super().__init__(f"a datagram or table was refused: {why}")


@dataclass(slots=True)
class _Sender:
    """`cipher` of one salt; `highest` counter heard, and a bit for each of the WINDOW before it."""

    cipher: AESGCM
    highest: int = 0
    seen: int = 0

    def is_new(self, counter: int) -> bool:
        behind = self.highest - counter
        return behind < 0 or (behind < WINDOW and not self.seen >> behind & 1)

    def note(self, counter: int) -> None:
        if counter > self.highest:
            self.seen = (self.seen << min(counter - self.highest, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.highest = counter
        else:
            self.seen |= 1 << self.highest - counter


class Seal:
    """`keys`: `derive_key` of the operator's texts. `salt`: a new random one of 8 octets each time. `window`: each is
    taken once; False for what comes over a connection."""

    def __init__(self, keys: Sequence[SealKey], salt: Callable[[], bytes], window: bool = True) -> None:
        self._keys = tuple(keys)
        self._new_salt = salt
        self._window = window
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()
        self._counter = _LAST
        self._salt = b""
        self._cipher: AESGCM | None = None

    def seal(self, body: bytes, bound: bytes = b"") -> bytes:
        """The datagram. `bound`: who opens it must know this too."""
        if not self._keys:
            return _PLAIN + body
        if self._cipher is None or self._counter == _LAST:
            self._salt, self._counter = self._new_salt(), 0
            self._cipher = _cipher(self._keys[0], self._salt)
        self._counter += 1
        head = _SEALED + self._salt + self._counter.to_bytes(4, "big")
        return head + self._cipher.encrypt(bytes(8) + head[-4:], body, head + bound)

    def open(self, datagram: bytes, bound: bytes = b"") -> bytes:
        """What it says; SealError if it is not to be believed."""
        form = datagram[:1]
        if form == _PLAIN:
            if self._keys:
                raise SealError(Why.UNSEALED)
            return datagram[1:]
        if form != _SEALED or len(datagram) < _HEAD + _TAG:
            raise SealError(Why.MALFORMED)
        if not self._keys:
            raise SealError(Why.SEALED)
        return self._open(datagram, bound)

    def _open(self, datagram: bytes, bound: bytes) -> bytes:
        head, counter = datagram[:_HEAD], int.from_bytes(datagram[_HEAD - 4 : _HEAD], "big")
        salt = head[1 : 1 + _SALT]
        known = self._senders.get(salt)
        nonce = bytes(8) + head[-4:]
        for sender in [known] if known is not None else [_Sender(_cipher(key, salt)) for key in self._keys]:
            try:
                body = sender.cipher.decrypt(nonce, datagram[_HEAD:], head + bound)
            except InvalidTag:
                continue
            if self._window and not sender.is_new(counter):
                raise SealError(Why.REPLAYED)
            sender.note(counter)
            self._senders[salt] = sender
            self._senders.move_to_end(salt)
            if len(self._senders) > SENDERS:
                self._senders.popitem(last=False)
            return body
        raise SealError(Why.WRONG_KEY)


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt, _LABEL).derive(key))
