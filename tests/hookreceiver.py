"""A receiver of hooks on loopback, over TLS with a certificate of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from threadserver import ThreadServer

Json = dict[str, Any]
SECRET = b"0123456789abcdef0123456789abcdef"
HANG = 0
"""Instead of an HTTP status: no answer comes until the receiver is closed."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One call, as it came in."""

    id: str
    body: Json
    is_signed: bool
    answer: int

    @property
    def about(self) -> Json:
        """What it says; the time of sending is another one at each try."""
        return {name: value for name, value in self.body.items() if name != "sentAt"}


class Receiver(ThreadServer):
    """A receiver for as long as a `with` block lasts; its files lie in a folder of the caller's."""

    def __init__(self, folder: Path, name: str = "hooks") -> None:
        super().__init__()
        self.certificate, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        self.key_file = folder / f"{name}.secret"
        self.key_file.write_bytes(SECRET)
        _make_certificate(self.certificate, self._key)
        self.answer: Callable[[Json], int] = lambda body: 204
        """What is said to a call: an HTTP status, or HANG."""
        self.heard: list[Heard] = []
        self.host = ""

    def url(self, path: str) -> str:
        return f"https://{self.host}/{path}"

    def taken(self, type_: str) -> dict[str, Heard]:
        """Return the calls of a type that were answered with 2xx, by id."""
        return {one.id: one for one in tuple(self.heard) if one.body["type"] == type_ and one.answer // 100 == 2}

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate, self._key)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.host = f"127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        data = await request.read()
        body = json.loads(data)
        own = hmac.new(SECRET, f"luthier-hook:{self.host}".encode(), hashlib.sha256).hexdigest()
        signature = "sha256=" + hmac.new(own.encode(), data, hashlib.sha256).hexdigest()
        answer = self.answer(body)
        is_signed = hmac.compare_digest(signature, request.headers["X-Luthier-Signature"])
        self.heard.append(Heard(id=request.headers["X-Luthier-Id"], body=body, is_signed=is_signed, answer=answer))
        if answer == HANG:
            await self._stop.wait()
        return web.Response(status=answer or 500)


def _make_certificate(certificate: Path, key: Path) -> None:
    name = ("-subj", "/CN=hooks", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    command = ["openssl", "req", *made, "-keyout", str(key), "-out", str(certificate), *name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
