"""Readiness: the template probe and the one-token generation, against the stand-in's engine."""

import asyncio

import pytest

from luthier_server import health
from luthier_server.health import Prober
from luthier_server.verify import RefusedError
from luthier_trainer.artifact import Probe
from server.parts import Clock, until
from standin.engine import Engine
from standin.model import Behaviour, tokens

MESSAGES = ({"role": "user", "content": "my bill is wrong"},)
PROBE = Probe(messages=MESSAGES, token_ids=tuple(tokens(list(MESSAGES))))


class Recorder:
    """Passes requests to an app and keeps their paths."""

    def __init__(self, app):
        self.app = app
        self.paths = []

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        await self.app(scope, receive, send)


def _prober(behaviour=None, *, probes=(PROBE,), context=100, progress=float("-inf"), clock=None):
    engine = Recorder(Engine(behaviour or Behaviour(), context=context))
    prober = Prober(
        engine,
        model="support",
        probes=probes,
        max_model_len=context,
        last_progress=lambda: progress,
        clock=clock or Clock(),
    )
    return prober, engine


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.0)


async def _run(prober):
    return asyncio.create_task(prober.run())


@pytest.mark.row(58)
async def test_not_ready_until_a_token_was_generated(quick):
    prober, engine = _prober()
    assert prober.not_ready() == "no token has been generated yet"
    running = await _run(prober)
    await until(lambda: prober.not_ready() is None)
    assert "/v1/chat/completions" in engine.paths
    running.cancel()


@pytest.mark.row(58)
async def test_an_engine_that_only_fails_is_never_ready(quick):
    prober, engine = _prober(Behaviour(never_ready=True))
    running = await _run(prober)
    await until(lambda: engine.paths.count("/v1/chat/completions") > 3)
    assert "HTTP 500" in prober.not_ready()
    running.cancel()


async def test_a_probe_that_exceeds_the_context_is_not_used_to_generate(quick):
    prober, engine = _prober(context=len(PROBE.token_ids))
    running = await _run(prober)
    await until(lambda: prober.not_ready() is None)
    assert "/v1/completions" in engine.paths
    running.cancel()


@pytest.mark.parametrize(
    ("idle", "checks"), [(health.IDLE_SECONDS - 1, 1), (health.IDLE_SECONDS, 2)], ids=["recently used", "idle"]
)
async def test_an_idle_engine_is_asked_again(quick, idle, checks):
    clock = Clock()
    prober, engine = _prober(clock=clock)
    running = await _run(prober)
    await until(lambda: prober.not_ready() is None)
    clock.now += idle
    beats = engine.paths.count("/health")
    await until(lambda: engine.paths.count("/health") > beats + 3)
    assert engine.paths.count("/v1/chat/completions") == checks
    running.cancel()


@pytest.mark.row(58)
async def test_readiness_is_lost_when_generation_begins_to_fail(quick):
    clock = Clock()
    prober, _ = _prober(Behaviour(error_rate=0.5), clock=clock)
    running = await _run(prober)
    await until(lambda: prober.not_ready() is None)
    clock.now += health.IDLE_SECONDS
    await until(lambda: prober.not_ready() is not None)
    assert "HTTP 500" in prober.not_ready()
    running.cancel()


@pytest.mark.parametrize(("progress", "ready"), [(float("inf"), True), (float("-inf"), False)])
async def test_a_probe_that_waits_is_no_failure_while_others_get_tokens(quick, monkeypatch, progress, ready):
    monkeypatch.setattr(health, "GENERATE_SECONDS", 0.02)
    prober, _ = _prober(Behaviour(hang_rate=1.0), progress=progress)
    await asyncio.wait_for(prober._generate(), 5)
    assert (prober.not_ready() is None) is ready


async def test_a_dead_engine_ends_the_checks(quick):
    prober, _ = _prober(Behaviour(dies_after=0))
    await asyncio.wait_for(prober.run(), 5)
    assert prober.not_ready() == "the engine is dead"
    assert not await prober.is_alive()


async def test_draining_is_not_ready_for_good(quick):
    prober, _ = _prober()
    prober.drain()
    running = await _run(prober)
    await until(lambda: prober._reason is None)
    assert prober.not_ready() == "the process is ending"
    running.cancel()


async def test_the_trained_template_passes():
    prober, engine = _prober()
    await prober.check_template()
    assert engine.paths == ["/tokenize"]


async def test_another_template_is_refused_with_the_place_of_the_difference():
    ids = (*PROBE.token_ids[:-1], 7)
    prober, _ = _prober(probes=(PROBE, Probe(messages=MESSAGES, token_ids=ids)))
    place = len(ids) - 1
    with pytest.raises(RefusedError, match=rf"probe 1 .* from token {place} on .*trained \[7\]") as refused:
        await prober.check_template()
    assert refused.value.reason == "TemplateMismatch"


async def test_tokens_that_only_begin_alike_are_refused():
    prober, _ = _prober(probes=(Probe(messages=MESSAGES, token_ids=PROBE.token_ids[:-1]),))
    with pytest.raises(RefusedError, match="to 5 tokens, not the 4"):
        await prober.check_template()
