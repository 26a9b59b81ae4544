"""Replies of Prometheus, parsed; addresses and label values, quoted; every failure typed, with the address."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import pytest
from aiohttp import web

from luthier.deployment.memory import Memory
from luthier.deployment.observe import render_query
from luthier.prometheus import PrometheusClient, PrometheusError, parse_samples, quote, quote_any


@pytest.mark.row(46)
def test_nan_and_infinity_are_kept_for_their_reader_to_refuse():
    values = [[1, "2"], [2, "NaN"], [3, "+Inf"], [4, "-Inf"]]
    data = {"resultType": "matrix", "result": [{"metric": {"pod": "a"}, "values": values}]}
    assert [str(s.value) for s in parse_samples(data)] == ["2.0", "nan", "inf", "-inf"]


def test_a_vector_is_one_sample_a_series():
    data = {"resultType": "vector", "result": [{"metric": {"edge": "1"}, "value": [7, "3"]}]}
    assert parse_samples(data)[0].value == 3


@pytest.mark.row(52)
def test_label_values_cannot_break_out_of_the_query():
    assert quote('a"} or {b\\\n') == '"a\\"} or {b\\\\\\n"'
    assert quote_any(("1.5", "a|b")) == '"1\\\\.5|a\\\\|b"'


def test_the_query_covers_what_is_new_and_the_sample_before():
    query = render_query("team", ("a-r2-", "a-r1-"), Memory(at=1000.0), (), now=1030.0, scrape_seconds=2)
    assert query.endswith("[90s]")
    slow = render_query("team", ("a-r2-", "a-r1-"), Memory(at=1000.0), (), now=1030.0, scrape_seconds=300)
    assert slow.endswith("[630s]")
    pods = re.search(r'pod=~"(.*?)"', query)[1]
    assert re.fullmatch(pods, "a-r2-x7")
    assert not re.fullmatch(pods, "a-r3-x7")


async def answered(handler, **options):
    app = web.Application()
    app.router.add_post("/api/v1/query", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        async with aiohttp.ClientSession() as session:
            return url, await PrometheusClient(session, url=url, **options).raw("up[1m]")
    finally:
        await runner.cleanup()


async def test_headers_are_sent_and_samples_come_back():
    seen = {}

    async def handler(request):
        seen["query"], seen["token"] = (await request.post())["query"], request.headers["Authorization"]
        result = [{"metric": {"pod": "a"}, "values": [[1, "2"]]}]
        return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": result}})

    _, [sample] = await answered(handler, headers={"Authorization": "Bearer x"})
    assert (sample.value, seen) == (2, {"query": "up[1m]", "token": "Bearer x"})


REPLIES = {
    "refused the query: parse error": (400, json.dumps({"status": "error", "error": "parse error"})),
    "HTTP 200, no JSON": (200, "<html>"),
    "HTTP 404, no JSON": (404, "not found"),
    "expected a matrix or a vector": (200, json.dumps({"status": "success", "data": {"resultType": "scalar"}})),
}


@pytest.mark.parametrize("message", REPLIES)
async def test_what_is_not_prometheus_is_an_error_with_the_address(message):
    status, text = REPLIES[message]

    async def handler(request):
        return web.Response(status=status, text=text)

    with pytest.raises(PrometheusError, match=re.escape(message)) as caught:
        await answered(handler)
    assert "http://127.0.0.1:" in str(caught.value)


@pytest.mark.row(52)
async def test_a_slow_answer_is_an_error():
    async def handler(request):
        await asyncio.Event().wait()

    with pytest.raises(PrometheusError, match="did not answer within"):
        await answered(handler, timeout_seconds=0.1)


async def test_waiting_for_ones_turn_is_within_the_timeout():
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        client = PrometheusClient(session, url="http://127.0.0.1:1/", timeout_seconds=0.1, in_flight=0)
        with pytest.raises(PrometheusError, match="did not answer within"):
            await client.raw("up")


async def test_nobody_there_is_an_error():
    async with aiohttp.ClientSession() as session:
        with pytest.raises(PrometheusError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
            await PrometheusClient(session, url="http://127.0.0.1:1/").raw("up")
        with pytest.raises(PrometheusError, match="LUTHIER_PROMETHEUS_URL"):
            await PrometheusClient(session, url="").raw("up")
