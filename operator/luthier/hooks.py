"""Makes the calls that plans want, beside the passes: signed, tried again, never waited for.

Only https to hosts that the platform team has listed gets here (`luthier.deployment.hooks`). No redirect is followed,
no proxy is asked, and of a reply only its status counts. The key is read at each call, so that a Secret may change.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import orjson

from luthier.errors import describe
from luthier.plan import Call, HookAnswer, Key
from luthier.status import format_time

log = logging.getLogger(__name__)

SECONDS = 5.0
"""For one call."""
FIRST_RETRY, LAST_RETRY = 5.0, 300.0

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
"""POST a body to a URL with headers; returns the status."""


@dataclass
class _Wanted:
    call: Call
    task: asyncio.Task[None]
    answer: HookAnswer | None = None


class HookCaller:
    """One caller for all objects: knows what each one's last pass wanted, and what was answered."""

    def __init__(self, post: Post, *, key_file: Path | None, changed: Callable[[Key], None]) -> None:
        self._post = post
        self._key_file = key_file
        self._changed = changed
        self._wanted: dict[Key, dict[str, _Wanted]] = {}

    def answers(self, key: Key) -> dict[str, HookAnswer]:
        """Return what has been answered to the calls that are still wanted, by id."""
        return {id_: w.answer for id_, w in self._wanted.get(key, {}).items() if w.answer is not None}

    def want(self, key: Key, calls: Sequence[Call]) -> None:
        """Begin what is new, go on with what is known, forget the rest."""
        ids = {call.id for call in calls}
        known = self._wanted.get(key, {})
        for id_ in known.keys() - ids:
            known.pop(id_).task.cancel()
        for call in calls:
            if call.id not in known:
                known[call.id] = _Wanted(call, asyncio.create_task(self._until_ok(key, call)))
        if known:
            self._wanted[key] = known
        else:
            self._wanted.pop(key, None)

    def stop(self) -> None:
        """Forget everything: who leads next asks and tells by itself."""
        for key in tuple(self._wanted):
            self.want(key, ())

    async def _until_ok(self, key: Key, call: Call) -> None:
        delay = FIRST_RETRY
        while True:
            answer = await self._try(call)
            wanted = self._wanted[key][call.id]
            if wanted.answer != answer:
                wanted.answer = answer
                self._changed(key)
            if answer.ok:
                return
            log.warning("hook %s: %s", call.url, answer.message, extra={"key": str(key)})
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)

    async def _try(self, call: Call) -> HookAnswer:
        try:
            secret = self._read_key()
            body = orjson.dumps({**call.body, "sentAt": format_time(datetime.now(UTC))})
            signature = sign(secret, call.url, body)
            headers = {"Content-Type": "application/json", "X-Luthier-Id": call.id, "X-Luthier-Signature": signature}
            async with asyncio.timeout(SECONDS):
                status = await self._post(call.url, body, headers)
        except TimeoutError:
            return HookAnswer(ok=False, message=f"no answer within {SECONDS:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return HookAnswer(ok=False, message=describe(error)[:200])
        return HookAnswer(ok=200 <= status < 300, message=f"HTTP {status}")

    def _read_key(self) -> bytes:
        if self._key_file is None:
            raise ValueError("no key is configured to sign with: set the chart's hooks.secretName")
        key = self._key_file.read_bytes().strip()
        if len(key) < 32:
            raise ValueError(f"the key in {self._key_file} is shorter than 32 bytes")
        return key


def sign(key: bytes, url: str, body: bytes) -> str:
    """Return the signature's header: HMAC-SHA256 of the body, by a key that only this host is given.

    A receiver that knows its own key cannot sign for another host.
    """
    own = hmac.new(key, f"luthier-hook:{urlsplit(url).netloc}".encode(), hashlib.sha256).hexdigest()
    return "sha256=" + hmac.new(own.encode(), body, hashlib.sha256).hexdigest()


def poster(session: aiohttp.ClientSession) -> Post:
    """Return a POST over one session: no redirects, and the reply's body is not read."""

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as reply:
            return reply.status

    return post
