"""The operator put together: what ends when it may act no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from hookreceiver import SECRET
from luthier.app import App
from luthier.plan import Call, Key
from luthier.settings import Settings
from waiting import until_async

KEY = Key(kind="ModelDeployment", namespace="team", name="support")


class EmptyServer:
    """An API server without objects, and a receiver of hooks that never answers."""

    def __init__(self) -> None:
        self.asked = self.hung_up = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._read)
        app.router.add_post("/hook", self._hang)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
        await runner.cleanup()

    async def _read(self, request: web.Request) -> web.Response:
        if "watch" in request.query:
            await asyncio.Event().wait()
        if request.path.endswith("/configmaps/luthier-freeze"):
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    async def _hang(self, request: web.Request) -> web.Response:
        self.asked += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.hung_up += 1
        raise AssertionError("nothing sets it")


async def test_who_loses_the_lease_calls_no_receiver_any_more(tmp_path):
    (tmp_path / "key").write_bytes(SECRET)
    server = EmptyServer()
    async with server.running(), aiohttp.ClientSession() as http:
        settings = Settings(watch_namespaces=["team"], hook_key_file=tmp_path / "key", workers=1)
        client = ApiClient(Configuration(host=server.url))
        app = App(settings, {}, client=client, http=http)
        watching, leading = asyncio.create_task(app.store.run()), asyncio.create_task(app._lead())
        await until_async(lambda: app.freeze.reason() is None, "it acts")
        app.hooks.want(KEY, [Call(id="a", url=f"{server.url}/hook", body={})])
        await until_async(lambda: server.asked, "the receiver is called")
        leading.cancel()  # as the elector does
        await asyncio.wait({leading})
        # Well within the time that it would wait for an answer.
        await until_async(lambda: server.hung_up, "the call is given up", seconds=3)
        watching.cancel()
        await asyncio.wait({watching})
        await client.close()
