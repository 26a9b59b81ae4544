"""The evaluator against an OpenAI server on loopback: whole runs, kills, refusals, an engine that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luthier_eval.__main__ import run
from luthier_eval.config import CONFIG_ENV, EvalConfig, ExampleConfig, GateConfig, MetricConfig, SideConfig, SuiteConfig
from luthier_eval.engine import Patience
from luthier_trainer.config import EXIT_OK, EXIT_PREEMPTED, EXIT_USER_ERROR, StepResult
from luthier_trainer.result import TERMINATION_LOG_ENV

ROOT = Path(__file__).parents[2]
CASES = 40
QUICK = Patience(ready=0.3, answer=5, poll=0.01, tries=3)


def question_of(body):
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


class FakeEngine(ThreadingHTTPServer):
    """Answers each question with its number; tests change what it does."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.asked: list[dict] = []
        self.ready = True
        self.hang_after: int | None = None
        self.released = threading.Event()
        self.fails_left = 0
        self.statuses: dict[str, int] = {}
        """HTTP status by question, or by model."""

    def questions(self, model):
        return [question_of(body) for body in self.asked if body["model"] == model]

    def status_of(self, body):
        with self.lock:
            self.asked.append(body)
            number = len(self.asked)
            if self.fails_left:
                self.fails_left -= 1
                return 500
        if self.hang_after is not None and number > self.hang_after:
            self.released.wait(60)
        return self.statuses.get(question_of(body), self.statuses.get(body["model"], 200))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path == "/version":
            self._reply(200, {"version": "fake-1"})
        else:
            self._reply(200 if self.server.ready else 503, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = self.server.status_of(body)
        if status != 200:
            self._reply(status, {"error": {"message": "the prompt is longer than 256 tokens"}})
            return
        question = question_of(body)
        text = question.split()[-1] if body["model"] == "target" else "no idea"
        said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        choice = {**said, "finish_reason": "stop"}
        self._reply(200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})

    def _reply(self, status, value):
        content = json.dumps(value).encode()
        try:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client was killed


@pytest.fixture
def engine():
    server = FakeEngine()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def write_manifest(folder, **changes):
    folder.mkdir(exist_ok=True)
    manifest = {"model_digest": "sha256:found", "base_digest": "sha256:base", "base_uri": "pvc://m/b", "lora_rank": 16}
    rest = dict.fromkeys(("dataset_digest", "training_digest", "job_name", "job_uid"), "x")
    (folder / "luthier.json").write_text(json.dumps({**manifest, **rest, "render": "Chat", **changes}))
    return folder


@pytest.fixture
def config(engine, tmp_path):
    suite = tmp_path / "test.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"number {i}"}, {"role": "assistant", "content": f"{i}"}]}
        for i in range(CASES)
    ]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompted = SideConfig(
        name="prompted",
        model="base",
        system_prompt="Be exact.",
        examples=(ExampleConfig(user="number x", assistant="x"),),
    )
    return EvalConfig(
        name="numbers",
        evaluation_uid="u",
        endpoint=f"http://127.0.0.1:{engine.server_port}",
        target=SideConfig(name="target", model="target"),
        baselines=(SideConfig(name="base", model="base"), prompted),
        suites=(
            SuiteConfig(
                name="held-out",
                type="HeldOut",
                path=str(suite),
                uri="pvc://data/test.jsonl",
                metrics=(MetricConfig(name="exact", type="ExactMatch"), MetricConfig(name="f1", type="F1")),
            ),
        ),
        gates=(
            GateConfig(suite="held-out", metric="exact", min_percent=70),
            GateConfig(suite="held-out", metric="exact", versus_baseline="prompted", min_difference_percent=5),
        ),
        concurrency=4,
        model_digest="sha256:m",
        base_digest="sha256:b",
        artifact_path=str(write_manifest(tmp_path / "artifact")),
        serving_profile={"maxModelLen": 256},
        output_dir=str(tmp_path / "out"),
        result_path=str(tmp_path / "result.json"),
    )


@pytest.fixture
def start(config, tmp_path):
    """Start `python -m luthier_eval` as its container would."""
    started = []

    def starting(**changes):
        (tmp_path / "termination").touch()
        env = {
            **os.environ,
            CONFIG_ENV: config.model_copy(update=changes).model_dump_json(),
            TERMINATION_LOG_ENV: str(tmp_path / "termination"),
            "PYTHONPATH": f"{ROOT / 'server_image'}:{ROOT / 'trainer_image'}",
        }
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen([sys.executable, "-m", "luthier_eval"], env=env, stdout=log, stderr=log))
        return started[-1]

    yield starting
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def sample_lines(config):
    return [line for path in Path(config.output_dir).glob("samples/*.jsonl") for line in path.read_bytes().splitlines()]


def test_a_whole_run(start, engine, config, tmp_path):
    assert start().wait(60) == EXIT_OK
    result = StepResult.model_validate_json((tmp_path / "termination").read_bytes())
    assert (result.outcome, result.reason) == ("Succeeded", "Evaluated")
    assert result == StepResult.model_validate_json(Path(config.result_path).read_bytes())
    assert result.details["verdict"] == "Passed"
    assert result.details["suites"][0]["metrics"][0]["target"] == {"value": 100.0, "low": 91.19, "high": 100.0}
    out = Path(config.output_dir)
    results = json.loads((out / "results.json").read_text())
    assert results["versions"]["engine"] == "fake-1"
    assert results["suites"][0]["cases"] == CASES
    assert "Passed" in (out / "report.html").read_text()
    assert len(sample_lines(config)) == 3 * CASES
    assert sorted(engine.questions("target")) == sorted(f"number {i}" for i in range(CASES))
    prompted = [b["messages"] for b in engine.asked if b["messages"][0]["role"] == "system"]
    assert {m[0]["content"] for m in prompted} == {"Be exact."}
    assert {len(m) for m in prompted} == {4}


def test_a_killed_run_goes_on_where_it_was(start, engine, config):
    engine.hang_after = 50
    killed = start()
    wait_for(lambda: len(engine.asked) == 54 and len(sample_lines(config)) == 50)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    answered = len(sample_lines(config))
    torn = Path(config.output_dir) / "samples" / "held-out.target.jsonl"
    with torn.open("ab") as file:
        file.write(b'{"case": "tor')
    engine.hang_after, engine.asked = None, []
    engine.released.set()
    assert start().wait(60) == EXIT_OK
    assert len(engine.asked) == 3 * CASES - answered
    assert len(sample_lines(config)) == 3 * CASES
    assert all(json.loads(line) for line in sample_lines(config))


def test_a_run_that_is_done_asks_nothing_and_gives_the_same_result(start, engine, config):
    assert start().wait(60) == EXIT_OK
    before = (Path(config.output_dir) / "results.json").read_bytes()
    engine.asked = []
    assert start().wait(60) == EXIT_OK
    assert engine.asked == []
    assert (Path(config.output_dir) / "results.json").read_bytes() == before


@pytest.mark.parametrize("changes", [{"model_digest": "sha256:other"}, {"image": "server:2"}])
def test_answers_of_other_weights_or_another_engine_are_not_taken(start, engine, config, changes):
    assert start().wait(60) == EXIT_OK
    engine.asked = []
    assert start(**changes).wait(60) == EXIT_OK
    assert len(engine.asked) == 3 * CASES


def test_sigterm_keeps_the_answers_and_says_so(start, engine, config, tmp_path):
    engine.hang_after = 10
    stopped = start()
    wait_for(lambda: len(sample_lines(config)) == 10)
    stopped.terminate()
    assert stopped.wait(30) == EXIT_PREEMPTED
    assert json.loads((tmp_path / "termination").read_text())["outcome"] == "Preempted"
    assert len(sample_lines(config)) == 10


def test_a_broken_row_ends_the_run_before_anything_is_asked(start, engine, config, tmp_path):
    with Path(config.suites[0].path).open("a") as file:
        file.write('{"messages": []}\n')
    assert start().wait(60) == EXIT_USER_ERROR
    result = json.loads((tmp_path / "termination").read_text())
    assert result["reason"] == "InvalidSuite"
    assert f"pvc://data/test.jsonl:{CASES + 1}" in result["message"]
    assert engine.asked == []


async def test_a_suite_that_may_not_be_read_is_named(engine, config):
    path = Path(config.suites[0].path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    result = await run(config, QUICK)
    assert (result.outcome, result.reason) == ("UserError", "InvalidSuite")
    assert f"suite held-out: pvc://data/test.jsonl: {path} cannot be read" in result.message


async def test_an_output_that_may_not_be_written_is_named(engine, config):
    output = Path(config.output_dir)
    output.mkdir()
    output.chmod(0o500)
    if os.access(output, os.W_OK):
        pytest.skip("this user may write everything")
    result = await run(config, QUICK)
    assert (result.outcome, result.reason) == ("UserError", "StorageNotWritable")
    assert str(output) in result.message


def test_an_error_that_nobody_expected_is_told_too(start, engine, config, tmp_path):
    samples = Path(config.output_dir) / "samples" / "held-out.target.jsonl"
    samples.mkdir(parents=True)
    assert start().wait(60) == 1
    result = json.loads((tmp_path / "termination").read_text())
    assert (result["outcome"], result["reason"]) == ("InternalError", "StepCrashed")
    assert result["message"].startswith("IsADirectoryError")


async def test_a_refused_prompt_is_a_wrong_answer_with_its_error(engine, config):
    engine.statuses = {"number 3": 400, "number 4": 400}
    result = await run(config, QUICK)
    assert result.outcome == "Succeeded"
    results = json.loads((Path(config.output_dir) / "results.json").read_text())
    assert results["suites"][0]["metrics"][0]["target"]["value"] == pytest.approx(38 / 40)
    assert [side["refused"] for side in results["suites"][0]["sides"]] == [2, 2, 2]
    refused = [e for line in sample_lines(config) if (e := json.loads(line))["answer"]["error"]]
    assert len(refused) == 6
    assert refused[0]["answer"]["error"] == "400 the prompt is longer than 256 tokens"
    assert "could not be asked 2 of 40 cases" in results["gates"][1]["message"]


async def test_a_failure_that_passes_is_asked_again(engine, config):
    engine.fails_left = 2
    result = await run(config, QUICK)
    assert result.details["verdict"] == "Passed"
    assert len(engine.asked) == 3 * CASES + 2


@pytest.mark.parametrize("status", [500, 503, 404])
async def test_unanswered_cases_give_no_verdict(engine, config, status):
    engine.statuses = {"base": status}
    result = await run(config, QUICK)
    assert (result.outcome, result.reason) == ("InternalError", "EngineFailed")
    assert str(status) in result.message
    assert not (Path(config.output_dir) / "results.json").exists()
    assert len(sample_lines(config)) >= CASES, "the target's answers are kept"


async def test_an_engine_that_does_not_start_is_named(engine, config):
    engine.ready = False
    result = await run(config, QUICK)
    assert (result.outcome, result.reason) == ("InternalError", "EngineNotReady")
    assert "503" in result.message
    assert engine.asked == []


async def test_digests_come_from_the_artifact_where_the_operator_knew_none(engine, config, tmp_path):
    unknown = config.model_copy(update={"model_digest": "", "base_digest": ""})
    result = await run(unknown, QUICK)
    assert result.details["model_digest"] == "sha256:found"


async def test_an_artifact_without_its_manifest_is_not_judged(engine, config):
    (Path(config.artifact_path) / "luthier.json").unlink()
    result = await run(config, QUICK)
    assert (result.outcome, result.reason) == ("UserError", "ArtifactIncomplete")
    assert engine.asked == []


@pytest.mark.parametrize("render", ["Chat", "Raw"])
async def test_prompts_are_asked_as_the_artifact_was_trained(engine, config, render):
    rows = [{"prompt": f"number {i}", "completion": f"{i}"} for i in range(CASES)]
    Path(config.suites[0].path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(Path(config.artifact_path), render=render)
    result = await run(config, QUICK)
    assert result.details["verdict"] == "Passed"
    assert {"messages" in body for body in engine.asked} == {render == "Chat"}
    assert json.loads((Path(config.output_dir) / "results.json").read_text())["render"] == render
