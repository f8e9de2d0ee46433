"""GET on a daemon's unix socket. Imported by `client.py` when something is asked, and not before: the daemons share its
command line, and what http.client brings along (email, random, …) would be a MiB in each of them for nothing.
"""

from __future__ import annotations

import http.client
import socket

TIMEOUT = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def get(path: str, target: str) -> tuple[int, bytes]:
    """Status and body of the answer on the socket at `path`. Raises OSError, also for what is no HTTP."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
