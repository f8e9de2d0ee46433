"""aiohttp without certificate authorities, for daemons that only serve with it. Used by `cli/flanneld.py`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for them instead of the system's place (SSL_CTX_load_verify_locations(3))."""


@contextlib.contextmanager
def without_authorities() -> Iterator[None]:
    """What is imported in here finds no certificate authorities. aiohttp reads all of them when it is imported, for
    HTTPS clients: 0.1 s of a cold start and 2 MiB, for nothing where there is no such client."""
    before = {name: os.environ.get(name) for name in PLACES}
    os.environ.update(dict.fromkeys(PLACES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
