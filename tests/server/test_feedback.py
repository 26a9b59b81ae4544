"""Votes on answers: signed ids, once each, for seven days, whichever pod takes them; and what makes one not count."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from luthier_server.asgi import reply_json
from luthier_server.ballot import MAX_REVISIONS, WINDOW_SECONDS, Ballot
from luthier_server.config import FeedbackConfig
from luthier_server.counters import OUTCOMES, Counters
from luthier_server.response_ids import IssuedAnswer, issue
from server.asgi_driver import Client, chat, get, post
from server.parts import DONE, Setup, answering, completion, event, streaming, until

KEY, OTHER_KEY = "a" * 64, "b" * 64
R7, R8 = "r7-5f3a9c1b", "r8-0a1b2c3d"
ID = "x-luthier-response-id"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "..data").mkdir()  # as the kubelet makes it
    return tmp_path


def serving(folder, *, engine=None, header=None, revision=R7) -> Setup:
    config = FeedbackConfig(key_folder=str(folder), identity_header=header)
    return Setup(engine or answering(content=completion("hi")), feedback=config, revision=revision)


async def answer_id(setup: Setup) -> str:
    return (await post(setup.app)).headers[ID]


async def vote(setup: Setup, id_, rating="up", *, headers=(), **fields):
    body = json.dumps({"id": id_, "rating": rating, **fields}).encode()
    return await post(setup.app, path="/v1/feedback", body=body, headers=headers)


def votes(setup: Setup, revision=R7) -> tuple[int, int]:
    return tuple(
        int(setup.registry.get_sample_value("luthier_feedback_total", {"revision": revision, "rating": rating}) or 0)
        for rating in ("up", "down")
    )


def refused(setup: Setup) -> dict[str, int]:
    return {reason: n for reason, n in setup.counters.refused_votes.items() if n}


async def test_an_answer_has_an_id_and_its_bytes_are_the_engines(folder):
    setup, plain = serving(folder), Setup(answering(content=completion("hi")))
    with_id, without = await post(setup.app), await post(plain.app)
    assert with_id.headers[ID].startswith(f"{R7}.1000.")
    assert with_id.body == without.body
    assert ID not in without.headers
    assert (await post(setup.app)).headers[ID] != with_id.headers[ID]


async def test_a_stream_has_its_id_before_the_first_byte(folder):
    more = asyncio.Event()
    setup = serving(folder, engine=streaming([event("a"), DONE], wait=more))
    client = Client(setup.app, body=chat(stream=True))
    running = asyncio.create_task(client.run())
    await until(lambda: client.reply.status is not None)
    assert client.reply.headers[ID].startswith(R7)
    more.set()
    await running


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_what_is_no_answer_has_no_id(folder, status):
    setup = serving(folder, engine=answering(status))
    assert ID not in (await post(setup.app)).headers


async def test_votes_are_counted_for_the_revision_that_answered_whichever_pod_takes_them(folder):
    r7, r8 = serving(folder), serving(folder, revision=R8)
    assert (await vote(r8, await answer_id(r7), "down")).status == 200
    assert (await vote(r7, await answer_id(r7), "up")).status == 200
    assert (votes(r8), votes(r8, R8)) == ((0, 1), (0, 0))
    assert votes(r7) == (1, 0)
    shown = (await get(r8.app, "/luthier/counters")).json()
    assert shown["votes"] == {R8: [0, 0], R7: [0, 1]}


async def test_the_series_begin_with_0_where_votes_are_taken(folder):
    setup, plain = serving(folder), Setup(answering())
    assert setup.sample("luthier_feedback_total", rating="down") == 0
    assert setup.sample("luthier_feedback_refused_total", reason="double") == 0
    assert plain.sample("luthier_feedback_total", rating="down") is None
    assert "votes" not in (await get(plain.app, "/luthier/counters")).json()


@pytest.mark.parametrize(
    ("rating", "counted"), [("up", (1, 0)), ("down", (0, 1)), (1, (1, 0)), (0.5, (1, 0)), (0.49, (0, 1)), (0, (0, 1))]
)
async def test_a_rating_is_a_word_or_a_score(folder, rating, counted):
    setup = serving(folder)
    assert (await vote(setup, await answer_id(setup), rating)).json() == {
        "object": "feedback",
        "rating": "up" if counted[0] else "down",
    }
    assert votes(setup) == counted


async def test_an_id_votes_once(folder):
    setup = serving(folder)
    id_ = await answer_id(setup)
    assert [(await vote(setup, id_, rating)).status for rating in ("up", "up", "down")] == [200, 409, 409]
    assert votes(setup) == (1, 0)
    assert refused(setup) == {"double": 2}


def _changed(id_: str, at: int) -> str:
    return id_[:at] + ("0" if id_[at] != "0" else "1") + id_[at + 1 :]


async def test_an_id_that_was_changed_anywhere_is_refused(folder):
    setup = serving(folder)
    id_ = await answer_id(setup)
    for at in range(len(id_)):
        assert (await vote(setup, _changed(id_, at))).status == 403
    foreign = issue(R7, key=OTHER_KEY.encode(), now=1000)
    for made_up in (foreign, "chatcmpl-1", ".", f"{R7}.1000.00", f"{id_}\u00e9", id_ + "x" * 300, "\ud800"):
        assert (await vote(setup, made_up)).status == 403
    assert votes(setup) == (0, 0)


async def test_after_seven_days_an_answer_cannot_be_voted_on(folder):
    setup = serving(folder)
    late, later = await answer_id(setup), await answer_id(setup)
    setup.wall_clock.now += WINDOW_SECONDS - 1
    assert (await vote(setup, late)).status == 200
    setup.wall_clock.now += 1
    assert (await vote(setup, later)).status == 410
    assert (await vote(setup, late)).status == 410  # forgotten by now, and still no second vote
    assert votes(setup) == (1, 0)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not a JSON object"),
        (b"[]", 400, "not a JSON object"),
        (b"[" * 4000, 400, "not a JSON object"),
        (b'{"rating": "up"}', 400, "id is missing"),
        (b'{"id": 7, "rating": "up"}', 400, "id is missing"),
        (b'{"id": "x", "rating": "good"}', 400, "rating is not"),
        (b'{"id": "x", "rating": true}', 400, "rating is not"),
        (b'{"id": "x", "rating": NaN}', 400, "rating is not"),
        (b'{"id": "x", "rating": 1e999}', 400, "rating is not"),
        (b'{"id": "x", "rating": 5}', 400, "rating is not"),
        (b'{"id": "x", "rating": ["up"]}', 400, "rating is not"),
        (b'{"id": "x", "rating": "up", "user": ""}', 400, "user is not"),
        (b'{"id": "x", "rating": "up", "comment": "nice"}', 400, "unknown field 'comment'"),
        (b'{"id": "' + b"x" * 4096 + b'", "rating": "up"}', 413, "at most 4096 bytes"),
    ],
)
async def test_a_vote_that_is_none(folder, body, status, words):
    setup = serving(folder)
    reply = await post(setup.app, path="/v1/feedback", body=body)
    assert reply.status == status
    assert words in reply.json()["error"]["message"]
    assert refused(setup) == {"malformed": 1}


async def test_a_client_that_leaves_has_not_voted(folder):
    setup = serving(folder)
    client = Client(setup.app, path="/v1/feedback")
    client._pending.clear()
    client.leave()
    await client.run()
    assert client.reply.status is None
    assert refused(setup) == {}


async def test_feedback_is_not_offered_where_it_is_not_asked_for():
    assert (await vote(Setup(answering()), "x")).status == 404


async def test_a_vote_is_no_request_that_the_model_is_judged_by(folder):
    setup = serving(folder)
    await vote(setup, "made up")
    assert (setup.counters.started, setup.outcomes) == (0, {})


async def test_one_identity_has_a_twentieth_of_the_votes(folder):
    setup = serving(folder, header="X-User")
    mallory = [await vote_as(setup, "mallory") for _ in range(3)]
    assert mallory == [200, 429, 429]
    assert {await vote_as(setup, f"user-{i}") for i in range(38)} == {200}
    assert [await vote_as(setup, "mallory") for _ in range(2)] == [200, 429]  # 2 of 40
    assert votes(setup) == (40, 0)
    assert refused(setup) == {"capped": 3}


async def vote_as(setup: Setup, user: str) -> int:
    reply = await vote(setup, await answer_id(setup), headers=[(b"x-user", user.encode())], user="somebody else")
    return reply.status


async def test_a_header_that_is_asked_for_must_name_one_person(folder):
    setup = serving(folder, header="x-user")
    id_ = await answer_id(setup)
    for headers in ((), [(b"x-user", b" ")], [(b"x-user", b"my choice"), (b"x-user", b"me")]):
        assert (await vote(setup, id_, headers=headers, user="me")).status == 401
    assert refused(setup) == {"identity": 3}


async def test_without_a_header_the_body_may_name_who_votes(folder):
    setup = serving(folder)
    assert (await vote(setup, await answer_id(setup), user="me")).status == 200
    assert (await vote(setup, await answer_id(setup), user="me")).status == 429
    assert {(await vote(setup, await answer_id(setup))).status for _ in range(5)} == {200}  # nobody: no limit


async def test_a_vote_that_is_over_the_limit_may_come_again_from_another(folder):
    setup = serving(folder)
    await vote(setup, await answer_id(setup), user="me")
    id_ = await answer_id(setup)
    assert [(await vote(setup, id_, user=user)).status for user in ("me", "you")] == [429, 200]


async def test_what_is_forgotten_for_lack_of_room_cannot_be_voted_on_again():
    counters = Counters(revision=R7)
    ballot = Ballot(counters, max_votes=3)

    def cast(issued, name):
        return ballot.cast(IssuedAnswer(revision=R7, issued=issued), name, "up", identity=name, now=200.0)

    assert [cast(100 + i, f"id-{i}") for i in range(4)] == [None] * 4
    assert cast(100, "id-0") == "expired"  # it was the oldest
    assert cast(101, "id-1") == "double"
    assert cast(99, "late") == "expired"  # not known any more whether it has voted
    assert counters.votes[R7]["up"] == 4
    assert len(ballot._votes) == len(ballot._known) == len(ballot._of_identity) == 3


async def test_only_so_many_revisions_are_counted():
    counters = Counters(revision=R7)
    counters.offer_votes()
    ballot = Ballot(counters)
    said = [
        ballot.cast(IssuedAnswer(revision=f"r{i}-x", issued=100), f"id-{i}", "up", identity=None, now=200.0)
        for i in range(MAX_REVISIONS)
    ]
    assert said == [None] * (MAX_REVISIONS - 1) + ["expired"]
    assert len(counters.votes) == MAX_REVISIONS


async def test_a_key_that_comes_verifies_before_it_signs_and_one_that_goes_after(folder):
    setup = serving(folder)
    old = await answer_id(setup)
    (folder / "next").write_text(OTHER_KEY)
    setup.clock.now += 31
    assert (await vote(setup, issue(R7, key=OTHER_KEY.encode(), now=1000))).status == 200
    (folder / "key").write_text(OTHER_KEY)
    (folder / "next").write_text(KEY)
    setup.clock.now += 31
    assert (await vote(setup, old)).status == 200
    (folder / "next").unlink()
    setup.clock.now += 31
    assert (await vote(setup, issue(R7, key=KEY.encode(), now=1000))).status == 403
    assert (await vote(setup, await answer_id(setup))).status == 200


@pytest.mark.parametrize("content", [None, "short"])
async def test_without_a_key_there_are_answers_without_ids_and_it_is_told_once(tmp_path, caplog, content):
    if content is not None:
        (tmp_path / "key").write_text(content)
    caplog.set_level(logging.DEBUG)
    setup = serving(tmp_path)
    for _ in range(3):
        reply = await post(setup.app)
        assert (reply.status, ID in reply.headers) == (200, False)
        setup.clock.now += 31
    assert (await vote(setup, "x")).status == 503
    assert len([r for r in caplog.records if "no answer gets an id" in r.message]) == 1
    assert "short" not in caplog.text.replace("shorter", "")


async def test_no_identity_no_id_and_no_key_is_logged_or_kept(folder, caplog):
    caplog.set_level(logging.DEBUG)
    setup = serving(folder, header="x-user")
    id_ = await answer_id(setup)
    await vote(setup, id_, headers=[(b"x-user", b"jane@example.org")])
    await vote(setup, id_, headers=[(b"x-user", b"jane@example.org")])
    kept = repr(vars(setup.app._feedback._ballot))
    for secret in ("jane", id_, KEY):
        assert secret not in caplog.text
        assert secret not in kept


async def test_the_json_stays_small_with_votes_on_many_revisions(folder):
    setup = serving(folder)
    many = 10**15
    setup.counters.started = setup.counters.checked = setup.counters.invalid = setup.counters.refusals = many
    setup.counters.outcomes = dict.fromkeys(OUTCOMES, many)
    setup.counters._durations.counts = [many] * 122
    for i in range(MAX_REVISIONS):
        setup.counters.votes[f"r{10_000 + i}-0a1b2c3d"] = {"up": many, "down": many}
    reply = await get(setup.app, "/luthier/counters")
    assert len(reply.body) <= 4096
    assert [*reply.json()["votes"]][:2] == [R7, f"r{10_000 + MAX_REVISIONS - 4}-0a1b2c3d"]


REFUSAL = {"choices": [{"index": 0, "message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}]}


def chunk(delta, finish_reason=None) -> bytes:
    data = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("engine", "path", "refusals"),
    [
        pytest.param(answering(content=REFUSAL), None, 1, id="a refusal text"),
        pytest.param(answering(content=completion("", finish_reason="content_filter")), None, 1, id="a filter"),
        pytest.param(answering(content=completion('"refusal": "x", "content_filter"')), None, 0, id="words about it"),
        pytest.param(
            answering(content={"choices": [{"message": {"content": "a", "refusal": None}}]}), None, 0, id="null"
        ),
        pytest.param(answering(400, content=REFUSAL), None, 0, id="no answer at all"),
        pytest.param(streaming([chunk({"refusal": "I "}), chunk({"refusal": "can't"}), DONE]), None, 1, id="a stream"),
        pytest.param(streaming([chunk({"refusal": ""}), chunk({"content": "a"}), DONE]), None, 0, id="an empty one"),
        pytest.param(streaming([chunk({}, "content_filter"), DONE]), None, 1, id="a filtered stream"),
        pytest.param(
            answering(content={"output": [{"content": [{"type": "refusal", "refusal": "no"}]}]}),
            "/v1/responses",
            1,
            id="a part of a response",
        ),
        pytest.param(
            streaming(
                [
                    b'event: response.refusal.delta\ndata: {"type":"response.refusal.delta","delta":"no"}\n\n',
                    b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
                ]
            ),
            "/v1/responses",
            1,
            id="a stream of a response",
        ),
    ],
)
async def test_an_answer_that_declines_is_a_refusal_once(engine, path, refusals):
    setup = Setup(engine)
    await post(setup.app, path=path or "/v1/chat/completions")
    assert setup.sample("luthier_refusals_total") == refusals
    assert (await get(setup.app, "/luthier/counters")).json()["refusals"] == refusals


async def test_a_reply_that_is_no_json_is_no_refusal():
    async def engine(scope, receive, send):
        await receive()
        await reply_json(lambda m: send({**m, "body": m["body"] + b"}"} if "body" in m else m), 200, REFUSAL)

    setup = Setup(engine)
    await post(setup.app)
    assert setup.sample("luthier_refusals_total") == 0
