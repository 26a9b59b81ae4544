"""Serving pods that answer `/luthier/counters`: one address of 127.0.0.0/8 each, at the serving port."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from luthier_server.config import PORT

Json = dict[str, Any]


class PodServers:
    """`tell` returns a pod's reply by its UID; None: it hangs up."""

    def __init__(self, tell: Callable[[str], Json | None]) -> None:
        self._tell = tell
        self._servers: dict[str, ThreadingHTTPServer] = {}
        self.asked = 0

    def address_of(self, uid: str) -> str:
        """Return a pod's IP address; its server runs from now on."""
        if uid not in self._servers:
            self._servers[uid] = self._open(uid)
        return str(self._servers[uid].server_address[0])

    def _open(self, uid: str) -> ThreadingHTTPServer:
        servers = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                servers.asked += 1
                value = servers._tell(uid) if self.path == "/luthier/counters" else None
                body = json.dumps(value).encode()
                self.send_response(200 if value is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = _bind(Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self) -> None:
        """End all servers."""
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
        self._servers.clear()


def _bind(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    # Other test runs on this machine have pods too: any address that is free will do.
    for _ in range(100):
        address = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
        try:
            return ThreadingHTTPServer((address, PORT), handler)
        except OSError:
            continue
    raise AssertionError(f"no address of 127.0.0.0/8 has port {PORT} free")
