"""What an operator says about an etcd, checked. `connection` is the only reader; nothing here does I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from weft.errors import SettingsError

FORMS = "write them as http://HOST:PORT or https://HOST:PORT, several with commas between"


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """`endpoints`: the members' client addresses, each as an operator writes them ("http://10.0.1.2:2379", also several
    in one text with commas between). Files are PEM, "" for none: `cafile` "" is the system's authorities; `certfile`
    and `keyfile` come together. `username` "" is no user. `timeout`: seconds that one question may take; a watch
    notices a member that fell silent in two to three of them."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member: `address` is "host:port" (IPv6 in brackets)."""

    address: str
    tls: bool

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}"


def checked(options: EtcdOptions) -> tuple[Endpoint, ...]:
    """The endpoints, each once, in the order given. Raises SettingsError for whatever can't be meant."""
    if bool(options.certfile) != bool(options.keyfile):
        given, missing = ("certificate", "key") if options.certfile else ("key", "certificate")
        raise SettingsError(f"etcd: a client {given} is given and its {missing} is not: give both files or none")
    if options.password and not options.username:
        raise SettingsError("etcd: a password is given and no user name: give both or none")
    if not options.timeout > 0:
        raise SettingsError(f"etcd: the timeout is {options.timeout} seconds: it must be more than 0")
    texts = [text.strip() for given in options.endpoints for text in given.split(",")]
    found = tuple(dict.fromkeys(_endpoint(text) for text in texts if text))
    if not found:
        raise SettingsError(f"etcd: no endpoint is given: {FORMS}")
    if len({endpoint.tls for endpoint in found}) > 1:
        raise SettingsError(f"etcd: {', '.join(map(str, found))} mixes http and https: use one for all members")
    return found


def _endpoint(text: str) -> Endpoint:
    scheme, separator, _ = text.partition("://")
    shown = re.sub(r"[^/@]*@", "…@", text)  # a password may stand there
    try:
        parts = urlsplit(text if separator else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise SettingsError(f"etcd: the endpoint {shown!r} can't be read ({error}): {FORMS}") from None
    extra = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in ("http", "https") or not host or extra or " " in text:
        what = f"scheme {scheme!r}" if separator and parts.scheme not in ("http", "https") else "form"
        raise SettingsError(f"etcd: the endpoint {shown!r} has a {what} that is not known: {FORMS}")
    if not port:
        raise SettingsError(f"etcd: the endpoint {shown!r} has no port; etcd's is 2379: {FORMS}")
    return Endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.scheme == "https")
