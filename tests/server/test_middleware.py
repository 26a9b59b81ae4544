"""What the middleware counts: outcomes, ages, times and format, over engines that behave in one way each."""

import asyncio
import json

import pytest
from prometheus_client import generate_latest

from luthier_server.counters import EDGES, OUTCOMES, edge_label
from server.asgi_driver import Client, chat, get, post
from server.parts import (
    DONE,
    Setup,
    answering,
    completion,
    event,
    hanging,
    listening_stream,
    streaming,
    until,
)

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "login"]}},
    "required": ["label"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (400, "refused"),
        (401, "unauthorised"),
        (403, "unauthorised"),
        (404, "refused"),
        (413, "refused"),
        (422, "refused"),
        (429, "overloaded"),
        (499, "client_abort"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "overloaded"),
        (504, "server_error"),
    ],
)
async def test_a_status_becomes_its_outcome(status, outcome):
    setup = Setup(answering(status))
    reply = await post(setup.app)
    assert reply.status == status
    assert setup.outcomes == {outcome: 1}
    assert setup.counters.started == 1
    assert setup.counters.in_flight == 0


async def _fail(scope, receive, send):
    raise RuntimeError("boom")


async def _return_nothing(scope, receive, send):
    await receive()


async def test_an_engine_that_raises_before_the_reply_is_a_server_error():
    setup = Setup(_fail)
    with pytest.raises(RuntimeError, match="boom"):
        await post(setup.app)
    assert setup.outcomes == {"server_error": 1}


async def test_an_engine_that_returns_without_a_reply_is_a_server_error():
    setup = Setup(_return_nothing)
    await post(setup.app)
    assert setup.outcomes == {"server_error": 1}


FULL = [event(role="assistant", content=""), event("a"), event("b"), event("c", finish_reason="stop")]
WHOLE = b"".join([*FULL, DONE])
ERROR = b'data: {"error": {"message": "engine died", "code": 500}}\n\n'


@pytest.mark.parametrize(
    ("engine", "outcome"),
    [
        pytest.param(streaming([*FULL, DONE]), "ok", id="a stream that ends with DONE"),
        pytest.param(streaming([WHOLE]), "ok", id="a stream in one chunk"),
        pytest.param(streaming([WHOLE[i : i + 7] for i in range(0, len(WHOLE), 7)]), "ok", id="cut anywhere"),
        pytest.param(streaming([*FULL, DONE], end=False), "ok", id="only the last empty message is missing"),
        pytest.param(streaming(FULL), "stream_broken", id="a stream that ends without DONE"),
        pytest.param(streaming([]), "stream_broken", id="an empty stream"),
        pytest.param(streaming([FULL[0], ERROR, DONE]), "stream_broken", id="an error event, then DONE"),
        pytest.param(
            streaming([b'event: error\ndata: {"message": "x"}\n\n']), "stream_broken", id="a named error event"
        ),
        pytest.param(streaming(FULL[:2], end=False), "stream_broken", id="the engine returns in the middle"),
        pytest.param(streaming([event('data: {"error": no'), DONE]), "ok", id="an answer that only speaks of an error"),
    ],
)
async def test_a_stream_is_judged_by_its_end(engine, outcome):
    setup = Setup(engine)
    await post(setup.app)
    assert setup.outcomes == {outcome: 1}


async def test_a_stream_that_raises_after_200_is_broken():
    setup = Setup(streaming(FULL[:2], error=RuntimeError("boom")))
    with pytest.raises(RuntimeError):
        await post(setup.app)
    assert setup.outcomes == {"stream_broken": 1}


async def test_a_responses_stream_ends_with_its_own_event():
    created = b'event: response.created\ndata: {"type":"response.created"}\n\n'
    delta = b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
    completed = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
    whole = Setup(streaming([created, delta, delta, completed]))
    await post(whole.app, path="/v1/responses")
    cut = Setup(streaming([created, delta, delta]))
    await post(cut.app, path="/v1/responses")
    assert (whole.outcomes, cut.outcomes) == ({"ok": 1}, {"stream_broken": 1})


@pytest.mark.parametrize("engine", [hanging(), listening_stream(FULL[:2])], ids=["before a reply", "in a stream"])
async def test_a_client_that_leaves_is_its_own_outcome(engine):
    setup = Setup(engine)
    client = Client(setup.app, body=chat())
    running = asyncio.create_task(client.run())
    await until(lambda: setup.counters.in_flight == 1)
    client.leave()
    await running
    assert setup.outcomes == {"client_abort": 1}


async def test_a_reply_cut_by_the_end_of_the_process_is_broken():
    setup = Setup(streaming(FULL[:2], wait=asyncio.Event()))
    client = Client(setup.app, body=chat())
    running = asyncio.create_task(client.run())
    await until(lambda: len(client.reply.chunks) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert setup.outcomes == {"stream_broken": 1}


async def test_a_hanging_request_counts_as_slow_while_it_hangs():
    setup = Setup(hanging())
    client = Client(setup.app, body=chat())
    running = asyncio.create_task(client.run())
    await until(lambda: setup.counters.in_flight == 1)
    seen = []
    for seconds in (0.0, 0.5, 2.0, 700.0):
        setup.clock.now = 1000.0 + seconds
        edge = edge_label(EDGES[51])
        seen.append(setup.sample("luthier_request_age_exceeded_total", edge=edge))
        assert setup.sample("luthier_oldest_inflight_seconds") == seconds
    assert EDGES[51] == pytest.approx(1.045, abs=0.001)
    assert seen == [0, 0, 1, 1]
    client.leave()
    await running
    assert setup.sample("luthier_request_age_exceeded_total", edge=edge_label(EDGES[-1])) == 1
    assert setup.sample("luthier_oldest_inflight_seconds") == 0


async def test_slow_requests_are_counted_out_of_those_that_began_long_enough_ago():
    setup = Setup(answering())
    edge = edge_label(EDGES[51])  # 1.045 s
    seen = []
    for now in (1000.0, 1000.5, 1001.5, 1003.0, 1600.0):
        setup.clock.now = now
        await post(setup.app)
        seen.append(setup.sample("luthier_requests_aged_total", edge=edge))
    assert seen == [0, 0, 1, 3, 4]
    assert setup.sample("luthier_request_age_exceeded_total", edge=edge) == 0
    setup.clock.now = 1e6
    assert setup.sample("luthier_requests_aged_total", edge=edge_label(EDGES[-1])) == 5


async def test_age_counters_never_fall_when_requests_finish():
    setup = Setup(hanging())
    clients = [Client(setup.app, body=chat()) for _ in range(3)]
    running = []
    before = [0] * len(EDGES)
    for client in clients:
        running.append(asyncio.create_task(client.run()))
        await until(lambda: setup.counters.in_flight == len(running))
        setup.clock.now += 1.0
    for client, task in zip(clients, running, strict=True):
        client.leave()
        await task
        after = setup.counters.age_exceeded(setup.clock.now)
        assert all(new >= old for old, new in zip(before, after, strict=True))
        before = after
    assert before[0] == 3


async def test_work_after_the_last_byte_does_not_make_a_request_slow():
    async def engine(scope, receive, send):
        await answering()(scope, receive, send)
        setup.clock.now += 60

    setup = Setup(engine)
    await post(setup.app)
    assert setup.counters.age_exceeded(setup.clock.now)[0] == 0


async def test_times_of_a_stream_are_per_request():
    box = {}
    setup = Setup(streaming([*FULL, event(usage=5), DONE], clock=lambda: box["clock"], step=0.1))
    box["clock"] = setup.clock
    await post(setup.app)
    assert setup.sample("luthier_time_to_first_token_seconds_sum") == pytest.approx(0.1)
    # Five tokens by the engine's count, 0.4 s from the first event to the last.
    assert setup.sample("luthier_time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert setup.sample("luthier_time_per_output_token_seconds_count") == 1


async def test_a_whole_reply_has_no_token_times():
    setup = Setup(answering(content=completion("x")))
    await post(setup.app)
    assert setup.sample("luthier_time_to_first_token_seconds_count") == 0


@pytest.mark.parametrize(
    ("content", "finish_reason", "checked", "invalid"),
    [
        pytest.param('{"label": "billing"}', "stop", 1, 0, id="meets the schema"),
        pytest.param('{"label": "other"}', "stop", 1, 1, id="a value outside of the enum"),
        pytest.param("Sure! Here it is", "stop", 1, 1, id="no JSON"),
        pytest.param('{"label": NaN}', "stop", 1, 1, id="NaN is no JSON"),
        pytest.param("[" * 100_000, "stop", 1, 1, id="nested beyond measure"),
        pytest.param('{"label": "bil', "length", 0, 0, id="cut at max_tokens says nothing"),
        pytest.param(None, "tool_calls", 0, 0, id="a tool call is no answer"),
        pytest.param('"' + "x" * (1 << 20) + '"', "stop", 0, 0, id="too large to be checked"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_answers_are_checked_against_the_schema(content, finish_reason, checked, invalid, streamed):
    if streamed:
        text = content or ""
        parts = [text[i : i + 50_000] for i in range(0, len(text), 50_000)]
        chunks = [event(role="assistant", content=""), *map(event, parts), event(finish_reason=finish_reason), DONE]
        engine = streaming(chunks)
    else:
        engine = answering(content=completion(content, finish_reason=finish_reason))
    setup = Setup(engine, schema=SCHEMA)
    await post(setup.app)
    assert setup.outcomes == {"ok": 1}
    assert (setup.counters.checked, setup.counters.invalid) == (checked, invalid)


async def test_refused_and_broken_answers_are_not_checked():
    for engine in (answering(400, completion("no JSON")), streaming([event("no JSON", finish_reason="stop")])):
        setup = Setup(engine, schema=SCHEMA)
        await post(setup.app)
        assert setup.counters.checked == 0


async def test_without_a_schema_nothing_is_checked():
    setup = Setup(answering(content=completion("no JSON")))
    await post(setup.app)
    assert setup.counters.checked == 0


async def test_every_series_is_there_before_the_first_request():
    setup = Setup(answering())
    for outcome in OUTCOMES:
        assert setup.sample("luthier_requests_total", outcome=outcome) == 0
    for edge in EDGES:
        assert setup.sample("luthier_request_age_exceeded_total", edge=edge_label(edge)) == 0
        assert setup.sample("luthier_requests_aged_total", edge=edge_label(edge)) == 0
    for name in (
        "luthier_requests_started_total",
        "luthier_responses_checked_total",
        "luthier_responses_invalid_format_total",
        "luthier_oldest_inflight_seconds",
        "luthier_time_to_first_token_seconds_count",
        "luthier_time_per_output_token_seconds_count",
    ):
        assert setup.sample(name) == 0
    assert setup.sample("luthier_safety_incidents_total", severity="critical") == 0
    assert len({edge_label(edge) for edge in EDGES}) == len(EDGES) == 121


async def test_metrics_are_prometheus_text():
    setup = Setup(answering())
    await post(setup.app)
    reply = await get(setup.app, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert b'luthier_requests_total{outcome="ok",revision="r7-5f3a9c1b"} 1.0' in reply.body
    assert reply.body == generate_latest(setup.registry)


async def test_counters_as_json_stay_small_at_any_traffic():
    setup = Setup(answering())
    await post(setup.app)
    many = 10**15
    setup.counters.started = setup.counters.checked = setup.counters.invalid = many
    setup.counters.outcomes = dict.fromkeys(OUTCOMES, many)
    setup.counters._durations.counts = [many] * 122
    reply = await get(setup.app, "/luthier/counters")
    assert len(reply.body) <= 4096
    assert reply.json()["outcomes"]["ok"] == many
    assert reply.json()["revision"] == "r7-5f3a9c1b"


async def test_the_json_and_the_series_say_the_same():
    """The operator reads both and counts no request twice."""
    setup = Setup(answering())
    await post(setup.app)
    setup.clock.now += 0.5
    await post(setup.app)
    shown = (await get(setup.app, "/luthier/counters")).json()
    assert shown["countingSince"] == setup.sample("luthier_counting_since_seconds")
    assert shown["started"] == setup.sample("luthier_requests_started_total") == 2
    for i in (0, 40, 120):  # 0.01 s, 0.38 s, 563 s
        edge = edge_label(EDGES[i])
        assert shown["ageExceeded"][i] == setup.sample("luthier_request_age_exceeded_total", edge=edge)
        assert shown["started"] - shown["younger"][i] == setup.sample("luthier_requests_aged_total", edge=edge)
    assert shown["younger"][40] == 1


async def test_replies_carry_the_revision():
    setup = Setup(answering())
    for reply in (await post(setup.app), await get(setup.app, "/luthier/ready"), await get(setup.app, "/nothing")):
        assert reply.headers["x-luthier-revision"] == "r7-5f3a9c1b"


async def test_only_generating_requests_count():
    setup = Setup(answering())
    await post(setup.app, path="/tokenize")
    for path in ("/metrics", "/luthier/ready", "/v1/models", "/health", "/v1/chat/completions"):
        await get(setup.app, path)
    assert setup.counters.started == 0


@pytest.mark.parametrize("path", ["/v1/messages", "/invocations", "/v1/load_lora_adapter", "/v1/embeddings", "/sleep"])
async def test_a_path_that_would_go_uncounted_is_not_offered(path):
    setup = Setup(answering())
    reply = await post(setup.app, path=path)
    assert reply.status == 404
    assert path in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (chat("other"), 404, "'other' is not served here; served: base, support"),
        (chat(None), 400, "set `model` to one of: base, support"),
        (b'{"messages": []}', 400, "names no model"),
        (b"[1]", 400, "names no model"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_a_request_for_no_offered_model_does_not_reach_the_engine(body, status, words, path):
    setup = Setup(_fail, offered=("support", "base"))
    reply = await post(setup.app, body=body, path=path)
    assert reply.status == status
    assert words in reply.json()["error"]["message"]
    assert setup.outcomes == ({"refused": 1} if path.startswith("/v1") else {})


async def test_a_body_in_pieces_reaches_the_engine_whole():
    seen = []

    async def engine(scope, receive, send):
        seen.append(await receive())
        await answering()(scope, lambda: asyncio.sleep(0, {"type": "http.request"}), send)

    body = chat(note="x" * 1000)
    await post(Setup(engine).app, body=body, pieces=5)
    assert seen == [{"type": "http.request", "body": body, "more_body": False}]


@pytest.mark.row(79)
async def test_a_body_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("luthier_server.gate.MAX_BODY_BYTES", 10)
    setup = Setup(_fail)
    reply = await post(setup.app)
    assert reply.status == 413
    assert setup.outcomes == {"refused": 1}


async def test_a_client_that_leaves_while_it_sends_is_an_abort():
    setup = Setup(_fail)
    client = Client(setup.app, body=chat(), pieces=2)
    client._pending.pop()
    client._pending = [client._pending[0]]

    async def receive():
        if client._pending:
            return {"type": "http.request", "body": client._pending.pop(0), "more_body": True}
        return {"type": "http.disconnect"}

    await setup.app(client.scope, receive, client._send)
    assert setup.outcomes == {"client_abort": 1}


async def test_ready_and_live_follow_the_engine():
    setup = Setup(answering())
    assert (await get(setup.app, "/luthier/ready")).status == 200
    assert (await get(setup.app, "/luthier/live")).status == 200
    setup.health.reason = "no token has been generated yet"
    setup.health.alive = False
    reply = await get(setup.app, "/luthier/ready")
    assert (reply.status, reply.json()["reason"]) == (503, "no token has been generated yet")
    assert (await get(setup.app, "/luthier/live")).status == 503


async def test_models_shows_what_is_offered_and_not_the_engines_names():
    setup = Setup(answering(content={"data": [{"id": "luthier-base"}]}))
    reply = await get(setup.app, "/v1/models")
    assert [card["id"] for card in reply.json()["data"]] == ["support"]


async def test_websockets_are_refused_and_lifespan_passes():
    seen, sent = [], []

    async def engine(scope, receive, send):
        seen.append(scope["type"])

    async def send(message):
        sent.append(message)

    app = Setup(engine).app
    await app({"type": "websocket", "path": "/v1/realtime"}, None, send)
    await app({"type": "lifespan"}, None, send)
    assert seen == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_edges_are_twenty_percent_apart_two_by_two():
    for low, high in zip(EDGES, EDGES[2:], strict=False):
        assert high / low == pytest.approx(1.2)
    assert json.dumps(edge_label(EDGES[0])) == '"0.01"'
