"""Certificate authorities are out of sight while aiohttp is imported, and only then."""

from __future__ import annotations

import os
import ssl

import pytest

from weft.web.authorities import without_authorities


def authorities() -> int:
    return ssl.create_default_context().cert_store_stats()["x509_ca"]


def test_no_authorities_inside_and_all_of_them_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", "/somewhere")
    before, environment = authorities(), dict(os.environ)
    with without_authorities():
        assert authorities() == 0
    assert authorities() == before
    assert dict(os.environ) == environment
