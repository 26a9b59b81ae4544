"""Whom a rollout asks and tells: what it waits for, what it does not, and how the calls are made."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json

import aiohttp
import pytest
from aiohttp import web

from luthier.hooks import HookCaller, poster, sign
from luthier.plan import Call, HookAnswer, Key
from luthier.settings import Settings
from servinglife import entry, serving
from servingworld import Behaviour, Killed, World
from waiting import until_async

CONFIRM = {"name": "board", "type": "Confirm", "url": "https://board.example/ask"}
EVENT = {"name": "chat", "type": "Event", "url": "https://chat.example:8443/say"}
ROLLBACK = {"name": "pager", "type": "Rollback", "url": "https://board.example/page"}
HOSTS = Settings(hook_hosts=["board.example", "chat.example:8443"])


def with_hooks(*hooks, **rollout) -> World:
    world = serving(**rollout)
    world.settings = HOSTS
    world.spec(rollout={"hooks": list(hooks)})
    world.settle()
    return world


def asked(world: World) -> list[Call]:
    return [call for call in world.calls if call.body["event"] == "Confirm"]


def answer(world: World, *, ok: bool = True, message: str = "HTTP 200") -> None:
    world.answers |= {call.id: HookAnswer(ok=ok, message=message) for call in world.calls}


# Confirm


def test_each_weight_waits_for_its_own_confirmation():
    world = with_hooks(CONFIRM)
    world.successor()
    world.run(20)
    assert world.weights() == {"r1": 100}
    assert world.condition("Ready") == "False/WaitingForConfirmation"
    assert "hook board is being asked" in world.message("Ready")
    [first] = asked(world)
    assert first.url == CONFIRM["url"]
    assert (first.body["step"], first.body["weight"], first.body["nextWeight"]) == (1, 0, 10)
    assert first.body["revision"] == world.status["candidate"]["name"]
    answer(world, ok=False, message="HTTP 409")
    world.run(20)
    assert world.weights() == {"r1": 100}
    assert "hook board does not agree: HTTP 409" in world.message("Ready")
    answer(world)
    world.run(4)
    assert world.weights() == {"r1": 90, "r2": 10}
    assert world.run(60, until=lambda: asked(world))
    [second] = asked(world)
    assert second.id != first.id
    assert second.body["nextWeight"] == 50
    assert world.run(600, until=lambda: answer(world) or world.status["stable"]["name"].startswith("r2-"))


def test_the_watch_is_asked_for_with_the_weight_that_it_has():
    watch = {"watchAfterPromotionSeconds": 60, "watchWeight": 5}
    world = with_hooks(CONFIRM, steps=[{"setWeight": 50}], analysis={"metrics": [{"name": "ErrorRate"}]}, **watch)
    world.successor()
    assert world.run(60, until=lambda: asked(world))
    answer(world)
    assert world.run(60, until=lambda: [call.body["weight"] for call in asked(world)] == [50])
    assert asked(world)[0].body["nextWeight"] == 95


def test_nobody_is_asked_about_a_weight_that_something_else_holds():
    world = with_hooks(CONFIRM)
    world.pods_become = "pending"
    world.successor()
    world.run(20)
    assert asked(world) == []
    assert "0 of 1 pods" in world.message("Ready")


def test_no_hook_is_on_the_rollback_path():
    world = with_hooks(CONFIRM, EVENT, ROLLBACK)
    world.successor()
    world.run(20)
    answer(world)
    world.run(4)
    world.behaviour["r2"] = Behaviour(errors=0.9)
    assert world.run(120, until=lambda: "candidate" not in world.status)
    assert world.weights() == {"r1": 100}
    assert entry(world)["reason"] == "AnalysisFailed"


def test_a_pin_asks_nobody_and_a_promotion_without_analysis_does():
    world = serving()
    first = world.status["stable"]["name"]
    world.successor()
    assert world.run(600, until=lambda: world.status["stable"]["name"].startswith("r2-"))
    world.settings = HOSTS
    world.spec(rollout={"hooks": [CONFIRM], "pin": {"revision": first}})
    world.settle()
    assert world.weights() == {"r1": 100}
    world.spec(rollout={"pin": None})
    world.tick()
    name = world.status["candidate"]["name"]
    world.spec(rollout={"promote": {"revision": name, "skipAnalysis": True, "by": "alice", "reason": "now"}})
    world.run(20)
    assert world.condition("Ready") == "False/WaitingForConfirmation"


# Event and Rollback


def test_what_happens_is_told_until_its_receiver_has_taken_it():
    world = with_hooks(EVENT)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    told = {call.body["event"]: call for call in world.calls}
    assert set(told) == {"RollingOut", "WeightChanged"}
    assert "gets 10 % of the traffic" in told["WeightChanged"].body["message"]
    assert [n["hook"] for n in world.status["notices"]] == ["chat", "chat"]
    world.answers = {told["RollingOut"].id: HookAnswer(ok=True, message="HTTP 200")}
    world.answers |= {told["WeightChanged"].id: HookAnswer(ok=False, message="HTTP 500")}
    world.tick()
    assert [n["event"] for n in world.status["notices"]] == ["WeightChanged"]
    assert [call.id for call in world.calls] == [told["WeightChanged"].id]  # the same id at each try
    world.run(10)
    assert told["WeightChanged"].id in {call.id for call in world.calls}


def test_a_rollback_hook_hears_of_rollbacks_alone():
    world = with_hooks(ROLLBACK)
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    assert world.run(300, until=lambda: "candidate" not in world.status)
    [call] = world.calls
    assert call.body["event"] == "RolledBack"
    assert "evidence" in call.body["message"]
    answer(world)
    world.settle()
    assert "notices" not in world.status or world.status["notices"] == []
    assert world.calls == ()


def test_a_killed_operator_tells_what_it_wrote_and_nothing_else():
    world = with_hooks(ROLLBACK)
    world.behaviour["r2"] = Behaviour(errors=0.5)
    world.successor()
    world.run(60, until=lambda: world.weights().get("r2"))
    world.fail_at = "status after traffic"
    with pytest.raises(Killed):
        world.run(300)
    assert world.calls == ()
    world.fail_at = None
    world.tick()
    [call] = world.calls
    world.calls = ()  # a new process knows nothing
    world.tick()
    assert [c.id for c in world.calls] == [call.id]


def test_notices_are_bounded_in_number_and_age():
    world = with_hooks(EVENT)
    for _ in range(20):
        world.successor()
        world.run(10)
        world.spec(model={"fineTuneJob": {"name": "tickets"}}, requireEvaluation={"name": "tickets-eval"})
        world.job, world.evaluation = World().job, World().evaluation
        world.run(10)
    assert len(world.status["notices"]) == 32
    world.now = world.now.replace(day=world.now.day + 2)
    world.tick()
    assert all(n["at"] > "2026-01-03" for n in world.status.get("notices", []))


def test_a_hook_that_is_gone_from_the_spec_is_told_nothing():
    world = with_hooks(EVENT)
    world.successor()
    world.run(20)
    assert world.calls
    world.spec(rollout={"hooks": []})
    world.tick()
    assert world.calls == ()


def test_a_host_that_is_not_allowed_is_never_called_and_holds_rollouts():
    world = with_hooks(CONFIRM, {**EVENT, "url": "https://169.254.169.254/latest"})
    assert world.condition("Stalled") == "True/InvalidSpec"
    assert 'spec.rollout.hooks[1].url is "https://169.254.169.254/latest"' in world.message("Stalled")
    assert "board.example, chat.example:8443" in world.message("Stalled")
    world.successor()
    world.run(20)
    assert world.calls == ()
    assert "candidate" not in world.status


# The calls

KEY = Key(kind="ModelDeployment", namespace="team", name="support")
SECRET = b"0123456789abcdef0123456789abcdef"


def call(id_: str = "a", url: str = "https://board.example/ask") -> Call:
    return Call(id=id_, url=url, body={"id": id_})


def caller(post, tmp_path, changed=None, *, secret: bytes = SECRET) -> HookCaller:
    path = tmp_path / "key"
    path.write_bytes(secret + b"\n")
    told = changed if changed is not None else []
    return HookCaller(post, key_file=path, changed=told.append)


async def test_a_call_is_made_once_while_it_is_wanted_and_its_answer_enqueues(tmp_path):
    posts, changed = [], []

    async def post(url, body, headers):
        posts.append((url, body, headers))
        return 204

    made = caller(post, tmp_path, changed)
    made.want(KEY, [call()])
    await until_async(lambda: changed, "an answer")
    made.want(KEY, [call()])
    assert made.answers(KEY) == {"a": HookAnswer(ok=True, message="HTTP 204")}
    assert (len(posts), changed) == (1, [KEY])
    _, body, headers = posts[0]
    assert headers["X-Luthier-Id"] == "a"
    assert set(json.loads(body)) == {"id", "sentAt"}
    own = hmac.new(SECRET, b"luthier-hook:board.example", hashlib.sha256).hexdigest()
    expected = hmac.new(own.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Luthier-Signature"] == f"sha256={expected}"
    assert sign(SECRET, "https://other.example/ask", body) != headers["X-Luthier-Signature"]
    made.want(KEY, [])
    assert made.answers(KEY) == {}


async def test_what_fails_is_tried_again_until_it_is_not_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr("luthier.hooks.FIRST_RETRY", 0.001)
    replies = iter([500, aiohttp.ClientConnectionError("refused"), 302, 200])

    async def post(url, body, headers):
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    seen: list[str] = []
    made = HookCaller(post, key_file=tmp_path / "key", changed=lambda key: seen.append(made.answers(key)["a"].message))
    (tmp_path / "key").write_bytes(SECRET)
    made.want(KEY, [call()])
    await until_async(lambda: len(seen) == 4, "four calls")
    assert seen == ["HTTP 500", "refused", "HTTP 302", "HTTP 200"]
    made.stop()


@pytest.mark.parametrize(("secret", "says"), [(b"short", "shorter than 32 bytes"), (None, "hooks.secretName")])
async def test_without_a_key_nothing_is_sent(tmp_path, secret, says):
    async def post(url, body, headers):
        raise AssertionError("sent without a key")

    changed: list[Key] = []
    if secret is None:
        made = HookCaller(post, key_file=None, changed=changed.append)
    else:
        made = caller(post, tmp_path, changed, secret=secret)
    made.want(KEY, [call()])
    await until_async(lambda: changed, "an answer")
    assert says in made.answers(KEY)["a"].message
    made.stop()


async def test_no_redirect_is_followed_and_silence_is_a_no(tmp_path, monkeypatch):
    monkeypatch.setattr("luthier.hooks.SECONDS", 0.2)
    visited, hang = [], asyncio.Event()

    async def handle(request):
        visited.append(request.path)
        if request.path == "/slow":
            await hang.wait()
        raise web.HTTPFound("/inside")

    app = web.Application()
    app.router.add_post("/{name}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    changed: list[Key] = []
    async with aiohttp.ClientSession() as session:
        made = caller(poster(session), tmp_path, changed)
        made.want(KEY, [call("a", f"{base}/ask"), call("b", f"{base}/slow")])
        await until_async(lambda: len(made.answers(KEY)) == 2, "two answers")
        assert made.answers(KEY)["a"] == HookAnswer(ok=False, message="HTTP 302")
        assert "no answer within" in made.answers(KEY)["b"].message
        assert sorted(visited) == ["/ask", "/slow"]
        made.stop()
        hang.set()
    await runner.cleanup()
