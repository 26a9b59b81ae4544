"""Signed ids of answers: which revision gave one, and when. Who has an id can vote on that answer, and on no other.

An id is text: `<revision>.<Unix seconds>.<random>.<HMAC-SHA256 of what stands before, 128 bits>`. Nothing about it is
kept: any pod that has the key can tell an id that was issued from one that was made up.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

SIGNING_KEY = "key"
"""The file that signs. Every other one in the folder only verifies: a key that is coming or going."""
MIN_KEY_BYTES = 32
MAX_KEYS = 4
MAX_ID_LENGTH = 256
REREAD_SECONDS = 30.0
_PURPOSE = b"luthier-response-id:"
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class IssuedAnswer:
    """What an id says, once its signature is right."""

    revision: str
    issued: int
    """Unix seconds, by the clock of the pod that answered."""


def issue(revision: str, *, key: bytes, now: float) -> str:
    """Return the id of an answer that a revision gives now."""
    text = f"{revision}.{int(now)}.{secrets.token_hex(8)}"
    return f"{text}.{_sign(key, text)}"


def read(id_: str, keys: Sequence[bytes]) -> IssuedAnswer | None:
    """Return what an id says; None when none of the keys has signed it."""
    if not id_.isascii() or len(id_) > MAX_ID_LENGTH:
        return None
    text, _, signature = id_.rpartition(".")
    # All keys are tried, whichever is right, each in constant time.
    if not any([hmac.compare_digest(_sign(key, text), signature) for key in keys]):
        return None
    revision, issued, _ = text.rsplit(".", 2)
    return IssuedAnswer(revision=revision, issued=int(issued))


def _sign(key: bytes, text: str) -> str:
    digest = hmac.new(key, _PURPOSE + text.encode(), hashlib.sha256).digest()[:_SIGNATURE_BYTES]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class KeyFolder:
    """The keys of a mounted Secret, read again every 30 s, so that they can be changed under a running server.

    A key that cannot be used is logged by its file's name; what stands in it never is.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._read_at = float("-inf")
        self._keys: dict[str, bytes] = {}
        self._problem = ""

    @property
    def signing(self) -> bytes | None:
        """The key that signs; None while there is none, which must not keep anybody from an answer."""
        return self._fresh().get(SIGNING_KEY)

    @property
    def verifying(self) -> tuple[bytes, ...]:
        """All keys by which an id may be signed."""
        return tuple(self._fresh().values())

    def _fresh(self) -> dict[str, bytes]:
        now = self._clock()
        if now - self._read_at >= REREAD_SECONDS:
            self._read_at = now
            self._keys, problem = _read_keys(self._folder)
            if problem and problem != self._problem:
                logger.error("no answer gets an id to vote by: %s", problem)
            self._problem = problem
        return self._keys


def _read_keys(folder: Path) -> tuple[dict[str, bytes], str]:
    """Return the keys by their files' names, and why there is none to sign with."""
    keys, problem = {}, f"{folder} has no file {SIGNING_KEY!r}"
    try:
        # A mounted Secret also has folders of its own, which begin with a dot.
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        for name in sorted(names, key=lambda name: name != SIGNING_KEY)[:MAX_KEYS]:
            key = (folder / name).read_bytes().strip()
            if len(key) >= MIN_KEY_BYTES:
                keys[name] = key
            elif name == SIGNING_KEY:
                problem = f"{folder / name} is shorter than {MIN_KEY_BYTES} bytes"
    except OSError as error:
        problem = f"{folder} cannot be read: {error.strerror}"
    return keys, "" if SIGNING_KEY in keys else problem
