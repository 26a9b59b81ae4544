"""Watches one counted request: wraps its `receive` and `send`, and says at the end how it went.

The outcome comes from what the client got, not from the status alone: a stream that breaks after HTTP 200 is bad,
and a client that leaves is nobody's fault. Headers and bytes pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier_server.answers import AnswerFormat, answers_in_events, answers_in_reply
from luthier_server.asgi import App, Message, Receive, Scope, Send
from luthier_server.counters import Counters, Outcome, Timing
from luthier_server.refusals import RefusalWatch
from luthier_server.safety import SafetyWatch
from luthier_server.stream import KEEP_BYTES, EventStream

CHAT_PATH = "/v1/chat/completions"


def outcome_of_status(status: int) -> Outcome:
    """Return what a reply's status says, streams apart."""
    if status < 400:
        return "ok"
    if status in (401, 403):
        return "unauthorised"
    if status in (429, 503):
        return "overloaded"
    if status == 499:
        return "client_abort"
    return "refused" if status < 500 else "server_error"


class Observed:
    """One request under way. `run` drives it through an app and counts it exactly once."""

    def __init__(
        self,
        counters: Counters,
        *,
        path: str,
        answer_format: AnswerFormat | None,
        clock: Callable[[], float],
        forbidden: Sequence[str] = (),
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._started = clock()
        self._ticket = counters.start(self._started)
        self._format = answer_format if path == CHAT_PATH else None
        self._safety = SafetyWatch(forbidden) if forbidden else None
        self._refusal = RefusalWatch()
        self._has_incident = False
        self._status: int | None = None
        self._stream: EventStream | None = None
        self._body: bytearray | None = None
        self._complete = False
        self._client_left = False
        self._counted: Outcome | None = None

    async def run(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        async def observed_receive() -> Message:
            message = await receive()
            self._client_left = self._client_left or message["type"] == "http.disconnect"
            return message

        async def observed_send(message: Message) -> None:
            self._see(message)
            await send(message)

        try:
            await app(scope, observed_receive, observed_send)
        finally:
            self._check_safety()
            self._count()
        self._check_format()

    def _see(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._see_start(message)
        elif message["type"] == "http.response.body":
            self._see_body(message)

    def _see_start(self, message: Message) -> None:
        self._status = message["status"]
        if message["status"] != 200:
            return
        content_type = next(
            (value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b""
        )
        if content_type.startswith(b"text/event-stream"):
            self._stream = EventStream(keep=self._format is not None, told=self._see_event)
        else:
            self._body = bytearray()

    def _see_event(self, event: bytes) -> None:
        self._refusal.see_event(event)
        if self._safety is not None:
            self._safety.see_event(event)

    def _see_body(self, message: Message) -> None:
        body, now = message.get("body", b""), self._clock()
        if self._status == 200:
            self._counters.last_progress = now
        if self._stream is not None:
            self._stream.feed(body, now)
            self._check_safety()
        elif self._body is not None:
            self._body += body
            if len(self._body) > KEEP_BYTES:
                self._body = None
        if not message.get("more_body", False):
            self._complete = True
            self._count()

    def _count(self) -> None:
        """Count the end. At the last byte, so that work after the reply does not make it look slow."""
        if self._counted is None:
            self._counted = self._outcome()
            self._check_refusal()
            timing = self._stream.timing(started=self._started) if self._stream is not None else Timing()
            self._counters.finish(self._ticket, self._counted, now=self._clock(), timing=timing)

    def _outcome(self) -> Outcome:
        if self._status is None:
            return "client_abort" if self._client_left else "server_error"
        if self._status >= 400:
            return outcome_of_status(self._status)
        if self._stream is not None and self._stream.broken:
            return "stream_broken"
        if self._stream.ended if self._stream is not None else self._complete:
            return "ok"
        return "client_abort" if self._client_left and not self._complete else "stream_broken"

    def _check_safety(self) -> None:
        """Count an incident once, as soon as it has been said: in a stream, while it goes on."""
        if self._safety is None or self._has_incident:
            return
        if self._stream is None and self._body is not None:
            self._safety.see_reply(bytes(self._body))
        if self._safety.found:
            self._has_incident = True
            self._counters.count_incident()

    def _check_refusal(self) -> None:
        if self._body is not None:
            self._refusal.see_reply(bytes(self._body))
        if self._refusal.found:
            self._counters.count_refusal()

    def _check_format(self) -> None:
        if self._format is None or self._counted != "ok":
            return
        for answer in self._answers():
            self._counters.count_checked(valid=self._format.accepts(answer))

    def _answers(self) -> list[str]:
        if self._stream is not None:
            return answers_in_events(self._stream.events) if self._stream.events is not None else []
        return answers_in_reply(bytes(self._body)) if self._body is not None else []
