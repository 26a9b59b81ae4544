"""kopf, and all that we use of it: the event stream of our three kinds. The only module that imports it.

kopf runs in a thread and loop of its own, because it cancels every task of its loop when one of its own fails, and
some watch errors end it. The supervisor starts it again. Its handlers hand (type, object) to our loop and do nothing
else, so that no object of ours ever gets an annotation, a finalizer or a status from a framework.

An idle watch tells handlers nothing. Therefore each watch request is short, and the age of the last one that the
server answered says whether a kind is still being watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import kopf

from luthier import kube
from luthier.api.base import GROUP, VERSION
from luthier.metrics import Metrics
from luthier.plan import Json
from luthier.resources import OWN

log = logging.getLogger(__name__)

Deliver = Callable[[str | None, Json], None]
Answered = dict[tuple[str, str | None], float]
"""When the server last answered a watch, by plural and namespace."""

_WATCH_SECONDS = 60
"""Short on purpose: see above. A new watch goes on where the last one stopped and costs one request."""
_STALE_SECONDS = 150.0
_STOP_SECONDS = 8.0
_LAST_BACKOFF = 30.0


class Watch:
    """The supervisor: there is always one kopf, or one about to start."""

    def __init__(
        self,
        deliver: Deliver,
        *,
        metrics: Metrics,
        caught_up: Callable[[str], None] = lambda _: None,
        namespaces: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliver = deliver
        self._caught_up = caught_up
        """Told the plural whose list kopf now follows: what was deleted before that list, kopf tells nobody."""
        self._metrics = metrics
        self._namespaces = tuple(namespaces)
        self._clock = clock
        self._answered: Answered = {}
        """Older than any one life: a kopf that is started again and again hears nothing either."""
        self.life: Life | None = None

    async def run(self) -> None:
        """Keep kopf going until cancelled."""
        failures = 0
        while True:
            began = time.monotonic()
            self.life = self.new_life()
            self._metrics.kopf_starts.inc()
            self.life.start()
            try:
                why = await self._until_over(self.life)
            finally:
                await self.life.stop()
            failures = 0 if time.monotonic() - began > 60 else failures + 1
            delay = min(0.5 * 2 ** min(failures, 10), _LAST_BACKOFF)
            log.warning("kopf ended and starts again in %.1f s: %s", delay, why)
            await asyncio.sleep(delay)

    def new_life(self) -> Life:
        """Return a kopf that is yet to start."""
        for resource in OWN:
            for scope in self._namespaces or (None,):
                self._answered.setdefault((resource.plural, scope), self._clock())
        return Life(
            self._deliver,
            caught_up=self._caught_up,
            namespaces=self._namespaces,
            answered=self._answered,
            clock=self._clock,
        )

    def ages(self) -> dict[str, float]:
        """Return, by plural, how long ago the server answered the quietest watch; nothing before the first start."""
        return _ages(self._answered, now=self._clock())

    async def _until_over(self, life: Life) -> str:
        while True:
            await asyncio.wait({life.ended}, timeout=5)
            if life.ended.done():
                return life.ended.result()
            if silent := life.silent():
                return f"no watch of {', '.join(silent)} was answered for {_STALE_SECONDS:.0f} s"


class Life:
    """One start of kopf, from the thread's first step to its last."""

    def __init__(
        self,
        deliver: Deliver,
        *,
        caught_up: Callable[[str], None],
        namespaces: tuple[str, ...],
        answered: Answered,
        clock: Callable[[], float],
    ) -> None:
        self._home = asyncio.get_running_loop()
        self._deliver = deliver
        self._namespaces = namespaces
        self._is_live = True
        self.ended: asyncio.Future[str] = self._home.create_future()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._caught_up = caught_up
        self._listed: set[tuple[str, str | None]] = set()
        """What was listed, and is not followed by a watch yet."""
        self._answered = answered
        self._clock = clock
        self._born = clock()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="kopf", daemon=True).start()

    async def stop(self) -> None:
        """Ask kopf to end and wait for it, not for ever: a thread that hangs is left behind, unheard."""
        self._is_live = False
        if self.loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed already
                self.loop.call_soon_threadsafe(self._stop.set)
        await asyncio.wait({self.ended}, timeout=_STOP_SECONDS)

    def silent(self) -> list[str]:
        """Return the plurals that this life has not heard of for too long; a new one gets its time."""
        ages = _ages(self._answered, now=self._clock(), not_before=self._born)
        return [plural for plural, age in ages.items() if age > _STALE_SECONDS]

    def _run(self) -> None:
        why = "it was stopped"
        try:
            asyncio.run(self._operate())
        except BaseException as error:  # the end of a thread: there is nobody to raise to, whatever it was
            why = f"{type(error).__name__}: {error}"
        self._at_home(self._over, why)

    async def _operate(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._note_stray)
        self._stop = asyncio.Event()
        if not self._is_live:  # stopped before there was a loop to tell
            return
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=_settings(),
                standalone=True,
                identity=cast("Any", "luthier"),  # unused without peering; its default needs the user to have a name
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
            )
        finally:
            await asyncio.sleep(kube.GOODBYE_SECONDS)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            return await self._login()

        def event(event: Any, **_: Any) -> None:
            self._at_home(self._hand_over, event["type"], event["object"])

        kopf.on.login(registry=registry, retries=1)(login)
        for resource in OWN:
            kopf.on.event(GROUP, VERSION, resource.plural, registry=registry, id=resource.plural)(event)
        return registry

    async def _login(self) -> kopf.AiohttpSession:
        """Give kopf an HTTP session of ours: same credentials, and every answered request is noted."""
        known = await kube.load_connection()
        info = kopf.ConnectionInfo(
            server=known.server,
            ca_path=known.ca_path,
            certificate_path=known.certificate_path,
            private_key_path=known.key_path,
            token=known.token,
            insecure=known.insecure,
        )
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._note_answer)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers={**info.as_http_headers(), "User-Agent": "luthier"},
            trace_configs=[trace],
            trust_env=True,
            read_bufsize=2**21,  # one line is one event, and an event is a whole object
        )
        return kopf.AiohttpSession(server=known.server, aiohttp_session=session)

    async def _note_answer(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        if params.response.status != 200 or not self._is_live:
            return
        parts = params.url.path.strip("/").split("/")
        scope = parts[parts.index("namespaces") + 1] if "namespaces" in parts else None
        which = (parts[-1], scope)
        if which not in self._answered:
            return
        self._answered[which] = self._clock()
        if "watch" not in params.url.query:
            self._listed.add(which)
        elif which in self._listed:
            self._listed.remove(which)
            self._at_home(self._note_caught_up, which[0])

    def _note_caught_up(self, plural: str) -> None:
        if self._is_live:
            self._caught_up(plural)

    def _at_home(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._home.call_soon_threadsafe(function, *args)
        except RuntimeError:
            log.debug("the operator's loop is closed; nobody listens any more")

    def _hand_over(self, event: str | None, obj: Json) -> None:
        if self._is_live:
            self._deliver(event, obj)

    def _note_stray(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tasks that kopf leaves behind when it ends say nothing that its end does not."""
        log.debug("kopf: %s", context.get("message"), exc_info=context.get("exception"))

    def _over(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)


def _ages(answered: Answered, *, now: float, not_before: float = float("-inf")) -> dict[str, float]:
    ages: dict[str, float] = {}
    for (plural, _), at in answered.items():
        ages[plural] = max(ages.get(plural, 0.0), now - max(at, not_before))
    return ages


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None  # the default kills the process ten minutes after a failure
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.watching.client_timeout = _WATCH_SECONDS + 30
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = kube.SILENCE_SECONDS
    settings.watching.chunk_size = 100  # what a list holds in memory at once
    settings.queueing.idle_timeout = 0.1  # until then each object's task holds the object; 0 would never take an event
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (1, 2, 4)
    return settings
