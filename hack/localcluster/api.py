"""The few calls that we make to the API server ourselves; manifests go through kubectl."""

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Api:
    """A client with the certificate of a kubeconfig, deaf to proxies: the server is on this machine."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
        context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
        user = config["users"][0]["user"]
        with tempfile.NamedTemporaryFile() as pair:  # ssl loads a certificate from files only
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def is_ready(self) -> bool:
        try:
            self._open("GET", "/readyz").close()
        except OSError:  # refused, or HTTP 500 while a part is still starting
            return False
        return True

    def get(self, path: str) -> Any:
        """Read an object; None where there is none."""
        try:
            with self._open("GET", path) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def patch(self, path: str, body: object, *, kind: str = "merge") -> None:
        self._open("PATCH", path, json.dumps(body).encode(), f"application/{kind}-patch+json").close()

    def _open(self, method: str, path: str, body: bytes | None = None, content: str = "application/json") -> Any:
        request = urllib.request.Request(
            self._server + path, data=body, method=method, headers={"Content-Type": content}
        )
        return self._opener.open(request, timeout=5)
