"""/healthz and /metrics of a role that has no web server of its own."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

_host = "127.0.0.1"


def listen_on(host: str) -> None:
    """Say once, before a role starts, on which address this process serves its pages; 127.0.0.1 if nobody does."""
    global _host  # noqa: PLW0603  (one address of one process, as the log's set-up is)
    _host = host


def serve(port: int, health: Callable[[], dict[str, Any]], host: str | None = None) -> ThreadingHTTPServer:
    """Serve both pages from a daemon thread; port 0 takes a free one (`.server_address[1]`)."""
    at = _host if host is None else host

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in at else socket.AF_INET

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/healthz":
                kind, body = "application/json", msgspec.json.encode(health())
            elif path == "/metrics":
                kind, body = CONTENT_TYPE_LATEST, generate_latest(REGISTRY)
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Stay quiet: a scrape is no event."""

    server = Server((at, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
