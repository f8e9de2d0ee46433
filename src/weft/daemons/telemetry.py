"""Whether traces are wanted, and the process that exports them: `python -m weft.daemons.telemetry FD SERVICE`.

Started by `weft router` and `weft discovery` before they give up their privileges. A router can open no socket, so a
helper does that for it: a child without any capability, which hears of each cycle over a socket pair and loads
OpenTelemetry's SDK (some 30 MiB that the daemon doesn't have to carry). It ends when the daemon does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

from weft.daemons.privileges import drop, forbid_dumps
from weft.errors import WeftError
from weft.model import Problem
from weft.telemetry.sender import Telemetry

SUBJECT = "telemetry"
PACKAGE = "opentelemetry.exporter.otlp.proto.http"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FAREWELL = 3.0
"""Seconds that the helper gets for what is left when the daemon ends."""
OURS = ("OTEL_", "PYTHON")
PLAIN = frozenset(
    {
        *(
            "PATH",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "VIRTUAL_ENV",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
        ),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    }
)
BUFFER = 1 << 18
"""Octets that wait for the helper: some 300 cycles."""


class Helper:
    """The process that exports. `telemetry`: the daemon's end."""

    def __init__(self, environment: Mapping[str, str], service: str) -> None:
        """Raises OSError if it can't be started."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        with its:
            command = [sys.executable, "-P", "-m", "weft.daemons.telemetry", str(its.fileno()), service]
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    start_new_session=True,
                    preexec_fn=_give_up,
                    env=passed_on(environment),
                )
            except OSError:
                ours.close()
                raise
        self.telemetry = Telemetry(ours)

    def close(self) -> None:
        """It tells what it has, for a moment at the most. Waits for that: to be called last."""
        self.telemetry.close()
        try:
            self.process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(environment: Mapping[str, str], service: str) -> tuple[Helper | None, tuple[Problem, ...]]:
    """The helper, if the environment (OTEL_*) asks for traces; else None, and why not, if they were asked for.
    `service`: its name where OTEL_SERVICE_NAME gives none."""
    try:
        return (Helper(environment, service) if asked(environment) else None), ()
    except (WeftError, OSError) as error:
        return None, (Problem(SUBJECT, f"no traces are sent: {error}"),)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What the helper gets to see of the environment: no key or password of the daemon's."""
    return {name: value for name, value in environment.items() if name.startswith(OURS) or name.upper() in PLAIN}


def asked(environment: Mapping[str, str]) -> bool:
    """Whether traces are to be sent. Raises WeftError for what weft can't do."""
    named = [name for name in ENDPOINTS if _set(environment, name)]
    off = _set(environment, "OTEL_SDK_DISABLED").lower() == "true"
    exporters = _set(environment, "OTEL_TRACES_EXPORTER") or "otlp"
    if not named or off or exporters == "none":
        return False
    if exporters != "otlp":
        raise WeftError(f"OTEL_TRACES_EXPORTER={exporters}, and weft has otlp alone")
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = _set(environment, variable) or "http/protobuf"
        if protocol != "http/protobuf":
            raise WeftError(f"{variable}={protocol}, and weft speaks http/protobuf (port 4318 of a collector)")
        if _set(environment, variable):
            break
    if not _installed():
        raise WeftError(f"{named[0]} is set, and OpenTelemetry isn't installed: pip install 'weft[otel]'")
    return True


def _give_up() -> None:
    """Between fork and exec: the helper has no capability from its first instruction."""
    drop(frozenset())


def _set(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, "").strip()


def _installed() -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # a parent of the package is missing
        return importlib.util.find_spec(PACKAGE) is not None
    return False


def main(arguments: list[str]) -> None:
    """The helper. It ends when the daemon closes its end, so the signals that end the daemon are not for it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    forbid_dumps()  # a router has its user and more capabilities, and no socket to anybody: it may not borrow ours
    descriptor, service = arguments
    from weft.telemetry.exporting import serve

    with socket.socket(fileno=int(descriptor)) as end:
        serve(end, service)


if __name__ == "__main__":
    main(sys.argv[1:])
