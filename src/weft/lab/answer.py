"""A web server that tells a name: `python -m weft.lab.answer PORT NAME`. In a lab's containers, and in deploy/gce-demo.

Not `python -m http.server`: that one asks DNS for the name of its own address before it listens, and in a namespace
without a resolver it waits for the answer for ten seconds and more.
"""

from __future__ import annotations

import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler


class Answer(BaseHTTPRequestHandler):
    """Every GET is answered with the name and a line feed."""

    name = ""

    def do_GET(self) -> None:
        body = f"{self.name}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingTCPServer):
    """On every address, IPv6 too where there is IPv6."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main(port: str, name: str) -> None:
    """Serve until killed. OSError if the port is taken."""
    Answer.name = name
    with Server(("", int(port)), Answer) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
