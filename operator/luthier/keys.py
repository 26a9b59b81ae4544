"""New keys for Secrets that the operator makes and cannot read. They go into one request and nowhere else."""

from __future__ import annotations

import base64
import secrets

from luthier.plan import Manifest

KEY_BYTES = 32
KEY = "key"


def with_new_key(manifest: Manifest) -> Manifest:
    """Return a Secret's manifest with a random key in it, as hex, so that people can copy it."""
    key = secrets.token_hex(KEY_BYTES).encode()
    return {**manifest, "data": {KEY: base64.b64encode(key).decode()}}
