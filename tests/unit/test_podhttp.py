"""A pod is asked for display only: whatever it does, the answer is there or not, soon."""

import asyncio
import contextlib

import pytest

from luthier.podhttp import PodHttp


@contextlib.asynccontextmanager
async def serving(answer: bytes):
    """Serve these bytes to everybody; none: take the request, and say nothing."""
    done = asyncio.Event()

    async def serve(_reader, writer):
        if answer:
            writer.write(answer)
            writer.write_eof()
        await done.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        pods = PodHttp()
        try:
            yield pods, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/progress"
        finally:
            await pods.close()
            done.set()


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        pytest.param(b'HTTP/1.1 200 OK\r\n\r\n{"step": 3}', {"step": 3}, id="an object"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n[3]", None, id="no object"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000 + b"{}", None, id="more than 64 KiB"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", None, id="a redirect"),
    ],
)
async def test_an_answer_is_a_small_object_or_none(answer, value):
    async with serving(answer) as (pods, url):
        assert await pods.json(url) == value


async def test_a_pod_that_says_nothing_keeps_a_worker_for_half_a_second_at_most():
    async with serving(b"") as (pods, url), asyncio.timeout(1.5):
        assert await pods.json(url) is None
