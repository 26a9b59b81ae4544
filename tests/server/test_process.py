"""A whole serving process over real sockets, with the stand-in as its engine: start, refusals, draining."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from luthier_server.config import ServerConfig
from luthier_trainer.artifact import Probe
from server.process import Serving, free_port, wait_for
from standin.engine import HEADER
from standin.model import Behaviour, write_artifact, write_base

pytest.importorskip("uvicorn", reason="is in the server's image, not in the operator's environment")

CHAT = {"model": "support", "messages": [{"role": "user", "content": "my bill"}], "max_tokens": 8}


@pytest.fixture
def start(tmp_path):
    """Start a stand-in; returns the process, or not, when it ends by itself."""
    started = []

    def starting(behaviour=None, *, probes=None, **fields):
        folder = tmp_path / str(len(started))
        manifest = {} if probes is None else {"probes": probes}
        base_digest = write_base(folder / "base")
        digest = write_artifact(folder / "adapter", base=folder / "base", behaviour=behaviour, **manifest)
        config = {
            "base_path": str(folder / "base"),
            "base_digest": base_digest,
            "adapter_path": str(folder / "adapter"),
            "model_digest": digest,
            "served_model_name": "support",
            "revision": "r7-5f3a9c1b",
            "host": "127.0.0.1",
            "port": free_port(),
            "linger_seconds": 0,
        }
        serving = Serving("standin", ServerConfig(**{**config, **fields}), folder / "run")
        started.append(serving)
        return serving

    yield starting
    for serving in started:
        serving.kill()


def _chat(serving, *, behaviour=None, **fields):
    headers = {} if behaviour is None else {HEADER.decode(): Behaviour(**behaviour).model_dump_json()}
    return httpx.post(f"{serving.url}/v1/chat/completions", json={**CHAT, **fields}, headers=headers, timeout=30)


def test_a_ready_process_answers_and_counts(start):
    serving = start()
    serving.wait_ready(seconds=30)
    reply = _chat(serving)
    assert reply.json()["choices"][0]["message"]["content"] == '{"label": "billing"}'
    assert reply.headers["x-luthier-revision"] == "r7-5f3a9c1b"
    assert _chat(serving, model="base").status_code == 404
    assert _chat(serving, max_tokens=5000).status_code == 400
    assert _chat(serving, behaviour={"error_rate": 1.0}).status_code == 500
    _chat(serving, behaviour={"broken_rate": 1.0}, stream=True)
    outcomes = serving.counters()["outcomes"]
    assert {k: v for k, v in outcomes.items() if v} == {"ok": 1, "refused": 2, "server_error": 1, "stream_broken": 1}
    metrics = httpx.get(f"{serving.url}/metrics").text
    assert 'luthier_requests_started_total{revision="r7-5f3a9c1b"} 5.0' in metrics
    # The probes of readiness are not among them.
    assert "python_info" in metrics


def test_a_client_that_closes_its_connection_is_counted_apart(start):
    serving = start(Behaviour(hang_rate=1.0), probes=())
    wait_for(lambda: _listens(serving), seconds=30)
    with socket.create_connection(("127.0.0.1", int(serving.url.rsplit(":", 1)[1]))) as sock:
        body = json.dumps(CHAT).encode()
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        sock.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        wait_for(lambda: serving.counters()["oldestInFlightSeconds"] > 0.05)
        assert serving.counters()["ageExceeded"][0] == 1
    wait_for(lambda: serving.counters()["outcomes"]["client_abort"] == 1)


def _listens(serving):
    try:
        return httpx.get(f"{serving.url}/luthier/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.row(58)
def test_an_engine_that_cannot_generate_is_alive_and_never_ready(start):
    serving = start(Behaviour(never_ready=True))
    wait_for(lambda: _listens(serving), seconds=30)
    wait_for(lambda: "HTTP 500" in httpx.get(f"{serving.url}/luthier/ready").text)
    assert httpx.get(f"{serving.url}/luthier/ready").status_code == 503


def test_requests_in_flight_end_before_the_process_does(start):
    serving = start(linger_seconds=1)
    serving.wait_ready(seconds=30)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(_chat, serving, behaviour={"latency_seconds": 2.0})
        wait_for(lambda: serving.counters()["inFlight"] == 1)
        serving.end()
        wait_for(lambda: "ending" in httpx.get(f"{serving.url}/luthier/ready").text)
        # Gateways learn late: what they still send is served.
        assert _chat(serving).status_code == 200
        assert slow.result().status_code == 200
    assert serving.wait_end(seconds=10) == 0


def test_draining_has_an_end(start):
    serving = start(drain_seconds=1)
    serving.wait_ready(seconds=30)
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(_chat, serving, behaviour={"hang_rate": 1.0})
        wait_for(lambda: serving.counters()["inFlight"] == 1)
        serving.end()
        assert serving.wait_end(seconds=10) == 0
        assert isinstance(hanging.exception(timeout=10), httpx.TransportError) or hanging.result().status_code == 500


def test_a_loading_process_ends_at_once_when_told(start):
    serving = start()
    wait_for(lambda: serving.process.poll() is not None or serving.log, seconds=30)
    serving.process.send_signal(signal.SIGTERM)
    assert serving.wait_end(seconds=10) in (0, 143)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"base_digest": "sha256:other"}, "BaseMismatch", "base_digest"),
        ({"model_digest": "sha256:other"}, "DigestMismatch", "model_digest"),
        ({"adapter_path": "/nowhere"}, "ModelNotFound", "adapter_path"),
        ({"response_schema": '{"type": "objekt"}'}, "InvalidResponseSchema", "response_schema"),
    ],
)
def test_what_can_never_be_served_ends_with_11(start, fields, reason, field):
    serving = start(**fields)
    assert serving.wait_end(seconds=30) == 11
    assert (serving.result["outcome"], serving.result["reason"]) == ("UserError", reason)
    assert serving.result["field"] == field
    assert len(json.dumps(serving.result)) <= 4096


def test_another_template_ends_with_11_before_anything_is_served(start):
    messages = ({"role": "user", "content": "my bill"},)
    serving = start(probes=(Probe(messages=messages, token_ids=(1, 2, 3)),))
    assert serving.wait_end(seconds=30) == 11
    assert serving.result["reason"] == "TemplateMismatch"
    assert "Uvicorn running" not in serving.log


def test_an_engine_that_does_not_start_may_be_tried_again(start):
    serving = start(Behaviour(crash_at_start=True))
    assert serving.wait_end(seconds=30) == 1
    assert (serving.result["outcome"], serving.result["reason"]) == ("InternalError", "EngineFailed")


def test_an_engine_that_dies_ends_the_process(start):
    serving = start(Behaviour(dies_after=2))
    serving.wait_ready(seconds=30)
    for _ in range(3):
        _chat(serving)
    assert serving.wait_end(seconds=30) == 1
    assert "engine died" in serving.result["message"]


def test_a_configuration_that_is_none_is_named(start, monkeypatch):
    serving = start()
    serving.kill()
    monkeypatch.setattr(ServerConfig, "model_dump_json", lambda _: '{"base_path": 1}')
    serving = start()
    assert serving.wait_end(seconds=30) == 11
    assert serving.result["reason"] == "InvalidConfig"
    assert "base_path" in serving.result["message"]


def test_votes_over_sockets_are_the_revisions_that_answered(start, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "key").write_text("k" * 64)
    feedback = {"key_folder": str(keys), "identity_header": "x-user-id"}
    old, new = start(feedback=feedback), start(feedback=feedback, revision="r8-0a1b2c3d")
    for serving in (old, new):
        serving.wait_ready(seconds=30)
    whole = _chat(old)
    with httpx.stream("POST", f"{old.url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=30) as stream:
        streamed = stream.headers["x-luthier-response-id"]
        stream.read()

    def vote(id_, user):
        body = {"id": id_, "rating": "down"}
        return httpx.post(f"{new.url}/v1/feedback", json=body, headers={"x-user-id": user}).status_code

    ids = (whole.headers["x-luthier-response-id"], streamed)
    assert [vote(id_, user) for id_, user in zip((*ids, ids[0]), ("ada", "bob", "cy"), strict=True)] == [200, 200, 409]
    assert new.counters()["votes"] == {"r8-0a1b2c3d": [0, 0], "r7-5f3a9c1b": [0, 2]}
    assert new.counters()["started"] == 0
