"""/healthz and /metrics of a role that has no web server of its own."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest


def serve(port: int, health: Callable[[], dict[str, Any]], host: str) -> ThreadingHTTPServer:
    """Serve both pages from a daemon thread; port 0 takes a free one (`.server_address[1]`)."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

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

    server = Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
