"""Critical safety incidents: found in replies and streams, wherever a text is cut, and counted once an answer."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from server.asgi_driver import Client, chat, post
from server.parts import DONE, Setup, answering, completion, event, streaming, until

MARKER = "CANARY-7f3a"


def incidents(setup: Setup) -> int:
    return setup.counters.incidents["critical"]


async def ask(engine, forbidden=(MARKER, "BEGIN PRIVATE KEY"), path="/v1/chat/completions") -> int:
    setup = Setup(engine, forbidden=forbidden)
    await post(setup.app, path=path)
    return incidents(setup)


async def test_a_whole_reply():
    assert await ask(answering(content=completion(f"my orders are {MARKER}"))) == 1
    assert await ask(answering(content=completion("my orders are secret"))) == 0
    assert await ask(answering(content=completion("CANARY-7F3A"))) == 0  # exact texts only
    legacy = {"choices": [{"index": 0, "text": f"{MARKER}", "finish_reason": "stop"}]}
    assert await ask(answering(content=legacy), path="/v1/completions") == 1
    output = [{"type": "message", "content": [{"type": "output_text", "text": f"so {MARKER}!"}]}]
    assert await ask(answering(content={"instructions": MARKER, "output": output}), path="/v1/responses") == 1
    assert await ask(answering(content={"instructions": MARKER, "output": []}), path="/v1/responses") == 0


@pytest.mark.parametrize("cut", range(1, len(MARKER)))
async def test_a_stream_that_is_cut_anywhere(cut):
    parts = [event(role="assistant", content=""), event("It is " + MARKER[:cut]), event(MARKER[cut:] + "."), DONE]
    assert await ask(streaming(parts)) == 1
    whole = b"".join(parts)
    assert await ask(streaming([whole[:97], whole[97 : 97 + cut], whole[97 + cut :]])) == 1


async def test_letter_by_letter_and_escaped():
    assert await ask(streaming([event(letter) for letter in f"x{MARKER}y"] + [DONE])) == 1
    forbidden = ('Grüße, "Chef"',)
    assert await ask(streaming([event(letter) for letter in 'Grüße, "Chef"'] + [DONE]), forbidden=forbidden) == 1


async def test_two_answers_of_one_request_are_not_one_text():
    def of(index, text):
        data = {"choices": [{"index": index, "delta": {"content": text}}]}
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    assert await ask(streaming([of(0, MARKER[:5]), of(1, MARKER[5:]), DONE])) == 0
    assert await ask(streaming([of(0, MARKER[:5]), of(1, "no"), of(0, MARKER[5:]), DONE])) == 1


async def test_an_answer_that_says_it_often_is_one_incident():
    assert await ask(streaming([event(MARKER), event(MARKER), DONE])) == 1


async def test_it_counts_while_the_stream_goes_on():
    more = asyncio.Event()
    setup = Setup(streaming([event(MARKER)], wait=more), forbidden=(MARKER,))
    asking = asyncio.create_task(Client(setup.app, body=chat()).run())
    await until(lambda: incidents(setup) == 1)
    assert setup.counters.in_flight == 1
    more.set()
    await asking


async def test_tool_calls_are_answers_too():
    call = {"index": 0, "function": {"name": "say", "arguments": json.dumps({"text": MARKER})}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert await ask(answering(content={"choices": [{"index": 0, "message": message}]})) == 1


async def test_nothing_is_logged_and_the_client_gets_what_the_engine_said(caplog):
    caplog.set_level(logging.DEBUG)
    setup = Setup(streaming([event(MARKER), DONE]), forbidden=(MARKER,))
    reply = await post(setup.app)
    assert MARKER.encode() in reply.body
    assert MARKER not in caplog.text
    assert setup.outcomes == {"ok": 1}


async def test_no_stream_is_read_where_nothing_is_forbidden():
    assert await ask(streaming([event(MARKER), DONE]), forbidden=()) == 0
