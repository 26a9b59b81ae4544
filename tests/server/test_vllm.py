"""The real engine with the tiny model: one process for all tests that only ask, one start for each refusal.

LUTHIER_TEST_MODELS names the folder with `tiny` and `tiny2` (another width and depth).
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from luthier_server.config import ServerConfig
from server.process import Serving, free_port, wait_for

pytest.importorskip("vllm", reason="is in the server's image only")
from server.models import write_artifact

MODELS = Path(os.environ.get("LUTHIER_TEST_MODELS", "/nonexistent"))
START_SECONDS = 400
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["billing", "login"]}}, "required": ["label"]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODELS / "tiny").is_dir(), reason="LUTHIER_TEST_MODELS names no folder with tiny"),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("models") / "adapter", base=MODELS / "tiny")


def _start(folder, named, **fields):
    config = {
        "served_model_name": "support",
        "revision": "r7-5f3a9c1b",
        "host": "127.0.0.1",
        "port": free_port(),
        "max_model_len": 256,
        "max_num_seqs": 4,
        "linger_seconds": 0,
        **named,
    }
    return Serving("luthier_server", ServerConfig(**{**config, **fields}), folder / "run")


@pytest.fixture(scope="module")
def served(artifact, tmp_path_factory):
    fields = {"base_model_name": "base", "response_schema": json.dumps(SCHEMA)}
    serving = _start(tmp_path_factory.mktemp("served"), artifact, **fields)
    yield serving
    serving.kill()


@pytest.fixture(scope="module")
def ready(served):
    served.wait_ready(seconds=START_SECONDS)
    return served


def _chat(serving, *, content="My bill is wrong", **fields):
    body = {"model": "support", "messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0}
    return httpx.post(f"{serving.url}/v1/chat/completions", json={**body, **fields}, timeout=120)


def _outcomes(serving):
    return {outcome: n for outcome, n in serving.counters()["outcomes"].items() if n}


def _text(reply):
    return reply.json()["choices"][0]["message"]["content"]


def test_it_is_not_ready_while_it_loads_and_ready_only_after_a_token(ready):
    metrics = httpx.get(f"{ready.url}/metrics").text
    line = next(line for line in metrics.splitlines() if line.startswith("vllm:generation_tokens_total{"))
    assert float(line.rsplit(" ", 1)[1]) >= 1
    assert ready.counters()["started"] == 0, "readiness is not counted as traffic"


def test_the_served_name_is_the_adapter_and_not_the_base(ready):
    tuned, base = _chat(ready), _chat(ready, model="base")
    assert (tuned.status_code, base.status_code) == (200, 200)
    assert tuned.headers["x-luthier-revision"] == "r7-5f3a9c1b"
    assert _text(tuned) != _text(base)
    assert _text(tuned) == _text(_chat(ready)), "greedy answers repeat"


@pytest.mark.parametrize("model", ["luthier-base", "other", str(MODELS / "tiny")])
def test_another_model_is_404(ready, model):
    before = _outcomes(ready).get("refused", 0)
    reply = _chat(ready, model=model)
    assert reply.status_code == 404
    assert "served: base, support" in reply.json()["error"]["message"]
    assert _outcomes(ready)["refused"] == before + 1


def test_a_prompt_beyond_the_context_is_refused_and_counted(ready):
    before = _outcomes(ready).get("refused", 0)
    reply = _chat(ready, content="word " * 400)
    assert reply.status_code == 400
    assert "256" in reply.json()["error"]["message"]
    assert _outcomes(ready)["refused"] == before + 1


def test_a_stream_is_counted_with_its_times(ready):
    before = _outcomes(ready).get("ok", 0)
    reply = _chat(ready, stream=True, ignore_eos=True)
    assert reply.text.rstrip().endswith("data: [DONE]")
    assert _outcomes(ready)["ok"] == before + 1
    metrics = httpx.get(f"{ready.url}/metrics").text
    for name in ("luthier_time_to_first_token_seconds", "luthier_time_per_output_token_seconds"):
        line = next(line for line in metrics.splitlines() if line.startswith(f"{name}_sum"))
        assert 0 < float(line.rsplit(" ", 1)[1]) < 60


def test_the_structured_output_of_a_schema_is_valid_and_free_text_is_not(ready):
    def checked():
        counters = ready.counters()
        return counters["checked"], counters["invalidFormat"]

    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    before = checked()
    reply = _chat(ready, response_format=wanted, max_tokens=60)
    assert reply.json()["choices"][0]["finish_reason"] == "stop"
    middle = checked()
    # Stops by itself at a token that free text soon has, and is no JSON.
    reply = _chat(ready, stop=["e", "a", "o", " "], max_tokens=100)
    assert reply.json()["choices"][0]["finish_reason"] == "stop"
    after = checked()
    assert middle == (before[0] + 1, before[1])
    assert after == (middle[0] + 1, middle[1] + 1)


def test_both_kinds_of_metrics_are_on_one_page_with_our_revision(ready):
    metrics = httpx.get(f"{ready.url}/metrics").text
    ours = [line for line in metrics.splitlines() if line.startswith("luthier_")]
    assert ours
    assert all('revision="r7-5f3a9c1b"' in line for line in ours)
    assert "vllm:num_requests_running" in metrics


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/messages", "/inference/v1/generate", "/invocations"])
def test_the_engines_other_ways_in_are_closed(ready, path):
    assert httpx.post(f"{ready.url}{path}", json={}).status_code == 404


def test_sigterm_lets_a_stream_end(ready):
    """Last: it ends the shared process."""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(_chat, ready, stream=True, max_tokens=200, ignore_eos=True)
        wait_for(lambda: ready.counters()["inFlight"] == 1)
        ready.end()
        reply = running.result()
    assert reply.text.rstrip().endswith("data: [DONE]")
    assert reply.text.count('"content"') > 150
    assert ready.wait_end(seconds=60) == 0


def test_a_wrong_base_is_refused_before_it_is_loaded(artifact, tmp_path):
    other = write_artifact(tmp_path / "other", base=MODELS / "tiny2")
    serving = _start(tmp_path, {**artifact, "base_path": other["base_path"], "base_digest": other["base_digest"]})
    assert serving.wait_end(seconds=60) == 11
    assert serving.result["reason"] == "BaseMismatch"


def test_a_base_that_only_claims_the_digest_is_refused(artifact, tmp_path):
    serving = _start(tmp_path, {**artifact, "base_path": str(MODELS / "tiny2")})
    assert serving.wait_end(seconds=60) == 11
    assert serving.result["reason"] == "DigestMismatch"


def test_a_tampered_adapter_is_refused(tmp_path):
    named = write_artifact(tmp_path / "adapter", base=MODELS / "tiny")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    serving = _start(tmp_path, named)
    assert serving.wait_end(seconds=60) == 11
    assert serving.result["reason"] == "DigestMismatch"


def test_a_template_that_the_engine_renders_otherwise_is_refused(tmp_path):
    template = (MODELS / "tiny" / "chat_template.jinja").read_text()
    named = write_artifact(tmp_path / "adapter", base=MODELS / "tiny", template="Always: " + template)
    serving = _start(tmp_path, named)
    assert serving.wait_end(seconds=START_SECONDS) == 11
    assert serving.result["reason"] == "TemplateMismatch"
    assert "differ from token 0 on" in serving.result["message"]


def test_options_that_the_engine_refuses_are_the_users_error(artifact, tmp_path):
    serving = _start(tmp_path, artifact, max_model_len=10_000_000)
    assert serving.wait_end(seconds=START_SECONDS) == 11
    assert serving.result["reason"] == "EngineRefused"
    assert "max_model_len" in serving.result["message"]
