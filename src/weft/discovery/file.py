"""discovery.json as a source: all that `weft router` ever learns of the other hosts. Followed by `daemons/router.py`.

The folder belongs to another process, which talks to the network and may have been taken over. Nothing that it puts
there can hold up or end this one: only a regular file is read, without waiting, up to a limit; whatever is wrong with
it is a sentence, and what was known before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import blake2b

from weft.discovery.file_watch import PathWatch
from weft.errors import WireError
from weft.model import DiscoveryData
from weft.wire.discovery_data import LONGEST, DiscoveryReader

GRACE = 0.2
"""Seconds that a file may be away or broken before that is said: some programs write in place."""
AGAIN = 2.0
"""Seconds until the next look while it can't be read: of a folder that may not be entered, nothing is heard."""
INLINE = 1 << 18
"""Octets that are decoded at once (8 ms at the most); more of them in a thread, so that everything else goes on."""

LONG, LONGEST_REST = 0.02, 1.0
"""Seconds that a look may take without a rest as long after it; and the longest rest."""


class DiscoveryFile:
    """`path`: of discovery.json. `watch`: hear of changes from the kernel. `refresh`: seconds after which the file is
    looked at in any case.

    `data`: what the file said when it could be read last; before the first time nothing, and nothing is vouched for.
    `problem`: why that may be out of date ("missing since", "broken since"), "" while all is well."""

    def __init__(self, path: str, watch: bool = True, refresh: float = 60.0) -> None:
        self.path = path
        self.data = DiscoveryData(complete=False)
        self.problem = ""
        self._watch = watch
        self._refresh = refresh
        self._reader = DiscoveryReader()
        self._digest = b""
        self._trouble = ""
        self._since = ""
        self._patience = 0.0

    async def contents(self) -> AsyncIterator[DiscoveryData]:
        """Yield `data` at start, and when it or `problem` has changed. Where the file can't be read at the start, that
        is after a moment's patience."""
        woken = asyncio.Event()
        watch = PathWatch(self.path, woken.set) if self._watch else None
        clock = asyncio.get_running_loop().time
        told: tuple[DiscoveryData | None, str] = (None, "")
        try:
            while True:
                woken.clear()
                if watch is not None:
                    watch.renew()  # before the look: what happens after it is heard of
                start = clock()
                doubtful = await self._look()
                took = clock() - start
                if not doubtful and (told[0] is not self.data or told[1] != self.problem):
                    told = (self.data, self.problem)
                    yield self.data
                if took > LONG:  # whoever writes much and often does not get all of our time
                    await asyncio.sleep(min(took, LONGEST_REST))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE if doubtful else self._wait):
                        await woken.wait()
        finally:
            if watch is not None:
                watch.close()

    @property
    def _wait(self) -> float:
        return min(self._refresh, AGAIN) if self.problem else self._refresh

    async def _look(self) -> bool:
        """Read the file if it can be read. True: something is wrong, and it is too early to say so."""
        loop = asyncio.get_running_loop()
        trouble = await self._read()
        if not trouble:
            self._trouble = self.problem = ""
            return False
        if not self._trouble:
            self._patience = loop.time() + GRACE
            self._since = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._trouble = trouble
        if loop.time() < self._patience:
            return True
        self.problem = f"{self.path} {trouble}, since {self._since}: {self._advice()}"
        return False

    async def _read(self) -> str:
        """ "" or what is wrong with the file."""
        try:
            body = read_regular(self.path, LONGEST)
            digest = blake2b(body, digest_size=16).digest()
            if digest == self._digest:
                return ""
            if len(body) <= INLINE:
                self.data = self._reader.decode(body)
            else:
                self.data = await asyncio.to_thread(self._reader.decode, body)
            self._digest = digest
        except (FileNotFoundError, NotADirectoryError):
            return "is missing"
        except PermissionError:  # root has no more right than others: the router keeps NET_ADMIN alone
            return f"can't be read (Permission denied: user {os.geteuid()} must be of the group that it belongs to)"
        except OSError as error:
            return f"can't be read ({error.strerror or error})"
        except WireError as error:
            return f"is broken ({error})"
        return ""

    def _advice(self) -> str:
        if self._digest:
            return "what it said last is kept, and so are all routes"
        return "nothing is known of any peer; does `weft discovery` run here, with the same DATA_DIR?"


def read_regular(path: str, most: int) -> bytes:
    """The whole of a regular file that nobody is writing to. Never waits for anybody but the disk: not for a pipe's
    other end, not for the holder of a lease (fcntl(2)). Raises OSError if it can't be opened, WireError if it is of
    another kind, longer than `most` octets, or written to just now."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(os.open(path, flags), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise WireError("it is a folder, device or pipe, not a regular file")
        if before.st_size > most:
            raise WireError(f"it has {before.st_size} octets, and {most} is the limit")
        body = _all_of(file.fileno(), most)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(body) != after.st_size:
        raise WireError("somebody is writing to it instead of replacing it")
    return body


def _all_of(descriptor: int, most: int) -> bytes:
    parts = []
    while most >= 0 and (part := os.read(descriptor, min(1 << 20, most + 1))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
