"""Tells Prometheus which pods ask to be scraped: service discovery by HTTP, from the list of pods at each request.

A pod asks by the annotations prometheus.io/scrape, port and path. Its target carries `namespace`, `pod`, `pod_uid` and
the pod's labels `luthier.dev/NAME` as `luthier_dev_NAME`. Runs in Prometheus's own pod, with its service account.
"""

import json
import re
import ssl
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PODS = "https://kubernetes.default.svc/api/v1/pods?resourceVersion=0"  # from the API server's memory
ASK = "prometheus.io/"


def target(pod: dict[str, Any]) -> dict[str, Any] | None:
    """Give the target that a pod asks for; None where it asks for none or has no address to ask."""
    meta, status = pod["metadata"], pod["status"]
    asks = {key.removeprefix(ASK): value for key, value in meta.get("annotations", {}).items() if key.startswith(ASK)}
    if asks.get("scrape") != "true" or "port" not in asks or status.get("phase") != "Running" or "podIP" not in status:
        return None
    own = {key: value for key, value in meta.get("labels", {}).items() if key.startswith("luthier.dev/")}
    return {
        "targets": [f"{status['podIP']}:{asks['port']}"],
        "labels": {
            "__metrics_path__": asks.get("path", "/metrics"),
            "namespace": meta["namespace"],
            "pod": meta["name"],
            "pod_uid": meta["uid"],
            **{re.sub(r"[^a-zA-Z0-9_]", "_", key): value for key, value in own.items()},
        },
    }


class Discovery(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        token = (ACCOUNT / "token").read_text()  # rotated by kubelet
        request = urllib.request.Request(PODS, headers={"Authorization": f"Bearer {token}"})
        authority = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
        with urllib.request.urlopen(request, context=authority, timeout=5) as response:
            pods = json.load(response)["items"]
        body = json.dumps([found for found in map(target, pods) if found]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A line for each second says nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9091), Discovery).serve_forever()
